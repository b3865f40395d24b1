"""Does a working copy hold what was written, and a generation what was frozen, for ever?

A random walk of writes, truncations, freezes and reads around the size where memory becomes a file, against a
bytearray; then what the disk does when it is full, and what is left on it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kopsfs.errors import CorruptError, FileTooLargeError, SpaceError
from kopsfs.fs import spool as spool_module
from kopsfs.fs.spool import SMALL_BYTES_MAX, Generation, Spool, SpoolDirectory

offsets = st.sampled_from([0, 1, 100, SMALL_BYTES_MAX - 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 3 * SMALL_BYTES_MAX])
steps = st.one_of(
    st.tuples(st.just("write"), offsets, st.binary(max_size=40)),
    st.tuples(st.just("truncate"), offsets),
    st.tuples(st.just("freeze")),
    st.tuples(st.just("reopen")),
)


def directory(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path, reserve_bytes=0)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=25))
def test_a_spool_is_a_file_and_its_generations_never_change(tmp_path: Path, walk: list[tuple[object, ...]]) -> None:
    place = directory(tmp_path)
    spool = Spool(place, size_max=1 << 30)
    model = bytearray()
    frozen: list[tuple[Generation, bytes]] = []
    for step in walk:
        match step:
            case ("write", int(offset), bytes(data)):
                if not data:
                    continue
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(data)] = data
                assert spool.write(offset, data) == len(data)
            case ("truncate", int(size)):
                del model[size:]
                model.extend(bytes(size - len(model)))
                spool.truncate(size)
            case ("freeze",):
                generation = spool.freeze()
                assert spool.freeze() is generation, "the same bytes are one generation"
                assert not spool.changed
                frozen.append((generation, bytes(model)))
            case _:
                generation = spool.freeze()
                generation.holders += 1
                frozen.append((generation, bytes(model)))
                spool.close()
                spool = Spool.of(place, generation, size_max=1 << 30)
        assert spool.size == len(model)
        assert spool.read(0, len(model) + 10) == bytes(model)
        assert spool.read(50, 60) == bytes(model[50:110])
    for generation, data in frozen:
        assert generation.read() == data
        assert generation.size == len(data)
        generation.verify("k")
    spool.close()


def test_large_bytes_are_in_a_file_and_small_ones_are_not(tmp_path: Path) -> None:
    spool = Spool(directory(tmp_path), size_max=1 << 30)
    spool.write(0, b"x" * SMALL_BYTES_MAX)
    assert spool.freeze().data is not None
    assert not list(tmp_path.iterdir())
    spool.write(SMALL_BYTES_MAX, b"y")
    generation = spool.freeze()
    assert generation.data is None
    assert [p.stat().st_mode & 0o777 for p in tmp_path.iterdir()] == [0o600]


def test_a_hole_stays_a_hole_when_a_frozen_file_is_written_again(tmp_path: Path) -> None:
    spool = Spool(directory(tmp_path), size_max=1 << 40)
    spool.write(1 << 30, b"end")
    spool.freeze().holders += 1
    spool.write(5, b"start")
    sizes = [p.stat().st_blocks * 512 for p in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 1 << 20
    assert spool.read((1 << 30) - 1, 9) == b"\0end"
    assert spool.read(0, 11) == bytes(5) + b"start" + b"\0"
    spool.close()


def test_a_file_nothing_stands_for_is_removed(tmp_path: Path) -> None:
    spool = Spool(directory(tmp_path), size_max=1 << 30)
    spool.write(0, b"x" * (SMALL_BYTES_MAX + 1))
    spool.freeze()  # a rename that then failed
    spool.close()
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_journal_is_not_removed(tmp_path: Path) -> None:
    spool = Spool(directory(tmp_path), size_max=1 << 30)
    spool.write(0, b"x" * (SMALL_BYTES_MAX + 1))
    generation = spool.freeze()
    generation.holders += 1
    spool.close()
    assert generation.read() == b"x" * (SMALL_BYTES_MAX + 1)


def test_a_size_no_store_takes_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    spool = Spool(directory(tmp_path), size_max=10)
    spool.write(0, b"0123456789")
    with pytest.raises(FileTooLargeError):
        spool.write(10, b"x")
    with pytest.raises(FileTooLargeError):
        spool.truncate(11)
    assert spool.read(0, 99) == b"0123456789"


def test_a_full_disk_is_said_at_write(tmp_path: Path) -> None:
    spool = Spool(SpoolDirectory(tmp_path, reserve_bytes=1 << 60), size_max=1 << 30)
    with pytest.raises(SpaceError):
        spool.write(0, b"x")
    assert spool.size == 0


def test_a_disk_that_takes_half_a_write_leaves_the_file_as_long_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(directory(tmp_path), size_max=1 << 30)
    before = b"x" * (SMALL_BYTES_MAX + 1)
    spool.write(0, before)
    first = spool.freeze()
    first.holders += 1
    pwrite = os.pwrite
    room = [3]

    def full(fd: int, data: bytes, offset: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, memoryview(data)[: room.pop()], offset)

    spool.write(0, b"y")  # the copy is made while there is room
    spool.write(0, b"x")
    monkeypatch.setattr(spool_module.os, "pwrite", full)
    with pytest.raises(SpaceError):
        spool.write(len(before), b"lost")
    monkeypatch.undo()
    assert spool.size == len(before)
    assert spool.read(0, 1 << 20) == before
    second = spool.freeze()
    assert second.read() == before
    assert first.read() == before
    spool.close()


def test_bytes_the_disk_changed_are_not_uploaded(tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"acknowledged")
    digest = Generation(b"acknowledged", None, 12).digest
    Generation(None, path, 12, digest).verify("k")
    path.write_bytes(b"acknowledgeD")
    with pytest.raises(CorruptError):
        Generation(None, path, 12, digest).verify("k")


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_disk_that_takes_no_file_costs_no_byte_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """No inode or no quota is left, which nobody sees before: what is in memory stays there."""

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = Spool(directory(tmp_path), size_max=1 << 30)
    taken = b"x" * (SMALL_BYTES_MAX - 1)
    spool.write(0, taken)
    for grow in (lambda: spool.write(len(taken), b"lost"), lambda: spool.truncate(SMALL_BYTES_MAX + 1)):
        with monkeypatch.context() as patch:
            patch.setattr(spool_module.os, call, full)
            with pytest.raises((SpaceError, OSError)):
                grow()
    assert spool.read(0, 1 << 20) == taken
    assert spool.freeze().read() == taken
    assert not list(tmp_path.iterdir())
    spool.write(len(taken), b"more")
    assert spool.freeze().read() == taken + b"more"
    spool.close()


def test_to_empty_a_file_needs_no_room(tmp_path: Path) -> None:
    spool = Spool(SpoolDirectory(tmp_path, reserve_bytes=0), size_max=1 << 30)
    spool.write(0, b"x" * (SMALL_BYTES_MAX + 1))
    first = spool.freeze()
    first.holders += 1
    spool._directory = SpoolDirectory(tmp_path, reserve_bytes=1 << 60)
    spool.truncate(0)
    assert (spool.size, spool.read(0, 10), spool.freeze().read()) == (0, b"", b"")
    assert first.size == len(first.read())
    spool.close()


def test_bytes_the_disk_does_not_give_back_are_said(tmp_path: Path) -> None:
    digest = Generation(b"acknowledged", None, 12).digest
    with pytest.raises(CorruptError):
        Generation(None, tmp_path / "gone", 12, digest).verify("k")
