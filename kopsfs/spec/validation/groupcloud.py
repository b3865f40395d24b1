"""What an instance group says about the cloud: labels, profiles, load balancers, warm pools.

Source: kops pkg/apis/kops/validation/instancegroup.go, cluster.go:validateCloudLabels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Kind, Path, forbidden, invalid
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.values import arn_resource
from kopsfs.spec.validation.view import API_SERVER, BASTION, CONTROL_PLANE, NODE, SPEC, Cluster, Group, get, number

GROUP_TAG = "kops.k8s.io/instancegroup"
RESERVED_LABELS = ("Name", "KubernetesCluster")
RESERVED_PREFIXES = ("kubernetes.io/cluster/", "k8s.io/role/", "kops.k8s.io/")
NAME_MAX = 32
"""Characters AWS allows in the name of a load balancer or target group."""


@rules("cluster.go:validateCloudLabels", "cloud-label-reserved", "cloud-label-prefix", "cloud-label-group")
def cloud_labels(labels: dict[str, Any], group: str | None = None) -> Iterator[Finding]:
    """Labels for the cloud's own objects; `group` is the instance group whose labels they are."""
    path = SPEC.child("cloudLabels")
    for name, value in sorted(labels.items()):
        if group is not None and name == GROUP_TAG:
            if value != group:
                yield invalid(
                    path.child(GROUP_TAG), name, f"has to be the group's name, {group}", rule="cloud-label-group"
                )
        elif name in RESERVED_LABELS:
            yield forbidden(path.child(name), "is kops's own label", rule="cloud-label-reserved")
        elif prefix := next((prefix for prefix in RESERVED_PREFIXES if name.startswith(prefix)), ""):
            yield forbidden(path.child(name), f"labels with {prefix} are kops's own", rule="cloud-label-prefix")


@rules("instancegroup.go:validateInstanceProfile", "instance-profile")
def instance_profile(spec: dict[str, Any]) -> Iterator[Finding]:
    profile = get(spec, "iam", "profile")
    if profile is not None and not (arn_resource(profile) or "").startswith("instance-profile/"):
        detail = "expected the ARN of a profile, arn:aws:iam::123456789012:instance-profile/NAME"
        yield invalid(SPEC.child("iam", "profile"), profile, detail)


@rules(
    "instancegroup.go:validateExternalLoadBalancer",
    "external-lb-both",
    "external-lb-name",
    "target-group-arn",
    "target-group-kind",
    "target-group-name",
)
def external_load_balancer(entry: dict[str, Any], path: Path) -> Iterator[Finding]:
    name, arn = get(entry, "loadBalancerName"), get(entry, "targetGroupARN")
    if name is not None and arn is not None:
        yield Finding(Kind.TOO_MANY, str(path), "either loadBalancerName or targetGroupARN", rule="external-lb-both")
    if name is not None and len(name.encode()) > NAME_MAX:
        where = path.child("loadBalancerName")
        yield invalid(where, name, f"has at most {NAME_MAX} characters", rule="external-lb-name")
    if arn is None:
        return
    where = path.child("targetGroupARN")
    parts = (arn_resource(arn) or "").split("/")
    if len(parts) != 3:
        detail = "expected arn:…:targetgroup/NAME/ID"
        yield invalid(where, arn, detail, rule="target-group-arn")
        return
    if parts[0] != "targetgroup":
        yield invalid(where, parts[0], "is not a target group", rule="target-group-kind")
    if len(parts[1].encode()) > NAME_MAX:
        yield invalid(where, parts[1], f"has at most {NAME_MAX} characters", rule="target-group-name")


def _resolved(cluster: Cluster, group: Group) -> tuple[int, int | None]:
    """Give minSize and maxSize of the group's warm pool, the cluster's where the group says nothing.

    Source: kops pkg/apis/kops/cluster.go:WarmPoolSpec.ResolveDefaults.
    """
    clusters, mine = get(cluster.provider("aws"), "warmPool"), get(group.spec, "warmPool")
    inherits = clusters is not None and group.role not in {CONTROL_PLANE, BASTION}
    if mine is None:
        if not inherits:
            return 0, 0
        return number(clusters, "minSize") or 0, number(clusters, "maxSize")
    low, high = number(mine, "minSize") or 0, number(mine, "maxSize")
    if inherits:
        low = low or number(clusters, "minSize") or 0
        high = number(clusters, "maxSize") if high is None else high
    return low, high


@rules(
    "instancegroup.go:CrossValidateInstanceGroup",
    "group-warm-pool-role",
    "group-warm-pool-spot",
    "group-warm-pool-max-negative",
    "group-warm-pool-max-less",
    "group-warm-pool-min-negative",
)
def group_warm_pool(cluster: Cluster, group: Group) -> Iterator[Finding]:
    path = SPEC.child("warmPool")
    low, high = _resolved(cluster, group)
    if high != 0:
        if group.role not in {NODE, API_SERVER}:
            yield forbidden(path, "warm pools are for roles Node and APIServer", rule="group-warm-pool-role")
        if get(group.spec, "maxPrice") is not None:
            yield forbidden(path, "spot instances have no warm pool", rule="group-warm-pool-spot")
    if high is not None and high < 0:
        yield invalid(path.child("maxSize"), high, "must not be negative", rule="group-warm-pool-max-negative")
    elif high is not None and low > high:
        yield invalid(path.child("maxSize"), high, f"less than minSize {low}", rule="group-warm-pool-max-less")
    if low < 0:
        yield invalid(path.child("minSize"), low, "must not be negative", rule="group-warm-pool-min-negative")
