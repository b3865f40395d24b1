"""Does the journal hold after a crash what it held before, whole transactions and nothing else?

`Disk` stands between the journal and its directory: after every write, fsync and removal in the spool, every statement
and every commit, it copies the directory as a crash at that moment would leave it, twice: as it is (SIGKILL), and
with spool files as of their last fsync (power loss). Each copy is opened again and compared with what was promised.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kopsfs import places
from kopsfs.errors import JournalError
from kopsfs.fs import committer as committer_module
from kopsfs.fs import spool as spool_module
from kopsfs.fs.committer import Committer
from kopsfs.fs.journal import Attribute, Intent, Journal
from kopsfs.fs.journal_rows import connect
from kopsfs.fs.spool import Generation, Spool, SpoolDirectory
from kopsfs.store.driver import ABSENT, ANY, Version

V1, V2 = Version("v1"), Version("v2")
LARGE = b"large " * 20_000


def small(data: bytes = b"small") -> Generation:
    return Generation(data, None, len(data))


def commit(journal: Journal) -> None:
    """All of it, at once."""
    batch, _ = journal.take()
    connection = connect(journal.path)
    Committer(journal)._write(connection, [batch])
    connection.close()


def opened(directory: Path) -> Journal:
    journal = Journal(directory)
    journal.load()
    journal.check()
    return journal


def content(journal: Journal) -> dict[str, Any]:
    """Everything a journal knows, comparable."""
    return {
        "intents": {
            path: [
                (i.op, i.base, i.generation and i.generation.read(), i.after in journal._by_id, i.due > 0, i.held)
                for i in owed
            ]
            for path, owed in journal.intents.items()
        },
        "nodes": {p: (n.kind, n.target, n.generation and n.generation.read()) for p, n in journal.nodes.items()},
        "attributes": dict(journal.attributes),
        "conflicts": {n: (c.path, c.base, c.theirs, c.generation.read()) for n, c in journal.conflicts.items()},
    }


# -- what is owed ---------------------------------------------------------------------------------------------------------


def test_newer_bytes_take_the_place_of_what_was_not_started(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put("a", small(b"1"), V1)
    journal.put("a", small(b"2"), V2)
    (intent,) = journal.owed("a")
    assert intent.generation is not None
    assert (intent.generation.read(), intent.base) == (b"2", V1)


def test_newer_bytes_follow_what_is_being_uploaded(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = journal.put("a", small(b"1"), V1)
    journal.start(first)
    second = journal.put("a", small(b"2"), V1)
    assert second.base is None
    journal.settle(first, V2)
    assert second.base == V2
    journal.check()


def test_a_file_that_never_reached_the_store_leaves_no_trace(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put("a", small(), ABSENT)
    assert journal.delete("a", ABSENT) is None
    assert len(journal) == 0


def test_a_deletion_replaced_by_new_bytes_is_a_replacement(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.delete("a", V1)
    intent = journal.put("a", small(), ABSENT)
    assert intent.base == V1


def test_a_second_deletion_of_what_the_first_removed_is_not_owed(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = journal.delete("a", V1)
    assert first is not None
    journal.start(first)
    journal.put("a", small(), ABSENT)
    journal.delete("a", ABSENT)
    journal.settle(first, None)
    assert len(journal) == 0


def test_what_follows_lost_bytes_is_based_on_what_they_were_and_loses_too(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = journal.put("a", small(b"1"), V1)
    journal.start(first)
    second = journal.put("a", small(b"2"), V1)
    conflict = journal.lose(first, V2)
    assert conflict is not None
    assert (conflict.generation.read(), conflict.base, conflict.theirs) == (b"1", V1, V2)
    assert second.base == V1
    journal.check()


def moved(journal: Journal, old: str, new: str, generation: Generation) -> tuple[Intent, Intent | None]:
    """Rename a stored file."""
    put = journal.put(new, generation, ABSENT)
    return put, journal.delete(old, V1, after=put.id)


def test_a_name_goes_only_when_its_bytes_are_stored_however_often_they_move(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    _, deletion = moved(journal, "a", "b", small())
    put, nothing = moved(journal, "b", "c", small())
    assert nothing is None, "b was never stored"
    assert deletion is not None
    assert deletion.after == put.id
    again = journal.put("c", small(b"newer"), ABSENT)
    assert deletion.after == again.id
    journal.check()


def test_moving_to_and_fro_does_not_wait_for_itself(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    moved(journal, "a", "b", small())
    put, _ = moved(journal, "b", "a", small())
    assert put.after is None
    assert put.base == V1
    assert journal.stuck(put) == ""
    journal.check()


def test_a_deletion_goes_on_when_what_it_waited_for_is_not_wanted_any_more(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    freed: list[str] = []
    journal.freed = freed.append
    moved(journal, "a", "b", small())
    journal.delete("b", ABSENT)
    assert freed == ["a"]


def test_lost_bytes_take_the_deletion_with_them_but_not_new_bytes(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    put, deletion = moved(journal, "a", "b", small())
    assert deletion is not None
    assert journal.withdraw_followers(put) == [deletion]
    assert journal.owed("a") == []
    put, _ = moved(journal, "c", "d", small())
    new = journal.put("c", small(b"new"), ABSENT)
    assert journal.withdraw_followers(put) == []
    assert journal.owed("c") == [new]
    journal.check()


def test_what_is_held_holds_what_waits_for_it(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    put, deletion = moved(journal, "a", "b", small())
    assert deletion is not None
    journal.hold(put, "because")
    assert journal.stuck(deletion) == "because"
    journal.hold(put, "")
    assert journal.stuck(deletion) == ""


def test_newer_bytes_do_not_queue_behind_refused_ones(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = journal.put("a", small(b"too large"), V1)
    journal.start(first)
    second = journal.put("a", small(b"fits"), V1)
    journal.hold(first, "too large")
    assert journal.owed("a") == [second]
    assert (second.base, second.held) == (V1, "")
    journal.check()


def test_bytes_live_as_long_as_anything_stands_for_them(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    spool = Spool(SpoolDirectory(journal.spool_path, reserve_bytes=0), size_max=1 << 30)
    spool.write(0, LARGE)
    generation = spool.freeze()
    journal.put("temp", generation, ABSENT)
    journal.put("target", generation, V1)
    journal.delete("temp", ABSENT)
    commit(journal)
    journal.check()
    assert opened(tmp_path).owed("target")[0].generation.read() == LARGE  # type: ignore[union-attr]
    journal.withdraw(journal.owed("target")[0])
    commit(journal)
    assert not list(journal.spool_path.iterdir())
    spool.close()


# -- opening --------------------------------------------------------------------------------------------------------------


def test_everything_comes_back(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.keep_node("link", "link", target="../\udcff")
    journal.keep_node("d", "dir")
    journal.keep_node(".local", "file", generation=small(b"l"))
    journal.set_attribute("a", Attribute(0o600, 1, 2, 3, 4, V1, {"user.x": b"\0\xff"}))
    put, _ = moved(journal, "a", "b", small())
    journal.hold(put, "why")
    journal.delete("z", V1, due=5e9)
    journal.put("any", small(b""), ANY)
    lost = journal.put("lost", small(b"mine"), V1)
    journal.start(lost)
    journal.lose(lost, None)
    commit(journal)
    assert content(opened(tmp_path)) == content(journal)


def test_an_id_something_still_waits_for_is_not_used_again(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    _, deletion = moved(journal, "a", "b", small())
    newer = journal.put("b", small(b"newer"), ABSENT)
    assert deletion is not None
    journal.start(newer)
    journal.settle(newer, V1)
    commit(journal)
    again = opened(tmp_path)
    (waiting,) = again.owed("a")
    assert again.put("other", small(), ABSENT).id != waiting.after


def test_a_journal_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    opened(tmp_path)
    for value in ("2", "rubbish"):
        with sqlite3.connect(tmp_path / "state.db") as connection:
            connection.execute("UPDATE meta SET value = ?", (value,))
        connection.close()
        with pytest.raises(JournalError, match="another version"):
            Journal(tmp_path).load()


def test_a_damaged_journal_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(JournalError, match=r"state\.db.*move it away"):
        Journal(tmp_path).load()


def test_a_row_whose_bytes_are_gone_is_said(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    spool = Spool(SpoolDirectory(journal.spool_path, reserve_bytes=0), size_max=1 << 30)
    spool.write(0, LARGE)
    journal.put("a", spool.freeze(), ABSENT)
    commit(journal)
    spool.close()
    next(journal.spool_path.iterdir()).unlink()
    with pytest.raises(JournalError, match="gone"):
        Journal(tmp_path).load()


def test_spool_files_of_nobody_are_removed(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    (journal.spool_path / "abandoned").write_bytes(b"never closed")
    opened(tmp_path)
    assert not list(journal.spool_path.iterdir())


# -- crashes --------------------------------------------------------------------------------------------------------------


class Disk:
    """Copies the directory after every change of it."""

    def __init__(self, directory: Path, snapshots: Path) -> None:
        self.directory = directory
        self.snapshots = snapshots
        self.count = 0
        self.promised: list[dict[str, Any]] = []
        """What each commit that was acknowledged promised."""
        self.taken: list[tuple[Path, int, int]] = []
        """(copy, commits acknowledged by then, commits that may have acted)"""
        self.begun = 0
        self._synced: dict[str, bytes] = {}
        self._named: set[str] = set()

    def spooled(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (self.directory / "spool").iterdir()}

    def fsync(self, fd: int) -> None:
        os.fsync(fd)
        target = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if target == self.directory / "spool":
            self._named = set(self.spooled())
        else:
            self._synced[target.name] = target.read_bytes()
        self.snapshot()

    def snapshot(self) -> None:
        self.count += 1
        for kind in ("killed", "power lost"):
            copy = self.snapshots / f"{self.count} {kind}"
            shutil.copytree(self.directory, copy)
            if kind == "power lost":
                for file in (copy / "spool").iterdir():
                    if file.name not in self._named:
                        file.unlink()
                    else:
                        file.write_bytes(self._synced.get(file.name, b""))
            self.taken.append((copy, len(self.promised), self.begun))


class _Os:
    """The module `os`, watched."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        done = os.pwrite(fd, data, offset)
        self._disk.snapshot()
        return done

    def fsync(self, fd: int) -> None:
        self._disk.fsync(fd)


