"""What does each request answer, and what does it refuse?

The calls one by one, as the kernel makes them; orders of calls are `test_filesystem_model.py`'s, promises
`test_semantics_core.py`'s.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from kopsfs import fuse
from kopsfs.errors import (
    CrossDeviceError,
    ExistsError,
    FileTooLargeError,
    IsDirectoryError,
    NameTooLongError,
    NoAttributeError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
    NotSupportedError,
    ReadOnlyError,
)
from kopsfs.fs.namespace import RENAME_NOREPLACE, Caller
from tests.support.lives import Body, Life, Machine, during

ME = Caller(0, 0, 0)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.put("c/config", b"config")
    made.put("c/pki/private/key", b"secret")
    return made


def test_stat_shows_kind_size_mode_and_links(machine: Machine) -> None:
    async def body(life: Life) -> None:
        config, key, directory = [await life.stat(p) for p in ("c/config", "c/pki/private/key", "c/pki")]
        assert (config.mode, config.size, config.nlink) == (stat.S_IFREG | 0o644, 6, 1)
        assert key.mode == stat.S_IFREG | 0o600
        assert (directory.mode, directory.nlink) == (stat.S_IFDIR | 0o755, 3)
        assert (await life.stat("c/pki/private")).mode == stat.S_IFDIR | 0o700
        assert 0 < config.lease_s <= 1

    during(machine, body)


@pytest.mark.parametrize(
    ("act", "refusal"),
    [
        (lambda life: life.read("c/none"), NoEntryError),
        (lambda life: life.read("c/config/x"), NotDirectoryError),
        (lambda life: life.read("c"), IsDirectoryError),
        (lambda life: life.mkdir("c"), ExistsError),
        (lambda life: life.mkdir("c/config"), ExistsError),
        (lambda life: life.mkdir("none/x"), NoEntryError),
        (lambda life: life.rmdir("c/pki"), NotEmptyError),
        (lambda life: life.rmdir("c/config"), NotDirectoryError),
        (lambda life: life.unlink("c/pki"), IsDirectoryError),
        (lambda life: life.unlink("c/none"), NoEntryError),
        (lambda life: life.rename("c/none", "c/x"), NoEntryError),
        (lambda life: life.rename("c/config", "c/pki"), IsDirectoryError),
        (lambda life: life.rename("c/pki", "c/config"), NotDirectoryError),
        (lambda life: life.rename("c/config", "c/pki/private/key", flags=RENAME_NOREPLACE), ExistsError),
        (lambda life: life.rename("c/config", "c/x", flags=2), NotSupportedError),
        (lambda life: life.symlink(b"x", "c/config"), ExistsError),
        (lambda life: life.save("c/" + "x" * 256, b""), NameTooLongError),
        (lambda life: life.save("/".join(["d" * 200] * 6), b""), NoEntryError),
        (lambda life: life.truncate("c/config", 1 << 41), FileTooLargeError),
    ],
)  # fmt: skip
def test_what_no_disk_would_do_is_refused(machine: Machine, act: Body, refusal: type[Exception]) -> None:
    async def body(life: Life) -> None:
        before = await life.everything()
        with pytest.raises(refusal):
            await act(life)
        life.check()
        assert await life.everything() == before
        await life.drain()

    during(machine, body)
    assert machine.objects() == {"c/config": b"config", "c/pki/private/key": b"secret"}


def test_devices_are_refused_and_leave_nothing(machine: Machine) -> None:
    async def body(life: Life) -> None:
        root = life.tree.root.ino
        for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
            with pytest.raises(NotPermittedError):
                await life.fs.mknod(root, b"x", kind | 0o600, ME)
        assert await life.ls() == ["c"]
        await life.fs.mknod(root, b"plain", stat.S_IFREG | 0o640, ME)
        await life.drain()
        assert machine.objects()["plain"] == b""

    during(machine, body)


def test_a_key_too_long_for_the_store_is_refused_when_it_is_made(machine: Machine) -> None:
    async def body(life: Life) -> None:
        path = ""
        for _ in range(5):
            path = f"{path}/{'d' * 200}" if path else "d" * 200
            await life.mkdir(path)
        with pytest.raises(NameTooLongError):
            await life.save(f"{path}/{'f' * 200}", b"")

    during(machine, body)


def test_a_file_removed_while_open_keeps_its_bytes_and_takes_more(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.open("c/config", os.O_RDWR)
        await life.unlink("c/config")
        assert await life.fs.files.read(handle, 0, 100) == b"config"
        await life.write(handle, b"C")
        assert await life.fs.files.read(handle, 0, 100) == b"Config"
        assert life.fs.stat(life.fs.files.handles[handle].inode).nlink == 0
        await life.close(handle)
        await life.drain()
        assert not await life.exists("c/config")
        assert "c/config" not in machine.objects()

    during(machine, body)


def test_a_file_replaced_while_open_keeps_its_bytes(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.open("c/config", os.O_RDWR)
        await life.save("c/new", b"replaced")
        await life.rename("c/new", "c/config")
        assert await life.fs.files.read(handle, 0, 100) == b"config"
        await life.write(handle, b"lost, as on any disk")
        await life.close(handle)
        await life.drain()
        assert machine.objects()["c/config"] == b"replaced"
        assert not life.journal.conflicts

    during(machine, body)


def test_a_file_open_for_writing_is_found_and_read_and_moves_with_its_handle(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.open("c/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await life.write(handle, b"half")
        assert await life.read("c/new") == b"half"
        await life.rename("c/new", "c/newer")
        await life.write(handle, b" whole", 4)
        assert (await life.stat("c/newer")).size == 10
        await trio.sleep(5)
        assert "c/newer" not in machine.objects()
        await life.close(handle)
        await life.drain()
        assert machine.objects()["c/newer"] == b"half whole"
        assert "c/new" not in machine.objects()

    during(machine, body)


def test_every_handle_sees_a_truncation_and_append_goes_to_the_end(machine: Machine) -> None:
    async def body(life: Life) -> None:
        reader = await life.open("c/config")
        writer = await life.open("c/config", os.O_WRONLY | os.O_APPEND)
        await life.write(writer, b"!")
        inode = life.fs.files.handles[reader].inode
        await life.fs.setattr(inode.ino, handle=writer, size=3)
        assert await life.fs.files.read(reader, 0, 100) == b"con"
        await life.write(writer, b"tract")
        assert await life.fs.files.read(reader, 0, 100) == b"contract"
        await life.fs.setattr(inode.ino, handle=writer, size=10)
        assert await life.fs.files.read(reader, 0, 100) == b"contract\0\0"
        await life.close(reader)
        await life.close(writer)
        await life.drain()
        assert machine.objects()["c/config"] == b"contract\0\0"

    during(machine, body)


def test_who_creates_second_opens_what_the_first_made(machine: Machine) -> None:
    async def body(life: Life) -> None:
        parent = (await life.walk("c")).ino
        inode, first, _ = await life.fs.create(parent, b"new", 0o600, os.O_RDWR, ME)
        again, second, _ = await life.fs.create(parent, b"new", 0o600, os.O_RDWR, ME)
        assert again is inode
        with pytest.raises(ExistsError):
            await life.fs.create(parent, b"new", 0o600, os.O_RDWR | os.O_EXCL, ME)
        for handle in (first, second):
            await life.close(handle)

    during(machine, body)


def test_creating_what_another_client_has_changed_drops_the_kernels_pages(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sends CREATE where it knows no such name; it may know the inode all the same."""
    monkeypatch.setattr(fuse.gate, "install", lambda: None)

    async def body(life: Life) -> None:
        operations = fuse.Operations(life.fs, cast("Any", SimpleNamespace(pid=-1)), request_budget_s=10)
        context = cast("Any", SimpleNamespace(pid=1, uid=0, gid=0, umask=0))

        async def kept(name: bytes) -> bool:
            info, _ = await operations.create(parent, name, 0o600, os.O_WRONLY, context)
            await life.close(info.fh)
            return bool(info.keep_cache)

        parent = (await life.walk("c")).ino
        await life.read("c/config")
        machine.put("c/config", b"theirs")
        await trio.sleep(2)
        assert not await kept(b"config")
        assert await kept(b"config")
        assert await kept(b"new")

    during(machine, body)


