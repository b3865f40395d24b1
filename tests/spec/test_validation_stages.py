"""Documents in, findings out: stages, kops's order against everything at once, places, spelling, structure.

The method: one small healthy manifest as text, a change to the text, equality of what is found (rule, field, line). Planted
before it was believed: a stage left out, positions one line off, the second cluster of a file ignored.
"""

from __future__ import annotations

import copy

import pytest

from kopsfs.spec.document import read
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import Path, Severity
from kopsfs.spec.validation.files import judge_change, judge_files
from kopsfs.spec.validation.manifest import load
from kopsfs.spec.validation.places import Role, place
from kopsfs.spec.validation.spelling import document_path
from kopsfs.spec.validation.stages import Judge
from kopsfs.spec.validation.structure import guard

CLUSTER = """\
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata:
  name: c1.example.com
spec:
  api:
    dns: {}
  channel: stable
  cloudProvider: aws
  configBase: s3://state/c1.example.com
  dnsZone: Z1
  etcdClusters:
  - etcdMembers:
    - instanceGroup: cp
      name: a
    name: main
  - etcdMembers:
    - instanceGroup: cp
      name: a
    name: events
  kubernetesApiAccess:
  - 0.0.0.0/0
  kubernetesVersion: 1.36.3
  networkCIDR: 172.20.0.0/16
  networking:
    cni: {}
  nonMasqueradeCIDR: 100.64.0.0/10
  subnets:
  - cidr: 172.20.32.0/19
    name: a
    type: Public
    zone: us-east-1a
  topology:
    dns:
      type: Public
"""
GROUP = """\
apiVersion: kops.k8s.io/v1alpha2
kind: InstanceGroup
metadata:
  labels:
    kops.k8s.io/cluster: c1.example.com
  name: {name}
spec:
  image: ami-1
  machineType: m5.large
  role: {role}
  subnets:
  - a
"""
CONTROL_PLANE = GROUP.format(name="cp", role="Master")
NODES = GROUP.format(name="nodes", role="Node")
MANIFEST = f"{CLUSTER}---\n{CONTROL_PLANE}---\n{NODES}"

Row = tuple[str, str, int]


def found(text: str, *, kops_order: bool = False, judge: Judge | None = None, name: str = "m") -> list[Row]:
    entries = judge_files(judge or Judge(), {name: text.encode()}, kops_order=kops_order)
    return [
        (
            entry.finding.rule,
            entry.spelled or entry.finding.field,
            entry.finding.position.line if entry.finding.position else 0,
        )
        for entry in entries
    ]


def changed(old: str, new: str, text: str = MANIFEST) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


def test_a_healthy_manifest_has_no_findings() -> None:
    assert found(MANIFEST) == []
    assert found(MANIFEST, kops_order=True) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  channel: stable", "  channel: 5", [("type", "spec.channel", 8)]),
        ("networkCIDR: 172.20.0.0/16", "networkCidr: 172.20.0.0/16\n  networkCIDR: 172.20.0.0/16", [("unknown-field", "spec.networkCidr", 24)]),
        ("  channel: stable", "  channel: stable\n  channel: alpha", [("repeated-key", "spec.channel", 9)]),
        ("v1alpha2\nkind: Cluster", "v1beta9\nkind: Cluster", [("api-version", "apiVersion", 1)]),
        ("kind: InstanceGroup\nmetadata:\n  labels:\n    kops.k8s.io/cluster: c1.example.com\n  name: nodes", "kind: Group\nmetadata:\n  name: nodes", [("kind", "kind", 38 + 13)]),
        ("- 0.0.0.0/0", "- 0.0.0.0", [("cidr", "spec.kubernetesApiAccess[0]", 22)]),
        ("  name: c1.example.com\nspec", "  name: c1\nspec", [("cluster-name-qualified", "metadata.name", 4)]),
        ("    cni: {}", "    calico: {encapsulationMode: x}", [("calico-encapsulation", "spec.networking.calico.encapsulationMode", 26)]),
        ("    type: Public", "    type: x", [("subnet-type", "spec.subnets[0].type", 31)]),
        ("      type: Public", "      type: Odd", [("topology-dns", "spec.topology.dns.type", 35), ("topology-dns-of-cloud", "spec.topology.dns.type", 35)]),
        ("  channel: stable", "  channel: stable\n  kubelet: {configureCbr0: true}", [("kubelet-configure-cbr0", "spec.kubelet.configureCbr0", 9)]),
        ("  channel: stable", "  channel: stable\n  isolateMasters: 3", [("type", "spec.isolateMasters", 9)]),
    ],
    ids=str,
)  # fmt: skip
def test_findings_are_spelled_and_placed_as_the_author_wrote(old: str, new: str, expected: list[Row]) -> None:
    assert found(changed(old, new)) == expected


