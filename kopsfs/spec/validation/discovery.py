"""Can the cluster's service account issuer be found where it is said to be?

Source: kops pkg/apis/kops/validation/legacy.go:validateServiceAccountIssuerDiscovery.
"""

from __future__ import annotations

from collections.abc import Iterator

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.values import url
from kopsfs.spec.validation.view import SPEC, Cluster, flag, get, text

SCHEMES = (
    "file", "s3", "do", "linode", "hos", "memfs", "gs", "k8s", "swift", "azureblob", "scw",
)  # fmt: skip
"""What kops can read from.  Source: util/pkg/vfs/context.go:BuildVfsPath."""

PUBLIC_SCHEMES = ("s3", "gs", "memfs", "do", "linode", "hos", "scw")
"""Where it can publish; memfs is its own tests' store, the S3 look-alikes count as S3."""


@rules(
    "legacy.go:validateServiceAccountIssuerDiscovery",
    "discovery-both",
    "discovery-store",
    "discovery-store-dots",
    "discovery-store-kind",
    "discovery-url",
    "discovery-oidc-nowhere",
)
def issuer_discovery(cluster: Cluster) -> Iterator[Finding]:
    data = get(cluster.spec, "serviceAccountIssuerDiscovery")
    if data is None:
        return
    # kops names its own field twice in most of these paths
    once = SPEC.child("serviceAccountIssuerDiscovery")
    twice = once.child("serviceAccountIssuerDiscovery")
    store, service = text(data, "discoveryStore"), get(data, "discoveryService")
    if store and service is not None:
        detail = "discoveryStore and discoveryService exclude each other"
        yield forbidden(once.child("discoveryStore"), detail, rule="discovery-both")
    if store:
        yield from _store(store, twice.child("discoveryStore"))
    if service is not None and not text(service, "url"):
        yield required(twice.child("discoveryService", "url"), "the service's URL", rule="discovery-url")
    if flag(data, "enableAWSOIDCProvider") and not store and service is None:
        detail = "needs a discoveryStore or a discoveryService"
        yield forbidden(twice.child("enableAWSOIDCProvider"), detail, rule="discovery-oidc-nowhere")


def _store(value: str, path: Path) -> Iterator[Finding]:
    scheme, separator, _ = value.partition("://")
    if not separator:
        scheme = "file"
    parsed = url(value)
    bucket = parsed.host.removesuffix("/") if parsed else ""
    needs_bucket = scheme not in {"file", "memfs"}
    if scheme not in SCHEMES or (needs_bucket and not bucket):
        yield invalid(path, value, "not the URL of a store", rule="discovery-store")
    elif scheme not in PUBLIC_SCHEMES:
        yield invalid(path, value, "only S3 and GCS can publish it", rule="discovery-store-kind")
    elif "." in bucket and scheme not in {"gs", "memfs"}:
        detail = "S3's certificate does not cover buckets with dots in their names"
        yield invalid(path, value, detail, rule="discovery-store-dots")
