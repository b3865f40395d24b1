"""Does the thread that makes the journal durable promise only what is, and stop nobody?

With the real thread and the real clock: one commit for all who wait, a full disk (a tmpfs where the test may mount
one), a disk whose fsync takes long, errors that pass and errors that stay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kopsfs.errors import JournalError, SpaceError
from kopsfs.fs import committer as committer_module
from kopsfs.fs.committer import Committer
from kopsfs.fs.journal import Journal
from kopsfs.fs.spool import Generation, Spool, SpoolDirectory
from kopsfs.store.driver import ABSENT
from tests.conftest import ExpectLog

Body = Callable[[Journal, Committer], Awaitable[None]]


def small(data: bytes) -> Generation:
    return Generation(data, None, len(data))


def opened(directory: Path) -> Journal:
    journal = Journal(directory)
    journal.load()
    return journal


def run(directory: Path, body: Body) -> None:
    """Run with the thread; nothing may take a minute."""

    async def main() -> None:
        journal = opened(directory)
        committer = Committer(journal)
        committer.start()
        try:
            with trio.fail_after(60):
                await body(journal, committer)
        finally:
            await committer.stop()

    trio.run(main)


class Gate:
    """Stands in the way of every fsync of the spool, as a slow disk does."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        self.entered.set()
        assert self.released.wait(30)
        os.fsync(fd)


def large(journal: Journal) -> Generation:
    spool = Spool(SpoolDirectory(journal.spool_path, reserve_bytes=0), size_max=1 << 30)
    spool.write(0, b"large" * 20_000)
    return spool.freeze()


def test_what_was_committed_is_there_when_it_returns(tmp_path: Path) -> None:
    async def body(journal: Journal, committer: Committer) -> None:
        journal.put("a", small(b"a"), ABSENT)
        await committer.commit()
        seen = opened(tmp_path)
        assert [i.path for i in seen.all()] == ["a"]

    run(tmp_path, body)


def test_all_who_wait_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(committer_module, "os", gate)

    async def body(journal: Journal, committer: Committer) -> None:
        async with trio.open_nursery() as nursery:
            journal.put("first", large(journal), ABSENT)
            nursery.start_soon(committer.commit)
            await trio.to_thread.run_sync(gate.entered.wait)
            for number in range(50):
                journal.put(f"f{number}", small(b"x"), ABSENT)
                nursery.start_soon(committer.commit)
            await trio.testing.wait_all_tasks_blocked()
            gate.released.set()
        assert committer.commits == 2
        assert len(opened(tmp_path)) == 51

    run(tmp_path, body)


def test_a_slow_disk_stops_nobody_who_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(committer_module, "os", gate)

    async def body(journal: Journal, committer: Committer) -> None:
        async with trio.open_nursery() as nursery:
            journal.put("slow", large(journal), ABSENT)
            nursery.start_soon(committer.commit)
            await trio.to_thread.run_sync(gate.entered.wait)
            for number in range(1000):  # the disk works; the event loop and the memory of the journal go on
                journal.put("other", small(b"%d" % number), ABSENT)
                committer.wake()
                await trio.lowlevel.checkpoint()
            assert committer.durable == 0
            gate.released.set()
        await committer.commit()
        assert committer.durable == journal.serial

    run(tmp_path, body)


def test_who_gives_up_waiting_still_has_it_on_disk(tmp_path: Path) -> None:
    async def body(journal: Journal, committer: Committer) -> None:
        journal.put("a", small(b"a"), ABSENT)
        with trio.move_on_after(0):
            await committer.commit()
        assert committer.durable == journal.serial

    run(tmp_path, body)


def test_a_row_is_never_written_before_its_file_though_the_next_batch_drops_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes were discarded between two batches: the first one's row still names them until the second is written."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    journal = opened(tmp_path)
    spool = Spool(SpoolDirectory(journal.spool_path), size_max=1 << 30)
    spool.write(0, b"x" * 100_000)
    generation = spool.freeze()
    assert generation.path is not None
    journal.put("c1/large", generation, ABSENT)
    first, _ = journal.take()
    journal.put("c1/large", small(b"newer"), ABSENT)
    second, _ = journal.take()
    assert generation in second.discards
    monkeypatch.setattr(os, "fsync", fsync)
    Committer(journal)._sync_spool([first])
    assert generation.path.name in synced
    synced.clear()
    Committer(journal)._sync_spool([first, second])
    assert synced == []
    spool.close()


