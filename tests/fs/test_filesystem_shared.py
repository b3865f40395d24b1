"""Is anything lost or overwritten unseen while another client writes the same store?

As `test_filesystem_model.py`, with somebody else who puts and deletes at any moment: nothing acknowledged is lost (it is in
the store's history, in the conflict area, or was replaced here), nothing unseen is overwritten, no dropping reaches the
store, no name ever goes back to an older version, and in the end the mount shows what the store holds.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from kopsfs.errors import FsError, StoreError
from kopsfs.fs import names
from kopsfs.fs.tree import Change
from kopsfs.store.driver import ObjectInfo
from tests.fs.test_filesystem_model import Player, Reference, _quiet, common, filled, stored_path, weather
from tests.support.lives import Life, Machine, run

__all__ = ["_quiet"]

shared = st.one_of(
    st.tuples(st.just("save"), stored_path),
    st.tuples(st.just("temp save"), stored_path, st.sampled_from([".tmp.XX", "config~"])),
    st.tuples(st.just("vim save"), stored_path),
    st.tuples(st.just("append"), stored_path),
    st.tuples(st.just("rename"), stored_path, stored_path),
    st.tuples(st.just("move directory"), st.sampled_from(["c/pki", "d"]), st.sampled_from(["e", "c/e"])),
    st.tuples(st.just("unlink"), stored_path),
    st.tuples(st.just("read"), stored_path),
    st.tuples(st.just("open"), stored_path),
    st.tuples(st.just("write")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("release")),
    st.tuples(st.just("they put"), stored_path),
    st.tuples(st.just("they put"), stored_path),
    st.tuples(st.just("they delete"), stored_path),
    *weather,
)


class Witness:
    """Sees every write that reaches the bucket, whoever makes it, and which versions this mount could know."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.known: dict[str, set[str]] = {}
        """By key: versions this mount has shown or made."""
        self.history: dict[str, list[bytes]] = {}
        self.reached: dict[str, int] = {}
        """By version: the order in which the store took them."""
        self.newest: dict[str, int] = {}
        """By key: of the versions this life has shown."""
        self.life: Life | None = None
        self.theirs = False
        self.complaints: list[str] = []
        self.unseen = self.complaints
        """What was replaced and nobody here had seen."""
        bucket = machine.bucket
        put, delete = bucket.put, bucket.delete

        def seen_put(key: Any, data: bytes, expected: Any) -> ObjectInfo:
            before = bucket._objects.get(key)
            info = put(key, data, expected)
            self.reached[info.version] = len(self.reached) + 1
            self.history.setdefault(key, []).append(data)
            self.judge("put", key, before)
            if not self.theirs:
                self.known.setdefault(key, set()).add(info.version)
            return info

        def seen_delete(key: Any, expected: Any) -> None:
            before = bucket._objects.get(key)
            delete(key, expected)
            self.judge("delete", key, before)

        bucket.put, bucket.delete = seen_put, seen_delete  # type: ignore[method-assign]

    def judge(self, op: str, key: str, before: Any) -> None:
        if self.theirs:
            return
        if before is not None and before.info.version not in self.known.get(key, ()):
            self.unseen.append(f"{op} {key} replaced version {before.info.version}, which nobody here had seen")
        if any(names.stays_local(part, exclusive=False) for part in key.split("/")):
            self.complaints.append(f"{op} {key}: a dropping reached the store")

    def look(self, life: Life) -> None:
        """What the tree shows now may have been seen by programs."""
        life.watcher.told = self.told
        if self.life is not life:  # it begins with what the cache of the last one remembers
            self.life = life
            self.newest.clear()
        for inode in life.tree.stored.values():
            assert inode.info is not None
            self.shown(inode.info)

    def told(self, change: Change) -> None:
        info = change.inode.info
        if info is not None and change.kind != "delete":
            self.shown(info)

    def shown(self, info: ObjectInfo) -> None:
        self.known.setdefault(info.key, set()).add(info.version)
        reached = self.reached.get(info.version, 0)
        if reached < self.newest.get(info.key, 0):
            self.complaints.append(f"{info.key} went back to version {info.version}")
        self.newest[info.key] = reached


