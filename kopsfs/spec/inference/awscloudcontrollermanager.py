"""How is the AWS cloud controller manager run?"""

from kopsfs.spec.inference.cluster import cloud, ipv6_only, name, uses
from kopsfs.spec.rules import Draft, Rule

_CCM = "spec.cloudControllerManager"


def _flags(draft: Draft) -> None:
    if cloud(draft) != "aws":
        return
    draft.force(f"{_CCM}.leaderElection.leaderElect", value=True)
    draft.force(f"{_CCM}.clusterName", name(draft))
    draft.force(f"{_CCM}.allocateNodeCIDRs", not ipv6_only(draft))
    if not ipv6_only(draft):
        draft.default(f"{_CCM}.clusterCIDR", draft.text("spec.networking.podCIDR"))
    routes = uses(draft, "kubenet")
    if not routes and uses(draft, "gcp") and not uses(draft, "external", "kopeio"):
        draft.fail("no networking mode set", field="spec.networking")
    draft.force(f"{_CCM}.configureCloudRoutes", routes)
    draft.default(f"{_CCM}.image", "registry.k8s.io/provider-aws/cloud-controller-manager:v1.36.1")


RULES = (
    Rule(
        "aws-cloud-controller-manager",
        (
            f"{_CCM}.leaderElection.leaderElect",
            f"{_CCM}.clusterName",
            f"{_CCM}.allocateNodeCIDRs",
            f"{_CCM}.clusterCIDR",
            f"{_CCM}.configureCloudRoutes",
            f"{_CCM}.image",
        ),
        "pkg/model/components/awscloudcontrollermanager.go:AWSCloudControllerManagerOptionsBuilder",
        _flags,
    ),
)
