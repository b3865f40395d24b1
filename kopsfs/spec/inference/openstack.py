"""What does OpenStack need?"""

from kopsfs.spec.rules import Draft, Rule, constants

_SOURCE = "pkg/model/components/openstack.go:OpenStackOptionsBuilder"
_OPENSTACK = "spec.cloudProvider.openstack"
_CCM = "spec.cloudControllerManager"


def _chosen(draft: Draft) -> bool:
    return draft.has(_OPENSTACK)


def _manager(draft: Draft) -> None:
    if _chosen(draft):
        draft.force(f"{_CCM}.leaderElection.leaderElect", value=True)
        draft.force(f"{_CCM}.nodeStatusUpdateFrequency", "1h0m0s")


RULES = (
    constants(
        "openstack-constants",
        _SOURCE,
        _OPENSTACK,
        (("blockStorage.createStorageClass", True), ("metadata.configDrive", False)),
        _chosen,
    ),
    Rule(
        "openstack-cloud-controller-manager",
        (f"{_CCM}.leaderElection.leaderElect", f"{_CCM}.nodeStatusUpdateFrequency"),
        _SOURCE,
        _manager,
    ),
)
