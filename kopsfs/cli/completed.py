"""How is a completion printed, compared with the stored one, and stored?

What `infer` does with a cluster, or with every cluster of a tree.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from typing import Any

from kopsfs.cli import inputs, outside
from kopsfs.cli.trees import find_tree
from kopsfs.cli.workspace import Workspace
from kopsfs.errors import ConflictError, InputError
from kopsfs.spec import layout, writer
from kopsfs.spec.document import read_one
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import RefusedError
from kopsfs.spec.infer import infer
from kopsfs.spec.versions import KOPS_VERSION

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")


def run(parsed: argparse.Namespace) -> int:
    """Do what the arguments of `infer` say; the exit status."""
    try:
        facts = outside.load_facts(parsed)
        if parsed.all:
            return _run_all(parsed, facts)
        subject = inputs.subject_of(parsed)
        if parsed.diff or parsed.write:
            if subject.workspace is None:
                raise InputError("--diff and --write need a cluster of a tree, not -f")
            return _Stored(parsed, subject, facts).run()
        return _print(parsed, subject, facts)
    except RefusedError as error:
        return inputs.complain_about(error.findings)


def _print(parsed: argparse.Namespace, subject: inputs.Subject, facts: Facts) -> int:
    inferred = infer(subject.documents, facts)
    inputs.complain_about(inferred.warnings)
    objects = inferred.objects if parsed.instance_groups else [inferred.cluster]
    sys.stdout.write(writer.to_json(objects) if parsed.output == "json" else writer.stream(objects))
    return 0


def _run_all(parsed: argparse.Namespace, facts: Facts) -> int:
    """Every cluster of the tree; one that is refused does not stop the others."""
    if parsed.subject or parsed.filename:
        raise InputError("--all takes every cluster of the tree; name none")
    tree = find_tree(parsed.state)
    names = tree.clusters()
    if not names:
        raise InputError(f"no cluster in {tree.root.resolve()}")
    status, separator = 0, ""
    for name in _with_progress(names):
        try:
            subject = inputs.of_cluster(tree, name)
            if parsed.diff or parsed.write:
                status = max(status, _Stored(parsed, subject, facts).run())
            else:
                sys.stdout.write(separator)
                status = max(status, _print(parsed, subject, facts))
                separator = "\n---\n\n" if parsed.output == "yaml" else ""
        except RefusedError as error:
            print(f"{name}:", file=sys.stderr)
            status = max(status, inputs.complain_about(error.findings))
    return status


def _with_progress(names: list[str]) -> Iterator[str]:
    """A bar on the terminal, unless results are printed there too."""
    if not sys.stderr.isatty() or sys.stdout.isatty() or len(names) < 10:
        yield from names
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(names, "clusters", console=Console(stderr=True), transient=True)


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
        self._path = f"{subject.cluster}/{layout.COMPLETED}"

    def run(self) -> int:
        inferred = infer(self._subject.documents, self._facts)
        inputs.complain_about(inferred.warnings)
        stored = self._stored()
        old = self._readable(stored)
        new = writer.to_yaml(_with_digests(inferred.cluster, old) if old else inferred.cluster)
        self._compare_versions()
        changed = self._show(writer.to_yaml(old) if old else "", new)
        if not self._parsed.write:
            return 1 if changed else 0
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
        path = f"{self._subject.cluster}/{layout.KOPS_VERSION}"
        if layout.KOPS_VERSION not in self._workspace.list(self._subject.cluster):
            return
        applied = self._workspace.read(path).decode("utf-8", "replace").strip()
        if applied.split(".")[:2] != KOPS_VERSION.split(".")[:2]:
            print(
                f"kops {applied} applied this cluster last; inferred is what kops {KOPS_VERSION} would make of it",
                file=sys.stderr,
            )

    def _stored(self) -> bytes | None:
        names = self._workspace.list(self._subject.cluster)
        return self._workspace.read(self._path) if layout.COMPLETED in names else None

    def _readable(self, stored: bytes | None) -> dict[str, Any] | None:
        """The stored completion, also the one of an old release."""
        if stored is not None:
            return read_one(stored, self._path).data
        old = f"{self._subject.cluster}/{layout.COMPLETED_OLD}"
        if layout.COMPLETED_OLD in self._workspace.list(self._subject.cluster):
            print(f"comparing with {old}, of kops 1.21 or earlier", file=sys.stderr)
            return read_one(self._workspace.read(old), old).data
        print(f"{self._path} is not there yet", file=sys.stderr)
        return None

    def _show(self, old: str, new: str) -> bool:
        lines = list(
            difflib.unified_diff(
                old.splitlines(), new.splitlines(), f"{self._path} (stored)", f"{self._path} (inferred)", lineterm=""
            )
        )
        show_diff(lines)
        return bool(lines)

    def _write(self, data: bytes, stored: bytes | None) -> None:
        self._authors_unchanged("nothing was written")
        self._workspace.write(self._path, data, expected=stored)
        try:
            self._authors_unchanged("the completion was put back")
        except ConflictError:
            self._undo(data, stored)
            raise
        print(f"{self._path} is written", file=sys.stderr)

    def _undo(self, data: bytes, stored: bytes | None) -> None:
        if stored is not None:
            self._workspace.write(self._path, stored, expected=data)
        else:
            self._workspace.remove(self._path, expected=data)

    def _authors_unchanged(self, outcome: str) -> None:
        for path, read in self._subject.sources.items():
            if self._workspace.read(path) != read:
                raise ConflictError("put", self._path, f"{path} was changed meanwhile; {outcome}")


def show_diff(lines: list[str]) -> None:
    """Print a unified diff, coloured on a terminal."""
    colours = {"+": "32", "-": "31", "@": "36"}
    colour = sys.stdout.isatty()
    for number, line in enumerate(lines):
        code = "1" if number < 2 else colours.get(line[:1])
        print(f"\x1b[{code}m{line}\x1b[0m" if colour and code else line)


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
