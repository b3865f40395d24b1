"""Does the cloud have what an instance group asks for, and does it suit?

kops makes these checks only with a cloud at hand. Some need no answer from it (`settings`); the others (`resources`) take
machine types and images from the facts: what a list there does not hold does not exist, except images named by id, which
are taken to exist, of the common architecture.

Source: kops pkg/apis/kops/validation/aws.go:awsValidateInstanceGroup, gce.go:gceValidateInstanceGroup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kopsfs.spec.facts import Facts, missing
from kopsfs.spec.field import Finding, Key, Path, forbidden, invalid, required
from kopsfs.spec.validation.aws import security_groups
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.values import duration_ns
from kopsfs.spec.validation.view import SPEC, Cluster, Group, fields, get, items, number, text

SPOT_MINUTES = ("60", "120", "180", "240", "300", "360")
INTERRUPTIONS = ("hibernate", "stop", "terminate")
SPOT_STRATEGIES = (
    "lowest-price", "diversified", "capacity-optimized", "capacity-optimized-prioritized", "price-capacity-optimized",
)  # fmt: skip
LIFETIME_NS_MIN = 86400 * 10**9
COMMON_ARCHITECTURE = "amd64"
ARCHITECTURES = {"x86_64": "amd64", "i386": "386", "arm64": "arm64"}
"""EC2's names and those of facts files."""


def settings(cluster: Cluster, group: Group) -> Iterator[Finding]:
    """What can be said without asking the cloud anything."""
    if cluster.cloud == "aws":
        yield from security_groups(
            items(group.spec, "additionalSecurityGroups"), SPEC.child("additionalSecurityGroups")
        )
        yield from spot_settings(group)
        yield from instance_settings(group)
        yield from mixed_sizes(group)
    elif cluster.cloud == "gce":
        yield from gce_group(group)


def resources(cluster: Cluster, group: Group, facts: Facts) -> Iterator[Finding]:
    """What has to be asked: machine types and images."""
    if cluster.cloud != "aws":
        return
    types = text(group.spec, "machineType")
    if types:
        yield from machine_and_image(group, facts, types, _of_group(group, "machineType"), _of_group(group, "image"))
    yield from mixed_types(group, facts)


def _of_group(group: Group, name: str) -> Path:
    """Kops puts the group's name in front of some paths."""
    return Path(group.name or Key(""), "spec", name)


@rules("gce.go:gceValidateInstanceGroup", "gce-provisioning-model", "gce-zones")
def gce_group(group: Group) -> Iterator[Finding]:
    model = get(group.spec, "gcpProvisioningModel")
    if model is not None:
        words = ("STANDARD", "SPOT")
        yield from one_of(SPEC.child("gcpProvisioningModel"), model, words, "gce-provisioning-model")
    if not items(group.spec, "zones"):
        yield required(SPEC.child("zones"), "on GCE a group names its zones", rule="gce-zones")


@rules("aws.go:awsValidateInstanceGroup", "spot-duration", "spot-interruption", "instance-lifetime", "cpu-credits")
def spot_settings(group: Group) -> Iterator[Finding]:
    spec = group.spec
    minutes = number(spec, "spotDurationInMinutes")
    if minutes is not None:
        yield from one_of(_of_group(group, "spotDurationInMinutes"), str(minutes), SPOT_MINUTES, "spot-duration")
    behavior = get(spec, "instanceInterruptionBehavior")
    if behavior is not None:
        where = _of_group(group, "instanceInterruptionBehavior")
        yield from one_of(where, behavior, INTERRUPTIONS, "spot-interruption")
    credits_ = get(spec, "cpuCredits")
    if credits_ is not None:
        yield from one_of(SPEC.child("cpuCredits"), credits_, ("standard", "unlimited"), "cpu-credits")
    lifetime = get(spec, "maxInstanceLifetime")
    if lifetime is not None:
        ns = duration_ns(lifetime) or 0
        seconds = abs(ns) // 10**9
        if seconds and ns < LIFETIME_NS_MIN:
            where = _of_group(group, "maxInstanceLifetime")
            yield invalid(where, lifetime, "at least 24h, or 0", rule="instance-lifetime")


@rules("aws.go:awsValidateInstanceMetadata", "metadata-tokens", "metadata-hops")
def instance_settings(group: Group) -> Iterator[Finding]:
    path = SPEC.child("instanceMetadata")
    tokens = get(group.spec, "instanceMetadata", "httpTokens")
    if tokens is not None:
        yield from one_of(path.child("httpTokens"), tokens, ("optional", "required"), "metadata-tokens")
    hops = number(group.spec, "instanceMetadata", "httpPutResponseHopLimit")
    if hops is not None and not 1 <= hops <= 64:
        yield invalid(path.child("httpPutResponseHopLimit"), hops, "expected 1 to 64", rule="metadata-hops")


