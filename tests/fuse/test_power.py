"""Is what close(2) promised still there after the power went?

Method: the state directory lies on a file system that forgets what was not synced (forgetful.py). A write load
(load.py) runs; the daemon is killed, the disk forgets, the next mount and `flush` must bring everything that
was acknowledged. Then the same with each fsync of the daemon taken out in turn (nosync/sitecustomize.py):
every one must be missed, or it is not needed.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.forgetful import Disk
from tests.fuse.load import AT_WORK, Promises
from tests.fuse.mounted import ROOT, Mount, S3Remote

pytestmark = pytest.mark.fuse

PLACES = [
    "places.py:prepare_directory of a directory",
    "committer.py:_sync_spool",
    "committer.py:_sync_spool of a directory",
    "state.db",
]
"""Where the daemon syncs what it must not lose; `test_every_fsync_is_known` keeps this complete."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "disk") as disk:
        yield disk


class Lost(Exception):
    """Something that was promised is not there."""


def rounds(s3: S3Remote, mount: Mount, disk: Disk, count: int, seed: int) -> Promises:
    """Raises Lost."""
    choose = random.Random(seed)
    promises = Promises()
    mount.start()
    try:
        for number in range(count):
            s3.server.set(delay=choose.choice([0.0, 0.05]))
            if choose.random() < 0.5:
                s3.server.fault("status", count=-1, verb="put,delete", status=503)  # nothing but the disk has it
            load = promises.load(mount.path, seed * 1000 + number)
            time.sleep(choose.uniform(0.0, 0.7))  # the moment
            mount.kill()
            disk.cut()
            promises.heard(load)
            s3.server.set(delay=0.0, clear_faults=True)
            try:
                mount.start()
            except AssertionError as error:
                raise Lost(f"the state cannot be used any more: {error}") from None
            if mount.flush() != 0:
                raise Lost(mount.log)
            try:
                promises.check({key: s3.get(key) for key in s3.keys()})
            except AssertionError as error:
                raise Lost(str(error)) from None
            if mount.asked("conflicts", action="list"):
                raise Lost("conflicts with nobody")
            mount.healthy()
    finally:
        # Before the disk goes, whatever happened.
        if mount.process is not None:
            mount.kill()
        mount.detach()
    return promises


def state_on(disk: Disk, s3: S3Remote, tmp_path: Path) -> Mount:
    return Mount(s3, tmp_path, "--upload-delay=0.05", state_dir=disk.path / "var/lib/kopsfs").expect("")


def test_what_close_promised_survives_a_power_cut(s3: S3Remote, tmp_path: Path, disk: Disk) -> None:
    promises = rounds(s3, state_on(disk, s3, tmp_path), disk, 3, seed=1)
    assert promises.operations >= 3 * AT_WORK


@pytest.mark.slow
def test_what_close_promised_survives_fifty_power_cuts(s3: S3Remote, tmp_path: Path, disk: Disk) -> None:
    rounds(s3, state_on(disk, s3, tmp_path), disk, 50, seed=2)


def without(mount: Mount, **words: str) -> Mount:
    mount.environ["PYTHONPATH"] = f"{ROOT / 'tests/fuse/nosync'}:{mount.environ['PYTHONPATH']}"
    mount.environ |= words
    return mount


@pytest.mark.parametrize("place", PLACES)
def test_every_fsync_is_needed(place: str, s3: S3Remote, tmp_path: Path, disk: Disk) -> None:
    """Without this one, something that was promised is lost, mostly at the first cut: the test above can fail."""
    with pytest.raises(Lost):
        rounds(s3, without(state_on(disk, s3, tmp_path), KOPSFS_TEST_NO_SYNC=place), disk, 12, seed=3)


def test_every_fsync_is_known(s3: S3Remote, tmp_path: Path, disk: Disk) -> None:
    noted = tmp_path / "syncs"
    mount = without(state_on(disk, s3, tmp_path), KOPSFS_TEST_SYNCS=str(noted))
    with mount:
        (mount / "large").write_bytes(bytes(200_000))  # the load writes one sooner or later only
    s3.delete("large")
    rounds(s3, mount, disk, 1, seed=4)
    ours = {place for place in noted.read_text().splitlines() if place != "cache.db"}
    assert ours == set(PLACES)


def test_the_disk_forgets_what_was_not_synced(disk: Disk) -> None:
    """The instrument itself."""
    (disk.path / "d").mkdir()
    (disk.path / "d/a").write_bytes(b"a" * 10_000)
    subprocess.run(["sync", str(disk.path / "d/a"), str(disk.path / "d"), str(disk.path)], check=True)
    (disk.path / "d/a").write_bytes(b"b")
    (disk.path / "d/c").write_bytes(b"c")
    subprocess.run(["sync", str(disk.path / "d/c")], check=True)
    disk.cut()
    assert (disk.path / "d/a").read_bytes() == b"a" * 10_000
    assert [p.name for p in (disk.path / "d").iterdir()] == ["a"]