def test_stopping_writes_the_rest(tmp_path: Path) -> None:
    async def body(journal: Journal, committer: Committer) -> None:
        journal.put("a", small(b"a"), ABSENT)

    run(tmp_path, body)
    assert len(opened(tmp_path)) == 1


class Broken:
    """A disk that refuses until it is told not to."""

    def __init__(self, committer: Committer, error: Exception) -> None:
        self.error: Exception | None = error
        self._write = committer._write
        committer._write = self.write  # type: ignore[method-assign]

    def write(self, connection: sqlite3.Connection, batches: Any) -> None:
        if self.error is not None:
            raise self.error
        self._write(connection, batches)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), SpaceError),
        (sqlite3.OperationalError("database or disk is full"), SpaceError),
        (OSError(errno.EIO, "Input/output error"), JournalError),
        (sqlite3.OperationalError("disk I/O error"), JournalError),
        (ValueError("a bug"), JournalError),
    ],
)
def test_what_the_disk_refuses_is_said_to_each_who_asks_and_comes_when_it_can(
    tmp_path: Path, expect_log: ExpectLog, error: Exception, told: type[Exception]
) -> None:
    expect_log("the journal cannot be written")

    async def body(journal: Journal, committer: Committer) -> None:
        broken = Broken(committer, error)
        journal.put("a", small(b"a"), ABSENT)
        for _ in range(3):  # also where nothing new has come since: a program closes again
            with pytest.raises(told):
                await committer.commit()
        journal.put("b", small(b"b"), ABSENT)
        with pytest.raises(told):
            await committer.commit()
        broken.error = None
        await committer.commit()
        assert [i.path for i in opened(tmp_path).all()] == ["a", "b"]
        assert committer.failure is None

    run(tmp_path, body)


def test_a_database_that_cannot_be_opened_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that ended for it would leave every close waiting."""

    def full(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    journal = opened(tmp_path)
    monkeypatch.setattr(committer_module, "connect", full)

    async def main() -> None:
        with pytest.raises(JournalError, match=r"state\.db: database or disk is full$"):
            Committer(journal).start()

    trio.run(main)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    where = tmp_path / "tiny"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(where)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(directory: Path, but: int = 0) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(directory)
    with contextlib.suppress(OSError):
        (directory / "elsewhere").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - but)))


def test_a_full_disk_is_said_at_write_and_never_at_close(tiny: Path) -> None:
    async def body(journal: Journal, committer: Committer) -> None:
        fill(tiny, but=512 * 1024)
        place = SpoolDirectory(journal.spool_path, reserve_bytes=128 * 1024)
        accepted = {}
        for number in range(10_000):
            spool = Spool(place, size_max=1 << 30)
            try:
                spool.write(0, b"%08d" % number * 1000)
            except SpaceError:
                break
            generation = spool.freeze()
            journal.put(f"f{number}", generation, ABSENT)
            accepted[f"f{number}"] = generation.read()
            await committer.commit()
        else:
            raise AssertionError("it was never full")
        assert len(accepted) > 10
        assert {i.path: i.generation.read() for i in opened(tiny).all() if i.generation} == accepted

    run(tiny, body)


def test_what_was_accepted_is_committed_when_others_have_filled_the_disk(tiny: Path, expect_log: ExpectLog) -> None:
    expect_log("using the journal's reserve")

    async def body(journal: Journal, committer: Committer) -> None:
        data = b"accepted" * 5000
        journal.put("f", small(data), ABSENT)
        fill(tiny)
        await committer.commit()
        (intent,) = opened(tiny).all()
        assert intent.generation is not None
        assert intent.generation.read() == data

    run(tiny, body)
