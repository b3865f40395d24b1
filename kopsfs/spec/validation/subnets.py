"""Is every subnet complete, of a known kind and inside the network?

Source: kops pkg/apis/kops/validation/validation.go:validateSubnets, validateSubnet, validateIPv6CIDR; aws.go:awsValidateAdditionalRoutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from kopsfs.spec.field import Finding, Path, duplicate, forbidden, invalid, required
from kopsfs.spec.validation.api import valid_cidr
from kopsfs.spec.validation.clouds import Demands
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.values import Network, belongs_to, cidr, is_ipv6_cidr, network, overlap
from kopsfs.spec.validation.view import Cluster, fields, get, items, text

TYPES = ("Public", "Private", "DualStack", "Utility")
EGRESS = ("nat", "eipalloc", "i", "External", "tgw")
ROUTE_TARGETS = ("pcx-", "i-", "nat-", "tgw-", "igw-", "eigw-")


def subnets(
    cluster: Cluster,
    path: Path,
    needs: Demands,
    networks: Sequence[Network],
    pods: Network | None,
    services: Network | None,
) -> Iterator[Finding]:
    """Each subnet, then what holds among them."""
    yield from subnets_given(cluster, path, needs)
    for index, subnet in enumerate(cluster.subnets):
        where = path.index(index)
        yield from subnet_addresses(cluster, subnet, where, needs, networks)
        yield from subnet_overlaps(cluster, subnet, where, pods, services)
        yield from subnet_ipv6(subnet, where, services)
        yield from subnet_kind(cluster, subnet, where)
        if cluster.provider("aws") is not None and subnet.get("additionalRoutes") is not None:
            yield from subnet_routes(subnet, where.child("additionalRoutes"))
            yield from routes(items(subnet, "additionalRoutes"), where.child("additionalRoutes"), networks)
    yield from subnets_together(cluster, path, needs)


@rules("validation.go:validateSubnets", "subnets-required")
def subnets_given(cluster: Cluster, path: Path, needs: Demands) -> Iterator[Finding]:
    if needs.subnets and not cluster.subnets:
        yield required(path, "a cluster needs a subnet")


@rules("validation.go:validateSubnet", "subnet-name", "subnet-cidr-required", "subnet-in-network")
def subnet_addresses(
    cluster: Cluster, subnet: dict[str, Any], path: Path, needs: Demands, networks: Sequence[Network]
) -> Iterator[Finding]:
    name, value = text(subnet, "name"), text(subnet, "cidr")
    if not name:
        yield required(path.child("name"), "a subnet needs a name", rule="subnet-name")
    if not value:
        ipv6 = ":" in text(cluster.networking, "nonMasqueradeCIDR") and text(subnet, "ipv6CIDR")
        if needs.subnet_cidr and cluster.strict and not ipv6:
            yield required(path.child("cidr"), "the subnet's range", rule="subnet-cidr-required")
        return
    yield from valid_cidr(path.child("cidr"), value)
    mine = network(value)
    if mine is not None and networks and not any(belongs_to(outer, mine) for outer in networks):
        more = ", nor in an additional one" if len(networks) > 1 else ""
        detail = f"{value} of {name} is not in the network {networks[0]}{more}"
        yield forbidden(path.child("cidr"), detail, rule="subnet-in-network")


@rules("validation.go:validateSubnet", "subnet-pods-overlap", "subnet-services-overlap")
def subnet_overlaps(
    cluster: Cluster, subnet: dict[str, Any], path: Path, pods: Network | None, services: Network | None
) -> Iterator[Finding]:
    mine = network(text(subnet, "cidr"))
    if overlap(mine, pods) and get(cluster.networking, "amazonVPC") is None:
        yield forbidden(path.child("cidr"), f"{mine} overlaps podCIDR {pods}", rule="subnet-pods-overlap")
    if overlap(mine, services):
        detail = f"{mine} overlaps serviceClusterIPRange {services}"
        yield forbidden(path.child("cidr"), detail, rule="subnet-services-overlap")


@rules(
    "validation.go:validateIPv6CIDR",
    "subnet-ipv6-notation",
    "subnet-ipv6-size",
    "subnet-ipv6",
    "subnet-ipv6-services-overlap",
)
def subnet_ipv6(subnet: dict[str, Any], path: Path, services: Network | None) -> Iterator[Finding]:
    """A range, or `/64#3`: the fourth /64 of what the cloud assigns."""
    path = path.child("ipv6CIDR")
    value = text(subnet, "ipv6CIDR")
    if not value:
        return
    if value.startswith("/"):
        match = re.fullmatch("/([0-9]+)#([a-f0-9]+)", value)
        if match is None or int(match[1]) >= 1 << 63 or int(match[2], 16) >= 1 << 63:
            yield invalid(path, value, "expected /SIZE#NUMBER, the number in hexadecimal", rule="subnet-ipv6-notation")
        elif int(match[1]) > 128:
            yield invalid(path, value, "a size is at most 128", rule="subnet-ipv6-size")
        return
    yield from valid_cidr(path, value)
    if not is_ipv6_cidr(value):
        yield invalid(path, value, "not an IPv6 CIDR", rule="subnet-ipv6")
    if overlap(network(value), services):
        detail = f"{value} overlaps serviceClusterIPRange {services}"
        yield forbidden(path, detail, rule="subnet-ipv6-services-overlap")


@rules(
    "validation.go:validateSubnet",
    "subnet-egress",
    "subnet-egress-public",
    "subnet-type",
    "subnet-dual-stack",
    "subnet-openstack-public",
)
def subnet_kind(cluster: Cluster, subnet: dict[str, Any], path: Path) -> Iterator[Finding]:
    egress, kind = text(subnet, "egress"), text(subnet, "type")
    if egress:
        if egress.partition("-")[0] not in EGRESS:
            detail = "expected nat-…, eipalloc-…, i-…, tgw-… or External"
            yield invalid(path.child("egress"), egress, detail, rule="subnet-egress")
        outside = kind in {"DualStack", "Private"} or (kind == "Public" and text(subnet, "ipv6CIDR"))
        if egress != "External" and not outside:
            detail = "only private subnets and public ones with IPv6 have an egress"
            yield forbidden(path.child("egress"), detail, rule="subnet-egress-public")
    yield from one_of(path.child("type"), kind, TYPES, "subnet-type")
    if kind == "DualStack" and not cluster.ipv6_only:
        yield forbidden(path.child("type"), "DualStack is for IPv6 clusters only", rule="subnet-dual-stack")
    openstack = cluster.provider("openstack")
    if openstack is not None and kind == "Public" and get(openstack, "router", "externalNetwork") is None:
        detail = "a public subnet needs openstack.router.externalNetwork"
        yield forbidden(path.child("type"), detail, rule="subnet-openstack-public")


@rules(
    "validation.go:validateSubnets",
    "subnet-name-twice",
    "subnet-ids-mixed",
    "subnet-region",
    "subnet-regions",
    "subnet-ipv6-aws",
)
def subnets_together(cluster: Cluster, path: Path, needs: Demands) -> Iterator[Finding]:
    seen: set[str] = set()
    region = ""
    shared = bool(cluster.subnets) and bool(text(cluster.subnets[0], "id"))
    for index, subnet in enumerate(cluster.subnets):
        where = path.index(index)
        name, mine = text(subnet, "name"), text(subnet, "region")
        if name in seen:
            yield duplicate(where.child("name"), name, rule="subnet-name-twice")
        seen.add(name)
        if bool(text(subnet, "id")) != shared:
            yield forbidden(where.child("id"), "either all subnets have an id or none", rule="subnet-ids-mixed")
        if needs.subnet_region:
            region = region or mine
            if not mine:
                yield required(where.child("region"), "the subnet's region", rule="subnet-region")
            elif mine != region:
                yield forbidden(
                    where.child("region"), f"a cluster stays in one region, {region}", rule="subnet-regions"
                )
        if cluster.cloud != "aws" and text(subnet, "ipv6CIDR"):
            yield forbidden(where.child("ipv6CIDR"), "is for AWS only", rule="subnet-ipv6-aws")


@rules("validation.go:validateSubnet", "routes-shared-subnet", "routes-private-subnet")
def subnet_routes(subnet: dict[str, Any], path: Path) -> Iterator[Finding]:
    if text(subnet, "id"):
        yield forbidden(path, "a shared subnet keeps its own routes", rule="routes-shared-subnet")
    elif text(subnet, "type") != "Private":
        yield forbidden(path, "only private subnets take routes", rule="routes-private-subnet")


@rules("aws.go:awsValidateAdditionalRoutes", "route-target", "route-peering-inside", "route-twice")
def routes(entries: Sequence[dict[str, Any]], path: Path, networks: Sequence[Network]) -> Iterator[Finding]:
    """Routes of a subnet on AWS: known targets, other CIDRs than the network's."""
    taken = {str(net) for net in networks}
    for index, route in enumerate(map(fields, entries)):
        where = path.index(index)
        target, value = text(route, "target"), text(route, "cidr")
        if not target.startswith(ROUTE_TARGETS):
            detail = f"expected {', '.join(f'{prefix}…' for prefix in ROUTE_TARGETS)}"
            yield invalid(where.child("target"), target, detail, rule="route-target")
        yield from valid_cidr(where.child("cidr"), value)
        parsed = cidr(value)
        for net in networks if parsed and target.startswith("pcx-") else ():
            if parsed and net.version == parsed[1].version and parsed[1].network_address in net:
                detail = f"a peering cannot have a route within the network {net}"
                yield forbidden(where.child("target"), detail, rule="route-peering-inside")
        if value in taken:
            yield duplicate(where.child("cidr"), value, rule="route-twice")
        taken.add(value)
