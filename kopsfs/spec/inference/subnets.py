"""How is a network cut into subnets?

Source: kops upup/pkg/fi/cloudup/subnets.go:assignCIDRsToSubnets, pkg/util/subnet/subnet.go.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from kopsfs.spec.inference.cluster import NETWORKING, cloud
from kopsfs.spec.rules import Draft, Rule
from kopsfs.spec.validation.values import Network, network

_SOURCE = "upup/pkg/fi/cloudup/subnets.go:assignCIDRsToSubnets"
_SUBNETS = f"{NETWORKING}.subnets"
_CLOUDS = ("aws", "openstack", "azure")

BIG = ("DualStack", "Public", "Private")
LITTLE = ("Utility",)


def _cidr_wanted(subnet: dict[str, Any]) -> bool:
    """A private subnet with an IPv6 range needs no IPv4 range."""
    return not subnet.get("cidr") and not (subnet.get("ipv6CIDR") and subnet.get("type") == "Private")


def _zones_wanted(draft: Draft) -> bool:
    if cloud(draft) != "aws":
        return False
    return any(subnet.get("id") and not subnet.get("zone") for subnet in draft.items(_SUBNETS))


def _looked_up(draft: Draft) -> None:
    """Subnets given by their ID take range and zone from the cloud, or have to agree with it."""
    network_id = draft.text(f"{NETWORKING}.networkID")
    subnets = draft.items(_SUBNETS)
    zones = _zones_wanted(draft)
    if cloud(draft) not in _CLOUDS or not (zones or any(map(_cidr_wanted, subnets))):
        return
    if network_id:
        known = {entry["id"]: entry for entry in _cloud_subnets(draft, network_id)}
        for number, subnet in enumerate(subnets):
            if subnet.get("id"):
                _take_over(draft, number, known.get(subnet["id"]), zones=zones)
    for number, subnet in enumerate(subnets):
        if zones and subnet.get("id") and not subnet.get("zone"):
            draft.fail(
                f"could not determine the zone of subnet {subnet.get('name')!r}; specify it",
                field=f"{_SUBNETS}[{number}].zone",
            )


def _cloud_subnets(draft: Draft, network_id: str) -> list[dict[str, Any]]:
    where = f"{NETWORKING}.networkID"
    if cloud(draft) == "azure":
        draft.fail("FindVPCInfo not implemented on azureCloud, use FindVNetInfo instead", field=where)
    if cloud(draft) == "openstack":
        return _openstack_subnets(draft, network_id)
    vpcs = draft.fact("aws", "vpcs", why=f"the subnets of {network_id}", field=where)
    found = next((vpc for vpc in vpcs if vpc.get("id") == network_id), None)
    if found is None:
        draft.fail(f"VPC {network_id!r} not found", field=where, value=network_id)
    return list(found.get("subnets") or ())


def _openstack_subnets(draft: Draft, network_id: str) -> list[dict[str, Any]]:
    """OpenStack's subnets have no zone: the cluster's are dealt out to them in turn.  Source: openstack/cloud.go:findVPCInfo."""
    networks = draft.fact("openstack", "networks", why=f"the subnets of {network_id}", field=f"{NETWORKING}.networkID")
    zones = list(dict.fromkeys(subnet.get("zone") or "" for subnet in draft.items(_SUBNETS)))
    if not zones:
        draft.fail("could not initialize zones", field=_SUBNETS)
    found: dict[str, Any] = next(
        (entry for entry in networks if network_id in {entry.get("id"), entry.get("name")}), {}
    )
    return [
        {"id": subnet.get("id", subnet.get("name")), "cidr": subnet.get("cidr"), "zone": zones[number % len(zones)]}
        for number, subnet in enumerate(found.get("subnets") or ())
    ]


def _take_over(draft: Draft, number: int, found: dict[str, Any] | None, *, zones: bool) -> None:
    path = f"{_SUBNETS}[{number}]"
    subnet = draft.get(path)
    name = subnet["id"]
    if found is None:
        draft.fail(f"subnet {name!r} not found in VPC {draft.text(f'{NETWORKING}.networkID')!r}", field=f"{path}.id")
    cidr, zone = found.get("cidr") or "", found.get("zone") or ""
    if not subnet.get("cidr"):
        if not cidr and (not subnet.get("ipv6CIDR") or subnet.get("type") != "Private"):
            draft.fail(f"subnet {name!r} did not have CIDR", field=f"{path}.cidr")
        draft.force(f"{path}.cidr", cidr)
    elif subnet["cidr"] != cidr:
        draft.fail(
            f"subnet {name!r} has configured CIDR {subnet['cidr']!r}, but the actual CIDR found was {cidr!r}",
            field=f"{path}.cidr",
        )
    if zones and not subnet.get("zone"):
        draft.force(f"{path}.zone", zone)
    elif (subnet.get("zone") or "") != zone:
        draft.fail(
            f"subnet {name!r} has configured zone {subnet.get('zone')!r}, but the actual zone found was {zone!r}",
            field=f"{path}.zone",
        )


def _cut(draft: Draft) -> None:
    """Equal parts for the big subnets, and one part cut in eight for the little ones."""
    subnets = draft.items(_SUBNETS)
    if cloud(draft) not in _CLOUDS or not any(map(_cidr_wanted, subnets)):
        return
    text = draft.text(f"{NETWORKING}.networkCIDR")
    whole = network(text)
    if whole is None:
        draft.fail(f"Invalid NetworkCIDR: {text!r}", field=f"{NETWORKING}.networkCIDR", value=text)
    big, little, reserved = _sorted_out(draft, whole)
    parts = [
        part
        for part in _split(draft, whole, _bits(len(big) + bool(little)))
        if not any(part.overlaps(other) for other in reserved if other.version == part.version)
    ]
    if not parts:
        draft.fail(
            "could not find any non-overlapping CIDRs in parent NetworkCIDR; cannot automatically assign CIDR to subnet",
            field=_SUBNETS,
        )
    if little:
        _deal(draft, [number for number in little if not subnets[number].get("cidr")], _split(draft, parts.pop(0), 3))
    _deal(draft, [number for number in big if _cidr_wanted(subnets[number])], parts)


def _deal(draft: Draft, numbers: list[int], parts: list[ipaddress.IPv4Network]) -> None:
    for number in numbers:
        if not parts:
            name = draft.items(_SUBNETS)[number].get("name")
            draft.fail(
                f"insufficient CIDRs remaining for automatic CIDR allocation to subnet {name!r}",
                field=f"{_SUBNETS}[{number}].cidr",
            )
        draft.force(f"{_SUBNETS}[{number}].cidr", str(parts.pop(0)))


def _sorted_out(draft: Draft, whole: Network) -> tuple[list[int], list[int], list[Network]]:
    """Big ones, little ones (both by zone), and ranges in use; subnets outside the network do not count."""
    subnets = draft.items(_SUBNETS)
    big, little, reserved = [], [], []
    for number, subnet in enumerate(subnets):
        if subnet.get("cidr"):
            own = network(subnet["cidr"])
            if own is None:
                draft.fail(
                    f"invalid subnet {subnet.get('name')!r} CIDR: {subnet['cidr']!r}",
                    field=f"{_SUBNETS}[{number}].cidr",
                )
            if own.version != whole.version or own.network_address not in whole:
                continue
            reserved.append(own)
        if subnet.get("type") in BIG:
            big.append(number)
        elif subnet.get("type") in LITTLE:
            little.append(number)
        else:
            draft.fail(
                f"subnet {subnet.get('name')!r} has unknown type {subnet.get('type')!r}",
                field=f"{_SUBNETS}[{number}].type",
            )
    big.sort(key=lambda number: subnets[number].get("zone") or "")
    little.sort(key=lambda number: subnets[number].get("zone") or "")
    return big, little, reserved


def _bits(count: int) -> int:
    return 0 if count <= 1 else 1 if count <= 2 else 2 if count <= 4 else 3


def _split(draft: Draft, whole: Network, bits: int) -> list[ipaddress.IPv4Network]:
    if not isinstance(whole, ipaddress.IPv4Network) or whole.prefixlen + bits > whole.max_prefixlen:
        draft.fail(f"cannot split {whole} into {1 << bits} parts", field=f"{NETWORKING}.networkCIDR", value=str(whole))
    return list(whole.subnets(prefixlen_diff=bits))


RULES = (
    Rule("subnets-by-id", (f"{_SUBNETS}[*].cidr", f"{_SUBNETS}[*].zone"), _SOURCE, _looked_up),
    Rule("subnet-cidrs", (f"{_SUBNETS}[*].cidr",), _SOURCE, _cut),
)
