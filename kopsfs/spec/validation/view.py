"""What does the decoded object say, read the way Go reads a struct?

Objects are plain dicts in kops's internal field names. What is absent is Go's zero value: `text` gives "", `items` [], `flag`
and `number` None (a nil pointer), so that rules read like the sentences they check. `Cluster` and `Group` answer what many
rules ask.

Source: kops pkg/apis/kops/cluster.go (GetCloudProvider, UsesNoneDNS, IsIPv6Only …), instancegroup.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kopsfs.spec.field import Path
from kopsfs.spec.validation.values import is_ipv6_cidr

SPEC = Path("spec")
CLOUDS = ("aws", "azure", "do", "gce", "hetzner", "openstack", "scaleway", "linode")
"""The fields of spec.cloudProvider, in the order in which kops looks for the first one that is set."""

SPELLED = {"do": "digitalocean"}
"""kops's name of a cloud where it differs from the field's."""

METAL_LABEL = "alpha.kops.k8s.io/cloud"

CONTROL_PLANE = "ControlPlane"
API_SERVER = "APIServer"
NODE = "Node"
BASTION = "Bastion"
ROLES = (CONTROL_PLANE, API_SERVER, NODE, BASTION, "Etcd", "Scheduler", "KubeControllerManager")


def get(data: Any, *names: str) -> Any:
    """The value below `data`, None where any step is absent."""
    for name in names:
        if not isinstance(data, dict):
            return None
        data = data.get(name)
    return data


def text(data: Any, *names: str) -> str:
    """A string, "" when absent."""
    value = get(data, *names)
    return value if isinstance(value, str) else ""


def flag(data: Any, *names: str) -> bool:
    """A boolean, False when absent."""
    return get(data, *names) is True


def number(data: Any, *names: str) -> int | None:
    """An integer, None when absent."""
    value = get(data, *names)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def items(data: Any, *names: str) -> list[Any]:
    """A list, [] when absent."""
    value = get(data, *names)
    return value if isinstance(value, list) else []


def fields(data: Any, *names: str) -> dict[str, Any]:
    """A struct or map, {} when absent."""
    value = get(data, *names)
    return value if isinstance(value, dict) else {}


def enabled_unless_said(data: Any) -> bool:
    """Is the component there and not `enabled: false`?"""
    return isinstance(data, dict) and data.get("enabled") is not False


@dataclass(frozen=True, slots=True)
class Cluster:
    """A decoded cluster and how strictly it is judged.

    Attributes:
        data: the object in internal field names.
        strict: completed objects have to have what completion fills in.
        flags: kops's feature flags that are on.
    """

    data: dict[str, Any]
    strict: bool = False
    flags: frozenset[str] = frozenset()
    spec: dict[str, Any] = field(init=False, repr=False)
    networking: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", fields(self.data, "spec"))
        object.__setattr__(self, "networking", fields(self.data, "spec", "networking"))

    @property
    def name(self) -> str:
        return text(self.data, "metadata", "name")

    @property
    def cloud(self) -> str:
        """The field below spec.cloudProvider that is set, `metal`, or "".  Source: cluster.go:GetCloudProvider."""
        if text(self.data, "metadata", "labels", METAL_LABEL) == "metal":
            return "metal"
        clouds = fields(self.spec, "cloudProvider")
        return next((cloud for cloud in CLOUDS if clouds.get(cloud) is not None), "")

    def provider(self, cloud: str) -> dict[str, Any] | None:
        """What stands below spec.cloudProvider.<cloud>, None when it is absent."""
        value = get(self.spec, "cloudProvider", cloud)
        return value if isinstance(value, dict) else None

    @property
    def dns(self) -> str:
        return text(self.networking, "topology", "dns") or "Public"

    @property
    def without_dns(self) -> bool:
        return self.dns == "None"

    @property
    def ipv6_only(self) -> bool:
        return is_ipv6_cidr(text(self.networking, "nonMasqueradeCIDR"))

    @property
    def subnets(self) -> list[dict[str, Any]]:
        return items(self.networking, "subnets")

    @property
    def cert_manager(self) -> bool:
        return flag(self.spec, "certManager", "enabled")


@dataclass(frozen=True, slots=True)
class Group:
    """A decoded instance group."""

    data: dict[str, Any]
    spec: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", fields(self.data, "spec"))

    @property
    def name(self) -> str:
        return text(self.data, "metadata", "name")

    @property
    def role(self) -> str:
        return text(self.spec, "role")
