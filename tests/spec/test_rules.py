"""What holds for every completion, whatever the documents?

Properties over manifests made from the parts of the corpus: idempotence, the author's values survive, key order does not matter.
`EXCEPTIONS` are kops's own, with their source. Then the draft and the merge by hand.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kopsfs.spec import conversion
from kopsfs.spec.conversion import Object, from_internal
from kopsfs.spec.document import Document
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import RefusedError
from kopsfs.spec.inference import pipeline
from kopsfs.spec.rules import AUTHOR, Draft, Rule, converge, leaves, merged, nearest, pattern
from tests.spec import cases

OWN = cases.own()
NAMES = {case.name: case for case in OWN}

EXCEPTIONS = {
    "spec.kubernetesVersion": "populate_cluster_spec.go:run trims blanks and a leading v",
    "spec.egressProxy.excludes": "defaults.go:assignProxy appends to the author's list",
    "spec.kubelet.anonymousAuth": "populate_instancegroup_spec.go:PopulateInstanceGroupSpec turns true into false",
    "spec.kubelet.taints[*]": "populate_instancegroup_spec.go:PopulateInstanceGroupSpec merges and sorts taints",
    "spec.taints[*]": "populate_instancegroup_spec.go:PopulateInstanceGroupSpec may append, order is kept",
}
"""Fields whose value kops changes though the author gave one, in v1alpha2 with `[*]` for indices and keys."""

SETTINGS: dict[str, list[Any]] = {
    "kubelet": [
        {"maxPods": 0},
        {"anonymousAuth": False},
        {"evictionHard": "memory.available<1Gi"},
        {"logLevel": 0},
        {"taints": ["a=b:NoSchedule"]},
    ],
    "masterKubelet": [{"kubeReserved": {"cpu": "100m"}}, {"anonymousAuth": True}, {"enableDebuggingHandlers": False}],
    "kubeAPIServer": [
        {"anonymousAuth": True},
        {"logLevel": 5, "featureGates": {"A": "false"}},
        {"apiServerCount": 7, "etcdServers": ["https://elsewhere:1"]},
        {"oidcIssuerURL": "https://issuer", "oidcGroupsClaim": "a,b", "oidcRequiredClaim": ["k=v", "b=c"]},
    ],
    "kubeControllerManager": [
        {"attachDetachReconcileSyncPeriod": "2m"},
        {"clusterCIDR": "10.1.0.0/16"},
        {"controllers": ["*"]},
    ],
    "kubeScheduler": [{"image": "mine"}, {"leaderElection": {}}, {"logLevel": 4}],
    "kubeProxy": [{"enabled": False}, {"cpuRequest": "1000m"}, {"clusterCIDR": ""}],
    "kubeDNS": [
        {"provider": "KubeDNS"},
        {"nodeLocalDNS": {"enabled": True}},
        {"memoryRequest": "0"},
        {"cacheMaxSize": 7},
    ],
    "containerd": [
        {"version": "2.2.0"},
        {"logLevel": "debug"},
        {"runc": {"version": "1.3.0"}},
        {"registryMirrors": {"a.io": ["https://b"]}},
    ],
    "clusterDNSDomain": ["cluster.test"],
    "masterPublicName": ["api.elsewhere.test"],
    "cloudLabels": [{"team": "a", "1": "y"}],
    "rollingUpdate": [{"maxSurge": 1}, {"maxUnavailable": "50%"}],
    "hooks": [[{"name": "h", "disabled": True, "roles": ["Master"], "manifest": "x"}]],
    "iam": [{"legacy": False}, {"permissionsBoundary": "arn"}],
    "additionalPolicies": [{"master": "[]", "node": "[]"}],
}

MANIFESTS = st.builds(
    lambda name, chosen, seed: (name, chosen, seed),
    st.sampled_from(sorted(NAMES)),
    st.fixed_dictionaries({}, optional={field: st.sampled_from(values) for field, values in SETTINGS.items()}),
    st.integers(0, 1 << 30),
)


def author(name: str, chosen: dict[str, Any]) -> tuple[dict[str, Any], list[Object]]:
    """The v1alpha2 cluster of a case with more settings, and its decoded groups."""
    documents = [each.data for each in NAMES[name].documents]
    data = copy.deepcopy(documents[0])
    data["spec"] |= copy.deepcopy(chosen)
    _, groups = NAMES[name].objects()
    return data, groups


def completed(data: dict[str, Any], groups: list[Object], facts: Facts) -> tuple[dict[str, Any], pipeline.Completed]:
    done = pipeline.complete(conversion.decode(Document(data)), groups, facts)
    return from_internal(done.cluster, "Cluster", "v1alpha2"), done


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def shown(data: dict[str, Any], kind: str) -> dict[str, Any]:
    return dict(leaves(data, kind, "v1alpha2"))


@settings(max_examples=60, deadline=None)
@given(MANIFESTS)
def test_completion_is_idempotent(made: tuple[str, dict[str, Any], int]) -> None:
    data, groups = author(made[0], made[1])
    facts = NAMES[made[0]].facts
    once, _ = completed(data, groups, facts)
    again, _ = completed(copy.deepcopy(once), groups, facts)
    for document in (once, again):
        (document["spec"].get("egressProxy") or {}).pop("excludes", None)  # grows by the DNS domain, known by then
    assert again == once


@settings(max_examples=60, deadline=None)
@given(MANIFESTS)
def test_the_authors_values_survive(made: tuple[str, dict[str, Any], int]) -> None:
    data, groups = author(made[0], made[1])
    done, result = completed(data, groups, NAMES[made[0]].facts)
    decoded = conversion.decode(Document(data), defaults=False)
    _survive(from_internal(decoded.data, "Cluster", "v1alpha2"), done, "Cluster")
    for group, after in zip(groups, result.groups, strict=True):
        before = from_internal(group.data, "InstanceGroup", "v1alpha2")
        _survive(before, from_internal(after, "InstanceGroup", "v1alpha2"), "InstanceGroup")


def _survive(before: dict[str, Any], after: dict[str, Any], kind: str) -> None:
    have = shown(after, kind)
    for path, value in shown(before, kind).items():
        if pattern(path) in EXCEPTIONS or value in ({}, []):
            continue
        assert have.get(path) == value, path


@settings(max_examples=30, deadline=None)
@given(MANIFESTS)
def test_the_order_of_keys_does_not_matter(made: tuple[str, dict[str, Any], int]) -> None:
    data, groups = author(made[0], made[1])
    facts = NAMES[made[0]].facts
    once, first = completed(data, groups, facts)
    other, second = completed(shuffled(data, random.Random(made[2])), groups, facts)
    assert other == once
    assert first.groups == second.groups


@settings(max_examples=30, deadline=None)
@given(MANIFESTS)
def test_every_leaf_has_an_origin_and_the_authors_are_the_authors(made: tuple[str, dict[str, Any], int]) -> None:
    data, groups = author(made[0], made[1])
    _, done = completed(data, groups, NAMES[made[0]].facts)
    given_leaves = dict(leaves(conversion.decode(Document(data), defaults=False).data, "Cluster"))
    for path, value in leaves(done.cluster, "Cluster"):
        if given_leaves.get(path) == value and value not in ({}, []):
            origin = done.origins.get(path)
            assert origin is None or origin.rule == AUTHOR or pattern(path) in EXCEPTIONS, path


def test_exceptions_are_real() -> None:
    """Each is seen to change an author's value; else the list would hide bugs."""
    seen = set()
    for case in OWN:
        cluster, groups = case.objects()
        for group in groups:
            group.spec.setdefault("kubelet", {}).update(anonymousAuth=True, taints=["z=:NoSchedule"])
            group.spec["taints"] = ["y=:NoSchedule"]
        cluster.spec["kubernetesVersion"] = "v1.34.0"
        (cluster.spec["networking"].get("egressProxy") or {})["excludes"] = "internal.test"
        cluster.spec.setdefault("kubelet", {})["anonymousAuth"] = True
        cluster.spec.setdefault("controlPlaneKubelet", {})["anonymousAuth"] = True
        done = pipeline.complete(cluster, groups, case.facts)
        pairs = [(cluster.data, done.cluster, "Cluster")]
        pairs += [(group.data, after, "InstanceGroup") for group, after in zip(groups, done.groups, strict=True)]
        for before, after, kind in pairs:
            have = shown(from_internal(after, kind, "v1alpha2"), kind)
            old = shown(from_internal(before, kind, "v1alpha2"), kind)
            seen |= {pattern(path) for path, value in old.items() if have.get(path) != value}
    assert set(EXCEPTIONS) - {"spec.taints[*]"} <= seen


