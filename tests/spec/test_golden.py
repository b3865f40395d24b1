"""Does completion give what kops gives?

Our own corpus (`corpus/`, written for these tests) is compared as text, the shared one as data where it is checked out beside the
project. Then what holds over all of them: every rule is used, no leaf comes from a rule that did not declare it, and every
inferred leaf has a rule with a kops source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kopsfs.spec import writer
from kopsfs.spec.conversion import Object, decode
from kopsfs.spec.document import read
from kopsfs.spec.explain import ALWAYS, CANONICAL, CONVERSION
from kopsfs.spec.field import RefusedError
from kopsfs.spec.infer import infer
from kopsfs.spec.inference import pipeline
from kopsfs.spec.rules import AUTHOR, leaves, nearest, pattern
from tests.spec import cases

OWN = cases.own()
SHARED = cases.shared()
ALL = [*OWN, *SHARED]

here = pytest.mark.skipif(not SHARED, reason=f"{cases.SHARED} is not here: only our own corpus is compared")


@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_our_own_corpus_is_completed_as_written_down(case: cases.Case) -> None:
    text = writer.stream(infer(case.documents, case.facts).objects)
    if os.environ.get("KOPSFS_UPDATE_GOLDEN"):
        case.completed.parent.mkdir(exist_ok=True)
        case.completed.write_text(text)
    assert text == case.completed.read_text()


@here
@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.name)
def test_the_shared_corpus_is_completed_leaf_for_leaf(case: cases.Case) -> None:
    if case.refused:
        with pytest.raises(RefusedError):
            infer(case.documents, case.facts)
        return
    inferred = infer(case.documents, case.facts)
    assert inferred.cluster == cases.plain(case.completed)[0]
    wanted = {group["metadata"]["name"]: group for group in cases.plain(case.groups)}
    assert {group["metadata"]["name"]: group for group in inferred.groups} == wanted


@here
def test_the_shared_corpus_is_written_byte_for_byte_as_kops_wrote_it() -> None:
    for case in SHARED:
        if not case.refused:
            assert writer.to_yaml(infer(case.documents, case.facts).cluster) == case.completed.read_text(), case.name


LOOSE = """\
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata: {name: loose.example.com}
spec:
  cloudProvider: aws
  configBase: memfs://state/loose.example.com
  kubernetesVersion: " v1.34.0"
  kubelet: {anonymousAuth: false}
  networking: {flannel: {}}
  kubeAPIServer: {env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: k}}}]}
  containerd: {gvisor: {enabled: true}}
  etcdClusters: [{name: main, etcdMembers: [{name: a, instanceGroup: cp}]}]
  subnets: [{name: a, type: Private, zone: us-east-1a, cidr: 172.20.1.0/24}]
---
apiVersion: kops.k8s.io/v1alpha2
kind: InstanceGroup
metadata: {name: cp}
spec: {role: Master, subnets: [a], image: x, machineType: t3.medium}
"""
"""What kops would refuse, but only after its rules have run."""


def _runs() -> Iterator[tuple[str, Object, dict[str, Any], dict[str, Any]]]:
    """(case, author's object, completed object, origins) of everything that can be completed."""
    for case in ALL:
        if not case.refused:
            yield from _run(case.name, *case.objects(), case.facts)
    loose = [decode(each) for each in read(LOOSE)]
    yield from _run("loose", loose[0], loose[1:], OWN[0].facts)


def _run(name: str, cluster: Object, groups: list[Object], facts: Any) -> Iterator[Any]:
    done = pipeline.complete(cluster, groups, facts)
    yield name, cluster, done.cluster, done.origins
    for group, completed in zip(groups, done.groups, strict=True):
        yield name, group, completed, done.group_origins[group.name]


ONLY_CHECKS = {"etcd-members", "group-role-allowed", "group-tenancy"}
"""Rules that write nothing; `test_inference` has a refusal for each."""

OVERWRITTEN = {
    "topology": "an empty struct: decoding has always put dns into it",
    "networking-not-classic": "an empty kubelet struct, filled by the rules after it",
}
"""Rules whose leaf never survives to the end."""


def test_every_rule_is_used_by_some_case() -> None:
    used = {origin.rule for _, _, _, origins in _runs() for origin in origins.values()}
    rules = {rule.name for rule in pipeline.every_rule()} | set(pipeline.DECODING)
    assert rules - used - ONLY_CHECKS - set(OVERWRITTEN) == set()
    assert used - rules == {AUTHOR}


def test_no_leaf_comes_from_a_rule_that_did_not_declare_it() -> None:
    declared = {rule.name: set(rule.writes) for rule in pipeline.every_rule()}
    for name, author, completed, origins in _runs():
        for path, _ in leaves(completed, author.kind):
            origin = nearest(origins, path)
            if origin is not None and origin.rule in declared:
                assert pattern(path) in declared[origin.rule], f"{name}: {path} by {origin.rule}"


def test_declared_writes_are_leaves_without_any_other_wildcard() -> None:
    for rule in pipeline.every_rule():
        for path in rule.writes:
            assert "*" not in path.replace("[*]", ""), f"{rule.name}: {path}"


def test_every_inferred_leaf_has_a_rule_with_a_kops_source() -> None:
    sources = {rule.name: rule.source for rule in pipeline.every_rule()} | pipeline.DECODING
    written = {ALWAYS, CANONICAL.rule, CONVERSION.rule}
    for case in ALL:
        if case.refused:
            continue
        inferred = infer(case.documents, case.facts)
        for leaf in (each for name in (None, *_names(inferred)) for each in inferred.explain(name)):
            if leaf.inferred:
                assert re.match(r"[\w/.]+\.go:\w+", leaf.origin.source), f"{case.name}: {leaf.path}"
                assert leaf.origin.rule in sources or leaf.origin.rule in written, f"{case.name}: {leaf}"
            else:
                assert leaf.position is not None, f"{case.name}: {leaf.path} is nowhere in the author's file"


def _names(inferred: Any) -> list[str]:
    return [group["metadata"]["name"] for group in inferred.groups]


def test_names_of_rules_are_unique_and_sources_name_a_file_and_a_function() -> None:
    rules = pipeline.every_rule()
    assert len({rule.name for rule in rules}) == len(rules)
    for rule in rules:
        for source in rule.source.split("; "):
            file, _, function = source.partition(":")
            assert file.endswith(".go"), rule
            assert function, rule
