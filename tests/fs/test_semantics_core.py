"""Promises 1 to 5 and 8 of the design, at the file system, without a kernel.

Each test is a sentence of a promise, or an accident somebody had. The mount's own test (`tests/test_semantics.py`)
repeats the important ones with real programs; here they take milliseconds and their order of events is the same each time.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from kopsfs.errors import (
    FsError,
    NoEntryError,
    StaleError,
    StoreGoneError,
    TimedOutError,
    TransientError,
)
from tests.conftest import ExpectLog
from tests.support.lives import Life, Machine, during

INITIAL = {"c/config": b"config", "c/instancegroup/nodes": b"nodes", "c/pki/issued/ca": b"ca"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for key, data in INITIAL.items():
        made.put(key, data)
    return made


# -- 1: exact bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0", b"\r\n", b"\xef\xbb\xbfa: 1", b"no newline", bytes(range(256)) * 1000])
def test_what_was_written_is_what_the_store_holds_and_the_reverse(machine: Machine, data: bytes) -> None:
    async def body(life: Life) -> None:
        await life.save("c/new", data)
        machine.put("c/theirs", data)
        await life.drain()
        await trio.sleep(2)
        assert machine.objects()["c/new"] == data
        assert await life.read("c/theirs") == data

    during(machine, body)


def test_a_flush_does_not_wait_for_a_file_that_is_written_under_a_new_name(machine: Machine) -> None:
    """The deletion of the old name comes after the put of the new one, which comes after the close."""

    async def body(life: Life) -> None:
        handle = await life.open("c/config", os.O_WRONLY)
        await life.write(handle, b"new")
        await life.rename("c/config", "c/renamed")
        await life.drain(budget_s=1)
        assert {*machine.objects()} >= {"c/config"}
        await life.close(handle)
        await life.drain()
        assert machine.objects()["c/renamed"][:3] == b"new"
        assert "c/config" not in machine.objects()

    during(machine, body)


# -- 2: nothing lost ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_second_close_waits_for_the_disk_as_the_first_does(machine: Machine, size: int) -> None:
    """Two handles write one file; the one that finds nothing left to enter must not return before it is durable."""

    async def body(life: Life) -> None:
        first = await life.open("c/config", os.O_WRONLY)
        second = await life.open("c/config", os.O_WRONLY)
        await life.write(first, b"x" * size)
        done: list[int] = []

        async def flush(handle: int) -> None:
            await life.fs.files.flush(handle)
            done.append(handle)
            assert life.committer.durable >= 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, first)
            nursery.start_soon(flush, second)
        await life.close(first)
        await life.close(second)

    during(machine, body)


def test_a_large_save_by_rename_survives_a_crash(machine: Machine) -> None:
    data = b"large" * 100_000

    async def body(life: Life) -> None:
        await life.save("c/temporary", data)
        await life.rename("c/temporary", "c/config")

    during(machine, body, upload_delay_s=1000.0)

    async def after(life: Life) -> None:
        assert await life.read("c/config") == data
        await life.drain()
        assert machine.objects()["c/config"] == data

    during(machine, after)


def test_a_write_during_a_directory_rename_moves_with_it(machine: Machine) -> None:
    """The bytes of its files are fetched first; what is written meanwhile counts."""
    machine.delay = lambda verb, _key: (0.5, 0.5) if verb == "get" else (0.0, 0.0)
    for number in range(5):
        machine.put(f"d/{number}", b"old %d" % number)

    async def body(life: Life) -> None:
        await life.ls("d")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.rename, "d", "e")
            await trio.sleep(1.5)
            await life.save("d/0", b"newer")
            await life.save("d/new", b"new")
        assert await life.read("e/0") == b"newer"
        assert await life.read("e/new") == b"new"
        await life.drain()
        expected = {f"e/{n}": b"old %d" % n for n in range(1, 5)} | {"e/0": b"newer", "e/new": b"new"}
        assert {k: d for k, d in machine.objects().items() if not k.startswith("c/")} == expected

    during(machine, body)


async def vim(life: Life) -> list[Callable[[], Awaitable[None]]]:
    return [
        lambda: life.save("c/4913", b"", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        lambda: life.unlink("c/4913"),
        lambda: life.rename("c/config", "c/config~"),
        lambda: life.save("c/config", b"edited", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        lambda: life.unlink("c/config~"),
    ]


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_vims_save_killed_anywhere_never_leaves_the_store_without_the_file(
    machine: Machine, steps: int, wait_s: float
) -> None:
    delete = machine.bucket.delete
    deleted: list[str] = []

    def watched(key: object, expected: object) -> None:
        deleted.append(str(key))
        delete(key, expected)  # type: ignore[arg-type]

    machine.bucket.delete = watched  # type: ignore[method-assign]

    async def body(life: Life) -> None:
        for act in (await vim(life))[:steps]:
            await act()
            await trio.sleep(wait_s)

    during(machine, body)

    async def after(life: Life) -> None:
        await trio.sleep(60)
        await life.drain()
        content = b"edited" if steps >= 4 else b"config"
        assert machine.objects() == {**INITIAL, "c/config": content}
        assert await life.read("c/config") == content
        if steps == 3 or (steps == 4 and await life.exists("c/config~")):
            assert await life.read("c/config~") == b"config"

    during(machine, after)
    assert deleted == []


def test_a_file_moved_to_a_backup_name_for_good_goes_after_its_delay(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.rename("c/config", "c/config~")
        await trio.sleep(9)
        assert "c/config" in machine.objects()
        await trio.sleep(2)
        assert "c/config" not in machine.objects()
        assert await life.read("c/config~") == b"config"

    during(machine, body)


def test_fsync_waits_for_the_store_also_while_newer_bytes_come(machine: Machine) -> None:
    """The write it waits for is replaced before its turn; it must not wait for ever."""
    machine.delay = lambda verb, _key: (1.0, 1.0) if verb == "put" else (0.0, 0.0)

    async def body(life: Life) -> None:
        await life.save("c/config", b"1")
        await trio.sleep(0.1)
        await life.save("c/config", b"2")
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(life.fsync, "c/config")
                await trio.sleep(0.1)
                await life.save("c/config", b"3")
        assert machine.objects()["c/config"] == b"3"

    during(machine, body)


def test_fsync_says_at_once_that_the_store_is_down(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(life: Life) -> None:
        machine.driver.outage = True
        await life.save("c/config", b"edited")
        await trio.sleep(10)
        started = trio.current_time()
        with pytest.raises(TimedOutError):
            await life.fsync("c/config")
        assert trio.current_time() - started < 0.1
        machine.driver.heal()
        await trio.sleep(30)
        assert machine.objects()["c/config"] == b"edited"

    during(machine, body)


# -- 3: nothing overwritten -----------------------------------------------------------------------------------------------


def test_the_loser_is_kept_shown_theirs_and_told(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/config")
    machine.delay = lambda verb, _key: (0.5, 0.0) if verb == "put" else (0.0, 0.0)

    async def body(life: Life) -> None:
        handle = await life.open("c/config", os.O_RDWR)
        await life.write(handle, b"mine!!")
        machine.put("c/config", b"theirs")
        with pytest.raises(StaleError):
            await life.fs.files.fsync(handle)
        assert await life.fs.files.read(handle, 0, 100) == b"mine!!", "the handle keeps what it wrote"
        assert await life.read("c/config") == b"theirs"
        await life.close(handle)
        assert await life.read("c/config") == b"theirs"
        assert [c.generation.read() for c in life.journal.conflicts.values()] == [b"mine!!"]

    during(machine, body)

    async def after(life: Life) -> None:
        assert [c.generation.read() for c in life.journal.conflicts.values()] == [b"mine!!"]
        assert await life.read("c/config") == b"theirs"

    during(machine, after)


def test_a_deletion_of_what_changed_meanwhile_is_not_carried_out(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/config op=delete")

    async def body(life: Life) -> None:
        await life.read("c/config")
        machine.put("c/config", b"theirs")
        await life.unlink("c/config")
        await life.drain()
        assert machine.objects()["c/config"] == b"theirs"
        assert await life.read("c/config") == b"theirs"

    during(machine, body)


def test_a_deletion_is_based_on_what_its_process_has_read(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/config op=delete")

    async def body(life: Life) -> None:
        await life.read("c/config", thread=os.getpid())
        machine.put("c/config", b"theirs")
        await trio.sleep(2)
        await life.ls("c")
        await life.unlink("c/config", thread=os.getpid())
        await life.drain()
        assert machine.objects()["c/config"] == b"theirs"

    during(machine, body)


def test_a_rename_that_loses_at_its_target_keeps_its_source(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/moved")

    async def body(life: Life) -> None:
        machine.put("c/moved", b"theirs")
        await life.rename("c/config", "c/moved")
        await life.save("c/config", b"a new one")
        await life.drain()
        await trio.sleep(2)
        assert machine.objects() == {**INITIAL, "c/moved": b"theirs", "c/config": b"a new one"}
        assert await life.read("c/moved") == b"theirs"
        assert [c.generation.read() for c in life.journal.conflicts.values()] == [b"config"]

    during(machine, body)


# -- 4: close-to-open -----------------------------------------------------------------------------------------------------


def test_an_open_file_is_one_version_to_its_end(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.open("c/config")
        ino = (await life.stat("c/config")).ino
        machine.put("c/config", b"CONFIG")
        await trio.sleep(2)
        assert await life.read("c/config") == b"CONFIG"
        assert (await life.stat("c/config")).ino != ino
        assert await life.fs.files.read(handle, 0, 3) == b"con"
        assert await life.fs.files.read(handle, 3, 100) == b"fig"
        assert life.fs.stat(life.fs.files.handles[handle].inode).size == 6
        await life.close(handle)

    during(machine, body)


def test_without_staleness_every_open_asks_after_it_began(machine: Machine) -> None:
    machine.delay = lambda verb, _key: (0.0, 0.4) if verb == "list" else (0.0, 0.0)

    async def body(life: Life) -> None:
        inode = await life.walk("c/config")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.stat, "c/config")
            await trio.sleep(0.2)  # a listing is under way, and has been answered
            machine.put("c/config", b"theirs")
            handle, _ = await life.fs.files.open(inode, os.O_RDONLY, 0)
            assert await life.fs.files.read(handle, 0, 100) == b"theirs"

    during(machine, body, max_staleness_s=0.0)


def test_an_upload_moves_neither_mtime_nor_inode(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.save("c/config", b"edited")
        before = await life.stat("c/config")
        await life.drain()
        await trio.sleep(10)
        after = await life.stat("c/config")
        assert (after.mtime_ns, after.ino, after.size) == (before.mtime_ns, before.ino, before.size)
        remembered.append(after.mtime_ns)

    remembered: list[int] = []
    during(machine, body)

    async def later(life: Life) -> None:
        assert (await life.stat("c/config")).mtime_ns == remembered[0]
        await trio.sleep(10)
        assert (await life.stat("c/config")).mtime_ns == remembered[0]
        machine.put("c/config", b"theirs")
        await trio.sleep(2)
        assert (await life.stat("c/config")).mtime_ns != remembered[0]

    during(machine, later)


# -- 5: never an empty lie ------------------------------------------------------------------------------------------------


def test_an_empty_listing_never_shrinks_the_tree(machine: Machine) -> None:
    async def body(life: Life) -> None:
        before = await life.everything()
        machine.driver.empty_listings = True
        for _ in range(5):
            await trio.sleep(3)
            assert await life.everything() == before
        assert life.refresh.stale_since is not None
        machine.driver.heal()
        await trio.sleep(3)
        await life.ls("c")
        assert life.refresh.stale_since is None

    during(machine, body)


def test_a_store_that_was_emptied_is_shown_empty(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.everything()
        for key in list(machine.objects()):
            machine.delete(key)
        await trio.sleep(2)
        assert await life.everything() == {}

    during(machine, body)


@pytest.mark.parametrize("error", [StoreGoneError, TransientError])
def test_a_bucket_that_went_missing_is_a_store_that_is_down(
    machine: Machine, error: type[Exception], expect_log: ExpectLog
) -> None:
    expect_log("store is down")

    async def body(life: Life) -> None:
        before = await life.everything()
        machine.driver.fail(1, times=float("inf"), error=error)  # type: ignore[arg-type]
        for _ in range(5):
            await trio.sleep(3)
            assert await life.everything() == before
        started = trio.current_time()
        assert await life.read("c/config") == b"config"
        assert trio.current_time() == started, "answers are immediate once it is known"
        await life.save("c/config", b"edited")
        machine.driver.heal()
        await trio.sleep(60)
        await life.drain()
        assert machine.objects()["c/config"] == b"edited"

    during(machine, body)


def test_bytes_that_cannot_be_had_are_an_error_and_not_absent(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(life: Life) -> None:
        await life.ls("c")
        machine.driver.outage = True
        with pytest.raises((FsError, trio.TooSlowError)) as caught:
            await life.read("c/config")
        assert not isinstance(caught.value, NoEntryError)
        await trio.sleep(20)
        assert (await life.stat("c/config")).size == 6

    during(machine, body)


# -- 8: nothing extra in the store ----------------------------------------------------------------------------------------


def test_half_a_file_never_reaches_the_store(machine: Machine) -> None:
    """`(echo header; sleep 1; echo body) > f`: each echo's exit flushes the shell's descriptor."""
    put = machine.bucket.put
    stored: list[bytes] = []

    def watched(key: object, data: bytes, expected: object) -> object:
        stored.append(data)
        return put(key, data, expected)  # type: ignore[arg-type]

    machine.bucket.put = watched  # type: ignore[method-assign,assignment]

    async def body(life: Life) -> None:
        handle = await life.open("c/config", os.O_WRONLY | os.O_TRUNC)
        await life.fs.files.flush(handle)
        await trio.sleep(1)
        await life.write(handle, b"header\n")
        await life.fs.files.flush(handle)
        await trio.sleep(5)
        await life.write(handle, b"body\n", 7)
        await life.fs.files.flush(handle)
        await trio.sleep(1)
        await life.close(handle)
        await life.drain()

    during(machine, body, guard="off")
    assert stored == [b"header\nbody\n"]


def test_directories_links_and_attributes_make_no_objects(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.mkdir("new")
        await life.mkdir("new/deeper")
        await life.symlink(b"c", "current")
        await life.symlink(b"\xff\xfe", "c/strange")
        inode = await life.walk("c/config")
        await life.fs.setattr(inode.ino, mode=0o600, mtime_ns=5)
        await life.fs.setxattr(inode.ino, "user.note", b"\0")
        await life.drain()
        assert machine.objects() == INITIAL

    during(machine, body)

    async def after(life: Life) -> None:
        shown = await life.everything()
        assert shown["new/deeper"] is None
        assert (shown["current"], shown["c/strange"]) == (b"c", b"\xff\xfe")
        inode = await life.walk("c/config")
        assert (life.fs.stat(inode).mode & 0o777, life.fs.stat(inode).mtime_ns) == (0o600, 5)
        assert life.fs.getxattr(inode.ino, "user.note") == b"\0"

    during(machine, after)
    assert machine.requests().count(("put", "new/")) == 0
