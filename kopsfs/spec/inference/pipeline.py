"""In which order does kops fill a cluster in?

`complete` does what `kops create -f` and `kops update cluster` do to the documents of one cluster: assignments, which are stored
with the author's cluster, then the completion of the cluster and of its instance groups.

Source: kops cmd/kops/create.go, upup/pkg/fi/cloudup/apply_cluster.go, populate_cluster_spec.go:run.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kopsfs.spec.conversion import Object, apply_defaults, from_internal, to_internal
from kopsfs.spec.facts import Facts
from kopsfs.spec.inference import (
    apiserver,
    assignments,
    aws,
    awscloudcontrollermanager,
    awsebscsidriver,
    azurecloudcontrollermanager,
    calico,
    cilium,
    cloudconfiguration,
    clusterautoscaler,
    containerd,
    defaults,
    discovery,
    etcd,
    etcdmanager,
    gcpcloudcontrollermanager,
    gcppdcsidriver,
    hetznercloudcontrollermanager,
    instancegroup,
    karpenter,
    kindnet,
    kubecontrollermanager,
    kubedns,
    kubelet,
    kubeproxy,
    kubescheduler,
    linodecloudcontrollermanager,
    networking,
    nodeproblemdetector,
    nodeterminationhandler,
    openstack,
    steps,
)
from kopsfs.spec.rules import Draft, Origin, Rule, converge, merged

COMPONENTS: tuple[Rule, ...] = (
    *defaults.RULES,
    *etcd.RULES,
    *etcdmanager.RULES,
    *apiserver.RULES,
    *containerd.RULES,
    *networking.RULES,
    *kubedns.RULES,
    *kubelet.RULES,
    *kubecontrollermanager.RULES,
    *kubescheduler.RULES,
    *kubeproxy.RULES,
    *cloudconfiguration.RULES,
    *calico.RULES,
    *cilium.RULES,
    *kindnet.RULES,
    *openstack.RULES,
    *discovery.RULES,
    *clusterautoscaler.RULES,
    *nodeterminationhandler.RULES,
    *nodeproblemdetector.RULES,
    *aws.RULES,
    *awsebscsidriver.RULES,
    *awscloudcontrollermanager.RULES,
    *gcpcloudcontrollermanager.RULES,
    *gcppdcsidriver.RULES,
    *azurecloudcontrollermanager.RULES,
    *hetznercloudcontrollermanager.RULES,
    *linodecloudcontrollermanager.RULES,
    *karpenter.RULES,
)
"""The component builders in kops's order.  Source: populate_cluster_spec.go:run, codeModels."""

ASSIGNMENTS: tuple[Rule, ...] = assignments.RULES
GROUPS: tuple[Rule, ...] = instancegroup.RULES


def every_rule() -> tuple[Rule, ...]:
    """All rules of a completion in the order in which they run first; those of decoding are in `DECODING`."""
    return (
        *ASSIGNMENTS,
        steps.flatcar(()),
        *steps.DEPENDENT_RANGES,
        *steps.FILL_DEFAULTS,
        *steps.CHECKS,
        *steps.BEFORE_API,
        steps.api_access(()),
        *steps.AFTER_API,
        *steps.CONTROL_PLANE_KUBELET,
        *COMPONENTS,
        *GROUPS,
        *kubedns.PROVIDER,
    )


DECODING = {
    "decode-topology-dns": "pkg/apis/kops/v1alpha2/defaults.go:SetDefaults_ClusterSpec",
    "decode-authorization": "pkg/apis/kops/v1alpha2/defaults.go:SetDefaults_ClusterSpec",
    "decode-flannel-backend": "pkg/apis/kops/v1alpha2/defaults.go:SetDefaults_ClusterSpec",
    "decode-file-key-ref": "pkg/apis/kops/v1alpha2/zz_generated.defaults.go:SetObjectDefaults_Cluster",
}
"""Defaults of decoding, by name, with their source; they are applied in conversion.py."""


