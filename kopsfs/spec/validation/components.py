"""Are the settings of apiserver, controller manager, scheduler, kube-proxy and kubelet ones that still exist and fit together?"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.rule import OneOf, Removed, check_removed, check_words, enter, one_of, rules
from kopsfs.spec.validation.values import cidr, duration_ns, is_port_range, url
from kopsfs.spec.validation.view import Cluster, fields, flag, get, items, text

SECOND_NS = 10**9
LOG_FORMATS = ("text", "json")
AUTHORIZATION_MODES = ("ABAC", "Webhook", "Node", "RBAC", "AlwaysAllow", "AlwaysDeny")
OIDC_OPTIONS = (
    "usernameClaim", "usernamePrefix", "groupsClaims", "groupsPrefix", "issuerURL", "clientID", "requiredClaims",
)  # fmt: skip

KUBELET_WORDS = (
    OneOf(
        "kubelet-topology-manager", "topologyManagerPolicy", ("none", "best-effort", "restricted", "single-numa-node")
    ),
    OneOf("kubelet-log-format", "logFormat", LOG_FORMATS),
    OneOf("kubelet-swap", "memorySwapBehavior", ("LimitedSwap", "UnlimitedSwap")),
)
KUBELET_REMOVED = (
    Removed("kubelet-configure-cbr0", "configureCbr0", "gone since Kubernetes 1.5", "ConfigureCBR0"),
    Removed("kubelet-api-servers", "apiServers", "gone since Kubernetes 1.6", pointer=False),
    Removed(
        "kubelet-pod-infra-image",
        "podInfraContainerImage",
        "gone since Kubernetes 1.35; containerd.sandboxImage takes its place",
        pointer=False,
    ),
    Removed("kubelet-require-kubeconfig", "requireKubeconfig", "gone since Kubernetes 1.10; is this a completed spec?"),
    Removed(
        "kubelet-unsafe-sysctls",
        "experimentalAllowedUnsafeSysctls",
        "is called allowedUnsafeSysctls since Kubernetes 1.11",
    ),
    Removed("kubelet-bootstrap", "bootstrapKubeconfig", "kops has no bootstrap tokens", pointer=False),
    Removed("kubelet-cadvisor-json", "enableCadvisorJsonEndpoints", "gone since Kubernetes 1.21"),
    Removed("kubelet-cpu-cfs-period", "cpuCFSQuotaPeriod", "gone since Kubernetes 1.20"),
    Removed("kubelet-network-plugin", "networkPluginName", "gone since Kubernetes 1.24"),
    Removed("kubelet-network-plugin-mtu", "networkPluginMTU", "gone since Kubernetes 1.24"),
    Removed("kubelet-non-masquerade", "nonMasqueradeCIDR", "gone since Kubernetes 1.24"),
)
enter("validation.go:validateKubelet", [row.rule for row in (*KUBELET_WORDS, *KUBELET_REMOVED)])


@rules(
    "validation.go:validateKubeAPIServer",
    "apiserver-authentication-file",
    "apiserver-bootstrap-tokens",
    "apiserver-admission-both",
    "apiserver-admission-control",
    "apiserver-pod-security-policy",
    "apiserver-proxy-client",
    "apiserver-node-port-range",
)
def apiserver(cluster: Cluster, path: Path) -> Iterator[Finding]:
    api = fields(cluster.spec, "kubeAPIServer")
    oidc = fields(cluster.spec, "authentication", "oidc")
    if text(api, "authenticationConfigFile") and any(oidc.get(name) is not None for name in OIDC_OPTIONS):
        detail = "an authentication configuration file and OIDC options exclude each other"
        yield forbidden(path.child("authenticationConfigFile"), detail, rule="apiserver-authentication-file")
    if flag(api, "enableBootstrapTokenAuth"):
        detail = "kops has no bootstrap tokens"
        yield forbidden(path.child("enableBootstrapTokenAuth"), detail, rule="apiserver-bootstrap-tokens")
    control = items(api, "admissionControl")
    if control:
        if items(api, "disableAdmissionPlugins"):
            detail = "admissionControl and disableAdmissionPlugins exclude each other"
            yield forbidden(path.child("admissionControl"), detail, rule="apiserver-admission-both")
        detail = "enableAdmissionPlugins takes its place"
        yield forbidden(path.child("admissionControl"), detail, rule="apiserver-admission-control")
    for name in ("enableAdmissionPlugins", "admissionControl"):
        if "PodSecurityPolicy" in items(api, name):
            detail = "PodSecurityPolicy is gone since Kubernetes 1.25"
            yield forbidden(path.child(name), detail, rule="apiserver-pod-security-policy")
    if (get(api, "proxyClientCertFile") is None) != (get(api, "proxyClientKeyFile") is None):
        detail = "proxyClientCertFile and proxyClientKeyFile need each other"
        yield forbidden(path, detail, rule="apiserver-proxy-client")
    ports = text(api, "serviceNodePortRange")
    if ports and not is_port_range(ports):
        detail = "expected LOW-HIGH, LOW+SIZE or a port, up to 65535"
        yield invalid(path.child("serviceNodePortRange"), ports, detail, rule="apiserver-node-port-range")
    yield from apiserver_authorization(cluster, path)
    yield from apiserver_files(cluster, path)


@rules(
    "validation.go:validateKubeAPIServer",
    "apiserver-webhook-config",
    "apiserver-authorization-mode",
    "apiserver-authorization-aws",
)
def apiserver_authorization(cluster: Cluster, path: Path) -> Iterator[Finding]:
    mode = get(cluster.spec, "kubeAPIServer", "authorizationMode")
    if mode is None:
        return
    if "Webhook" in mode and get(cluster.spec, "kubeAPIServer", "authorizationWebhookConfigFile") is None:
        detail = "authorization mode Webhook needs this file"
        yield required(path.child("authorizationWebhookConfigFile"), detail, rule="apiserver-webhook-config")
    if get(cluster.spec, "authorization", "rbac") is None:
        return
    modes = mode.split(",")
    for word in modes:
        yield from one_of(path.child("authorizationMode"), word, AUTHORIZATION_MODES, "apiserver-authorization-mode")
    if cluster.cloud == "aws" and not {"Node", "RBAC"} <= set(modes):
        detail = "on AWS both Node and RBAC belong here"
        yield required(path.child("authorizationMode"), detail, rule="apiserver-authorization-aws")


@rules(
    "validation.go:validateKubeAPIServer",
    "apiserver-log-format",
    "apiserver-audit-policy",
    "apiserver-audit-directory",
    "apiserver-service-range",
)
def apiserver_files(cluster: Cluster, path: Path) -> Iterator[Finding]:
    api = fields(cluster.spec, "kubeAPIServer")
    if text(api, "logFormat"):
        yield from one_of(path.child("logFormat"), text(api, "logFormat"), LOG_FORMATS, "apiserver-log-format")
    policy, webhook = text(api, "auditPolicyFile"), text(api, "auditWebhookConfigFile")
    if webhook and not policy:
        detail = "an audit webhook needs an audit policy"
        yield invalid(path.child("auditWebhookConfigFile"), webhook, detail, rule="apiserver-audit-policy")
    if webhook and policy and _directory(webhook) != _directory(policy):
        detail = f"has to lie in the directory of the audit policy, {_directory(policy)}"
        yield invalid(path.child("auditWebhookConfigFile"), webhook, detail, rule="apiserver-audit-directory")
    mine, clusters = text(api, "serviceClusterIPRange"), text(cluster.networking, "serviceClusterIPRange")
    if mine != clusters and (cluster.strict or mine):
        detail = f"is not the cluster's {clusters or '(none)'}"
        yield forbidden(path.child("serviceClusterIPRange"), detail, rule="apiserver-service-range")


def _directory(name: str) -> str:
    return posixpath.normpath(posixpath.dirname(name) or ".")


@rules("validation.go:validateKubeControllerManager", "kcm-signing-duration")
def controller_manager(cluster: Cluster, path: Path) -> Iterator[Finding]:
    if get(cluster.spec, "kubeControllerManager", "experimentalClusterSigningDuration") is not None:
        detail = "is called clusterSigningDuration since Kubernetes 1.25"
        yield forbidden(path.child("experimentalClusterSigningDuration"), detail)


@rules("validation.go:validateKubeScheduler", "scheduler-policy-config-map")
def scheduler(cluster: Cluster, path: Path) -> Iterator[Finding]:
    if get(cluster.spec, "kubeScheduler", "usePolicyConfigMap") is not None:
        yield forbidden(path.child("usePolicyConfigMap"), "a KubeSchedulerConfiguration takes its place")


@rules("validation.go:validateKubeProxy", "kube-proxy-exclude-cidr", "kube-proxy-master")
def kube_proxy(cluster: Cluster, path: Path) -> Iterator[Finding]:
    proxy = fields(cluster.spec, "kubeProxy")
    for index, excluded in enumerate(items(proxy, "ipvsExcludeCIDRs")):
        if cidr(excluded) is None:
            where = path.child("ipvsExcludeCIDRs").index(index)
            yield invalid(where, excluded, "not a CIDR", rule="kube-proxy-exclude-cidr")
    master = text(proxy, "master")
    parsed = url(master)
    if master and not (parsed and parsed.host and parsed.scheme):
        yield invalid(path.child("master"), master, "not the URL of an API server", rule="kube-proxy-master")


@rules(
    "validation.go:validateKubelet",
    "kubelet-shutdown-alone",
    "kubelet-shutdown-longer",
    "kubelet-restart-period",
)
def kubelet(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    yield from check_removed(KUBELET_REMOVED, data, path)
    yield from check_words(KUBELET_WORDS, data, path)
    critical = _seconds_ns(data, "shutdownGracePeriodCriticalPods")
    if critical is not None:
        where = path.child("shutdownGracePeriodCriticalPods")
        whole = _seconds_ns(data, "shutdownGracePeriod")
        if whole is None:
            yield forbidden(where, "needs shutdownGracePeriod", rule="kubelet-shutdown-alone")
        elif whole < critical:
            value = data["shutdownGracePeriodCriticalPods"]
            yield invalid(where, value, "is part of shutdownGracePeriod, not longer", rule="kubelet-shutdown-longer")
    period = _seconds_ns(data, "crashLoopBackOffMaxContainerRestartPeriod")
    if period is not None and not SECOND_NS <= period <= 300 * SECOND_NS:
        where = path.child("crashLoopBackOffMaxContainerRestartPeriod")
        yield invalid(
            where,
            data["crashLoopBackOffMaxContainerRestartPeriod"],
            "expected 1s to 300s",
            rule="kubelet-restart-period",
        )


def _seconds_ns(data: dict[str, Any], name: str) -> int | None:
    value = data.get(name)
    return duration_ns(value) if isinstance(value, str) else None
