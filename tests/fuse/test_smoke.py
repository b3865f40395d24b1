"""Does each store mount, answer, take an edit and leave, through the program a person types?

Method: one life of a mount per store, then everything that can go wrong before it begins: one line on
stderr, an exit status of design §8, no traceback.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kopsfs.mounts import mount_at
from tests.bench.s3server import Server
from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import FileRemote, Mount, Remote, S3Remote

pytestmark = pytest.mark.fuse


def life(remote: Remote, mount: Mount) -> None:
    remote.put("c1/config", b"kind: Cluster\n")
    remote.put("c1/instancegroup/nodes", b"minSize: 1\n")
    with mount.expect("finding c1/"):
        assert sorted(os.listdir(mount / "c1")) == ["config", "instancegroup"]
        assert (mount / "c1/instancegroup/nodes").read_bytes() == b"minSize: 1\n"
        subprocess.run(["sed", "-i", "s/1/3/", str(mount / "c1/instancegroup/nodes")], check=True)
        (mount / "c1/new").write_bytes(bytes(range(256)))
        (mount / "c1/config").rename(mount / "c1/config.old")
        assert mount.flush() == 0
        assert remote.get("c1/instancegroup/nodes") == b"minSize: 3\n"
        assert remote.get("c1/new") == bytes(range(256))
        assert remote.get("c1/config.old") == b"kind: Cluster\n"
        assert remote.keys() == ["c1/config.old", "c1/instancegroup/nodes", "c1/new"]
        status = mount.status()
        assert (status["pending_total"], status["conflicts"], status["health"]) == (0, 0, "ok")
        mount.healthy()
        (mount / "c1/new").unlink()
        assert mount.umount() == 0
    assert remote.keys() == ["c1/config.old", "c1/instancegroup/nodes"]


def test_a_life(remote: Remote, tmp_path: Path) -> None:
    life(remote, Mount(remote, tmp_path))


def test_a_life_below_a_prefix(server: Server, tmp_path: Path) -> None:
    server.create_bucket("shared")
    server.put("shared", "elsewhere", b"x")
    remote = S3Remote(server, "shared", "some/where/")
    life(remote, Mount(remote, tmp_path))


def test_what_is_left_at_umount_is_said_and_sent_by_the_next_mount(s3: S3Remote, mounted: MakeMount) -> None:
    s3.put("a", b"1")
    mount = mounted(s3, "--drain-budget=1", expect=("store is down",))
    s3.server.down()
    (mount / "a").write_bytes(b"2")
    assert mount.umount() == 75
    s3.server.up()
    mount.start()
    assert (mount / "a").read_bytes() == b"2"
    assert mount.flush() == 0
    assert s3.get("a") == b"2"


def test_the_background_mount_returns_when_ls_answers(s3: S3Remote, tmp_path: Path) -> None:
    s3.put("a", b"1")
    mount = Mount(s3, tmp_path)
    command = [word for word in mount.command if word != "-f"]
    try:
        done = subprocess.run(command, env=mount.environ, capture_output=True, text=True, check=False, timeout=180)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.listdir(mount.path) == ["a"]
        assert mount.run("umount", str(mount.path)).returncode == 0
        assert mount_at(mount.path) is None
    finally:
        mount.detach()


def test_an_empty_store_mounts_and_takes_files(remote: Remote, mounted: MakeMount) -> None:
    mount = mounted(remote)
    assert os.listdir(mount.path) == []
    (mount / "a").write_text("x")
    assert mount.flush() == 0
    assert remote.keys() == ["a"]


# --- what can go wrong before it begins ------------------------------------------------------------------------------


def refused(mount: Mount, *words: str, **environ: str) -> tuple[int, str]:
    """Run a mount that must fail in one line; (status, line)."""
    command = [word for word in mount.command if word != "-f"]
    at = command.index("mount") + 1
    command[at:at] = words
    try:
        done = subprocess.run(
            command, env=mount.environ | environ, capture_output=True, text=True, check=False, timeout=180
        )
        assert mount_at(mount.path) is None
    finally:
        mount.detach()
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_bucket_that_is_not_there(server: Server, tmp_path: Path) -> None:
    status, said = refused(Mount(S3Remote(server, "no-such-bucket"), tmp_path))
    assert status in {66, 69}
    assert "no-such-bucket" in said


def test_credentials_that_are_refused(tmp_path: Path) -> None:
    with Server(verify_signature=True, buckets=["b"]) as server:
        status, said = refused(Mount(S3Remote(server, "b"), tmp_path), S3_SECRET_ACCESS_KEY="wrong")
    assert status == 77
    assert said.startswith("kopsfs: mount 's3://b': 403 SignatureDoesNotMatch")


def test_no_credentials(server: Server, tmp_path: Path) -> None:
    server.create_bucket("b")
    status, said = refused(
        Mount(S3Remote(server, "b"), tmp_path), S3_ACCESS_KEY_ID="", S3_SECRET_ACCESS_KEY="",
        AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="",
    )  # fmt: skip
    assert status in {77, 78}
    assert "redential" in said or "ACCESS_KEY" in said


def test_a_server_that_refuses_connections(s3: S3Remote, tmp_path: Path) -> None:
    s3.server.down()
    status, said = refused(Mount(s3, tmp_path, "--request-budget=3"))
    assert status == 69
    assert s3.url in said


def test_a_server_that_never_answers(s3: S3Remote, tmp_path: Path) -> None:
    s3.server.fault("hang", count=-1)
    status, said = refused(Mount(s3, tmp_path, "--request-budget=2"))
    assert status == 69
    assert s3.url in said


def test_a_mount_point_that_is_missing_a_file_or_full(s3: S3Remote, tmp_path: Path) -> None:
    mount = Mount(s3, tmp_path)
    mount.path.rmdir()
    assert refused(mount)[0] == 66
    mount.path.touch()
    status, said = refused(mount)
    assert status == 66
    assert str(mount.path) in said
    mount.path.unlink()
    mount.path.mkdir()
    (mount / "x").touch()
    status, said = refused(mount)
    assert status == 66
    assert "empty" in said


def test_a_mount_point_that_is_mounted_already_keeps_its_mount(
    s3: S3Remote, tmp_path: Path, mounted: MakeMount
) -> None:
    mount = mounted(s3)
    command = [word for word in mount.command if word != "-f"]
    done = subprocess.run(command, env=mount.environ, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 66
    assert "mounted already" in done.stderr
    (mount / "a").write_text("still there")


def test_a_dead_mount_is_cleared_with_a_message(s3: S3Remote, tmp_path: Path, mounted: MakeMount) -> None:
    mount = mounted(s3)
    mount.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)
    mount.start()
    assert "dead mount is replaced" in mount.log
    assert os.listdir(mount.path) == []


def test_a_state_directory_that_is_in_use(s3: S3Remote, tmp_path: Path, mounted: MakeMount) -> None:
    first = mounted(s3)
    second = Mount(s3, tmp_path, name="n", state_dir=first.state_dir)
    second.cache_dir = first.cache_dir
    status, said = refused(second)
    assert status == 78
    assert "--state-dir" in said


def test_an_option_nobody_knows(s3: S3Remote, tmp_path: Path) -> None:
    assert refused(Mount(s3, tmp_path), "-o", "max_stalenes=1") == (
        78,
        "kopsfs: -o: unknown option 'max_stalenes'; did you mean max_staleness?\n",
    )


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    remote = FileRemote(tmp_path / "store")
    remote.directory.rmdir()
    status, said = refused(Mount(remote, tmp_path))
    assert status == 78
    assert str(remote.directory) in said