@dataclass(slots=True)
class Completed:
    """What inference made of the documents of one cluster.

    Attributes:
        cluster: the completed cluster, internal form.
        groups: the completed groups, in the given order.
        origins: of the cluster's leaves, by internal path; a leaf without an entry here or above it is the author's.
        group_origins: the same for every group, by name.
    """

    cluster: dict[str, Any]
    groups: list[dict[str, Any]]
    origins: dict[str, Origin]
    group_origins: dict[str, dict[str, Origin]] = field(default_factory=dict)
    rounds: int = 0


def assigned(cluster: Object, facts: Facts) -> Draft:
    """The author's cluster with what PerformAssignments adds, as kops stores it in `config`.

    Raises:
        RefusedError: a look-up fails, a fact is missing, or addresses run out.
    """
    draft = Draft(copy.deepcopy(cluster.data), "Cluster", facts)
    for path, default in cluster.defaulted.items():
        draft.origins[path] = Origin(default, DECODING[default])
    draft.run(assignments.RULES)
    return draft


def stored(draft: Draft) -> None:
    """What reading the stored cluster back makes of it: v1alpha2 does not keep everything."""
    old = from_internal(draft.data, "Cluster", "v1alpha2")
    for path, default in apply_defaults(old, "v1alpha2").items():
        draft.origins[path] = Origin(default, DECODING[default])
    draft.data = to_internal(old, "Cluster", "v1alpha2")


def populate_cluster(draft: Draft, groups: Sequence[dict[str, Any]]) -> int:
    """Complete a stored cluster in place; returns the rounds the component rules took.

    Source: upup/pkg/fi/cloudup/populate_cluster_spec.go:run, without its two calls of ValidateCluster.

    Raises:
        RefusedError: a step refuses, a fact is missing, or the rules do not converge.
    """
    topology = (draft.data["spec"].get("networking") or {}).get("topology")
    draft.data = merged({}, draft.data, "Cluster")
    draft.run(steps.DEPENDENT_RANGES)
    draft.run(steps.FILL_DEFAULTS)
    draft.run(assignments.RULES)
    draft.run(steps.CHECKS)
    draft.run(steps.BEFORE_API)
    draft.run((steps.api_access(groups),))
    draft.run(steps.AFTER_API)
    draft.run(steps.CONTROL_PLANE_KUBELET)
    rounds = converge(draft, COMPONENTS)
    networks = draft.data["spec"].setdefault("networking", {})
    networks.pop("topology", None)
    if topology is not None:
        networks["topology"] = copy.deepcopy(topology)
    return rounds


def populate_group(group: dict[str, Any], cluster: Draft, facts: Facts) -> Draft:
    """Complete one instance group of a completed cluster.

    Source: upup/pkg/fi/cloudup/populate_instancegroup_spec.go:PopulateInstanceGroupSpec, without ValidateInstanceGroup.

    Raises:
        RefusedError: a step refuses, or a fact is missing.
    """
    draft = Draft(merged({}, group, "InstanceGroup"), "InstanceGroup", facts, cluster=cluster)
    draft.run(instancegroup.RULES)
    return draft


def finish(draft: Draft, groups: Sequence[Object], facts: Facts) -> Completed:
    """Complete a stored cluster and its groups, as `kops update cluster` does before it builds anything.

    Raises:
        RefusedError: as the steps.
    """
    plain = [group.data for group in groups]
    draft.run((steps.flatcar([str(group.get("spec", {}).get("image") or "") for group in plain]),))
    rounds = populate_cluster(draft, plain)
    finished = [populate_group(group, draft, facts) for group in plain]
    draft.run(kubedns.PROVIDER)
    origins = {group.name: done.origins for group, done in zip(groups, finished, strict=True)}
    return Completed(draft.data, [done.data for done in finished], draft.origins, origins, rounds)


def complete(cluster: Object, groups: Sequence[Object], facts: Facts) -> Completed:
    """The completed cluster and groups, without any validation.

    Raises:
        RefusedError: as the steps.
    """
    draft = assigned(cluster, facts)
    stored(draft)
    return finish(draft, groups, facts)
