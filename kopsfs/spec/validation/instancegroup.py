"""Would kops take this instance group, alone and in its cluster?

`validate_group` is kops's ValidateInstanceGroup, `cross_validate` its CrossValidateInstanceGroup, which includes the
former. Fields are named from `spec` on; which group is meant, the caller says.

Source: kops pkg/apis/kops/validation/instancegroup.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, duplicate, forbidden, invalid, not_found, required
from kopsfs.spec.validation.containerd import containerd
from kopsfs.spec.validation.groupcloud import cloud_labels, external_load_balancer, group_warm_pool, instance_profile
from kopsfs.spec.validation.karpenter import karpenter_group
from kopsfs.spec.validation.node import file_asset, hook, rolling_update, sysctls, update_policy
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.view import (
    API_SERVER,
    CONTROL_PLANE,
    NODE,
    ROLES,
    SPEC,
    Cluster,
    Group,
    fields,
    flag,
    get,
    items,
    number,
    text,
)  # fmt: skip

CloudChecks = Callable[[Group], Iterator[Finding]]
"""What asks the cloud about a group: `cloudchecks.checks_of`."""

TENANCIES = ("default", "dedicated", "host")
FILESYSTEMS = ("btfs", "ext4", "xfs")
USER_DATA_TYPES = (
    "text/x-include-once-url", "text/x-include-url", "text/cloud-config-archive", "text/upstart-job", "text/cloud-config",
    "text/part-handler", "text/x-shellscript", "text/cloud-boothook",
)  # fmt: skip
USER_DATA = Path("additionalUserData")


def validate_group(group: Group, *, strict: bool, cloud_checks: CloudChecks | None = None) -> Iterator[Finding]:
    """All findings of a group without its cluster."""
    spec = group.spec
    yield from group_name(group)
    yield from group_role(group)
    yield from group_sizes(group, strict=strict)
    yield from group_basics(group, strict=strict)
    for index, entry in enumerate(items(spec, "hooks")):
        yield from hook(entry, SPEC.child("hooks").index(index))
    for index, entry in enumerate(items(spec, "fileAssets")):
        yield from file_asset(entry, SPEC.child("fileAssets").index(index))
    for entry in items(spec, "additionalUserData"):
        yield from user_data(entry)
    yield from volumes(spec)
    yield from instance_profile(spec)
    yield from sysctls(spec)
    if get(spec, "rollingUpdate") is not None:
        control_plane = group.role == CONTROL_PLANE
        yield from rolling_update(spec["rollingUpdate"], SPEC.child("rollingUpdate"), control_plane=control_plane)
    yield from node_labels(spec)
    yield from cloud_labels(fields(spec, "cloudLabels"), group.name)
    if cloud_checks is not None:
        yield from cloud_checks(group)
    for index, entry in enumerate(items(spec, "externalLoadBalancers")):
        yield from external_load_balancer(entry, SPEC.child("externalLoadBalancers").index(index))
    yield from update_policy(spec)
    yield from taints(spec)


def cross_validate(cluster: Cluster, group: Group, *, cloud_checks: CloudChecks | None = None) -> Iterator[Finding]:
    """All findings of a group in its cluster, as strict as the cluster is judged."""
    yield from validate_group(group, strict=cluster.strict, cloud_checks=cloud_checks)
    if group.role == CONTROL_PLANE:
        yield from group_in_etcd(cluster, group)
    if group.role == API_SERVER:
        yield from api_server_group(cluster)
    yield from group_subnets(cluster, group)
    if cluster.cloud == "aws":
        yield from root_volume_type(group)
        yield from group_warm_pool(cluster, group)
    yield from karpenter_group(cluster, group)
    if get(group.spec, "containerd") is not None:
        yield from containerd(cluster, group.spec["containerd"], SPEC.child("containerd"), in_cluster=False)


@rules("instancegroup.go:ValidateInstanceGroup", "group-name")
def group_name(group: Group) -> Iterator[Finding]:
    if not group.name:
        yield required(Path("objectMeta", "name"), "an instance group needs a name")


@rules("instancegroup.go:ValidateInstanceGroup", "group-role-required", "group-role", "control-plane-subnets")
def group_role(group: Group) -> Iterator[Finding]:
    path = SPEC.child("role")
    if not group.role:
        yield required(path, f"one of {', '.join(ROLES)}", rule="group-role-required")
    elif group.role not in ROLES[:4]:
        yield from one_of(path, group.role, ROLES[:4], "group-role")
    if group.role == CONTROL_PLANE and not items(group.spec, "subnets"):
        yield required(SPEC.child("subnets"), "a control plane names its subnets", rule="control-plane-subnets")


@rules(
    "instancegroup.go:ValidateInstanceGroup",
    "control-plane-size",
    "group-sizes-required",
    "group-sizes-order",
)
def group_sizes(group: Group, *, strict: bool) -> Iterator[Finding]:
    sizes = {name: number(group.spec, name) for name in ("minSize", "maxSize")}
    for name, size in sizes.items():
        if group.role == CONTROL_PLANE and (size or 0) > 1:
            detail = "a control plane has one node per group; add groups instead"
            yield invalid(SPEC.child(name), size, detail, rule="control-plane-size")
        if strict and size is None and text(group.spec, "manager") == "CloudGroup":
            yield forbidden(SPEC.child(name), "a completed group has it", rule="group-sizes-required")
    low, high = sizes.values()
    if low is not None and high is not None and high < low:
        yield forbidden(SPEC.child("maxSize"), f"{high} is less than minSize {low}", rule="group-sizes-order")


@rules(
    "instancegroup.go:ValidateInstanceGroup",
    "group-tenancy",
    "group-gvisor",
    "group-image",
    "root-volume-iops",
    "root-volume-throughput",
)
def group_basics(group: Group, *, strict: bool) -> Iterator[Finding]:
    spec = group.spec
    if text(spec, "tenancy"):
        yield from one_of(SPEC.child("tenancy"), text(spec, "tenancy"), TENANCIES, "group-tenancy")
    if flag(spec, "containerd", "gvisor", "enabled") and group.role != NODE:
        yield forbidden(SPEC.child("containerd", "gvisor"), "gVisor is for role Node only", rule="group-gvisor")
    if strict and not text(spec, "image"):
        yield forbidden(SPEC.child("image"), "a completed group has it", rule="group-image")
    for name in ("iops", "throughput"):
        value = number(spec, "rootVolume", name) or 0
        if value < 0:
            yield invalid(SPEC.child("rootVolume", name), value, "must not be negative", rule=f"root-volume-{name}")


@rules("instancegroup.go:validateExtraUserData", "user-data-name", "user-data-content", "user-data-type")
def user_data(entry: dict[str, Any]) -> Iterator[Finding]:
    """A part of the user data; kops's path does not say which one."""
    if not text(entry, "name"):
        yield required(USER_DATA.child("name"), "the part's name", rule="user-data-name")
    if not text(entry, "content"):
        yield required(USER_DATA.child("content"), "what the part holds", rule="user-data-content")
    yield from one_of(USER_DATA.child("type"), text(entry, "type"), USER_DATA_TYPES, "user-data-type")


