"""How is kube-proxy run?  It is filled in even where it is switched off."""

from kopsfs.spec.inference import images
from kopsfs.spec.inference.cluster import ipv6_only
from kopsfs.spec.rules import Draft, Rule

_SOURCE = "pkg/model/components/kubeproxy.go:KubeProxyOptionsBuilder"
_PROXY = "spec.kubeProxy"


def _flags(draft: Draft) -> None:
    draft.default(f"{_PROXY}.logLevel", 2)
    draft.default(f"{_PROXY}.cpuRequest", "100m")
    draft.force(f"{_PROXY}.image", images.component(draft, "kube-proxy"))


def _cluster_cidr(draft: Draft) -> None:
    pods = draft.text("spec.kubeControllerManager.clusterCIDR")
    if pods and not ipv6_only(draft) and not draft.has("spec.networking.amazonVPC"):
        draft.default(f"{_PROXY}.clusterCIDR", pods)


RULES = (
    Rule("kube-proxy-flags", (f"{_PROXY}.logLevel", f"{_PROXY}.cpuRequest", f"{_PROXY}.image"), _SOURCE, _flags),
    Rule("kube-proxy-cluster-cidr", (f"{_PROXY}.clusterCIDR",), f"{_SOURCE}.needsClusterCIDR", _cluster_cidr),
)
