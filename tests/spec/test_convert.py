"""Is a document of one API version the same in the other, wherever kops can say it?

The shared corpus where it is; then moved, inverted, cloud-bound and dropped fields one by one, and what kops refuses.
"""

from __future__ import annotations

from typing import Any

import pytest

from kopsfs.spec import conversion
from kopsfs.spec.conversion import decode, from_internal
from kopsfs.spec.document import read, read_one
from kopsfs.spec.explain import internal_path
from kopsfs.spec.field import Kind, Path, RefusedError
from kopsfs.spec.rules import leaves, look
from tests.spec import cases

CONVERT = cases.SHARED / "convert"
CONVERSIONS = [
    (folder, entry)
    for folder in (sorted(CONVERT.iterdir()) if CONVERT.is_dir() else ())
    for entry in cases.plain(folder / "meta.yaml")[0]["conversions"]
]
here = pytest.mark.skipif(not CONVERSIONS, reason=f"{CONVERT} is not here")


@here
@pytest.mark.parametrize(
    ("folder", "entry"), CONVERSIONS, ids=lambda value: getattr(value, "name", None) or value["to"]
)
def test_the_shared_corpus_is_converted_leaf_for_leaf(folder: Any, entry: dict[str, Any]) -> None:
    documents = read((folder / entry["source"]).read_bytes(), entry["source"])
    done = [converted(each, entry["to"]) if each.is_kops else each.data for each in documents]
    assert done == cases.plain(folder / entry["expected"])


def converted(document: Any, version: str) -> dict[str, Any]:
    internal = decode(document)
    return from_internal(internal.data, internal.kind, version)


def cluster(spec: str, version: str = "v1alpha2") -> Any:
    return read_one(f"apiVersion: kops.k8s.io/{version}\nkind: Cluster\nmetadata: {{name: c}}\nspec: {{{spec}}}\n")