@rules(
    "instancegroup.go:validateVolumeSpec",
    "volume-device",
    "volume-size",
    "volume-mount-field",
    "volume-mount-filesystem",
)
def volumes(spec: dict[str, Any]) -> Iterator[Finding]:
    """Volumes and where they are mounted. (kops means to refuse a device named twice, and never does.)"""
    for index, volume in enumerate(items(spec, "volumes")):
        where = SPEC.child("volumes").index(index)
        if not text(volume, "device"):
            yield required(where.child("device"), "the name of its device", rule="volume-device")
        if (number(volume, "size") or 0) <= 0:
            yield invalid(where.child("size"), number(volume, "size") or 0, "has to be positive", rule="volume-size")
    for index, mount in enumerate(items(spec, "volumeMounts")):
        where = SPEC.child("volumeMounts").index(index)
        for name in ("device", "filesystem", "path"):
            if not text(mount, name):
                yield required(where.child(name), f"a mount has a {name}", rule="volume-mount-field")
        yield from one_of(where.child("filesystem"), text(mount, "filesystem"), FILESYSTEMS, "volume-mount-filesystem")


@rules("instancegroup.go:validateNodeLabels", "node-label")
def node_labels(spec: dict[str, Any]) -> Iterator[Finding]:
    for label in sorted(fields(spec, "nodeLabels")):
        if label.count("/") > 1:
            yield invalid(SPEC.child("nodeLabels"), label, "a label has at most one slash")


