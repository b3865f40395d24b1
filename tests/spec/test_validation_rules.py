"""Every rule of kops's, on objects in the internal form: one change of a healthy object makes exactly the named rules speak.

The method: a table (`validation_cases.py`), equality of sets, and a census. Each rule that exists is the expectation of some case
(here, or in the tests of structure, trees and stages), so a rule that is taken out fails its case. Planted before it was
believed: the deletion of every single rule, by `python -m tests.spec.mutation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from kopsfs.cli.judged import all_rules
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import Finding
from kopsfs.spec.validation import cloudchecks
from kopsfs.spec.validation.cloudbuild import cloud_build
from kopsfs.spec.validation.cluster import validate_cluster
from kopsfs.spec.validation.instancegroup import cross_validate, group_volumes, validate_group
from kopsfs.spec.validation.rule import RULES
from kopsfs.spec.validation.update import validate_update
from kopsfs.spec.validation.view import Cluster, Group
from tests.spec import validation_cases as cases
from tests.spec import validation_group_cases as group_cases
from tests.spec.validation_cases import changed

CLUSTERS = [
    *cases.API, *cases.CLOUDS, *cases.COMPONENTS, *cases.DNS, *cases.ETCD, *cases.IAM, *cases.METADATA, *cases.CNI,
    *cases.NETWORK, *cases.OTHER,
]  # fmt: skip
ELSEWHERE = {
    # stages and files: test_validation_stages.py
    "type", "unknown-field", "syntax", "repeated-key", "api-version", "kind", "kind-of-place", "one-object", "json-secret",
    "groups-required", "groups-control-plane", "groups-node", "cluster-missing", "clusters-many",
    "scheduler-kubeconfig", "scheduler-kubeconfig-type", "decode", "decode-cloud",
    # trees: test_check.py
    "keyset-name", "keyset-empty", "keyset-distrusted", "keyset-primary", "keyset-private", "key-certificate", "key-private",
    "key-pair", "certificate-expired", "certificate-expires", "leftover", "stray-file", "out-of-place", "ssh-key",
    "ssh-key-name", "name-of-directory", "completed-name", "group-name-of-file", "group-label", "config-base",
    "completed-old", "keyset-missing", "completed-missing", "kops-version", "node-config-missing", "node-config-orphan",
    "node-config-hash", "addon-missing", "addon-hash", "etcd-group-missing", "etcd-zone-majority", "network-overlap",
}  # fmt: skip


def names(findings: Iterable[Finding]) -> set[str]:
    found = list(findings)
    assert all(finding.detail or finding.supported for finding in found if finding.kind != "Duplicate value"), found
    assert all(finding.rule in RULES for finding in found), found
    return {finding.rule for finding in found}


def test_healthy_objects_have_no_findings() -> None:
    cluster = Cluster(cases.CLUSTER)
    assert names(validate_cluster(cluster)) == set()
    assert names(validate_cluster(Cluster(changed(cases.CLUSTER, cases.COMPLETED), strict=True))) == set()
    for group in (cases.GROUP, cases.CONTROL_PLANE):
        assert names(cross_validate(cluster, Group(group))) == set()
    for cloud in ("azure", "do", "gce", "hetzner", "openstack", "scaleway", "linode"):
        assert names(validate_cluster(Cluster(changed(cases.CLUSTER, cases.cloud(cloud))))) == set(), cloud


@pytest.mark.parametrize(("changes", "expected"), CLUSTERS, ids=str)
def test_a_change_of_the_cluster_makes_its_rules_speak(changes: dict[str, Any], expected: set[str]) -> None:
    assert names(validate_cluster(Cluster(changed(cases.CLUSTER, changes)))) == expected


@pytest.mark.parametrize(("changes", "expected"), cases.STRICT, ids=str)
def test_a_completed_cluster_has_everything(changes: dict[str, Any], expected: set[str]) -> None:
    cluster = changed(changed(cases.CLUSTER, cases.COMPLETED), changes)
    assert names(validate_cluster(Cluster(cluster, strict=True))) == expected


@pytest.mark.parametrize(("changes", "expected", "of_cluster"), group_cases.GROUPS, ids=str)
def test_a_change_of_the_group_makes_its_rules_speak(
    changes: dict[str, Any], expected: set[str], of_cluster: dict[str, Any]
) -> None:
    cluster = Cluster(changed(cases.CLUSTER, of_cluster))
    assert names(cross_validate(cluster, Group(changed(cases.GROUP, changes)))) == expected


@pytest.mark.parametrize(("changes", "expected"), group_cases.CONTROL_PLANES, ids=str)
def test_a_change_of_the_control_plane_makes_its_rules_speak(changes: dict[str, Any], expected: set[str]) -> None:
    found = cross_validate(Cluster(cases.CLUSTER), Group(changed(cases.CONTROL_PLANE, changes)))
    assert names(found) == expected


def test_a_completed_group_has_an_image_and_sizes() -> None:
    group = Group(changed(cases.GROUP, {"spec.manager": "CloudGroup"}))
    assert names(validate_group(group, strict=True)) == {"group-image", "group-sizes-required"}


def test_volumes_are_for_aws() -> None:
    group = Group(changed(cases.GROUP, {"spec.volumes": [{"device": "x", "size": 1}]}))
    assert names(group_volumes(Cluster(cases.CLUSTER), group)) == set()
    assert names(group_volumes(Cluster(changed(cases.CLUSTER, cases.cloud("gce"))), group)) == {"group-volumes-aws"}


@pytest.mark.parametrize(("changes", "expected"), group_cases.SETTINGS, ids=str)
def test_settings_of_aws_groups(changes: dict[str, Any], expected: set[str]) -> None:
    group = Group(changed(cases.GROUP, changes))
    assert names(cloudchecks.settings(Cluster(cases.CLUSTER), group)) == expected


def test_groups_of_gce_name_zones_and_a_known_provisioning_model() -> None:
    cluster = Cluster(changed(cases.CLUSTER, cases.cloud("gce")))
    group = Group(changed(cases.GROUP, {"spec.gcpProvisioningModel": "x"}))
    assert names(cloudchecks.settings(cluster, group)) == {"gce-provisioning-model", "gce-zones"}


@pytest.mark.parametrize(("changes", "expected"), group_cases.RESOURCES, ids=str)
def test_machine_types_and_images_are_looked_up(changes: dict[str, Any], expected: set[str]) -> None:
    group = Group(changed(cases.GROUP, changes))
    assert names(cloudchecks.resources(Cluster(cases.CLUSTER), group, Facts(group_cases.FACTS))) == expected


def test_a_fact_that_is_missing_is_named() -> None:
    group = Group(changed(cases.GROUP, {"spec.machineType": "m5.large"}))
    found = list(cloudchecks.resources(Cluster(cases.CLUSTER), group, Facts()))
    assert [(finding.rule, str(finding.kind)) for finding in found] == [("fact-images", "Missing fact")]


@pytest.mark.parametrize(("changes", "expected"), group_cases.BUILDS, ids=str)
def test_what_a_cloud_cannot_be_built_from(changes: dict[str, Any], expected: set[str]) -> None:
    cluster = Cluster(changed(cases.CLUSTER, changes))
    assert names(cloud_build(cluster, group_cases.FACTS["aws"]["zones"])) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("before", "after", "expected"), group_cases.UPDATES, ids=str)
def test_what_a_running_cluster_may_not_become(
    before: dict[str, Any], after: dict[str, Any], expected: set[str]
) -> None:
    old, new = (Cluster(changed(cases.CLUSTER, changes)) for changes in (before, after))
    assert names(validate_update(old, new, created=frozenset({"main", "events"}))) == expected
    kept = {"etcd-removed", "cloud-label-reserved"}
    assert names(validate_update(old, new)) == expected & kept


def expectations() -> set[str]:
    """Every rule some case of this file expects."""
    expected: set[str] = {
        "group-image",
        "group-sizes-required",
        "group-volumes-aws",
        "gce-provisioning-model",
        "gce-zones",
        "fact-images",
    }
    for table in (
        CLUSTERS,
        cases.STRICT,
        group_cases.CONTROL_PLANES,
        group_cases.SETTINGS,
        group_cases.RESOURCES,
        group_cases.BUILDS,
    ):
        expected.update(*(rules for _, rules in table))
    expected.update(*(rules for _, rules, _ in group_cases.GROUPS))
    expected.update(*(rules for _, _, rules in group_cases.UPDATES))
    return expected


def test_every_rule_has_a_case() -> None:
    assert set(all_rules()) == expectations() | ELSEWHERE
