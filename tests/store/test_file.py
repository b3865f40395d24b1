"""Is a directory a store, also while others use it as a directory?

The contract itself is `test_contract.py`; here is what only a directory has: other programs' files, links,
clock ticks, processes, a root that vanishes, inotify.
"""

from __future__ import annotations

import io
import os
import queue
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import trio

from kopsfs.errors import ConfigError, ConflictError, InvalidKeyError, NotFoundError, StoreGoneError
from kopsfs.store import ABSENT, ANY, Key, ObjectInfo, Prefix, open_store
from kopsfs.store import file as file_module
from kopsfs.store.file import FileDriver
from tests.conftest import ExpectLog


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "state"
    root.mkdir()
    return root


@pytest.fixture
def driver(root: Path) -> FileDriver:
    return FileDriver(root)


def put(driver: FileDriver, key: str, data: bytes = b"x", expected: object = ANY) -> ObjectInfo:
    return driver.put(Key(key), io.BytesIO(data), len(data), expected=expected)  # type: ignore[arg-type]


def get(driver: FileDriver, key: str) -> bytes:
    into = io.BytesIO()
    driver.get(Key(key), into)
    return into.getvalue()


def keys(driver: FileDriver, prefix: str = "") -> list[str]:
    page = driver.list_page(Prefix(prefix), delimiter=False, token=None, start_after=None)
    assert page.token is None
    return [info.key for info in page.objects]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# -- the same files, seen by others ----------------------------------------------------------------


def test_files_of_others_are_objects_and_objects_are_files(driver: FileDriver, root: Path) -> None:
    (root / "c" / "instancegroup").mkdir(parents=True)
    (root / "c" / "instancegroup" / "nodes").write_bytes(b"theirs")
    assert get(driver, "c/instancegroup/nodes") == b"theirs"
    put(driver, "c/config", b"ours")
    assert (root / "c" / "config").read_bytes() == b"ours"
    assert keys(driver) == ["c/config", "c/instancegroup/nodes"]


def test_a_new_file_is_private_and_a_replaced_one_keeps_its_mode(driver: FileDriver, root: Path) -> None:
    """kops writes 0600 (`util/pkg/vfs/fs.go`, CreateTemp)."""
    put(driver, "k")
    assert (root / "k").stat().st_mode & 0o777 == 0o600
    (root / "k").chmod(0o640)
    put(driver, "k", b"y")
    assert (root / "k").stat().st_mode & 0o777 == 0o640


def test_empty_directories_go_with_their_last_object_but_never_the_root(driver: FileDriver, root: Path) -> None:
    put(driver, "a/b/c")
    put(driver, "a/d")
    driver.delete(Key("a/b/c"), expected=ANY)
    assert files(root) == ["a", "a/d"]
    driver.delete(Key("a/d"), expected=ANY)
    assert files(root) == []
    assert root.is_dir()


