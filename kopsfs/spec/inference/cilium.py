"""How is Cilium set up?"""

from kopsfs.spec.inference.cluster import ipv6_only
from kopsfs.spec.rules import Draft, Rule, constants

_SOURCE = "pkg/model/components/cilium.go:CiliumOptionsBuilder"
_CILIUM = "spec.networking.cilium"


def _chosen(draft: Draft) -> bool:
    return draft.has(_CILIUM)


def _routing(draft: Draft) -> None:
    if not _chosen(draft):
        return
    draft.default(f"{_CILIUM}.ipam", "kubernetes")
    draft.default(f"{_CILIUM}.masquerade", not ipv6_only(draft))
    eni = draft.text(f"{_CILIUM}.ipam") == "eni"
    draft.default(f"{_CILIUM}.tunnel", "disabled" if eni or ipv6_only(draft) else "vxlan")
    draft.default(f"{_CILIUM}.enableBPFMasquerade", eni)


def _encryption(draft: Draft) -> None:
    if draft.get(f"{_CILIUM}.enableEncryption") is True:
        draft.default(f"{_CILIUM}.encryptionType", "ipsec")


def _parts(draft: Draft) -> None:
    """A part that is mentioned is wanted."""
    if _chosen(draft):
        for part in ("hubble", "ingress", "gatewayAPI"):
            draft.default(f"{_CILIUM}.{part}.enabled", draft.has(f"{_CILIUM}.{part}"))


RULES = (
    constants(
        "cilium-constants",
        _SOURCE,
        _CILIUM,
        (
            ("version", "v1.18.12"),
            ("enableEndpointHealthChecking", True),
            ("enableHostFirewall", False),
            ("identityAllocationMode", "crd"),
            ("identityChangeGracePeriod", "5s"),
            ("bpfCTGlobalAnyMax", 262144),
            ("bpfCTGlobalTCPMax", 524288),
            ("bpfLBAlgorithm", "random"),
            ("bpfLBMaglevTableSize", "16381"),
            ("bpfNATGlobalMax", 524288),
            ("bpfNeighGlobalMax", 524288),
            ("bpfPolicyMapMax", 16384),
            ("bpfLBMapMax", 65536),
            ("clusterName", "default"),
            ("monitorAggregation", "medium"),
            ("sidecarIstioProxyImage", "cilium/istio_proxy"),
            ("toFQDNsDNSRejectResponseCode", "refused"),
            ("agentPrometheusPort", 9090),
            ("enableRemoteNodeIdentity", True),
            ("enableUnreachableRoutes", False),
            ("enableL7Proxy", True),
            ("enableLocalRedirectPolicy", False),
            ("disableCNPStatusUpdates", True),
            ("cpuRequest", "25m"),
            ("memoryRequest", "128Mi"),
            ("cniExclusive", True),
        ),
        _chosen,
    ),
    Rule(
        "cilium-routing",
        tuple(f"{_CILIUM}.{field}" for field in ("ipam", "masquerade", "tunnel", "enableBPFMasquerade")),
        _SOURCE,
        _routing,
    ),
    Rule("cilium-encryption", (f"{_CILIUM}.encryptionType",), _SOURCE, _encryption),
    Rule(
        "cilium-parts",
        tuple(f"{_CILIUM}.{part}.enabled" for part in ("hubble", "ingress", "gatewayAPI")),
        _SOURCE,
        _parts,
    ),
)
