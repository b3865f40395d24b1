"""Do real programs work on a mount?

The suite that is kept beside the project (conformance/mount/check_programs.py: editors, shells, git, rsync, kops's
and kubelet's ways with files), as root with `allow_other`, on s3 and on file. It runs for minutes: `make soak`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import Remote

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

CHECKS_MIN = 320
"""Of 329; those that fail are explained in packaging/doc/semantics.md."""


def test_the_programs_suite(remote: Remote, mounted: MakeMount, corpus: Path, tmp_path: Path) -> None:
    options = ["--allow-other"] if os.geteuid() == 0 else []
    mount = mounted(remote, *options, expect=("",))
    report = tmp_path / "report.json"
    suite = [sys.executable, str(corpus / "mount/check_programs.py"), str(mount.path), "--json", str(report)]
    done = subprocess.run(suite, capture_output=True, text=True, check=False, timeout=1800)
    assert report.exists(), done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    print(done.stdout)
    words = summary.split()
    passed, applying = int(words[1]), int(words[3])
    assert passed >= CHECKS_MIN - (329 - applying), summary
    assert json.loads(report.read_text())
    assert mount.flush() == 0
    mount.healthy()
