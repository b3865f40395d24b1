"""Names of design §7 and guards, at the file system: odd keys, shadows, markers, expected directories, held writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from kopsfs.errors import ExistsError, HeldError
from tests.conftest import ExpectLog
from tests.fs.test_semantics_core import INITIAL, machine
from tests.support.lives import Life, Machine, during

__all__ = ["machine"]

# -- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["c/a", "c/a/b"])
def test_an_object_and_a_directory_of_its_name_are_both_there_and_both_written(machine: Machine, first: str) -> None:
    machine.put(first, b"first")

    async def body(life: Life) -> None:
        await life.ls("c")
        machine.put("c/a", b"file")
        machine.put("c/a/b", b"below")
        await trio.sleep(2)
        assert await life.read("c/a.__file__") == b"file"
        assert await life.read("c/a/b") == b"below"
        await life.save("c/a.__file__", b"edited")
        await life.save("c/temp", b"below, edited")
        await life.rename("c/temp", "c/a/b")
        assert await life.read("c/a.__file__") == b"edited"
        await life.drain()
        await trio.sleep(2)
        assert machine.objects() == {**INITIAL, "c/a": b"edited", "c/a/b": b"below, edited"}
        assert await life.read("c/a.__file__") == b"edited"
        await life.save("c/temp", b"renamed over")
        await life.rename("c/temp", "c/a.__file__")
        await life.drain()
        assert machine.objects() == {**INITIAL, "c/a": b"renamed over", "c/a/b": b"below, edited"}
        machine.delete("c/a/b")
        await trio.sleep(2)
        assert "a" in await life.ls("c")
        assert await life.read("c/a") == b"renamed over"
        assert "a.__file__" not in await life.ls("c")

    during(machine, body)


def test_a_shadowed_object_written_and_not_uploaded_survives_a_crash(machine: Machine) -> None:
    machine.put("c/a", b"file")
    machine.put("c/a/b", b"below")

    async def body(life: Life) -> None:
        await life.save("c/a.__file__", b"edited")

    during(machine, body, upload_delay_s=1000.0)

    async def after(life: Life) -> None:
        assert await life.read("c/a.__file__") == b"edited"
        await life.drain()
        assert machine.objects()["c/a"] == b"edited"

    during(machine, after)


def test_moving_a_directory_moves_the_object_in_its_shadow(machine: Machine) -> None:
    machine.put("d/a", b"file")
    machine.put("d/a/b", b"below")

    async def body(life: Life) -> None:
        await life.rename("d", "e")
        await life.drain()
        assert machine.objects() == {**INITIAL, "e/a": b"file", "e/a/b": b"below"}
        assert await life.read("e/a.__file__") == b"file"

    during(machine, body)


def test_a_directory_marker_is_a_directory_until_rmdir(machine: Machine) -> None:
    machine.put("empty/", b"")
    machine.put("c/", b"")

    async def body(life: Life) -> None:
        assert await life.ls() == ["c", "empty"]
        assert await life.ls("empty") == []
        with pytest.raises(ExistsError):
            await life.mkdir("empty")
        await life.rmdir("empty")
        await life.drain()
        await trio.sleep(3)
        assert await life.ls() == ["c"]
        assert machine.objects() == {**INITIAL, "c/": b""}

    during(machine, body)


def test_a_directory_is_gone_when_its_marker_is(machine: Machine) -> None:
    machine.put("empty/", b"")
    machine.put("marked/", b"")
    machine.put("marked/f", b"f")

    async def body(life: Life) -> None:
        assert await life.ls() == ["c", "empty", "marked"]
        machine.delete("empty/")
        machine.delete("marked/f")
        life.watcher.changes.clear()
        await trio.sleep(1.1)
        assert await life.ls() == ["c", "marked"]
        assert [(change.kind, change.path) for change in life.watcher.changes] == [
            ("delete", "marked/f"),
            ("delete", "empty"),
        ]
        machine.delete("marked/")
        await trio.sleep(1.1)
        assert not await life.exists("marked")
        assert life.refresh.stale_since is None

    during(machine, body)


def test_a_marker_counts_in_a_store_of_many_pages_as_well(tmp_path: Path) -> None:
    machine = Machine(tmp_path, page_size=2)
    for key in ("c/", "c/a", "c/b", "c/c", "d/"):
        machine.put(key, b"")

    async def body(life: Life) -> None:
        assert await life.ls() == ["c", "d"]
        assert await life.ls("d") == []
        machine.delete("d/")
        for name in "abc":
            machine.delete(f"c/{name}")
        await trio.sleep(1.1)
        assert await life.ls() == ["c"]
        assert await life.ls("c") == []
        assert life.refresh.stale_since is None

    during(machine, body)


def test_a_directory_removed_here_does_not_come_back_while_its_files_are_being_deleted(tmp_path: Path) -> None:
    machine = Machine(tmp_path, page_size=2, delay=lambda verb, _key: (5.0 if verb == "delete" else 0.0, 0.0))
    for key in ("c/a", "c/b", "c/c", "d/a", "d/b"):
        machine.put(key, b"x")

    async def body(life: Life) -> None:
        assert await life.ls("d") == ["a", "b"]
        await life.unlink("d/a")
        await life.unlink("d/b")
        await life.rmdir("d")
        await trio.sleep(1.1)
        assert await life.ls() == ["c"]
        await life.drain()
        machine.put("d/theirs", b"x")
        await trio.sleep(1.1)
        assert await life.ls() == ["c", "d"]

    during(machine, body)


def test_a_look_at_a_directory_shows_that_it_has_vanished(machine: Machine) -> None:
    machine.put("d/e/f", b"f")

    async def body(life: Life) -> None:
        assert await life.exists("d/e")
        machine.delete("d/e/f")
        await trio.sleep(1.1)
        assert not await life.exists("d")
        await life.mkdir("here")
        before = machine.driver.count()
        await trio.sleep(1.1)
        assert await life.exists("here")
        assert machine.driver.count() == before, "nobody else ends what lives here"

    during(machine, body)


def test_moving_a_marked_directory_leaves_nothing_behind(machine: Machine) -> None:
    machine.put("marked/", b"")
    machine.put("marked/f", b"f")

    async def body(life: Life) -> None:
        await life.rename("marked", "moved")
        await life.drain()
        await trio.sleep(10)
        assert await life.ls() == ["c", "moved"]
        assert machine.objects() == {**INITIAL, "moved/f": b"f"}

    during(machine, body)


def test_keys_no_file_system_can_show_are_counted_and_left_alone(machine: Machine) -> None:
    odd = ["c//double", "/rooted", "c/./dot", "c/../up", "c/" + "x" * 256, "c/double//"]
    for key in odd:
        machine.put(key, b"odd")
    machine.put("c/ü %2F:\n+é", b"shown")

    async def body(life: Life) -> None:
        assert await life.files() == {**INITIAL, "c/ü %2F:\n+é": b"shown"}
        assert life.tree.unreachable == set(odd)
        await life.save("c/ü %2F:\n+é", b"edited")
        await life.drain()

    during(machine, body)
    assert machine.objects() == {**INITIAL, **dict.fromkeys(odd, b"odd"), "c/ü %2F:\n+é": b"edited"}


def test_a_cluster_without_pki_has_one_all_the_same(machine: Machine) -> None:
    async def body(life: Life) -> None:
        for key in list(machine.objects()):
            if key != "c/config":
                machine.delete(key)
        await trio.sleep(2)
        assert await life.ls("c") == ["config"]
        before = await life.stat("c")
        assert await life.ls("c/pki/private") == []
        assert await life.ls("c") == ["config"]
        assert (await life.stat("c")).mtime_ns == before.mtime_ns, "looking changes nothing"
        await life.save("c/pki/private/key", b"k")
        assert sorted(await life.ls("c")) == ["config", "pki"]
        assert await life.ls("c/pki") == ["private"]

    during(machine, body)


# -- guards ---------------------------------------------------------------------------------------------------------------


def test_an_empty_file_over_a_config_is_held_and_umount_does_not_wait_for_it(
    machine: Machine, expect_log: ExpectLog
) -> None:
    expect_log("op=write key=c/config held")

    async def body(life: Life) -> None:
        await life.save("c/config", b"")
        await trio.sleep(5)
        with trio.fail_after(5):
            await life.drain()
        assert machine.objects() == INITIAL
        assert (await life.stat("c/config")).size == 0
        with pytest.raises(HeldError):
            await life.fsync("c/config")

    during(machine, body)

    async def after(life: Life) -> None:
        (intent,) = life.journal.owed("c/config")
        assert intent.held
        life.writeback.release(intent)
        await life.drain()
        assert machine.objects()["c/config"] == b""

    during(machine, after)


def test_a_held_write_that_is_not_wanted_shows_the_store_again(machine: Machine, expect_log: ExpectLog) -> None:
    expect_log("op=write key=c/config held")

    async def body(life: Life) -> None:
        await life.save("c/config", b"")
        life.fs.abandon(life.journal.owed("c/config")[0])
        assert await life.read("c/config") == b"config"
        await life.save("c/config", b"")
        await life.save("c/config", b"whole again")
        await life.drain()
        assert machine.objects()["c/config"] == b"whole again"

    during(machine, body)


def test_what_waits_for_a_held_write_waits_with_it(machine: Machine, expect_log: ExpectLog) -> None:
    """An empty file renamed over a config: the source stays until somebody decides."""
    expect_log("held")
    machine.put("c/empty", b"")

    async def body(life: Life) -> None:
        await life.rename("c/empty", "c/config")
        assert life.journal.owed("c/config")[0].held
        with trio.fail_after(5):
            await life.drain()
        assert machine.objects() == {**INITIAL, "c/empty": b""}
        life.fs.abandon(life.journal.owed("c/config")[0])
        await trio.sleep(3)
        await life.drain()
        assert await life.read("c/config") == b"config"
        assert await life.read("c/empty") == b""
        assert machine.objects() == {**INITIAL, "c/empty": b""}

    during(machine, body)


@pytest.mark.parametrize("how", ["rmdir", "rename"])
def test_an_object_has_its_name_again_when_the_directory_goes_by_our_hand(machine: Machine, how: str) -> None:
    machine.put("c/a", b"file")
    machine.put("c/a/b", b"below")

    async def body(life: Life) -> None:
        assert await life.read("c/a.__file__") == b"file"
        if how == "rmdir":
            await life.unlink("c/a/b")
            await life.rmdir("c/a")
        else:
            await life.rename("c/a", "c/z")
        names = await life.ls("c")
        assert "a" in names
        assert "a.__file__" not in names
        await life.save("c/a", b"edited")
        await life.drain()
        assert machine.objects()["c/a"] == b"edited"

    during(machine, body)


def test_bytes_of_a_file_that_loses_its_name_to_a_directory_are_stored(machine: Machine) -> None:
    """Its alias would be too long for a name, so it is not shown; what is written to it goes to its key."""
    name = "n" * 250

    async def body(life: Life) -> None:
        handle = await life.open(f"c/{name}", os.O_WRONLY | os.O_CREAT)
        await life.write(handle, b"mine")
        machine.put(f"c/{name}/x", b"x")
        await trio.sleep(2)
        await life.ls("c")
        await life.close(handle)
        await life.drain()
        assert machine.objects()[f"c/{name}"] == b"mine"

    during(machine, body)


def test_a_link_that_is_removed_under_its_alias_does_not_come_back(machine: Machine) -> None:
    """What lives only here is kept for the name it was made with, also while a stored directory has that."""

    async def remove(life: Life) -> None:
        await life.symlink(b"config", "c/current")
        machine.put("c/current/x", b"x")
        await trio.sleep(2)
        assert "current.__file__" in await life.ls("c")
        await life.unlink("c/current.__file__")
        await trio.sleep(1)

    async def look(life: Life) -> None:
        await trio.sleep(3)
        assert "current" not in await life.ls("c")

    during(machine, remove)
    machine.delete("c/current/x")
    during(machine, look)
