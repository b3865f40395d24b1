"""Is what close(2) promised in the store after the daemon was killed, at any moment?

Method: a write load (load.py) whose every acknowledged operation is noted; SIGKILL at a random moment; the
next mount and `flush`; then the store holds what was promised, and not a byte or conflict more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kopsfs.fs.journal import Journal
from kopsfs.fs.journal_rows import connect, prepare
from kopsfs.fs.spool import Generation
from kopsfs.mounts import mount_at
from kopsfs.store.driver import ABSENT, Version
from tests.fuse.conftest import MakeMount
from tests.fuse.load import AT_WORK, Promises
from tests.fuse.mounted import READY_S, Mount, Remote, S3Remote, until, within

pytestmark = pytest.mark.fuse


def stored(remote: Remote) -> dict[str, bytes]:
    return {key: remote.get(key) for key in remote.keys()}


def kill_rounds(remote: S3Remote, mounted: MakeMount, rounds: int, seed: int) -> None:
    choose = random.Random(seed)
    promises = Promises()
    mount = mounted(remote)
    for number in range(rounds):
        # A store that is slow or misbehaves leaves more undone at the kill.
        remote.server.set(delay=choose.choice([0.0, 0.0, 0.01, 0.1]))
        if number % 4 == 3:
            remote.server.fault("lost", count=5, verb="put,delete", skip=choose.randrange(20))
        load = promises.load(mount.path, seed * 1000 + number)
        time.sleep(choose.uniform(0.0, 0.7))  # the moment
        mount.kill()
        promises.heard(load)
        remote.server.set(delay=0.0, clear_faults=True)
        mount.start()
        assert mount.flush() == 0, mount.log
        promises.check(stored(remote))
        assert mount.asked("conflicts", action="list") == []
        mount.healthy()
    assert promises.operations >= AT_WORK * rounds, "the load did too little to show anything"


def test_what_close_promised_survives_a_kill_at_any_moment(s3: S3Remote, mounted: MakeMount) -> None:
    kill_rounds(s3, mounted, 8, seed=1)


@pytest.mark.slow
def test_what_close_promised_survives_two_hundred_kills(s3: S3Remote, mounted: MakeMount) -> None:
    kill_rounds(s3, mounted, 200, seed=2)


def test_a_load_that_is_let_go_reaches_the_store(remote: Remote, mounted: MakeMount) -> None:
    """The same without a kill, through SIGTERM's drain."""
    promises = Promises()
    mount = mounted(remote)
    load = promises.load(mount.path, 3)
    time.sleep(0.5)
    load.kill()
    promises.heard(load)
    assert mount.umount() == 0
    found = {k: v for k, v in stored(remote).items() if not k.startswith("tmp")}
    for step in [step for steps in promises.doubt.values() for step in steps]:
        for name in step:  # a writer that was killed may have left half a write under its own name
            found.pop(name, None)
            promises.state.pop(name, None)
    promises.doubt.clear()
    promises.check(found)
    assert promises.operations >= AT_WORK


@contextlib.contextmanager
def stays(mount: Mount) -> Iterator[Path]:
    """Somebody whose working directory the mount is; how the mount is seen from there, wherever it is mounted."""
    with subprocess.Popen(["sleep", "infinity"], cwd=mount.path) as somebody:
        try:
            yield Path(f"/proc/{somebody.pid}/cwd")
        finally:
            somebody.kill()


def test_a_daemon_that_is_told_to_end_does_not_wait_for_who_stays(remote: Remote, mounted: MakeMount) -> None:
    """A shell in it, or a container with a copy of the mount: systemd would kill the daemon after TimeoutStopSec."""
    remote.put("a", b"a\n")
    mount = mounted(remote, "--drain-budget=2", "--upload-delay=1m")
    with stays(mount) as inside:
        (mount / "b").write_bytes(b"b\n")
        assert mount.terminate() == 0
        assert mount_at(mount.path) is None
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.listdir(inside)
    assert stored(remote) == {"a": b"a\n", "b": b"b\n"}


def test_a_lazy_umount_serves_who_stays_until_the_store_is_mounted_again(remote: Remote, mounted: MakeMount) -> None:
    mount = mounted(remote)
    with stays(mount) as inside:
        assert mount.run("umount", "--lazy", str(mount.path)).returncode == 0
        (inside / "b").write_bytes(b"b\n")
        before, mount.process = mount.process, None
        mount.start()
        assert before is not None
        assert before.wait(READY_S) in {0, 75}
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.listdir(inside)
        assert (mount / "b").read_bytes() == b"b\n"
    assert mount.flush() == 0
    assert stored(remote) == {"b": b"b\n"}


