"""Which EBS CSI driver runs?"""

from kopsfs.spec.rules import Draft, constants


def _on_aws(draft: Draft) -> bool:
    return draft.has("spec.cloudProvider.aws")


# `enabled`, which kops sets here too, is not part of the JSON form and gone after the next merge: no rule
RULES = (
    constants(
        "aws-ebs-csi-driver",
        "pkg/model/components/awsebscsidriver.go:AWSEBSCSIDriverOptionsBuilder",
        "spec.cloudProvider.aws.ebsCSIDriver",
        (("version", "v1.58.0"),),
        _on_aws,
    ),
)
