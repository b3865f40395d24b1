"""What does an instance group mean in its completed cluster?

Source: kops upup/pkg/fi/cloudup/populate_instancegroup_spec.go, pkg/nodelabels/builder.go.
"""

from __future__ import annotations

from typing import Any

from kopsfs.spec.inference import machines
from kopsfs.spec.inference.cluster import cloud, ipv6_only
from kopsfs.spec.inference.steps import KUBELET_LEAVES, inherit
from kopsfs.spec.rules import Draft, Rule

_SOURCE = "upup/pkg/fi/cloudup/populate_instancegroup_spec.go:PopulateInstanceGroupSpec"
_LABELS_SOURCE = "pkg/nodelabels/builder.go:BuildNodeLabels"
_KUBELET = "spec.kubelet"

_GATHERED = ("nodeLabels", "taints", "anonymousAuth")
_INHERITED = tuple(leaf for leaf in KUBELET_LEAVES if leaf.removesuffix("[*]") not in _GATHERED)

CONTROL_PLANE, API_SERVER, NODE, BASTION = "ControlPlane", "APIServer", "Node", "Bastion"
EXPERIMENTAL = ("Etcd", "Scheduler", "KubeControllerManager")
KARPENTER = "Karpenter"

LABEL_API_SERVER = "node-role.kubernetes.io/api-server"
LABEL_NODE = "node-role.kubernetes.io/node"
LABEL_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
LABELS_CONTROL_PLANE = (
    LABEL_CONTROL_PLANE,
    "kops.k8s.io/kops-controller-pki",
    "node.kubernetes.io/exclude-from-external-load-balancers",
)
TAINT_KARPENTER = "karpenter.sh/unregistered=:NoExecute"
TAINT_GPU = "nvidia.com/gpu:NoSchedule"


def role(draft: Draft) -> str:
    """What the group's machines are: `ControlPlane`, `Node` and so on."""
    return draft.text("spec.role")


def _cluster(draft: Draft) -> Draft:
    assert draft.cluster is not None, "an instance group is completed in its cluster"
    return draft.cluster


def _allowed(draft: Draft) -> None:
    """Some roles need a feature flag."""
    if role(draft) == API_SERVER and not draft.flag("APIServerNodes"):
        draft.fail("apiserver nodes requires the APIServerNodes feature flag to be enabled", field="spec.role")
    if role(draft) in EXPERIMENTAL and not draft.flag("ExperimentalRoles"):
        draft.fail(f"{role(draft)} nodes requires the ExperimentalRoles feature flag to be enabled", field="spec.role")


def _machine_type(draft: Draft) -> None:
    if not draft.text("spec.machineType"):
        draft.force("spec.machineType", machines.default_type(draft, _cluster(draft), role(draft)))


def _sizes(draft: Draft) -> None:
    single = role(draft) in {CONTROL_PLANE, BASTION}
    if single or draft.text("spec.manager") != KARPENTER:
        draft.default("spec.minSize", 1 if single else 2)
        draft.default("spec.maxSize", 1 if single else 2)


def _image(draft: Draft) -> None:
    if not draft.text("spec.image"):
        draft.force("spec.image", machines.default_image(draft, _cluster(draft)))


def _tenancy(draft: Draft) -> None:
    tenancy = draft.text("spec.tenancy")
    machine = draft.text("spec.machineType")
    if tenancy not in {"", "default"} and cloud(_cluster(draft)) == "aws" and machine in machines.NOT_DEDICATED:
        draft.fail(f"invalid dedicated instance type: {machine}", field="spec.machineType", value=machine)


def _subnets(draft: Draft) -> None:
    if draft.items("spec.subnets"):
        return
    name = draft.text("metadata.name")
    if role(draft) == CONTROL_PLANE:
        draft.fail(f"control-plane InstanceGroup {name} did not specify any Subnets", field="spec.subnets")
    offered = _cluster(draft).items("spec.networking.subnets")
    if role(draft) == API_SERVER and ipv6_only(_cluster(draft)):
        found = _without(offered, "Private", "Utility")
    else:
        found = _without(offered, "DualStack", "Utility") or _without(offered, "Utility")
    if not found:
        draft.fail(f"unable to infer any Subnets for InstanceGroup {name}", field="spec.subnets")
    draft.force("spec.subnets", found)


def _without(subnets: list[dict[str, Any]], *types: str) -> list[str]:
    return [subnet.get("name") or "" for subnet in subnets if subnet.get("type") not in types]


def _gpu(draft: Draft) -> None:
    """GPU nodes are marked, and kept free for what asks for a GPU."""
    whole = _cluster(draft).get("spec.containerd.nvidiaGPU.enabled") is True
    own = draft.get("spec.containerd.nvidiaGPU.enabled") is True
    provider = cloud(_cluster(draft))
    if not ((provider == "aws" and (whole or own) and machines.has_gpu(draft)) or (provider == "openstack" and own)):
        return
    draft.force("spec.nodeLabels[kops.k8s.io/gpu]", "1")
    taints = draft.items("spec.taints")
    if not any(taint.startswith("nvidia.com/gpu") for taint in taints):
        draft.force("spec.taints", [*taints, TAINT_GPU])


def _gvisor(draft: Draft) -> None:
    if role(draft) == NODE and draft.get("spec.containerd.gvisor.enabled") is True:
        draft.force("spec.nodeLabels[kops.k8s.io/gvisor]", "1")