def test_an_empty_directory_is_no_object_no_group_and_in_nobodys_way(driver: FileDriver, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    page = driver.list_page(Prefix(""), delimiter=True, token=None, start_after=None)
    assert (page.objects, page.prefixes) == ([], [])
    put(driver, "a", b"a file now", ABSENT)
    assert get(driver, "a") == b"a file now"


def test_a_file_and_a_directory_of_one_name_cannot_be(driver: FileDriver) -> None:
    put(driver, "a")
    with pytest.raises(InvalidKeyError, match="a is an object"):
        put(driver, "a/b")
    put(driver, "d/k")
    with pytest.raises(InvalidKeyError, match="d/ holds objects"):
        put(driver, "d")
    assert keys(driver) == ["a", "d/k"]


def test_what_is_no_regular_file_is_not_listed_and_not_opened(driver: FileDriver, root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"no UTF-8")
    put(driver, "k")
    assert keys(driver) == ["k"]
    with pytest.raises(NotFoundError):
        get(driver, "fifo")


# -- links -----------------------------------------------------------------------------------------


def test_links_are_followed_to_files_inside_only(driver: FileDriver, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    put(driver, "real", b"real bytes")
    (root / "inside").symlink_to("real")
    (root / "out").symlink_to(tmp_path / "outside" / "secret")
    (root / "dir").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nowhere")
    assert keys(driver) == ["inside", "real"]
    assert get(driver, "inside") == b"real bytes"
    for key in ("out", "dir/secret", "loop", "dangling"):
        with pytest.raises(NotFoundError):
            get(driver, key)
    assert keys(driver, "dir/") == []
    with pytest.raises(InvalidKeyError):
        put(driver, "dir/new")
    driver.delete(Key("dir/secret"), expected=ANY)
    assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["secret"]


def test_a_root_that_is_a_link_is_a_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    linked = FileDriver(tmp_path / "link")
    put(linked, "a/b")
    assert keys(linked) == ["a/b"]
    assert get(linked, "a/b") == b"x"


# -- versions --------------------------------------------------------------------------------------


def test_writes_of_one_size_within_a_clock_tick_differ(driver: FileDriver) -> None:
    versions = [put(driver, "k", b"%04d" % n).version for n in range(300)]
    assert len(set(versions)) == 300


def test_a_write_in_place_of_one_size_right_after_ours_is_noticed(driver: FileDriver, root: Path) -> None:
    """As `dd conv=notrunc` or an editor that rewrites in place does it: same inode, same size, same tick."""
    for n in range(50):
        mine = put(driver, "k", b"ours")
        with (root / "k").open("r+b") as file:
            file.write(b"them")
        with pytest.raises(ConflictError):
            put(driver, "k", b"more", mine.version)
        assert get(driver, "k") == b"them", n


def test_a_write_in_place_right_after_a_look_is_noticed(driver: FileDriver, root: Path) -> None:
    for n in range(20):
        (root / "k").write_bytes(b"one.")
        seen = driver.head(Key("k"))
        with (root / "k").open("r+b") as file:
            file.write(b"two.")
        assert driver.head(Key("k")).version != seen.version, n


def test_on_a_clock_that_stands_still_each_write_is_later(driver: FileDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels before 6.13 stamp in ticks of up to 10 ms; this one need not."""
    now = time.time_ns()
    monkeypatch.setattr(file_module.time, "time_ns", lambda: now)
    monkeypatch.setattr(file_module, "TICK_NS", 0)
    times = [put(driver, "k", b"%04d" % n).mtime_ns for n in range(5)]
    assert times == [now + n for n in range(5)]


def test_a_state_younger_than_a_tick_is_not_named_before_the_tick_is_over(
    driver: FileDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "k").write_bytes(b"x")
    clock = [(root / "k").stat().st_ctime_ns + 1_000_000]
    waits: list[int] = []

    def wait() -> None:
        waits.append(1)
        clock[0] += file_module.TICK_NS

    monkeypatch.setattr(file_module.time, "time_ns", lambda: clock[0])
    monkeypatch.setattr(file_module, "_await_tick", wait)
    for ask in (lambda: driver.head(Key("k")), lambda: get(driver, "k"), lambda: keys(driver)):
        clock[0] = (root / "k").stat().st_ctime_ns + 1_000_000
        waits.clear()
        ask()
        assert waits == [1]


def test_an_older_file_moved_over_ours_is_another_version(driver: FileDriver, root: Path) -> None:
    (root / "old").write_bytes(b"1234")
    mine = put(driver, "k", b"5678")
    os.utime(root / "old", ns=(mine.mtime_ns, mine.mtime_ns))
    (root / "old").rename(root / "k")
    with pytest.raises(ConflictError):
        put(driver, "k", b"more", mine.version)


def test_the_version_of_a_put_is_the_one_listed_later(driver: FileDriver) -> None:
    mine = put(driver, "k")
    time.sleep(0.03)
    again = driver.list_page(Prefix(""), delimiter=False, token=None, start_after=None).objects[0]
    assert again == mine == driver.head(Key("k"))


# -- temporary files -------------------------------------------------------------------------------


def test_temporary_files_are_not_keys_and_old_ones_are_removed(driver: FileDriver, root: Path) -> None:
    young, old = (root / f".kopsfs-{n:016x}.tmp" for n in range(2))
    for path in (young, old):
        path.write_bytes(b"half a wr")
    os.utime(old, (time.time() - 7200,) * 2)
    assert keys(driver) == []
    assert files(root) == [young.name]
    for key in (young.name, f"a/{young.name}"):
        with pytest.raises(InvalidKeyError):
            put(driver, key)


def test_a_body_that_breaks_off_leaves_nothing(driver: FileDriver, root: Path) -> None:
    put(driver, "k", b"before")
    with pytest.raises(Exception, match="3 bytes to store instead of 10"):
        driver.put(Key("k"), io.BytesIO(b"abc"), 10, expected=ANY)
    assert files(root) == ["k"]
    assert get(driver, "k") == b"before"


# -- other processes -------------------------------------------------------------------------------

RACER = textwrap.dedent(
    """
    import io, sys
    from pathlib import Path
    from kopsfs.errors import ConflictError
    from kopsfs.store.driver import Key
    from kopsfs.store.file import FileDriver
    driver = FileDriver(Path(sys.argv[1]))
    won = 0
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(100):
        info = driver.head(Key("counter"))
        into = io.BytesIO()
        if driver.get(Key("counter"), into) != info:
            continue
        data = b"%06d" % (int(into.getvalue()) + 1)
        try:
            driver.put(Key("counter"), io.BytesIO(data), 6, expected=info.version)
            won += 1
        except ConflictError:
            pass
    print(won, flush=True)
    """
)


def test_processes_that_count_together_lose_no_increment(driver: FileDriver, root: Path) -> None:
    put(driver, "counter", b"000000")
    command = [sys.executable, "-c", RACER, str(root)]
    racers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for _ in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [int(racer.communicate(timeout=240)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sum(won) >= 100
    assert int(get(driver, "counter")) == sum(won)


# -- a root that is not there ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["missing", "a file"])
def test_a_root_that_is_no_directory_is_a_config_error(tmp_path: Path, what: str) -> None:
    if what == "a file":
        (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match=r"does not exist|is not a directory"):
        open_store(f"file://{tmp_path}/x")


def test_a_root_that_vanishes_is_a_store_that_is_gone_not_an_empty_one(driver: FileDriver, root: Path) -> None:
    put(driver, "k")
    root.rename(root.with_name("elsewhere"))
    for ask in (
        lambda: keys(driver),
        lambda: get(driver, "k"),
        lambda: driver.head(Key("k")),
        lambda: put(driver, "k"),
        lambda: driver.delete(Key("k"), expected=ANY),
    ):
        with pytest.raises(StoreGoneError):
            ask()
    assert not root.exists(), "a put must not make a new store where the old one was"


def test_an_empty_directory_of_another_file_system_is_a_mount_that_is_missing(driver: FileDriver) -> None:
    put(driver, "k")
    driver._device = -1
    assert keys(driver) == ["k"], "another file system with objects is the store, mounted again"
    driver.delete(Key("k"), expected=ANY)
    driver._device = -1
    with pytest.raises(StoreGoneError):
        keys(driver)


# -- inotify ---------------------------------------------------------------------------------------


def test_changes_by_others_are_told(root: Path) -> None:
    (root / "before").mkdir()
    store = open_store(f"file://{root}")
    assert store.capabilities.change_feed == "inotify"
    told: queue.Queue[str] = queue.Queue()

    async def main() -> None:
        stop = store.watch(told.put)
        assert stop is not None
        await trio.to_thread.run_sync(moves)
        stop()

    def moves() -> None:
        (root / "before" / "k").write_bytes(b"x")
        expect("before/k")
        (root / "new" / "deep").mkdir(parents=True)
        (root / "new" / "deep" / "k").write_bytes(b"x")
        expect("new/deep/k")
        (root / "before" / "k").rename(root / "new" / "k")
        expect("before/k", "new/k")
        (root / "new" / "k").unlink()
        expect("new/k")
        (root / "new").rename(root / "newer")
        expect("new/", "newer/deep/k")
        put(FileDriver(root), "newer/ours")
        expect("newer/ours")
        (root / "newer" / "after").write_bytes(b"x")
        expect("newer/after")

    def expect(*wanted: str) -> None:
        missing = set(wanted)
        while missing:
            key = told.get(timeout=60)
            assert ".tmp" not in key
            missing.discard(key)

    trio.run(main)


def test_where_inotify_is_blind_the_store_says_poll(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kopsfs.mounts import Mount
    from kopsfs.store import file_feed

    for kind, feed in (("nfs4", "poll"), ("fuse.sshfs", "poll"), ("ext4", "inotify")):
        mounts = [Mount(Path("/"), "ext4", "/dev/vda", "8:1"), Mount(root, kind, "server:/x", "0:99")]
        monkeypatch.setattr(file_feed, "mounts", lambda mounts=mounts: mounts)
        store = open_store(f"file://{root}")
        assert store.capabilities.change_feed == feed
    assert FileDriver(root, feed="poll").watch(lambda key: None) is None


def test_a_directory_that_cannot_be_watched_is_said_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    import inotify_simple

    expect_log("found by polling only")

    def full(self: object, path: object, mask: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inotify_simple.INotify, "add_watch", full)
    stop = FileDriver(root, feed="inotify").watch(lambda key: None)
    assert stop is not None
    stop()
