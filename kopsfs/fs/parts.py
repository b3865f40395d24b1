"""Which parts make up one mounted store, and what was it told?

The daemon (or the CLI, where nothing is mounted) builds these once; every part of the file system
finds the others here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kopsfs.fs.committer import Committer
from kopsfs.fs.content import Content
from kopsfs.fs.journal import Journal
from kopsfs.fs.refresh import Refresh
from kopsfs.fs.seen import Seen
from kopsfs.fs.spool import SpoolDirectory
from kopsfs.fs.tree import Tree
from kopsfs.fs.writeback import Writeback
from kopsfs.store import Store


@dataclass(slots=True, eq=False, kw_only=True)
class Parts:
    """One store's file system, taken apart."""

    store: Store
    tree: Tree
    journal: Journal
    committer: Committer
    content: Content
    refresh: Refresh
    writeback: Writeback
    seen: Seen
    spool_directory: SpoolDirectory
    guard: Callable[[str, bytes | None, int, int], str]
    """(path, bytes if small, new size, size in the store or -1) → why the write is held, or empty."""
    findings: dict[str, list[str]]
    """What the guard found wrong with documents written here, by path."""
    uid: int
    gid: int
    umask: int
    read_only: bool
    write_through: bool
    fsync_journal: bool
    delete_delay_s: float
    size_max: int
    """The largest object the store takes, in bytes."""
