"""Which documents does a command work on?

They come from files (`-f`), or from a cluster of a tree: `config`, the groups and the additional objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kopsfs.cli.findings import as_text
from kopsfs.cli.outside import read_file
from kopsfs.cli.trees import Tree, find_tree
from kopsfs.cli.workspace import Directory, Workspace
from kopsfs.errors import InputError
from kopsfs.spec import layout
from kopsfs.spec.document import Document, read
from kopsfs.spec.field import Finding
from kopsfs.spec.validation.manifest import Found


@dataclass(slots=True)
class Subject:
    """The documents of one cluster and where they are from.

    Attributes:
        cluster: the cluster's directory in the workspace; "" for files.
        sources: the author's files and their bytes, as read.
    """

    documents: list[Document]
    workspace: Workspace | None = None
    cluster: str = ""
    sources: dict[str, bytes] = field(default_factory=dict)


def _bytes_of(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else read_file(Path(path))


def subject_of(parsed: argparse.Namespace) -> Subject:
    """The documents a command line names.

    Raises:
        InputError: there are none, or they cannot be read.
        RefusedError: they are no YAML.
    """
    if parsed.filename:
        if parsed.subject:
            raise InputError("a cluster of a tree or -f FILE, not both")
        return _of_files(parsed.filename)
    try:
        tree, name = locate(parsed.subject, parsed.state)
        return of_cluster(tree, name)
    except OSError as error:  # a dead mount answers everything with ENOTCONN
        raise InputError(f"{error.filename or parsed.subject or '.'}: {error.strerror}") from error


def _of_files(paths: list[str]) -> Subject:
    documents: list[Document] = []
    for path in paths:
        if path != "-" and Path(path).is_dir():
            raise InputError(f"{path} is a directory; name the cluster instead of -f")
        documents += read(_bytes_of(path), path)
    if not documents:
        raise InputError(f"{', '.join(paths)}: no documents in it")
    return Subject(documents)


def locate(subject: str | None, state: str | None) -> tuple[Tree, str]:
    """The tree and the cluster's name in it, from a name or a directory.

    Raises:
        InputError: there is no such cluster.
    """
    if state is None:
        directory = Path(subject or ".").resolve()
        if (directory / layout.CONFIG).is_file():
            return Tree(directory.parent), directory.name
        if subject is not None and (subject in {".", ".."} or subject.startswith(("/", "./", "../"))):
            if not directory.is_dir():
                raise InputError(f"{subject} is no directory")
            raise InputError(f"{subject} is no cluster: it has no file {layout.CONFIG}")
    tree = find_tree(state)
    return tree, subject.strip("/") if subject else _only(tree)


def _only(tree: Tree) -> str:
    found = tree.clusters()
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"no cluster in {tree.root.resolve()}: no directory with a file {layout.CONFIG}")
    raise InputError(f"name the cluster: {', '.join(found[:9])}{' …' if len(found) > 9 else ''}")


def of_cluster(tree: Tree, name: str) -> Subject:
    """The author's documents of a cluster of a tree.

    Raises:
        InputError: they cannot be read.
        RefusedError: they are no YAML.
    """
    subject = Subject([], Directory(tree.root), name)
    for below, content in tree.manifest(name).items():
        path = f"{name}/{below}"
        subject.sources[path] = content
        subject.documents += read(content, path)
    return subject


def complain_about(findings: Iterable[Finding]) -> int:
    """Print findings for a person to stderr, each with the line it is about; returns 1."""
    for finding in findings:
        sys.stderr.write(as_text(Found(finding, "infer")))
    return 1
