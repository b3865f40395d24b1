"""How is the kubelet run, on the control plane and elsewhere?"""

from collections.abc import Callable

from kopsfs.spec.inference.cluster import at_least, cloud, name, service_ip
from kopsfs.spec.inference.gcenames import name_for_cluster
from kopsfs.spec.rules import Draft, Rule

_SOURCE = "pkg/model/components/kubelet.go:KubeletOptionsBuilder"
_BOTH = {"kubelet": "spec.kubelet", "control-plane-kubelet": "spec.controlPlaneKubelet"}
_GCE = "spec.cloudProvider.gce"

EVICTION = (
    "memory.available<100Mi",
    "nodefs.available<10%",
    "nodefs.inodesFree<5%",
    "imagefs.available<10%",
    "imagefs.inodesFree<5%",
)
_FIXED = {
    "enableDebuggingHandlers": True,
    "podManifestPath": "/etc/kubernetes/manifests",
    "logLevel": 2,
    "kubeconfigPath": "/var/lib/kubelet/kubeconfig",
    "cgroupRoot": "/",
    "cgroupDriver": "systemd",
}


def _flags(draft: Draft, kubelet: str) -> None:
    for field, value in _FIXED.items():
        draft.force(f"{kubelet}.{field}", value)
    draft.default(f"{kubelet}.protectKernelDefaults", value=True)
    draft.default(f"{kubelet}.evictionHard", ",".join(EVICTION))


def _dns(draft: Draft, kubelet: str) -> None:
    draft.force(f"{kubelet}.clusterDomain", draft.text("spec.clusterDNSDomain"))
    if not draft.text(f"{kubelet}.clusterDNS"):
        if draft.get("spec.kubeDNS.nodeLocalDNS.enabled") is True:
            draft.force(f"{kubelet}.clusterDNS", draft.text("spec.kubeDNS.nodeLocalDNS.localIP"))
        else:
            draft.force(f"{kubelet}.clusterDNS", service_ip(draft, 10))


def _cloud(draft: Draft, kubelet: str) -> None:
    provider = cloud(draft)
    draft.force(f"{kubelet}.cloudProvider", "" if provider == "metal" else "external")
    if provider == "gce":
        draft.force(f"{kubelet}.hairpinMode", "promiscuous-bridge")


def _shutdown(draft: Draft, kubelet: str) -> None:
    """With Amazon's CNI a graceful shutdown would leak network interfaces."""
    fields = f"{kubelet}.shutdownGracePeriod", f"{kubelet}.shutdownGracePeriodCriticalPods"
    if draft.has("spec.networking.amazonVPC"):
        draft.force(fields[0], "0s")
        draft.force(fields[1], "0s")
    elif not draft.has(fields[0]):
        draft.force(fields[0], "30s")
        draft.force(fields[1], "10s")


def _register(draft: Draft, kubelet: str) -> None:
    if not at_least(draft, "1.34"):
        draft.force(f"{kubelet}.registerSchedulable", value=True)


def _gce(draft: Draft) -> None:
    if cloud(draft) == "gce":
        draft.force(f"{_GCE}.multizone", value=True)
        draft.force(f"{_GCE}.nodeTags", name_for_cluster("k8s-io-role-node", name(draft), 63))


def _isolated(draft: Draft) -> None:
    kubelet = _BOTH["control-plane-kubelet"]
    draft.force(f"{kubelet}.enableDebuggingHandlers", value=True)
    if draft.get("spec.networking.isolateControlPlane") is True:
        draft.force(f"{kubelet}.enableDebuggingHandlers", value=False)
        draft.force(f"{kubelet}.hairpinMode", "none")


def _rules(label: str, kubelet: str) -> tuple[Rule, ...]:
    parts: tuple[tuple[str, tuple[str, ...], Callable[[Draft, str], None]], ...] = (
        ("flags", (*_FIXED, "protectKernelDefaults", "evictionHard"), _flags),
        ("dns", ("clusterDomain", "clusterDNS"), _dns),
        ("cloud", ("cloudProvider", "hairpinMode"), _cloud),
        ("shutdown", ("shutdownGracePeriod", "shutdownGracePeriodCriticalPods"), _shutdown),
        ("register-schedulable", ("registerSchedulable",), _register),
    )
    return tuple(_rule(f"{label}-{part}", kubelet, fields, apply) for part, fields, apply in parts)


def _rule(label: str, kubelet: str, fields: tuple[str, ...], apply: Callable[[Draft, str], None]) -> Rule:
    return Rule(
        label,
        tuple(f"{kubelet}.{field}" for field in fields),
        f"{_SOURCE}.configureKubelet",
        lambda draft: apply(draft, kubelet),
    )


RULES = (
    *_rules("kubelet", _BOTH["kubelet"]),
    *_rules("control-plane-kubelet", _BOTH["control-plane-kubelet"]),
    Rule("gce-node-tags", (f"{_GCE}.multizone", f"{_GCE}.nodeTags"), f"{_SOURCE}.configureKubelet", _gce),
    Rule(
        "control-plane-kubelet-isolated",
        ("spec.controlPlaneKubelet.enableDebuggingHandlers", "spec.controlPlaneKubelet.hairpinMode"),
        _SOURCE,
        _isolated,
    ),
)
