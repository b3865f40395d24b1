"""Does the file system do what a plain dictionary would, whatever fails, crashes or comes between?

Hypothesis makes lists of operations; each list runs in one `trio.run` on a clock that jumps, against the memory
driver behind `FaultyDriver`, with requests that act late and are answered later. Alone on the store, with outages, lost
replies and crashes, the mount shows exactly what a dictionary of files and a set of directories say; nothing is ever told
of changes by others; a name goes from the store only when its bytes are there under another; and after a drain the store
holds exactly the stored files. No conflict ever. With another client: `test_filesystem_shared.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kopsfs.errors import FsError, StoreError, TimedOutError
from kopsfs.fs import names
from tests.support.lives import Life, Machine, run
from tests.support.sweeper import scratch

DIRECTORIES = ["c", "c/pki", "d"]
STORED = ["c/config", "c/a", "c/b", "c/pki/x", "d/f"]
LOCAL = ["c/.config.swp", "c/config~", "d/.hidden"]
INITIAL = {"c/config": b"config 0", "c/a": b"a 0", "c/pki/x": b"x 0", "d/f": b"f 0"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What goes wrong here goes wrong on purpose."""
    logger = logging.getLogger("kopsfs")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def slow(seed: int) -> Callable[[str, str], tuple[float, float]]:
    """How long requests take before and after they act: listings so long that much happens meanwhile."""
    chance = random.Random(seed)
    pauses = {"list": [0.0, 0.0, 0.3, 4.0], "put": [0.0, 0.01, 0.4]}

    def delay(verb: str, _key: str) -> tuple[float, float]:
        choice = pauses.get(verb, [0.0, 0.0, 0.01, 0.2])
        return (chance.choice(choice), chance.choice(choice)) if seed else (0.0, 0.0)

    return delay


stored_path = st.sampled_from(STORED)
any_file = st.sampled_from(STORED + LOCAL)
serial = st.integers(0, 10**6)

weather = [
    st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.03, 0.3, 2.0, 30.0])),
    st.tuples(st.just("outage")),
    st.tuples(st.just("heal")),
    st.tuples(
        st.just("fail"), st.integers(1, 3), st.sampled_from(["put", "delete", "get", "list", "head"]), st.booleans()
    ),
    st.tuples(st.just("crash")),
]
"""What befalls a mount, alone or not."""

alone = st.one_of(
    st.tuples(st.just("save"), any_file, serial),
    st.tuples(st.just("append"), any_file, serial),
    st.tuples(st.just("temp save"), stored_path, st.sampled_from([".tmp.XX", "new", "config~"]), serial),
    st.tuples(st.just("vim save"), stored_path, serial),
    st.tuples(st.just("vim dies"), stored_path),
    st.tuples(st.just("rename"), any_file, any_file),
    st.tuples(st.just("move directory"), st.sampled_from(DIRECTORIES), st.sampled_from(["e", "c/e", "d/pki"])),
    st.tuples(st.just("unlink"), any_file),
    st.tuples(st.just("mkdir"), st.sampled_from([*DIRECTORIES, "e"])),
    st.tuples(st.just("rmdir"), st.sampled_from([*DIRECTORIES, "e"])),
    st.tuples(st.just("truncate"), any_file, st.integers(0, 12)),
    st.tuples(st.just("symlink"), st.sampled_from(["c/link", "d/link"])),
    st.tuples(st.just("open"), any_file, st.booleans()),
    st.tuples(st.just("write"), serial),
    st.tuples(st.just("flush")),
    st.tuples(st.just("release")),
    st.tuples(st.just("read"), any_file),
    st.tuples(st.just("compare")),
    st.tuples(st.just("compare")),
    *weather,
)


class Reference:
    """A local disk: files, links, directories."""

    def __init__(self) -> None:
        self.files = dict(INITIAL)
        self.links: dict[str, bytes] = {}
        self.directories = set(DIRECTORIES)
        self.held: tuple[str, int, bytes, bytes | None] | None = None
        """(path, handle, bytes as seen, bytes as of the last flush) of the one open file."""
        self.before: dict[str, set[str]] = {}
        """By path of a stored file: the names it had before."""

    def stored(self) -> dict[str, bytes]:
        return {p: data for p, data in self.files.items() if not self.local(p)}

    def local(self, path: str) -> bool:
        return any(names.stays_local(part, exclusive=False) for part in path.split("/"))

    def shown(self) -> dict[str, bytes | None]:
        return {**self.files, **self.links, **dict.fromkeys(self.directories)}

    def parent(self, path: str) -> bool:
        top = path.rpartition("/")[0]
        return not top or top in self.directories

    def taken(self, path: str) -> bool:
        return path in self.files or path in self.links or path in self.directories

    def below(self, directory: str) -> list[str]:
        everything = [*self.files, *self.links, *self.directories]
        return [p for p in everything if p.startswith(directory + "/")]

    def busy(self, path: str) -> bool:
        return self.held is not None and (self.held[0] == path or self.held[0].startswith(path + "/"))