def test_a_listing_that_is_rewound_shows_what_came(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.fs.opendir((await life.walk("c")).ino)
        await life.save("c/new", b"")
        assert [name for name, _ in life.fs.entries(handle)] == ["config", "pki"]
        assert [name for name, _ in life.fs.entries(handle, rewind=True)] == ["config", "pki", "new"]
        life.fs.releasedir(handle)

    during(machine, body)


def test_attributes_follow_a_rename_and_survive_a_restart(machine: Machine) -> None:
    async def body(life: Life) -> None:
        inode = await life.walk("c/config")
        await life.fs.setattr(inode.ino, mode=0o755, uid=7, gid=8)
        await life.fs.setxattr(inode.ino, "user.a", b"1")
        with pytest.raises(ExistsError):
            await life.fs.setxattr(inode.ino, "user.a", b"2", os.XATTR_CREATE)
        with pytest.raises(NoAttributeError):
            await life.fs.setxattr(inode.ino, "user.b", b"2", os.XATTR_REPLACE)
        with pytest.raises(NotPermittedError):
            await life.fs.setxattr(inode.ino, "user.kopsfs.state", b"")
        with pytest.raises(NotSupportedError):
            await life.fs.setxattr(inode.ino, "security.capability", b"")
        await life.rename("c/config", "c/moved")
        await life.drain()

    during(machine, body)

    async def after(life: Life) -> None:
        found = await life.stat("c/moved")
        assert (found.mode & 0o777, found.uid, found.gid) == (0o755, 7, 8)
        assert life.fs.listxattr(found.ino) == ["user.a"]
        await life.fs.removexattr(found.ino, "user.a")
        with pytest.raises(NoAttributeError):
            life.fs.getxattr(found.ino, "user.a")

    during(machine, after)


def test_a_script_may_ask_what_state_a_file_is_in(machine: Machine) -> None:
    async def body(life: Life) -> None:
        inode = await life.walk("c/config")
        get = life.fs.getxattr
        assert get(inode.ino, "user.kopsfs.key") == b"c/config"
        assert get(inode.ino, "user.kopsfs.state") == b"stored"
        assert get(inode.ino, "user.kopsfs.version") == machine.bucket._objects["c/config"].info.version.encode()  # type: ignore[index]
        await life.save("c/config", b"edited")
        assert get(inode.ino, "user.kopsfs.state") == b"pending"
        await life.drain()
        assert get(inode.ino, "user.kopsfs.state") == b"stored"
        await life.save("c/.swp", b"")
        assert get((await life.walk("c/.swp")).ino, "user.kopsfs.state") == b"local"

    during(machine, body)


def test_a_directory_of_many_stored_files_is_for_mv_to_copy(machine: Machine) -> None:
    for number in range(1001):
        machine.put(f"big/{number:04}", b"")

    async def body(life: Life) -> None:
        with pytest.raises(CrossDeviceError):
            await life.rename("big", "moved")
        with pytest.raises(CrossDeviceError):
            await life.rename("c", ".hidden")
        await life.drain()
        assert len(machine.objects()) == 1003

    during(machine, body)


def test_nothing_is_changed_on_a_read_only_mount(machine: Machine) -> None:
    async def body(life: Life) -> None:
        acts: list[Callable[[], Awaitable[object]]] = [
            lambda: life.save("c/config", b""),
            lambda: life.save("c/.local", b""),
            lambda: life.mkdir("d"),
            lambda: life.unlink("c/config"),
            lambda: life.rename("c/config", "c/x"),
            lambda: life.truncate("c/config", 0),
            lambda: life.symlink(b"x", "l"),
        ]
        for act in acts:
            with pytest.raises(ReadOnlyError):
                await act()
        assert await life.read("c/config") == b"config"

    during(machine, body, read_only=True)


def test_what_is_local_in_a_local_directory_moves_and_is_never_stored(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.mkdir("c/.git")
        await life.mkdir("c/.git/refs")
        await life.save("c/.git/HEAD", b"ref")
        handle = await life.open("c/.git/index.lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await life.write(handle, b"index")
        await life.rename("c/.git", "c/.git.old")
        await life.close(handle)
        assert await life.read("c/.git.old/index.lock") == b"index"
        await life.rename("c/.git.old/index.lock", "c/.git.old/index")
        await life.drain()

    during(machine, body)

    async def after(life: Life) -> None:
        assert await life.read("c/.git.old/HEAD") == b"ref"
        assert await life.read("c/.git.old/index") == b"index"
        assert await life.ls("c/.git.old/refs") == []
        assert not await life.exists("c/.git")

    during(machine, after)
    assert machine.objects() == {"c/config": b"config", "c/pki/private/key": b"secret"}


def test_what_the_kernel_forgot_and_nobody_has_open_is_forgotten(machine: Machine) -> None:
    async def body(life: Life) -> None:
        before = len(life.tree.inodes)
        handle = await life.open("c/new", os.O_WRONLY | os.O_CREAT)
        inode = life.fs.files.handles[handle].inode
        life.fs.remember(inode)
        life.fs.remember(inode)
        await life.unlink("c/new")
        life.fs.forget(inode.ino, 1)
        await life.close(handle)
        assert inode.ino in life.tree.inodes
        life.fs.forget(inode.ino, 1)
        assert len(life.tree.inodes) == before

    during(machine, body)


def test_fsyncdir_waits_for_every_name_of_the_directory(machine: Machine) -> None:
    async def body(life: Life) -> None:
        handle = await life.fs.opendir((await life.walk("c")).ino)
        await life.save("c/one", b"1")
        await life.save("c/two", b"2")
        await life.unlink("c/config")
        await life.fs.fsyncdir(handle)
        assert sorted(machine.objects()) == ["c/one", "c/pki/private/key", "c/two"]
        life.fs.releasedir(handle)

    during(machine, body, upload_delay_s=100.0)


def test_writing_through_close_promises_the_store(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.save("c/config", b"through")
        assert machine.objects()["c/config"] == b"through"

    during(machine, body, write_through=True)


def test_a_file_that_an_open_for_reading_makes_or_empties_is_stored_so(machine: Machine) -> None:
    """open(2) with O_RDONLY and O_CREAT, as flock(1) does it, or O_TRUNC."""

    async def body(life: Life) -> None:
        await life.close(await life.open("c/lock", os.O_RDONLY | os.O_CREAT))
        await life.close(await life.open("c/config", os.O_RDONLY | os.O_TRUNC))
        await life.drain()
        assert machine.objects() == {"c/config": b"", "c/lock": b"", "c/pki/private/key": b"secret"}
        assert await life.read("c/config") == b""

    during(machine, body, guard="off")


def test_a_read_only_mount_empties_no_file_that_is_opened_for_reading(machine: Machine) -> None:
    async def body(life: Life) -> None:
        with pytest.raises(ReadOnlyError):
            await life.open("c/config", os.O_RDONLY | os.O_TRUNC)
        assert await life.read("c/config") == b"config"

    during(machine, body, read_only=True)


def test_a_truncation_that_changes_nothing_keeps_nothing_at_hand(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await life.truncate("c/config", 6)
        config = await life.walk("c/config")
        assert (config.spool, config.content, life.journal.owed("c/config")) == (None, None, [])

    during(machine, body)


def test_a_close_that_writes_through_waits_no_longer_than_the_budget(machine: Machine) -> None:
    """The store is up, and chokes on this key."""

    async def body(life: Life) -> None:
        machine.driver.fail(verb="put", times=float("inf"))
        handle = await life.open("c/config", os.O_WRONLY)
        await life.write(handle, b"C")
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await life.close(handle)
        assert trio.current_time() - began == pytest.approx(10)
        machine.driver.heal()
        await life.drain()
        assert machine.objects()["c/config"] == b"Config"

    during(machine, body, write_through=True)


def test_a_key_the_store_chokes_on_keeps_no_other_from_being_refreshed(machine: Machine) -> None:
    """It is missing from the listing, and nobody can say whether it is gone: it stays; what is new comes."""

    async def body(life: Life) -> None:
        await life.ls("c")
        machine.delete("c/config")
        machine.driver.fail(verb="head", times=float("inf"))
        await trio.sleep(60)
        machine.put("c/new", b"new")
        await trio.sleep(60)
        names = await life.ls("c")
        assert {"config", "new"} <= set(names)
        machine.driver.heal()
        await trio.sleep(60)
        await life.ls("c")
        await trio.sleep(2)
        assert "config" not in await life.ls("c")

    during(machine, body)
