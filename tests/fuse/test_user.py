"""Can somebody who is not root mount, edit and leave?

Method: as root the daemon and its clients run as `nobody`, with /dev/fuse open to everybody for the time of the
test; where the tests themselves run as an ordinary user, every other test of this directory is that test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Counted
from tests.fuse.mounted import ROOT, Mount, S3Remote, needs
from tests.fuse.test_stores import real_programs
from tests.support.sweeper import sweeps

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as an ordinary user")]

NOBODY = ["runuser", "-u", "nobody", "--"]
SITE = next(p for p in sys.path if p.endswith("site-packages"))


@pytest.fixture
def theirs(s3: S3Remote) -> Iterator[Mount]:
    """A mount of nobody's, in a directory of its own."""
    needs("runuser", "fusermount3")
    device = Path("/dev/fuse")
    mode = device.stat().st_mode & 0o777
    device.chmod(0o666)
    try:
        with tempfile.TemporaryDirectory(prefix="kopsfs-user-") as name, sweeps(tree=Path(name)):
            directory = Path(name)
            directory.chmod(0o777)
            path = {"PYTHONPATH": f"{ROOT}:{SITE}", "XDG_RUNTIME_DIR": name}
            python = next((p for p in (sys.executable, "/usr/bin/python3") if runs(p, path)), None)
            if python is None:
                pytest.skip(f"`nobody` may run neither {sys.executable} nor a /usr/bin/python3 that can import {SITE}")
            mount = Mount(s3, directory, before=NOBODY, python=python, environ=path)
            mount.path.chmod(0o777)
            os.chown(mount.path, 65534, 65534)
            try:
                yield mount
            finally:
                mount.stop()
            mount.check_log()
    finally:
        device.chmod(mode)


def runs(python: str, environ: dict[str, str]) -> bool:
    command = [*NOBODY, python, "-c", "import pyfuse3, kopsfs, pycurl"]
    return subprocess.run(command, env=os.environ | environ, check=False, capture_output=True).returncode == 0


def do(mount: Mount, script: str) -> subprocess.CompletedProcess[str]:
    command = [*NOBODY, "bash", "-ec", script]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=180)


def test_a_user_mounts_edits_and_unmounts(theirs: Mount, s3: S3Remote) -> None:
    s3.put("c1/instancegroup/nodes", b"minSize: 1\n")
    theirs.expect("finding c1/").start()
    done = do(
        theirs, f"cd {theirs.path}; ls -l; sed -i s/1/2/ c1/instancegroup/nodes; echo x > c1/new; chmod 600 c1/new"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert theirs.flush() == 0
    assert s3.get("c1/instancegroup/nodes") == b"minSize: 2\n"
    assert s3.get("c1/new") == b"x\n"
    assert theirs.umount() == 0


def test_nobody_else_is_let_in_unasked(theirs: Mount, s3: S3Remote) -> None:
    s3.put("c1/secrets/admin", b"secret")
    theirs.start()
    with pytest.raises(PermissionError):
        os.listdir(theirs.path)  # not even root: FUSE's own rule
    assert do(theirs, f"cat {theirs.path}/c1/secrets/admin").stdout == "secret"
    assert do(theirs, f"stat -c %a:%U {theirs.path}/c1/secrets/admin").stdout == "600:nobody\n"


def test_allow_other_needs_leave(theirs: Mount) -> None:
    configured = Path("/etc/fuse.conf")
    if configured.exists() and "\nuser_allow_other" in "\n" + configured.read_text():
        pytest.skip("user_allow_other is set here")
    done = theirs.run("mount", "--allow-other", f"--state-dir={theirs.state_dir}", f"--cache-dir={theirs.cache_dir}",
                      theirs.remote.url, str(theirs.path))  # fmt: skip
    assert done.returncode in {77, 78}
    assert "user_allow_other" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_real_programs(theirs: Mount, corpus: Path, counted: Counted) -> None:
    theirs.expect("").options.append("--request-budget=100")
    theirs.start()
    counted(real_programs(theirs, corpus, theirs.path.parent))
    assert theirs.flush() == 0
    assert theirs.status()["health"] != "unhealthy"