def group(spec: str, version: str = "v1alpha2") -> Any:
    return read_one(
        f"apiVersion: kops.k8s.io/{version}\nkind: InstanceGroup\nmetadata: {{name: g}}\nspec: {{{spec}}}\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("configBase: s3://b/c", "configStore.base", "s3://b/c"),
        ("masterPublicName: api.c", "api.publicName", "api.c"),
        ("kubernetesApiAccess: [a]", "api.access[0]", "a"),
        ("subnets: [{name: a, zone: z}]", "networking.subnets[0].zone", "z"),
        ("topology: {dns: {type: None}}", "networking.topology.dns", "None"),
        ("cloudProvider: digitalocean", "cloudProvider.do", {}),
        ("cloudProvider: gce, project: p", "cloudProvider.gce.project", "p"),
        ("networking: {gce: {}}", "networking.gcp", {}),
        ("networking: {cilium: {disableMasquerade: true}}", "networking.cilium.masquerade", False),
        ("DisableSubnetTags: true", "networking.tagSubnets", False),
        ("hooks: [{name: h, disabled: true}]", "hooks[0].enabled", False),
        ("hooks: [{name: h, roles: [Master, Node]}]", "hooks[0].roles[0]", "ControlPlane"),
        ("externalDns: {disable: true}", "externalDNS.provider", "none"),
        ("externalPolicies: {master: [a]}", "externalPolicies.control-plane[0]", "a"),
        ("kubeAPIServer: {oidcGroupsClaim: 'a,b'}", "authentication.oidc.groupsClaims[1]", "b"),
        ("kubeAPIServer: {oidcRequiredClaim: [k=v=w]}", "authentication.oidc.requiredClaims.k", "v=w"),
        ("masterKubelet: {maxPods: 5}", "controlPlaneKubelet.maxPods", 5),
        ("cloudProvider: aws, warmPool: {maxSize: 1}", "cloudProvider.aws.warmPool.maxSize", 1),
    ],
)
def test_a_field_moves_and_comes_back(old: str, new: str, value: Any) -> None:
    document = cluster(old)
    there = converted(document, "v1alpha3")
    assert look(there["spec"], new) == value
    back = converted(type(document)(there), "v1alpha2")
    assert back == converted(document, "v1alpha2")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("cloudProvider: gce, warmPool: {}", "spec.warmPool"),
        ("cloudProvider: aws, cloudConfig: {multizone: true}", "spec.cloudConfig.multizone"),
        ("cloudProvider: openstack, nodeTerminationHandler: {}", "spec.nodeTerminationHandler"),
        ("cloudProvider: gce, cloudConfig: {awsEBSCSIDriver: {}}", "spec.cloudConfig.awsEBSCSIDriver"),
    ],
)
def test_a_field_of_another_cloud_is_refused(spec: str, field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        decode(cluster(spec))
    assert caught.value.findings[0].key == f"{Kind.FORBIDDEN}::{field}"


def test_an_unknown_cloud_version_kind_or_claim_is_refused() -> None:
    for document in (
        cluster("cloudProvider: vsphere"),
        cluster("channel: x", "v1beta1"),
        read_one("apiVersion: kops.k8s.io/v1alpha2\nkind: Clutser\nspec: {}\n"),
        cluster("kubeAPIServer: {oidcRequiredClaim: [novalue]}"),
    ):
        with pytest.raises(RefusedError):
            decode(document)


def test_a_completed_cluster_of_an_old_release_is_read_as_v1alpha2_where_it_is_asked_for() -> None:
    old = read_one("metadata: {name: c}\nspec: {configBase: s3://b/c, cloudProvider: aws, masterPublicName: api.c}\n")
    assert decode(old, legacy=True).spec["api"]["publicName"] == "api.c"
    with pytest.raises(RefusedError, match="apiVersion"):
        decode(old)


def test_canal_alone_is_lost_in_v1alpha2_as_in_kops() -> None:
    assert "networking" not in converted(cluster("networking: {canal: {}}"), "v1alpha2")["spec"]
    assert converted(cluster("networking: {canal: {}}"), "v1alpha3")["spec"]["networking"]["canal"] == {}


@pytest.mark.parametrize(
    ("spec", "default"),
    [
        ("cloudProvider: aws", {"topology": {"dns": {"type": "Public"}}, "authorization": {"rbac": {}}}),
        ("networking: {flannel: {}}", {"networking": {"flannel": {"backend": "udp"}}}),
        ("authorization: {alwaysAllow: {}}", {"authorization": {"alwaysAllow": {}}}),
    ],
)
def test_decoding_defaults(spec: str, default: dict[str, Any]) -> None:
    done = converted(cluster(spec), "v1alpha2")["spec"]
    assert {name: done[name] for name in default} == default


def test_a_quantity_that_is_no_pointer_is_always_written() -> None:
    """Source: k8s.io/api core/v1/types.go:ResourceFieldSelector.Divisor, a struct, which encoding/json never omits."""
    env = "kubeAPIServer: {env: [{name: GOMEMLIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory%s}}}]}"
    for given, divisor in (("", "0"), (", divisor: 1024Ki", "1Mi")):
        for version in ("v1alpha2", "v1alpha3"):
            spec = converted(cluster(env % given), version)["spec"]
            reference = spec["kubeAPIServer"]["env"][0]["valueFrom"]["resourceFieldRef"]
            assert reference == {"resource": "limits.memory", "divisor": divisor}


def test_groups_flatten_their_root_volume() -> None:
    there = converted(group("role: Master, rootVolumeSize: 5, rootVolumeEncryption: false"), "v1alpha3")["spec"]
    assert there == {"role": "ControlPlane", "rootVolume": {"size": 5, "encryption": False}}
    document = group("role: ControlPlane, rootVolume: {size: 5, encryption: false}", "v1alpha3")
    assert converted(document, "v1alpha2")["spec"] == {
        "role": "Master",
        "rootVolumeSize": 5,
        "rootVolumeEncryption": False,
    }


def test_every_move_names_fields_that_exist() -> None:
    old, new = conversion.schema.types("v1alpha2"), conversion.schema.types("internal")
    for move in conversion.MOVES:
        assert old.at("ClusterSpec", Path(*move.old.split("."))) is not None, move
        assert new.at("ClusterSpec", Path(*move.new.split("."))) is not None, move


def test_internal_paths_lead_to_the_same_value() -> None:
    """Over our own completions: what a v1alpha2 leaf is called inside kops."""
    from kopsfs.spec.infer import infer

    for case in cases.own():
        inferred = infer(case.documents, case.facts)
        for path, value in leaves(inferred.cluster, "Cluster", "v1alpha2"):
            inside = str(internal_path(Path.parse(path), "Cluster"))
            found = look(inferred.completed.cluster, inside)
            if path in {"apiVersion", "spec.cloudProvider", "spec.iam.legacy"} or path.startswith(
                "spec.cloudConfig.azure"
            ):
                continue
            assert found == value or found is (not value), f"{path} → {inside}"
