"""Does a mount keep what packaging/doc/semantics.md promises, section by section?

Method: one class for each section of that page, under its heading; each test is one of its sentences, on a
real mount of the tests' own S3 server. What a sentence needs many ways to show is in tests/fuse.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeMount, _server, mounted, s3, server  # noqa: F401 - fixtures
from tests.fuse.mounted import Mount, S3Remote, until, within

# ruff: noqa: F811 - fixtures are arguments of the same name
pytestmark = pytest.mark.fuse

PAGE = Path(__file__).resolve().parents[1] / "packaging" / "doc" / "semantics.md"


def test_every_section_has_its_class() -> None:
    headings = re.findall(r"^## (\d+\. .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    classes = [c.__doc__ for name, c in sorted(globals().items()) if name.startswith("TestSection")]
    assert sorted(str(text) for text in classes) == sorted(headings)


def refusal(caught: pytest.ExceptionInfo[OSError]) -> int | None:
    return caught.value.errno


class TestSection01:
    """1. Exact bytes"""

    def test_both_ways(self, s3: S3Remote, mounted: MakeMount) -> None:
        every = {
            "empty": b"",
            "bytes": bytes(range(256)) * 300,
            "dos": b"a\r\nb\r\n",
            "bom": b"\xef\xbb\xbfkey: v\n",
            "no newline": b"x",
            "page": b"x" * 4096,
            "large": random.Random(0).randbytes(5_000_001),
        }
        for name, data in every.items():
            s3.put(f"there/{name}", data)
        mount = mounted(s3)
        for name, data in every.items():
            (mount / "here").mkdir(exist_ok=True)
            (mount / "here" / name).write_bytes(data)
            assert (mount / "there" / name).read_bytes() == data
        assert mount.flush() == 0
        for name, data in every.items():
            assert s3.get(f"here/{name}") == data
            found = subprocess.run(
                ["sha256sum", str(mount / "there" / name)], capture_output=True, text=True, check=True
            )
            assert found.stdout.split()[0] == hashlib.sha256(data).hexdigest()


class TestSection02:
    """2. Nothing lost"""

    def test_close_is_the_disk_and_fsync_the_store(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3, "--upload-delay=30s")
        (mount / "a").write_bytes(b"a")
        (mount / "b").write_bytes(b"b")
        (mount / "b").rename(mount / "c")
        assert s3.keys() == []
        mount.kill()
        mount.start()
        assert (mount / "a").read_bytes() == b"a"
        assert (mount / "c").read_bytes() == b"b"
        with (mount / "d").open("wb", buffering=0) as file:
            file.write(b"d")
            os.fsync(file.fileno())
            assert s3.get("d") == b"d"
        directory = os.open(mount.path, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        assert s3.keys() == ["a", "c", "d"]

    def test_through_makes_close_the_store_too(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3, "--write-mode=through")
        (mount / "a").write_bytes(b"a")
        assert s3.get("a") == b"a"

    def test_fsync_journal_relaxes_fsync(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3, "--fsync=journal", "--upload-delay=30s")
        with (mount / "a").open("wb", buffering=0) as file:
            file.write(b"a")
            os.fsync(file.fileno())
        assert s3.keys() == []

    def test_what_is_left_is_named_and_sent_later(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3, "--drain-budget=0.5", expect=("store is down",))
        s3.server.down()
        (mount / "left").write_bytes(b"x")
        assert "left" in mount.run("status", str(mount.path)).stdout
        assert mount.umount() == 75
        s3.server.up()
        mount.start()
        assert mount.flush() == 0
        assert s3.get("left") == b"x"


class TestSection03:
    """3. Nothing overwritten"""

    def test_the_loser_is_kept_and_the_name_shows_the_winner(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("f", b"1")
        mount = mounted(s3, expect=("conflict key=f",))
        with (mount / "f").open("r+b", buffering=0) as file:
            assert file.read() == b"1"
            s3.put("f", b"theirs")
            file.write(b" and mine")
            with pytest.raises(OSError, match="Stale") as caught:
                os.fsync(file.fileno())
            assert refusal(caught) == errno.ESTALE
        assert s3.get("f") == b"theirs"
        until(lambda: (mount / "f").read_bytes() == b"theirs")
        assert os.listdir(mount.path) == ["f"]
        assert [c["path"] for c in mount.conflicts()] == ["f"]
        assert mount.run("status", str(mount.path)).returncode == 1

    def test_status_says_which_conditions_hold(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("f", b"1")
        mount = mounted(s3)
        (mount / "f").write_bytes(b"2")
        (mount / "f").write_bytes(b"3")
        assert mount.flush() == 0
        assert mount.status()["capabilities"]["replace_if"] == "compared"

    def test_an_empty_file_over_a_precious_one_is_held(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("c1/config", b"kind: Cluster\n")
        mount = mounted(s3, expect=("held", "finding"))
        with (mount / "c1/config").open("wb") as file, pytest.raises(OSError, match="Invalid") as caught:
            os.fsync(file.fileno())
        assert refusal(caught) == errno.EINVAL
        assert os.getxattr(mount / "c1/config", "user.kopsfs.state") == b"held"
        assert mount.umount() == 75
        assert s3.get("c1/config") == b"kind: Cluster\n"
        mount.start()
        assert mount.run("conflicts", str(mount.path), "take", "mine", "--all").returncode == 0
        assert mount.flush() == 0
        assert s3.get("c1/config") == b""


class TestSection04:
    """4. Close-to-open"""

    def test_a_change_is_seen_after_max_staleness(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("c1/f", b"1")
        mount = mounted(s3, "--max-staleness=0.5", "--refresh=60")
        for number in range(2, 6):
            assert (mount / "c1/f").exists()
            s3.put("c1/f", b"x" * number)
            s3.put(f"c1/new{number}", b"new")
            with within(0.5, "a change elsewhere"):
                until(lambda: (mount / "c1/f").read_bytes() == b"x" * number)
                until(lambda: f"new{number}" in os.listdir(mount / "c1"))
            assert (mount / "c1/f").stat().st_size == number

    def test_what_this_mount_did_is_seen_at_once(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3, "--max-staleness=60")
        for number in range(20):
            (mount / "f").write_bytes(b"x" * number)
            assert (mount / "f").stat().st_size == number
            assert (mount / "f").read_bytes() == b"x" * number
            (mount / f"n{number}").touch()
            assert f"n{number}" in os.listdir(mount.path)


class TestSection05:
    """5. Never an empty lie"""

    def test_names_do_not_vanish_and_what_is_unknown_is_an_error(self, s3: S3Remote, mounted: MakeMount) -> None:
        for number in range(30):
            s3.put(f"c1/manifests/m{number}", b"x")
        mount = mounted(s3, "--max-staleness=0.1", "--refresh=0.2", "--prefetch=none", expect=("store is down",))
        assert len(os.listdir(mount / "c1/manifests")) == 30
        s3.server.fault("empty-list", count=-1, verb="list")
        asked = s3.server.requests().get("list", 0)
        until(lambda: len(os.listdir(mount / "c1/manifests")) == 30 and s3.server.requests()["list"] > asked + 3)
        s3.server.down()
        with pytest.raises(OSError, match=r"Input/output|timed out"):
            (mount / "c1/manifests/m3").read_bytes()
        assert len(os.listdir(mount / "c1/manifests")) == 30

    def test_a_daemon_that_died_leaves_enotconn(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("a", b"1")
        mount = mounted(s3)
        mount.kill()
        with pytest.raises(OSError, match="not connected") as caught:
            os.listdir(mount.path)
        assert refusal(caught) == errno.ENOTCONN


class TestSection06:
    """6. Never a hang"""

    def test_every_call_ends_within_its_budget(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("cached", b"here")
        s3.put("other", b"x")
        options = ("--prefetch=none", "--max-staleness=0.1")
        patient = mounted(s3, *options, "--request-budget=60", name="patient", expect=("store is down",))
        hasty = mounted(s3, *options, "--request-budget=2", name="hasty", expect=("store is down",))
        assert (patient / "cached").read_bytes() == (hasty / "cached").read_bytes() == b"here"
        s3.server.fault("hang", count=-1)
        with within(1.0, "what is cached"):
            assert (patient / "cached").read_bytes() == b"here"
        with within(1.0, "what is cached, again and again: one wait serves them all"):
            for _ in range(40):
                assert (patient / "cached").read_bytes() == b"here"
        with within(2, "what is not"), pytest.raises(OSError, match=r"timed out|Input/output"):
            (hasty / "other").read_bytes()
        s3.server.set(clear_faults=True, drop_connections=True)


class TestSection07:
    """7. A remote change looks like a local one"""

    def test_tail_follows_and_test_sees(self, s3: S3Remote, mounted: MakeMount) -> None:
        """What watchers hear is in tests/fuse/test_inotify.py; here: a program that waits by inotify."""
        s3.put("c1/log", b"one\n")
        mount = mounted(s3, "--refresh=0.5")
        with subprocess.Popen(
            ["timeout", "180", "tail", "-n", "+1", "-F", str(mount / "c1/log")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as tail:  # fmt: skip
            assert tail.stdout is not None
            assert tail.stdout.readline() == "one\n"
            s3.put("c1/log", b"one\ntwo\n")
            seen = tail.stdout.readline()
            assert seen in {"two\n", "one\n"}  # a new inode: tail -F may begin anew
            tail.terminate()


class TestSection08:
    """8. Nothing extra in the store"""

    LOCAL = ("a~", "#a#", "4913", ".a.swp", ".#a", ".goutputstream-XYZ", ".a.Xb12cD", ".nfs0001", ".git")

    def test_droppings_stay_here_and_survive(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("c1/config", b"x")
        mount = mounted(s3)
        for name in self.LOCAL:
            (mount / "c1" / name).write_bytes(name.encode())
        for name in ("sedAb12cD", "tmp1234567"):
            os.close(os.open(mount / "c1" / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        (mount / "c1/.well-known").write_bytes(b"stored")
        (mount / "c1/empty").mkdir()
        (mount / "c1/link").symlink_to("config")
        assert mount.flush() == 0
        assert s3.keys() == ["c1/.well-known", "c1/config"]
        mount.kill()
        mount.start()
        for name in self.LOCAL:
            assert (mount / "c1" / name).read_bytes() == name.encode()
        assert os.readlink(mount / "c1/link") == "config"
        assert (mount / "c1/empty").is_dir()

    def test_a_save_is_one_put_and_a_rename_put_then_delete(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("c1/f", b"1")
        mount = mounted(s3, "--upload-delay=1m")
        (mount / "c1/f.new").write_bytes(b"2")
        (mount / "c1/f.new").rename(mount / "c1/f")
        assert mount.flush() == 0
        assert [(w["verb"], w["key"]) for w in s3.writes()] == [("PUT", "c1/f")]
        (mount / "c1/f").rename(mount / "c1/g")
        assert mount.flush() == 0
        assert [(w["verb"], w["key"]) for w in s3.writes()][1:] == [("PUT", "c1/g"), ("DELETE", "c1/f")]
        (mount / "c1").rename(mount / "c2")
        assert mount.flush() == 0
        assert s3.keys() == ["c2/g"]

    def test_a_file_that_came_and_went_leaves_no_trace(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3, "--upload-delay=1m")
        (mount / "a").write_bytes(b"x")
        (mount / "a").unlink()
        assert mount.flush() == 0
        assert s3.writes() == []

    def test_a_marker_is_a_directory_and_goes_with_it(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("d/", b"")
        mount = mounted(s3)
        assert (mount / "d").is_dir()
        (mount / "d").rmdir()
        assert mount.flush() == 0
        assert s3.keys() == []


class TestSection09:
    """9. Secrets stay secret"""

    SECRET = ("c1/pki/private/ca/keyset.yaml", "c1/secrets/admin", "c1/backups/etcd/main/x", "a/b/secrets/deep")

    def test_modes_and_where_the_bytes_are(self, s3: S3Remote, mounted: MakeMount) -> None:
        marker = b"TOP-SECRET-BYTES"
        for key in self.SECRET:
            s3.put(key, marker)
        s3.put("c1/config", b"public")
        mount = mounted(s3, "--debug", expect=("finding c1/secrets/new",))
        for key in self.SECRET:
            path = mount / key
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert path.stat().st_uid == os.geteuid()
            assert path.read_bytes() == marker
        assert stat.S_IMODE((mount / "c1/config").stat().st_mode) == 0o644
        (mount / "c1/secrets/new").write_bytes(marker)
        assert stat.S_IMODE((mount / "c1/secrets/new").stat().st_mode) == 0o600
        assert mount.flush() == 0
        assert mount.umount() == 0
        for file in [p for p in mount.cache_dir.rglob("*") if p.is_file()]:
            assert marker not in file.read_bytes(), file
        assert marker.decode() not in mount.log
        for directory in (*mount.cache_dir.iterdir(), *mount.state_dir.iterdir()):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_secrets_are_fetched_when_one_is_read(self, s3: S3Remote, mounted: MakeMount) -> None:
        for key in (*self.SECRET, "c1/config"):
            s3.put(key, b"x")
        mount = mounted(s3)
        subprocess.run(["ls", "-lR", str(mount.path)], check=True, stdout=subprocess.DEVNULL)
        until(lambda: s3.server.requests().get("get", 0) >= 1, "config to be fetched ahead")
        fetched = {key for _, verb, key, _ in s3.server.log() if verb == "get"}
        assert fetched == {"c1/config"}

    def test_the_mount_is_nosuid_and_nodev(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3)
        flags = os.statvfs(mount.path).f_flag
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV


class TestSection10:
    """10. Names"""

    EXACT = ("with space", "%41", "a:b", "tab\t", "new\nline", "\u00fc", "u\u0308", "x" * 255, "\U0001f600", "\x01")

    def test_names_are_exact_both_ways(self, s3: S3Remote, mounted: MakeMount) -> None:
        for name in self.EXACT:
            s3.put(f"there/{name}", name.encode())
        mount = mounted(s3)
        assert sorted(os.listdir(mount / "there")) == sorted(self.EXACT)
        (mount / "here").mkdir()
        for name in self.EXACT:
            assert (mount / "there" / name).read_bytes() == name.encode()
            (mount / "here" / name).write_bytes(name.encode())
        assert mount.flush() == 0
        assert sorted(k for k in s3.keys() if k.startswith("here/")) == sorted(f"here/{n}" for n in self.EXACT)

    def test_what_cannot_be_a_name(self, s3: S3Remote, mounted: MakeMount) -> None:
        for key in ("a", "a/b", "x//y", "./z", "fine"):
            s3.put(key, key.encode())
        mount = mounted(s3)
        assert sorted(os.listdir(mount.path)) == ["a", "a.__file__", "fine"]
        assert (mount / "a/b").read_bytes() == b"a/b"
        (mount / "a.__file__").write_bytes(b"changed")
        assert mount.flush() == 0
        assert s3.get("a") == b"changed"
        assert mount.status()["unreachable_keys"] == ["./z", "x//y"]
        with pytest.raises(OSError, match=r".") as caught:
            os.open(os.fsencode(mount.path) + b"/\xff", os.O_CREAT | os.O_WRONLY)
        assert refusal(caught) == errno.EILSEQ

    def test_directories_kops_expects(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("c1/config", b"x")
        mount = mounted(s3)
        assert os.listdir(mount / "c1/instancegroup") == []
        assert os.listdir(mount / "c1") == ["config"]
        (mount / "c1/instancegroup/nodes").parent.mkdir(parents=True, exist_ok=True)
        assert not (mount / "c9").exists()


class TestSection11:
    """11. What differs from a local file system"""

    def test_links_and_devices_are_refused_whole(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3)
        (mount / "a").write_bytes(b"x")
        with pytest.raises(PermissionError):
            os.link(mount / "a", mount / "b")
        with pytest.raises(PermissionError):
            os.mkfifo(mount / "b")
        assert os.listdir(mount.path) == ["a"]

    def test_what_is_remembered_here(self, s3: S3Remote, mounted: MakeMount) -> None:
        s3.put("a", b"x")
        mount = mounted(s3)
        path = mount / "a"
        path.chmod(0o755)
        os.utime(path, ns=(1_600_000_000_123_456_789, 1_600_000_000_987_654_321))
        os.setxattr(path, "user.note", b"hello")
        self.remembered(mount)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        mount.kill()
        mount.start()
        self.remembered(mount)
        assert s3.writes() == []

    @staticmethod
    def remembered(mount: Mount) -> None:
        found = (mount / "a").stat()
        assert stat.S_IMODE(found.st_mode) == 0o755
        assert found.st_mtime_ns == 1_600_000_000_987_654_321
        assert os.getxattr(mount / "a", "user.note") == b"hello"

    def test_an_upload_moves_no_time_and_no_inode(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3)
        (mount / "a").write_bytes(b"x")
        before = (mount / "a").stat()
        assert mount.flush() == 0
        until(lambda: os.getxattr(mount / "a", "user.kopsfs.state") == b"stored")
        after = (mount / "a").stat()
        assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
        assert os.getxattr(mount / "a", "user.kopsfs.key") == b"a"
        assert os.listxattr(mount / "a") == []

    def test_locks_hold_on_this_mount(self, s3: S3Remote, mounted: MakeMount) -> None:
        mount = mounted(s3)
        (mount / "a").write_bytes(b"x")
        script = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        import fcntl

        with (mount / "a").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            done = subprocess.run([sys.executable, "-c", script, str(mount / "a")], check=False, capture_output=True)
            assert b"BlockingIOError" in done.stderr
        assert subprocess.run([sys.executable, "-c", script, str(mount / "a")], check=False).returncode == 0
