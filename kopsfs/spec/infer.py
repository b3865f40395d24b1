"""What do these documents become?

`infer` is the whole way from an author's documents to the completed ones: decode, assign, validate as kops does when it stores
and when it completes, complete, and write in v1alpha2. What stops it is raised as findings, what is only odd is handed back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kopsfs.spec import versions
from kopsfs.spec.conversion import Object, from_internal
from kopsfs.spec.document import Document
from kopsfs.spec.explain import VERSION, Explained, explained
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import Finding, Kind, Path, RefusedError, Severity
from kopsfs.spec.inference import pipeline
from kopsfs.spec.validation.manifest import Manifest, load
from kopsfs.spec.validation.stages import Judge
from kopsfs.spec.validation.values import tolerant_version

CLUSTER_LABEL = "kops.k8s.io/cluster"


@dataclass(slots=True)
class Inferred:
    """The completed documents of one cluster.

    Attributes:
        cluster: the completed cluster, as kops writes it.
        groups: the completed groups, in the order of the input.
        warnings: unknown fields, versions newer than the tables.
    """

    cluster: dict[str, Any]
    groups: list[dict[str, Any]]
    warnings: list[Finding]
    author: Manifest
    completed: pipeline.Completed = field(repr=False)

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [self.cluster, *self.groups]

    def explain(self, group: str | None = None) -> list[Explained]:
        """Every leaf of the cluster, or of one group, with its origin.

        Raises:
            RefusedError: there is no such group.
        """
        if group is None:
            author = self.author.clusters[0].document
            return list(explained(self.cluster, "Cluster", self.completed.origins, author))
        for given, done in zip(self.author.groups, self.groups, strict=True):
            if given.name == group:
                origins = self.completed.group_origins[group]
                return list(explained(done, "InstanceGroup", origins, given.document))
        known = tuple(given.name for given in self.author.groups)
        raise RefusedError(Finding(Kind.UNSUPPORTED, "", "", group, supported=known, rule="group-missing"))


def infer(documents: Iterable[Document], facts: Facts) -> Inferred:
    """Complete the cluster these documents describe.

    Raises:
        RefusedError: everything that kops would stop at, in its order; a fact that is missing.
    """
    manifest = load(documents)
    refuse(finding for broken in manifest.broken for found in broken for finding in (found.finding,))
    cluster = _only(manifest)
    groups = manifest.groups
    refuse(_strangers(cluster, groups))
    draft = pipeline.assigned(cluster, facts)
    pipeline.stored(draft)
    stored = Manifest([Object(draft.data, "Cluster", cluster.document)], groups)
    refuse(found.finding for found in Judge(facts).kops_order(stored))
    completed = pipeline.finish(draft, groups, facts)
    return Inferred(
        from_internal(completed.cluster, "Cluster", VERSION),
        [from_internal(group, "InstanceGroup", VERSION) for group in completed.groups],
        [*_unknown_fields([cluster, *groups]), *_newer(completed.cluster, facts)],
        manifest,
        completed,
    )


def refuse(findings: Iterable[Finding]) -> None:
    """Stop if one of these is an error.

    Raises:
        RefusedError: with all the errors.
    """
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise RefusedError(*errors)


def _only(manifest: Manifest) -> Object:
    if len(manifest.clusters) == 1:
        return manifest.clusters[0]
    if not manifest.clusters:
        detail = "there is no Cluster among the documents"
        if manifest.groups:
            detail += f"; instance group {manifest.groups[0].name!r} needs the one it belongs to"
    else:
        detail = f"one cluster at a time, not {', '.join(cluster.name for cluster in manifest.clusters)}"
    documents = [one.document for one in (*manifest.clusters[1:], *manifest.groups) if one.document]
    where = documents[0].position() if documents else None
    raise RefusedError(Finding(Kind.FAILED, "", detail, rule="one-cluster", position=where))


def _strangers(cluster: Object, groups: Sequence[Object]) -> Iterable[Finding]:
    """Groups that say they belong to another cluster."""
    for group in groups:
        labels = group.data.get("metadata", {}).get("labels") or {}
        named = labels.get(CLUSTER_LABEL)
        if named and named != cluster.name:
            where = Path("metadata", "labels").key(CLUSTER_LABEL)
            yield Finding(
                Kind.INVALID,
                str(where),
                f"group {group.name!r} belongs to another cluster, not to {cluster.name!r}",
                named,
                rule="group-of-another-cluster",
                position=group.document.position(where) if group.document else None,
            )


def _unknown_fields(objects: Iterable[Object]) -> Iterable[Finding]:
    for one in objects:
        yield from one.findings


def _newer(cluster: dict[str, Any], facts: Facts) -> Iterable[Finding]:
    """Versions the tables do not know yet: the newest rows are used."""
    mine, theirs = tolerant_version(versions.KOPS_VERSION), tolerant_version(facts.kops_version or "0")
    if (
        mine is not None
        and theirs is not None
        and mine < theirs
        and (mine.major, mine.minor) < (theirs.major, theirs.minor)
    ):
        yield _warning(
            "", f"kops {facts.kops_version} is newer than the tables, which are those of {versions.KOPS_VERSION}"
        )
    kubernetes = cluster["spec"].get("kubernetesVersion") or ""
    release, newest = versions.release(kubernetes), tolerant_version(versions.KUBERNETES_NEWEST)
    if release is not None and newest is not None and (newest.major, newest.minor) < (release.major, release.minor):
        yield _warning(
            "spec.kubernetesVersion",
            f"Kubernetes {kubernetes} is newer than the tables, which end at {versions.KUBERNETES_NEWEST}; that row is used",
        )


def _warning(path: str, detail: str) -> Finding:
    return Finding(Kind.INVALID, path, detail, rule="newer-than-tables", severity=Severity.WARNING)
