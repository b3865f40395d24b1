"""kops's own answers: every manifest and fragment of the conformance corpus, compared for equality.

The corpus is data kept beside the project; where it is missing these tests are skipped and say so (the rules have cases of
their own in `test_validation_rules.py`). Manifests run in this process, through the same functions as the command line.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from kopsfs.spec.channel import Channel, parse
from kopsfs.spec.facts import Facts, from_data
from kopsfs.spec.field import Kind, Severity
from kopsfs.spec.field import Path as Field
from kopsfs.spec.validation.cluster import file_repository
from kopsfs.spec.validation.files import judge_files
from kopsfs.spec.validation.stages import Judge
from kopsfs.spec.validation.update import validate_update
from kopsfs.spec.validation.values import is_subdomain
from kopsfs.spec.validation.view import Cluster

CORPUS = Path(__file__).parents[3] / "shared" / "conformance" / "kops"
CASES = sorted((CORPUS / "validate").glob("*.yaml"))
needs_corpus = pytest.mark.skipif(not CASES, reason=f"the conformance corpus is not at {CORPUS}")


@cache
def data_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


@cache
def clouds() -> Any:
    return from_data(yaml.load((CORPUS / "env" / "cloud-update.yaml").read_text(), yaml.CSafeLoader))


@cache
def channel(name: str) -> Channel:
    return Channel(name) if name == "none" else parse((CORPUS / "env" / "channels" / name).read_bytes(), name)


def judge(data: dict[str, Any], *, cloud_checks: bool) -> Judge:
    facts = Facts(clouds(), channel, data.get("kops_version", ""), frozenset(data.get("feature_flags") or ()))
    return Judge(facts, data["kind"], bool(data.get("strict")), cloud_checks)


MANIFESTS = [path for path in CASES if "fragment" not in data_of(path)["kind"]]
FRAGMENTS = [path for path in CASES if "fragment" in data_of(path)["kind"]]


@needs_corpus
@pytest.mark.parametrize("cloud_checks", [False, True], ids=["offline", "cloud"])
def test_every_manifest_gets_kops_s_answer(cloud_checks: bool) -> None:
    wrong = {}
    for path in MANIFESTS:
        data = data_of(path)
        expected = data["expected"]
        want, accepted = set(expected["errors"]), expected["accept"]
        if cloud_checks and expected.get("cloud_errors"):
            want, accepted = want | set(expected["cloud_errors"]), False
        entries = judge_files(
            judge(data, cloud_checks=cloud_checks), {path.name: data["input"].encode()}, kops_order=True
        )
        got = {entry.finding.key for entry in entries if entry.finding.severity is Severity.ERROR}
        if (not got) is not accepted or (want and got != want):
            wrong[path.stem] = (sorted(want - got), sorted(got - want))
    assert not wrong
    assert len(MANIFESTS) > 400


@needs_corpus
def test_everything_at_once_finds_at_least_what_kops_finds() -> None:
    for path in MANIFESTS:
        data = data_of(path)
        entries = judge_files(judge(data, cloud_checks=False), {path.name: data["input"].encode()})
        got = {entry.finding.key for entry in entries}
        assert set(data["expected"]["errors"]) <= got, path.stem
        if not data["expected"]["accept"]:
            told = (Kind.FACT, Severity.ERROR)  # m-k8s-url: a tag that only the network knows
            assert any(entry.finding.kind in told or entry.finding.severity in told for entry in entries), path.stem


@needs_corpus
def test_every_finding_has_a_rule_and_a_line() -> None:
    for path in MANIFESTS:
        data = data_of(path)
        for entry in judge_files(judge(data, cloud_checks=True), {path.name: data["input"].encode()}):
            assert entry.finding.rule, (path.stem, entry)
            if entry.finding.field:
                assert entry.finding.position is not None, (path.stem, entry)


@needs_corpus
@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_fragments_of_upstream_s_tables(path: Path) -> None:
    upstream = data_of(path)["upstream"]
    arguments, want = upstream["arguments"], set(upstream["errors"])
    match upstream["function"]:
        case "validateFileRepository":
            where = Field.parse(arguments["fieldPath"]["path"])
            found = list(file_repository(arguments["s"], where, arguments["cloudProvider"]))
        case "validateEtcdClusterUpdate":
            clusters = [Cluster({"spec": {"etcdClusters": [arguments[name]]}}) for name in ("old", "obj")]
            created = frozenset(each["name"] for each in (arguments["status"] or {}).get("etcdClusters", ()))
            found = list(validate_update(*clusters, created=created))
        case "ValidateInstanceGroupName":
            assert bool(want) is not (bool(arguments["name"]) and is_subdomain(arguments["name"]))
            return
        case other:
            pytest.fail(f"no test for fragments of {other}")
    assert {finding.key for finding in found} == want
