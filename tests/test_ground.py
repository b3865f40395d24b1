"""Does the ground hold: mount table, places, log lines, the service manager's datagrams?"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopsfs import log, places, systemd
from kopsfs.errors import ConfigError
from kopsfs.mounts import FILE_SYSTEM_TYPE, Mount, mount_at, mount_of, mounts, parse

MOUNTINFO = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:26 / /mnt rw,relatime - tmpfs tmpfs rw
31 30 0:40 / /mnt/a\040b rw,nosuid,nodev,relatime shared:2 master:1 - fuse.kopsfs s3://bucket/a\040b rw,user_id=0
32 30 0:41 / /mnt/a\040b/c rw - tmpfs tmpfs rw
33 30 0:42 / /mnt/twice rw - tmpfs lower rw
34 33 0:43 / /mnt/twice rw - fuse.kopsfs upper rw
broken line
"""


def test_the_mount_table_is_read_with_its_escapes() -> None:
    table = parse(MOUNTINFO)
    assert len(table) == 6
    assert table[2] == Mount(Path("/mnt/a b"), FILE_SYSTEM_TYPE, "s3://bucket/a b", "0:40")
    assert [mount.ours for mount in table] == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("path", "mountpoint"),
    [("/etc", "/"), ("/mnt", "/mnt"), ("/mnt/a b/x/y", "/mnt/a b"), ("/mnt/a b/c/d", "/mnt/a b/c"), ("/mnt/a", "/mnt")],
)
def test_the_deepest_mount_above_a_path_has_it(path: str, mountpoint: str) -> None:
    found = mount_of(Path(path), parse(MOUNTINFO))
    assert found is not None
    assert found.mountpoint == Path(mountpoint)


def test_the_topmost_of_two_mounts_counts() -> None:
    table = parse(MOUNTINFO)
    for found in (mount_at(Path("/mnt/twice"), table), mount_of(Path("/mnt/twice/x"), table)):
        assert found is not None
        assert found.source == "upper"
    assert mount_at(Path("/mnt/none"), table) is None


def test_this_machine_has_a_root_mount() -> None:
    assert mount_of(Path("/"), mounts()) is not None


# -- places ------------------------------------------------------------------------------------------


def directory(
    field: str, environ: dict[str, str], uid: int = 1000, base: Path | None = None, url: str = "s3://b"
) -> Path:
    return places.store_directory(field, base, url, environ, Path("/home/u"), uid)


def test_directories_follow_systemd_then_root_then_xdg() -> None:
    systemd_says = {"STATE_DIRECTORY": "/run/x/state:/other", "CACHE_DIRECTORY": "/run/x/cache"}
    assert directory("state_dir", systemd_says).parent == Path("/run/x/state")
    assert directory("cache_dir", systemd_says).parent == Path("/run/x/cache")
    assert directory("state_dir", {}, uid=0).parent == Path("/var/lib/kopsfs")
    assert directory("cache_dir", {}, uid=0).parent == Path("/var/cache/kopsfs")
    assert directory("state_dir", {"XDG_STATE_HOME": "/s"}).parent == Path("/s/kopsfs")
    assert directory("cache_dir", {"XDG_CACHE_HOME": "relative"}).parent == Path("/home/u/.cache/kopsfs")
    assert directory("state_dir", {}).parent == Path("/home/u/.local/state/kopsfs")
    assert directory("state_dir", systemd_says, base=Path("/b")).parent == Path("/b")


def test_every_store_and_user_has_a_directory_of_its_own() -> None:
    urls = ["s3://b", "s3://b/", "gs://b", "s3://b-x", "s3://b/x", "s3://b/x y", "s3://B", "s3://" + "l" * 300]
    names = {places.store_slug(url, uid) for url in urls for uid in (0, 1000)}
    assert len(names) == 2 * len(urls)
    assert all(len(name) < 60 and "/" not in name for name in names)
    assert places.store_slug("s3://clusters.example.com/prod", 0).startswith("s3-clusters.example.com-prod-")


