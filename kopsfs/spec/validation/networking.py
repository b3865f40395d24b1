"""Do the cluster's address ranges fit together, and is there one network plugin that can work?

Source: kops pkg/apis/kops/validation/validation.go:validateNetworking, validateTopology.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.api import valid_cidr
from kopsfs.spec.validation.clouds import Demands, demands
from kopsfs.spec.validation.cni import network_plugins
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.subnets import subnets
from kopsfs.spec.validation.values import Network, belongs_to, cidr, is_private, network, overlap
from kopsfs.spec.validation.view import Cluster, get, items, text

DNS_TYPES = ("Public", "Private", "None")
DNS_OF_CLOUD = {
    "aws": DNS_TYPES,
    "azure": ("None",),
    "do": ("None", "Public"),
    "gce": DNS_TYPES,
    "hetzner": ("None",),
    "linode": ("None",),
    "metal": ("None",),
    "openstack": DNS_TYPES,
    "scaleway": ("None", "Public"),
}


@dataclass(frozen=True, slots=True)
class Ranges:
    """The address ranges of a cluster that could be read."""

    networks: tuple[Network, ...]
    pods: Network | None
    services: Network | None


def networking(cluster: Cluster, path: Path) -> Iterator[Finding]:
    """Everything below spec.networking."""
    needs = demands(cluster)
    yield from network_cidr(cluster, path, needs)
    yield from additional_cidrs(cluster, path, needs)
    yield from non_masquerade_cidr(cluster, path, needs)
    yield from pod_cidr(cluster, path)
    yield from service_range(cluster, path)
    ranges = ranges_of(cluster, needs)
    yield from subnets(cluster, path.child("subnets"), needs, ranges.networks, ranges.pods, ranges.services)
    if get(cluster.networking, "topology") is not None:
        yield from topology(cluster, path.child("topology", "dns", "type"))
    yield from network_plugins(cluster, path)


def ranges_of(cluster: Cluster, needs: Demands) -> Ranges:
    """The ranges the rules compare; kops leaves a networkCIDR out where the cloud has none."""
    net = cluster.networking
    texts = [] if needs.no_network_cidr else [text(net, "networkCIDR")]
    if not needs.one_network_cidr:
        texts += items(net, "additionalNetworkCIDRs")
    networks = tuple(found for found in map(network, texts) if found is not None)
    return Ranges(networks, network(text(net, "podCIDR")), network(text(net, "serviceClusterIPRange")))


@rules(
    "validation.go:validateNetworking",
    "network-cidr-required",
    "network-cidr-forbidden",
    "network-cidr-private",
    "network-cidr-and-id",
)
def network_cidr(cluster: Cluster, path: Path, needs: Demands) -> Iterator[Finding]:
    path = path.child("networkCIDR")
    value = text(cluster.networking, "networkCIDR")
    if not value:
        if needs.network_cidr:
            yield required(path, "the range of the cluster's network", rule="network-cidr-required")
        return
    if needs.no_network_cidr:
        yield forbidden(path, f"{cluster.cloud} has no networkCIDR", rule="network-cidr-forbidden")
        return
    yield from valid_cidr(path, value)
    if cluster.cloud in {"do", "linode"}:
        parsed = cidr(value)
        if parsed is not None and not is_private(parsed[1].network_address):
            yield invalid(path, value, "has to be a private range (RFC 1918)", rule="network-cidr-private")
        if text(cluster.networking, "networkID"):
            yield forbidden(path, "networkID and networkCIDR exclude each other here", rule="network-cidr-and-id")


@rules("validation.go:validateNetworking", "additional-cidrs-forbidden")
def additional_cidrs(cluster: Cluster, path: Path, needs: Demands) -> Iterator[Finding]:
    path = path.child("additionalNetworkCIDRs")
    values = items(cluster.networking, "additionalNetworkCIDRs")
    if values and needs.one_network_cidr:
        yield forbidden(path, f"{cluster.cloud} has no additional network CIDRs")
        return
    for index, value in enumerate(values):
        yield from valid_cidr(path.index(index), value)


@rules(
    "validation.go:validateNetworking",
    "non-masquerade-required",
    "non-masquerade-ipv6",
    "non-masquerade-overlap",
)
def non_masquerade_cidr(cluster: Cluster, path: Path, needs: Demands) -> Iterator[Finding]:
    path = path.child("nonMasqueradeCIDR")
    net = cluster.networking
    value = text(net, "nonMasqueradeCIDR")
    if not value:
        if needs.non_masquerade_cidr:
            yield required(path, "the range within which addresses stay as they are", rule="non-masquerade-required")
        return
    yield from valid_cidr(path, value)
    if ":" in value and value != "::/0":
        yield forbidden(path, "an IPv6 cluster has ::/0 here", rule="non-masquerade-ipv6")
    if get(net, "amazonVPC") is not None or text(net, "cilium", "ipam") == "eni":
        return
    for other in ranges_of(cluster, needs).networks:
        if overlap(network(value), other):
            yield forbidden(path, f"{value} overlaps the network's {other}", rule="non-masquerade-overlap")


@rules("validation.go:validateNetworking", "pod-cidr-required", "pod-cidr-inside")
def pod_cidr(cluster: Cluster, path: Path) -> Iterator[Finding]:
    path = path.child("podCIDR")
    value = text(cluster.networking, "podCIDR")
    if not value:
        if cluster.strict and not cluster.ipv6_only:
            yield required(path, "a completed cluster has it", rule="pod-cidr-required")
        return
    yield from valid_cidr(path, value)
    pods, outer = network(value), network(text(cluster.networking, "nonMasqueradeCIDR"))
    if pods is not None and outer is not None and not belongs_to(outer, pods):
        yield forbidden(path, f"{value} is not inside nonMasqueradeCIDR {outer}", rule="pod-cidr-inside")


@rules("validation.go:validateNetworking", "service-range-required")
def service_range(cluster: Cluster, path: Path) -> Iterator[Finding]:
    path = path.child("serviceClusterIPRange")
    value = text(cluster.networking, "serviceClusterIPRange")
    if value:
        yield from valid_cidr(path, value)
    elif cluster.strict:
        yield required(path, "a completed cluster has it")


@rules(
    "validation.go:validateTopology",
    "topology-dns",
    "topology-cloud",
    "topology-gossip",
    "topology-dns-of-cloud",
)
def topology(cluster: Cluster, path: Path) -> Iterator[Finding]:
    """Is the kind of DNS known, and does the cloud have it?"""
    yield from one_of(path, cluster.dns, DNS_TYPES, "topology-dns")
    known = DNS_OF_CLOUD.get(cluster.cloud)
    if known is None:
        yield forbidden(path, "which kinds of DNS there are depends on the cloud", rule="topology-cloud")
    elif not cluster.without_dns and cluster.name.removesuffix(".").endswith(".k8s.local"):
        detail = "gossip DNS (.k8s.local) is gone since kops 1.37; kops 1.36 can migrate to None or a hosted zone"
        yield forbidden(path, detail, rule="topology-gossip")
    elif cluster.dns not in known:
        yield forbidden(path, f"{cluster.cloud} has {' and '.join(known)} only", rule="topology-dns-of-cloud")
