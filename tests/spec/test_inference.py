"""Does each step do what kops's function of the same name does?

The tables of kops's own unit tests (`units/` of the shared corpus), then what no corpus holds: refusals, missing facts, ties.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kopsfs.spec import channel
from kopsfs.spec.conversion import Object, decode
from kopsfs.spec.document import read
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import Kind, RefusedError
from kopsfs.spec.infer import infer
from kopsfs.spec.inference import assignments, machines, pipeline, subnets
from kopsfs.spec.inference.cluster import service_ip
from kopsfs.spec.inference.gcenames import name_for_cluster, truncated
from kopsfs.spec.inference.steps import BEFORE_API
from kopsfs.spec.rules import Draft, Rule
from kopsfs.spec.validation.instancegroup import validate_group
from kopsfs.spec.validation.view import Group
from tests.spec import cases

UNITS = sorted((cases.SHARED / "units").glob("*.yaml")) if cases.SHARED.is_dir() else []
OURS = ("assign-proxy", "assign-subnet-cidrs", "default-image", "populate-cluster", "populate-instancegroup")
here = pytest.mark.skipif(not UNITS, reason=f"{cases.SHARED}/units is not here")


def units(kind: str) -> Any:
    chosen = [cases.plain(path)[0] for path in UNITS if path.name.startswith(f"{kind}-")]
    return pytest.mark.parametrize("unit", chosen, ids=lambda unit: unit["name"])


def aws_facts() -> Facts:
    clouds = cases.clouds_of(cases.SHARED / "env" / "cloud-update.yaml")
    return Facts(clouds, lambda name: channel.shipped(name), "1.34.0")


def run(data: dict[str, Any], rules: tuple[Rule, ...], facts: Facts | None = None) -> dict[str, Any]:
    draft = Draft(copy.deepcopy(data), "Cluster", facts or Facts())
    draft.run(rules)
    return draft.data


def named(name: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in pipeline.every_rule() if rule.name == name)


@here
def test_every_unit_of_completion_is_run() -> None:
    kinds = {path.stem.rpartition("-")[0] for path in UNITS}
    others = {"setup-karpenter-nodes", "setup-networking", "setup-topology", "setup-zones", "trim-common-prefix"}
    assert kinds == set(OURS) | others, "the others are steps of `create cluster`"


VPC = {
    "id": "vpc-12345678",
    "cidr": "172.20.0.0/16",
    "subnets": [
        {"id": "subnet-a", "zone": "us-test-1a", "cidr": "172.20.32.0/19"},
        {"id": "subnet-b", "zone": "us-test-1b", "cidr": ""},
    ],
}
"""What the mock cloud of kops's Test_AssignSubnetZones holds."""


@here
@units("assign-proxy")
def test_proxy_excludes(unit: dict[str, Any]) -> None:
    done = run(unit["cluster"], named("egress-proxy-excludes"))
    assert done["spec"]["networking"]["egressProxy"] == unit["expected"]


@here
@units("assign-subnet-cidrs")
def test_subnet_cidrs(unit: dict[str, Any]) -> None:
    provider = (unit["cloud"] or ["aws"])[0]
    wide = {"networkCIDR": unit["networkCIDR"], "networkID": unit["networkID"] or "", "subnets": unit["subnets"]}
    data = {
        "spec": {"cloudProvider": {provider: {}}, "networking": {name: value for name, value in wide.items() if value}}
    }
    facts = Facts({"aws": {"vpcs": [VPC]}})
    if unit["expect_error"]:
        with pytest.raises(RefusedError):
            run(data, subnets.RULES, facts)
        return
    done = run(data, subnets.RULES, facts)["spec"]["networking"]["subnets"]
    wanted = [{key: subnet.get(key) for key in ("name", "cidr", "zone")} for subnet in unit["expected"]]
    assert [{key: subnet.get(key) for key in ("name", "cidr", "zone")} for subnet in done] == wanted


@here
@units("default-image")
def test_default_image(unit: dict[str, Any]) -> None:
    facts = Facts(
        {"aws": {"instance_type_architectures": {"m": [unit["architecture"]]}}},
        lambda name: channel.Channel(name, (unit["channel"] or {}).get("spec") or {}),
    )
    cluster = Draft(unit["cluster"], "Cluster", facts)
    group = Draft({"spec": {"machineType": "m"}}, "InstanceGroup", facts, cluster=cluster)
    found: list[str] = []
    rule = Rule("probe", (), "", lambda draft: found.append(machines.default_image(draft, cluster)))
    cluster.run((Rule("probe", (), "", lambda draft: None),))
    if unit["expect_error"]:
        with pytest.raises(RefusedError):
            group.run((rule,))
        return
    group.run((rule,))
    assert found == [unit["expected"]]


@here
@units("populate-cluster")
def test_populate_cluster(unit: dict[str, Any]) -> None:
    draft = Draft({"kind": "Cluster", **copy.deepcopy(unit["cluster"])}, "Cluster", aws_facts())
    pipeline.populate_cluster(draft, [])
    wanted, done = unit["expected"], {key: value for key, value in draft.data.items() if key != "kind"}
    assert _pruned(done) == _pruned(wanted)


