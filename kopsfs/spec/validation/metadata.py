"""Is the object's metadata what Kubernetes allows, and the cluster's name what kops needs?"""

from __future__ import annotations

from collections.abc import Iterator

from kopsfs.spec.field import Finding, Kind, Path, forbidden, invalid, required
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.values import LABEL_RULE, SUBDOMAIN_RULE, is_label_key, is_label_value, is_subdomain
from kopsfs.spec.validation.view import Cluster, fields, flag, get, items, number, text

METADATA = Path("metadata")
OBJECT_NAME = Path("objectMeta", "name")

MANAGEMENT_ANNOTATION = "kops.kubernetes.io/management"
ANNOTATIONS_BYTES_MAX = 256 * 1024
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def cluster_metadata(cluster: Cluster) -> Iterator[Finding]:
    """Everything about metadata of a cluster."""
    yield from object_names(cluster)
    yield from object_labels(cluster)
    yield from object_owners(cluster)
    yield from cluster_name(cluster)


@rules(
    "apimachinery pkg/api/validation/objectmeta.go:ValidateObjectMeta",
    "metadata-name-required",
    "metadata-name",
    "metadata-generate-name",
    "metadata-namespace",
    "metadata-generation",
)
def object_names(cluster: Cluster) -> Iterator[Finding]:
    meta = fields(cluster.data, "metadata")
    generated = text(meta, "generateName")
    if generated and not is_subdomain(generated[:-1] + "a" if generated.endswith("-") else generated):
        yield invalid(METADATA.child("generateName"), generated, SUBDOMAIN_RULE, rule="metadata-generate-name")
    if not cluster.name:
        yield required(METADATA.child("name"), "an object needs a name", rule="metadata-name-required")
    elif not is_subdomain(cluster.name):
        yield invalid(METADATA.child("name"), cluster.name, SUBDOMAIN_RULE, rule="metadata-name")
    if text(meta, "namespace"):
        yield forbidden(METADATA.child("namespace"), "kops objects have no namespace", rule="metadata-namespace")
    generation = number(meta, "generation") or 0
    if generation < 0:
        yield invalid(METADATA.child("generation"), generation, "must not be negative", rule="metadata-generation")


@rules(
    "apimachinery pkg/apis/meta/v1/validation/validation.go:ValidateLabels",
    "metadata-label-key",
    "metadata-label-value",
    "metadata-annotation-key",
    "metadata-annotations-size",
    "metadata-finalizer",
    "metadata-finalizers-conflict",
)
def object_labels(cluster: Cluster) -> Iterator[Finding]:
    meta = fields(cluster.data, "metadata")
    for key, value in sorted(fields(meta, "labels").items()):
        if not is_label_key(key):
            yield invalid(METADATA.child("labels"), key, f"a label's name: {LABEL_RULE}", rule="metadata-label-key")
        if not is_label_value(value):
            yield invalid(
                METADATA.child("labels"), value, f"a label's value: {LABEL_RULE}", rule="metadata-label-value"
            )
    annotations = fields(meta, "annotations")
    for key in sorted(annotations):
        if not is_label_key(key.lower()):
            detail = f"an annotation's name: {LABEL_RULE}"
            yield invalid(METADATA.child("annotations"), key, detail, rule="metadata-annotation-key")
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_BYTES_MAX:
        detail = f"all annotations together hold at most {ANNOTATIONS_BYTES_MAX} bytes"
        yield Finding(Kind.TOO_LONG, str(METADATA.child("annotations")), detail, rule="metadata-annotations-size")
    finalizers = items(meta, "finalizers")
    for name in finalizers:
        if not is_label_key(name):
            yield invalid(METADATA.child("finalizers"), name, LABEL_RULE, rule="metadata-finalizer")
    if FOREGROUND in finalizers and ORPHAN in finalizers:
        detail = f"{FOREGROUND} and {ORPHAN} exclude each other"
        yield invalid(METADATA.child("finalizers"), finalizers, detail, rule="metadata-finalizers-conflict")


@rules(
    "apimachinery pkg/api/validation/objectmeta.go:ValidateOwnerReferences", "metadata-owner", "metadata-controllers"
)
def object_owners(cluster: Cluster) -> Iterator[Finding]:
    owners = items(cluster.data, "metadata", "ownerReferences")
    path = METADATA.child("ownerReferences")
    for owner in owners:
        for name in ("apiVersion", "kind", "name", "uid"):
            value = text(owner, name)
            if not value or value.endswith("/"):
                yield invalid(path.child(name), value, "must not be empty", rule="metadata-owner")
    for _ in [owner for owner in owners if flag(owner, "controller")][1:]:
        yield invalid(path, owners, "only one owner can be the controller", rule="metadata-controllers")


@rules(
    "validation.go:newValidateCluster",
    "cluster-name-required",
    "cluster-name-dns",
    "cluster-name-qualified",
)
def cluster_name(cluster: Cluster) -> Iterator[Finding]:
    name = cluster.name
    if not name:
        yield required(OBJECT_NAME, "a cluster needs a name, such as c1.example.com", rule="cluster-name-required")
    elif not is_subdomain(name):
        yield invalid(OBJECT_NAME, name, f"a cluster's name is a DNS name: {SUBDOMAIN_RULE}", rule="cluster-name-dns")
    elif "." not in name and not cluster.without_dns and not _imported(cluster):
        detail = "needs a domain (c1.example.com) unless topology.dns is None"
        yield invalid(OBJECT_NAME, name, detail, rule="cluster-name-qualified")


def _imported(cluster: Cluster) -> bool:
    return bool(get(cluster.data, "metadata", "annotations", MANAGEMENT_ANNOTATION) == "imported")
