"""Which address families do nodes on AWS have?"""

from kopsfs.spec.inference.cluster import ipv6_only
from kopsfs.spec.rules import Draft, Rule

_FAMILIES = "spec.cloudProvider.aws.nodeIPFamilies"


def _families(draft: Draft) -> None:
    if draft.has("spec.cloudProvider.aws") and ipv6_only(draft) and not draft.items(_FAMILIES):
        draft.force(_FAMILIES, ["ipv6", "ipv4"])


RULES = (
    Rule("aws-node-ip-families", (f"{_FAMILIES}[*]",), "pkg/model/components/aws.go:AWSOptionsBuilder", _families),
)