def test_a_socket_is_found_by_either_half_of_its_name(tmp_path: Path) -> None:
    name = places.socket_name("s3://b", Path("/mnt"))
    (tmp_path / name).touch()
    (tmp_path / places.socket_name("s3://c", Path("/mnt2"))).touch()
    for pattern in (
        places.socket_pattern(url="s3://b"),
        places.socket_pattern(mountpoint=Path("/mnt")),
        places.socket_pattern(url="s3://b", mountpoint=Path("/mnt")),
    ):
        assert [each.name for each in tmp_path.glob(pattern)] == [name]
    assert len(list(tmp_path.glob(places.socket_pattern()))) == 2


def test_a_directory_is_made_private_and_stays_so(tmp_path: Path) -> None:
    made = tmp_path / "deep" / "er" / "state"
    places.prepare_directory(made, "state directory", os.geteuid())
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    places.prepare_directory(made, "state directory", os.geteuid())
    assert made.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_a_private_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name, words in (("file", "cannot be made"), ("file/x", "cannot be made"), ("link", "is no directory")):
        with pytest.raises(ConfigError, match=words):
            places.prepare_directory(tmp_path / name, "state directory", os.geteuid())
    with pytest.raises(ConfigError, match="belongs to user"):
        places.prepare_directory(tmp_path / "new", "state directory", os.geteuid() + 1)
    with pytest.raises(ConfigError, match="inside the mount point"):
        places.prepare_directory(tmp_path / "mnt" / "s", "state directory", os.geteuid(), mountpoint=tmp_path / "mnt")


# -- log and systemd ---------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger beside the watched ones, with what set_up changes put back."""
    root = logging.getLogger("kopsfs")
    before = root.handlers[:], root.level, root.propagate, logging.raiseExceptions
    yield root
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.handlers, root.level, root.propagate, logging.raiseExceptions = before
    logging.getLogger("kopsfs").setLevel(before[1])


def format_one(level: int, message: str, *, journal: bool, exc: BaseException | None = None) -> str:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    record = logging.LogRecord("kopsfs.x", level, "f", 1, message, (), info)
    return log.LineFormatter(journal=journal, clock=False).format(record)


@pytest.mark.parametrize(
    ("level", "number"), [(logging.CRITICAL, 3), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (10, 7)]
)
def test_the_journal_gets_priorities(level: int, number: int) -> None:
    assert format_one(level, "mounted a=1", journal=True) == f"<{number}>mounted a=1"


def test_an_event_is_a_line_even_when_its_text_is_not() -> None:
    assert format_one(logging.INFO, "key=a\nforged", journal=True) == "<6>key=a\\nforged"
    text = format_one(logging.ERROR, "bug", journal=True, exc=ValueError("x"))
    assert text.startswith("<3>bug\n<3>")
    assert all(line.startswith("<3>") for line in text.splitlines())


def test_a_log_file_gets_what_its_level_allows(tmp_path: Path, logger: logging.Logger) -> None:
    log.set_up("info", file=tmp_path / "log")
    logging.getLogger("kopsfs.fs").info("seen key=%s", "a")
    logging.getLogger("kopsfs.fs").debug("unseen")
    logging.getLogger("botocore").error("SDKs are not ours")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("INFO seen key=a")


def test_where_nobody_rotates_the_log_starts_over(tmp_path: Path, logger: logging.Logger) -> None:
    log.set_up("info", file=tmp_path / "log", file_bytes_max=1000)
    for number in range(100):
        logger.info("line %d", number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str], logger: logging.Logger) -> None:
    log.set_up("warning")
    logger.info("unseen")
    logger.error("seen")
    assert capsys.readouterr().err.endswith("ERROR seen\n")
    assert sys.stderr is not None


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@kopsfs-test-{os.getpid()}" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert systemd.notify("READY=1\nSTATUS=ok")
        assert manager.recv(100) == b"READY=1\nSTATUS=ok"


def test_nobody_to_tell_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "relative", str(tmp_path / "missing"), "@missing"):
        monkeypatch.setenv("NOTIFY_SOCKET", value)
        assert not systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "wanted"),
    [
        ("60000000", None, 30.0),
        ("60000000", str(os.getpid()), 30.0),
        ("60000000", "1", None),
        ("0", None, None),
        ("x", None, None),
    ],
)
def test_the_watchdog_is_due_at_half_its_time(
    usec: str, pid: str | None, wanted: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_interval_s() == wanted