def test_fields_of_groups_are_named_in_the_group() -> None:
    text = changed(
        "  machineType: m5.large\n  role: Node", "  machineType: m5.large\n  rootVolumeIops: -1\n  role: Node"
    )
    line = text.split("\n").index("  rootVolumeIops: -1") + 1
    assert found(text) == [("root-volume-iops", "spec.rootVolumeIops", line)]
    unknown = changed("role: Node\n  subnets:\n  - a", "role: Node\n  subnets:\n  - b")
    assert found(unknown) == [("group-subnet", "spec.subnets[0]", len(MANIFEST.splitlines()))]


def test_a_rule_of_the_group_about_the_cluster_speaks_too() -> None:
    text = changed("  channel: stable", "  channel: stable\n  warmPool: {minSize: -1}")
    assert found(text) == [
        ("warm-pool-min-negative", "spec.warmPool.minSize", 9),
        ("group-warm-pool-min-negative", "spec.warmPool.minSize", text.split("\n").index("  name: nodes") + 2),
    ]


def test_a_field_of_another_cloud_is_refused() -> None:
    text = changed("cloudProvider: aws", "cloudProvider: gce\n  warmPool: {}")
    assert found(text) == [("decode-cloud", "spec.warmPool", 10)]


def test_a_claim_that_kops_cannot_read_is_refused() -> None:
    text = changed("  channel: stable", "  channel: stable\n  kubeAPIServer: {oidcRequiredClaim: [x]}")
    assert found(text) == [("decode", "spec.kubeAPIServer.oidcRequiredClaim[0]", 9)]


def test_everything_at_once_goes_on_where_kops_stops() -> None:
    text = changed("  channel: stable", "  channel: 5", changed("- 0.0.0.0/0", "- 0.0.0.0"))
    assert [row[0] for row in found(text, kops_order=True)] == ["type"]
    assert [row[0] for row in found(text)] == ["type", "cidr"]


def test_what_is_of_a_wrong_type_is_told_once() -> None:
    text = changed("networkCIDR: 172.20.0.0/16", "networkCIDR: 172")
    assert found(text) == [("type", "spec.networkCIDR", 24)]


def test_kops_order_ends_with_the_first_stage_that_fails() -> None:
    def stages(text: str, judge: Judge | None = None) -> set[str]:
        entries = judge_files(judge or Judge(), {"m": text.encode()}, kops_order=True)
        return {entry.stage for entry in entries}

    broken_store = changed("- 0.0.0.0/0", "- 0.0.0.0")
    no_zone = changed("    zone: us-east-1a\n", "")
    same_member = changed(
        "    name: main", "    - {name: a, instanceGroup: cp}\n    - {name: b, instanceGroup: cp}\n    name: main"
    )
    dedicated = changed(
        "machineType: m5.large\n  role: Node", "machineType: t2.medium\n  tenancy: dedicated\n  role: Node"
    )
    assert stages(changed("cloudProvider: aws", "cloudProvider: vsphere")) == {"decode"}
    assert stages(broken_store) == {"store"}
    assert stages(no_zone) == {"cloud-build"}
    assert stages(same_member) == {"populate"}
    assert stages(dedicated) == {"populate-ig"}
    assert stages(CLUSTER) == {"deep"}
    assert stages(CLUSTER, Judge(kind="cluster-only")) == set()
    assert stages(changed("- 0.0.0.0/0", "- 0.0.0.0", no_zone)) == {"store"}


