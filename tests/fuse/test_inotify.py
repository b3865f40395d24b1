"""Do those who watch a directory hear of what others did, once, and of nothing else?

Method: inotify itself (inotify(7)), on read-write and read-only mounts. A remote create, modify and delete must
be heard within --refresh, each once; our own uploads and the store's confirmations must not be heard at all.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from kopsfs import echo_helper
from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import SLACK_S, Remote, S3Remote, until

pytestmark = pytest.mark.fuse

NAMES = {0x2: "modify", 0x8: "close_write", 0x40: "moved_from", 0x80: "moved_to", 0x100: "create", 0x200: "delete"}
REFRESH_S = 0.5


class Watch:
    """Events on a directory."""

    def __init__(self, directory: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.fd >= 0
        mask = sum(NAMES)
        assert self.libc.inotify_add_watch(self.fd, os.fsencode(directory), mask) >= 0, ctypes.get_errno()
        self.heard: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def listen(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> Counter[tuple[str, str]]:
        """Everything heard so far, after so many seconds or when it is enough."""
        deadline = time.monotonic() + seconds
        while not enough() and (left := deadline - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                break
            data = os.read(self.fd, 65536)
            while data:
                _, mask, _, size = struct.unpack_from("iIII", data)
                name = data[16 : 16 + size].rstrip(b"\0").decode()
                self.heard += [(word, name) for bit, word in NAMES.items() if mask & bit]
                data = data[16 + size :]
        return Counter(self.heard)

    def hears(self, word: str, name: str) -> None:
        """Within --refresh and what a busy machine adds; without us it would be half a minute (`IDLE_REFRESH_S`)."""
        self.listen(REFRESH_S + SLACK_S, lambda: (word, name) in self.heard)
        assert (word, name) in self.heard, self.heard


@pytest.mark.parametrize("options", [(), ("--ro", "--max-staleness=1")], ids=["read-write", "read-only"])
def test_what_others_do_is_heard_once(options: tuple[str, ...], remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/manifests/old", b"1\n")
    mount = mounted(remote, f"--refresh={REFRESH_S}", *options)
    directory = mount / "c1/manifests"
    assert os.listdir(directory) == ["old"]
    with Watch(directory) as watch:
        remote.put("c1/manifests/new", b"new\n")
        watch.hears("create", "new")
        assert (directory / "new").read_bytes() == b"new\n"
        remote.put("c1/manifests/old", b"changed\n")
        watch.hears("close_write", "old")
        assert (directory / "old").read_bytes() == b"changed\n"
        remote.delete("c1/manifests/new")
        watch.hears("delete", "new")
        assert not (directory / "new").exists()
        heard = watch.listen(3 * REFRESH_S)
    assert heard["create", "new"] == heard["delete", "new"] == 1
    assert heard["close_write", "old"] == 1
    assert heard["modify", "old"] <= 1
    assert heard["close_write", "new"] <= 1
    assert not {name for _, name in heard} - {"new", "old"}
    mount.healthy()


def test_our_own_uploads_are_not_heard_again(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("c1/manifests/old", b"1\n")
    mount = mounted(s3, f"--refresh={REFRESH_S}", "--max-staleness=0.2")
    directory = mount / "c1/manifests"
    assert os.listdir(directory) == ["old"]
    with Watch(directory) as watch:
        (directory / "mine").write_bytes(b"mine\n")
        (directory / "old").write_bytes(b"mine, too\n")
        assert mount.flush() == 0
        (directory / "old").unlink()
        assert mount.flush() == 0
        heard = watch.listen(4 * REFRESH_S)
    assert heard["create", "mine"] == heard["close_write", "mine"] == 1
    assert heard["close_write", "old"] == heard["delete", "old"] == 1
    assert heard["delete", "mine"] == heard["create", "old"] == 0
    assert mount.status()["uploaded"] >= 2


def test_the_helper_moves_no_end_of_a_file(tmp_path: Path) -> None:
    """Truncated to another size than the present one, readers beside it would see half a version."""
    (tmp_path / "f").write_bytes(b"present bytes")
    with Watch(tmp_path) as watch:
        echo_helper._enact(str(tmp_path), tmp_path.stat().st_dev, {"kind": "modify", "path": "f", "dir": False})
        watch.hears("close_write", "f")
    assert watch.heard == [("modify", "f"), ("close_write", "f")]
    assert (tmp_path / "f").read_bytes() == b"present bytes"


def test_what_is_heard_moves_nothing(s3: S3Remote, mounted: MakeMount) -> None:
    """The echo is no write: no PUT, no DELETE, no intent, and a read-only mount stays one."""
    s3.put("c1/manifests/old", b"1\n")
    mount = mounted(s3, f"--refresh={REFRESH_S}", "--ro", "--max-staleness=1")
    directory = mount / "c1/manifests"
    assert os.listdir(directory) == ["old"]
    with Watch(directory) as watch:
        for number in range(20):
            s3.put(f"c1/manifests/m{number}", b"x")
        until(lambda: watch.listen(0.2)["create", "m19"])
        with pytest.raises(OSError, match="Read-only"):
            (directory / "mine").write_bytes(b"x")
        with pytest.raises(OSError, match="Read-only"):
            (directory / "old").unlink()
    assert s3.writes() == []
    assert mount.status()["pending_total"] == 0
    assert len(os.listdir(directory)) == 21


def test_a_new_directory_and_what_is_in_it_is_heard(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("c1/config", b"x")
    mount = mounted(s3, f"--refresh={REFRESH_S}")
    assert os.listdir(mount.path) == ["c1"]
    with Watch(mount.path) as watch:
        s3.put("c2/config", b"x")
        watch.hears("create", "c2")
        s3.delete("c2/config")
        watch.hears("delete", "c2")
