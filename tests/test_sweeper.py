"""Does a run of the tests that is killed leave anything behind?

A run of its own, with this project's fixtures, starts a server that has a child, mounts a store and makes directories;
its death is the sweeper's cue, whose own end says that it is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kopsfs.mounts import mount_at

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 120
RUN = """
import json
import subprocess
from tests.fuse.mounted import FileRemote, Mount, until
from tests.store.servers import program
from tests.support import sweeper

def test_until_it_is_killed(tmp_path, capfd):
    with sweeper.scratch("killed") as on_disk, sweeper.scratch("killed", in_memory=True) as in_memory:
        with program(["sh", "-c", "sleep 1000 & echo $!; wait"], on_disk / "log") as server:
            with Mount(FileRemote(tmp_path / "store"), tmp_path) as mount:
                (mount / "unsaved").write_text("x")
                until((on_disk / "log").read_text)
                child = int((on_disk / "log").read_text())
                pids = [server.pid, child, mount.pid, sweeper._sweeper().pid]
                with capfd.disabled():
                    print(json.dumps([pids, [str(on_disk), str(in_memory)], str(mount.path)]), flush=True)
                input()
"""


@pytest.mark.fuse
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    test = tmp_path / "test_run.py"
    test.write_text(RUN)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, "--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base"), str(test)]
    with contextlib.ExitStack() as ends:
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
            try:
                assert run.stdout is not None
                pids, directories, mountpoint = json.loads(next(line for line in run.stdout if line.startswith("[[")))
                living = [os.pidfd_open(pid) for pid in pids]
                for process in living:
                    ends.callback(os.close, process)
                assert mount_at(Path(mountpoint)) is not None
                assert all(Path(each).is_dir() for each in directories)
            finally:
                run.send_signal(number)
        for process, name in zip(living, ("server", "its child", "daemon", "sweeper"), strict=True):
            assert select.select([process], [], [], BUDGET_S)[0], f"{name} lives on"
    assert mount_at(Path(mountpoint)) is None
    assert not [each for each in directories if Path(each).exists()]
