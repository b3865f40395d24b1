"""Do the benches measure what they say?  The corpora, the verdicts, and one row through a real mount."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import corpus
from tests.bench.figures import FIGURES, Sample, medians, verdict
from tests.bench.report import table

ROOT = Path(__file__).resolve().parents[2]


def _directories(objects: dict[str, bytes]) -> set[str]:
    return {key[:at] for key in objects for at, letter in enumerate(key) if letter == "/"}


def test_ten_clusters_are_those_of_the_table() -> None:
    objects = corpus.make("clusters")
    one = {key: data for key, data in objects.items() if key.startswith("c0.example.com/")}
    assert (len(objects), len(one), len(_directories(one))) == (840, 84, 60)
    assert 16e6 <= sum(map(len, objects.values())) <= 18e6
    assert all(data.count(corpus.NEEDLE.encode()) == 1 for data in objects.values())
    assert objects == corpus.make("clusters")


def test_the_other_stores_have_the_sizes_they_stand_for() -> None:
    flat = corpus.make("flat")
    assert (len(flat), {len(data) for data in flat.values()}) == (10_000, {4096})
    backups = [key for key, _ in corpus.CORPORA["backups"]() if "/backups/" in key]
    assert len(set(backups)) == 1000
    assert len(dict(corpus.CORPORA["fleet"]())) == 10 * 1084


def test_a_goal_is_met_by_the_median_and_a_count_by_every_run() -> None:
    wall, count = FIGURES["grep-840"], FIGURES["cp-requests"]
    assert wall.goal == 1.0
    assert verdict(wall, [Sample("grep-840", "kopsfs", value) for value in (0.9, 0.95, 5.0)]) == "met"
    assert verdict(wall, [Sample("grep-840", "kopsfs", value) for value in (0.9, 1.1, 1.2)]) == "MISSED"
    assert verdict(wall, [Sample("grep-840", "kopsfs", 0.4)]) == "hoped"
    assert verdict(count, [Sample("cp-requests", "kopsfs", value) for value in (84, 84, 85)]) == "MISSED"
    assert verdict(wall, [Sample("grep-840", "kopsfs", None)]) == ""


def test_what_a_peer_could_not_do_is_said_and_never_a_figure() -> None:
    samples = [
        Sample("offline-ls", "kopsfs", 0.2),
        Sample("offline-ls", "s3fs", None, "cannot: did not mount"),
        Sample("grep-10k", "rclone", 500.0, "stopped after 3 of 10000 files"),
    ]
    assert medians(samples)["offline-ls", "s3fs"] is None
    text = table(samples, ["kopsfs", "rclone", "s3fs"], {"kopsfs": "kopsfs", "rclone": "rclone", "s3fs": "s3fs"})
    assert "no: cannot: did not mount" in text
    assert "> 500" in text


@pytest.mark.fuse
def test_a_row_runs_through_a_real_mount_and_leaves_nothing_mounted(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        "--rows",
        "cat",
        "--peers",
        "kopsfs",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    samples = json.loads(next(tmp_path.glob("*.json")).read_text())["samples"]
    assert [(sample["figure"], sample["value"] > 0) for sample in samples] == [("cat", True)]
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
