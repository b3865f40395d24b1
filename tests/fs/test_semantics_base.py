"""What is a write based on? semantics.md, promise 3."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from kopsfs.fs.seen import Seen
from kopsfs.store.driver import ABSENT, Version
from tests.conftest import ExpectLog
from tests.support.lives import Body, Life, Machine, during


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.put("c/config", b"config")
    return machine


def theirs_between(machine: Machine, save: Body, thread: int = 0) -> None:
    """Read, then they write, then a save of this process: a conflict, never an overwrite."""

    async def body(life: Life) -> None:
        await life.read("c/config", thread=thread)
        machine.put("c/config", b"theirs")
        await trio.sleep(2)
        await life.ls("c")  # the mount knows; the process has not looked again
        await save(life)
        await life.drain()
        await trio.sleep(2)
        assert machine.objects()["c/config"] == b"theirs"
        assert await life.read("c/config") == b"theirs"
        (conflict,) = life.journal.conflicts.values()
        assert (conflict.path, conflict.generation.read()) == ("c/config", b"mine")

    during(machine, body)


async def by_rename(life: Life) -> None:
    await life.save("c/temp", b"mine", thread=os.getpid())
    await life.rename("c/temp", "c/config", thread=os.getpid())


async def in_place(life: Life) -> None:
    await life.save("c/config", b"mine", os.O_WRONLY | os.O_TRUNC, thread=os.getpid())


async def in_place_opened_for_both(life: Life) -> None:
    """As `r+` and then truncated, nothing read: theirs has not been seen."""
    handle = await life.open("c/config", os.O_RDWR, thread=os.getpid())
    await life.fs.setattr(life.fs.files.handles[handle].inode.ino, handle=handle, size=0)
    await life.write(handle, b"mine")
    await life.close(handle)


async def by_another_thread(life: Life) -> None:
    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), done.wait()))
    thread.start()
    ready.wait()
    assert thread.native_id is not None
    try:
        await life.save("c/temp", b"mine", thread=thread.native_id)
        await life.rename("c/temp", "c/config", thread=thread.native_id)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("save", [by_rename, in_place, in_place_opened_for_both, by_another_thread])
def test_a_save_is_based_on_what_its_process_has_read(machine: Machine, save: Body, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/config")
    theirs_between(machine, save, thread=os.getpid())


async def reads_and_writes_at_once(life: Life) -> None:
    handle = await life.open("c/config", os.O_RDWR, thread=os.getpid())
    assert await life.fs.files.read(handle, 0, 100) == b"theirs"
    await life.write(handle, b"merged")
    await life.close(handle)


async def reads_and_then_writes(life: Life) -> None:
    """What vim's copy for backupcopy=yes does, too: nothing tells the two apart."""
    assert await life.read("c/config", thread=os.getpid()) == b"theirs"
    await life.save("c/config", b"merged", os.O_WRONLY | os.O_TRUNC, thread=os.getpid())


@pytest.mark.parametrize("save", [reads_and_writes_at_once, reads_and_then_writes])
def test_reading_again_makes_it_no_conflict(machine: Machine, save: Body) -> None:
    async def body(life: Life) -> None:
        await life.read("c/config", thread=os.getpid())
        machine.put("c/config", b"theirs")
        await trio.sleep(2)
        await save(life)
        await life.drain()
        assert machine.objects()["c/config"] == b"merged"

    during(machine, body)


def test_who_may_write_is_asked_for_every_byte_he_reads(machine: Machine) -> None:
    """Bytes out of the kernel's memory would be read unseen."""

    async def body(life: Life) -> None:
        config = await life.walk("c/config")
        for flags, keep in ((os.O_RDONLY, True), (os.O_WRONLY, True), (os.O_RDWR, False)):
            handle, may_keep = await life.fs.files.open(config, flags, os.getpid())
            assert may_keep == keep
            await life.close(handle)

    during(machine, body)


def test_another_process_that_has_read_nothing_writes_on_what_is_shown(machine: Machine) -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:

        async def body(life: Life) -> None:
            await life.read("c/config", thread=os.getpid())
            machine.put("c/config", b"theirs")
            await trio.sleep(2)
            await life.save("c/config", b"mine", os.O_WRONLY | os.O_TRUNC, thread=pid)
            await life.drain()
            assert machine.objects()["c/config"] == b"mine"

        during(machine, body)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_processes_of_this_mount_overwrite_each_other_as_on_any_disk(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.read("c/config", thread=os.getpid())
        await life.save("c/config", b"another process")
        await life.drain()
        await life.save("c/config", b"mine", thread=os.getpid())
        await life.drain()
        assert machine.objects()["c/config"] == b"mine"
        assert not life.journal.conflicts

    during(machine, body)


def test_a_process_number_used_again_has_read_nothing() -> None:
    seen = Seen()
    seen.read("f", os.getpid(), Version("old"))
    serial, version, _ = seen._read["f"][os.getpid()]
    seen._read["f"][os.getpid()] = (serial, version, 0.0)  # before this process began
    assert seen.base("f", os.getpid(), Version("now")) == "now"


def test_the_newest_of_read_and_made_is_the_base() -> None:
    seen = Seen()
    me = os.getpid()
    seen.read("f", me, Version("1"))
    assert seen.base("f", me, Version("3")) == "1"
    seen.made("f", Version("2"))
    assert seen.base("f", me, Version("3")) == "2"
    seen.made("f", ABSENT)
    assert seen.base("f", me, Version("3")) is ABSENT
    seen.read("f", me, Version("3"))
    assert seen.base("f", me, Version("4")) == "3"
    assert seen.base("f", 0, Version("4")) == "4"


def test_programs_that_have_ended_push_nobody_out_who_still_runs() -> None:
    """A monitor that runs `cat` every minute must not make an editor's version forgotten."""
    seen = Seen()
    me = os.getpid()
    beyond_pid_max = (1 << 22) + 1  # PID_MAX_LIMIT (include/linux/threads.h): nobody has such a number
    seen.read("f", me, Version("1"))
    for number in range(2000):
        seen.read("f", beyond_pid_max + number, Version("2"))
    assert seen.base("f", me, Version("2")) == "1"
    assert len(seen._read["f"]) < 100


def test_who_opens_for_writing_beside_another_does_not_vouch_for_him(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("conflict key=c/config")

    async def save(life: Life) -> None:
        handle = await life.open("c/config", os.O_WRONLY | os.O_TRUNC, thread=os.getpid())
        await life.write(handle, b"mine")
        other = await life.open("c/config", os.O_WRONLY, thread=1)
        await life.close(other)
        await life.close(handle)

    theirs_between(machine, save, thread=os.getpid())
