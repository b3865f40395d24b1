"""What do programs see while the store is away, or lies?

Method: everything is read once, then the server refuses, hangs, answers 200 with empty listings, then 503, and
is well again. All the time every cached path must read, no call may take longer than its budget, no listing
may shrink, a save must work; afterwards the edits arrive.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import Mount, S3Remote, needs, until, within

pytestmark = pytest.mark.fuse

FILES = {
    "c1/config": b"kind: Cluster\n",
    **{f"c1/instancegroup/g{n}": b"minSize: %d\n" % n for n in range(12)},
    **{f"c1/manifests/m{n}.yaml": bytes([65 + n]) * 5000 for n in range(12)},
}
BUDGET_S = 1.0
"""--revalidate-budget; who waits for the store instead waits for --request-budget, which is a minute here."""
DOWN = ("store is down", "finding c[12]/")

OUTAGES: dict[str, Callable[[S3Remote], object]] = {
    "refuses connections": lambda s3: s3.server.down(),
    "hangs": lambda s3: s3.server.fault("hang", count=-1),
    "drops connections": lambda s3: s3.server.fault("refuse", count=-1),
    "lists nothing": lambda s3: s3.server.fault("empty-list", count=-1, verb="list"),
    "lists nothing and knows nothing": lambda s3: s3.server.set(
        add_faults=[
            {"kind": "empty-list", "count": -1, "verb": "list"},
            {"kind": "status", "count": -1, "status": 503, "code": "SlowDown"},
        ]
    ),
    "says 503": lambda s3: s3.server.fault("status", count=-1, status=503, code="SlowDown"),
    "says 500": lambda s3: s3.server.fault("status", count=-1, status=500, code="InternalError"),
    "denies": lambda s3: s3.server.fault("status", count=-1, status=403, code="AccessDenied", verb="list,get,head"),
    "has no such bucket": lambda s3: s3.server.fault(
        "status", count=-1, status=404, code="NoSuchBucket", verb="list,get,head"
    ),
}


def heal(s3: S3Remote) -> None:
    s3.server.up()
    s3.server.set(clear_faults=True, drop_connections=True)


def look(mount: Mount) -> Mount:
    """Everything is there, right, and quick."""
    for directory in ("c1", "c1/instancegroup", "c1/manifests"):
        expected = {name[len(directory) + 1 :].split("/")[0] for name in FILES if name.startswith(directory + "/")}
        with within(BUDGET_S, f"ls {directory}"):
            assert expected <= set(os.listdir(mount / directory)), f"{directory} has shrunk"
    for name, data in FILES.items():
        with within(BUDGET_S, f"stat {name}"):
            assert (mount / name).stat().st_size == len(data)
        with within(BUDGET_S, f"cat {name}"):
            assert (mount / name).read_bytes() == data
    return mount


@pytest.fixture
def cached(s3: S3Remote, mounted: MakeMount) -> Mount:
    for name, data in FILES.items():
        s3.put(name, data)
    mount = mounted(s3, "--max-staleness=0.2", "--refresh=0.5", "--request-budget=60", expect=DOWN)
    look(mount)
    return mount


@pytest.mark.parametrize("outage", OUTAGES)
def test_what_is_cached_stays(outage: str, cached: Mount, s3: S3Remote) -> None:
    OUTAGES[outage](s3)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        look(cached)
    heal(s3)
    s3.put("c1/config", b"kind: Cluster # later\n")
    until(lambda: (cached / "c1/config").read_bytes() == b"kind: Cluster # later\n", "what changed after the outage")
    assert set(os.listdir(cached / "c1/instancegroup")) == {f"g{n}" for n in range(12)}
    cached.healthy()


@pytest.mark.slow
def test_a_minute_without_the_store_then_lies_then_503(cached: Mount, s3: S3Remote) -> None:
    for outage, seconds in (("refuses connections", 60), ("lists nothing", 20), ("says 503", 20), ("hangs", 20)):
        OUTAGES[outage](s3)
        vim_saves(cached, outage)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            look(cached)
        heal(s3)
        until(lambda: s3.get("c1/edited") == f"{outage}\n".encode(), "the edit")
    cached.healthy()


def vim_saves(mount: Mount, text: str) -> None:
    needs("vim")
    words = ["-u", "NONE", "-n", "-es", "+set nofsync", f"+call setline(1, '{text}')", "+wq", str(mount / "c1/edited")]
    with within(10 * BUDGET_S, "a save in vim"):
        assert subprocess.run(["vim", *words], stdin=subprocess.DEVNULL, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("outage", ["refuses connections", "hangs", "says 503"])
def test_a_save_works_and_arrives_afterwards(outage: str, cached: Mount, s3: S3Remote) -> None:
    OUTAGES[outage](s3)
    vim_saves(cached, "offline")
    with within(BUDGET_S, "a save"):
        (cached / "c1/instancegroup/g3").write_bytes(b"minSize: 33\n")
    with within(BUDGET_S, "a rename"):
        (cached / "c1/instancegroup/g4").rename(cached / "c1/instancegroup/g44")
    with within(BUDGET_S, "a deletion"):
        (cached / "c1/instancegroup/g5").unlink()
    with within(BUDGET_S, "the edit"):
        assert (cached / "c1/edited").read_bytes() == b"offline\n"
        assert (cached / "c1/instancegroup/g3").read_bytes() == b"minSize: 33\n"
    heal(s3)
    until(lambda: "c1/edited" in s3.keys() and s3.get("c1/edited") == b"offline\n", "the edit in the store")
    assert cached.flush() == 0
    assert s3.get("c1/instancegroup/g3") == b"minSize: 33\n"
    names = {key for key in s3.keys() if key.startswith("c1/instancegroup/")}
    assert {"c1/instancegroup/g44"} <= names
    assert names.isdisjoint({"c1/instancegroup/g4", "c1/instancegroup/g5"})
    assert cached.asked("conflicts", action="list") == []
    cached.healthy()


def test_status_says_stale_and_since_when(cached: Mount, s3: S3Remote) -> None:
    s3.server.down()
    until(lambda: look(cached).status()["health"] in {"down", "stale"}, "status to notice")
    status = cached.status()
    assert status["stale_since"] is not None
    assert status["last_error"]
    assert "stale" in cached.run("status", str(cached.path)).stdout
    heal(s3)
    until(lambda: look(cached).status()["health"] == "ok", "status to notice that all is well")


def test_with_staleness_0_the_truth_or_an_error(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("a", b"1")
    mount = mounted(s3, "--max-staleness=0", "--request-budget=60", expect=DOWN)
    assert (mount / "a").read_bytes() == b"1"
    s3.server.down()
    for _ in range(3):
        with within(BUDGET_S), pytest.raises(OSError, match=r"Input/output|timed out"):
            (mount / "a").read_bytes()


def test_what_was_never_read_is_an_error_within_its_budget_never_enoent(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("c1/f", b"x" * 100)
    mount = mounted(s3, "--prefetch=none", "--request-budget=2", expect=DOWN)
    assert os.listdir(mount / "c1") == ["f"]
    s3.server.fault("hang", count=-1)
    with within(2, "a read of what is not cached"), pytest.raises(OSError) as caught:
        (mount / "c1/f").read_bytes()
    assert caught.value.errno in {errno.EIO, errno.ETIMEDOUT}
    s3.server.down()
    with within(2), pytest.raises(OSError) as caught:
        (mount / "c1/f").read_bytes()
    assert caught.value.errno in {errno.EIO, errno.ETIMEDOUT}
    heal(s3)

    def reads() -> bool:
        try:
            return (mount / "c1/f").read_bytes() == b"x" * 100
        except OSError as error:
            assert error.errno in {errno.EIO, errno.ETIMEDOUT}
            return False

    until(reads, "the file to be readable again")


def test_fsync_says_etimedout_at_once_while_the_store_is_down(cached: Mount, s3: S3Remote) -> None:
    s3.server.down()
    until(lambda: look(cached).status()["health"] == "down", "the store to be known as down")
    with (cached / "c1/new").open("wb", buffering=0) as file:
        file.write(b"x")
        with within(BUDGET_S, "fsync"), pytest.raises(OSError, match="timed out"):
            os.fsync(file.fileno())
    heal(s3)
    assert cached.flush() == 0
    assert s3.get("c1/new") == b"x"


def test_a_warm_mount_answers_while_the_store_is_away(cached: Mount, s3: S3Remote) -> None:
    """Also after a restart: a node boots when the store is down."""
    assert cached.umount() == 0
    s3.server.down()
    with within(BUDGET_S, "a mount without the store"):
        cached.start()
    look(cached)
    heal(s3)
    s3.put("c1/config", b"kind: Cluster # later\n")
    until(lambda: (cached / "c1/config").read_bytes() == b"kind: Cluster # later\n", "what changed")


def test_a_deletion_elsewhere_is_believed_when_the_store_confirms_it(cached: Mount, s3: S3Remote) -> None:
    for number in range(12):
        s3.delete(f"c1/manifests/m{number}.yaml")
    until(lambda: not (cached / "c1/manifests").exists() or os.listdir(cached / "c1/manifests") == [], "many deletions")
    assert (cached / "c1/config").read_bytes() == FILES["c1/config"]


def test_readers_at_work_during_an_outage_see_no_error(cached: Mount, s3: S3Remote) -> None:
    wrong: list[str] = []
    over = threading.Event()

    def read(name: str, data: bytes) -> None:
        while not over.is_set():
            try:
                if (cached / name).read_bytes() != data:
                    wrong.append(f"{name}: other bytes")
            except OSError as error:
                wrong.append(f"{name}: {error}")

    readers = [threading.Thread(target=read, args=item) for item in list(FILES.items())[:6]]
    for reader in readers:
        reader.start()
    try:
        for outage in ("hangs", "refuses connections", "lists nothing", "says 503"):
            OUTAGES[outage](s3)
            time.sleep(0.7)
            heal(s3)
            time.sleep(0.2)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert not wrong, wrong[:5]


def test_directories_made_during_an_outage_are_there(cached: Mount, s3: S3Remote) -> None:
    s3.server.down()
    (cached / "c2/instancegroup").mkdir(parents=True)
    (cached / "c2/instancegroup/nodes").write_bytes(b"x")
    assert os.listdir(cached / "c2/instancegroup") == ["nodes"]
    heal(s3)
    assert cached.flush() == 0
    assert s3.get("c2/instancegroup/nodes") == b"x"
