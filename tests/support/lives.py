"""How is a file system tested without a kernel, a thread or a clock that passes by itself?

`Machine` is what survives a crash: the store, the state directory, the cache directory. `Life` is one mount of
it, from start to `crash` or `drain`, with the services of the daemon and nothing of FUSE; its methods are what
programs do (save, append, read, rename by path), walked name by name as the kernel would.

Everything happens in the trio thread on a `MockClock`: the journal's committer and the cache write in place,
`time` stands still unless somebody sleeps, requests take as long as `Machine.delay` says, and a crash drops whatever
is not on disk. A refused ESTALE is tried again once, as the kernel does.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import outcome
import trio
import trio.testing

from kopsfs.errors import NoEntryError, StaleError
from kopsfs.fs import cache as cache_module
from kopsfs.fs import journal as journal_module
from kopsfs.fs import namespace as namespace_module
from kopsfs.fs import writeback as writeback_module
from kopsfs.fs.assembly import Options, assemble
from kopsfs.fs.cache import Cache
from kopsfs.fs.committer import Committer
from kopsfs.fs.filesystem import Filesystem, Stat
from kopsfs.fs.guard import make_guard
from kopsfs.fs.inode import Change, Inode
from kopsfs.fs.journal import Journal
from kopsfs.fs.journal_rows import connect
from kopsfs.fs.namespace import Caller
from kopsfs.fs.spool import SpoolDirectory
from kopsfs.store import Store
from kopsfs.store.driver import ANY, Key, Prefix
from kopsfs.store.memory import Bucket, MemoryDriver
from kopsfs.store.ports import Call, Done, Threads
from tests.support.faulty import FaultyDriver

T = TypeVar("T")
KERNEL_REMEMBERS = 20
"""So many lookups later an inode is forgotten."""
ROOT_CALLER = Caller(0, 0, 0)


class _Time:
    """Stands for the module `time`: Unix time moves with trio's clock."""

    began = 1.8e9

    def time(self) -> float:
        return self.began + trio.current_time()

    def monotonic(self) -> float:
        return trio.current_time()


class InPlaceCommitter(Committer):
    """Commits in the trio thread, a moment after it was asked to; after a crash not at all."""

    def start(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._refill_reserve()
        self._connection = connect(self.journal.path)
        self.dead = False

    def _signal(self) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._go)

    def _go(self) -> None:
        if not self.dead:
            self._drain(self._connection)

    async def stop(self) -> None:
        self.wake()
        self._go()
        self._connection.close()

    def die(self) -> None:
        self.dead = True
        self._connection.close()
        for _, event in self._waiters:
            event.set()


class _InPlaceQueue:
    def __init__(self, cache: InPlaceCache) -> None:
        self._cache = cache

    def put(self, item: Any) -> None:
        self._cache.transact(item)

    def get_nowait(self) -> Any:
        raise cache_module.queue.Empty


class InPlaceCache(Cache):
    """Writes where it stands."""

    def open(self) -> None:
        with mock.patch.object(cache_module.threading.Thread, "start"):
            super().open()
        self._thread = None
        self._writer = sqlite3.connect(self.path, isolation_level=None)
        self._writer.execute("PRAGMA synchronous = OFF")
        self._queue = _InPlaceQueue(self)  # type: ignore[assignment]

    def transact(self, item: Any) -> None:
        self._transact(self._writer, item)

    def close(self) -> None:
        super().close()
        self._writer.close()


