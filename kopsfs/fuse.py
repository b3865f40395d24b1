"""How does the kernel ask, and how is it told?

A thin adapter: pyfuse3's requests become calls of `fs.filesystem`, its exceptions become numbers
(`ERRNO`, the one table), and what other clients of the store did becomes invalidations. Nothing is
decided here. Every handler is wrapped: an exception that is not a `FUSEError` would end the mount.

Rules that this file keeps (design §6, measured in fuse-peers.md §5.4): entries and data are
invalidated from a thread of their own, never from a handler or the event loop (permanent D state);
attributes alone may be invalidated inline. pyfuse3 reads /dev/fuse blocking and with the GIL held,
and a request whose client was killed leaves it there: a timer signal gets it out.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData
from typing_extensions import override

from kopsfs import echo, errors, gate
from kopsfs.fs.filesystem import LOCAL_LEASE_S, Filesystem, Stat
from kopsfs.fs.inode import Change, Inode
from kopsfs.fs.namespace import Caller
from kopsfs.mounts import connection, mount_at

log = logging.getLogger(__name__)

ERRNO: Final[dict[type[Exception], int]] = {
    errors.NotFoundError: errno.ENOENT,
    errors.ConflictError: errno.ESTALE,
    errors.DeniedError: errno.EACCES,
    errors.RefusedError: errno.EACCES,
    errors.InvalidKeyError: errno.EINVAL,
    errors.OccupiedError: errno.EEXIST,
    errors.TooLargeError: errno.EFBIG,
    errors.QuotaError: errno.EDQUOT,
    errors.UnsupportedError: errno.EOPNOTSUPP,
    errors.CorruptError: errno.EIO,
    errors.StoreGoneError: errno.EIO,
    errors.TransientError: errno.EIO,
    errors.StoreDownError: errno.ETIMEDOUT,
    errors.StoreError: errno.EIO,
    errors.NoEntryError: errno.ENOENT,
    errors.ExistsError: errno.EEXIST,
    errors.NotDirectoryError: errno.ENOTDIR,
    errors.IsDirectoryError: errno.EISDIR,
    errors.NotEmptyError: errno.ENOTEMPTY,
    errors.BadNameError: errno.EINVAL,
    errors.EncodingError: errno.EILSEQ,
    errors.NameTooLongError: errno.ENAMETOOLONG,
    errors.StaleError: errno.ESTALE,
    errors.CrossDeviceError: errno.EXDEV,
    errors.ReadOnlyError: errno.EROFS,
    errors.NotPermittedError: errno.EPERM,
    errors.HeldError: errno.EINVAL,
    errors.SpaceError: errno.ENOSPC,
    errors.FileTooLargeError: errno.EFBIG,
    errors.NoAttributeError: errno.ENODATA,
    errors.NotSupportedError: errno.EOPNOTSUPP,
    errors.AccessError: errno.EACCES,
    errors.TimedOutError: errno.ETIMEDOUT,
    errors.DataError: errno.EIO,
    errors.JournalError: errno.EIO,
    trio.TooSlowError: errno.ETIMEDOUT,
}
"""What a program is told; the nearest class in the MRO counts."""

MAX_TASKS: Final = 5000
"""At pyfuse3's default of 99 (or at any other number), as many stuck opens freeze what is cached (fuse-peers.md §5.4)."""
MAX_BACKGROUND: Final = 256
"""The kernel's 12 caps reads of files over one page."""
_UNFREEZE_S: Final = 0.25

P = ParamSpec("P")
R = TypeVar("R")
_Handler = Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]


def errno_of(exc: BaseException) -> int | None:
    """The number of an exception of ours; None for a bug."""
    for kind in type(exc).__mro__:
        number = ERRNO.get(kind)
        if number is not None:
            return number
    return exc.errno if isinstance(exc, OSError) and exc.errno else None


def _request(handler: _Handler[P, R]) -> _Handler[P, R]:
    """Bound by the request's budget; every exception becomes a number, a bug EIO and *unhealthy*."""

    @functools.wraps(handler)
    async def bounded(self: Operations, *args: P.args, **kwargs: P.kwargs) -> R:
        with trio.fail_after(self.request_budget_s):
            return await handler(self, *args, **kwargs)

    return _quick(cast("_Handler[P, R]", bounded))


