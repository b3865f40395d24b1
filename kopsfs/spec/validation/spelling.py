"""How is a field that kops names by its internal path spelled in the author's file, and where is it?

kops's messages name fields of its internal form, with some slips that are part of its behaviour; the author wrote v1alpha2.
`document_path` undoes the slips and goes back through the conversion: moved fields by `conversion.MOVES`, all others by
their Go name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from kopsfs.spec import conversion, schema
from kopsfs.spec.conversion import Object
from kopsfs.spec.field import Finding, Path
from kopsfs.spec.validation.manifest import Found
from kopsfs.spec.validation.rule import RULES

Meant = str | Callable[[re.Match[str]], str]

SLIPS: tuple[tuple[str, Meant], ...] = (
    (r"objectMeta\b", "metadata"),
    (r"spec\.metadata\b", "metadata"),
    (r"spec\.spec\.", "spec."),
    (r"spec\.kubernetesAPIAccess\b", "spec.api.access"),
    (r"spec\.networking\.topology\.dns\.type", "spec.networking.topology.dns"),
    (r"spec\.cloudProvider\.aws\.awsLoadBalanceController", "spec.cloudProvider.aws.loadBalancerController"),
    (r"spec\.cloudProvider\.aws\.ebsCSIDriver\.enabled", "spec.cloudProvider.aws.ebsCSIDriver.Enabled"),
    (r"spec\.serviceAccountIssuerDiscovery\.serviceAccountIssuerDiscovery\b", "spec.serviceAccountIssuerDiscovery"),
    (r"(spec\.containerd)\.nvidia\b", r"\1.nvidiaGPU"),
    (r"(spec\.containerd)\.nri\.version", r"\1.version"),
    (r"(spec\.containerd)\.package(Url|Hash)\b", lambda m: f"{m[1]}.packages.{m[2].lower()}Amd64"),
    (r"(spec\.containerd)\.package(Url|Hash)Arm64", lambda m: f"{m[1]}.packages.{m[2].lower()}Arm64"),
    (r"(spec\.\w*[kK]ubelet)\.ConfigureCBR0", r"\1.configureCbr0"),
    (r"(spec\.etcdClusters\[\d+\])\.backupStore", r"\1.backups.backupStore"),
    (r"spec\.containerRuntime", "spec.ContainerRuntime"),
    (r"spec\.docker\b", "spec.Docker"),
    (r"(spec\.networking\.kindnet)$", r"\1.masquerade.nonMasqueradeCIDRs"),
    (r"(spec\.additionalPolicies\[[^]]*\]).*", r"\1"),
)
"""Where kops's path is not the field's, and what is meant."""

GROUP_SLIPS: tuple[tuple[str, Meant], ...] = (
    (r"[^.\[]*\.spec\.", "spec."),
    (r"additionalUserData\b", "spec.additionalUserData"),
    (r"spec\.networking\.subnets\b", "spec.subnets"),
    (r"spec\.mixedInstancesPolicy\.image", "spec.image"),
)


_PATTERNS = tuple((re.compile(rf"^{pattern}"), meant) for pattern, meant in SLIPS)
_GROUP_PATTERNS = tuple((re.compile(rf"^{pattern}"), meant) for pattern, meant in (*GROUP_SLIPS, *SLIPS))
_MOVED = {move.new: move.old for move in reversed(conversion.MOVES)}


def document_path(field: str, subject: Object) -> Path:
    """The field in the author's own spelling; as much of it as is known."""
    for pattern, meant in _GROUP_PATTERNS if subject.kind == "InstanceGroup" else _PATTERNS:
        if pattern.match(field):
            field = pattern.sub(meant, field)
    path = Path.parse(field)
    version = subject.document.version if subject.document else "v1alpha2"
    if not path.parts or path.parts[0] != "spec":
        return path
    moved = _moved(path.parts[1:]) if version == "v1alpha2" and subject.kind == "Cluster" else None
    if moved is not None:
        old, rest = moved
        head = tuple(old.split("."))
        known = schema.types(version).at("ClusterSpec", Path(*head))
        tail = _renamed(rest, _type_at(_internal(old)), version) if known is not None else rest
        if (*head, *tail) == ("topology", "dns"):
            tail = (*tail, "type")
        return Path("spec", *head, *tail)
    if version == "v1alpha2" and subject.kind == "InstanceGroup" and path.parts[1:2] == ("rootVolume",):
        return Path("spec", _root_volume(path.parts[2:3]))
    return Path("spec", *_renamed(path.parts[1:], f"{subject.kind}Spec", version))


def located(finding: Finding, subject: Object, stage: str, name: str) -> Found:
    """The finding with its place in the author's file and kops's place in its source."""
    path = document_path(finding.field, subject)
    position = subject.document.position(path) if subject.document else None
    source = finding.source or (RULES[finding.rule].source if finding.rule in RULES else "")
    whole = replace(finding, position=finding.position or position, source=source)
    return Found(whole, stage, name, str(path) if finding.field else "")


def _moved(parts: tuple[str | int, ...]) -> tuple[str, tuple[str | int, ...]] | None:
    """The old place of the nearest moved field, and what is left of the path below it."""
    for length in range(len(parts), 0, -1):
        if not all(type(part) is str for part in parts[:length]):
            continue
        old = _MOVED.get(".".join(map(str, parts[:length])))
        if old is not None:
            return old, parts[length:]
    return None


def _internal(old: str) -> str:
    return next(move.new for move in conversion.MOVES if move.old == old)


def _type_at(dotted: str) -> str:
    known = schema.types(schema.INTERNAL).at("ClusterSpec", Path(*dotted.split(".")))
    return known.type if known is not None else ""


def _renamed(parts: tuple[str | int, ...], type_name: str, version: str) -> tuple[str | int, ...]:
    """Each field by its Go name, as long as the tables know it."""
    source, target = schema.types(schema.INTERNAL), schema.types(version)
    out: list[str | int] = []
    for part in parts:
        inner = schema.element(type_name)
        if inner is not None:
            out.append(part)
            type_name = inner
            continue
        known = source.fields(type_name).get(str(part)) if type_name in source else None
        if known is None:
            out.append(part)
            type_name = ""
            continue
        names = target.by_go(type_name) if type_name in target else {}
        out.append(names.get(known.go, str(part)))
        type_name = known.type
    return tuple(out)


def _root_volume(rest: tuple[str | int, ...]) -> str:
    name = str(rest[0]) if rest else ""
    return f"rootVolume{name[:1].upper()}{name[1:]}"
