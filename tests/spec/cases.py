"""The cases of inference: our own small corpus, always there, and the shared one where it is.

A case is a manifest, the facts and the channel it is completed with, and what has to come out. `KOPSFS_UPDATE_GOLDEN=1` writes the
expectations of our own corpus anew; they are then reviewed as code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kopsfs.spec import channel, conversion, document
from kopsfs.spec.conversion import Object
from kopsfs.spec.facts import Facts, from_data

OWN = Path(__file__).parent / "corpus"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "conformance" / "kops"


@dataclass(frozen=True)
class Case:
    name: str
    manifest: Path
    completed: Path
    groups: Path
    facts: Facts
    refused: str = ""

    @property
    def documents(self) -> list[document.Document]:
        return document.read(self.manifest.read_bytes(), self.manifest.name)

    def objects(self) -> tuple[Object, list[Object]]:
        """The decoded cluster and its groups."""
        decoded = [conversion.decode(each) for each in self.documents if each.is_kops]
        cluster = next(each for each in decoded if each.kind == "Cluster")
        return cluster, [each for each in decoded if each.kind == "InstanceGroup"]


def plain(path: Path) -> list[dict[str, Any]]:
    """The documents of a file as data."""
    return [each.data for each in document.read(path.read_bytes(), path.name)]


@functools.cache
def channel_of(directory: Path, name: str) -> channel.Channel | None:
    path = directory / name
    if name == channel.NONE:
        return channel.Channel(name)
    return channel.parse(path.read_bytes(), name, str(path)) if path.is_file() else None


@functools.cache
def clouds_of(path: Path) -> Any:
    return from_data(plain(path)[0], path.name)


def own() -> list[Case]:
    facts = Facts(
        clouds_of(OWN / "facts.yaml"),
        lambda name: channel_of(OWN / "channels", name),
        "1.34.0-beta.1",
        frozenset({"APIServerNodes"}),
    )
    names = [path.stem for path in sorted(OWN.glob("*.yaml")) if path.stem != "facts"]
    return [Case(name, OWN / f"{name}.yaml", OWN / "completed" / f"{name}.yaml", Path(), facts) for name in names]


@functools.cache
def shared() -> list[Case]:
    """None where the corpus is not there; `test_golden` says so."""
    return list(_shared()) if SHARED.is_dir() else []


def _shared() -> Iterator[Case]:
    for folder in sorted((SHARED / "complete").iterdir()):
        meta = plain(folder / "meta.yaml")[0]
        base = SHARED / meta.get("channel_base", "env/channels/")
        facts = Facts(
            clouds_of(SHARED / meta.get("cloud_facts", "env/cloud-update.yaml")),
            functools.partial(channel_of, base),
            str(meta.get("kops_version") or ""),
            frozenset(meta.get("feature_flags") or ()),
        )
        refused = str((meta.get("expect_error") or {}).get("message", ""))
        groups = folder / "igs-completed.yaml"
        yield Case(folder.name, folder / "in.yaml", folder / "completed.yaml", groups, facts, refused)