class LatePort(Threads):
    """A blocking driver whose requests act after one delay and are answered after another, on trio's clock."""

    def __init__(self, driver: Any, delay: Callable[[str, str], tuple[float, float]]) -> None:
        super().__init__(driver, in_place=True)
        self._delay = delay
        self._ticket = 0
        self._alive: dict[int, Done] = {}
        self._acted: set[int] = set()
        self.closed = False

    def start(self, call: Call[Any], done: Done, *, urgent: bool) -> int:
        self._ticket += 1
        self._alive[self._ticket] = done
        trio.lowlevel.spawn_system_task(self._run, call, self._ticket, *self._delay(call.verb, call.key))
        return self._ticket

    async def _run(self, call: Call[Any], ticket: int, before: float, after: float) -> None:
        await trio.sleep(before)
        if self.closed or ticket not in self._alive:
            return
        assert call.act is not None
        self._acted.add(ticket)
        result = outcome.capture(call.act)
        await trio.sleep(after)
        self._acted.discard(ticket)
        done = self._alive.pop(ticket, None)
        if done is not None and not self.closed:
            done(result)

    def cancel(self, ticket: int, *, unsent_only: bool) -> None:
        if unsent_only and ticket in self._acted:
            return
        self._alive.pop(ticket, None)

    def close(self) -> None:
        self.closed = True


class Watcher:
    """Implements `refresh.Kernel`: keeps what the kernel would be told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.told: Callable[[Change], None] = lambda _change: None

    def changed(self, changes: Any) -> None:
        self.changes += changes
        for change in changes:
            self.told(change)


@dataclass
class Machine:
    """A store and the directories of this machine."""

    directory: Path
    prefix: str = ""
    page_size: int = 1000
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `Life`: max_staleness_s, refresh_s, upload_delay_s, delete_delay_s, guard, prefetch, …"""
    delay: Callable[[str, str], tuple[float, float]] = lambda _verb, _key: (0.0, 0.0)

    def __post_init__(self) -> None:
        name = uuid.uuid4().hex
        self.driver = FaultyDriver(MemoryDriver(name, page_size=self.page_size))
        self.bucket: Bucket = self.driver.inner.bucket  # type: ignore[attr-defined]
        self.lives = 0

    def connect(self) -> tuple[Any, Any]:
        """The port and driver of one life."""
        return LatePort(self.driver, self.delay), self.driver

    # What another client of the store does; keys are whole.

    def put(self, key: str, data: bytes) -> str:
        return self.bucket.put(Key(key), data, ANY).version

    def delete(self, key: str) -> None:
        self.bucket.delete(Key(key), ANY)

    def objects(self) -> dict[str, bytes]:
        """Everything the store holds."""
        return {str(key): stored.data for key, stored in sorted(self.bucket._objects.items())}

    def requests(self) -> list[tuple[str, str]]:
        return list(self.driver.requests)

    @asynccontextmanager
    async def life(self, **settings: Any) -> AsyncIterator[Life]:
        """Mount; at the end of the block the mount is simply dropped, as by SIGKILL."""
        self.lives += 1
        async with trio.open_nursery() as nursery:
            life = Life(self, nursery, {**self.settings, **settings})
            try:
                await life.begin()
                yield life
            finally:
                life.crash()


