"""Does systemd accept the unit, and does the unit keep out of the mount's way?"""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[1] / "systemd" / "kopsfs@.service"


def test_systemd_verifies_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "kopsfs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / "kopsfs@prod.service"
    copy.write_text(UNIT.read_text().replace("/usr/bin/kopsfs", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "kopsfs" in line]
    assert (done.returncode, ours) == (0, [])


def test_nothing_in_the_unit_hides_the_mount_or_shows_an_empty_directory() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(UNIT.read_text())
    service = dict(parser["Service"])
    private = {name for name in service if name.startswith(("Protect", "Private", "ReadWrite", "ReadOnly", "Dynamic"))}
    assert private == set(), "a mount namespace of its own hides the mount from the host"
    assert "ExecStopPost" not in service, "it would unmount after a crash, and readers would see an empty directory"
    assert "NoNewPrivileges" not in service, "fusermount3 is setuid"
    assert (service["Type"], service["LimitCORE"], service["UMask"]) == ("notify", "0", "0077")