def test_a_zone_that_aws_does_not_have_stops_the_cloud_build() -> None:
    judge = Judge(Facts({"aws": {"zones": ["eu-west-1a"]}}))
    assert [row[0] for row in found(MANIFEST, kops_order=True, judge=judge)] == ["build-zone-unknown"]


def test_a_new_manifest_is_assigned_first() -> None:
    text = CLUSTER.replace("  networkCIDR: 172.20.0.0/16\n", "").replace("  kubernetesVersion: 1.36.3\n", "")
    text = f"{text}---\n{CONTROL_PLANE}---\n{NODES}".replace("  - cidr: 172.20.32.0/19\n    name: a", "  - name: a")
    assert found(text) == [("kubernetes-version-required", "spec.kubernetesVersion", 5)]
    for order in (False, True):
        assert found(text, judge=Judge(kind="new-manifest"), kops_order=order) == []
    nothing = changed("channel: stable", "channel: none", text)
    assert found(nothing, judge=Judge(kind="new-manifest"), kops_order=True) != []


def test_a_fact_that_completion_misses_is_a_warning() -> None:
    text = changed("  dnsZone: Z1\n", "").encode()
    (entry,) = judge_files(Judge(), {"m": text})
    assert (entry.finding.severity, str(entry.finding.kind), entry.stage) == ("warning", "Missing fact", "populate")
    assert "needs fact aws.hosted_zones" in entry.finding.detail
    zone = {"aws": {"hosted_zones": [{"id": "Z1", "name": "example.com", "private": False}]}}
    assert judge_files(Judge(Facts(zone)), {"m": text}) == []
    (entry,) = judge_files(Judge(), {"m": text}, kops_order=True)
    assert entry.finding.severity == "error"


def test_groups_of_a_cluster_are_counted() -> None:
    assert [row[0] for row in found(CLUSTER)] == ["groups-required"]
    assert [row[0] for row in found(f"{CLUSTER}---\n{CONTROL_PLANE}")] == ["groups-node"]
    nodes_only = f"{CLUSTER}---\n{NODES}"
    assert [row[0] for row in found(nodes_only)] == ["groups-control-plane"]


def test_kops_order_needs_one_cluster() -> None:
    assert [row[0] for row in found(NODES, kops_order=True)] == ["cluster-missing"]
    two = f"{MANIFEST}---\n{CLUSTER}"
    assert [row[0] for row in found(two, kops_order=True)] == ["clusters-many"]


def test_a_group_alone_is_judged_without_its_cluster() -> None:
    assert found(NODES) == []
    assert [row[0] for row in found(changed("role: Node", "role: Sub", NODES))] == ["group-role"]


def test_completed_documents_are_judged_as_they_are() -> None:
    lax, strict = Judge(kind="completed-manifest"), Judge(kind="completed-manifest", strict=True)
    assert found(MANIFEST, judge=lax) == []
    assert {row[0] for row in found(MANIFEST, judge=strict)} == {
        "completed-component", "pod-cidr-required", "service-range-required",
    }  # fmt: skip
    assert {row[0] for row in found(MANIFEST, judge=strict, kops_order=True)} == {
        "completed-component", "pod-cidr-required", "service-range-required",
    }  # fmt: skip


def test_additional_objects_may_not_set_what_kops_sets() -> None:
    scheduler = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nclientConnection:\n  kubeconfig: {}\n"
    assert found(scheduler.format("/x").replace("{}", "/x")) == [
        ("scheduler-kubeconfig", "clientConnection.kubeconfig", 4)
    ]
    assert [row[0] for row in found(scheduler.replace("{}", "[1]"))] == ["scheduler-kubeconfig-type"]
    assert found(scheduler.replace("kubescheduler.config.k8s.io", "example.com").replace("{}", "/x")) == []


