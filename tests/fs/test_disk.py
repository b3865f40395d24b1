"""What if the local disk is full, broken, or holds what was not written, and what if the clock is set back?

The mount goes on: whoever writes is told, nobody else is, and what was acknowledged reaches the store.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import trio

from kopsfs.errors import SpaceError
from kopsfs.fs.spool import SMALL_BYTES_MAX, SpoolDirectory
from tests.conftest import ExpectLog
from tests.support import lives
from tests.support.lives import Life, Machine, during


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.put("c/config", b"config")
    return machine


def full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_conflict_while_the_disk_is_full_ends_nothing(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/config")
    expect_log("the journal cannot be written")

    async def body(life: Life) -> None:
        await life.save("c/config", b"mine")
        machine.put("c/config", b"theirs")
        life.committer._write = full  # type: ignore[method-assign]
        await trio.sleep(5)
        (conflict,) = life.journal.conflicts.values()
        assert conflict.generation.read() == b"mine"
        assert await life.read("c/config") == b"theirs"

    during(machine, body, upload_delay_s=1.0)


def test_an_open_that_was_refused_keeps_no_upload_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_directory: SpoolDirectory, _size: int) -> None:
        raise SpaceError("full")

    async def body(life: Life) -> None:
        await life.save("c/config", b"x" * (SMALL_BYTES_MAX + 1))
        with monkeypatch.context() as patch:
            patch.setattr(SpoolDirectory, "demand", refuse)
            handle = await life.open("c/config", os.O_WRONLY | os.O_TRUNC)  # to empty a file needs no room
            with pytest.raises(SpaceError):
                await life.write(handle, b"y")
            await life.close(handle)
        config = await life.walk("c/config")
        assert (config.opens, config.writers) == (0, 0)
        await life.save("c/config", b"y")
        await life.drain()
        assert machine.objects()["c/config"] == b"y"

    during(machine, body, guard="off")


def test_a_close_that_was_refused_closes(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("the journal cannot be written")

    async def body(life: Life) -> None:
        works = life.committer._write
        handle = await life.open("c/config", os.O_WRONLY)
        await life.write(handle, b"CONFIG")
        life.committer._write = full  # type: ignore[method-assign]
        with pytest.raises(SpaceError):
            await life.fs.files.flush(handle)
        with pytest.raises(SpaceError):
            await life.fs.files.release(handle)
        config = await life.walk("c/config")
        assert (config.opens, config.writers) == (0, 0)
        life.committer._write = works  # type: ignore[method-assign]
        await life.drain()
        assert machine.objects()["c/config"] == b"CONFIG"

    during(machine, body)


def test_a_file_that_cannot_be_read_any_more_is_held_and_the_others_go_on(
    machine: Machine, expect_log: ExpectLog
) -> None:
    expect_log("op=upload key=c/config held: .*cannot be read")

    async def body(life: Life) -> None:
        await life.save("c/config", b"x" * (SMALL_BYTES_MAX + 1))
        for spooled in (machine.directory / "state" / "spool").iterdir():
            spooled.unlink()
        await life.save("c/other", b"other")
        await trio.sleep(5)
        assert life.journal.owed("c/config")[0].held
        assert machine.objects() == {"c/config": b"config", "c/other": b"other"}

    during(machine, body, upload_delay_s=1.0)


def test_a_cache_whose_tree_is_damaged_is_begun_anew(machine: Machine) -> None:
    objects = 2000
    for number in range(objects):
        machine.put(f"c/{'d' * 60}{number}", b"")

    async def look(life: Life) -> None:
        await trio.sleep(3)
        assert len(await life.ls("c")) == objects + 1

    during(machine, look)
    path = machine.directory / "cache" / "cache.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    middle = path.stat().st_size // 2 // 4096 * 4096
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xff" * 4 * 4096)
    during(machine, look)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_is_set_back_keeps_no_upload_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    async def save(life: Life) -> None:
        await life.save("c/new", b"new")
        monkeypatch.setattr(lives._Time, "began", lives._Time.began - 86_400)
        if not restarts:
            await settled(life)

    async def settled(_life: Life) -> None:
        await trio.sleep(5)
        assert machine.objects()["c/new"] == b"new"

    during(machine, save, upload_delay_s=1.0)
    if restarts:
        during(machine, settled, upload_delay_s=1.0)


def test_a_clock_that_is_set_back_keeps_no_deletion_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(life: Life) -> None:
        await life.rename("c/config", "c/config~")
        monkeypatch.setattr(lives._Time, "began", lives._Time.began - 86_400)
        await trio.sleep(9)
        assert machine.objects() == {"c/config": b"config"}
        await trio.sleep(3)
        assert machine.objects() == {}

    during(machine, body, delete_delay_s=10.0)
