"""What does a system call do?

One method per request of the kernel, in terms of inodes, names and handles; no pyfuse3 here, so the
same file system serves the mount, the tests and the CLI. Methods raise `FsError` and `StoreError`
and say what they cost in requests. Nothing here has a time limit: the caller's cancel scope is it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kopsfs.errors import (
    ExistsError,
    FsError,
    NameTooLongError,
    NoAttributeError,
    NoEntryError,
    NotDirectoryError,
    NotPermittedError,
    NotSupportedError,
    ReadOnlyError,
)
from kopsfs.fs import names
from kopsfs.fs.files import Files, Handle
from kopsfs.fs.inode import Inode
from kopsfs.fs.journal import Intent
from kopsfs.fs.namespace import Caller, Namespace
from kopsfs.fs.parts import Parts
from kopsfs.fs.spool import Spool

LOCAL_LEASE_S: Final = 60.0
"""Nobody but us changes what lives only here, nor the attributes of a directory; both are pushed."""

XATTR_BYTES_MAX: Final = 65536
"""XATTR_SIZE_MAX (include/uapi/linux/limits.h)."""

_OURS: Final = ("user.kopsfs.state", "user.kopsfs.version", "user.kopsfs.key", "user.kopsfs.findings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What stat(2) shows, and for how long the kernel may say so without asking."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    lease_s: float


class Filesystem:
    """One mounted store."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.tree = parts.tree
        self.files = Files(parts)
        self.namespace = Namespace(parts, self.files)
        self.journal = parts.journal
        parts.tree.owed = lambda path: bool(parts.journal.owed(path))
        parts.refresh.keep_directory = lambda path: path in parts.journal.nodes
        parts.refresh.owes_below = lambda prefix: any(path.startswith(prefix) for path in parts.journal.intents)

    # --- beginning ---------------------------------------------------------------------------------------------------------

    def restore(self) -> int:
        """Take over what the cache remembers and what the journal holds; how many intents that are. Cost: 0.

        Semantics: a name moved to a backup name comes back when its new version never came, for a crash between the two
        must not leave the store without the file (vim's save; design §5, *rename*).
        """
        for intent in list(self.journal.all()):
            if intent.op == "delete" and intent.due and self.journal.get(intent.id) is intent:
                self.journal.withdraw(intent)
        self.parts.refresh.restore()
        for path in sorted(self.journal.nodes):
            self._restore_node(path)
        for path, owed in list(self.journal.intents.items()):
            last = owed[-1]
            if last.generation is not None:
                self._restore_owed(path)
        return self.parts.writeback.replay()

    def _restore_node(self, path: str) -> None:
        node = self.journal.nodes[path]
        inode = self.tree.find(path)
        if inode is not None and inode.is_dir != (node.kind == "dir"):
            if node.kind != "dir":
                return  # a directory of its name has been stored since; the bytes stay in the journal
            inode, _ = self.tree.ensure_directory(path)
        elif inode is not None and inode.info is not None:
            self.tree.expel(inode)  # what lives here hides what is stored, as it did before the restart
            inode = None
        if inode is None:
            parent = self._parent_of(path)
            if parent is None:
                return
            inode = self.tree.make(parent, path.rpartition("/")[2], node.kind)
            inode.local = node.kind != "dir" or parent.local or names.stays_local(inode.name, exclusive=False)
        inode.target, inode.generation = node.target, node.generation
        self._dress(inode, path)

    def _restore_owed(self, path: str) -> None:
        last = self.journal.owed(path)[-1]
        assert last.generation is not None
        parent = self._parent_of(path)
        if parent is None:
            return
        inode = self.tree.ensure_file(parent, path)
        if inode is None:
            return
        inode.spool = Spool.of(self.parts.spool_directory, last.generation, size_max=self.parts.size_max)
        self.parts.writeback.writers[path] = inode
        self._dress(inode, self.tree.path(inode))

    def adopt(self, path: str) -> None:
        """The journal owes new bytes of this path that no handle wrote: show them."""
        inode = self.tree.file_at(path)
        if inode is not None and inode.opens:
            return
        if inode is not None and inode.spool is not None:
            inode.spool.close()
            inode.spool = None
        self._restore_owed(path)
        inode = self.tree.file_at(path)
        if inode is not None:
            inode.moved = True
            self.files.written(inode)

    def abandon(self, intent: Intent) -> None:
        """A held write is not wanted: the name shows what the store has."""
        path = intent.path
        self.parts.writeback.withdraw(intent)
        inode = self.parts.writeback.writers.pop(path, None)
        if inode is not None and inode.opens == 0 and inode.spool is not None:
            inode.spool.close()
            inode.spool = None
            inode.moved = True
            if inode.info is None and inode.parent is not None:
                self.parts.refresh.tell([self.tree.expel(inode)])
        self.parts.refresh.distrust(path)

    def _parent_of(self, path: str) -> Inode | None:
        directory = path.rpartition("/")[0]
        parent = self.tree.find(directory)
        if parent is None:
            parent, _ = self.tree.ensure_directory(directory)
        return parent if parent.is_dir else None

    def _dress(self, inode: Inode, path: str) -> None:
        known = self.journal.attributes.get(path)
        if known is None:
            return
        inode.mode, inode.uid, inode.gid = known.mode, known.uid, known.gid
        inode.xattrs = dict(known.xattrs) if known.xattrs else None
        if known.mtime_ns is not None:
            inode.mtime_ns = inode.ctime_ns = known.mtime_ns
        if known.atime_ns is not None:
            inode.atime_ns = known.atime_ns

    # --- names and attributes ----------------------------------------------------------------------------------------------

    async def lookup(self, parent_ino: int, name: bytes) -> Inode:
        """The inode of a name; the caller remembers it. Raises NoEntryError. Cost: 0 while fresh, else 1 LIST or HEAD."""
        parent = self._directory(parent_ino)
        text = names.from_kernel(name)
        inode = self.tree.child(parent, text)
        if inode is not None and (inode.local or (inode.info is None and not inode.is_dir)):
            return inode
        if parent.local:
            raise NoEntryError(text)
        path = self.tree.path(parent)
        if inode is not None and inode.is_dir:
            if self._lives_here(inode, f"{path}/{text}" if path else text):
                return inode
            await self.parts.refresh.directory(path)
        elif inode is not None:
            await self.parts.refresh.file(inode, path)
        elif not self.journal.owed(f"{path}/{text}" if path else text):
            await self.parts.refresh.directory(path)
        inode = self.tree.child(parent, text)
        if inode is None:
            inode = self._expected(parent, path, text)
        if inode is None:
            raise NoEntryError(text)
        return inode

    def _lives_here(self, directory: Inode, path: str) -> bool:
        """Is a directory's being there not for another client to end, or not to be seen by one LIST? Promise 4."""
        if directory.expected or path in self.journal.nodes:
            return True
        return not self.parts.refresh.shows_vanished(path.rpartition("/")[0])

    def _expected(self, parent: Inode, path: str, name: str) -> Inode | None:
        """A directory every cluster has answers even when it is empty (design §7)."""
        full = f"{path}/{name}" if path else name
        if not names.is_expected_directory(full):
            return None
        top = self.tree.find(full.partition("/")[0])
        if top is None or self.tree.path(top) in self.journal.nodes:
            return None
        config = (top.children or {}).get("config")
        if config is None or config.info is None:
            return None
        return self.tree.expect(parent, name)

    def negative_lease(self, parent_ino: int) -> float:
        """How long the kernel may say that a name is not there."""
        parent = self.tree.get(parent_ino)
        return LOCAL_LEASE_S if parent.local else self.parts.refresh.lease(self.tree.path(parent))

    async def getattr(self, ino: int) -> Stat:
        """Cost: 0 while fresh, else 1 LIST or HEAD."""
        inode = self.tree.get(ino)
        if inode.info is not None and inode.spool is None and inode.opens == 0 and inode.parent is not None:
            await self.parts.refresh.file(inode, self.tree.path(inode.parent))
        return self.stat(inode)

    def stat(self, inode: Inode, lease_s: float | None = None) -> Stat:
        """What is known of it now; `lease_s` if the caller knows it, as readdir does. Cost: 0."""
        parts = self.parts
        mode = self.tree.mode(inode)
        if parts.umask and inode.mode is None:
            mode &= ~parts.umask
        return Stat(
            ino=inode.ino,
            mode=mode,
            nlink=(2 + inode.subdirs if inode.is_dir else 1) if self.tree.linked(inode) else 0,
            uid=parts.uid if inode.uid is None else inode.uid,
            gid=parts.gid if inode.gid is None else inode.gid,
            size=4096 if inode.is_dir else inode.size,
            atime_ns=inode.atime_ns,
            mtime_ns=inode.mtime_ns,
            ctime_ns=inode.ctime_ns,
            lease_s=self._lease(inode) if lease_s is None else lease_s,
        )

    def _lease(self, inode: Inode) -> float:
        if inode.local:
            return LOCAL_LEASE_S
        if inode.is_dir and inode.parent is not None and not self._lives_here(inode, path := self.tree.path(inode)):
            return self.parts.refresh.lease(path.rpartition("/")[0])
        if inode.info is None or inode.parent is None or inode.is_dir:
            return self.parts.refresh.max_staleness_s
        return self.parts.refresh.file_lease(inode, self.tree.path(inode.parent))

    async def setattr(
        self,
        ino: int,
        *,
        handle: int | None = None,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Stat:
        """chmod, chown, utimes and truncate. All but the size is remembered on this machine. Cost: 0; 1 GET to shorten."""
        inode = self.tree.get(ino)
        if self.parts.read_only:
            raise ReadOnlyError(inode.name)
        if size is not None:
            await self._resize(inode, size, handle)
        if mode is not None:
            inode.mode = stat.S_IMODE(mode)
        if uid is not None:
            inode.uid = uid
        if gid is not None:
            inode.gid = gid
        if atime_ns is not None:
            inode.atime_ns = atime_ns
        if mtime_ns is not None:
            inode.mtime_ns = mtime_ns
        if size is None:
            inode.ctime_ns = self.tree.now_ns()
        self.files.save_attributes(inode)
        self.parts.committer.wake()
        return self.stat(inode)

    async def _resize(self, inode: Inode, size: int, handle: int | None) -> None:
        self.files.refuse_if_read_only(inode)
        if size == 0:
            self.files.truncate(inode, 0)
        else:
            await self.files.begin(inode)
            self.files.truncate(inode, size)
        if handle is None and inode.writers == 0:
            await self.files.commit(inode)
            self._after_write(inode)
            if inode.opens == 0:
                self.files.let_go(inode)

    def _after_write(self, inode: Inode) -> None:
        """A write without a handle has ended: nobody will close it."""
        key = self.tree.key(inode)
        for intent in self.journal.owed(key):
            intent.ready = True
        self.parts.writeback.poke(key)

    def remember(self, inode: Inode) -> None:
        """The kernel has been told of it."""
        self.tree.remember(inode)

    def forget(self, ino: int, count: int) -> None:
        """The kernel gives references back."""
        self.tree.forget(ino, count)

    # --- directories -----------------------------------------------------------------------------------------------------------

    async def opendir(self, ino: int) -> int:
        """A handle on what the directory holds now. Cost: 0 while fresh, else the LISTs of its scope."""
        inode = self._directory(ino)
        if not inode.local and self.tree.linked(inode):
            await self.parts.refresh.directory(self.tree.path(inode))
        handle = Handle(inode, os.O_RDONLY, 0)
        inode.opens += 1
        number = self.files.register(handle)
        self.entries(number, rewind=True)
        return number

    def entries(self, handle: int, *, rewind: bool = False) -> Sequence[tuple[str, Inode]]:
        """Names and inodes in LIST order, as they were at opendir or the last rewind; some may be gone since."""
        opened = self.files.handles[handle]
        if rewind:
            opened.entries = [(n, c) for n, c in (opened.inode.children or {}).items() if not c.expected]
        return opened.entries

    def directory_of(self, handle: int) -> Inode:
        """The directory a handle was opened on."""
        return self.files.handles[handle].inode

    def releasedir(self, handle: int) -> None:
        """Cost: 0."""
        inode = self.files.handles.pop(handle).inode
        inode.opens -= 1
        self.tree.closed(inode)

    async def fsyncdir(self, handle: int) -> None:
        """Wait until every put, rename and deletion in this directory is settled. Raises as fsync does."""
        inode = self.files.handles[handle].inode
        await self.parts.committer.commit()
        if inode.local or self.parts.fsync_journal:
            return
        top = self.tree.path(inode)
        failure: Exception | None = None
        for path in [p for p in self.journal.intents if p.rpartition("/")[0] == top]:
            try:
                await self.parts.writeback.settled(path)
            except (FsError, OSError) as exc:
                failure = exc
        if failure is not None:
            raise failure

    # --- making and removing -------------------------------------------------------------------------------------------------

    async def create(
        self, parent_ino: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Inode, int, bool]:
        """Create and open; returns (inode, handle, may the kernel keep its pages).

        Where somebody else was faster, open theirs (EEXIST with O_EXCL). Cost: 0, or that of an open.
        """
        parent = self._directory(parent_ino)
        text = names.from_kernel(name)
        existing = self.tree.child(parent, text)
        if existing is not None:
            if flags & os.O_EXCL:
                raise ExistsError(text)
            return existing, *await self.files.open(existing, flags, caller.thread)
        inode = self.namespace.create(parent, text, mode, caller, exclusive=bool(flags & os.O_EXCL))
        return inode, self.files.open_new(inode, flags, caller.thread), True

    async def mknod(self, parent_ino: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """Regular files only. Raises NotPermittedError for devices, pipes and sockets. Cost: 0."""
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            raise NotPermittedError("device nodes, pipes and sockets")
        parent = self._directory(parent_ino)
        inode = self.namespace.create(parent, names.from_kernel(name), mode, caller, exclusive=True)
        await self.files.commit(inode)
        self._after_write(inode)
        return inode

    async def mkdir(self, parent_ino: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """Cost: 0."""
        return await self.namespace.mkdir(self._directory(parent_ino), names.from_kernel(name), mode, caller)

    async def symlink(self, parent_ino: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """Cost: 0."""
        if len(target) > 4095:
            raise NameTooLongError(target)
        text = target.decode("utf-8", "surrogateescape")
        return await self.namespace.symlink(self._directory(parent_ino), names.from_kernel(name), text, caller)

    def readlink(self, ino: int) -> bytes:
        """Cost: 0."""
        inode = self.tree.get(ino)
        assert inode.target is not None
        return inode.target.encode("utf-8", "surrogateescape")

    async def unlink(self, parent_ino: int, name: bytes, caller: Caller) -> None:
        """Cost: 1 DELETE later."""
        await self.namespace.unlink(self._directory(parent_ino), names.from_kernel(name), caller)

    async def rmdir(self, parent_ino: int, name: bytes) -> None:
        """Cost: 0; the LISTs of its scope if nobody has looked into it yet."""
        parent, text = self._directory(parent_ino), names.from_kernel(name)
        inode = self.tree.child(parent, text)
        if inode is not None and inode.is_dir and not inode.local and not inode.children:
            await self.parts.refresh.directory(self.tree.path(inode))
        await self.namespace.rmdir(parent, text)

    async def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        """Cost: 1 PUT, and 1 DELETE if the old name was stored."""
        await self.namespace.rename(
            self._directory(old_parent),
            names.from_kernel(old_name),
            self._directory(new_parent),
            names.from_kernel(new_name),
            flags,
            caller,
        )

    # --- extended attributes ---------------------------------------------------------------------------------------------------

    def getxattr(self, ino: int, name: str) -> bytes:
        """`user.*` as set here; `user.kopsfs.*` answer what a script asks. Raises NoAttributeError. Cost: 0."""
        inode = self.tree.get(ino)
        if name in _OURS and inode.kind != "link":
            return self._own_xattr(inode, name)
        if inode.xattrs is None or name not in inode.xattrs:
            raise NoAttributeError(name)
        return inode.xattrs[name]

    def _own_xattr(self, inode: Inode, name: str) -> bytes:
        path = self.tree.path(inode)
        if name == "user.kopsfs.key":
            return (self.tree.prefix + self.tree.key(inode)).encode()
        if name == "user.kopsfs.version":
            if inode.info is None:
                raise NoAttributeError(name)
            return inode.info.version.encode()
        if name == "user.kopsfs.findings":
            return "\n".join(self.parts.findings.get(path, ())).encode()
        owed = self.journal.owed(self.tree.key(inode))
        if inode.local:
            return b"local"
        if any(i.held for i in owed):
            return b"held"
        if owed or (inode.spool is not None and inode.spool.changed):
            return b"pending"
        if self.parts.refresh.lease(path.rpartition("/")[0]) <= 0:
            return b"stale"
        return b"stored"

    async def setxattr(self, ino: int, name: str, value: bytes, flags: int = 0) -> None:
        """Remembered on this machine. Cost: 0."""
        inode = self.tree.get(ino)
        if self.parts.read_only:
            raise ReadOnlyError(name)
        if not name.startswith("user.") or inode.kind == "link":
            raise NotSupportedError(name)
        if name.startswith("user.kopsfs."):
            raise NotPermittedError(name)
        if len(value) > XATTR_BYTES_MAX:
            raise NotSupportedError(name)
        present = inode.xattrs is not None and name in inode.xattrs
        if flags & os.XATTR_CREATE and present:
            raise ExistsError(name)
        if flags & os.XATTR_REPLACE and not present:
            raise NoAttributeError(name)
        inode.xattrs = {**(inode.xattrs or {}), name: bytes(value)}
        self._attributes_changed(inode)

    async def removexattr(self, ino: int, name: str) -> None:
        """Raises NoAttributeError. Cost: 0."""
        inode = self.tree.get(ino)
        if inode.xattrs is None or name not in inode.xattrs:
            raise NoAttributeError(name)
        inode.xattrs = {k: v for k, v in inode.xattrs.items() if k != name} or None
        self._attributes_changed(inode)

    def listxattr(self, ino: int) -> list[str]:
        """Names set here; `user.kopsfs.*` are not listed, so that `cp -a` does not copy them. Cost: 0."""
        return list(self.tree.get(ino).xattrs or {})

    def _attributes_changed(self, inode: Inode) -> None:
        inode.ctime_ns = self.tree.now_ns()
        self.files.save_attributes(inode)
        self.parts.committer.wake()

    # --- inside ------------------------------------------------------------------------------------------------------------

    def _directory(self, ino: int) -> Inode:
        inode = self.tree.get(ino)
        if not inode.is_dir:
            raise NotDirectoryError(inode.name)
        return inode

    def statfs(self) -> tuple[int, int]:
        """(bytes free on the state directory's file system, files in the tree). Cost: 0."""
        info = os.statvfs(self.journal.directory)
        return info.f_bavail * info.f_frsize, len(self.tree.inodes)
