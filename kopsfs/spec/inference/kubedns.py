"""How is the cluster's DNS run?"""

from kopsfs.spec import scalars
from kopsfs.spec.inference.cluster import cloud, ipv6_only, service_ip
from kopsfs.spec.rules import Draft, Rule, constants

_SOURCE = "pkg/model/components/kubedns.go:KubeDnsOptionsBuilder"
_DNS = "spec.kubeDNS"
_LOCAL = f"{_DNS}.nodeLocalDNS"


def _request(draft: Draft, path: str, value: str) -> None:
    """A request of nothing is no request."""
    have = draft.get(path)
    if have is None or scalars.quantity_value(have) == 0:
        draft.force(path, value)


def _server(draft: Draft) -> None:
    if not draft.text(f"{_DNS}.serverIP"):
        draft.force(f"{_DNS}.serverIP", service_ip(draft, 10))
    draft.default(f"{_DNS}.domain", draft.text("spec.clusterDNSDomain"))


def _sizes(draft: Draft) -> None:
    _request(draft, f"{_DNS}.memoryRequest", "70Mi")
    _request(draft, f"{_DNS}.cpuRequest", "100m")
    _request(draft, f"{_DNS}.memoryLimit", "170Mi")


def _upstream(draft: Draft) -> None:
    if ipv6_only(draft) and cloud(draft) == "aws" and not draft.items(f"{_DNS}.upstreamNameservers"):
        draft.force(f"{_DNS}.upstreamNameservers", ["fd00:ec2::253"])


def _node_local(draft: Draft) -> None:
    draft.default(f"{_LOCAL}.enabled", value=False)
    if draft.get(f"{_LOCAL}.enabled") is True:
        draft.default(f"{_LOCAL}.localIP", "fd00:90de:d95::1" if ipv6_only(draft) else "169.254.20.10")
        draft.default(f"{_LOCAL}.forwardToKubeDNS", value=False)
    _request(draft, f"{_LOCAL}.memoryRequest", "5Mi")
    _request(draft, f"{_LOCAL}.cpuRequest", "25m")
    draft.default(f"{_LOCAL}.image", "registry.k8s.io/dns/k8s-dns-node-cache:1.26.0")


RULES = (
    constants("dns-cache", _SOURCE, _DNS, (("cacheMaxSize", 1000), ("cacheMaxConcurrent", 150))),
    Rule("dns-server", (f"{_DNS}.serverIP", f"{_DNS}.domain"), _SOURCE, _server),
    Rule("dns-sizes", (f"{_DNS}.memoryRequest", f"{_DNS}.cpuRequest", f"{_DNS}.memoryLimit"), _SOURCE, _sizes),
    Rule("dns-upstream", (f"{_DNS}.upstreamNameservers[*]",), _SOURCE, _upstream),
    Rule(
        "dns-node-local",
        tuple(
            f"{_LOCAL}.{field}"
            for field in ("enabled", "localIP", "forwardToKubeDNS", "memoryRequest", "cpuRequest", "image")
        ),
        _SOURCE,
        _node_local,
    ),
)

PROVIDER = (
    constants(
        "dns-provider",
        "upup/pkg/fi/cloudup/bootstrapchannelbuilder/bootstrapchannelbuilder.go:buildAddons",
        _DNS,
        (("provider", "CoreDNS"),),
    ),
)
"""Set while the add-ons are built: after completion, before the completed cluster is written."""
