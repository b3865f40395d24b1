"""What may happen while a large object arrives, and to whom do its bytes belong then?

A GET takes seconds here: others write, empty, rename and open the file meanwhile.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from kopsfs.errors import NoEntryError, StaleError, StoreError
from kopsfs.fs.content import LARGE_BYTES, LargeBlob
from kopsfs.store.driver import Key, ObjectInfo, Version
from tests.conftest import ExpectLog
from tests.support.lives import ROOT_CALLER, Body, Life, Machine, during

LARGE = os.urandom(1000) * (LARGE_BYTES // 1000 + 1)
THEIRS = b"theirs, and nobody here has read it"
GET_S = 5.0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.put("c/big", LARGE)
    made.delay = lambda verb, _key: (0.0, GET_S if verb == "get" else 0.0)
    return made


def while_they_write(machine: Machine, act: Body) -> None:
    """Begin, then another client replaces the object, and the mount hears of it; nothing of theirs is lost."""

    async def body(life: Life) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act, life)
            await trio.sleep(1)
            machine.put("c/big", THEIRS)
            await trio.sleep(1.5)
            await life.ls("c")
        await life.drain()
        await trio.sleep(2)
        kept = [*machine.objects().values(), *(c.generation.read() for c in life.journal.conflicts.values())]
        assert THEIRS in kept or THEIRS[:10] in kept, sorted(machine.objects())

    during(machine, body)


def test_a_rename_takes_along_what_is_there_in_the_end(machine: Machine) -> None:
    async def rename(life: Life) -> None:
        await life.rename("c/big", "c/moved")

    while_they_write(machine, rename)
    assert machine.objects() == {"c/moved": THEIRS}


def test_a_truncation_cuts_what_is_there_in_the_end(machine: Machine) -> None:
    async def cut(life: Life) -> None:
        await life._again(lambda: life.truncate("c/big", 10))

    while_they_write(machine, cut)
    assert machine.objects() == {"c/big": THEIRS[:10]}


def test_a_write_through_a_handle_that_is_older_than_their_version_is_a_conflict(
    machine: Machine, expect_log: ExpectLog
) -> None:
    expect_log("conflict key=c/big")

    async def write(life: Life) -> None:
        handle = await life.open("c/big", os.O_WRONLY)
        await life.write(handle, b"mine")
        await life.close(handle)

    while_they_write(machine, write)
    assert machine.objects() == {"c/big": THEIRS}


def test_a_name_that_is_another_files_by_now_is_looked_up_again(machine: Machine) -> None:
    """ESTALE, which the kernel answers by trying again; ENOENT would be a lie."""

    async def body(life: Life) -> None:
        parent = await life.walk("c")
        big = await life.walk("c/big")
        big.opens += 1  # somebody reads it

        async def replaced() -> None:
            await trio.sleep(1)
            machine.put("c/big", THEIRS)
            await trio.sleep(1.5)
            await life.ls("c")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replaced)
            with pytest.raises(StaleError):
                await life.fs.rename(parent.ino, b"big", parent.ino, b"moved", 0, ROOT_CALLER)
        assert not life.tree.linked(big)
        big.opens -= 1
        with pytest.raises(NoEntryError):
            await life.walk("c/moved")

    during(machine, body)


def test_all_who_open_it_at_once_share_one_get(machine: Machine) -> None:
    async def body(life: Life) -> None:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await life.read("c/big"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
        await trio.sleep(2 * GET_S)
        assert got == [LARGE] * 3
        assert machine.driver.count("get") == 1

    during(machine, body)


def test_who_reads_when_it_is_emptied_reads_what_is_there_then(machine: Machine) -> None:
    async def body(life: Life) -> None:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await life.read("c/big"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            await life.save("c/big", b"new")
        assert got == [b"new"]

    during(machine, body)


def test_what_cannot_be_fetched_leaves_nothing_behind(machine: Machine) -> None:
    async def body(life: Life) -> None:
        machine.driver.fail(verb="get", error=lambda op, key: StoreError(op, key, "no"))
        with pytest.raises(Exception, match="no"):
            await life.truncate("c/big", 10)
        big = await life.walk("c/big")
        assert (big.opens, big.content, big.spool) == (0, None, None)
        assert not list(life.parts.spool_directory.path.iterdir())

    during(machine, body)


def test_its_copy_is_nobody_elses_to_read(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.open("c/big", os.O_WRONLY)
        await life.write(handle, b"mine")
        (copy,) = life.parts.spool_directory.path.iterdir()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        await life.close(handle)
        await life.drain()
        assert machine.objects()["c/big"] == b"mine" + LARGE[4:]

    during(machine, body)


def test_an_attempt_that_begins_anew_is_waited_for(tmp_path: Path) -> None:
    """What had arrived is gone from the file for a moment: who reads it meanwhile must not take that for its end."""
    info = ObjectInfo(Key("big"), Version("1"), 10, 0, None)

    async def main() -> None:
        blob = LargeBlob(info, tmp_path, 60.0)
        blob._file.write(b"0123456789")
        blob._progress(info, 10)
        assert await blob.read(0, 10) == b"0123456789"
        blob._file.seek(0)
        blob._file.truncate()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await blob.read(0, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            blob._file.write(b"0123456789")
            blob._progress(info, 10)
        assert got == [b"0123456789"]
        blob.finished = True
        blob.close()

    trio.run(main)
