"""Does the command mount, answer, and leave? Real mounts of file:// and memfs://, through the real program."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopsfs.mounts import detach, mount_at, mounts
from kopsfs.store.demo import CLUSTER, objects

pytestmark = pytest.mark.fuse


class Bench:
    """A directory with a store, a mount point, and a state of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.mountpoint = directory / "mnt"
        self.store.mkdir()
        self.mountpoint.mkdir()
        (self.store / "a").write_text("a\n")
        self.url = f"file://{self.store}"
        self.before: list[str] = []
        self.cwd = directory

    def run(self, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("KOPS")}
        return subprocess.run(
            [*self.before, sys.executable, "-m", "kopsfs", *map(str, words)],
            capture_output=True,
            text=True,
            env=clean
            | {
                "KOPSFS_STATE_DIR": str(self.directory / "kept"),
                "KOPSFS_CACHE_DIR": str(self.directory / "cache"),
                "HOME": str(self.directory),
            }
            | environ,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=self.cwd,
            timeout=180,
        )

    def mount(self, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.run("mount", *words, self.url, self.mountpoint, **environ)

    def pid(self) -> int:
        return int(json.loads(self.run("status", "--json", self.mountpoint).stdout)["pid"])

    def kill(self) -> None:
        """Kill the daemon, and return when the kernel has noticed."""
        pid = self.pid()
        descriptor = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            import select

            select.select([descriptor], [], [], 120)
        finally:
            os.close(descriptor)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        for mount in mounts():
            if mount.mountpoint.is_relative_to(tmp_path):
                bench.run("umount", mount.mountpoint)
                if mount_at(mount.mountpoint) is not None:
                    subprocess.run(["fusermount3", "-uz", str(mount.mountpoint)], check=False)


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_mount_returns_when_ls_answers_and_umount_when_the_store_has_everything(bench: Bench) -> None:
    assert said(bench.mount()) == (0, "", "")
    assert os.listdir(bench.mountpoint) == ["a"]
    (bench.mountpoint / "b").write_text("b\n")
    assert said(bench.run("umount", bench.mountpoint)) == (0, "", "")
    assert (bench.store / "b").read_text() == "b\n"
    assert mount_at(bench.mountpoint) is None
    assert os.listdir(bench.mountpoint) == []


def test_a_directory_is_meant_from_where_one_stands(bench: Bench) -> None:
    assert said(bench.run("mount", "store", bench.mountpoint)) == (0, "", "")
    assert os.listdir(bench.mountpoint) == ["a"]
    assert json.loads(bench.run("status", "--json", bench.mountpoint).stdout)["store"] == str(bench.store)


def test_a_store_that_is_none_leaves_nothing_behind(bench: Bench) -> None:
    done = bench.run("mount", "s4://clusters", bench.mountpoint)
    assert (done.returncode, "s4://clusters" in done.stderr) == (78, True)
    assert sorted(os.listdir(bench.directory)) == ["mnt", "store"]


def test_a_directory_does_not_show_itself(bench: Bench) -> None:
    for inside in (bench.store, bench.store / "mnt"):
        inside.mkdir(exist_ok=True)
        (inside / "a").unlink(missing_ok=True)
        done = bench.run("mount", bench.url, inside)
        assert (done.returncode, "lies inside the store" in done.stderr) == (78, True)


def test_who_mounts_an_empty_store_is_asked_whether_that_is_meant(bench: Bench) -> None:
    (bench.store / "a").unlink()
    assert said(bench.mount()) == (0, "", f"kopsfs: nothing is stored below {bench.url}: is the prefix right?\n")


def test_debug_shows_every_request(bench: Bench) -> None:
    bench.mount("--debug", "--log-file=log")
    (bench.mountpoint / "b").write_text("b\n")
    assert bench.run("umount", bench.mountpoint).returncode == 0
    log = (bench.directory / "log").read_text()
    for request in ("op=list key=''", "op=put key='b'"):
        assert f"DEBUG {request} ms=" in log


def test_certificates_are_the_ones_that_were_named(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"https://127.0.0.1:{closed.getsockname()[1]}"
    key = {"S3_ENDPOINT": endpoint, "S3_ACCESS_KEY_ID": "a", "S3_SECRET_ACCESS_KEY": "b"}
    for words in (["mount", bench.mountpoint], ["validate", "--all"]):
        done = bench.run(*words, "--state=s3://b", **key, KOPSFS_CA_FILE="missing.pem")
        assert done.returncode == 78
        assert f"cannot read certificates from '{bench.directory / 'missing.pem'}'" in done.stderr


def test_the_mount_table_names_store_and_type(bench: Bench) -> None:
    bench.mount()
    mount = mount_at(bench.mountpoint)
    assert mount is not None
    assert (mount.type, mount.source) == ("fuse.kopsfs", bench.url)


def test_a_mount_is_found_in_every_way(bench: Bench) -> None:
    bench.mount()
    for target in (bench.mountpoint, bench.mountpoint / "a", bench.url, f"{bench.url}/"):
        done = bench.run("status", "--json", target)
        assert done.returncode == 0
        assert json.loads(done.stdout)["mountpoint"] == str(bench.mountpoint)
    assert bench.run("flush", "--state", bench.url).returncode == 0
    assert bench.run("umount", bench.url).returncode == 0


def test_of_several_mounts_the_one_around_us_is_meant(bench: Bench) -> None:
    other = bench.directory / "other"
    other.mkdir()
    assert bench.mount().returncode == 0
    assert bench.run("mount", "memfs://demo", other).returncode == 0
    assert bench.run("flush").returncode == 66
    bench.cwd = bench.mountpoint
    try:
        assert said(bench.run("conflicts")) == (0, "no conflicts\n", "")
        assert bench.run("flush").returncode == 0
    finally:
        bench.cwd = bench.directory


def test_the_daemon_keeps_nothing_of_the_terminal(bench: Bench) -> None:
    bench.mount()
    pid = bench.pid()
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}


def test_mounting_twice_is_refused(bench: Bench) -> None:
    bench.mount()
    done = bench.mount()
    assert done.returncode == 66
    assert "is mounted already (kopsfs" in done.stderr
    other = bench.directory / "mnt2"
    other.mkdir()
    done = bench.run("mount", bench.url, other)
    assert done.returncode == 78
    assert "in use" in done.stderr
    assert "--state-dir" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_the_store_says_reaches_the_terminal_before_mount_returns(bench: Bench) -> None:
    done = bench.run("mount", f"file://{bench.directory}/missing", bench.mountpoint)
    assert done.returncode in {66, 69, 78}
    assert len(done.stderr.splitlines()) == 1
    assert "missing" in done.stderr
    assert mount_at(bench.mountpoint) is None


@pytest.mark.parametrize("url", ["ftp://x", "s3://", "s3://b/%zz"])
def test_a_url_that_is_none_is_an_error_in_one_line(url: str, bench: Bench) -> None:
    done = bench.run("mount", url, bench.mountpoint)
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1


def test_a_dead_mount_shows_no_empty_directory_and_is_replaced(bench: Bench) -> None:
    bench.mount()
    (bench.mountpoint / "b").write_text("b\n")
    bench.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(bench.mountpoint)
    asked = [[word, target] for word in ("status", "flush") for target in (bench.mountpoint, bench.mountpoint / "a")]
    for words in (*asked, ["conflicts", bench.mountpoint], ["validate", "--all", "--state", bench.mountpoint]):
        done = bench.run(*words)
        assert done.returncode == 69
        assert f"the daemon of {bench.mountpoint} is gone" in done.stderr
    done = bench.mount()
    assert done.returncode == 0
    assert "dead mount is replaced" in done.stderr
    assert sorted(os.listdir(bench.mountpoint)) == ["a", "b"]
    assert bench.run("umount", bench.mountpoint).returncode == 0
    assert (bench.store / "b").read_text() == "b\n"


def test_a_dead_mount_can_be_unmounted(bench: Bench) -> None:
    bench.mount()
    bench.kill()
    done = bench.run("umount", bench.mountpoint)
    assert done.returncode == 0
    assert "no daemon answered" in done.stderr
    assert mount_at(bench.mountpoint) is None


def test_of_two_mounts_that_begin_at_once_one_gives_way(bench: Bench) -> None:
    """The second has looked before the first was there: its look is left out."""
    bench.mount()
    unseeing = (
        "from kopsfs.cli import main, mount\nmount.check_mountpoint = lambda _: ''\n"
        f"raise SystemExit(main(['mount', 'memfs://demo', {str(bench.mountpoint)!r}, '--state-dir', 'other', '--cache-dir', 'other-cache']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", unseeing], cwd=bench.directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 66
    assert f"{bench.mountpoint} is mounted already" in done.stderr
    assert os.listdir(bench.mountpoint) == ["a"]


@pytest.mark.parametrize("words", [[], ["--foreground"]], ids=["background", "foreground"])
def test_who_stops_waiting_for_the_store_leaves_no_mount(bench: Bench, words: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, (bench.directory / "said").open("w+") as told:
        key = {"S3_ACCESS_KEY_ID": "a", "S3_SECRET_ACCESS_KEY": "b", "HOME": str(bench.directory)}
        command = [sys.executable, "-m", "kopsfs", "mount", *words, "--request-budget=10m", "s3://b"]
        process = subprocess.Popen(
            [
                *command,
                bench.mountpoint,
                "--state-dir",
                bench.directory / "kept",
                "--cache-dir",
                bench.directory / "cache",
            ],
            env=os.environ | key | {"S3_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            stderr=told,
            start_new_session=True,
            # What runs in the background of a shell inherits that SIGINT is ignored.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            while mount_at(bench.mountpoint) is None:
                assert process.poll() is None, told.read()
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(120) == 130
        finally:
            process.kill()
            process.wait()
        assert mount_at(bench.mountpoint) is None
        told.seek(0)
        assert "Traceback" not in told.read()


def test_who_may_not_mount_there_is_told_so(bench: Bench) -> None:
    if os.geteuid() == 0:
        bench.before = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
        status, words = 78, "SYS_ADMIN"
    else:
        bench.mountpoint.chmod(0o555)
        status, words = 66, "may not be written by this user"
    done = bench.mount()
    assert done.returncode == status
    assert words in done.stderr


def test_a_busy_mount_is_not_torn_away_unless_lazily(bench: Bench) -> None:
    bench.mount()
    with (bench.mountpoint / "a").open() as file:
        done = bench.run("umount", bench.mountpoint)
        assert done.returncode == 75
        assert "--lazy" in done.stderr
        assert file.read() == "a\n"
        assert mount_at(bench.mountpoint) is not None


def test_what_cannot_be_uploaded_is_named(bench: Bench) -> None:
    cluster = bench.store / "c1.example.com"
    cluster.mkdir()
    (cluster / "config").write_text("kind: Cluster\n")
    bench.mount()
    (bench.mountpoint / "c1.example.com" / "config").write_text("")
    status = bench.run("status", bench.mountpoint)
    assert status.returncode == 1
    assert "held" in status.stdout
    assert bench.run("conflicts", bench.mountpoint).returncode == 1
    done = bench.run("umount", bench.mountpoint)
    assert done.returncode == 75
    assert "1 write held until you decide" in done.stderr
    assert "uploaded" not in done.stderr
    assert (cluster / "config").read_text() == "kind: Cluster\n"


def test_forget_asks_the_store_again(bench: Bench) -> None:
    bench.mount("--max-staleness=1h", "--refresh=1h")
    assert os.listdir(bench.mountpoint) == ["a"]
    assert said(bench.run("forget", bench.mountpoint)) == (0, "", "")
    assert (bench.mountpoint / "a").read_text() == "a\n"


def test_a_foreground_mount_tells_the_service_manager(bench: Bench) -> None:
    address = bench.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(120)
        daemon = subprocess.Popen(
            [sys.executable, "-m", "kopsfs", "mount", "--foreground", bench.url, str(bench.mountpoint)],
            env=os.environ
            | {
                "NOTIFY_SOCKET": str(address),
                "WATCHDOG_USEC": "200000",
                "STATE_DIRECTORY": str(bench.directory / "state"),
                "CACHE_DIRECTORY": str(bench.directory / "cache"),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            heard = [manager.recv(4096).decode() for _ in range(2)]
            assert "READY=1" in heard
            assert os.listdir(bench.mountpoint) == ["a"]
            while "WATCHDOG=1" not in heard:
                heard.append(manager.recv(4096).decode())
            daemon.send_signal(signal.SIGTERM)
            _, err = daemon.communicate(timeout=120)
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.communicate()
    assert daemon.returncode == 0
    assert "mounted store=" in err
    assert "unmounted store=" in err
    assert (bench.directory / "state").is_dir()
    assert mount_at(bench.mountpoint) is None


def test_directories_are_private_and_never_inside_a_mount(bench: Bench) -> None:
    bench.mount()
    (kept,) = (bench.directory / "kept").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    inner = bench.directory / "mnt2"
    inner.mkdir()
    done = bench.run("mount", f"--state-dir={bench.mountpoint}/s", "memfs://demo", inner)
    assert done.returncode == 78
    assert "lies inside the kopsfs mount" in done.stderr
    done = bench.run("mount", f"--cache-dir={inner}/c", "memfs://demo", inner)
    assert done.returncode == 78
    assert "lies inside the mount point" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(bench: Bench) -> None:
    bench.mount()
    bench.run("umount", bench.mountpoint)
    (kept,) = (bench.directory / "kept").iterdir()
    os.chown(kept, 65534, 65534)
    done = bench.mount()
    assert done.returncode == 78
    assert "belongs to user 65534" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) is root's")
def test_mount_8_finds_the_helper(bench: Bench) -> None:
    helper = Path(sys.executable).parent / "mount.kopsfs"
    environ = {"KOPSFS_STATE_DIR": str(bench.directory / "kept"), "KOPSFS_CACHE_DIR": str(bench.directory / "cache")}
    done = subprocess.run(
        [str(helper), bench.url, str(bench.mountpoint), "-o", "ro,_netdev,nofail,x-systemd.requires=x,max_staleness=5"],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        check=False,
    )
    assert said(done) == (0, "", "")
    with pytest.raises(OSError, match="Read-only"):
        (bench.mountpoint / "b").write_text("b")
    status = bench.run("status", bench.mountpoint)
    assert "read-only" in status.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mount.fuse3 is called as root here")
def test_the_call_of_mount_fuse3_is_understood(bench: Bench) -> None:
    assert said(bench.run(bench.url, bench.mountpoint, "-o", "rw,nosuid,nodev,dev,suid")) == (0, "", "")
    assert os.listdir(bench.mountpoint) == ["a"]


def test_the_offline_commands_read_the_mount_of_a_store_where_there_is_one(bench: Bench) -> None:
    for key, data in objects():
        path = bench.store / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    words = ["validate", CLUSTER, "--state", bench.url, "-v"]
    assert said(bench.run(*words)) == (0, "", f"kopsfs: {bench.url} is not mounted here: reading the directory\n")
    bench.mount("--upload-delay=1m")
    assert said(bench.run(*words)) == (0, "", f"kopsfs: {bench.url} is mounted on {bench.mountpoint}: reading there\n")
    config = bench.mountpoint / CLUSTER / "config"
    config.write_text(config.read_text().replace("100.64.0.0/10", "100.64.0.0/100"))
    assert bench.run(*words).returncode == 1, "what is saved, and not uploaded yet, counts"
    bench.kill()
    done = bench.run("validate", CLUSTER, "--state", bench.url)
    assert said(done) == (
        0,
        "",
        f"kopsfs: 1 change of an earlier mount not in the store yet; kopsfs flush {bench.url}\n",
    )


def test_a_lazy_umount_returns_while_the_store_is_still_being_written(bench: Bench) -> None:
    bench.mount("--upload-delay=1m")
    with (bench.mountpoint / "a").open() as busy:
        (bench.mountpoint / "b").write_text("b\n")
        assert said(bench.run("umount", "--lazy", bench.mountpoint)) == (0, "", "")
        assert mount_at(bench.mountpoint) is None
        assert busy.read() == "a\n"


def test_what_a_killed_mount_left_over_is_flushed_without_a_mount(bench: Bench) -> None:
    assert bench.run("flush", bench.url).returncode == 66
    bench.mount("--upload-delay=1m")
    (bench.mountpoint / "b").write_text("b\n")
    bench.kill()
    bench.run("umount", bench.mountpoint)
    assert not (bench.store / "b").exists()
    assert said(bench.run("flush", bench.url)) == (0, "", "")
    assert (bench.store / "b").read_text() == "b\n"
    assert [mount for mount in mounts() if mount.source == bench.url] == []


def test_flush_names_what_is_held_and_gives_up_in_time(bench: Bench) -> None:
    cluster = bench.store / "c1.example.com"
    cluster.mkdir()
    (cluster / "config").write_text("kind: Cluster\n")
    bench.mount()
    (bench.mountpoint / "c1.example.com" / "config").write_text("")
    done = bench.run("flush", "--timeout=500ms", bench.mountpoint)
    assert done.returncode == 75
    assert "1 write held until you decide" in done.stderr
    assert bench.run("flush", "--timeout=soon", bench.mountpoint).returncode == 78


def test_who_cannot_unmount_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install fuse3" in detach(tmp_path, lazy=False)
