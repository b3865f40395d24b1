"""Ten minutes of mutated documents, guided by coverage: only findings come out, never another exception.  (slow)

The method: atheris instruments `kopsfs.spec` and mutates the bytes of healthy manifests; the target judges them in both orders,
completes and converts them, takes them for any file of a tree, and asks the guard. It runs in a process of its own, because it ends by calling `_exit`. `KOPSFS_TEST_FUZZ_S` changes how long. Planted
before it was believed: a rule that indexes an empty list (found within seconds).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spec.test_validation_stages import CLUSTER, MANIFEST, NODES

SECONDS = int(os.environ.get("KOPSFS_TEST_FUZZ_S", "600"))

TARGET = """
import sys
import atheris
with atheris.instrument_imports(include=["kopsfs.spec"]):
    from kopsfs.spec.validation.files import judge_files
    from kopsfs.spec.validation.stages import Judge
    from kopsfs.spec.validation.structure import guard
    from kopsfs.spec.validation.tree import ClusterTree, check
    from kopsfs.spec.conversion import converted
    from kopsfs.spec.document import read, read_one
    from kopsfs.spec.facts import Facts, from_data
    from kopsfs.spec.field import RefusedError
    from kopsfs.spec.infer import infer
    from kopsfs.spec import channel, writer
import contextlib, datetime, functools, pathlib
NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
PATHS = ("config", "cluster-completed.spec", "instancegroup/nodes", "pki/private/ca/keyset.yaml", "secrets/x",
         "pki/ssh/public/admin/x", "clusteraddons/default", "addons/bootstrap-channel.yaml", "kops-version.txt")
CORPUS = pathlib.Path("tests/spec/corpus")
FACTS = Facts(from_data(read_one((CORPUS / "facts.yaml").read_bytes(), "f").data, "f"), functools.cache(channel.shipped))
def one(data):
    check(ClusterTree("c1.example.com", PATHS, lambda path: data, NOW, "s3://state"))
    with contextlib.suppress(RefusedError):
        documents = read(data, "m")
        for document in documents:
            for version in ("v1alpha2", "v1alpha3"):
                with contextlib.suppress(RefusedError):
                    writer.to_yaml(converted(document, version)[0])
        writer.stream(infer(documents, FACTS).objects)
    judge_files(Judge(), {"m": data})
    judge_files(Judge(), {"m": data}, kops_order=True)
    guard("c/config", data)
    guard("c/pki/private/x/keyset.yaml", data)
assert infer(read((CORPUS / "aws.yaml").read_bytes(), "m"), FACTS).objects  # the seed is completed, so its neighbours are
atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


@pytest.mark.slow
def test_mutated_documents_give_findings_only(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    seeds = [path.read_text() for path in sorted((Path(__file__).parent / "corpus").glob("*.yaml"))]
    for number, text in enumerate((MANIFEST, CLUSTER, NODES, *seeds)):
        (corpus / str(number)).write_text(text)
    words = [f"-max_total_time={SECONDS}", "-max_len=8000", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"]
    ran = subprocess.run(
        [sys.executable, "-c", TARGET, *words, f"-artifact_prefix={tmp_path}/", str(corpus)],
        capture_output=True, text=True, check=False, timeout=SECONDS + 120, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
