"""Which fields and types does a kops object have?

The tables (`tables/*.json`, one for each API version and one for kops's internal form) are facts read from kops's Go structs at
commit 268927e264: type → field → (Go name, type, flags). The Go name ties one field's spellings in the versions together.

`decode` checks a document against a table and puts values into canonical form, as kops's decoder does: unknown fields are
dropped (and reported as warnings), a null is as if absent, a wrong type is an error, durations and quantities are
canonical, and a zero value of a field that is no pointer is the same as none.

Source: kops pkg/apis/kops/*.go, v1alpha2/*.go, v1alpha3/*.go; sigs.k8s.io/json (case-sensitive encoding/json).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

from kopsfs.spec import scalars
from kopsfs.spec.field import Finding, Kind, Path, Severity

INTERNAL = "internal"
KINDS = ("Cluster", "InstanceGroup", "Keyset", "SSHCredential", "Host")

_INT_RANGE = {
    "int": (-(1 << 63), (1 << 63) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint8": (0, 255),
}


_CANONICAL: dict[str, Callable[[Any], str]] = {
    "duration": scalars.duration,
    "quantity": scalars.quantity,
    "time": scalars.time,
}


class FieldType(NamedTuple):
    """One field of one type.

    `pointer`: absent and zero are two things. `always`: written even when zero. `hidden`: not part of the JSON form, so it is
    lost in every JSON merge and never written; its name in the internal form is the Go name.
    """

    go: str
    type: str
    pointer: bool
    always: bool
    hidden: bool


class Types:
    """The table of one API version."""

    def __init__(self, raw: dict[str, dict[str, list[str]]]) -> None:
        self._raw = raw
        self._fields: dict[str, dict[str, FieldType]] = {}
        self._by_go: dict[str, dict[str, str]] = {}

    def __contains__(self, type_name: str) -> bool:
        return type_name in self._raw

    def __iter__(self) -> Any:
        return iter(self._raw)

    def fields(self, type_name: str) -> dict[str, FieldType]:
        """The fields of a type by the name they have in documents."""
        found = self._fields.get(type_name)
        if found is None:
            found = self._fields[type_name] = {
                name: FieldType(go, kind, "p" in flags, "a" in flags, "h" in flags)
                for name, (go, kind, flags) in self._raw[type_name].items()
            }
        return found

    def by_go(self, type_name: str) -> dict[str, str]:
        """Go name → name in documents."""
        found = self._by_go.get(type_name)
        if found is None:
            found = self._by_go[type_name] = {row[0]: name for name, row in self._raw[type_name].items()}
        return found

    def at(self, kind: str, path: Path) -> FieldType | None:
        """The type of what `path` names in a document of this kind; None where there is no such field."""
        current = FieldType("", kind, pointer=False, always=False, hidden=False)
        for part in path.parts:
            inner = element(current.type)
            if inner is not None:
                current = FieldType("", inner, pointer=False, always=False, hidden=False)
                continue
            if current.type not in self._raw or part not in self.fields(current.type):
                return None
            current = self.fields(current.type)[str(part)]
        return current


def element(type_name: str) -> str | None:
    """`X` of `list<X>` and `map<X>`, else None."""
    if type_name.endswith(">"):
        return type_name[type_name.index("<") + 1 : -1]
    return None


@functools.cache
def types(version: str) -> Types:
    """The table of `v1alpha2`, `v1alpha3` or `internal`."""
    text = resources.files("kopsfs.spec").joinpath("tables", f"{version}.json").read_text("utf-8")
    return Types(json.loads(text))


def is_zero(value: Any) -> bool:
    """Go's zero value of a field that is no pointer, which `omitempty` leaves out."""
    return (
        value is None
        or value is False
        or value == ""
        or (value == 0 and not isinstance(value, bool))
        or value in ([], {})
    )


@dataclass(slots=True)
class Decoded:
    """A document in canonical form, with what was noticed on the way.

    Attributes:
        data: known fields only.
        findings: errors (wrong types) and warnings (unknown fields), by the document's own paths.
    """

    data: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)


