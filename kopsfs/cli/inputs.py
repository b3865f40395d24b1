"""Which documents does a command work on?

They come from files (`-f`), or from a cluster of a tree: `config`, the groups and the additional objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kopsfs.cli.findings import as_text
from kopsfs.cli.outside import read_file
from kopsfs.cli.program import UsageError
from kopsfs.cli.trees import Trees
from kopsfs.cli.workspace import Workspace, is_document
from kopsfs.errors import InputError
from kopsfs.spec.document import Document, read
from kopsfs.spec.field import Finding
from kopsfs.spec.validation.manifest import Found


@dataclass(slots=True)
class Subject:
    """The documents of one cluster and where they are from.

    Attributes:
        cluster: the cluster's directory in the workspace; "" for files.
        manifest: the author's files below the cluster and their bytes, as read.
    """

    documents: list[Document]
    workspace: Workspace | None = None
    cluster: str = ""
    manifest: dict[str, bytes] = field(default_factory=dict)


def _bytes_of(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else read_file(Path(path))


def subject_of(parsed: argparse.Namespace, trees: Trees, also: Collection[str] = ()) -> Subject:
    """The documents a command line names; `also` is what else is going to be read of a cluster.

    Raises:
        InputError, StoreError: there are none, or they cannot be read.
        RefusedError: they are no YAML.
    """
    if parsed.filename:
        if parsed.subject:
            raise UsageError("a cluster of a state store or -f FILE, not both")
        return _of_files(parsed.filename)
    tree, name = trees.locate(parsed.subject)
    tree.ahead([name], lambda path: path in also or is_document(path))
    return of_cluster(tree, name)


def _of_files(paths: list[str]) -> Subject:
    documents: list[Document] = []
    for path in paths:
        if path != "-" and Path(path).is_dir():
            raise InputError(f"{path} is a directory; name the cluster instead of -f")
        documents += read(_bytes_of(path), path)
    if not documents:
        raise InputError(f"{', '.join(paths)}: no documents in it")
    return Subject(documents)


def of_cluster(tree: Workspace, name: str) -> Subject:
    """The author's documents of a cluster of a tree.

    Raises:
        InputError, StoreError: they cannot be read.
        RefusedError: they are no YAML.
    """
    subject = Subject([], tree, name, tree.manifest(name))
    for below, content in subject.manifest.items():
        subject.documents += read(content, f"{name}/{below}")
    return subject


def complain_about(findings: Iterable[Finding]) -> int:
    """Print findings for a person to stderr, each with the line it is about; returns 1."""
    for finding in findings:
        sys.stderr.write(as_text(Found(finding, "infer")))
    return 1
