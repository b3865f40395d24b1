"""Is the cluster's own DNS reachable where its clients look for it?

Source: kops pkg/apis/kops/validation/legacy.go:ValidateCluster, validation.go:validateNodeLocalDNS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden, invalid
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.values import address, network
from kopsfs.spec.validation.view import SPEC, Cluster, fields, flag, get, items, text

EXPERIMENTAL_FLAG = "ExperimentalClusterDNS"


def kube_dns(cluster: Cluster) -> Iterator[Finding]:
    """Everything below spec.kubeDNS, and what kubelets say about it."""
    data = get(cluster.spec, "kubeDNS")
    if data is None:
        return
    path = SPEC.child("kubeDNS")
    if text(data, "serverIP"):
        yield from server_address(cluster, data, path)
        yield from kubelet_dns(cluster, data)
        if flag(data, "nodeLocalDNS", "enabled"):
            yield from node_local_dns(cluster, data, path)
    yield from name_servers(data, path)


@rules("legacy.go:ValidateCluster", "dns-server-ip", "dns-server-ip-inside")
def server_address(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    value = text(data, "serverIP")
    found, services = address(value), network(text(cluster.networking, "serviceClusterIPRange"))
    if found is None:
        yield invalid(path.child("serverIP"), value, "not an IP address", rule="dns-server-ip")
    elif services is not None and (found.version != services.version or found not in services):
        detail = f"{value} is not in serviceClusterIPRange {services}"
        yield forbidden(path.child("serverIP"), detail, rule="dns-server-ip-inside")


@rules("legacy.go:isExperimentalClusterDNS", "kubelet-cluster-dns")
def kubelet_dns(cluster: Cluster, data: dict[str, Any]) -> Iterator[Finding]:
    local = get(data, "nodeLocalDNS")
    server = text(data, "serverIP")
    if address(server) is None or local is None or EXPERIMENTAL_FLAG in cluster.flags:
        return
    known = {server, text(local, "localIP")}
    for name in ("kubelet", "controlPlaneKubelet"):
        kubelet = get(cluster.spec, name)
        if kubelet is not None and text(kubelet, "clusterDNS") not in known:
            detail = "is neither kubeDNS.serverIP nor kubeDNS.nodeLocalDNS.localIP"
            yield forbidden(SPEC.child(name, "clusterDNS"), detail)


@rules(
    "validation.go:validateNodeLocalDNS",
    "node-local-dns-provider",
    "node-local-dns-ip",
    "node-local-dns-kubelet",
)
def node_local_dns(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """The cache on each node; kops reports it below spec.spec, and both kubelets as one."""
    local = text(data, "nodeLocalDNS", "localIP")
    slip = SPEC.child("spec")
    if text(data, "provider") not in {"", "CoreDNS"}:
        yield forbidden(path.child("provider"), "nodeLocalDNS needs CoreDNS", rule="node-local-dns-provider")
    if local and address(local) is None:
        where = slip.child("kubeDNS", "nodeLocalDNS", "localIP")
        yield invalid(where, local, "not an IP address", rule="node-local-dns-ip")
    ipvs = text(cluster.spec, "kubeProxy", "proxyMode") == "ipvs"
    if not ipvs and get(cluster.networking, "cilium") is None:
        return
    for name in ("kubelet", "controlPlaneKubelet"):
        if text(cluster.spec, name, "clusterDNS") not in {"", local}:
            detail = f"the clusterDNS of {name} has to be nodeLocalDNS.localIP"
            yield forbidden(slip.child("kubelet", "clusterDNS"), detail, rule="node-local-dns-kubelet")


@rules("legacy.go:ValidateCluster", "dns-upstream", "dns-stub-empty", "dns-stub")
def name_servers(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    for index, value in enumerate(items(data, "upstreamNameservers")):
        if address(value) is None:
            where = path.child("upstreamNameservers").index(index)
            yield invalid(where, value, "not an IP address", rule="dns-upstream")
    for domain, servers in sorted(fields(data, "stubDomains").items()):
        where = path.child("stubDomains").key(domain)
        if not servers:
            yield invalid(where, domain, "names no server", rule="dns-stub-empty")
        for index, value in enumerate(servers or ()):
            if address(value) is None:
                yield invalid(where.index(index), value, "not an IP address", rule="dns-stub")
