"""Do the addons that are switched on have what they need?

Source: kops pkg/apis/kops/validation/validation.go:validateClusterSpec and the functions it names.
"""

from __future__ import annotations

from collections.abc import Iterator

from kopsfs.spec.field import Finding, forbidden, invalid
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.view import SPEC, Cluster, fields, flag, get, items, text

EXPANDERS = ("least-waste", "random", "most-pods", "price", "priority")
DNS_PROVIDERS = ("", "dns-controller", "external-dns", "none")


def addons(cluster: Cluster) -> Iterator[Finding]:
    """Everything kops installs besides Kubernetes."""
    yield from node_authorization(cluster)
    yield from cluster_autoscaler(cluster)
    yield from external_dns(cluster)
    yield from need_cert_manager(cluster)
    yield from addon_manifests(cluster)
    yield from cert_manager(cluster)


@rules("validation.go:validateClusterSpec", "node-authorization")
def node_authorization(cluster: Cluster) -> Iterator[Finding]:
    if get(cluster.spec, "nodeAuthorization") is not None:
        yield forbidden(SPEC.child("nodeAuthorization"), "is always on since Kubernetes 1.19; take it out")


@rules(
    "validation.go:validateClusterAutoscaler",
    "autoscaler-expander",
    "autoscaler-price",
    "autoscaler-openstack",
)
def cluster_autoscaler(cluster: Cluster) -> Iterator[Finding]:
    path = SPEC.child("clusterAutoscaler")
    if get(cluster.spec, "clusterAutoscaler") is None:
        return
    expander = text(cluster.spec, "clusterAutoscaler", "expander")
    if expander:
        yield from one_of(path.child("expander"), expander, EXPANDERS, "autoscaler-expander")
    if expander == "price" and cluster.provider("gce") is None:
        yield forbidden(path.child("expander"), "price is for GCE only", rule="autoscaler-price")
    if cluster.cloud == "openstack":
        yield forbidden(path, "there is no cluster autoscaler for OpenStack", rule="autoscaler-openstack")


@rules(
    "validation.go:validateExternalDNS",
    "external-dns-provider",
    "external-dns-namespace",
    "external-dns-topology",
)
def external_dns(cluster: Cluster) -> Iterator[Finding]:
    path = SPEC.child("externalDNS")
    data = get(cluster.spec, "externalDNS")
    if data is None:
        return
    provider = text(data, "provider")
    yield from one_of(path.child("provider"), provider, DNS_PROVIDERS, "external-dns-provider")
    if text(data, "watchNamespace") not in {"", "kube-system"}:
        detail = "kube-system, or nothing for all namespaces"
        yield forbidden(path.child("watchNamespace"), detail, rule="external-dns-namespace")
    if provider == "external-dns" and cluster.without_dns:
        detail = "external-dns has nothing to do when topology.dns is None"
        yield forbidden(path.child("provider"), detail, rule="external-dns-topology")


@rules("validation.go:validateMetricsServer", "metrics-server-cert-manager", "snapshot-cert-manager")
def need_cert_manager(cluster: Cluster) -> Iterator[Finding]:
    if cluster.cert_manager:
        return
    metrics = fields(cluster.spec, "metricsServer")
    if flag(metrics, "enabled") and not flag(metrics, "insecure"):
        detail = "a secure metrics server needs certManager"
        yield forbidden(SPEC.child("metricsServer", "insecure"), detail, rule="metrics-server-cert-manager")
    if flag(cluster.spec, "snapshotController", "enabled"):
        detail = "the snapshot controller needs certManager"
        yield forbidden(SPEC.child("snapshotController", "enabled"), detail, rule="snapshot-cert-manager")


@rules("validation.go:validateClusterSpec", "addon-manifest-file")
def addon_manifests(cluster: Cluster) -> Iterator[Finding]:
    for index, addon in enumerate(items(cluster.spec, "addons")):
        manifest = text(addon, "manifest")
        if manifest.startswith("file://"):
            path = SPEC.child("addons").index(index).child("manifest")
            yield invalid(path, manifest, "control planes cannot read a file of yours; put it into the state store")


@rules("validation.go:validateCertManager", "cert-manager-zones")
def cert_manager(cluster: Cluster) -> Iterator[Finding]:
    zones = items(cluster.spec, "certManager", "hostedZoneIDs")
    if cluster.cert_manager and zones and not flag(cluster.spec, "iam", "useServiceAccountExternalPermissions"):
        detail = "dns-01 challenges need iam.useServiceAccountExternalPermissions"
        yield forbidden(SPEC.child("certManager"), detail)
