"""Does a mount of each kind of store live as one of ours does?

A row of `remotes.py` is a store on a server that stands for it: AWS's answers (moto), Ceph's gateway (bare tags in
If-Match), s3rver (no condition at all), Azurite, Swift with Keystone, the emulators of Google's and Alibaba's, a directory,
the daemon's own memory. On each: a life, a lost race, kills, two mounts that edit one file, and real programs. The lives on
what is quickest are part of every run; the rest is `slow` and belongs to `make test-store STORE=` and `make soak`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Counted
from tests.fuse import remotes, rivals
from tests.fuse.conftest import MakeMount
from tests.fuse.load import Promises
from tests.fuse.mounted import Mount, Remote
from tests.fuse.remotes import BucketRemote, Row, rows
from tests.fuse.test_conflicts import program
from tests.fuse.test_smoke import life

pytestmark = pytest.mark.fuse
slow = pytest.mark.slow


@pytest.fixture
def remote(row: Row, request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    """An empty space of the row's store."""
    return row.remote(request, tmp_path)


@rows(remotes.LIGHT)
def test_a_short_life(remote: Remote, tmp_path: Path) -> None:
    life(remote, Mount(remote, tmp_path))


@slow
@rows(remotes.THOROUGH)
def test_a_life(remote: Remote, tmp_path: Path) -> None:
    life(remote, Mount(remote, tmp_path))


@slow
@rows(remotes.THOROUGH)
@pytest.mark.parametrize("way", ["kops", "temp", "unlink", "truncate"])
def test_a_save_on_an_old_version_is_a_conflict(way: str, remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/f", b"minSize: 1\n")
    mount = mounted(remote, expect=("conflict key=c1/f",))
    program(mount / "c1/f", lambda: remote.put("c1/f", b"theirs\n"), way)
    mount.flush()
    assert remote.get("c1/f") == b"theirs\n"
    assert [c["path"] for c in mount.conflicts()] == ["c1/f"]


@slow
@rows([row for row in remotes.THOROUGH if not row.tears])
def test_what_close_promised_survives_kills(remote: Remote, mounted: MakeMount) -> None:
    promises = Promises()
    mount = mounted(remote)
    for number in range(3):
        load = promises.load(mount.path, number)
        time.sleep(0.5)  # the moment
        mount.kill()
        promises.heard(load)
        mount.start()
        assert mount.flush() == 0
        # A directory keeps the temporary file of a daemon that was killed; the next one removes it when it is old.
        promises.check({key: remote.get(key) for key in remote.keys() if not key.startswith(".kopsfs-")})
        assert mount.asked("conflicts", action="list") == []


@slow
@rows(remotes.THOROUGH)
def test_two_mounts_edit_one_file_two_hundred_times(
    row: Row, remote: Remote, mounted: MakeMount, counted: Counted
) -> None:
    race = rivals.edit(remote, mounted, 200, torn=row.tears)
    race.check()
    told = f"{len(race.accepted)} of 200 accepted, {race.overwritten} of them overwritten unseen, {race.torn} read torn"
    counted(told)
    if row.window:
        # What came in the same instant, and nobody could see: counted, and not the rule.
        assert race.overwritten < len(race.accepted) / 10
    else:
        race.check_chain()
    assert remote.keys() == [rivals.PATH]


@slow
@rows([remotes.VERSIONED])
def test_nothing_was_stored_but_what_was_accepted_or_kept(
    remote: BucketRemote, mounted: MakeMount, counted: Counted
) -> None:
    """Where the store compares nothing but keeps every version, these show what became of each write."""
    race = rivals.edit(remote, mounted, 100)
    race.check()
    stored = set(remote.history())
    assert set(race.accepted) <= stored
    overwritten = stored - {race.first, *race.accepted}
    kept = {*race.kept(0), *race.kept(1)}
    assert overwritten <= kept, "stored, overwritten, and not in the conflict area"
    unseen = f"{race.overwritten} of {len(race.accepted)} overwritten unseen"
    counted(f"{len(overwritten)} found by reading back, {unseen}")
    assert race.overwritten < len(race.accepted) / 10


@rows([remotes.MEMFS])
def test_a_short_life_nobody_else_sees(remote: Remote, tmp_path: Path) -> None:
    with Mount(remote, tmp_path).expect("finding c1/") as mount:
        assert os.listdir(mount.path) == []
        (mount / "c1/instancegroup").mkdir(parents=True)
        (mount / "c1/instancegroup/nodes").write_bytes(b"minSize: 1\n")
        subprocess.run(["sed", "-i", "s/1/3/", str(mount / "c1/instancegroup/nodes")], check=True)
        (mount / "c1/instancegroup").rename(mount / "c1/ig")
        assert mount.flush() == 0
        assert (mount / "c1/ig/nodes").read_bytes() == b"minSize: 3\n"
        status = mount.status()
        assert (status["pending_total"], status["conflicts"], status["health"]) == (0, 0, "ok")
        mount.healthy()
        assert mount.umount() == 0


KNOWN = {"developers.ssh_keygen_makes_keys"}
"""It wants a hard link (packaging/doc/semantics.md)."""
OVER_16_MIB = {"concurrency.reads_while_a_large_file_is_written", "data.size_64_mib"}
"""What `k8s://` refuses with EFBIG."""


def failed_checks(mount: Mount, corpus: Path, report: Path, only: str = "") -> tuple[set[str], str]:
    """Run checks of the suite, as who mounted; the names of those that failed, and its summary."""
    program = str(corpus / "mount/check_programs.py")
    words = [mount.python, program, str(mount.path), "--json", str(report), "--timeout", "120", "--only", only]
    done = subprocess.run([*mount.before, *words], capture_output=True, text=True, check=False, timeout=3600)
    assert report.exists(), done.stdout + done.stderr
    print(done.stdout)
    rows = json.loads(report.read_text())["checks"]
    bad = [row for row in rows if row["result"] in {"failed", "not run"}]
    return {f"{row['group']}.{row['name']}" for row in bad}, done.stdout.splitlines()[-1]


def real_programs(mount: Mount, corpus: Path, directory: Path, known: set[str] = KNOWN) -> str:
    """The suite that is kept beside the project: editors, shells, git, rsync, kops's and kubelet's ways with files.

    Some of its checks are about seconds, so what fails is asked once more, alone. Gives what came of it.
    """
    failed, summary = failed_checks(mount, corpus, directory / "report.json")
    if failed - known:
        again = "|".join(re.escape(name) for name in failed - known)
        failed, _ = failed_checks(mount, corpus, directory / "again.json", f"^(?:{again})$")
    assert failed <= known, summary
    return f"{summary}; failed alone, too: {sorted(failed)}"


@slow
@rows([*remotes.COMPLETE, remotes.K8S, remotes.MEMFS])
def test_real_programs(
    row: Row, remote: Remote, mounted: MakeMount, corpus: Path, tmp_path: Path, counted: Counted
) -> None:
    options = ["--allow-other"] if os.geteuid() == 0 else []
    # 40 MB are one request, which an emulator on a busy machine takes longer for than a person would wait.
    mount = mounted(remote, *options, "--request-budget=100", expect=("",))
    known = KNOWN | (OVER_16_MIB if row.scheme == "k8s" else set())
    counted(real_programs(mount, corpus, tmp_path, known))
    assert mount.flush() == 0
    mount.healthy()