def test_v1alpha3_is_spelled_as_v1alpha3() -> None:
    text = """\
apiVersion: kops.k8s.io/v1alpha3
kind: Cluster
metadata: {name: c1.example.com}
spec:
  kubernetesVersion: 1.36.3
  cloudProvider: {aws: {}}
  configStore: {base: s3://x/c1.example.com}
  networking:
    networkCIDR: 172.20.0.0/16
    nonMasqueradeCIDR: 100.64.0.0/10
    subnets: [{name: a, cidr: 10.0.0.0/8, type: Public, zone: us-east-1a}]
  etcdClusters: [{name: main, etcdMembers: [{name: a, instanceGroup: cp}]}]
"""
    assert found(text) == [("subnet-in-network", "spec.networking.subnets[0].cidr", 11)]


def test_unknown_fields_name_the_field_that_was_meant() -> None:
    text = changed("  etcdClusters:", "  etcdCluster: []\n  kubeapiserver: {}\n  whatever: 1\n  etcdClusters:")
    entries = judge_files(Judge(), {"m": text.encode()})
    meant = {entry.finding.field: entry.finding.detail.rpartition("; ")[2] for entry in entries}
    assert meant == {
        "spec.etcdCluster": "etcdClusters?",
        "spec.kubeapiserver": "kubeAPIServer?",
        "spec.whatever": "unknown field, kops drops it",
    }
    assert {entry.finding.severity for entry in entries} == {Severity.WARNING}


def test_what_yaml_took_for_a_number_is_quoted_as_it_was_written() -> None:
    for old, written, what in (
        ("kubernetesVersion: 1.36.3", "1.30", "a number"),
        ("name: a\n    name: main", "n\n    name: main", "a boolean"),
    ):
        key = old.partition(":")[0]
        entries = judge_files(Judge(), {"m": changed(old, f"{key}: {written}").encode()})
        text = written.partition("\n")[0]
        assert [(entry.finding.value, entry.finding.detail) for entry in entries] == [
            (text, f"{what} where a string has to be; quote it: '{text}'")
        ]


def test_so_many_unknown_fields_are_counted() -> None:
    many = "".join(f"  unknown{number}: 1\n" for number in range(60))
    entries = judge_files(Judge(), {"m": changed("  etcdClusters:\n", f"{many}  etcdClusters:\n").encode()})
    assert len(entries) == 51
    assert entries[-1].finding.detail == "10 more unknown fields"
    assert {entry.finding.rule for entry in entries} == {"unknown-field"}


def test_slips_of_kops_lead_to_the_right_field() -> None:
    cluster, group = (load(read(text)).clusters or load(read(text)).groups for text in (CLUSTER, NODES))
    for field, meant in {
        "objectMeta.name": "metadata.name",
        "spec.spec.kubeProxy.enabled": "spec.kubeProxy.enabled",
        "spec.kubernetesAPIAccess[3]": "spec.kubernetesApiAccess[3]",
        "spec.configStore.base": "spec.configBase",
        "spec.networking.subnets[1].ipv6CIDR": "spec.subnets[1].ipv6CIDR",
        "spec.cloudProvider.aws.awsLoadBalanceController": "spec.awsLoadBalancerController",
        "spec.cloudProvider.aws.ebsCSIDriver.enabled": "spec.cloudConfig.awsEBSCSIDriver.enabled",
        "spec.controlPlaneKubelet.logFormat": "spec.masterKubelet.logFormat",
        "spec.containerd.packageHashArm64": "spec.containerd.packages.hashArm64",
        "spec.etcdClusters[0].backupStore": "spec.etcdClusters[0].backups.backupStore",
        "spec.serviceAccountIssuerDiscovery.serviceAccountIssuerDiscovery.discoveryStore": "spec.serviceAccountIssuerDiscovery.discoveryStore",
        "spec.networking.topology.dns.type": "spec.topology.dns.type",
    }.items():
        assert str(document_path(field, cluster[0])) == meant
    for field, meant in {
        "nodes.spec.machineType": "spec.machineType",
        "spec.networking.subnets[0]": "spec.subnets[0]",
        "spec.rootVolume.iops": "spec.rootVolumeIops",
        "additionalUserData.name": "spec.additionalUserData.name",
    }.items():
        assert str(document_path(field, group[0])) == meant