class Player:
    """Runs one list of operations on a mount, which is mounted again after each crash."""

    def __init__(self, machine: Machine, operations: list[tuple[Any, ...]]) -> None:
        self.machine = machine
        self.operations = operations
        self.life: Life

    async def main(self) -> None:
        position = 0
        while position < len(self.operations):
            async with self.machine.life() as self.life:
                self.life.check()
                await self.compare()
                while position < len(self.operations):
                    operation = self.operations[position]
                    position += 1
                    await self.step(*operation)
                    self.life.check()
                    self.judge()
                    if self.life.dead:
                        break
                else:
                    await self.settle()
                    return
        async with self.machine.life() as self.life:
            await self.settle()

    async def step(self, name: str, *arguments: Any) -> None:
        await getattr(self, name.replace(" ", "_"))(*arguments)

    async def compare(self) -> None:
        """Look at what a new mount shows."""

    def judge(self) -> None:
        """After each step."""
        raise NotImplementedError

    async def settle(self) -> None:
        """The end of all."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def outage(self) -> None:
        self.machine.driver.outage = True

    async def heal(self) -> None:
        self.machine.driver.heal()
        await trio.sleep(20)

    async def fail(self, nth: int, verb: str, acted: bool) -> None:
        self.machine.driver.fail(nth, verb=verb, acted=acted)


class Alone(Player):
    """On the mount and on the reference."""

    def __init__(self, machine: Machine, operations: list[tuple[Any, ...]]) -> None:
        super().__init__(machine, operations)
        self.reference = Reference()
        delete = machine.bucket.delete

        def watched(key: Any, expected: Any) -> None:
            delete(key, expected)
            for path, before in self.reference.before.items():
                assert key not in before or path in machine.objects(), f"for a moment {path} had no name in the store"

        machine.bucket.delete = watched  # type: ignore[method-assign]

    def judge(self) -> None:
        assert not self.life.watcher.changes, "nobody else changes anything"

    async def settle(self) -> None:
        self.machine.driver.heal()
        if self.reference.held is not None:
            await self.step("release")
        await trio.sleep(20)
        await self.life.drain()
        self.life.check()
        assert self.machine.objects() == self.reference.stored()
        assert not self.life.journal.conflicts
        await self.compare()
        self.life.crash()

    async def compare(self) -> None:
        """What is shown is what a local disk would show; while the store is away, what needs no store."""
        if not self.machine.driver.outage and not self.machine.driver._faults:
            assert await self.life.everything() == self.reference.shown()

    async def save(self, path: str, number: int) -> None:
        await self._store(path, b"saved %d" % number)

    async def _store(self, path: str, data: bytes) -> None:
        reference = self.reference
        if not reference.parent(path) or reference.busy(path):
            return
        await self.life.save(path, data)
        reference.files[path] = data

    async def append(self, path: str, number: int) -> None:
        reference = self.reference
        if path not in reference.files or reference.busy(path):
            return
        data = b" more %d" % number
        with self.unless_away():
            await self.life.save(path, data, os.O_WRONLY | os.O_APPEND)
            reference.files[path] += data

    async def temp_save(self, path: str, temporary: str, number: int) -> None:
        reference = self.reference
        beside = f"{path.rpartition('/')[0]}/{temporary}"
        if not reference.parent(path) or reference.busy(path) or reference.taken(beside):
            return
        await self._store(beside, b"temp %d" % number)
        await self.rename(beside, path)

    async def vim_save(self, path: str, number: int) -> None:
        backup = path + "~"
        reference = self.reference
        if path not in reference.files or reference.busy(path) or reference.busy(backup):
            return
        await self.rename(path, backup, to_backup=True)
        if path not in reference.files:
            await self._store(path, b"vim %d" % number)
            await self.unlink(backup)

    async def vim_dies(self, path: str) -> None:
        """Between the rename to the backup and the new file: the stored file comes back."""
        reference = self.reference
        if path not in reference.files or reference.held is not None or self.machine.driver.outage:
            return
        data = reference.files[path]
        await self.life.drain()
        await self.rename(path, path + "~", to_backup=True)
        if path not in reference.files:
            await self.crash()
            reference.files[path] = data

    async def rename(self, old: str, new: str, *, to_backup: bool = False) -> None:
        reference = self.reference
        if old not in reference.files or not reference.parent(new) or reference.busy(old) or reference.busy(new):
            return
        if old == new or new in reference.directories:
            return
        if reference.local(new) and not reference.local(old) and not to_backup:
            return  # a crash within --delete-delay would bring the old name back
        with self.unless_away():
            await self.life.rename(old, new)
            reference.files[new] = reference.files.pop(old)
            before = reference.before.pop(old, set()) | {old}
            reference.before.pop(new, None)
            if not reference.local(new):
                reference.before[new] = before - {new}

    async def move_directory(self, old: str, new: str) -> None:
        reference = self.reference
        if old not in reference.directories or reference.taken(new) or not reference.parent(new):
            return
        if new.startswith(old + "/") or reference.busy(old):
            return
        with self.unless_away():
            await self.life.rename(old, new)
            for before in [old, *reference.below(old)]:
                after = new + before[len(old) :]
                for group in (reference.files, reference.links):
                    if before in group:
                        group[after] = group.pop(before)
                if before in reference.directories:
                    reference.directories.remove(before)
                    reference.directories.add(after)
                if before in reference.before:
                    reference.before[after] = reference.before.pop(before) | {before}

    async def unlink(self, path: str) -> None:
        if path in self.reference.files and not self.reference.busy(path):
            self.reference.before.pop(path, None)
            await self.life.unlink(path)
            del self.reference.files[path]

    async def mkdir(self, path: str) -> None:
        if not self.reference.taken(path) and self.reference.parent(path):
            await self.life.mkdir(path)
            self.reference.directories.add(path)

    async def rmdir(self, path: str) -> None:
        if path in self.reference.directories and not self.reference.below(path):
            await self.life.rmdir(path)
            self.reference.directories.remove(path)

    async def truncate(self, path: str, size: int) -> None:
        reference = self.reference
        if path in reference.files and not reference.busy(path):
            with self.unless_away():
                await self.life.truncate(path, size)
                reference.files[path] = reference.files[path][:size].ljust(size, b"\0")

    async def symlink(self, path: str) -> None:
        reference = self.reference
        if reference.parent(path) and not reference.taken(path):
            await self.life.symlink(b"../\xff", path)
            reference.links[path] = b"../\xff"

    async def open(self, path: str, truncate: bool) -> None:
        reference = self.reference
        if reference.held is not None or not reference.parent(path):
            return
        before = reference.files.get(path)
        flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if truncate else 0)
        with self.unless_away():
            handle = await self.life.open(path, flags)
            data = b"" if truncate or before is None else before
            reference.held = (path, handle, data, before)
            reference.files[path] = data

    async def write(self, number: int) -> None:
        held = self.reference.held
        if held is not None:
            data = b"w%d" % number
            await self.life.write(held[1], data, len(held[2]))
            self.reference.files[held[0]] = held[2] + data
            self.reference.held = (held[0], held[1], held[2] + data, held[3])

    async def flush(self) -> None:
        held = self.reference.held
        if held is not None:
            await self.life.fs.files.flush(held[1])
            self.reference.held = (held[0], held[1], held[2], held[2])

    async def release(self) -> None:
        held = self.reference.held
        if held is not None:
            await self.life.close(held[1])
            self.reference.held = None

    async def read(self, path: str) -> None:
        if path in self.reference.files:
            with self.unless_away():
                assert await self.life.read(path) == self.reference.files[path]

    async def heal(self) -> None:
        await super().heal()
        await self.compare()

    async def crash(self) -> None:
        await trio.sleep(0.0001)  # what nobody waits for is on disk a moment later
        self.life.crash()
        held = self.reference.held
        if held is not None:
            if held[3] is None:
                del self.reference.files[held[0]]
            else:
                self.reference.files[held[0]] = held[3]
            self.reference.held = None

    @contextlib.contextmanager
    def unless_away(self) -> Iterator[None]:
        """Bytes that are not on this machine cannot be had while the store is away."""
        away = self.machine.driver.outage
        try:
            yield
        except (FsError, StoreError, TimedOutError, trio.TooSlowError):
            if not away:
                raise


@contextlib.contextmanager
def filled(make: Callable[..., Machine], seed: int, **more: Any) -> Iterator[Machine]:
    """A machine whose store holds INITIAL, in a directory that ends with the example."""
    with scratch("model", in_memory=True) as directory:
        machine = make(directory, settings={"guard": "off"}, delay=slow(seed), **more)
        for key, data in INITIAL.items():
            machine.put(key, data)
        yield machine


def run_alone(operations: list[tuple[Any, ...]], seed: int = 0) -> None:
    with filled(Machine, seed) as machine:
        run(Alone(machine, operations).main, seed)
        machine.bucket.check()
        assert not [k for _, k in machine.requests() if _ == "put" and Reference().local(k)], "a dropping was uploaded"


common = settings(
    max_examples=int(os.environ.get("KOPSFS_TEST_EXAMPLES", "150")),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


@common
@given(st.lists(alone, min_size=1, max_size=40), st.integers(0, 50))
def test_alone_it_is_a_local_disk_that_becomes_the_store(operations: list[tuple[Any, ...]], seed: int) -> None:
    run_alone(operations, seed)