class Shared(Player):
    """On a mount of a store that others write."""

    def __init__(self, machine: Machine, operations: list[tuple[Any, ...]]) -> None:
        super().__init__(machine, operations)
        self.witness = Witness(machine)
        self.serial = 0
        self.acknowledged: dict[str, bytes] = {}
        """By path: the bytes whose close returned 0 and that nothing here has replaced."""
        self.held: tuple[str, int, bytes] | None = None

    def fresh(self, what: str) -> bytes:
        self.serial += 1
        return f"{what} {self.serial} ".encode() * (1 if self.serial % 5 else 9000)

    async def step(self, name: str, *arguments: Any) -> None:
        self.witness.look(self.life)
        with contextlib.suppress(FsError, StoreError, trio.TooSlowError):
            await super().step(name, *arguments)
        self.witness.look(self.life)

    def judge(self) -> None:
        assert not self.witness.complaints, self.witness.complaints

    async def settle(self) -> None:
        self.machine.driver.heal()
        with contextlib.suppress(FsError):
            await self.release()
        await trio.sleep(20)
        await self.life.drain()
        await trio.sleep(20)
        self.life.check()
        assert not self.witness.complaints, self.witness.complaints
        kept = [c.generation.read() for c in self.life.journal.conflicts.values()]
        reached = [data for history in self.witness.history.values() for data in history]
        for path, data in self.acknowledged.items():
            assert data in reached or data in kept, f"{path}: {data[:20]!r} was acknowledged and is lost"
        shown = {p: d for p, d in (await self.life.files()).items() if not Reference().local(p)}
        assert shown == self.machine.objects()
        self.life.crash()

    def replaced(self, path: str) -> None:
        self.acknowledged.pop(path, None)

    async def save(self, path: str) -> None:
        if self.held is not None and self.held[0] == path:
            return
        data = self.fresh("saved")
        await self.life.save(path, data)
        self.acknowledged[path] = data

    async def temp_save(self, path: str, temporary: str) -> None:
        if self.held is None:
            beside = f"{path.rpartition('/')[0]}/{temporary}"
            await self.life.save(beside, self.fresh("temp"))
            data = await self.life.read(beside)
            self.witness.look(self.life)
            await self.life.rename(beside, path)
            self.acknowledged[path] = data

    async def vim_save(self, path: str) -> None:
        if self.held is None:
            await self.life.rename(path, path + "~")
            await self.save(path)
            await self.life.unlink(path + "~")

    async def append(self, path: str) -> None:
        if self.held is None:
            await self.life.save(path, self.fresh("more"), os.O_RDWR | os.O_APPEND)
            self.acknowledged.pop(path, None)

    async def rename(self, old: str, new: str) -> None:
        if self.held is None and old != new:
            await self.life.rename(old, new)
            self.replaced(new)
            if old in self.acknowledged:
                self.acknowledged[new] = self.acknowledged.pop(old)

    async def move_directory(self, old: str, new: str) -> None:
        if self.held is None:
            await self.life.rename(old, new)
            for path in [p for p in self.acknowledged if p.startswith(old + "/")]:
                self.acknowledged[new + path[len(old) :]] = self.acknowledged.pop(path)

    async def unlink(self, path: str) -> None:
        if self.held is None:
            await self.life.unlink(path)
            self.replaced(path)

    async def read(self, path: str) -> None:
        await self.life.read(path)

    async def open(self, path: str) -> None:
        if self.held is None:
            handle = await self.life.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            self.held = (path, handle, b"")

    async def write(self) -> None:
        if self.held is not None:
            path, handle, before = self.held
            data = self.fresh("w")
            await self.life.write(handle, data, len(before))
            self.held = (path, handle, before + data)

    async def flush(self) -> None:
        if self.held is not None:
            path, handle, data = self.held
            await self.life.fs.files.flush(handle)
            self.acknowledged[path] = data

    async def release(self) -> None:
        if self.held is not None:
            path, handle, data = self.held
            self.held = None
            await self.life.close(handle)
            self.acknowledged[path] = data

    async def they_put(self, path: str) -> None:
        self.witness.theirs = True
        self.machine.put(path, self.fresh("theirs"))
        self.witness.theirs = False

    async def they_delete(self, path: str) -> None:
        self.witness.theirs = True
        self.machine.delete(path)
        self.witness.theirs = False

    async def crash(self) -> None:
        await trio.sleep(0.0001)
        self.life.crash()
        self.held = None


def run_shared(operations: list[tuple[Any, ...]], seed: int = 0) -> None:
    with filled(Machine, seed) as machine:
        run(Shared(machine, operations).main, seed)


@common
@given(st.lists(shared, min_size=1, max_size=40), st.integers(0, 50))
def test_with_others_nothing_is_lost_and_nothing_unseen_replaced(operations: list[tuple[Any, ...]], seed: int) -> None:
    run_shared(operations, seed)
