"""What is left on a disk when the power goes?

`python -m tests.fuse.forgetful MOUNTPOINT` is a file system in memory that keeps apart what programs see and
what was made durable: the bytes of a file by fsync of the file, names by fsync of their directory, nothing else
(POSIX; ext4 happens to do more). SIGUSR1 is the power cut: everything that was not durable is gone, as if the
machine had started again. It says `ready` and `cut` on stdout.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData
from typing_extensions import override

ROOT = Path(__file__).resolve().parents[2]
PAGE = 4096
CAPACITY = 1 << 30


class Node:
    """A file or a directory: what is seen, and what is on the disk."""

    def __init__(self, ino: int, mode: int, uid: int, gid: int) -> None:
        self.ino, self.mode, self.uid, self.gid = ino, mode, uid, gid
        self.times = [time.time_ns()] * 3
        self.data = bytearray()
        self.names: dict[bytes, Node] = {}
        self.durable_data = bytearray()
        self.durable_names: dict[bytes, Node] = {}
        self.dirty: set[int] = set()
        self.is_dir = stat.S_ISDIR(mode)

    def sync(self) -> None:
        if self.is_dir:
            self.durable_names = dict(self.names)
            return
        size = len(self.data)
        del self.durable_data[size:]
        self.durable_data.extend(bytes(size - len(self.durable_data)))
        for page in self.dirty:
            start, end = page * PAGE, min(page * PAGE + PAGE, size)
            if start < end:
                self.durable_data[start:end] = self.data[start:end]
        self.dirty.clear()

    def forget(self) -> None:
        """The power is gone."""
        if self.is_dir:
            self.names = dict(self.durable_names)
            for node in self.names.values():
                node.forget()
        else:
            self.data = bytearray(self.durable_data)
            self.dirty.clear()


class Forgetful(pyfuse3.Operations):
    """The least a database and a journal need."""

    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[int, Node] = {}
        self.root = self.new(stat.S_IFDIR | 0o755, os.getuid(), os.getgid())

    def new(self, mode: int, uid: int, gid: int) -> Node:
        node = Node(len(self.nodes) + 1, mode, uid, gid)
        self.nodes[node.ino] = node
        return node

    def child(self, parent: int, name: bytes) -> Node:
        try:
            return self.nodes[parent].names[name]
        except KeyError:
            raise FUSEError(errno.ENOENT) from None

    def attributes(self, node: Node) -> EntryAttributes:
        entry: Any = EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_uid, entry.st_gid = node.ino, node.mode, node.uid, node.gid
        entry.st_nlink = 1
        entry.st_size = len(node.data)
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = node.times
        entry.st_blksize = PAGE
        entry.st_blocks = (len(node.data) + 511) // 512
        entry.entry_timeout = entry.attr_timeout = 0
        return entry  # type: ignore[no-any-return]

    @override
    async def lookup(self, parent_inode: Any, name: Any, ctx: RequestContext) -> EntryAttributes:
        return self.attributes(self.child(parent_inode, name))

    @override
    async def getattr(self, inode: Any, ctx: RequestContext) -> EntryAttributes:
        return self.attributes(self.nodes[inode])

    @override
    async def setattr(
        self, inode: Any, attr: EntryAttributes, fields: SetattrFields, fh: Any, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.nodes[inode]
        if fields.update_size:
            self.resize(node, attr.st_size)
        if fields.update_mode:
            node.mode = attr.st_mode
        return self.attributes(node)

    def resize(self, node: Node, size: int) -> None:
        old = len(node.data)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.dirty.update(range(min(old, size) // PAGE, max(old, size) // PAGE + 1))

    def make(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        directory = self.nodes[parent]
        if name in directory.names:
            raise FUSEError(errno.EEXIST)
        node = directory.names[name] = self.new(mode, ctx.uid, ctx.gid)
        return node

    @override
    async def mkdir(self, parent_inode: Any, name: Any, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self.attributes(self.make(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx))

    @override
    async def create(
        self, parent_inode: Any, name: Any, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self.make(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        info: Any = FileInfo(fh=node.ino)
        return info, self.attributes(node)

    @override
    async def unlink(self, parent_inode: Any, name: Any, ctx: RequestContext) -> None:
        self.child(parent_inode, name)
        del self.nodes[parent_inode].names[name]

    @override
    async def rmdir(self, parent_inode: Any, name: Any, ctx: RequestContext) -> None:
        if self.child(parent_inode, name).names:
            raise FUSEError(errno.ENOTEMPTY)
        del self.nodes[parent_inode].names[name]

    @override
    async def rename(self, po: Any, name_old: Any, pn: Any, name_new: Any, flags: int, ctx: RequestContext) -> None:
        node = self.child(po, name_old)
        del self.nodes[po].names[name_old]
        self.nodes[pn].names[name_new] = node

    @override
    async def open(self, inode: Any, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self.resize(self.nodes[inode], 0)
        return FileInfo(fh=inode)

    @override
    async def read(self, fh: Any, off: int, size: int) -> bytes:
        return bytes(self.nodes[fh].data[off : off + size])

    @override
    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        node = self.nodes[fh]
        end = off + len(buf)
        if end > len(node.data):
            self.resize(node, end)
        node.data[off:end] = buf
        node.dirty.update(range(off // PAGE, (end + PAGE - 1) // PAGE))
        node.times[1] = node.times[2] = time.time_ns()
        return len(buf)

    @override
    async def fsync(self, fh: Any, datasync: bool) -> None:
        self.nodes[fh].sync()

    @override
    async def fsyncdir(self, fh: Any, datasync: bool) -> None:
        self.nodes[fh].sync()

    @override
    async def opendir(self, inode: Any, ctx: RequestContext) -> Any:
        return inode

    @override
    async def readdir(self, fh: Any, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for number, (name, node) in enumerate(list(self.nodes[fh].names.items())[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self.attributes(node), number):
                return

    @override
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        used = sum(len(node.data) for node in self.nodes.values())
        data: Any = StatvfsData()
        data.f_bsize = data.f_frsize = PAGE
        data.f_blocks = CAPACITY // PAGE
        data.f_bfree = data.f_bavail = (CAPACITY - used) // PAGE
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data  # type: ignore[no-any-return]


async def _serve(disk: Forgetful) -> None:
    async def watch() -> None:
        with trio.open_signal_receiver(signal.SIGUSR1) as received:
            print("ready", flush=True)
            async for _ in received:
                disk.root.forget()
                print("cut", flush=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main(arguments: Sequence[str]) -> None:
    disk = Forgetful()
    options = set(pyfuse3.default_options) | {"fsname=forgetful", "default_permissions"}
    pyfuse3.init(disk, arguments[0], options)
    try:
        trio.run(_serve, disk)
    finally:
        pyfuse3.close(unmount=True)


class Disk:
    """Such a file system, mounted; `cut` is the power cut, after whoever used it has been killed."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.fuse.forgetful", str(self.path)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._heard() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        subprocess.run(["fusermount3", "-uz", str(self.path)], check=False, stdin=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.communicate()

    def cut(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)
        assert self._heard() == "cut"

    def _heard(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


if __name__ == "__main__":
    main(sys.argv[1:])