def _quick(handler: _Handler[P, R]) -> _Handler[P, R]:
    """The same for requests that mostly are answered from memory.

    A cancel scope costs as much as the rest of such a request (measured: 20 % of a cold `grep -r`), so
    the budget is kept where they wait: in `fs.refresh` for listings and in `fs.content` for bytes.
    """
    name = handler.__name__

    @functools.wraps(handler)
    async def wrapped(self: Operations, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            if self.gate is not None:
                return await self.gate.drive(handler(self, *args, **kwargs))
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as exc:  # noqa: BLE001 - an exception that escapes ends the mount
            raise self.translated(name, exc) from None

    return cast("_Handler[P, R]", wrapped)


class Operations(pyfuse3.Operations):
    """The kernel's requests, one method each."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: Filesystem, echo: echo.Echo, *, request_budget_s: float) -> None:
        super().__init__()
        self.fs = filesystem
        self.echo = echo
        self.gate = gate.install()
        self.request_budget_s = request_budget_s
        self._echo_handles: dict[int, Inode] = {}
        self._echo_serial = 0
        self.bugs = 0
        """Requests that met a bug: `status` shows the mount as unhealthy."""

    def translated(self, name: str, exc: Exception) -> FUSEError:
        """Log what happened, once and at the right level; give the number."""
        number = errno_of(exc)
        if number is None:
            self.bugs += 1
            log.error("op=%s met a bug", name, exc_info=exc)
            return FUSEError(errno.EIO)
        log.debug("op=%s errno=%s err=%s", name, errno.errorcode.get(number, number), exc)
        return FUSEError(number)

    # --- names and attributes ----------------------------------------------------------------------------------------

    @override
    @_quick
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if ctx.pid == self.echo.pid:
            ticket = self.echo.about(parent_inode, _text(name))
            if ticket is not None and ticket.kind == "create":
                return _missing(0.0)
            ghost = self.echo.ghost(parent_inode, _text(name))
            if ghost is not None:
                return self._pretend(ghost, lease_s=0.0)
        try:
            inode = await self.fs.lookup(parent_inode, name)
        except errors.NoEntryError:
            return _missing(self.fs.negative_lease(parent_inode))
        self.fs.remember(inode)
        return self._entry(inode)

    @override
    @_quick
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            self.fs.forget(ino, count)

    @override
    @_quick
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        del ctx
        return _attributes(await self.fs.getattr(inode))

    @override
    @_request
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        if ctx.pid == self.echo.pid:
            return _attributes(self.fs.stat(self._ticket(self.echo.about_inode(inode)).inode))
        result = await self.fs.setattr(
            inode,
            handle=fh,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return _attributes(result)

    @override
    @_quick
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        del ctx
        return self.fs.readlink(inode)

    @override
    @_quick
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        del ctx
        free, files = self.fs.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = max(free // 4096, 1 << 28)
        data.f_bfree = data.f_bavail = free // 4096
        data.f_files = 1 << 31
        data.f_ffree = data.f_favail = (1 << 31) - files
        data.f_namemax = 255
        return data

    # --- making and removing -------------------------------------------------------------------------------------------

    @override
    @_request
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        if ctx.pid == self.echo.pid:
            ticket = self._ticket(self.echo.about(parent_inode, _text(name)))
            entry = self._enacted(ticket)
            return FileInfo(fh=self._echo_opened(ticket.inode), keep_cache=True), entry
        inode, handle, keep = await self.fs.create(parent_inode, name, mode, flags, _caller(ctx))
        self.fs.remember(inode)
        return FileInfo(fh=cast("Any", handle), keep_cache=keep), self._entry(inode)

    @override
    @_request
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        del rdev
        inode = await self.fs.mknod(parent_inode, name, mode, _caller(ctx))
        self.fs.remember(inode)
        return self._entry(inode)

    @override
    @_request
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        if ctx.pid == self.echo.pid:
            return self._enacted(self._ticket(self.echo.about(parent_inode, _text(name))))
        inode = await self.fs.mkdir(parent_inode, name, mode, _caller(ctx))
        self.fs.remember(inode)
        return self._entry(inode)

    @override
    @_request
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        inode = await self.fs.symlink(parent_inode, name, target, _caller(ctx))
        self.fs.remember(inode)
        return self._entry(inode)

    @override
    @_request
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        del inode, new_parent_inode, new_name, ctx
        raise errors.NotPermittedError("hard links")

    @override
    @_request
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        if ctx.pid == self.echo.pid:
            self._ticket(self.echo.about(parent_inode, _text(name))).used = True
            return
        await self.fs.unlink(parent_inode, name, _caller(ctx))

    @override
    @_request
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        if ctx.pid == self.echo.pid:
            self._ticket(self.echo.about(parent_inode, _text(name))).used = True
            return
        await self.fs.rmdir(parent_inode, name)

    @override
    @_request
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags & ~1:
            raise FUSEError(errno.EINVAL)  # what programs fall back on (rename(2))
        await self.fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, _caller(ctx))

    # --- files -------------------------------------------------------------------------------------------------------------

    @override
    @_quick
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if ctx.pid == self.echo.pid:
            about = self._ticket(self.echo.about_inode(inode)).inode
            return FileInfo(fh=self._echo_opened(about), keep_cache=not about.moved)
        handle, keep = await self.fs.files.open(self.fs.tree.get(inode), flags, ctx.pid)
        if not keep:
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(cast("Any", inode), attr_only=True)
        return FileInfo(fh=cast("Any", handle), keep_cache=keep)

    @override
    @_quick
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self.fs.files.read(fh, off, size)

    @override
    @_quick
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self.fs.files.write(fh, off, buf)

    @override
    @_quick
    async def flush(self, fh: int) -> None:
        if fh < echo.HANDLE:
            await self.fs.files.flush(fh)

    @override
    @_quick
    async def release(self, fh: int) -> None:
        if fh < echo.HANDLE:
            await self.fs.files.release(fh)
            return
        inode = self._echo_handles.pop(fh)
        inode.opens -= 1
        if inode.opens == 0:
            self.fs.files.let_go(inode)
        self.fs.tree.closed(inode)

    @override
    @_request
    async def fsync(self, fh: int, datasync: bool) -> None:
        del datasync
        await self.fs.files.fsync(fh)

    # --- directories ---------------------------------------------------------------------------------------------------------

    @override
    @_quick
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        del ctx
        return await self.fs.opendir(inode)

    @override
    @_quick
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self.fs.directory_of(cast("Any", fh))
        entries = self.fs.entries(fh, rewind=start_id == 0)
        if start_id < 2 and not self._reply_dots(directory, start_id, token):
            return
        lease = LOCAL_LEASE_S if directory.local else self.fs.parts.refresh.listing_lease(self.fs.tree.path(directory))
        reply = pyfuse3.readdir_reply
        for number in range(max(0, start_id - 2), len(entries)):
            name, inode = entries[number]
            if inode.parent is not directory or inode.name != name:
                continue
            entry = _attributes(self.fs.stat(inode, lease))
            if not reply(token, name.encode(), entry, number + 3):
                return
            self.fs.remember(inode)

    def _reply_dots(self, directory: Inode, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        above = directory.parent or directory
        for number, (name, inode) in enumerate(((b".", directory), (b"..", above))):
            entry = _attributes(self.fs.stat(inode, 0.0))
            if number >= start_id and not pyfuse3.readdir_reply(token, name, entry, number + 1):
                return False
        return True

    @override
    @_quick
    async def releasedir(self, fh: int) -> None:
        self.fs.releasedir(fh)

    @override
    @_request
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        del datasync
        await self.fs.fsyncdir(fh)

    # --- extended attributes ---------------------------------------------------------------------------------------------------

    @override
    @_quick
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        del ctx
        if not name.startswith(b"user."):
            # `ls -l` asks for ACLs and labels of every file until it hears that there are none on this device.
            raise FUSEError(errno.EOPNOTSUPP)
        return self.fs.getxattr(inode, _text(name))

    @override
    @_request
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        del ctx
        await self.fs.setxattr(inode, _text(name), value)

    @override
    @_quick
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        del ctx
        return [name.encode("utf-8", "surrogateescape") for name in self.fs.listxattr(inode)]

    @override
    @_request
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        del ctx
        await self.fs.removexattr(inode, _text(name))

    def _entry(self, inode: Inode) -> EntryAttributes:
        return _attributes(self.fs.stat(inode))

    def _echo_opened(self, inode: Inode) -> Any:
        """A handle of the helper counts as an open: the kernel ignores sizes while it truncates.

        A version taken over in place meanwhile would be read with the size of the one before it
        (fs/fuse/dir.c, FUSE_I_SIZE_UNSTABLE in fuse_do_setattr).
        """
        handle = echo.HANDLE + self._echo_serial
        self._echo_serial += 1
        self._echo_handles[handle] = inode
        inode.opens += 1
        return handle

    def _ticket(self, ticket: echo.Ticket | None) -> echo.Ticket:
        """The helper may do what it holds a ticket for, and nothing else."""
        if ticket is None:
            raise errors.NotPermittedError("the echo helper without a ticket")
        return ticket

    def _enacted(self, ticket: echo.Ticket) -> EntryAttributes:
        """The entry of what the helper pretends to make."""
        ticket.used = True
        return self._pretend(ticket.inode)

    def _pretend(self, inode: Inode, lease_s: float | None = None) -> EntryAttributes:
        self.fs.tree.inodes.setdefault(inode.ino, inode)
        self.fs.remember(inode)
        return _attributes(self.fs.stat(inode, lease_s))


def _missing(lease_s: float) -> EntryAttributes:
    """A negative entry: the kernel may say for so long that the name is not there."""
    missing = EntryAttributes()
    missing.st_ino = cast("Any", 0)
    missing.entry_timeout = lease_s
    return missing


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _attributes(found: Stat) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = cast("Any", found.ino)
    entry.st_mode = cast("Any", found.mode)
    entry.st_nlink = found.nlink
    entry.st_uid = found.uid
    entry.st_gid = found.gid
    entry.st_size = found.size
    entry.st_blksize = 4096
    entry.st_blocks = (found.size + 511) // 512
    entry.st_atime_ns = found.atime_ns
    entry.st_mtime_ns = found.mtime_ns
    entry.st_ctime_ns = found.ctime_ns
    entry.entry_timeout = found.lease_s
    entry.attr_timeout = LOCAL_LEASE_S if found.mode & 0o170000 == 0o040000 else found.lease_s
    return entry


class Notifier:
    """Tells the kernel what others did. Implements `fs.refresh.Kernel`.

    One thread does what may block: an invalidation of an entry waits for requests in its directory.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, bytes] | Sequence[Change] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)
        self.on_change: Callable[[Sequence[Change]], None] = lambda _changes: None
        """Told in the trio thread when the kernel has forgotten the names of these changes."""
        self._token: trio.lowlevel.TrioToken | None = None

    def start(self) -> None:
        """Begin; the mount must be up."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()

    def stop(self) -> None:
        """Do not wait for what is queued: the mount is gone."""
        self._queue.put(None)

    def changed(self, changes: Sequence[Change]) -> None:
        """Attributes inline, names by the thread. Cost: microseconds."""
        for change in changes:
            if change.kind == "modify" and change.replaced is None:
                _invalidate_attributes(change.inode)
                continue
            if change.parent.lookups:
                if change.kind != "delete":
                    # A deletion is re-enacted first: unlink(2) through the mount needs the name.
                    self._queue.put((change.parent.ino, change.name.encode()))
                _invalidate_attributes(change.parent)
        self._queue.put(changes)

    def forget_entry(self, parent: Inode, name: str) -> None:
        """The kernel must look this name up again."""
        self._queue.put((parent.ino, name.encode()))

    def _work(self) -> None:
        assert self._token is not None
        while (item := self._queue.get()) is not None:
            if isinstance(item, tuple):
                with contextlib.suppress(OSError):  # ENOENT: the kernel does not know the name
                    pyfuse3.invalidate_entry(cast("Any", item[0]), cast("Any", item[1]))
            else:
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self.on_change, item)


def _invalidate_attributes(inode: Inode) -> None:
    if inode.lookups:
        with contextlib.suppress(OSError):
            pyfuse3.invalidate_inode(cast("Any", inode.ino), attr_only=True)


def mount(operations: Operations, mountpoint: Path, *, source: str, allow_other: bool) -> None:
    """Open /dev/fuse and mount. Raises RuntimeError with libfuse's words already on stderr."""
    options = set(pyfuse3.default_options)
    options |= {f"fsname={source.replace(',', '%2C')}", "subtype=kopsfs"}
    if os.geteuid() == 0:
        options |= {"nosuid", "nodev"}
    if allow_other:
        options.add("allow_other")
    pyfuse3.init(operations, str(mountpoint), options)


async def serve(operations: Operations) -> None:
    """Answer until the mount is gone."""
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, _UNFREEZE_S, _UNFREEZE_S)
    try:
        async with trio.open_nursery() as nursery:
            if operations.gate is not None:
                nursery.start_soon(operations.gate.watch)
            await pyfuse3.main(gate.MIN_TASKS, MAX_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def stop() -> None:
    """Have `serve` return although the mount is in use."""
    pyfuse3.terminate()


def raise_limits(mountpoint: Path) -> None:
    """Let more reads wait at once, where fusectl is there and permits it. Never asks the mount itself."""
    with contextlib.suppress(OSError):
        found = mount_at(mountpoint)
        if found is not None:
            (connection(found) / "max_background").write_text(str(MAX_BACKGROUND), "ascii")
