"""How is the Akamai (Linode) cloud controller manager run?"""

from kopsfs.spec.inference.cluster import cloud
from kopsfs.spec.rules import Draft, Rule

_CCM = "spec.cloudControllerManager"


def _flags(draft: Draft) -> None:
    if cloud(draft) != "linode":
        return
    draft.force(f"{_CCM}.cloudProvider", "linode")
    draft.force(f"{_CCM}.leaderElection.leaderElect", value=True)
    draft.default(f"{_CCM}.clusterCIDR", draft.text("spec.networking.podCIDR"))
    draft.force(f"{_CCM}.allocateNodeCIDRs", value=True)
    draft.force(f"{_CCM}.configureCloudRoutes", value=False)
    draft.default(f"{_CCM}.image", "linode/linode-cloud-controller-manager:v0.9.5")


RULES = (
    Rule(
        "linode-cloud-controller-manager",
        (
            f"{_CCM}.cloudProvider",
            f"{_CCM}.leaderElection.leaderElect",
            f"{_CCM}.clusterCIDR",
            f"{_CCM}.allocateNodeCIDRs",
            f"{_CCM}.configureCloudRoutes",
            f"{_CCM}.image",
        ),
        "pkg/model/components/linodecloudcontrollermanager.go:LinodeCloudControllerManagerOptionsBuilder",
        _flags,
    ),
)