@rules(
    "aws.go:awsValidateMixedInstancesPolicy",
    "on-demand-base-negative",
    "on-demand-base-max",
    "on-demand-above-negative",
    "on-demand-above-percent",
    "spot-strategy",
)
def mixed_sizes(group: Group) -> Iterator[Finding]:
    policy = fields(group.spec, "mixedInstancesPolicy")
    path = SPEC.child("mixedInstancesPolicy")
    base, above = number(policy, "onDemandBase"), number(policy, "onDemandAboveBase")
    most = number(group.spec, "maxSize") or 0
    if base is not None and base < 0:
        yield invalid(path.child("onDemandBase"), base, "must not be negative", rule="on-demand-base-negative")
    if base is not None and base > most:
        yield invalid(path.child("onDemandBase"), base, f"more than maxSize {most}", rule="on-demand-base-max")
    if above is not None and above < 0:
        yield invalid(path.child("onDemandAboveBase"), above, "must not be negative", rule="on-demand-above-negative")
    if above is not None and above > 100:
        yield invalid(path.child("onDemandAboveBase"), above, "a percentage", rule="on-demand-above-percent")
    strategy = get(policy, "spotAllocationStrategy")
    if strategy is not None:
        yield from one_of(path.child("spotAllocationStrategy"), strategy, SPOT_STRATEGIES, "spot-strategy")


# --- what the facts say -----------------------------------------------------------------------------------------------


def _architectures(facts: Facts, machine_type: str) -> list[str] | None:
    """What a machine type can run, None when there is no such type."""
    if machine_type in (facts.get("aws", "invalid_instance_types") or ()):
        return None
    known = (facts.get("aws", "instance_type_architectures") or {}).get(machine_type)
    return [ARCHITECTURES.get(name, name) for name in known or ()]


def _image_architecture(facts: Facts, image: str) -> str | None:
    """The architecture of an image, None when there is no such image."""
    if image.startswith("ssm:"):
        return COMMON_ARCHITECTURE
    name = image.partition("/")[2] or image
    for known in facts.get("aws", "images") or ():
        if known.get("id") == image or known.get("name") == name:
            architecture = str(known.get("architecture") or COMMON_ARCHITECTURE)
            return ARCHITECTURES.get(architecture, architecture)
    return COMMON_ARCHITECTURE if image.startswith("ami-") else None


@rules("aws.go:awsValidateInstanceTypeAndImage", "image", "machine-type", "machine-type-architecture", "fact-images")
def machine_and_image(group: Group, facts: Facts, types: str, type_path: Path, image_path: Path) -> Iterator[Finding]:
    """Every machine type of the list runs the group's image."""
    for name in ("images", "instance_type_architectures"):
        if facts.get("aws", name) is None:
            fact = missing("aws", name, why="for checks that ask the cloud")
            yield replace(fact, rule="fact-images")
            return
    image = text(group.spec, "image")
    runs = _image_architecture(facts, image)
    if runs is None:
        yield invalid(image_path, image, "there is no such image", rule="image")
        return
    for machine_type in types.split(","):
        known = _architectures(facts, machine_type)
        if known is None:
            yield invalid(type_path, types, f"there is no machine type {machine_type}", rule="machine-type")
        elif runs not in known:
            detail = f"{machine_type} runs {', '.join(known) or 'nothing known'}, the image is {runs}"
            yield invalid(type_path, types, detail, rule="machine-type-architecture")


@rules("aws.go:awsValidateMixedInstancesPolicy", "mixed-machine-type", "mixed-gpu")
def mixed_types(group: Group, facts: Facts) -> Iterator[Finding]:
    """The machine types of a mixed group exist, suit its image, and have GPUs all or none."""
    if get(group.spec, "mixedInstancesPolicy") is None or facts.get("aws", "instance_type_architectures") is None:
        return
    path = SPEC.child("mixedInstancesPolicy")
    main = text(group.spec, "machineType")
    type_path, no_type = SPEC.child("machineType"), "there is no such machine type"
    with_gpu = facts.get("aws", "instance_types_with_gpu") or ()
    if _architectures(facts, main) is None:
        yield invalid(type_path, main, no_type, rule="mixed-machine-type")
        return
    for index, types in enumerate(items(group.spec, "mixedInstancesPolicy", "instances")):
        where = path.child("instances").index(index)
        if types:
            yield from machine_and_image(group, facts, types, where, path.child("image"))
        for machine_type in types.split(","):
            if _architectures(facts, machine_type) is None:
                # kops reports the group's own type here
                yield invalid(type_path, main, no_type, rule="mixed-machine-type")
                return
            if (machine_type in with_gpu) != (main in with_gpu):
                yield forbidden(where, "machine types with and without GPU do not mix", rule="mixed-gpu")