def decode(data: dict[str, Any], kind: str, version: str) -> Decoded:
    """Known fields of a document in canonical form."""
    walk = _Decode(types(version))
    value = walk.struct(data, kind, Path())
    return Decoded(value if isinstance(value, dict) else {}, walk.findings)


class _Decode:
    def __init__(self, table: Types) -> None:
        self.table = table
        self.findings: list[Finding] = []

    def wrong(self, path: Path, value: Any, want: str) -> None:
        names = {dict: "a map", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
        got = names.get(type(value), "null")
        hint = "; put it in quotes" if want == "a string" and got in {"a number", "a boolean"} else ""
        self.findings.append(Finding(Kind.TYPE, str(path), f"{got} where {want} has to be{hint}", value, rule="type"))

    def struct(self, data: Any, type_name: str, path: Path) -> Any:
        if not isinstance(data, dict):
            self.wrong(path, data, "a map")
            return None
        fields = self.table.fields(type_name)
        out: dict[str, Any] = {}
        for name, raw in data.items():
            known = fields.get(name)
            if known is None or known.hidden:
                self.findings.append(
                    Finding(
                        Kind.UNSUPPORTED,
                        str(path.child(name)),
                        "unknown field, dropped",
                        rule="unknown-field",
                        severity=Severity.WARNING,
                    ),
                )
                continue
            if raw is None:
                continue
            value = self.value(raw, known.type, path.child(name))
            if value is None or (not known.pointer and is_zero(value) and not isinstance(value, list | dict)):
                continue
            out[name] = value
        return out

    def value(self, raw: Any, kind: str, path: Path) -> Any:
        """A value in canonical form; None after an error."""
        inner = element(kind)
        if inner is not None:
            return self.items(raw, inner, path) if kind.startswith("list<") else self.entries(raw, inner, path)
        if kind in self.table:
            return self.struct(raw, kind, path)
        return self.scalar(raw, kind, path)

    def items(self, raw: Any, inner: str, path: Path) -> Any:
        if not isinstance(raw, list):
            return self.wrong(path, raw, "a list")
        values = []
        for number, item in enumerate(raw):
            value = self._zero(inner) if item is None else self.value(item, inner, path.index(number))
            values.append(value)
        return values

    def entries(self, raw: Any, inner: str, path: Path) -> Any:
        if not isinstance(raw, dict):
            return self.wrong(path, raw, "a map")
        return {
            str(key): self._zero(inner) if item is None else self.value(item, inner, path.key(str(key)))
            for key, item in raw.items()
        }

    def _zero(self, kind: str) -> Any:
        if kind in self.table or kind.startswith("map<"):
            return {}
        if kind.startswith("list<"):
            return []
        return {"bool": False, "string": "", "quantity": "0", "duration": "0s"}.get(kind, 0)

    def scalar(self, raw: Any, kind: str, path: Path) -> Any:
        if kind in {"string", "bytes"}:
            return raw if isinstance(raw, str) else self.wrong(path, raw, "a string")
        if kind == "bool":
            return raw if isinstance(raw, bool) else self.wrong(path, raw, "a boolean")
        if kind in _INT_RANGE:
            return self._integer(raw, kind, path)
        if kind == "intOrString":
            return raw if isinstance(raw, str) else self._integer(raw, "int32", path)
        if isinstance(raw, bool | list | dict) or (kind != "quantity" and not isinstance(raw, str)):
            return self.wrong(path, raw, f"a {kind}")
        try:
            return _CANONICAL[kind](raw)
        except ValueError as error:
            self.findings.append(Finding(Kind.TYPE, str(path), str(error), raw, rule="type"))
            return None

    def _integer(self, raw: Any, kind: str, path: Path) -> int | None:
        low, high = _INT_RANGE[kind]
        if isinstance(raw, float) and raw == raw // 1 and abs(raw) < 1e21:
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            self.wrong(path, raw, f"a number of type {kind}")
            return None
        return raw