def test_large_bytes_that_two_names_share_survive_a_kill(s3: S3Remote, mounted: MakeMount) -> None:
    """A file is renamed while it is being uploaded: two rows of the journal stand for one spool file."""
    data = random.Random(0).randbytes(300_000)
    mount = mounted(s3)
    s3.server.fault("hang", count=-1, verb="put")
    (mount / "a").write_bytes(data)
    until(lambda: any(p["state"] == "uploading" for p in mount.asked("status")[0]["pending"]), "the upload to begin")
    (mount / "a").rename(mount / "b")
    mount.kill()
    s3.server.set(clear_faults=True, drop_connections=True)
    mount.start()
    assert mount.flush() == 0
    assert s3.keys() == ["b"]
    assert s3.get("b") == data


def test_rows_that_share_a_spool_file_share_it_after_a_restart(tmp_path: Path) -> None:
    """What the soak of 200 kills found, without the luck: the first to be settled must leave the file to the other."""
    first = Journal(tmp_path)
    first.load()
    file = first.spool_path / "s"
    file.write_bytes(b"x" * 100_000)
    generation = Generation(None, file, 100_000)
    first.start(first.put("a", generation, ABSENT))
    first.put("b", generation, ABSENT)
    with contextlib.closing(connect(first.path)) as connection:
        for statement, parameters in first.take()[0].statements:
            connection.execute(statement, prepare(parameters))
    again = Journal(tmp_path)
    again.load()
    again.settle(again.owed("a")[0], Version("1"))
    again.check()
    assert again.take()[0].discards == []
    again.settle(again.owed("b")[0], Version("2"))
    assert [g.path for g in again.take()[0].discards] == [file]


# --- clients that are killed ---------------------------------------------------------------------------------------------


def kill_clients(mount: Mount, command: Callable[[int], list[str]], count: int) -> None:
    choose = random.Random(5)
    for number in range(count):
        client = subprocess.Popen(command(number), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(choose.uniform(0.0, 0.05))  # the moment
        client.kill()
        client.wait()
        with within(1.0, f"an answer after client {number} was killed"):
            os.statvfs(mount.path)
            assert "cached" in os.listdir(mount.path)
            assert (mount / "cached").read_bytes() == b"here"


def test_fifty_killed_readers_leave_a_mount_that_answers(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("cached", b"here")
    for number in range(50):
        s3.put(f"f{number}", os.urandom(300_000))
    mount = mounted(s3, "--prefetch=none")
    assert (mount / "cached").read_bytes() == b"here"
    s3.server.set(delay=0.02)
    kill_clients(mount, lambda n: ["cat", *(str(mount / f"f{i % 50}") for i in range(n, n + 10))], 50)
    mount.healthy()


def test_killed_writers_leave_a_mount_that_answers(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("cached", b"here")
    mount = mounted(s3)
    assert (mount / "cached").read_bytes() == b"here"
    kill_clients(mount, lambda n: ["dd", "if=/dev/urandom", f"of={mount / f'w{n}'}", "bs=1k", "count=1000"], 20)
    mount.healthy()
    assert mount.flush() == 0


OPENERS = """
import sys, threading
threading.stack_size(1 << 18)
started = threading.Semaphore(0)
def open_one(number):
    started.release()
    try:
        open('%s/stuck/f%d' % (sys.argv[1], number), 'rb').read()
    except OSError:
        pass
threads = [threading.Thread(target=open_one, args=(n,)) for n in range(int(sys.argv[2]))]
for t in threads: t.start()
for t in threads: started.acquire()
print('all', flush=True)
for t in threads: t.join()
"""


def test_a_thousand_stuck_opens_do_not_freeze_what_is_cached(s3: S3Remote, mounted: MakeMount) -> None:
    count = 1000
    s3.server.load(s3.bucket, {"cached": b"here"} | {f"stuck/f{n}": b"x" for n in range(count)})
    mount = mounted(s3, "--prefetch=none", "--request-budget=60")
    assert (mount / "cached").read_bytes() == b"here"
    assert len(os.listdir(mount / "stuck")) == count
    s3.server.fault("hang", count=-1, key="stuck/")
    openers = subprocess.Popen(
        [sys.executable, "-c", OPENERS, str(mount.path), str(count)], stdout=subprocess.PIPE, text=True
    )
    assert openers.stdout is not None
    assert openers.stdout.readline() == "all\n"
    try:
        # Promise 6: where an open must revalidate, it waits for --revalidate-budget at most.
        for _ in range(20):
            with within(1.0, "what is cached"):
                assert (mount / "cached").read_bytes() == b"here"
                os.statvfs(mount.path)
                (mount / "written").write_text("x")
        assert openers.poll() is None, "nothing was stuck meanwhile: the test shows nothing"
        s3.server.set(clear_faults=True, drop_connections=True)
        openers.wait(READY_S)
        assert mount.flush() == 0
    finally:
        openers.kill()
        openers.communicate()
    mount.healthy()


def test_a_client_stopped_in_the_middle_of_a_write_holds_up_nobody(s3: S3Remote, mounted: MakeMount) -> None:
    mount = mounted(s3)
    with (mount / "a").open("wb", buffering=0) as half:
        half.write(b"half")
        with within(2):
            (mount / "b").write_text("x")
            assert mount.asked("status")[0]["pending_total"] <= 1
    assert mount.flush() == 0
    assert s3.get("a") == b"half"
