"""Does `explain` say who wrote a value, from what, and where kops does it?"""

from __future__ import annotations

import pytest

from kopsfs.spec.document import read
from kopsfs.spec.explain import Explained
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import RefusedError
from kopsfs.spec.infer import infer
from tests.spec import cases

AWS = next(case for case in cases.own() if case.name == "aws")


def explained(group: str | None = None) -> dict[str, Explained]:
    return {leaf.path: leaf for leaf in infer(AWS.documents, AWS.facts).explain(group)}


@pytest.mark.parametrize(
    ("path", "rule", "source", "inputs"),
    [
        ("spec.kubeAPIServer.apiServerCount", "apiserver-count", "apiserver.go", ("spec.etcdClusters",)),
        ("spec.kubernetesVersion", "kubernetes-version", "defaults.go", ("spec.channel",)),
        ("spec.dnsZone", "dns-zone", "utils.go", ("facts.aws.hosted_zones",)),
        ("spec.subnets[0].cidr", "subnet-cidrs", "subnets.go", ("spec.networkCIDR",)),
        ("spec.keyStore", "store-paths", "populate_cluster_spec.go", ("spec.configBase",)),
        ("spec.topology.dns.type", "decode-topology-dns", "v1alpha2/defaults.go", ()),
        ("spec.masterKubelet.maxPods", "control-plane-kubelet-inherits", "spec_builder.go", ("spec.kubelet.maxPods",)),
        ("spec.iam.legacy", "always-written", "cluster.go:IAMSpec", ()),
    ],
)
def test_inferred_values_name_rule_source_and_inputs(
    path: str, rule: str, source: str, inputs: tuple[str, ...]
) -> None:
    leaf = explained()[path]
    assert leaf.inferred
    assert leaf.origin.rule == rule
    assert source in leaf.origin.source
    assert set(inputs) <= set(leaf.inputs)


def test_the_authors_values_name_their_line() -> None:
    leaf = explained()["spec.kubelet.maxPods"]
    assert not leaf.inferred
    assert leaf.position is not None
    assert leaf.position.text.strip() == "maxPods: 64"


def test_groups_are_explained_too() -> None:
    leaves = explained("nodes")
    assert leaves["spec.nodeLabels[kops.k8s.io/gpu]"].origin.rule == "group-gpu"
    assert leaves["spec.kubelet.nodeLabels[node-role.kubernetes.io/node]"].inputs == ("spec.role",)
    assert leaves["spec.kubelet.maxPods"].inputs == ("cluster.spec.kubelet.maxPods",)
    assert leaves["spec.machineType"].position is not None
    with pytest.raises(RefusedError, match="control-plane, nodes, bastions"):
        explained("gone")


def test_a_value_in_other_words_is_the_writers() -> None:
    text = AWS.manifest.read_text().replace("role: Node", "role: Node\n  maxInstanceLifetime: 48h20m")
    leaves = {leaf.path: leaf for leaf in infer(read(text), AWS.facts).explain("nodes")}
    assert leaves["spec.maxInstanceLifetime"].value == "48h20m0s"
    assert leaves["spec.maxInstanceLifetime"].origin.rule == "canonical-form"


def test_an_overridden_rule_does_not_take_the_credit() -> None:
    text = AWS.manifest.read_text().replace("maxPods: 64", "maxPods: 64\n    logLevel: 2")
    leaf = {leaf.path: leaf for leaf in infer(read(text), AWS.facts).explain()}["spec.kubelet.logLevel"]
    assert not leaf.inferred


def test_v1alpha3_authors_are_known_by_their_values() -> None:
    text = (
        "apiVersion: kops.k8s.io/v1alpha3\nkind: Cluster\nmetadata: {name: c.example.com}\nspec:\n"
        "  kubernetesVersion: 1.34.0\n  dnsZone: Z\n  cloudProvider: {aws: {}}\n  configStore: {base: memfs://s/c}\n"
        "  etcdClusters: [{name: main, etcdMembers: [{name: a, instanceGroup: cp}]}]\n"
        "  networking: {cni: {}, networkCIDR: 10.0.0.0/16, subnets: [{name: a, type: Public, zone: us-east-1a, cidr: 10.0.0.0/24}]}\n"
        "---\napiVersion: kops.k8s.io/v1alpha3\nkind: InstanceGroup\nmetadata: {name: cp}\n"
        "spec: {role: ControlPlane, subnets: [a], image: i, machineType: t3.medium}\n"
        "---\napiVersion: kops.k8s.io/v1alpha3\nkind: InstanceGroup\nmetadata: {name: nodes}\n"
        "spec: {role: Node, subnets: [a], image: i, machineType: t3.medium}\n"
    )
    leaves = {leaf.path: leaf for leaf in infer(read(text), Facts({"aws": {"zones": ["us-east-1a"]}})).explain()}
    assert not leaves["spec.networkCIDR"].inferred
    assert leaves["spec.podCIDR"].inferred
