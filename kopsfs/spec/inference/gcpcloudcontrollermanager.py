"""How is the GCP cloud controller manager run?"""

from kopsfs.spec.inference.cluster import cloud, ipv6_only, name, uses_ip_aliases
from kopsfs.spec.inference.gcenames import safe_cluster_name
from kopsfs.spec.rules import Draft, Rule

_CCM = "spec.cloudControllerManager"


def _flags(draft: Draft) -> None:
    if cloud(draft) != "gce":
        return
    draft.force(f"{_CCM}.leaderElection.leaderElect", value=True)
    draft.force(f"{_CCM}.clusterName", safe_cluster_name(name(draft)))
    draft.force(f"{_CCM}.allocateNodeCIDRs", value=True)
    draft.force(f"{_CCM}.cidrAllocatorType", "CloudAllocator")
    draft.default(f"{_CCM}.clusterCIDR", draft.text("spec.networking.podCIDR"))
    if uses_ip_aliases(draft):
        draft.force(f"{_CCM}.configureCloudRoutes", value=False)
    elsewhere = ["-node-ipam-controller", "-node-route-controller"] if ipv6_only(draft) else []
    draft.default(f"{_CCM}.controllers", ["*", *elsewhere])
    draft.default(f"{_CCM}.image", "registry.k8s.io/cloud-provider-gcp/cloud-controller-manager:v35.0.0")


RULES = (
    Rule(
        "gcp-cloud-controller-manager",
        (
            f"{_CCM}.leaderElection.leaderElect",
            f"{_CCM}.clusterName",
            f"{_CCM}.allocateNodeCIDRs",
            f"{_CCM}.cidrAllocatorType",
            f"{_CCM}.clusterCIDR",
            f"{_CCM}.configureCloudRoutes",
            f"{_CCM}.controllers[*]",
            f"{_CCM}.image",
        ),
        "pkg/model/components/gcpcloudcontrollermanager.go:GCPCloudControllerManagerOptionsBuilder",
        _flags,
    ),
)
