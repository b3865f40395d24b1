"""Where does each value of a completed object come from?

Inference records origins by internal path; people read v1alpha2. `explained` goes through the leaves of the completed document
as it is written and says for each whether the author, a rule, or the way kops writes objects put it there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kopsfs.spec import schema
from kopsfs.spec.conversion import MOVES, OIDC, ROOT_VOLUME, Object
from kopsfs.spec.document import Document
from kopsfs.spec.field import Path, Position
from kopsfs.spec.rules import AUTHOR, Origin, leaves, nearest
from kopsfs.spec.validation.spelling import document_path

VERSION: Final = "v1alpha2"
"""What kops stores."""

CANONICAL: Final = Origin("canonical-form", "pkg/kopscodecs/codecs.go:ToVersionedYaml")
"""The author's value in kops's spelling: `48h20m` is written `48h20m0s`."""

ALWAYS: Final = "always-written"
"""Rule of what Go's encoder writes though it is zero: a field without `omitempty`."""

CONVERSION: Final = Origin(
    "conversion", "pkg/apis/kops/v1alpha2/conversion.go:Convert_kops_ClusterSpec_To_v1alpha2_ClusterSpec"
)
"""What the form of v1alpha2 adds: an empty `cloudConfig.openstack` where the cloud is OpenStack."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One leaf of a completed object.

    Attributes:
        path: in v1alpha2.
        internal: kops's internal path.
        inputs: what the rule had read, in v1alpha2 (facts as `facts.CLOUD.NAME`, of the cluster of a group as `cluster.…`).
        position: where the author wrote it, None for everything else.
    """

    path: str
    value: Any
    origin: Origin
    internal: str
    position: Position | None = None
    inputs: tuple[str, ...] = ()

    @property
    def inferred(self) -> bool:
        """Is it not what the author wrote?"""
        return self.origin.rule != AUTHOR


def explained(
    completed: Mapping[str, Any], kind: str, origins: Mapping[str, Origin], author: Document | None
) -> Iterator[Explained]:
    """Every leaf of a completed v1alpha2 document with its origin."""
    given = _given(author, kind)
    for path, value in leaves(dict(completed), kind, VERSION):
        internal = str(internal_path(Path.parse(path), kind))
        if path in given and _same(given[path], value):
            position = author.position(path) if author is not None else None
            yield Explained(path, value, Origin(AUTHOR), internal, position)
            continue
        origin = nearest(origins, internal)
        if origin is None or origin.rule == AUTHOR:
            origin = _written(path, value, kind, given)
        yield Explained(path, value, origin, internal, inputs=tuple(_spelled(name, kind) for name in origin.inputs))


@functools.cache
def _spelled(name: str, kind: str) -> str:
    """An internal path as v1alpha2 spells it."""
    if name.startswith("cluster."):
        return f"cluster.{_spelled(name.removeprefix('cluster.'), 'Cluster')}"
    if not name.startswith("spec."):
        return name
    return str(document_path(name, Object({}, kind)))


def _given(author: Document | None, kind: str) -> dict[str, Any]:
    """The author's leaves under the paths the completed document has."""
    if author is None:
        return {}
    if author.version == VERSION or not author.version:
        return dict(leaves(author.data, kind, VERSION))
    from kopsfs.spec.conversion import decode, from_internal

    plain = decode(author, defaults=False)
    return dict(leaves(from_internal(plain.data, kind, VERSION), kind, VERSION))


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _written(path: str, value: Any, kind: str, given: Mapping[str, Any]) -> Origin:
    """What no rule wrote: the author's value in other words, or what the encoder adds."""
    if path in given:
        return CANONICAL
    if value != {} and schema.is_zero(value):
        struct = schema.types(VERSION).at(kind, Path.parse(path).parent)
        return Origin(ALWAYS, f"pkg/apis/kops/v1alpha2/cluster.go:{struct.type if struct else kind}")
    return CONVERSION


def internal_path(path: Path, kind: str) -> Path:
    """A v1alpha2 path as kops's internal form names it; what is unknown stays as it is."""
    parts = path.parts
    if len(parts) < 2 or parts[0] != "spec":
        return path
    if kind == "InstanceGroup" and parts[1] in ROOT_VOLUME:
        return Path("spec", "rootVolume", ROOT_VOLUME[str(parts[1])])
    if kind == "Cluster":
        special = _special(parts[1:])
        if special is not None:
            return Path("spec", *special)
        for length in range(len(parts) - 1, 0, -1):
            head = ".".join(map(str, parts[1 : length + 1]))
            move = next((move for move in MOVES if move.old == head), None)
            if move is not None:
                known = schema.types(VERSION).at("ClusterSpec", Path(*move.old.split(".")))
                below = _renamed(parts[length + 1 :], known.type if known else "")
                return Path("spec", *move.new.split("."), *below)
    return Path("spec", *_renamed(parts[1:], f"{kind}Spec"))


def _special(parts: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    """What kops converts by hand."""
    if parts[:3] == ("topology", "dns", "type"):
        return ("networking", "topology", "dns")
    if parts[:2] == ("externalDns", "disable"):
        return ("externalDNS", "provider")
    if parts[0] == "kubeAPIServer" and len(parts) > 1 and parts[1] in OIDC:
        return ("authentication", "oidc", OIDC[str(parts[1])])
    if parts[:1] == ("cloudProvider",):
        return ("cloudProvider",)
    return None


def _renamed(parts: tuple[str | int, ...], type_name: str) -> tuple[str | int, ...]:
    """Each field by its Go name."""
    source, target = schema.types(VERSION), schema.types(schema.INTERNAL)
    out: list[str | int] = []
    for part in parts:
        inner = schema.element(type_name)
        known = source.fields(type_name).get(str(part)) if inner is None and type_name in source else None
        if known is None:
            out.append(part)
            type_name = inner or ""
        else:
            names = target.by_go(type_name) if type_name in target else {}
            out.append(names.get(known.go, str(part)))
            type_name = known.type
    return tuple(out)
