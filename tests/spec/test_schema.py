"""Do the tables of types agree with each other, and with the schema of the shared corpus?"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kopsfs.spec import schema
from kopsfs.spec.field import Path
from tests.spec import cases

VERSIONS = {"internal": "kops", "v1alpha2": "v1alpha2", "v1alpha3": "v1alpha3"}
SHARED = cases.SHARED / "env" / "schema"
here = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")


def name_of(reference: str, package: str) -> str:
    return reference.removeprefix(f"{package}.")


def plain(kind: str, package: str) -> str:
    return re.sub(r"struct:([\w.]+)", lambda match: name_of(match[1], package), kind)


@here
@pytest.mark.parametrize("version", VERSIONS)
def test_the_tables_are_the_schema_of_the_corpus(version: str) -> None:
    package = VERSIONS[version]
    reference: dict[str, list[dict[str, Any]]] = json.loads((SHARED / f"types-{version}.json").read_text())
    table = schema.types(version)
    compared = 0
    for full, fields in reference.items():
        name = name_of(full, package)
        if name not in table:
            continue
        inlined = {field["type"].removeprefix("struct:") for field in fields if field.get("inline")}
        rows = fields + [each for inner in inlined for each in reference.get(inner, ())]
        wanted = {
            field["json"]: (plain(field["type"], package), bool(field.get("pointer")), not field["omitempty"])
            for field in rows
            if not field.get("inline")
        }
        found = {
            key: (known.type, known.pointer, known.always)
            for key, known in table.fields(name).items()
            if not known.hidden
        }
        if inlined:
            wanted = {key: (kind, pointer, found[key][2]) for key, (kind, pointer, _) in wanted.items()}
        assert found == wanted, name
        compared += len(found)
    assert compared > 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_every_type_that_is_named_is_there(version: str) -> None:
    table = schema.types(version)
    basic = {
        "string",
        "bool",
        "int",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint32",
        "quantity",
        "duration",
        "time",
        "bytes",
    }
    for name in table:
        for known in table.fields(name).values():
            kind = known.type
            while (inner := schema.element(kind)) is not None:
                kind = inner
            assert kind in table or kind in basic | {"intOrString"}, f"{name}: {kind}"


def test_what_is_hidden_from_json_is_known_by_its_go_name() -> None:
    hidden = {
        f"{name}.{key}"
        for name in schema.types("internal")
        for key, known in schema.types("internal").fields(name).items()
        if known.hidden
    }
    assert "EBSCSIDriverSpec.Enabled" in hidden
    assert "ClusterSpec.Docker" in hidden


def test_paths_are_looked_up_through_lists_and_maps() -> None:
    table = schema.types("internal")
    found = table.at("Cluster", Path.parse("spec.etcdClusters[3].etcdMembers[0].encryptedVolume"))
    assert found is not None
    assert found.type == "bool"
    assert table.at("Cluster", Path.parse("spec.cloudLabels[a.b/c]")) is not None
    assert table.at("Cluster", Path.parse("spec.nothing")) is None
    assert table.at("Cluster", Path.parse("spec.channel.below")) is None
