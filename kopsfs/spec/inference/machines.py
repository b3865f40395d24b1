"""Which machine type and image does a group get when it names none?

Source: kops upup/pkg/fi/cloudup/populate_instancegroup_spec.go:defaultMachineType, new_cluster.go:defaultImage and
MachineArchitecture, awsup/aws_cloud.go:DefaultInstanceType, openstack/utils.go:defaultInstanceType.
"""

from __future__ import annotations

from typing import Any

from kopsfs.spec.inference.assignments import load_channel
from kopsfs.spec.inference.cluster import KUBERNETES_VERSION, cloud
from kopsfs.spec.rules import Draft
from kopsfs.spec.validation.view import SPELLED

_CONTROL_PLANES = ("ControlPlane", "APIServer", "Etcd", "Scheduler", "KubeControllerManager")

TYPES: dict[str, dict[str, str]] = {
    "gce": {"ControlPlane": "e2-medium", "Node": "e2-medium", "Bastion": "e2-micro"},
    "do": {"ControlPlane": "s-2vcpu-4gb-amd", "Node": "s-2vcpu-4gb-amd"},
    "hetzner": {"ControlPlane": "cx23", "Node": "cx23", "Bastion": "cx23"},
    "azure": {"ControlPlane": "Standard_B2s", "Node": "Standard_B2s", "Bastion": "Standard_B2s"},
    "scaleway": {"ControlPlane": "DEV1-M", "Node": "DEV1-M"},
    "linode": {"ControlPlane": "g6-standard-2", "Node": "g6-standard-2", "Bastion": "g6-standard-1"},
}
"""By cloud and role; a role that is not listed gets none."""

AWS_CANDIDATES = ("t3.medium", "c5.large", "c4.large", "t4g.medium")
AWS_BASTION_CANDIDATES = ("t3.micro", "t2.micro", "t4g.micro")

NOT_DEDICATED = frozenset(f"t2.{size}" for size in ("nano", "micro", "small", "medium", "large", "xlarge"))
"""Machine types AWS does not offer on dedicated hardware."""

IMAGES = {
    "do": "ubuntu-24-04-x64",
    "hetzner": "ubuntu-24.04",
    "scaleway": "ubuntu_noble",
    "linode": "linode/ubuntu24.04",
    "metal": "dummy-metal-image",
}


def default_type(group: Draft, cluster: Draft, role: str) -> str:
    """The machine type of a group without one; "" where kops leaves it empty."""
    provider = cloud(cluster)
    if provider == "aws":
        return "" if group.text("spec.manager") == "Karpenter" else _aws_type(group, cluster, role)
    if provider == "openstack":
        return _flavor(group, role)
    return TYPES.get(provider, {}).get(role, "")


def _aws_type(group: Draft, cluster: Draft, role: str) -> str:
    """What the facts say outright, else the first candidate of the image's architecture that all zones offer."""
    known = group.facts.get("aws", "default_machine_types")
    asked = "ControlPlane" if role in _CONTROL_PLANES and role not in (known or {}) else role
    if known and known.get(asked):
        group.fact("aws", "default_machine_types")
        return str(known[asked])
    offered = group.fact("aws", "instance_type_zones", why="a default machine type", field="spec.machineType")
    zones = _zones(group, cluster)
    arm = _image_is_arm(group)
    candidates = AWS_BASTION_CANDIDATES if role == "Bastion" else AWS_CANDIDATES
    suitable = [name for name in candidates if name.startswith("t4g") == arm and zones <= set(offered.get(name) or ())]
    if suitable:
        return suitable[0]
    return group.fail(
        f"could not find a suitable machine type offered in {', '.join(sorted(zones))}", field="spec.machineType"
    )


def _zones(group: Draft, cluster: Draft) -> set[str]:
    """Source: pkg/apis/kops/model/utils.go:FindZonesForInstanceGroup."""
    zones = set(group.items("spec.zones"))
    subnets = {subnet.get("name"): subnet for subnet in cluster.items("spec.networking.subnets")}
    for number, name in enumerate(group.items("spec.subnets")):
        if name not in subnets:
            group.fail(f"cannot find subnet {name!r}", field=f"spec.subnets[{number}]", value=name)
        zones |= {subnets[name].get("zone") or ""} - {""}
    return zones


def _image_is_arm(group: Draft) -> bool:
    wanted = group.text("spec.image")
    images: list[dict[str, Any]] = group.facts.get("aws", "images") or []
    return any(
        image.get("architecture") == "arm64"
        and wanted
        and wanted.rpartition("/")[2] in {image.get("id"), str(image.get("name")).rpartition("/")[2]}
        for image in images
    )


def _flavor(group: Draft, role: str) -> str:
    """The smallest flavor that is large enough for the role."""
    needs = {"ControlPlane": (4096, 1), "Node": (4096, 2), "Bastion": (1024, 0)}
    if role not in needs:
        group.fail(f"unhandled role {role!r}", field="spec.role", value=role)
    ram_mb, cpus = needs[role]
    flavors = group.fact("openstack", "flavors", why="a default machine type", field="spec.machineType")
    fitting = [flavor for flavor in flavors if flavor["ram"] >= max(ram_mb, 1024) and flavor["vcpus"] >= cpus]
    if not fitting:
        group.fail(f"no suitable flavor for role {role!r}", field="spec.machineType")
    return str(min(fitting, key=lambda flavor: (flavor["vcpus"], flavor["ram"]))["name"])


def architecture(group: Draft, provider: str) -> str:
    """`amd64` or `arm64`.  Source: new_cluster.go:MachineArchitecture."""
    machine = group.text("spec.machineType")
    if not machine or provider != "aws":
        return "amd64"
    if machine in (group.facts.get("aws", "invalid_instance_types") or ()):
        group.fail(f"invalid instance type {machine!r} specified", field="spec.machineType", value=machine)
    known = group.fact("aws", "instance_type_architectures", why="the image of the group", field="spec.image")
    for found in known.get(machine) or ():
        if found in {"amd64", "x86_64", "arm64"}:
            return "arm64" if found == "arm64" else "amd64"
    return group.fail(
        f"unable to determine architecture info for instance type {machine!r}", field="spec.machineType", value=machine
    )


def has_gpu(group: Draft) -> bool:
    """Does the group's AWS machine type have a GPU?"""
    machine = group.text("spec.machineType")
    if machine in (group.facts.get("aws", "invalid_instance_types") or ()):
        group.fail(f"error looking up machine type info: {machine!r}", field="spec.machineType", value=machine)
    return machine in group.fact("aws", "instance_types_with_gpu", why="GPU labels", field="spec.machineType")


def default_image(group: Draft, cluster: Draft) -> str:
    """The image the channel gives, else the cloud's own."""
    provider = cloud(cluster)
    wanted = architecture(group, provider)
    found = load_channel(cluster, cluster.text("spec.channel") or "stable").image(
        SPELLED.get(provider, provider), cluster.text(KUBERNETES_VERSION), wanted
    )
    if found is not None:
        return found
    if provider not in IMAGES:
        group.fail(
            f"unable to determine default image for cloud provider {provider!r} and architecture {wanted!r}",
            field="spec.image",
        )
    return IMAGES[provider]
