"""Is what a newcomer is told true, line by line?  The README's `Try it` as it stands there, and the demo.

The commands are run by bash, one after the other in one directory, as by somebody who copies them. Planted before it was
believed: a cluster's name misspelt in the README; the demo's expectation of who wins a race turned round.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.fuse


def commands(section: str) -> list[str]:
    """What stands behind `$` in the console blocks of a section."""
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def environment(directory: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("KOPS", "XDG"))}
    return clean | {
        "HOME": str(directory),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KOPSFS_STATE_DIR": str(directory / "kept"),
        "KOPSFS_CACHE_DIR": str(directory / "cache"),
    }


def test_the_first_five_minutes(tmp_path: Path) -> None:
    lines = commands("Try it")
    assert len(lines) > 5
    try:
        done = subprocess.run(
            ["bash", "-exc", "\n".join(lines)],
            cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run(["fusermount3", "-uzq", str(tmp_path / "state")], check=False)
    group = tmp_path / "copy/demo.example.com/instancegroup/nodes-eu-central-1a"
    assert "maxSize: 5" in group.read_text()
    assert "nothing; the store has everything" in done.stdout
    assert "kind: Cluster" in done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("+ ")]
    assert said == []


def test_the_demo_shows_what_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "packaging" / "demo.py")],
        env=environment(tmp_path) | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 130
    assert done.stdout.endswith("nothing is mounted, nothing is left over\n")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
