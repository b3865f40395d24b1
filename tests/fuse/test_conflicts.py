"""Is an edit ever written over one that its author has not seen?

Method: another client writes between an editor's read and its save, for every way in which programs save.
The store must keep the other client's bytes, the conflict area ours, and nothing may be lost on the way
out of it: list, diff, take mine, take theirs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect  # type: ignore[import-untyped]
import pytest

from tests.fuse import rivals
from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import Mount, Remote, S3Remote, needs, until

pytestmark = pytest.mark.fuse

BEFORE = b"minSize: 1\n"
THEIRS = b"minSize: 7 # theirs\n"
CONFLICT = "conflict key=c1/f"

Meanwhile = Callable[[], object]
"""What another client does between the read and the save."""


def vim(path: Path, meanwhile: Meanwhile, *settings: str) -> None:
    """An interactive vim that has read the file, then is told to save it."""
    needs("vim")
    words = [word for setting in settings for word in ("--cmd", f"set {setting}")]
    # The user, warned by vim or not, insists: `:w!`.
    words = ["-u", "NONE", "-n", "--cmd", "set shortmess=aItT", *words, str(path)]
    child = pexpect.spawn("vim", words, timeout=60, encoding="utf-8", dimensions=(30, 200))
    try:
        child.expect("minSize: 1")
        meanwhile()
        child.send(":s/1/2/\r:w!\r")
        ends = [r"\[w\]", "E667", r"\(y/n\)\?"]  # written; fsync said ESTALE; it has noticed by itself
        if child.expect(ends) == 2:
            child.send("y")
            child.expect(ends[:2])
        child.send("\r:q!\r")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)


@contextlib.contextmanager
def gate(path: Path) -> Iterator[Path]:
    """A pipe whose first reader shows that the editor has read, and then waits until `meanwhile` is over."""
    pipe = path.parents[2] / "gate"
    os.mkfifo(pipe)
    yield pipe
    pipe.unlink()


def vim_silent(path: Path, meanwhile: Meanwhile) -> None:
    """`vim -es`, as scripts use it, which waits in the middle for the other client."""
    needs("vim")
    with gate(path) as pipe:
        words = ["-u", "NONE", "-n", "-es", str(path), f"+call system('cat {pipe}')", "+s/1/2/", "+w!", "+q!"]
        edit = subprocess.Popen(["vim", *words], stdin=subprocess.DEVNULL)
        with pipe.open("w"):
            meanwhile()
        edit.wait(120)


def sed(path: Path, meanwhile: Meanwhile) -> None:
    """`sed -i`, stopped while it edits: its script runs a program that waits."""
    with gate(path) as pipe:
        edit = subprocess.Popen(["sed", "-i", f"s/1/2/;1e cat {pipe}", str(path)])
        with pipe.open("w"):
            meanwhile()
        assert edit.wait(120) == 0


SCRIPT = """
import os, sys
path, way = sys.argv[1:]
data = open(path, 'rb').read()
print('read', flush=True)
sys.stdin.readline()
new = data.replace(b'1', b'2')
if way == 'kops':          # util/pkg/vfs/fs.go: os.CreateTemp(dir, "tmp"), then os.Rename
    temporary = os.path.join(os.path.dirname(path), 'tmp%d' % 3141592653)
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, new); os.close(fd); os.rename(temporary, path)
elif way == 'temp':        # atomicwrites, Python's own idiom
    temporary = path + '.tmp'
    with open(temporary, 'wb') as f:
        f.write(new)
    os.replace(temporary, path)
elif way == 'unlink':
    os.unlink(path)
    with open(path, 'xb') as f:
        f.write(new)
elif way == 'in place':
    with open(path, 'r+b') as f:
        f.write(new); f.truncate()
elif way == 'truncate':
    with open(path, 'wb') as f:
        f.write(new)
elif way == 'fsync':
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, new)
    try:
        os.fsync(fd)
    except OSError as error:
        print(error.errno, flush=True)
