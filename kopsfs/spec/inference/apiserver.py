"""How is kube-apiserver run?"""

from kopsfs.spec.inference import images
from kopsfs.spec.inference.cluster import at_least, ipv6_only
from kopsfs.spec.rules import Draft, Rule
from kopsfs.spec.validation.values import version

_SOURCE = "pkg/model/components/apiserver.go:KubeAPIServerOptionsBuilder"
_API = "spec.kubeAPIServer"

ADDRESS_TYPES = ["InternalIP", "Hostname", "ExternalIP"]
ADMISSION_PLUGINS = [
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "LimitRanger",
    "MutatingAdmissionWebhook",
    "NamespaceLifecycle",
    "NodeRestriction",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
]
AGGREGATION = {
    "requestheaderAllowedNames": ["aggregator"],
    "requestheaderExtraHeaderPrefixes": ["X-Remote-Extra-"],
    "requestheaderGroupHeaders": ["X-Remote-Group"],
    "requestheaderUsernameHeaders": ["X-Remote-User"],
}
ETCD_PORTS = {"main": 4001, "events": 4002, "leases": 4004}
"""Source: pkg/wellknownports/wellknownports.go."""


def _count(draft: Draft) -> None:
    """As many API servers as etcd "main" has members; of several such clusters the last one counts."""
    if not draft.has(f"{_API}.apiServerCount"):
        members = {etcd.get("name"): len(etcd.get("etcdMembers") or ()) for etcd in draft.items("spec.etcdClusters")}
        if not members.get("main"):
            draft.fail("no instance groups found", field="spec.etcdClusters")
        draft.force(f"{_API}.apiServerCount", members["main"])


def _storage(draft: Draft) -> None:
    if not draft.has(f"{_API}.storageBackend"):
        text = draft.text("spec.etcdClusters[0].version")
        parsed = version(text.removeprefix("v"))
        if parsed is None:
            draft.fail(f"not a version: {text!r}", field="spec.etcdClusters[0].version", value=text)
        draft.force(f"{_API}.storageBackend", f"etcd{parsed.major}")


def _authn(draft: Draft) -> None:
    if draft.has("spec.authentication.kopeio"):
        draft.force(f"{_API}.authenticationTokenWebhookConfigFile", "/etc/kubernetes/authn.config")


def _authz(draft: Draft) -> None:
    if draft.has("spec.authorization.alwaysAllow"):
        draft.force(f"{_API}.authorizationMode", "AlwaysAllow")
    elif draft.has("spec.authorization.rbac"):
        draft.force(f"{_API}.authorizationMode", "Node,RBAC")


def _aggregation(draft: Draft) -> None:
    for field, value in AGGREGATION.items():
        draft.force(f"{_API}.{field}", value)


def _image(draft: Draft) -> None:
    draft.force(f"{_API}.image", images.component(draft, "kube-apiserver"))


def _cloud(draft: Draft) -> None:
    if not at_least(draft, "1.33"):
        draft.force(f"{_API}.cloudProvider", "external")


def _flags(draft: Draft) -> None:
    draft.force(f"{_API}.logLevel", 2)
    draft.force(f"{_API}.securePort", 443)
    draft.force(f"{_API}.allowPrivileged", value=True)
    draft.force(f"{_API}.anonymousAuth", value=False)


def _bind(draft: Draft) -> None:
    draft.force(f"{_API}.bindAddress", "::" if ipv6_only(draft) else "0.0.0.0")  # noqa: S104 - kops's value


def _services(draft: Draft) -> None:
    draft.force(f"{_API}.serviceClusterIPRange", draft.text("spec.networking.serviceClusterIPRange"))


def _etcd(draft: Draft) -> None:
    names = [etcd.get("name") for etcd in draft.items("spec.etcdClusters")]
    scheme = "http" if draft.flag("EtcdEventsHTTP") else "https"
    overrides = {"events": "/events", "leases": "coordination.k8s.io/leases"}
    draft.force(f"{_API}.etcdServers", [f"https://127.0.0.1:{ETCD_PORTS['main']}" for name in names if name == "main"])
    draft.force(
        f"{_API}.etcdServersOverrides",
        [f"{overrides[name]}#{scheme}://127.0.0.1:{ETCD_PORTS[name]}" for name in names if name in overrides],
    )


def _admission(draft: Draft) -> None:
    draft.force(f"{_API}.enableAdmissionPlugins", ADMISSION_PLUGINS + draft.items(f"{_API}.appendAdmissionPlugins"))


def _aggregator_routing(draft: Draft) -> None:
    if draft.get("spec.metricsServer.enabled") is True:
        draft.default(f"{_API}.enableAggregatorRouting", value=True)


def _preferred(draft: Draft) -> None:
    draft.default(f"{_API}.kubeletPreferredAddressTypes", ADDRESS_TYPES)


# insecureBindAddress and insecurePort, which kops clears here, come back with the author's values: no rule
RULES = (
    Rule("apiserver-count", (f"{_API}.apiServerCount",), f"{_SOURCE}.buildAPIServerCount", _count),
    Rule("apiserver-storage-backend", (f"{_API}.storageBackend",), _SOURCE, _storage),
    Rule("apiserver-kubelet-addresses", (f"{_API}.kubeletPreferredAddressTypes[*]",), _SOURCE, _preferred),
    Rule("apiserver-authentication", (f"{_API}.authenticationTokenWebhookConfigFile",), _SOURCE, _authn),
    Rule("apiserver-authorization", (f"{_API}.authorizationMode",), _SOURCE, _authz),
    Rule(
        "apiserver-aggregation",
        tuple(f"{_API}.{field}[*]" for field in AGGREGATION),
        f"{_SOURCE}.configureAggregation",
        _aggregation,
    ),
    Rule("apiserver-image", (f"{_API}.image",), _SOURCE, _image),
    Rule("apiserver-cloud-provider", (f"{_API}.cloudProvider",), _SOURCE, _cloud),
    Rule(
        "apiserver-flags",
        tuple(f"{_API}.{field}" for field in ("logLevel", "securePort", "allowPrivileged", "anonymousAuth")),
        _SOURCE,
        _flags,
    ),
    Rule("apiserver-bind-address", (f"{_API}.bindAddress",), _SOURCE, _bind),
    Rule("apiserver-service-range", (f"{_API}.serviceClusterIPRange",), _SOURCE, _services),
    Rule(
        "apiserver-etcd-servers",
        (
            f"{_API}.etcdServers",
            f"{_API}.etcdServers[*]",
            f"{_API}.etcdServersOverrides",
            f"{_API}.etcdServersOverrides[*]",
        ),
        _SOURCE,
        _etcd,
    ),
    Rule("apiserver-admission-plugins", (f"{_API}.enableAdmissionPlugins[*]",), _SOURCE, _admission),
    Rule("apiserver-aggregator-routing", (f"{_API}.enableAggregatorRouting",), _SOURCE, _aggregator_routing),
)
