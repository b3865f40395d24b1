"""How does Calico wrap packets?"""

from kopsfs.spec.inference.cluster import cloud, ipv6_only
from kopsfs.spec.rules import Draft, Rule

_CALICO = "spec.networking.calico"


def _encapsulation(draft: Draft) -> None:
    if not draft.has(_CALICO):
        return
    if cloud(draft) == "azure":
        draft.force(f"{_CALICO}.encapsulationMode", "vxlan")
        draft.force(f"{_CALICO}.vxlanMode", "Always")
    else:
        draft.force(f"{_CALICO}.encapsulationMode", "none" if ipv6_only(draft) else "ipip")


RULES = (
    Rule(
        "calico-encapsulation",
        (f"{_CALICO}.encapsulationMode", f"{_CALICO}.vxlanMode"),
        "pkg/model/components/calico.go:CalicoOptionsBuilder",
        _encapsulation,
    ),
)