# --- the draft --------------------------------------------------------------------------------------------------------


def draft(data: dict[str, Any], kind: str = "Cluster") -> Draft:
    return Draft(data, kind, Facts())


def run(data: dict[str, Any], apply: Any, *writes: str) -> Draft:
    made = draft(data)
    made.run((Rule("probe", writes, "file.go:Func", apply),))
    return made


def test_an_undeclared_write_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="undeclared"):
        run({}, lambda draft: draft.default("spec.channel", "x"), "spec.dnsZone")


def test_a_field_that_does_not_exist_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no field"):
        run({}, lambda draft: draft.default("spec.chanel", "x"), "spec.chanel")


def test_a_default_leaves_what_is_there_but_fills_a_zero_that_is_no_pointer() -> None:
    made = run(
        {"spec": {"channel": "", "kubelet": {"maxPods": 0}}},
        lambda draft: (draft.default("spec.channel", "stable"), draft.default("spec.kubelet.maxPods", 9)),
        "spec.channel",
        "spec.kubelet.maxPods",
    )
    assert made.data == {"spec": {"channel": "stable", "kubelet": {"maxPods": 0}}}
    assert set(made.origins) == {"spec.channel"}


def test_origins_name_what_the_rule_had_read() -> None:
    made = run(
        {"spec": {"dnsZone": "Z"}},
        lambda draft: draft.default("spec.channel", draft.text("spec.dnsZone")),
        "spec.channel",
    )
    assert made.origins["spec.channel"].inputs == ("spec.dnsZone",)