class _Connection:
    """A connection, watched."""

    def __init__(self, inner: sqlite3.Connection, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk

    @property
    def in_transaction(self) -> bool:
        return self._inner.in_transaction

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        result = self._inner.execute(*arguments)
        self._disk.snapshot()
        return result


def workload(journal: Journal, commit_now: Callable[[], None]) -> None:
    """A bit of everything, in commits."""
    place = SpoolDirectory(journal.spool_path, reserve_bytes=0)
    editor = Spool(place, size_max=1 << 30)
    editor.write(0, LARGE)
    journal.put("big", editor.freeze(), ABSENT)
    journal.put("a", small(b"a 1"), V1)
    commit_now()
    editor.write(0, b"LARGE")
    journal.put("big", editor.freeze(), ABSENT)
    commit_now()
    put, _ = moved(journal, "a", "b", journal.owed("a")[0].generation or small())
    journal.keep_node("a~", "file", generation=small(b"backup"))
    commit_now()
    journal.start(put)
    journal.lose(put, V2)
    journal.drop_node("a~")
    commit_now()
    big = journal.owed("big")[0]
    journal.put("renamed", big.generation or small(), ABSENT)
    journal.delete("big", ABSENT)
    journal.set_attribute("renamed", Attribute(mtime_ns=5))
    commit_now()
    done = journal.owed("renamed")[0]
    journal.start(done)
    journal.settle(done, V1)
    commit_now()
    editor.close()


def test_every_crash_leaves_all_that_was_acknowledged_and_whole_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "state"
    journal = opened(directory)
    disk = Disk(directory, tmp_path / "snapshots")
    monkeypatch.setattr(spool_module, "os", _Os(disk))
    monkeypatch.setattr(committer_module, "os", _Os(disk))
    monkeypatch.setattr(places, "os", _Os(disk))
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.is_relative_to(directory):
            disk.snapshot()

    monkeypatch.setattr(Path, "unlink", watched)
    connection = connect(journal.path)
    committer = Committer(journal)
    expected = [content(journal)]

    def commit_now() -> None:
        disk.begun += 1
        expected.append(content(journal))
        committer._write(_Connection(connection, disk), [journal.take()[0]])  # type: ignore[arg-type]
        disk.promised.append(expected[-1])
        disk.snapshot()

    workload(journal, commit_now)
    monkeypatch.undo()
    connection.close()
    assert disk.count > 40
    for copy, acknowledged, begun in disk.taken:
        found = content(opened(copy))
        assert found in (expected[acknowledged], expected[begun]), copy.name


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.sampled_from("abc")), max_size=40))
def test_the_rows_say_what_the_memory_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, str]]
) -> None:
    """Any order of calls: what is read again is what was there, and the invariants hold throughout."""
    directory = tmp_path_factory.mktemp("journal")
    journal = opened(directory)
    serial = 0
    for action, path, other in steps:
        serial += 1
        owed = journal.owed(path)
        first = owed[0] if owed else None
        if action <= 1:
            journal.put(path, small(b"%d" % serial), V1 if action else ABSENT)
        elif action == 2:
            journal.delete(path, V1)
        elif action == 3 and path != other:
            moved(journal, path, other, small(b"%d" % serial))
        elif action == 4 and first is not None and not first.held and first.after not in journal._by_id:
            journal.start(first)
        elif action == 5 and first is not None and first.uploading:
            journal.settle(first, None if first.op == "delete" else Version(f"v{serial}"))
        elif action == 6 and first is not None and first.uploading:
            journal.withdraw_followers(first)
            journal.lose(first, V2)
        elif action == 7 and first is not None:
            journal.hold(first, "held" if serial % 2 else "")
        elif action == 8 and owed and not owed[-1].uploading:
            journal.withdraw(owed[-1])
        elif action == 9:
            journal.pause(first) if first is not None else None
        journal.check()
    commit(journal)
    again = opened(directory)
    assert content(again) == content(journal)