@here
@units("populate-instancegroup")
def test_populate_instance_group(unit: dict[str, Any]) -> None:
    cluster = Draft({"kind": "Cluster", **unit["cluster"]}, "Cluster", aws_facts())
    group = {"kind": "InstanceGroup", **unit["instance_group"]}
    if unit["expect_error"]:
        refused = [finding.key for finding in validate_group(Group(group), strict=False)]
        try:
            pipeline.populate_group(group, cluster, aws_facts())
        except RefusedError as error:
            refused += [finding.key for finding in error.findings]
        assert refused
        return
    done = pipeline.populate_group(group, cluster, aws_facts()).data
    assert _pruned({key: value for key, value in done.items() if key != "kind"}) == _pruned(unit["expected"])


def _pruned(value: Any) -> Any:
    """Without empty structs, which the recorded internal objects leave out or not as Go happened to print them."""
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item not in ({}, None)}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


# --- what no corpus holds ---------------------------------------------------------------------------------------------

CLUSTER = """\
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata: {{name: {name}}}
spec:
  cloudProvider: {cloud}
  configBase: memfs://state/x
  kubernetesVersion: {version}
  dnsZone: Z
  networking: {{cni: {{}}}}
  etcdClusters: [{{name: main, etcdMembers: [{{name: a, instanceGroup: cp}}]}}]
  subnets: [{{name: a, type: Public, zone: us-east-1a, cidr: 172.20.1.0/24}}]
{more}
"""


def cluster(more: str = "", *, name: str = "c.example.com", cloud: str = "aws", version: str = "1.34.0") -> Object:
    return decode(read(CLUSTER.format(more=more, name=name, cloud=cloud, version=version))[0])


def group(spec: str) -> Object:
    text = f"apiVersion: kops.k8s.io/v1alpha2\nkind: InstanceGroup\nmetadata: {{name: g}}\nspec: {{{spec}}}\n"
    return decode(read(text)[0])


def complete(author: Object, *groups: Object, facts: Facts | None = None) -> pipeline.Completed:
    return pipeline.complete(author, groups, facts or Facts())