def test_the_last_rule_to_write_is_the_origin() -> None:
    made = draft({})
    rules = (
        Rule("one", ("spec.sshAccess[*]",), "a.go:F", lambda draft: draft.force("spec.sshAccess", ["a", "b"])),
        Rule("two", ("spec.sshAccess[*]",), "a.go:F", lambda draft: draft.force("spec.sshAccess", ["c"])),
    )
    made.run(rules)
    assert {path: origin.rule for path, origin in made.origins.items()} == {"spec.sshAccess": "two"}
    assert nearest(made.origins, "spec.sshAccess[0]") == made.origins["spec.sshAccess"]
    assert nearest(made.origins, "spec.sshKeyName") is None


def test_rules_that_never_settle_end_with_the_fields_named() -> None:
    def grow(draft: Draft) -> None:
        draft.force("spec.channel", draft.text("spec.channel") + "x")

    with pytest.raises(RefusedError, match=r"did not converge after 10 rounds.*spec\.channel"):
        converge(draft({"spec": {}}), (Rule("grow", ("spec.channel",), "a.go:F", grow),))


def test_a_value_derived_from_a_later_rules_follows_a_round_later() -> None:
    rules = (
        Rule("b", ("spec.dnsZone",), "a.go:F", lambda draft: draft.default("spec.dnsZone", draft.text("spec.channel"))),
        Rule("a", ("spec.channel",), "a.go:F", lambda draft: draft.default("spec.channel", "rule")),
    )
    made = draft({"spec": {}})
    assert converge(made, rules) == 3
    assert made.data == {"spec": {"channel": "rule", "dnsZone": "rule"}}


def test_the_author_wins_over_a_rule_that_writes_anyway() -> None:
    rule = Rule("a", ("spec.channel",), "a.go:F", lambda draft: draft.force("spec.channel", "rule"))
    made = draft({"spec": {"channel": "author"}})
    converge(made, (rule,))
    assert made.data == {"spec": {"channel": "author"}}
    assert made.origins["spec.channel"].rule == AUTHOR


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        ({"sshAccess": ["a", "b"]}, {"sshAccess": ["c"]}, {"sshAccess": ["c"]}),
        ({"sshAccess": ["a"]}, {"sshAccess": []}, {"sshAccess": ["a"]}),
        ({"cloudLabels": {"a": "1", "b": "2"}}, {"cloudLabels": {"b": ""}}, {"cloudLabels": {"a": "1", "b": ""}}),
        ({"channel": "x"}, {"channel": ""}, {"channel": "x"}),
        (
            {"kubelet": {"anonymousAuth": True}},
            {"kubelet": {"anonymousAuth": False}},
            {"kubelet": {"anonymousAuth": False}},
        ),
        (
            {"etcdClusters": [{"name": "main", "version": "3"}, {"name": "events"}]},
            {"etcdClusters": [{"name": "main", "image": "i"}]},
            {"etcdClusters": [{"name": "main", "version": "3", "image": "i"}]},
        ),
        ({"kubelet": {"DockerDisableSharedPID": True}}, {}, {"kubelet": {"DockerDisableSharedPID": True}}),
        ({"Docker": {}}, {"ContainerRuntime": "docker"}, {}),
        ({}, {"kubelet": {}}, {"kubelet": {}}),
        ({"iam": {"legacy": True}}, {"iam": {}}, {"iam": {}}),
    ],
)
def test_the_merge_is_gos_json_merge(below: dict[str, Any], above: dict[str, Any], result: dict[str, Any]) -> None:
    assert merged({"spec": below}, {"spec": above}, "Cluster")["spec"] == result
