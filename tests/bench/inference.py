"""How long does inference take a user?  `python -m tests.bench.inference`

Whole processes, as a shell starts them: `--help`, `infer` and `explain` of one cluster (median of 15), and `infer --all` of a
tree of 1,000 clusters. Byte code is compiled first, as in an installation. Goals: 0.15 s, 0.4 s, 0.4 s, 30 s on 2 cores.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from kopsfs.spec import writer
from kopsfs.spec.document import read
from tests.bench import corpus

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "spec" / "corpus"
WORLD = ["--facts", str(CORPUS / "facts.yaml"), "--channel-dir", str(CORPUS / "channels")]
RUNS = 15
CLUSTERS = 1000
NAMES = [f"c{number:04}.example.com" for number in range(CLUSTERS)]

GOALS_S = {"--help": 0.15, "infer": 0.4, "explain": 0.4, f"infer --all, {CLUSTERS} clusters": 30.0}


def seconds(words: list[str], *, runs: int = RUNS) -> float:
    """Median wall time of a command that has to succeed."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("KOPS", "PYTHON"))}
    environ |= {"KOPS_FEATURE_FLAGS": "+APIServerNodes", "KOPSFS_KOPS_VERSION": "1.34.0"}
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "kopsfs", *words], cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL
        )
        taken.append(time.perf_counter() - start)
    return median(taken)


def store() -> dict[str, bytes]:
    """Many clusters, each with three groups."""
    text = (CORPUS / "aws.yaml").read_text()
    return {
        f"{name}/{'config' if document.kind == 'Cluster' else f'instancegroup/{document.name}'}": (
            writer.to_yaml(document.data).encode()
        )
        for name in NAMES
        for document in read(text.replace("aws.example.com", name))
    }


def measure() -> dict[str, float]:
    """Figure → seconds."""
    compileall.compile_dir(ROOT / "kopsfs", quiet=2)
    manifest = str(CORPUS / "aws.yaml")
    figures = {
        "--help": seconds(["--help"]),
        "infer": seconds(["infer", "-f", manifest, *WORLD]),
        "explain": seconds(["explain", "-f", manifest, "spec.kubelet", *WORLD]),
    }
    with tempfile.TemporaryDirectory() as directory:
        corpus.write(store(), Path(directory))
        all_of_them = seconds(["infer", "--all", "--state", directory, *WORLD], runs=1)
    return figures | {f"infer --all, {CLUSTERS} clusters": all_of_them}


def told(figures: dict[str, float], goals: dict[str, float]) -> int:
    """Print the figures; 1 if a goal is missed."""
    for name, value in figures.items():
        print(f"{name:32} {value:10.4f}   goal {goals[name]:g}   {'met' if value <= goals[name] else 'MISSED'}")
    return int(any(value > goals[name] for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(told(measure(), GOALS_S))
