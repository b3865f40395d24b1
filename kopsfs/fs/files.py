"""What do open, read, write, flush, fsync and release do?

An open pins one version. A write goes to the inode's spool; `flush` (every close) makes it durable
in the journal; the upload starts when the last writable handle is released, or at fsync. Names and
their changes are `namespace.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

import trio

from kopsfs.errors import (
    DataError,
    IsDirectoryError,
    NoEntryError,
    NotFoundError,
    ReadOnlyError,
    StaleError,
    StoreError,
)
from kopsfs.fs.content import Blob, Content, LargeBlob
from kopsfs.fs.inode import Inode
from kopsfs.fs.journal import Attribute
from kopsfs.fs.names import is_secret
from kopsfs.fs.parts import Parts
from kopsfs.fs.spool import Generation, Spool
from kopsfs.fs.tree import version_of
from kopsfs.store.driver import ABSENT, Expected

log = logging.getLogger(__name__)

_TRIES: Final = 5
"""An object that changes faster than it can be read is ESTALE after so many GETs."""

Guard = Callable[[str, bytes | None, int, int], str]
"""(path, bytes if small, new size, size in the store or -1) → why the write must be held, or empty."""


class Handle:
    """One open."""

    __slots__ = ("append", "entries", "inode", "reads", "thread", "unread", "writes")

    def __init__(self, inode: Inode, flags: int, thread: int) -> None:
        mode = flags & os.O_ACCMODE
        self.inode = inode
        self.reads = mode in {os.O_RDONLY, os.O_RDWR}
        self.writes = mode in {os.O_WRONLY, os.O_RDWR} or bool(flags & (os.O_TRUNC | os.O_CREAT))
        """Or what it made or emptied is to be kept, as of open(2) with O_RDONLY | O_TRUNC."""
        self.append = bool(flags & os.O_APPEND)
        self.thread = thread
        self.unread = False
        """Open for both, and nothing was read yet: what it shows has not been seen."""
        self.entries: list[tuple[str, Inode]] = []
        """Of a directory: what it held when it was opened."""


class Files:
    """Open files. Every method that may wait says so; the rest are transactions."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.tree = parts.tree
        self.journal = parts.journal
        self.content: Content = parts.content
        self.handles: dict[int, Handle] = {}
        self._next_handle = 1

    # --- open ----------------------------------------------------------------------------------------------------------

    async def open(self, inode: Inode, flags: int, thread: int) -> tuple[int, bool]:
        """Open a file; returns (handle, may the kernel keep its pages).

        Raises IsDirectoryError, ReadOnlyError, StaleError (the kernel looks the name up again), DataError.
        Cost: 0 or 1 GET; where it is stale, 1 LIST or HEAD.
        """
        if inode.is_dir:
            raise IsDirectoryError(inode.name)
        flags &= ~os.O_CREAT  # it is there
        truncates = bool(flags & os.O_TRUNC)
        writes = truncates or flags & os.O_ACCMODE != os.O_RDONLY
        if writes:
            self.refuse_if_read_only(inode)
        if inode.info is not None and inode.spool is None and self.tree.linked(inode):
            await self.parts.refresh.file(inode, self._directory(inode))
            if not self.tree.linked(inode):
                raise StaleError(inode.name)
        if not truncates:
            self._fetch_neighbours(inode)
            await self.load(inode)
        keep = not inode.moved
        inode.moved = False
        if truncates and (inode.size or inode.spool is None):
            self.truncate(inode, 0)
        if writes and not inode.local:
            self._base_of(inode, thread, others=inode.writers)
        handle = self._opened(inode, flags, thread)
        if handle.reads and not truncates and inode.info is not None:
            handle.unread = writes
            if not writes:
                self._note_read(inode, thread)
        # Who may write is asked for every byte he reads: what he has read decides what his write is based on.
        return self.register(handle), keep and not handle.unread

    def open_new(self, inode: Inode, flags: int, thread: int) -> int:
        """The handle of a file that was just created."""
        handle = self._opened(inode, flags | os.O_CREAT, thread)
        self._base_of(inode, thread, others=0)
        return self.register(handle)

    def register(self, handle: Handle) -> int:
        """Number a handle, of a file or a directory."""
        number = self._next_handle
        self._next_handle += 1
        self.handles[number] = handle
        return number

    def _opened(self, inode: Inode, flags: int, thread: int) -> Handle:
        handle = Handle(inode, flags, thread)
        inode.opens += 1
        inode.writers += handle.writes
        return handle

    def refuse_if_read_only(self, inode: Inode) -> None:
        """Raises ReadOnlyError where nothing may be written."""
        if self.parts.read_only:
            raise ReadOnlyError(inode.name)
        if self.parts.writeback.read_only and not inode.local:
            raise ReadOnlyError(self.parts.writeback.read_only)

    def _base_of(self, inode: Inode, thread: int, *, others: int) -> None:
        """Remember what this process's writes are based on, if that is not what is shown.

        `others`: how many more have it open for writing; what the write of one of them is based on stays.
        """
        if not self.tree.linked(inode) or (others and inode.base is not None):
            return
        key = self.tree.key(inode)
        if self.journal.owed(key):
            return
        current: Expected = version_of(inode) or ABSENT
        base = self.parts.seen.base(key, thread, current)
        inode.base = base if base != current else None

    def _note_read(self, inode: Inode, thread: int) -> None:
        assert inode.info is not None
        self.parts.seen.read(self.tree.key(inode), thread, inode.info.version)

    def _fetch_neighbours(self, inode: Inode) -> None:
        """A secret is being read: what lies beside it is fetched at the same time, never before (promise 9)."""
        if inode.info is not None and inode.content is None and inode.spool is None and is_secret(inode.info.key):
            self.parts.refresh.secret_was_read(inode.info.key)

    async def load(self, inode: Inode) -> None:
        """Have the bytes at hand. Raises DataError, StaleError. Cost: 0 or 1 GET."""
        if _at_hand(inode):
            return
        if inode.generation is not None:
            try:
                inode.spool = Spool.of(self.parts.spool_directory, inode.generation, size_max=self.parts.size_max)
            except FileNotFoundError:
                raise StaleError(inode.name) from None  # unlinked before this open came
            return
        for _ in range(_TRIES):
            info = inode.info
            if info is None:
                raise NoEntryError(inode.name)
            asked = self.tree.ask()
            try:
                blob = await self.content.get(info)
            except NotFoundError:
                self.parts.refresh.distrust(info.key)
                raise StaleError(inode.name) from None
            except StoreError as exc:
                raise DataError(str(exc)) from exc
            if _at_hand(inode):
                blob.close()
                return  # somebody else was faster
            if inode.info is info and blob.info.version == info.version:
                inode.content = blob
                return
            blob.close()
            if inode.info is info:
                self.parts.refresh.learn(blob.info, asked)
            if not self.tree.linked(inode):
                raise StaleError(inode.name)
        raise StaleError(inode.name)

    # --- read and write ------------------------------------------------------------------------------------------------

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of the version the open pinned, with what was written here since. Cost: 0."""
        handle = self.handles[number]
        inode = handle.inode
        if handle.unread and inode.info is not None and not (inode.spool is not None and inode.spool.changed):
            handle.unread = False
            self._note_read(inode, handle.thread)
            if not inode.local:
                self._base_of(inode, handle.thread, others=inode.writers - 1)
        if inode.spool is not None:
            return inode.spool.read(offset, size)
        if inode.content is None:
            await self.load(inode)
            return await self.read(number, offset, size)
        blob: Blob = inode.content
        try:
            return await blob.read(offset, size)
        except StoreError as exc:
            if inode.content is blob or not _at_hand(inode):
                raise DataError(str(exc)) from exc
        return await self.read(number, offset, size)  # it was emptied or written to meanwhile

    async def write(self, number: int, offset: int, data: bytes) -> int:
        """Put bytes into the spool. Raises SpaceError, FileTooLargeError. Cost: 0."""
        handle = self.handles[number]
        inode = handle.inode
        if inode.spool is None:
            await self.begin(inode)
        spool = inode.spool
        assert spool is not None
        written = spool.write(spool.size if handle.append else offset, data)
        self.written(inode)
        return written

    def written(self, inode: Inode) -> None:
        """The bytes changed here, now."""
        now = self.tree.now_ns()
        inode.mtime_ns = inode.ctime_ns = max(now, inode.mtime_ns + 1) if now < inode.mtime_ns + 1 else now
        self.tree.bump(inode)

    async def begin(self, inode: Inode) -> None:
        """Give the inode a spool with its present bytes. Raises StaleError, DataError, SpaceError. Cost: 0 or 1 GET."""
        if inode.spool is not None:
            return
        linked = self.tree.linked(inode)
        inode.opens += 1  # a version that comes meanwhile gets an inode of its own: these bytes are not of it
        try:
            await self.load(inode)
            if inode.spool is None:
                assert inode.content is not None
                await self._fill(inode, inode.content)
        finally:
            inode.opens -= 1
            if inode.content is not None and (inode.spool is not None or not inode.opens):
                inode.content.close()
                inode.content = None
            self.tree.closed(inode)
        if linked and not inode.opens and not self.tree.linked(inode):
            raise StaleError(inode.name)

    async def _fill(self, inode: Inode, blob: Blob) -> None:
        """Make the spool, unless somebody else has when the bytes are here."""
        generation: Generation
        if isinstance(blob, LargeBlob):
            path = self.parts.spool_directory.new_path()
            self.parts.spool_directory.demand(blob.info.size)
            try:
                await blob.copy_to(path)
            except StoreError as exc:
                if inode.spool is not None:
                    return
                raise DataError(str(exc)) from exc
            if inode.spool is not None:
                path.unlink()
                return
            generation = Generation(None, path, blob.info.size)
        else:
            data = await blob.whole()
            assert data is not None
            generation = Generation(data, None, len(data))
        inode.spool = Spool.of(self.parts.spool_directory, generation, size_max=self.parts.size_max, owned=True)

    def truncate(self, inode: Inode, size: int) -> None:
        """Cut or grow; the bytes must be at hand unless `size` is 0."""
        if inode.spool is None:
            assert size == 0
            inode.spool = Spool(self.parts.spool_directory, size_max=self.parts.size_max)
            if inode.content is not None:
                inode.content.close()
                inode.content = None
        inode.spool.truncate(size)
        self.written(inode)

    # --- durability ------------------------------------------------------------------------------------------------------

    async def flush(self, number: int) -> None:
        """close(2): what was written is durable here when this returns. Cost: 0; in write-through 1 PUT."""
        handle = self.handles[number]
        if handle.writes:
            await self.commit(handle.inode)
            if self.parts.write_through and not handle.inode.local and self.tree.linked(handle.inode):
                with trio.fail_after(self.content.request_budget_s):
                    await self.parts.writeback.settled(self.tree.key(handle.inode))

    async def commit(self, inode: Inode) -> None:
        """Journal the bytes if they changed, and wait until that is on disk, also if another handle began it."""
        spool = inode.spool
        changed = spool is not None and spool.changed and self.enter(inode)
        await self.parts.committer.commit()
        if changed:
            self.parts.writeback.poke(self.tree.key(inode))

    def enter(self, inode: Inode) -> bool:
        """Owe the present bytes (or keep them, if the file is local); False if they belong to no name."""
        spool = inode.spool
        assert spool is not None
        key = self.tree.key(inode)
        if not key:
            return False  # unlinked here: nobody can ever see it again
        generation = spool.freeze()
        if inode.local:
            self.journal.keep_node(key, "file", generation=generation)
            inode.generation = generation
            self.save_attributes(inode)
            return True
        base: Expected = inode.base or version_of(inode) or ABSENT
        in_store = inode.info.size if inode.info is not None else -1
        held = self.parts.guard(key, generation.data, generation.size, in_store)
        if held:
            log.warning("op=write key=%s held: %s", key, held)
        ready = self.parts.write_through or inode.writers == 0
        self.journal.put(key, generation, base, ready=ready, held=held)
        inode.base = None
        self.parts.writeback.writers[key] = inode
        self.save_attributes(inode)
        self.tree.bump(inode)
        return True

    def save_attributes(self, inode: Inode) -> None:
        """Remember mode, owner, times and xattrs under the present name."""
        path = self.tree.path(inode)
        if not path or not self.tree.linked(inode):
            return
        self.journal.set_attribute(
            path,
            Attribute(
                inode.mode,
                inode.uid,
                inode.gid,
                inode.atime_ns,
                inode.mtime_ns,
                version_of(inode),
                dict(inode.xattrs) if inode.xattrs else None,
            ),
        )

    async def fsync(self, number: int) -> None:
        """The store has it when this returns (the journal, of a local file or with --fsync=journal).

        Raises StaleError, HeldError, ReadOnlyError, TimedOutError. Cost: 1 PUT if something is owed.
        """
        inode = self.handles[number].inode
        await self.commit(inode)
        key = self.tree.key(inode)
        if inode.local or not key or self.parts.fsync_journal:
            return
        await self.parts.writeback.settled(key)

    async def release(self, number: int) -> None:
        """The last reference to this open is gone: what it wrote may be uploaded."""
        handle = self.handles.pop(number)
        inode = handle.inode
        try:
            if handle.writes:
                inode.writers -= 1
                # A process that dies without close(2): flush came before, but writes may follow.
                await self.commit(inode)
        finally:
            if handle.writes:
                self._ready(inode)
            inode.opens -= 1
            if inode.opens == 0:
                self.let_go(inode)
            self.tree.closed(inode)

    def _ready(self, inode: Inode) -> None:
        if inode.writers:
            return
        key = self.tree.key(inode)
        for intent in self.journal.owed(key):
            intent.ready = True
        self.parts.writeback.poke(key)

    def let_go(self, inode: Inode) -> None:
        """Nobody has it open: bytes that the store or the journal has need not be at hand."""
        if inode.content is not None:
            inode.content.close()
            inode.content = None
        spool = inode.spool
        if spool is None or spool.changed:
            inode.base = None if spool is None else inode.base  # opened for writing, and nothing was written
            return
        if inode.local or (inode.info is not None and not self.journal.owed(self.tree.key(inode))):
            spool.close()
            inode.spool = None

    def _directory(self, inode: Inode) -> str:
        parent = inode.parent
        assert parent is not None
        return self.tree.path(parent)


def _at_hand(inode: Inode) -> bool:
    return inode.spool is not None or inode.content is not None