"""


def program(path: Path, meanwhile: Meanwhile, way: str) -> str:
    """A program that reads, waits, and saves in this way; what it said last."""
    edit = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert edit.stdout is not None
    assert edit.stdout.readline() == "read\n"
    meanwhile()
    said, _ = edit.communicate("\n", timeout=120)
    assert edit.returncode == 0
    return said


WAYS: dict[str, Callable[[Path, Meanwhile], object]] = {
    "vim": vim,
    "vim, backup by copy": lambda path, meanwhile: vim(path, meanwhile, "nowritebackup", "nobackup"),
    "vim, backup by rename": lambda path, meanwhile: vim(path, meanwhile, "backup", "backupcopy=no"),
    "vim -es": vim_silent,
    "sed -i": sed,
    "kops": lambda path, meanwhile: program(path, meanwhile, "kops"),
    "temp and rename": lambda path, meanwhile: program(path, meanwhile, "temp"),
    "unlink and create": lambda path, meanwhile: program(path, meanwhile, "unlink"),
    "in place": lambda path, meanwhile: program(path, meanwhile, "in place"),
    "truncate": lambda path, meanwhile: program(path, meanwhile, "truncate"),
}


SEES_FOR_ITSELF = {"vim -es", "in place"}
"""`vim -es` sees that the file has changed and, with nobody to ask, does not save. An open for reading *and* writing
counts as having read what it opened: a program that has run for long and edits in place would lose every race else."""
ON_FILE = {"sed -i", "kops", "truncate"}
CASES = [
    (store, way, seen)
    for store in ("s3", "file")
    for way in WAYS
    for seen in (False, True)
    if not (seen and way in SEES_FOR_ITSELF) and (store == "s3" or way in ON_FILE)
]


@pytest.mark.parametrize(("remote", "way", "seen"), CASES, indirect=["remote"])
def test_a_save_on_an_old_version_is_a_conflict(way: str, seen: bool, remote: Remote, mounted: MakeMount) -> None:
    """`seen`: the mount has taken the other version over before the save, so that its own belief is no help."""
    remote.put("c1/f", BEFORE)
    # However long a program takes between closing its temporary file and renaming it.
    mount = mounted(remote, "--max-staleness=0.2", "--refresh=0.2", "--upload-delay=1m", expect=(CONFLICT,))
    path = mount / "c1/f"

    def meanwhile() -> None:
        remote.put("c1/f", THEIRS)
        if seen:
            until(lambda: path.stat().st_size == len(THEIRS), "the other client's version")

    WAYS[way](path, meanwhile)
    mount.flush()
    assert remote.get("c1/f") == THEIRS
    assert remote.keys() == ["c1/f"]
    (conflict,) = mount.conflicts()
    assert (conflict["path"], conflict["bytes"]) == ("c1/f", len(BEFORE))
    until(lambda: path.read_bytes() == THEIRS, "their version under the name")
    assert mount.run("status", str(mount.path)).returncode == 1
    mount.healthy()


def make_conflict(remote: Remote, mount: Mount, mine: bytes = b"minSize: 2\n") -> int:
    path = mount / "c1/f"
    with path.open("r+b") as file:
        file.read()
        remote.put("c1/f", THEIRS)
        file.seek(0)
        file.truncate()
        file.write(mine)
    assert mount.flush() == 1
    (conflict,) = mount.conflicts()
    return int(conflict["id"])


@pytest.fixture
def conflicted(s3: S3Remote, mounted: MakeMount) -> Mount:
    s3.put("c1/f", BEFORE)
    mount = mounted(s3, expect=(CONFLICT,))
    make_conflict(s3, mount)
    return mount


def test_a_conflict_is_listed_and_compared(conflicted: Mount) -> None:
    flushed = conflicted.run("flush", str(conflicted.path))
    assert (flushed.returncode, "1 edit lost a race" in flushed.stderr) == (1, True)
    listed = conflicted.run("conflicts", str(conflicted.path))
    assert listed.returncode == 1
    assert "c1/f" in listed.stdout
    assert "lost a race" in listed.stdout
    shown = conflicted.run("conflicts", str(conflicted.path), "diff", "c1/f")
    assert shown.returncode == 0
    assert "-minSize: 7 # theirs" in shown.stdout
    assert "+minSize: 2" in shown.stdout
    left = conflicted.run("umount", str(conflicted.path))
    assert (left.returncode, "1 edit lost a race" in left.stderr) == (0, True)


def test_taking_mine_writes_over_theirs(conflicted: Mount) -> None:
    assert conflicted.run("conflicts", str(conflicted.path), "take", "mine", "c1/f").returncode == 0
    assert conflicted.flush() == 0
    assert conflicted.remote.get("c1/f") == b"minSize: 2\n"
    assert (conflicted / "c1/f").read_bytes() == b"minSize: 2\n"
    assert conflicted.conflicts() == []
    assert conflicted.run("status", str(conflicted.path)).returncode == 0


def test_taking_theirs_drops_mine(conflicted: Mount) -> None:
    assert conflicted.run("conflicts", str(conflicted.path), "take", "theirs", "c1/f").returncode == 0
    assert conflicted.remote.get("c1/f") == THEIRS
    assert (conflicted / "c1/f").read_bytes() == THEIRS
    assert conflicted.conflicts() == []
    assert conflicted.run("status", str(conflicted.path)).returncode == 0


def test_a_conflict_survives_a_kill(conflicted: Mount) -> None:
    conflicted.kill()
    conflicted.start()
    (conflict,) = conflicted.conflicts()
    assert conflict["path"] == "c1/f"
    (both,) = conflicted.asked("conflicts", action="diff", id=conflict["id"])
    assert json.dumps(both)
    assert conflicted.run("conflicts", str(conflicted.path), "take", "mine", "--all").returncode == 0
    assert conflicted.flush() == 0
    assert conflicted.remote.get("c1/f") == b"minSize: 2\n"


def test_fsync_says_estale(remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/f", BEFORE)
    mount = mounted(remote, expect=(CONFLICT,))
    assert program(mount / "c1/f", lambda: remote.put("c1/f", THEIRS), "fsync") == f"{errno.ESTALE}\n"
    assert remote.get("c1/f") == THEIRS
    assert len(mount.conflicts()) == 1


def test_on_conflict_runs_once_with_what_a_script_wants_to_know(
    s3: S3Remote, mounted: MakeMount, tmp_path: Path
) -> None:
    s3.put("c1/f", BEFORE)
    told = tmp_path / "told"
    command = f"echo $KOPSFS_PATH $KOPSFS_CONFLICT $KOPSFS_MOUNTPOINT $KOPSFS_STORE >> {told}"
    mount = mounted(s3, f"--on-conflict={command}", expect=(CONFLICT,))
    number = make_conflict(s3, mount)
    until(lambda: told.exists() and told.read_text().endswith("\n"))
    assert told.read_text().split() == ["c1/f", str(number), str(mount.path), s3.url]


def test_a_file_deleted_elsewhere_while_it_is_edited(remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/f", BEFORE)
    remote.put("c1/other", b"x")
    mount = mounted(remote, expect=(CONFLICT,))
    program(mount / "c1/f", lambda: remote.delete("c1/f"), "in place")
    mount.flush()
    assert remote.keys() == ["c1/other"]
    assert len(mount.conflicts()) == 1
    until(lambda: os.listdir(mount / "c1") == ["other"])


def test_a_deletion_of_what_has_changed_is_withdrawn(remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/f", BEFORE)
    mount = mounted(remote, expect=("conflict key=c1/f op=delete",))
    assert (mount / "c1/f").read_bytes() == BEFORE
    remote.put("c1/f", THEIRS)
    (mount / "c1/f").unlink()
    mount.flush()
    assert remote.get("c1/f") == THEIRS
    until(lambda: os.listdir(mount / "c1") == ["f"], "the name that is back")
    assert (mount / "c1/f").read_bytes() == THEIRS


def test_programs_of_one_machine_overwrite_each_other_as_on_any_disk(remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/f", BEFORE)
    mount = mounted(remote)
    program(mount / "c1/f", lambda: ((mount / "c1/f").write_bytes(b"here 1\n"), mount.flush()), "temp")
    assert mount.flush() == 0
    assert remote.get("c1/f") == b"minSize: 2\n"
    assert mount.conflicts() == []


# --- two mounts, one file ----------------------------------------------------------------------------------------------


def race(s3: S3Remote, mounted: MakeMount, edits: int) -> None:
    found = rivals.edit(s3, mounted, edits)
    found.check()
    found.check_chain()
    writes = s3.writes(rivals.PATH)
    assert sorted(w["etag"] for w in writes) == sorted(found.accepted), "what was reported and what was taken differ"
    for write in writes:
        assert write["if_match"].strip('"') == write["before"], "a PUT that was not based on the version before it"
    assert s3.keys() == [rivals.PATH]


def test_two_mounts_edit_one_file(s3: S3Remote, mounted: MakeMount) -> None:
    race(s3, mounted, 40)


@pytest.mark.slow
def test_two_mounts_edit_one_file_for_long(s3: S3Remote, mounted: MakeMount) -> None:
    race(s3, mounted, 500)
