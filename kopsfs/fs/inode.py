"""What is one file, directory or symlink, and what can happen to its name elsewhere?"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final, Literal, NewType

from typing_extensions import override

from kopsfs.fs.content import Blob
from kopsfs.fs.spool import Generation, Spool
from kopsfs.store.driver import Expected, Key, ObjectInfo

Ino = NewType("Ino", int)
ROOT: Final = Ino(1)
"""FUSE_ROOT_ID (include/uapi/linux/fuse.h)."""

Kind = Literal["file", "dir", "link"]
FORMAT: Final = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}


class Inode:
    """One file, directory or symlink."""

    __slots__ = (
        "asked", "atime_ns", "base", "base_path", "children", "content", "ctime_ns", "expected", "generation",
        "gid", "info", "ino", "key", "kind",
        "local", "lookups", "mode", "moved", "mtime_ns", "name", "opens", "parent", "serial", "spool", "subdirs", "target",
        "uid", "writers", "xattrs",
    )  # fmt: skip

    def __init__(self, ino: Ino, kind: Kind, now_ns: int) -> None:
        self.ino = ino
        self.kind = kind
        self.parent: Inode | None = None
        """None for the root and for what has no name any more."""
        self.name = ""
        self.key: Key | None = None
        """Set only where the key is not the path: an object shadowed by a directory."""
        self.children: dict[str, Inode] | None = {} if kind == "dir" else None
        """In LIST order, then in the order things were made here."""
        self.subdirs = 0
        self.info: ObjectInfo | None = None
        """What the store has, or None where it has nothing or we owe it something else."""
        self.local = False
        """Lives only on this machine."""
        self.mode: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.mtime_ns = self.atime_ns = self.ctime_ns = now_ns
        self.xattrs: dict[str, bytes] | None = None
        self.target: str | None = None
        self.spool: Spool | None = None
        """Bytes written here; they go before everything the store says."""
        self.generation: Generation | None = None
        """Of a local file: the bytes the journal keeps of it."""
        self.content: Blob | None = None
        """Bytes of `info`, held while somebody has the inode open."""
        self.lookups = 0
        """References the kernel holds (nlookup)."""
        self.opens = 0
        self.writers = 0
        self.serial = 0
        """The tree's serial when something here last changed or was learnt: an answer asked for before has no say."""
        self.asked = 0
        """Number of the question whose answer it shows; of what was done here the same as `serial`."""
        self.moved = False
        """A newer version was taken over in place since the last open: the kernel may have pages of the old one."""
        self.expected = False
        """A directory that is here only because every cluster has it: answers, but is not listed."""
        self.base: Expected | None = None
        """What the next write expects in the store, where that is not the version shown (promise 3)."""
        self.base_path: str | None = None
        """Of a superseded inode: where its writes belong."""

    @property
    def is_dir(self) -> bool:
        return self.children is not None

    @property
    def size(self) -> int:
        """In bytes, as stat shows it."""
        if self.spool is not None:
            return self.spool.size
        if self.target is not None:
            return len(self.target.encode("utf-8", "surrogateescape"))
        if self.generation is not None:
            return self.generation.size
        return self.info.size if self.info is not None else 0

    @override
    def __repr__(self) -> str:
        return f"<{self.kind} {self.ino} {self.name!r}>"


@dataclass(frozen=True, slots=True)
class Change:
    """Something another client did, as the tree took it over."""

    kind: Literal["create", "modify", "delete"]
    parent: Inode
    name: str
    inode: Inode
    path: str
    """Where it happened, as of then."""
    replaced: Inode | None = None
    """The superseded inode, where handles kept it alive."""
