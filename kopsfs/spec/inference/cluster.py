"""What do many rules ask of a cluster?

Every function reads through the draft, so what it looked at counts as an input of the rule that asked.
Source: kops pkg/apis/kops/cluster.go, networking.go; upup/pkg/fi/cloudup/gce/network.go; pkg/model/components/context.go.
"""

from __future__ import annotations

from kopsfs.spec import versions
from kopsfs.spec.rules import Draft
from kopsfs.spec.validation.values import is_ipv6_cidr, network
from kopsfs.spec.validation.view import CLOUDS, METAL_LABEL

NETWORKING = "spec.networking"
KUBERNETES_VERSION = "spec.kubernetesVersion"


def name(draft: Draft) -> str:
    """The cluster's name, which is a DNS name."""
    return draft.text("metadata.name")


def cloud(draft: Draft) -> str:
    """The field of spec.cloudProvider that is set (`aws`, `do` …), `metal`, or "".  Source: cluster.go:GetCloudProvider."""
    labels = draft.data.get("metadata", {}).get("labels") or {}
    if labels.get(METAL_LABEL) == "metal":
        return "metal"
    clouds = draft.get("spec.cloudProvider") or {}
    return next((field for field in CLOUDS if clouds.get(field) is not None), "")


def dns(draft: Draft) -> str:
    """`Public`, `Private` or `None`; nothing said is public."""
    return draft.text(f"{NETWORKING}.topology.dns") or "Public"


def ipv6_only(draft: Draft) -> bool:
    """Do pods have IPv6 addresses only?"""
    return is_ipv6_cidr(draft.text(f"{NETWORKING}.nonMasqueradeCIDR"))


def at_least(draft: Draft, since: str) -> bool:
    """Is Kubernetes this version or newer?"""
    return versions.at_least(draft.text(KUBERNETES_VERSION), since)


def uses(draft: Draft, *plugins: str) -> bool:
    """Is one of these network plugins chosen?"""
    return any(draft.has(f"{NETWORKING}.{plugin}") for plugin in plugins)


def uses_cni(draft: Draft) -> bool:
    """Anything that is not built on kubenet.  Source: networking.go:UsesKubenet."""
    return not uses(draft, "kubenet", "gcp", "external", "kopeio")


def uses_ip_aliases(draft: Draft) -> bool:
    """Source: gce/network.go:UsesIPAliases."""
    return uses(draft, "gcp", "kindnet")


def service_ip(draft: Draft, number: int) -> str:
    """The n-th address of the service range.  Source: components/context.go:WellKnownServiceIP."""
    services = draft.text(f"{NETWORKING}.serviceClusterIPRange")
    net = network(services)
    if net is None:
        draft.fail(f"error parsing ServiceClusterIPRange {services!r}", field=f"{NETWORKING}.serviceClusterIPRange")
    found = (int(net.network_address) + number) % (1 << net.max_prefixlen)  # Go's uint32 wraps around
    return str(type(net.network_address)(found))
