"""Who wrote which field of an object, and when?

`managedFields` has an entry per writer with the fields it was the last to give a value. Whoever changes a field takes it
from the others; a field that goes is nobody's; an entry without fields goes, and its time is that of the last value it gave.

Source: Kubernetes "Server-side apply" (Field management), measured with kube-apiserver 1.36.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
Path = tuple[str, ...]

_METADATA = ("annotations", "labels", "finalizers", "ownerReferences")


def managed(old: Object | None, new: Object, manager: str, now: str) -> list[Object]:
    """Give the entries of `new`, which `manager` has made of `old`."""
    before, after = dict(_fields(old or {})), dict(_fields(new))
    given = {path for path, value in after.items() if path not in before or before[path] != value}
    rows: list[Object] = []
    ours: Object = {"manager": manager, "operation": "Update", "apiVersion": new["apiVersion"]}
    mine, at = set(given), now
    for row in (old or {}).get("metadata", {}).get("managedFields", ()):
        paths = set(_paths(row["fieldsV1"])) & after.keys()
        if all(row[name] == value for name, value in ours.items()):
            mine, at = paths | given, (now if given else row["time"])
        elif paths - given:
            rows.append({**row, "fieldsV1": _nested(paths - given)})
    if mine:
        rows.append({**ours, "time": at, "fieldsType": "FieldsV1", "fieldsV1": _nested(mine)})
    return sorted(rows, key=lambda row: row["time"])


def _fields(item: Object) -> Iterator[tuple[Path, Any]]:
    for name, value in item.get("metadata", {}).items():
        if name in _METADATA:
            yield from _leaves(("f:metadata", f"f:{name}"), value)
    for name, value in item.items():
        if name not in {"apiVersion", "kind", "metadata", "status"}:
            yield from _leaves((f"f:{name}",), value)


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    yield (*path, "."), None
    for name, each in value.items():
        yield from _leaves((*path, f"f:{name}"), each)


def _nested(paths: set[Path]) -> Object:
    made: Object = {}
    for path in sorted(paths):
        at = made
        for name in path:
            at = at.setdefault(name, {})
    return made


def _paths(nested: Object, above: Path = ()) -> Iterator[Path]:
    for name, below in nested.items():
        if below:
            yield from _paths(below, (*above, name))
        else:
            yield (*above, name)