def refusal(author: Object, *groups: Object, facts: Facts | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        complete(author, *groups, facts=facts)
    return str(caught.value)


def zones(*listed: tuple[str, str, bool]) -> Facts:
    return Facts(
        {"aws": {"hosted_zones": [{"name": name, "id": ident, "private": private} for name, ident, private in listed]}}
    )


def zoned(name: str = "c.example.com", dns: str = "Public") -> Object:
    author = cluster(f"  topology: {{dns: {{type: {dns}}}}}", name=name)
    del author.spec["dnsZone"]
    return author


def test_the_longest_zone_of_the_right_kind_is_taken() -> None:
    facts = zones(("example.com", "Z1", False), ("com", "Z2", False), ("c.example.com", "Z3", True))
    assert complete(zoned(), facts=facts).cluster["spec"]["dnsZone"] == "Z1"
    assert complete(zoned(dns="Private"), facts=facts).cluster["spec"]["dnsZone"] == "Z3"


def test_two_zones_of_one_name_are_an_error() -> None:
    assert "multiple" in refusal(zoned(), facts=zones(("example.com", "Z1", False), ("example.com", "Z2", False)))


def test_a_zone_of_another_name_that_ends_alike_is_none() -> None:
    assert "no matching" in refusal(zoned("c.anexample.com"), facts=zones(("example.com", "Z1", False)))


def test_a_missing_fact_says_what_and_how() -> None:
    with pytest.raises(RefusedError) as caught:
        complete(zoned())
    (finding,) = caught.value.findings
    assert finding.kind is Kind.FACT
    assert "aws.hosted_zones" in finding.detail
    assert "facts collect" in finding.detail


def test_a_list_that_is_empty_is_known_to_be_empty() -> None:
    assert "no matching hosted zones" in refusal(zoned(), facts=zones())


@pytest.mark.parametrize("cloud", ["linode", "azure"])
def test_clouds_without_dns_want_none(cloud: str) -> None:
    author = cluster("  cloudConfig: {azure: {storageAccountID: s}}", cloud=cloud)
    del author.spec["dnsZone"]
    assert "not implemented" in refusal(author)


def test_an_unbundled_etcd_needs_an_image() -> None:
    author = cluster()
    author.spec["etcdClusters"][0]["version"] = "3.4.13"
    assert "not supported" in refusal(author)
    author.spec["etcdClusters"][0]["image"] = "mine"
    assert complete(author).cluster["spec"]["etcdClusters"][0]["version"] == "3.4.13"


def test_even_numbers_of_etcd_members_are_refused() -> None:
    author = cluster()
    author.spec["etcdClusters"][0]["etcdMembers"].append({"name": "b", "instanceGroup": "b"})
    assert "odd number" in refusal(author)


def test_roles_behind_feature_flags() -> None:
    server = group("role: APIServer, machineType: m, image: i")
    assert "APIServerNodes" in refusal(cluster(), server)
    done = complete(cluster(), server, facts=Facts(flags=frozenset({"APIServerNodes"})))
    assert done.groups[0]["spec"]["kubelet"]["taints"] == ["node-role.kubernetes.io/api-server=:NoSchedule"]
    assert "ExperimentalRoles" in refusal(cluster(), group("role: Etcd, machineType: m, image: i"))


def test_burstable_types_are_not_dedicated() -> None:
    assert "t2.micro" in refusal(cluster(), group("role: Node, machineType: t2.micro, image: i, tenancy: dedicated"))


def test_a_kubernetes_version_that_is_a_build_cannot_be_inferred_offline() -> None:
    author = cluster(version="https://example.com/ci/v1.36.0-alpha.2/")
    with pytest.raises(RefusedError) as caught:
        complete(author)
    assert caught.value.findings[0].kind is Kind.FACT


def test_a_full_network_is_an_error() -> None:
    author = cluster()
    author.spec["networking"]["networkCIDR"] = "172.20.1.0/24"
    author.spec["networking"]["subnets"].append({"name": "b", "type": "Public", "zone": "us-east-1b"})
    assert "non-overlapping" in refusal(author)


def test_names_for_google_cloud() -> None:
    assert name_for_cluster("k8s-io-role-node", "c.example.com", 63) == "c-example-com-k8s-io-role-node"
    assert len(truncated("x" * 100, 40)) == 40
    assert truncated("x" * 40, 40) == "x" * 40


@pytest.mark.parametrize(
    ("base", "keypairs"),
    [
        ("s3://bucket/a/c", "s3://bucket/a/c/pki"),
        ("s3://bucket/a//c/", "s3://bucket/a/c/pki"),
        ("do://bucket/c", "do://bucket/c/pki"),
        ("file:///srv/state/c", "/srv/state/c/pki"),
        ("azureblob://account/container/c", "azureblob://account/container/c/pki"),
    ],
)
def test_store_paths_are_joined_as_kops_joins_them(base: str, keypairs: str) -> None:
    done = run({"spec": {"configStore": {"base": base}}}, BEFORE_API[:1])
    assert done["spec"]["configStore"]["keypairs"] == keypairs


def test_a_group_of_another_cluster_is_refused_with_its_place() -> None:
    text = CLUSTER.format(more="", name="c.example.com", cloud="aws", version="1.34.0")
    other = (
        "---\napiVersion: kops.k8s.io/v1alpha2\nkind: InstanceGroup\nmetadata:\n  name: g\n"
        "  labels:\n    kops.k8s.io/cluster: d.example.com\nspec: {role: Node}\n"
    )
    with pytest.raises(RefusedError) as caught:
        infer(read(text + other, "f.yaml"), Facts())
    (finding,) = caught.value.findings
    assert finding.position is not None
    assert finding.position.text.strip() == "kops.k8s.io/cluster: d.example.com"


def test_two_clusters_and_none_are_refused() -> None:
    text = CLUSTER.format(more="", name="c.example.com", cloud="aws", version="1.34.0")
    with pytest.raises(RefusedError, match="one cluster at a time"):
        infer(read(f"{text}---\n{text.replace('c.example', 'd.example')}"), Facts())
    lonely = "apiVersion: kops.k8s.io/v1alpha2\nkind: InstanceGroup\nmetadata: {name: g}\nspec: {role: Node}\n"
    with pytest.raises(RefusedError, match="'g' needs the one it belongs to"):
        infer(read(lonely), Facts())


def test_versions_newer_than_the_tables_are_warned_of() -> None:
    case = cases.own()[0]
    facts = Facts(case.facts.clouds, case.facts.channel, "1.99.0", case.facts.flags)
    assert "1.99.0 is newer" in infer(case.documents, facts).warnings[-1].detail


def test_assignments_are_made_once() -> None:
    for case in cases.own():
        author, _ = case.objects()
        once = pipeline.assigned(author, case.facts)
        again = Draft(copy.deepcopy(once.data), "Cluster", case.facts)
        again.run(assignments.RULES)
        assert again.data == once.data, case.name


@pytest.mark.parametrize(
    ("services", "tenth"),
    [
        ("100.64.0.0/13", "100.64.0.10"),
        ("fd00:5e4f:ce::/108", "fd00:5e4f:ce::a"),
        ("::/108", "::a"),
        ("255.255.255.248/29", "0.0.0.2"),
    ],
)
def test_an_address_of_the_service_range_stays_in_its_family(services: str, tenth: str) -> None:
    """Source: pkg/model/components/context.go:WellKnownServiceIP, which adds to a uint32 or to 16 bytes."""
    draft = Draft({"spec": {"networking": {"serviceClusterIPRange": services}}}, "Cluster", Facts())
    assert service_ip(draft, 10) == tenth