def _manager(draft: Draft) -> None:
    draft.default("spec.manager", "CloudGroup")


def _source(draft: Draft) -> str:
    """Which of the cluster's kubelet settings are this group's."""
    return "spec.controlPlaneKubelet" if role(draft) == CONTROL_PLANE else "spec.kubelet"


def _kubelet(draft: Draft) -> None:
    """The cluster's settings below the group's own; what is gathered from several places has rules of its own."""
    draft.make(_KUBELET)
    settings = dict(_cluster(draft).get(_source(draft)) or {})
    for gathered in _GATHERED:
        settings.pop(gathered, None)
    inherit(draft, settings, f"cluster.{_source(draft)}", _KUBELET)


def _anonymous(draft: Draft) -> None:
    """Allowed for the whole cluster means forbidden here, as kops has it; forbidden for nodes is so for control planes."""
    field = f"{_KUBELET}.anonymousAuth"
    given = _cluster(draft).get(f"{_source(draft)}.anonymousAuth")
    if role(draft) == CONTROL_PLANE and _cluster(draft).get("spec.kubelet.anonymousAuth") is False:
        given = False
    inputs = ("spec.role", f"cluster.{_source(draft)}.anonymousAuth", "cluster.spec.kubelet.anonymousAuth")
    if given is True:
        draft.force(field, value=False, inputs=inputs)
    elif given is False:
        draft.default(field, value=False, inputs=inputs)


def _taints(draft: Draft) -> None:
    """Taints are gathered, not replaced."""
    own = draft.items(f"{_KUBELET}.taints")
    everywhere = {*own, *draft.items("spec.taints"), *_role_taints(draft)}
    for place in (f"{_source(draft)}.taints", "spec.kubelet.taints"):
        everywhere |= set(_cluster(draft).items(place))
        draft.note(f"cluster.{place}")
    if sorted(everywhere) != own:
        draft.force(f"{_KUBELET}.taints", sorted(everywhere))


def _role_taints(draft: Draft) -> list[str]:
    taints = {CONTROL_PLANE: [f"{LABEL_CONTROL_PLANE}=:NoSchedule"], API_SERVER: [f"{LABEL_API_SERVER}=:NoSchedule"]}
    karpenter = [TAINT_KARPENTER] if draft.text("spec.manager") == KARPENTER else []
    return [*taints.get(role(draft), []), *karpenter]


def _labels(draft: Draft) -> None:
    """Labels of the role, over the cluster's, below the group's."""
    if role(draft) not in {CONTROL_PLANE, API_SERVER, NODE, BASTION}:
        draft.fail(f"unhandled instanceGroup role {role(draft)!r}", field="spec.role")
    place = f"{_source(draft)}.nodeLabels"
    own = dict(draft.get(f"{_KUBELET}.nodeLabels") or {})
    given = [
        (f"cluster.{place}", _cluster(draft).get(place) or {}),
        (f"{_KUBELET}.nodeLabels", own),
        ("spec.role", _role_labels(draft)),
        ("spec.nodeLabels", draft.get("spec.nodeLabels") or {}),
        (f"{_KUBELET}.nodeLabels", own),
    ]
    labels = {key: (value, source) for source, some in given for key, value in some.items()}
    for key, (value, source) in labels.items():
        if own.get(key) != value:
            draft.force(f"{_KUBELET}.nodeLabels[{key}]", value, inputs=(source,))


def _role_labels(draft: Draft) -> dict[str, str]:
    labels: dict[str, str] = {}
    if role(draft) == API_SERVER or (role(draft) == CONTROL_PLANE and draft.flag("APIServerNodes")):
        labels[LABEL_API_SERVER] = ""
    if role(draft) == NODE:
        labels[LABEL_NODE] = ""
    if role(draft) == CONTROL_PLANE:
        labels.update(dict.fromkeys(LABELS_CONTROL_PLANE, ""))
    return labels


RULES = (
    Rule("group-role-allowed", (), _SOURCE, _allowed),
    Rule("group-machine-type", ("spec.machineType",), f"{_SOURCE.partition(':')[0]}:defaultMachineType", _machine_type),
    Rule("group-sizes", ("spec.minSize", "spec.maxSize"), _SOURCE, _sizes),
    Rule("group-image", ("spec.image",), "upup/pkg/fi/cloudup/new_cluster.go:defaultImage", _image),
    Rule("group-tenancy", (), _SOURCE, _tenancy),
    Rule("group-subnets", ("spec.subnets[*]",), _SOURCE, _subnets),
    Rule("group-gpu", ("spec.nodeLabels[*]", "spec.taints[*]"), _SOURCE, _gpu),
    Rule("group-gvisor", ("spec.nodeLabels[*]",), _SOURCE, _gvisor),
    Rule("group-manager", ("spec.manager",), _SOURCE, _manager),
    Rule("group-node-labels", (f"{_KUBELET}.nodeLabels[*]",), _LABELS_SOURCE, _labels),
    Rule("group-taints", (f"{_KUBELET}.taints[*]",), _SOURCE, _taints),
    Rule("group-anonymous-auth", (f"{_KUBELET}.anonymousAuth",), _SOURCE, _anonymous),
    Rule("group-kubelet", (_KUBELET, *(f"{_KUBELET}.{leaf}" for leaf in _INHERITED)), _SOURCE, _kubelet),
)