class Life:
    """One mount, from start to crash."""

    def __init__(self, machine: Machine, nursery: trio.Nursery, settings: dict[str, Any]) -> None:
        self.machine = machine
        self.nursery = nursery
        self.settings = settings
        self.dead = False
        self._remembered: list[Inode] = []
        self.watcher = Watcher()
        self._build()

    def _build(self) -> None:
        machine, given, nursery = self.machine, dict(self.settings), self.nursery
        guard, cache_size_bytes = given.pop("guard", "warn"), given.pop("cache_size_bytes", 1 << 24)
        self.port, driver = machine.connect()
        self.store = Store(
            self.port,
            driver,
            url="test://",
            prefix=Prefix(machine.prefix),
            random_unit=lambda: 1.0,
        )
        journal = Journal(machine.directory / "state")
        journal.load()
        cache = InPlaceCache(machine.directory / "cache", cache_size_bytes)
        cache.open()
        began = int(_Time.began * 1e9)
        self.cache = cache
        self.parts = assemble(
            self.store,
            journal,
            cache,
            Options(prefix=machine.prefix, **{"prefetch": "none", "memory_size_bytes": 1 << 24, **given}),
            guard=make_guard(guard, machine.prefix, {}),
            findings={},
            services=nursery,
            committer=InPlaceCommitter(journal),
            spool_directory=SpoolDirectory(journal.spool_path, reserve_bytes=1 << 20),
            now_ns=lambda: began + int(trio.current_time() * 1e9),
        )
        self.fs = Filesystem(self.parts)
        self.tree, self.journal, self.writeback = self.parts.tree, journal, self.parts.writeback
        self.refresh, self.content, self.committer = self.parts.refresh, self.parts.content, self.parts.committer
        self.refresh.kernel = self.watcher

    async def begin(self) -> None:
        self.replayed = self.fs.restore()
        warm = "" in self.refresh.scopes
        if warm:
            self.nursery.start_soon(self._first_listing)
        else:
            await self.refresh.first_listing()
        self.nursery.start_soon(self.refresh.run)

    async def _first_listing(self) -> None:
        self.refresh.start(self.refresh._scope_at(""))
        await trio.lowlevel.checkpoint()

    def crash(self) -> None:
        """SIGKILL: nothing is closed, what is not on disk is gone."""
        if self.dead:
            return
        self.dead = True
        self.port.close()
        self.committer.die()  # type: ignore[attr-defined]
        self.nursery.cancel_scope.cancel()
        self.cache.close()
        for inode in self.tree.inodes.values():
            if inode.spool is not None and inode.spool._fd >= 0:
                os.close(inode.spool._fd)
                inode.spool._fd = -1

    def check(self) -> None:
        """Assert the invariants of tree and journal."""
        self.tree.check()
        self.journal.check()

    async def drain(self, budget_s: float = 300.0) -> None:
        """Settle what is owed and not held."""
        with trio.move_on_after(budget_s):
            while self.writeback.left():
                self.writeback.expedite_all()
                await self.writeback.drained()
        left = self.writeback.left()
        assert not left, (left, self.writeback.last_error, list(self.writeback._running))
        await self.parts.committer.commit()

    # --- what programs do --------------------------------------------------------------------------------------------------

    async def _again(self, act: Callable[[], Awaitable[T]]) -> T:
        """Once more after ESTALE, as the kernel does (fs/namei.c, retry_estale)."""
        try:
            return await act()
        except StaleError:
            return await act()

    async def walk(self, path: str) -> Inode:
        """The inode of a path, looked up name by name."""
        inode = self.tree.root
        for name in path.split("/") if path else ():
            inode = await self.fs.lookup(inode.ino, name.encode())
            self.fs.remember(inode)
            self._remembered.append(inode)
        while len(self._remembered) > KERNEL_REMEMBERS:
            self.fs.forget(self._remembered.pop(0).ino, 1)
        return inode

    async def parent(self, path: str) -> tuple[Inode, bytes]:
        directory, _, name = path.rpartition("/")
        return await self.walk(directory), name.encode()

    async def exists(self, path: str) -> bool:
        try:
            await self.walk(path)
        except NoEntryError:
            return False
        return True

    async def stat(self, path: str) -> Stat:
        return await self.fs.getattr((await self.walk(path)).ino)

    async def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644, thread: int = 0) -> int:
        async def once() -> int:
            if flags & os.O_CREAT:
                parent, name = await self.parent(path)
                try:
                    inode = await self.fs.lookup(parent.ino, name)
                except NoEntryError:
                    _, handle, _ = await self.fs.create(parent.ino, name, mode, flags, Caller(0, 0, thread))
                    return handle
                if flags & os.O_EXCL:
                    raise FileExistsError(errno.EEXIST, path)
            else:
                inode = await self.walk(path)
            handle, _ = await self.fs.files.open(inode, flags, thread)
            return handle

        return await self._again(once)

    async def write(self, handle: int, data: bytes, offset: int = 0) -> None:
        assert await self.fs.files.write(handle, offset, data) == len(data)

    async def close(self, handle: int) -> None:
        """close(2) of the last descriptor: flush, whose error is the program's, and then release."""
        try:
            await self.fs.files.flush(handle)
        finally:
            await self.fs.files.release(handle)

    async def save(
        self, path: str, data: bytes, flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC, **more: Any
    ) -> None:
        """`cat > path`."""
        handle = await self.open(path, flags, **more)
        try:
            if data:
                await self.write(handle, data)
        finally:
            await self.close(handle)

    async def read(self, path: str, thread: int = 0) -> bytes:
        """`cat path`."""
        handle = await self.open(path, thread=thread)
        try:
            return await self.fs.files.read(handle, 0, 1 << 30)
        finally:
            await self.fs.files.flush(handle)
            await self.fs.files.release(handle)

    async def rename(self, old: str, new: str, flags: int = 0, thread: int = 0) -> None:
        async def once() -> None:
            old_parent, old_name = await self.parent(old)
            new_parent, new_name = await self.parent(new)
            await self.fs.lookup(old_parent.ino, old_name)
            await self.fs.rename(old_parent.ino, old_name, new_parent.ino, new_name, flags, Caller(0, 0, thread))

        await self._again(once)

    async def unlink(self, path: str, thread: int = 0) -> None:
        parent, name = await self.parent(path)
        await self.fs.lookup(parent.ino, name)
        await self.fs.unlink(parent.ino, name, Caller(0, 0, thread))

    async def mkdir(self, path: str) -> None:
        parent, name = await self.parent(path)
        await self.fs.mkdir(parent.ino, name, 0o755, ROOT_CALLER)

    async def rmdir(self, path: str) -> None:
        parent, name = await self.parent(path)
        await self.fs.lookup(parent.ino, name)
        await self.fs.rmdir(parent.ino, name)

    async def symlink(self, target: bytes, path: str) -> None:
        parent, name = await self.parent(path)
        await self.fs.symlink(parent.ino, name, target, ROOT_CALLER)

    async def truncate(self, path: str, size: int) -> None:
        await self.fs.setattr((await self.walk(path)).ino, size=size)

    async def fsync(self, path: str) -> None:
        handle = await self.open(path, os.O_RDWR)
        try:
            await self.fs.files.fsync(handle)
        finally:
            await self.close(handle)

    async def ls(self, path: str = "") -> list[str]:
        inode = await self.walk(path)
        handle = await self.fs.opendir(inode.ino)
        try:
            return [name for name, child in self.fs.entries(handle) if child.parent is inode]
        finally:
            self.fs.releasedir(handle)

    async def everything(self, path: str = "") -> dict[str, bytes | None]:
        """`find` and `cat` of all below: bytes of files, None of directories; links as their targets."""
        found: dict[str, bytes | None] = {}
        for name in await self.ls(path):
            full = f"{path}/{name}" if path else name
            inode = await self.walk(full)
            if inode.is_dir:
                found[full] = None
                found |= await self.everything(full)
            elif inode.kind == "link":
                found[full] = self.fs.readlink(inode.ino)
            else:
                found[full] = await self.read(full)
        return found

    async def files_of(self, paths: list[str]) -> dict[str, bytes]:
        """What these files hold."""
        return {path: await self.read(path) for path in paths}

    async def files(self) -> dict[str, bytes]:
        """The same, files only."""
        return {path: data for path, data in (await self.everything()).items() if data is not None}


async def _run_here(act: Callable[..., T], *arguments: Any, **_options: Any) -> T:
    """In a thread the clock would jump over it."""
    await trio.lowlevel.checkpoint()
    return act(*arguments)


def run(main: Callable[[], Awaitable[T]], seed: int = 0) -> T:
    """Run on a clock that jumps; of tasks that could run, `seed` decides which goes first, the same each time."""
    stand_in = _Time()
    scheduler = trio._core._run
    scheduler._r.seed(seed)
    with (
        mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(trio.to_thread, "run_sync", _run_here),
        mock.patch.object(journal_module, "time", stand_in),
        mock.patch.object(namespace_module, "time", stand_in),
        mock.patch.object(writeback_module, "time", stand_in),
    ):
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


Body = Callable[[Life], Awaitable[None]]


def during(machine: Machine, body: Body, **settings: object) -> None:
    """Do `body` in one life; what must hold at any moment holds at its end."""

    async def main() -> None:
        async with machine.life(**settings) as life:
            await body(life)
            life.check()

    run(main)
