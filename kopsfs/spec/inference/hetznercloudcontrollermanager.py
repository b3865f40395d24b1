"""How is the Hetzner cloud controller manager run?"""

from kopsfs.spec.inference.cluster import cloud
from kopsfs.spec.rules import Draft, Rule

_CCM = "spec.cloudControllerManager"


def _flags(draft: Draft) -> None:
    if cloud(draft) != "hetzner":
        return
    draft.force(f"{_CCM}.cloudProvider", "hcloud")
    draft.force(f"{_CCM}.allowUntaggedCloud", value=True)
    draft.force(f"{_CCM}.leaderElection.leaderElect", value=False)
    draft.default(f"{_CCM}.clusterCIDR", draft.text("spec.networking.podCIDR"))
    draft.force(f"{_CCM}.allocateNodeCIDRs", value=True)
    draft.force(f"{_CCM}.configureCloudRoutes", value=False)
    draft.default(f"{_CCM}.image", "hetznercloud/hcloud-cloud-controller-manager:v1.31.0")


RULES = (
    Rule(
        "hetzner-cloud-controller-manager",
        (
            f"{_CCM}.cloudProvider",
            f"{_CCM}.allowUntaggedCloud",
            f"{_CCM}.leaderElection.leaderElect",
            f"{_CCM}.clusterCIDR",
            f"{_CCM}.allocateNodeCIDRs",
            f"{_CCM}.configureCloudRoutes",
            f"{_CCM}.image",
        ),
        "pkg/model/components/hetznercloudcontrollermanager.go:HetznerCloudControllerManagerOptionsBuilder",
        _flags,
    ),
)