@rules("instancegroup.go:ValidateInstanceGroup", "taint", "taint-twice")
def taints(spec: dict[str, Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, taint in enumerate(items(spec, "taints")):
        where = SPEC.child("taints").index(index)
        pair, colon, effect = taint.partition(":")
        if ":" in effect or (colon and pair.count("=") > 1):
            yield invalid(where, taint, "expected KEY=VALUE:EFFECT", rule="taint")
        if taint in seen:
            yield duplicate(where, taint, rule="taint-twice")
        seen.add(taint)


# --- in its cluster ---------------------------------------------------------------------------------------------------


@rules("instancegroup.go:ValidateControlPlaneInstanceGroup", "control-plane-in-etcd")
def group_in_etcd(cluster: Cluster, group: Group) -> Iterator[Finding]:
    for etcd in items(cluster.spec, "etcdClusters"):
        groups = [text(member, "instanceGroup") for member in items(etcd, "etcdMembers")]
        if group.name not in groups:
            detail = f"etcd cluster {text(etcd, 'name')} has no member on {group.name}, only on {', '.join(groups)}"
            yield forbidden(SPEC.child("metadata", "name"), detail)


@rules("instancegroup.go:CrossValidateInstanceGroup", "api-server-dns", "api-server-cloud")
def api_server_group(cluster: Cluster) -> Iterator[Finding]:
    path = SPEC.child("role")
    if cluster.cloud == "aws" and cluster.without_dns:
        yield forbidden(path, "APIServer needs topology.dns other than None on AWS", rule="api-server-dns")
    elif cluster.cloud not in {"aws", "gce"}:
        yield forbidden(path, "APIServer is for AWS and GCE only", rule="api-server-cloud")


@rules("instancegroup.go:CrossValidateInstanceGroup", "group-subnet")
def group_subnets(cluster: Cluster, group: Group) -> Iterator[Finding]:
    known = {text(subnet, "name") for subnet in cluster.subnets}
    for index, name in enumerate(items(group.spec, "subnets")):
        if name not in known:
            # kops names the cluster's list here, with the group's index
            path = SPEC.child("networking", "subnets").index(index)
            yield not_found(path, name, f"instance group {group.name} names a subnet the cluster does not have")


@rules("instancegroup.go:CrossValidateInstanceGroup", "root-volume-type")
def root_volume_type(group: Group) -> Iterator[Finding]:
    kind = get(group.spec, "rootVolume", "type")
    if kind is not None:
        words = ("standard", "gp3", "gp2", "io1", "io2")
        yield from one_of(SPEC.child("rootVolume", "type"), kind, words, "root-volume-type")


@rules("legacy.go:DeepValidate", "group-volumes-aws")
def group_volumes(cluster: Cluster, group: Group) -> Iterator[Finding]:
    """Looked at only when the whole cluster is."""
    if cluster.cloud != "aws" and items(group.spec, "volumes"):
        yield forbidden(SPEC.child("volumes"), "is for AWS only")
