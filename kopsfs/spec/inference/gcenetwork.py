"""Which address ranges does a cluster on Google Cloud get?

Source: kops upup/pkg/fi/cloudup/gce/network.go, pkg/util/subnet/cidrmap.go.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from kopsfs.spec.inference.cluster import NETWORKING, cloud, name, uses_ip_aliases
from kopsfs.spec.inference.gcenames import safe_cluster_name
from kopsfs.spec.rules import Draft, Rule
from kopsfs.spec.validation.values import network

_SOURCE = "upup/pkg/fi/cloudup/gce/network.go"
_SUBNETS = f"{NETWORKING}.subnets"

PRIVATE_RANGE = "10.0.0.0/8"
PODS, SERVICES, NODES, SUBNET = 14, 16, 19, 20
"""Prefix lengths of what is given out."""


class Allocator:
    """Gives out the next free block of a size; never the first one of the range."""

    def __init__(self, used: list[ipaddress.IPv4Network]) -> None:
        self._used = used

    def take(self, prefix: int) -> str | None:
        """The next free block, None when the range is full."""
        whole = ipaddress.IPv4Network(PRIVATE_RANGE)
        blocks = whole.subnets(new_prefix=prefix)
        next(blocks)
        for block in blocks:
            if not any(block.overlaps(other) for other in self._used):
                self._used.append(block)
                return str(block)
        return None


def _allocator(draft: Draft) -> Allocator:
    """What the subnetworks of the cluster's network already use.  Source: buildUsed."""
    wanted = draft.text(f"{NETWORKING}.networkID") or safe_cluster_name(name(draft))
    if wanted.count("/") > 1:
        draft.fail(f"cannot parse network name {wanted!r}", field=f"{NETWORKING}.networkID", value=wanted)
    project, _, short = wanted.rpartition("/")
    project = project or draft.text("spec.cloudProvider.gce.project")
    networks: list[dict[str, Any]] = draft.fact("gce", "networks", why="ranges in use", field=_SUBNETS)
    used = []
    for entry in networks:
        if entry.get("name") == short and entry.get("project", project) == project:
            for text in entry.get("subnetworks_in_use") or ():
                block = network(str(text))
                if isinstance(block, ipaddress.IPv4Network):
                    used.append(block)
    return Allocator(used)


def _take(draft: Draft, allocator: Allocator, prefix: int) -> str:
    block = allocator.take(prefix)
    if block is None:
        draft.fail(f"cannot allocate CIDR of size /{prefix} in {PRIVATE_RANGE}", field=_SUBNETS)
    return block


def _aliases(draft: Draft) -> None:
    if cloud(draft) != "gce" or not uses_ip_aliases(draft):
        return
    subnets = draft.items(_SUBNETS)
    if len(subnets) != 1:
        draft.fail("expected exactly one subnet with GCE IP Aliases", field=_SUBNETS)
    pods, services = f"{NETWORKING}.podCIDR", f"{NETWORKING}.serviceClusterIPRange"
    if draft.text(pods) and draft.text(services) and subnets[0].get("cidr"):
        return
    allocator = _allocator(draft)
    draft.force(pods, _take(draft, allocator, PODS))
    draft.force(services, _take(draft, allocator, SERVICES))
    draft.force(f"{_SUBNETS}[0].cidr", _take(draft, allocator, NODES))
    draft.force(f"{NETWORKING}.nonMasqueradeCIDR", PRIVATE_RANGE)


def _subnets(draft: Draft) -> None:
    if cloud(draft) != "gce" or uses_ip_aliases(draft):
        return
    needy = [
        number for number, subnet in enumerate(draft.items(_SUBNETS)) if not subnet.get("id") and not subnet.get("cidr")
    ]
    if needy:
        allocator = _allocator(draft)
        for number in needy:
            draft.force(f"{_SUBNETS}[{number}].cidr", _take(draft, allocator, SUBNET))


RULES = (
    Rule(
        "gce-ip-alias-ranges",
        (
            f"{NETWORKING}.podCIDR",
            f"{NETWORKING}.serviceClusterIPRange",
            f"{_SUBNETS}[*].cidr",
            f"{NETWORKING}.nonMasqueradeCIDR",
        ),
        f"{_SOURCE}:performNetworkAssignmentsIPAliases",
        _aliases,
    ),
    Rule("gce-subnet-cidrs", (f"{_SUBNETS}[*].cidr",), f"{_SOURCE}:performSubnetAssignments", _subnets),
)