# --- one file of a store ----------------------------------------------------------------------------------------------


def test_the_guard_says_what_is_wrong_with_one_file() -> None:
    def rules(path: str, data: bytes) -> list[str]:
        return [finding.rule for finding in guard(path, data)]

    good = CLUSTER.encode()
    assert rules("c1.example.com/config", good) == []
    assert rules("a/c1.example.com/instancegroup/nodes", NODES.encode()) == []
    assert rules("c1.example.com/instancegroup/nodes", good) == ["kind-of-place"]
    assert rules("c1.example.com/config", good + b"---\n" + good) == ["one-object"]
    assert rules("c1.example.com/config", b"# nothing\n") == ["one-object"]
    assert rules("c1.example.com/config", b"a: [") == ["syntax"]
    assert rules("c1.example.com/config", b"") == []
    assert rules("c1.example.com/secrets/admin", b'{"Data":"eA=="}') == []
    assert rules("c1.example.com/secrets/admin", b'{"Data":"?"}') == ["json-secret"]
    assert rules("c1.example.com/secrets/admin", b"x") == ["json-secret"]
    assert rules("c1.example.com/pki/private/ca/keyset.yaml", good) == ["kind-of-place"]
    assert rules("c1.example.com/clusteraddons/default", b"apiVersion: v1\nkind: Secret\n") == []
    assert rules("c1.example.com/clusteraddons/default", b"a: b\n") == ["api-version", "kind"]
    assert rules("c1.example.com/clusteraddons/default", b"a: [") == ["syntax"]
    assert rules("c1.example.com/addons/x/y.yaml", b"a: [") == []
    assert rules("anything", b"\0") == []


def test_files_are_known_by_their_place() -> None:
    for path, role, cluster, name in (
        ("c1/config", Role.CONFIG, "c1", ""),
        ("a/b/config", Role.CONFIG, "a/b", ""),
        ("c1/instancegroup/nodes", Role.GROUP, "c1", "nodes"),
        ("c1/pki/private/ca/keyset.yaml", Role.KEYSET, "c1", "ca"),
        ("c1/pki/private/ca/123.key", Role.OLD_KEY, "c1", "ca"),
        ("c1/secrets/system:dns", Role.SECRET, "c1", "system:dns"),
        ("c1/igconfig/node/nodes/nodeupconfig.yaml", Role.NODE, "c1", "node/nodes"),
        ("c1/what", Role.UNKNOWN, "", ""),
        ("config", Role.CONFIG, "", ""),
        ("instancegroup/nodes", Role.GROUP, "", "nodes"),
        ("notes", Role.UNKNOWN, "", ""),
    ):
        found_place = place(path)
        assert (found_place.role, found_place.cluster, found_place.name) == (role, cluster, name)


# --- updates ----------------------------------------------------------------------------------------------------------


def test_a_stored_cluster_keeps_its_etcd_clusters() -> None:
    new = CLUSTER.replace("  - etcdMembers:\n    - instanceGroup: cp\n      name: a\n    name: events\n", "")
    changes = judge_change(CLUSTER.encode(), {"m": new.encode()})
    assert [(entry.finding.rule, entry.finding.field) for entry in changes] == [
        ("etcd-removed", "spec.etcdClusters[events]")
    ]
    moved = changed("instanceGroup: cp", "instanceGroup: other", CLUSTER)
    assert judge_change(CLUSTER.encode(), {"m": moved.encode()}) == []
    rules = [entry.finding.rule for entry in judge_change(CLUSTER.encode(), {"m": moved.encode()}, created=True)]
    assert rules == ["etcd-member-moved"]


def test_judging_changes_nothing() -> None:
    manifest = load(read(MANIFEST))
    before = copy.deepcopy([each.data for each in (*manifest.clusters, *manifest.groups)])
    Judge().everything(manifest)
    Judge().kops_order(manifest)
    assert [each.data for each in (*manifest.clusters, *manifest.groups)] == before


def test_paths_print_as_kops_prints_them() -> None:
    assert str(Path("spec").child("iam").key("a/b").child("aws")) == "spec.iam[a/b].aws"
