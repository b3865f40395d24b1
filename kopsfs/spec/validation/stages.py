"""Which rules run when, and when does kops stop?

kops looks at a manifest in stages, and the first one with an error is the last one run (`kops_order`, which is what the
corpus compares). A person rather wants to know everything at once: `everything` goes on where it can.

    decode        types, fields of another cloud
    store         ValidateCluster, then CrossValidateInstanceGroup for each group, not strict
    cloud-build   what the cloud's client cannot be made from
    populate      completion of the cluster; ends with ValidateCluster, strict
    populate-ig   completion of each group
    deep          DeepValidate of the completed objects, strict; stops at the first object with errors

Source: kops upup/pkg/fi/cloudup/apply_cluster.go, populate_cluster_spec.go:run, pkg/apis/kops/validation/legacy.go:DeepValidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from kopsfs.spec.conversion import Object
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import Finding, Kind, Path, Severity
from kopsfs.spec.validation import cloudchecks
from kopsfs.spec.validation.cloudbuild import cloud_build
from kopsfs.spec.validation.cluster import validate_cluster
from kopsfs.spec.validation.completion import Completion, assign
from kopsfs.spec.validation.instancegroup import CloudChecks, cross_validate, group_volumes, validate_group
from kopsfs.spec.validation.manifest import Found, Manifest
from kopsfs.spec.validation.objects import additional_object
from kopsfs.spec.validation.rule import enter, failed
from kopsfs.spec.validation.spelling import located
from kopsfs.spec.validation.view import CONTROL_PLANE, Cluster, Group

STAGES = ("decode", "store", "cloud-build", "populate", "populate-ig", "deep")

enter("legacy.go:DeepValidate", ("groups-required", "groups-control-plane", "groups-node"))
enter("", ("cluster-missing", "clusters-many"))


@dataclass(frozen=True, slots=True)
class Judge:
    """How a manifest is judged.

    Attributes:
        facts: what is known of the world.
        kind: `manifest` (as it lies in a store), `new-manifest` (as `kops create -f` takes it), `completed-manifest` (objects are
            complete already) or `cluster-only` (there are no groups).
        strict: only for `completed-manifest`.
        cloud_checks: also what asks the cloud.
    """

    facts: Facts = field(default_factory=Facts)
    kind: str = "manifest"
    strict: bool = False
    cloud_checks: bool = False

    def kops_order(self, manifest: Manifest) -> list[Found]:
        """Kops's stages in kops's order, up to the first one with an error."""
        for stage in self._stages(manifest):
            found = list(stage())
            if any(entry.finding.severity is Severity.ERROR for entry in found):
                return found
        return []

    def everything(self, manifest: Manifest, *, complete: bool = True) -> list[Found]:
        """All that can be found, the same finding once; completion only of what kops would complete.

        Args:
            manifest: the documents.
            complete: are these all documents there are? Without some of them completion would only invent faults.
        """
        refused = self._assign(manifest)
        found = [entry for broken in manifest.broken for entry in broken] + manifest.structure
        found += map(_not_known, refused)
        for document in manifest.others:
            for finding in additional_object(document.data, Path()):
                placed = replace(finding, position=document.position(finding.field))
                found.append(Found(placed, "store", f"{document.kind}/{document.name}"))
        whole = self._mended(manifest)
        if self.kind == "completed-manifest":
            more = [entry for cluster in whole.clusters for entry in self._deep_all(whole, cluster)]
        else:
            more = self._store(whole, settings=True)
        broken = {entry.finding.position for entry in found if entry.finding.rule == "type"}
        found += [entry for entry in more if entry.finding.position not in broken]
        complete = complete and self.kind != "completed-manifest" and len(manifest.clusters) == 1
        if complete and not any(entry.finding.severity is Severity.ERROR for entry in found):
            for stage in self._later_stages(manifest):
                entries = list(stage())
                found += map(_not_known, entries)
                if any(entry.finding.severity is Severity.ERROR for entry in entries):
                    break
        return _once(found)

    def _assign(self, manifest: Manifest) -> list[Found]:
        """Put assigned clusters in the place of new ones; what stops that."""
        refused: list[Found] = []
        for number, cluster in enumerate(manifest.clusters if self.kind == "new-manifest" else ()):
            manifest.clusters[number], found = assign(cluster, self.facts)
            refused += found
        return refused

    @staticmethod
    def _mended(manifest: Manifest) -> Manifest:
        clusters = [*manifest.clusters, *(each for each in manifest.mended if each.kind == "Cluster")]
        groups = [*manifest.groups, *(each for each in manifest.mended if each.kind != "Cluster")]
        return Manifest(clusters, groups)

    # --- stages -------------------------------------------------------------------------------------------------------

    def _stages(self, manifest: Manifest) -> Iterator[Callable[[], Iterable[Found]]]:
        yield lambda: manifest.broken[0] if manifest.broken else _one_cluster(manifest)
        yield lambda: self._assign(manifest)
        if self.kind == "completed-manifest":
            yield lambda: self._deep(manifest.clusters[0], manifest.groups, strict=self.strict)
            return
        yield lambda: self._store(manifest)
        yield from self._later_stages(manifest)

    def _later_stages(self, manifest: Manifest) -> Iterator[Callable[[], Iterable[Found]]]:
        """What follows the store: completion and the judgement of what it gives."""
        cluster = manifest.clusters[0]
        zones = self.facts.get("aws", "zones")
        yield lambda: _about(cluster, cloud_build(self._view(cluster), zones), "cloud-build")
        completion = Completion(cluster, manifest.groups, self.facts)
        yield lambda: self._populate(completion)
        if self.kind == "cluster-only":
            return
        yield completion.populate_groups
        yield lambda: self._deep(completion.completed, completion.completed_groups, strict=True, ask=self.cloud_checks)

    def _store(self, manifest: Manifest, *, settings: bool = False) -> list[Found]:
        found: list[Found] = []
        for group in manifest.groups if not manifest.clusters else ():
            found += _about(group, validate_group(Group(group.data), strict=False), "store")
        for cluster in manifest.clusters:
            view = self._view(cluster)
            found += _about(cluster, validate_cluster(view), "store")
            for group in manifest.groups:
                checks = self._checks(view, facts=False) if settings else None
                found += _about(group, cross_validate(view, Group(group.data), cloud_checks=checks), "store")
        return found

    def _populate(self, completion: Completion) -> Iterator[Found]:
        refused = list(completion.populate())
        yield from refused
        if not refused:
            completed = completion.completed
            yield from _about(completed, validate_cluster(self._view(completed, strict=True)), "populate")

    def _deep(self, cluster: Object, groups: Sequence[Object], *, strict: bool, ask: bool = False) -> list[Found]:
        """DeepValidate: the findings of the first object that has some."""
        for entries in self._deep_parts(cluster, groups, strict=strict, ask=ask):
            if entries:
                return entries
        return []

    def _deep_all(self, manifest: Manifest, cluster: Object) -> list[Found]:
        parts = self._deep_parts(cluster, manifest.groups, strict=self.strict, ask=False)
        return [entry for entries in parts for entry in entries]

    def _deep_parts(
        self, cluster: Object, groups: Sequence[Object], *, strict: bool, ask: bool
    ) -> Iterator[list[Found]]:
        view = self._view(cluster, strict=strict)
        yield _about(cluster, validate_cluster(view), "deep")
        if self.kind == "completed-manifest" and not groups:
            return
        yield [Found(finding, "deep", "cluster") for finding in _groups_given(groups)]
        checks = self._checks(view, facts=True) if ask else None
        for group in groups:
            plain = Group(group.data)
            findings = [*cross_validate(view, plain, cloud_checks=checks), *group_volumes(view, plain)]
            yield _about(group, findings, "deep")

    def _checks(self, cluster: Cluster, *, facts: bool) -> CloudChecks:
        def checks(group: Group) -> Iterator[Finding]:
            yield from cloudchecks.settings(cluster, group)
            if facts:
                yield from cloudchecks.resources(cluster, group, self.facts)

        return checks

    def _view(self, cluster: Object, *, strict: bool = False) -> Cluster:
        return Cluster(cluster.data, strict=strict, flags=self.facts.flags)


def _about(subject: Object, findings: Iterable[Finding], stage: str) -> list[Found]:
    name = "cluster" if subject.kind == "Cluster" else f"ig/{subject.name}"
    return [located(finding, subject, stage, name) for finding in findings]


def _not_known(entry: Found) -> Found:
    """What completion would have to ask a cloud is no fault of the documents: a warning that says how far it went."""
    if entry.finding.kind is not Kind.FACT or not entry.stage.startswith("populate"):
        return entry
    detail = f"not looked at further: {entry.finding.detail}"
    return replace(entry, finding=replace(entry.finding, severity=Severity.WARNING, detail=detail))


def _one_cluster(manifest: Manifest) -> Iterator[Found]:
    if not manifest.clusters:
        yield Found(failed("there is no Cluster among the documents", "cluster-missing"), "decode")
    elif len(manifest.clusters) > 1:
        names = ", ".join(cluster.name for cluster in manifest.clusters)
        yield Found(failed(f"one cluster at a time, not {names}", "clusters-many"), "decode")


def _groups_given(groups: Sequence[Object]) -> Iterator[Finding]:
    roles = {Group(group.data).role == CONTROL_PLANE for group in groups}
    if not roles:
        yield failed("a cluster needs instance groups", "groups-required")
    elif True not in roles:
        yield failed("a cluster needs an instance group of role ControlPlane (Master)", "groups-control-plane")
    elif False not in roles:
        yield failed("a cluster needs an instance group besides its control plane", "groups-node")


def _once(found: Iterable[Found]) -> list[Found]:
    seen: dict[tuple[str, str, str], Found] = {}
    for entry in found:
        seen.setdefault((entry.object, entry.finding.key, entry.finding.rule), entry)
    return list(seen.values())
