"""How long does validation take a user?  `python -m tests.bench.validation`

Whole processes, as a shell starts them: `validate` of one cluster (median of 15), `validate --all` and `check --all` of a tree of
1,000 clusters, with the largest memory of those, and the guard of a mount (median of 200, in this process). Goals: 0.4 s,
60 s, 60 s and 200 MB on 2 cores; 5 ms.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from kopsfs.spec.validation.structure import guard
from tests.bench import corpus
from tests.bench.inference import CLUSTERS, NAMES, seconds, told
from tests.spec.test_validation_stages import CLUSTER, CONTROL_PLANE, MANIFEST, NODES

GOALS = {
    "validate": 0.4,
    f"validate --all, {CLUSTERS} clusters": 60.0,
    f"check --all, {CLUSTERS} clusters": 60.0,
    "memory, MB": 200.0,
    "guard": 0.005,
}


def guard_seconds(runs: int = 200) -> float:
    """Median time of the guard for one cluster, once it is imported."""
    data = CLUSTER.encode()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        guard("c1.example.com/config", data)
        taken.append(time.perf_counter() - start)
    return median(taken)


def store() -> dict[str, bytes]:
    """Many clusters of two groups."""
    files = {"config": CLUSTER, "instancegroup/cp": CONTROL_PLANE, "instancegroup/nodes": NODES}
    return {
        f"{name}/{path}": text.replace("c1.example.com", name).encode()
        for name in NAMES
        for path, text in files.items()
    }


def measure() -> dict[str, float]:
    """Figure → seconds, or MB."""
    with tempfile.TemporaryDirectory() as directory:
        manifest = Path(directory, "m.yaml")
        manifest.write_text(MANIFEST)
        one = seconds(["validate", "-f", str(manifest)])
        corpus.write(store(), Path(directory))
        validated = seconds(["validate", "--all", "--state", directory], runs=1)
        checked = seconds(["check", "--all", "--state", directory], runs=1)
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return dict(zip(GOALS, (one, validated, checked, megabytes, guard_seconds()), strict=True))


if __name__ == "__main__":
    sys.exit(told(measure(), GOALS))
