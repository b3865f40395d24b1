"""How is kindnet set up, and whose addresses does it leave alone?"""

from kopsfs.spec.inference.cluster import cloud, ipv6_only
from kopsfs.spec.rules import Draft, Rule, constants

_SOURCE = "pkg/model/components/kindnet.go:KindnetOptionsBuilder"
_KINDNET = "spec.networking.kindnet"


def _chosen(draft: Draft) -> bool:
    return draft.has(_KINDNET)


def _masquerade(draft: Draft) -> None:
    if not _chosen(draft) or draft.has(f"{_KINDNET}.masquerade"):
        return
    if ipv6_only(draft):
        draft.force(f"{_KINDNET}.masquerade.enabled", value=False)
        if cloud(draft) != "aws":
            draft.force(f"{_KINDNET}.nat64", value=True)
        return
    draft.force(f"{_KINDNET}.masquerade.enabled", value=True)
    ranges = [draft.text(f"spec.networking.{field}") for field in ("networkCIDR", "podCIDR", "serviceClusterIPRange")]
    draft.force(f"{_KINDNET}.masquerade.nonMasqueradeCIDRs", [cidr for cidr in ranges if cidr])


RULES = (
    constants(
        "kindnet-constants",
        _SOURCE,
        _KINDNET,
        (("version", "v1.0.1"), ("fastPathThreshold", 0), ("logLevel", 2)),
        _chosen,
    ),
    Rule(
        "kindnet-masquerade",
        (
            f"{_KINDNET}.masquerade.enabled",
            f"{_KINDNET}.masquerade.nonMasqueradeCIDRs",
            f"{_KINDNET}.masquerade.nonMasqueradeCIDRs[*]",
            f"{_KINDNET}.nat64",
        ),
        _SOURCE,
        _masquerade,
    ),
)
