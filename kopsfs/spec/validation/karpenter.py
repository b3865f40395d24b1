"""Can Karpenter run this instance group?

Source: kops pkg/apis/kops/validation/instancegroup.go:validateKarpenterInstanceGroup and the functions it names.
"""

from __future__ import annotations

from collections.abc import Iterator

from kopsfs.spec.field import Finding, forbidden, invalid
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.view import NODE, SPEC, Cluster, Group, number, text

STATIC_CAPACITY = "StaticCapacity"


def karpenter_group(cluster: Cluster, group: Group) -> Iterator[Finding]:
    """Nothing where a cloud's own group manages the nodes."""
    if text(group.spec, "manager") != "Karpenter":
        return
    yield from karpenter_basics(cluster, group)
    yield from karpenter_image(group)
    yield from karpenter_capacity(cluster, group)


@rules("instancegroup.go:validateKarpenterInstanceGroup", "karpenter-cloud", "karpenter-role", "karpenter-max")
def karpenter_basics(cluster: Cluster, group: Group) -> Iterator[Finding]:
    if cluster.cloud != "aws":
        yield forbidden(SPEC.child("manager"), "Karpenter is for AWS only", rule="karpenter-cloud")
    if group.role != NODE:
        yield forbidden(SPEC.child("role"), "Karpenter runs groups of role Node", rule="karpenter-role")
    high = number(group.spec, "maxSize")
    if high is not None and high <= 0:
        yield invalid(SPEC.child("maxSize"), high, "has to be positive", rule="karpenter-max")


@rules("instancegroup.go:validateKarpenterAMISelectorImage", "karpenter-image", "karpenter-image-parameter")
def karpenter_image(group: Group) -> Iterator[Finding]:
    image = text(group.spec, "image").strip()
    path = SPEC.child("image")
    owner, slash, name = image.partition("/")
    if image == "ssm:":
        yield invalid(path, image, "ssm: needs a parameter", rule="karpenter-image-parameter")
    elif "://" in image or (slash and not image.startswith(("ami-", "ssm:")) and not (owner and name)):
        yield invalid(path, image, "expected ami-…, ssm:PARAMETER, NAME or OWNER/NAME", rule="karpenter-image")


@rules("instancegroup.go:validateKarpenterStaticCapacity", "karpenter-min", "karpenter-static-capacity")
def karpenter_capacity(cluster: Cluster, group: Group) -> Iterator[Finding]:
    low = number(group.spec, "minSize")
    path = SPEC.child("minSize")
    if low is None:
        return
    if low <= 0:
        yield invalid(
            path, low, "has to be positive; leave it out for a group that grows from nothing", rule="karpenter-min"
        )
    elif not _static_capacity(text(cluster.spec, "karpenter", "featureGates")):
        detail = f"a fixed capacity needs {STATIC_CAPACITY}=true in spec.karpenter.featureGates"
        yield forbidden(path, detail, rule="karpenter-static-capacity")


def _static_capacity(gates: str) -> bool:
    """Is it on? The last one of a list counts, an empty list is kops's own with the gate on."""
    enabled = not gates
    for gate in gates.split(","):
        name, equals, value = gate.partition("=")
        if equals and name.strip() == STATIC_CAPACITY:
            enabled = value.strip().lower() == "true"
    return enabled
