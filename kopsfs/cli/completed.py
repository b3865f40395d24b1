"""How is a completion printed, compared with the stored one, and stored?

What `infer` does with a cluster, or with every cluster of a tree.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Collection
from typing import Any, Final

from kopsfs.cli import inputs, outside
from kopsfs.cli.program import UsageError
from kopsfs.cli.progress import colour, track
from kopsfs.cli.trees import Trees, all_of
from kopsfs.cli.workspace import Workspace, is_document
from kopsfs.errors import ConflictError, InputError
from kopsfs.spec import layout, writer
from kopsfs.spec.document import read_one
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import RefusedError
from kopsfs.spec.infer import infer
from kopsfs.spec.versions import KOPS_VERSION

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")


STORED: Final = (layout.COMPLETED, layout.KOPS_VERSION)
"""What --diff and --write read besides the author's documents."""


def run(parsed: argparse.Namespace) -> int:
    """Do what the arguments of `infer` say; the exit status."""
    also = STORED if parsed.diff or parsed.write else ()
    try:
        facts = outside.load_facts(parsed)
        with Trees(parsed.state, verbose=parsed.verbose) as trees:
            if parsed.all:
                return _run_all(parsed, facts, trees.find(), also)
            subject = inputs.subject_of(parsed, trees, also)
            if not also:
                return _print(parsed, subject, facts)
            if subject.workspace is None:
                raise UsageError("--diff and --write need a cluster of a state store, not -f")
            return _Stored(parsed, subject, facts).run()
    except RefusedError as error:
        return inputs.complain_about(error.findings)


def _print(parsed: argparse.Namespace, subject: inputs.Subject, facts: Facts) -> int:
    inferred = infer(subject.documents, facts)
    inputs.complain_about(inferred.warnings)
    objects = inferred.objects if parsed.instance_groups else [inferred.cluster]
    sys.stdout.write(writer.to_json(objects) if parsed.output == "json" else writer.stream(objects))
    return 0


def _run_all(parsed: argparse.Namespace, facts: Facts, tree: Workspace, also: Collection[str]) -> int:
    """Every cluster of the tree; one that is refused does not stop the others."""
    if parsed.subject or parsed.filename:
        raise UsageError("--all takes every cluster of the state store; name none")
    names = all_of(tree)
    tree.ahead(names, lambda path: path in also or is_document(path))
    status, separator = 0, ""
    for name in names if sys.stdout.isatty() else track(names, "infer"):
        try:
            subject = inputs.of_cluster(tree, name)
            if also:
                status = max(status, _Stored(parsed, subject, facts).run())
            else:
                sys.stdout.write(separator)
                status = max(status, _print(parsed, subject, facts))
                separator = "\n---\n\n" if parsed.output == "yaml" else ""
        except RefusedError as error:
            print(f"{name}:", file=sys.stderr)
            status = max(status, inputs.complain_about(error.findings))
    return status


class _Stored:
    """One cluster whose stored completion is compared, and replaced if wanted.

    The author's documents are looked at again right before and right after the write: a completion must not be stored for
    documents that are not the author's any more.
    """

    def __init__(self, parsed: argparse.Namespace, subject: inputs.Subject, facts: Facts) -> None:
        assert subject.workspace is not None
        self._parsed = parsed
        self._subject = subject
        self._facts = facts
        self._workspace: Workspace = subject.workspace
        self._cluster = subject.cluster
        self._path = f"{subject.cluster}/{layout.COMPLETED}"

    def run(self) -> int:
        inferred = infer(self._subject.documents, self._facts)
        inputs.complain_about(inferred.warnings)
        stored = self._workspace.read(self._cluster, layout.COMPLETED)
        old = self._readable(stored)
        new = writer.to_yaml(_with_digests(inferred.cluster, old) if old else inferred.cluster)
        self._compare_versions()
        lines = self._differences(writer.to_yaml(old) if old else "", new)
        if self._parsed.output == "json":
            about = {"cluster": self._cluster, "file": self._path, "differs": bool(lines), "diff": "\n".join(lines)}
            print(json.dumps(about))
        else:
            show_diff(lines)
        if not self._parsed.write:
            return 1 if lines else 0
        if stored is not None and stored == new.encode():
            print(f"{self._path} is up to date", file=sys.stderr)
            return 0
        if not (self._parsed.yes or _confirmed(f"store this as {self._path}?")):
            print("nothing was written", file=sys.stderr)
            return 1
        self._write(new.encode(), stored)
        return 0

    def _compare_versions(self) -> None:
        """Another release of kops infers other versions of components: say so before they show as differences."""
        told = self._workspace.read(self._cluster, layout.KOPS_VERSION)
        applied = (told or b"").decode("utf-8", "replace").strip()
        if applied and applied.split(".")[:2] != KOPS_VERSION.split(".")[:2]:
            print(
                f"kops {applied} applied this cluster last; inferred is what kops {KOPS_VERSION} would make of it",
                file=sys.stderr,
            )

    def _readable(self, stored: bytes | None) -> dict[str, Any] | None:
        """The stored completion, also the one of an old release."""
        if stored is not None:
            return read_one(stored, self._path).data
        old = self._workspace.read(self._cluster, layout.COMPLETED_OLD)
        if old is not None:
            name = f"{self._cluster}/{layout.COMPLETED_OLD}"
            print(f"comparing with {name}, of kops 1.21 or earlier", file=sys.stderr)
            return read_one(old, name).data
        print(f"{self._path} is not there yet", file=sys.stderr)
        return None

    def _differences(self, old: str, new: str) -> list[str]:
        return list(
            difflib.unified_diff(
                old.splitlines(), new.splitlines(), f"{self._path} (stored)", f"{self._path} (inferred)", lineterm=""
            )
        )

    def _write(self, data: bytes, stored: bytes | None) -> None:
        self._authors_unchanged("nothing was written")
        self._workspace.write(self._cluster, layout.COMPLETED, data, expected=stored)
        try:
            self._authors_unchanged("the completion was put back")
        except ConflictError:
            self._undo(data, stored)
            raise
        fleeting = self._workspace.name.startswith("memfs://")
        print(
            f"{self._path} is written" + (", into a store that ends with this command" if fleeting else ""),
            file=sys.stderr,
        )

    def _undo(self, data: bytes, stored: bytes | None) -> None:
        if stored is not None:
            self._workspace.write(self._cluster, layout.COMPLETED, stored, expected=data)
        else:
            self._workspace.remove(self._cluster, layout.COMPLETED, expected=data)

    def _authors_unchanged(self, outcome: str) -> None:
        path = self._workspace.changed(self._cluster, self._subject.manifest)
        if path:
            raise ConflictError("put", self._path, f"{self._cluster}/{path} was changed meanwhile; {outcome}")


def show_diff(lines: list[str]) -> None:
    """Print a unified diff, coloured on a terminal."""
    colours = {"+": "32", "-": "31", "@": "36"}
    coloured = colour(sys.stdout)
    for number, line in enumerate(lines):
        code = "1" if number < 2 else colours.get(line[:1])
        print(f"\x1b[{code}m{line}\x1b[0m" if coloured and code else line)


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError("--write asks before it writes; say --yes where nobody can answer")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _with_digests(inferred: Any, stored: Any) -> Any:
    """Images keep the digest that kops asked the registry for, as long as they are the same image."""
    if isinstance(inferred, dict) and isinstance(stored, dict):
        return {name: _with_digests(value, stored.get(name)) for name, value in inferred.items()}
    if isinstance(inferred, str) and isinstance(stored, str) and _DIGEST.sub("", stored) == inferred:
        return stored
    return inferred
