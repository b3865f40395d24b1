"""Is the network plugin one kops still has, only one, and are its settings possible?

Source: kops pkg/apis/kops/validation/validation.go:validateNetworking and its validateNetworkingCalico, …Cilium, …Flannel,
…GCP, …Kindnet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.rule import OneOf, check_words, enter, one_of, rules
from kopsfs.spec.validation.values import is_ipv4, is_prefix, is_regexp, sloppy_address, version
from kopsfs.spec.validation.view import Cluster, enabled_unless_said, fields, flag, get, items, number, text

PLUGINS = (
    "classic", "kubenet", "external", "cni", "kopeio", "weave", "flannel", "calico", "kubeRouter", "romana", "amazonVPC",
    "cilium", "lyftvpc", "gcp", "kindnet",
)  # fmt: skip
"""What counts as a network plugin when they are counted; canal does not."""

GONE = {
    "external": "since Kubernetes 1.26",
    "weave": "",
    "canal": "since Kubernetes 1.28",
    "romana": "",
    "lyftvpc": "",
}
WITHOUT_IPV6 = ("kubenet", "kopeio", "kubeRouter", "amazonVPC", "flannel", "gcp")
KUBE_PROXY = Path("spec", "kubeProxy", "enabled")
CALICO_MODES = ("Always", "CrossSubnet", "Never")

CALICO_WORDS = (
    OneOf("calico-bpf-service-mode", "bpfExternalServiceMode", ("Tunnel", "DSR")),
    OneOf("calico-bpf-log-level", "bpfLogLevel", ("Off", "Info", "Debug")),
    OneOf("calico-chain-insert", "chainInsertMode", ("insert", "append")),
    OneOf("calico-encapsulation", "encapsulationMode", ("ipip", "vxlan", "none")),
    OneOf("calico-ipip-mode", "ipipMode", CALICO_MODES),
    OneOf("calico-vxlan-mode", "vxlanMode", CALICO_MODES),
    OneOf("calico-iptables-backend", "iptablesBackend", ("Auto", "Legacy", "NFT")),
)
CILIUM_WORDS = (
    OneOf("cilium-policy", "enablePolicy", ("default", "always", "never")),
    OneOf("cilium-tunnel", "tunnel", ("vxlan", "geneve", "disabled")),
    OneOf("cilium-monitor", "monitorAggregation", ("low", "medium", "maximum")),
    OneOf("cilium-identity", "identityAllocationMode", ("crd", "kvstore")),
    OneOf("cilium-lb-algorithm", "bpfLBAlgorithm", ("random", "maglev")),
    OneOf("cilium-encryption", "encryptionType", ("ipsec", "wireguard")),
    OneOf("cilium-ipam", "ipam", ("hostscope", "kubernetes", "crd", "eni")),
)
enter("validation.go:validateNetworkingCalico", [row.rule for row in CALICO_WORDS])
enter("validation.go:validateNetworkingCilium", [row.rule for row in CILIUM_WORDS])


def network_plugins(cluster: Cluster, path: Path) -> Iterator[Finding]:
    """The plugins that are configured, each and together."""
    net = cluster.networking
    yield from plugin_gone(cluster, path)
    yield from plugin_suits(cluster, path)
    yield from flannel(cluster, path.child("flannel"))
    if get(net, "calico") is not None:
        yield from calico(cluster, net["calico"], path.child("calico"))
    if get(net, "cilium") is not None:
        yield from cilium(cluster, net["cilium"], path.child("cilium"))
    yield from kindnet(cluster, path.child("kindnet"))
    yield from one_plugin(cluster, path)


@rules("validation.go:validateNetworking", "plugin-gone", "plugin-classic")
def plugin_gone(cluster: Cluster, path: Path) -> Iterator[Finding]:
    if get(cluster.networking, "classic") is not None:
        yield invalid(path, "classic", "there is no classic networking any more", rule="plugin-classic")
    for name, since in GONE.items():
        if get(cluster.networking, name) is not None:
            yield forbidden(path.child(name), f"{name} is gone {since}".strip(), rule="plugin-gone")


@rules(
    "validation.go:validateNetworking",
    "plugin-ipv6",
    "plugin-amazon-vpc",
    "plugin-gce",
    "kube-router-kube-proxy",
)
def plugin_suits(cluster: Cluster, path: Path) -> Iterator[Finding]:
    net = cluster.networking
    for name in WITHOUT_IPV6 if cluster.ipv6_only else ():
        if get(net, name) is not None:
            yield forbidden(path.child(name), f"{name} has no IPv6", rule="plugin-ipv6")
    if get(net, "amazonVPC") is not None and cluster.cloud != "aws":
        yield forbidden(path.child("amazonVPC"), "is for AWS only", rule="plugin-amazon-vpc")
    if get(net, "gcp") is not None and cluster.cloud != "gce":
        yield forbidden(path.child("gcp"), "is for GCE only", rule="plugin-gce")
    if get(net, "kubeRouter") is not None and enabled_unless_said(get(cluster.spec, "kubeProxy")):
        # kops really says spec.spec here and for Cilium
        yield forbidden(_slip(KUBE_PROXY), "kube-router takes the place of kube-proxy", rule="kube-router-kube-proxy")


def _slip(path: Path) -> Path:
    return Path("spec", *path.parts)


@rules("validation.go:validateNetworking", "one-plugin")
def one_plugin(cluster: Cluster, path: Path) -> Iterator[Finding]:
    found = sorted(name for name in PLUGINS if get(cluster.networking, name) is not None)
    for name in found if len(found) > 1 else ():
        yield forbidden(path.child(name), f"one network plugin, not {len(found)}: {', '.join(found)}")


@rules("validation.go:validateNetworkingFlannel", "flannel-backend-required", "flannel-backend")
def flannel(cluster: Cluster, path: Path) -> Iterator[Finding]:
    if get(cluster.networking, "flannel") is None:
        return
    backend = text(cluster.networking, "flannel", "backend")
    if not backend:
        yield required(path.child("backend"), "udp or vxlan", rule="flannel-backend-required")
    else:
        yield from one_of(path.child("backend"), backend, ("udp", "vxlan"), "flannel-backend")


@rules("validation.go:validateNetworkingKindnet", "kindnet-cidr")
def kindnet(cluster: Cluster, path: Path) -> Iterator[Finding]:
    masquerade = fields(cluster.networking, "kindnet", "masquerade")
    for value in items(masquerade, "nonMasqueradeCIDRs") if flag(masquerade, "enabled") else ():
        if value and not is_prefix(value):
            yield invalid(path, value, "not a CIDR")


# --- Calico -----------------------------------------------------------------------------------------------------------


def calico(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """Everything about Calico."""
    yield from calico_source_check(cluster, data, path)
    yield from check_words(CALICO_WORDS, data, path)
    yield from calico_encapsulation(cluster, data, path)
    yield from calico_modes(data, path)
    yield from calico_detection(data, path)
    yield from calico_other(cluster, data, path)


@rules("validation.go:validateNetworkingCalico", "calico-source-check", "calico-source-check-ipv6")
def calico_source_check(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    path = path.child("awsSrcDstCheck")
    value = text(data, "awsSrcDstCheck")
    if value and cluster.ipv6_only and value != "DoNothing":
        yield forbidden(path, "an IPv6 cluster has DoNothing here", rule="calico-source-check-ipv6")
    elif value:
        yield from one_of(path, value, ("Enable", "Disable", "DoNothing"), "calico-source-check")


@rules(
    "validation.go:validateNetworkingCalico",
    "calico-encapsulation-ipv6",
    "calico-encapsulation-ipv4",
    "calico-encapsulation-azure",
)
def calico_encapsulation(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    path = path.child("encapsulationMode")
    mode = text(data, "encapsulationMode")
    if not mode:
        return
    if mode != "none" and cluster.ipv6_only:
        yield forbidden(path, "an IPv6 cluster has none here", rule="calico-encapsulation-ipv6")
    elif mode == "none" and not cluster.ipv6_only:
        yield forbidden(path, "none is for IPv6 clusters only", rule="calico-encapsulation-ipv4")
    if mode != "vxlan" and cluster.provider("azure") is not None:
        yield forbidden(path, "Azure's network passes vxlan only", rule="calico-encapsulation-azure")


@rules("validation.go:validateNetworkingCalico", "calico-mode-of-encapsulation")
def calico_modes(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    chosen = text(data, "encapsulationMode")
    for name, needed in (("ipipMode", "ipip"), ("vxlanMode", "vxlan")):
        if text(data, name) not in {"", "Never"} and chosen not in {"", needed}:
            yield forbidden(path.child(name), f"needs encapsulationMode {needed}")


@rules("validation.go:validateNetworkingCalico", "calico-bpf-kube-proxy", "calico-typha", "calico-wireguard-ipv6")
def calico_other(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    if flag(data, "bpfEnabled") and enabled_unless_said(get(cluster.spec, "kubeProxy")):
        yield forbidden(KUBE_PROXY, "Calico's BPF mode takes the place of kube-proxy", rule="calico-bpf-kube-proxy")
    replicas = number(data, "typhaReplicas") or 0
    if replicas < 0:
        yield invalid(path.child("typhaReplicas"), replicas, "must not be negative", rule="calico-typha")
    if flag(data, "wireguardEnabled") and cluster.ipv6_only:
        yield forbidden(path.child("wireguardEnabled"), "WireGuard has no IPv6 here", rule="calico-wireguard-ipv6")


@rules(
    "validation.go:validateCalicoAutoDetectionMethod",
    "calico-detection",
    "calico-detection-address",
    "calico-detection-interface",
    "calico-detection-regexp",
)
def calico_detection(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """`first-found`, `can-reach=ADDRESS`, `interface=REGEXPS` or `skip-interface=REGEXPS`."""
    for name, wants_ipv4 in (("ipv4AutoDetectionMethod", True), ("ipv6AutoDetectionMethod", False)):
        value = text(data, name)
        method, *more = value.split("=")
        where = path.child(name)
        if not value or (method == "first-found" and len(more) < 2):
            continue
        if len(more) != 1 or method not in {"can-reach", "interface", "skip-interface"}:
            detail = "expected first-found, can-reach=…, interface=… or skip-interface=…"
            yield invalid(where, value, detail, rule="calico-detection")
        elif method == "can-reach":
            found = sloppy_address(more[0])
            if found is None or is_ipv4(found) is not wants_ipv4:
                detail = f"not an IPv{4 if wants_ipv4 else 6} address"
                yield invalid(where, value, detail, rule="calico-detection-address")
        else:
            patterns = re.split(r"\s*,\s*", more[0])
            if not patterns[0]:
                yield invalid(where, value, "names no interface", rule="calico-detection-interface")
            for pattern in patterns:
                if not is_regexp(pattern):
                    yield invalid(where, value, f"not a regular expression: {pattern}", rule="calico-detection-regexp")


# --- Cilium -----------------------------------------------------------------------------------------------------------


def cilium(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """Everything about Cilium; a version without its `v` hides the rest, as in kops."""
    number_given = text(data, "version")
    yield from cilium_version(cluster, data, path)
    if number_given and not number_given.startswith("v"):
        return
    yield from check_words(CILIUM_WORDS, data, path)
    yield from cilium_settings(cluster, data, path)
    yield from cilium_etcd(cluster, data, path)
    yield from cilium_ipam(cluster, data, path.child("ipam"))
    if flag(data, "ingress", "enabled") and text(data, "ingress", "defaultLoadBalancerMode"):
        mode = text(data, "ingress", "defaultLoadBalancerMode")
        where = path.child("ingress", "defaultLoadBalancerMode")
        yield from one_of(where, mode, ("shared", "dedicated"), "cilium-ingress-mode")


enter("validation.go:validateNetworkingCilium", ["cilium-ingress-mode"])


@rules(
    "validation.go:validateNetworkingCilium",
    "cilium-version-v",
    "cilium-version",
    "cilium-version-known",
    "cilium-hubble",
)
def cilium_version(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    value = text(data, "version")
    where = path.child("version")
    if not value:
        return
    if not value.startswith("v"):
        yield invalid(where, value, f"v{value}?", rule="cilium-version-v")
        return
    parsed = version(value[1:])
    if parsed is None:
        yield invalid(where, value, "not a semantic version", rule="cilium-version")
    if parsed is None or parsed.minor != 18:
        yield invalid(where, value, "only Cilium 1.18 is known", rule="cilium-version-known")
    if flag(data, "hubble", "enabled") and not cluster.cert_manager:
        yield forbidden(path.child("hubble", "enabled"), "Hubble needs certManager", rule="cilium-hubble")


@rules(
    "validation.go:validateNetworkingCilium",
    "cilium-node-port-kube-proxy",
    "cilium-host-ns-only",
    "cilium-encryption-ipv6",
    "cilium-encryption-off",
    "cilium-l7-proxy",
)
def cilium_settings(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    if flag(data, "enableNodePort") and enabled_unless_said(get(cluster.spec, "kubeProxy")):
        detail = "Cilium's node ports take the place of kube-proxy"
        yield forbidden(_slip(KUBE_PROXY), detail, rule="cilium-node-port-kube-proxy")
    if flag(data, "bpfLBSockHostNSOnly") and not flag(data, "bpfLBSock"):
        yield forbidden(path.child("bpfLBSockHostNSOnly"), "needs bpfLBSock", rule="cilium-host-ns-only")
    if flag(data, "enableEncryption") and cluster.ipv6_only:
        detail = "encryption has no IPv6 here"
        yield forbidden(path.child("enableEncryption"), detail, rule="cilium-encryption-ipv6")
    if text(data, "encryptionType") and not flag(data, "enableEncryption"):
        yield forbidden(path.child("encryptionType"), "needs enableEncryption", rule="cilium-encryption-off")
    if flag(data, "enableL7Proxy") and get(data, "installIptablesRules") is False:
        yield forbidden(path.child("enableL7Proxy"), "needs Cilium's iptables rules", rule="cilium-l7-proxy")


@rules("validation.go:validateNetworkingCilium", "cilium-kvstore-etcd", "cilium-etcd-cluster")
def cilium_etcd(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    managed = flag(data, "etcdManaged")
    if text(data, "identityAllocationMode") == "kvstore" and not managed:
        detail = "identities in a kvstore need etcdManaged"
        yield forbidden(path.child("identityAllocationMode"), detail, rule="cilium-kvstore-etcd")
    if managed and not any(text(etcd, "name") == "cilium" for etcd in items(cluster.spec, "etcdClusters")):
        yield required(
            Path("spec", "etcdClusters"), "etcdManaged needs an etcd cluster cilium", rule="cilium-etcd-cluster"
        )


@rules("validation.go:validateNetworkingCilium", "cilium-eni-aws", "cilium-eni-ipv6")
def cilium_ipam(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    if text(data, "ipam") != "eni":
        return
    if cluster.cloud != "aws":
        yield forbidden(path, "eni is for AWS only", rule="cilium-eni-aws")
    if cluster.ipv6_only:
        yield forbidden(path, "eni has no IPv6", rule="cilium-eni-ipv6")
