"""What happens to a cluster before the component rules run, and once after them?

The steps of populateClusterSpec.run, each a rule. What they write counts as the author's in the loop that follows.

Source: kops upup/pkg/fi/cloudup/populate_cluster_spec.go, spec_builder.go, utils.go; pkg/apis/kops/cluster.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from kopsfs.spec import schema
from kopsfs.spec.inference.cluster import NETWORKING, cloud, dns, name
from kopsfs.spec.layout import join
from kopsfs.spec.rules import Draft, Rule, constants, leaves, look, merged
from kopsfs.spec.validation.values import network

_SOURCE = "upup/pkg/fi/cloudup/populate_cluster_spec.go"
_RUN = f"{_SOURCE}:run"
_STORE = "spec.configStore"
_BALANCER = "spec.api.loadBalancer"

SERVICES_V4 = "100.64.0.0/13"
SERVICES_V6 = "fd00:5e4f:ce::/108"
FLATCAR_PLUGINS = "/var/lib/kubelet/volumeplugins/"

KUBELET_LEAVES = tuple(
    f"{field}[*]" if known.type.startswith(("map<", "list<")) else field
    for field, known in schema.types(schema.INTERNAL).fields("KubeletConfigSpec").items()
    if not known.hidden
)


def flatcar(images: Iterable[str]) -> Rule:
    """Flatcar keeps volume plugins elsewhere; one group's image decides for the whole cluster."""
    found = any("flatcar" in image.lower() for image in images)

    def apply(draft: Draft) -> None:
        if found:
            draft.default("spec.kubelet.volumePluginDirectory", FLATCAR_PLUGINS)

    return Rule(
        "flatcar-volume-plugins",
        ("spec.kubelet.volumePluginDirectory",),
        "upup/pkg/fi/cloudup/apply_cluster.go:ApplyClusterCmd.Run",
        apply,
    )


# --- step 0 -----------------------------------------------------------------------------------------------------------


def _dependent_ranges(draft: Draft) -> None:
    """The upper half of what is not masqueraded goes to pods."""
    text = draft.text(f"{NETWORKING}.nonMasqueradeCIDR")
    if not text:
        return
    whole = network(text)
    if whole is None:
        draft.fail(f"error parsing NonMasqueradeCIDR {text!r}", field=f"{NETWORKING}.nonMasqueradeCIDR", value=text)
    draft.make("spec.kubeControllerManager")
    if isinstance(whole, ipaddress.IPv4Network):
        if not draft.text(f"{NETWORKING}.podCIDR"):
            if whole.prefixlen == whole.max_prefixlen:
                draft.fail(f"NonMasqueradeCIDR {text!r} has no room for pods", field=f"{NETWORKING}.nonMasqueradeCIDR")
            draft.force(f"{NETWORKING}.podCIDR", str(list(whole.subnets())[1]))
        draft.default(f"{NETWORKING}.serviceClusterIPRange", SERVICES_V4)
    else:
        draft.default(f"{NETWORKING}.serviceClusterIPRange", SERVICES_V6)


DEPENDENT_RANGES = (
    Rule(
        "dependent-ranges",
        (f"{NETWORKING}.podCIDR", f"{NETWORKING}.serviceClusterIPRange", "spec.kubeControllerManager"),
        f"{_SOURCE}:assignSubnets",
        _dependent_ranges,
    ),
)

# --- step 1 -----------------------------------------------------------------------------------------------------------

FILL_DEFAULTS = (constants("channel", "pkg/apis/kops/cluster.go:FillDefaults", "spec", (("channel", "stable"),)),)

# --- steps 3 to 8 -----------------------------------------------------------------------------------------------------


def _stores(draft: Draft) -> None:
    base = draft.text(f"{_STORE}.base")
    if not base:
        draft.fail("the cluster has no configBase", field=f"{_STORE}.base")
    draft.default(f"{_STORE}.keypairs", join(base, "pki"))
    draft.default(f"{_STORE}.secrets", join(base, "secrets"))


def _trimmed_version(draft: Draft) -> None:
    text = draft.text("spec.kubernetesVersion")
    trimmed = text.strip().removeprefix("v")
    if trimmed != text:
        draft.force("spec.kubernetesVersion", trimmed)


def api_access(groups: Iterable[dict[str, Any]]) -> Rule:
    """How the API is reached when nothing is said: a load balancer if an API server stands in a private subnet, else DNS."""
    specs = [group.get("spec") or {} for group in groups]

    def apply(draft: Draft) -> None:
        if draft.has("spec.cloudProvider.openstack"):
            return
        if not draft.has("spec.api.dns") and not draft.has(_BALANCER):
            types = {subnet.get("name"): subnet.get("type") for subnet in draft.items(f"{NETWORKING}.subnets")}
            servers = [spec for spec in specs if spec.get("role") == "APIServer"]
            servers = servers or [spec for spec in specs if spec.get("role") == "ControlPlane"]
            where = {types.get(subnet) for spec in servers for subnet in spec.get("subnets") or ()}
            if "Private" in where:
                draft.make(_BALANCER)
            elif "Public" in where:
                draft.make("spec.api.dns")
        if draft.has(_BALANCER):
            draft.default(f"{_BALANCER}.type", "Public")

    return Rule("api-access", (_BALANCER, "spec.api.dns", f"{_BALANCER}.type"), _RUN, apply)


def _balancer_class(draft: Draft) -> None:
    if draft.has(_BALANCER) and draft.has("spec.cloudProvider.aws"):
        draft.default(f"{_BALANCER}.class", "Classic")


def _dns_zone(draft: Draft) -> None:
    if draft.text("spec.dnsZone") or dns(draft) == "None":
        return
    provider = cloud(draft)
    if provider == "hetzner":
        return
    if provider in {"azure", "linode", "metal"}:
        draft.fail(f"DNS is not implemented on {provider}: use topology.dns.type None", field="spec.dnsZone")
    zones = _zones(draft, provider)
    draft.force("spec.dnsZone", _longest(draft, zones))


ZONES = {
    "aws": "hosted_zones",
    "gce": "managed_zones",
    "openstack": "dns_zones",
    "do": "dns_zones",
    "scaleway": "dns_zones",
}
FACTS_OF = {"do": "digitalocean"}


def _zones(draft: Draft, provider: str) -> list[tuple[str, str]]:
    """(name, id) of the zones the cluster's name lies in; only AWS says which are private."""
    listed = draft.fact(
        FACTS_OF.get(provider, provider), ZONES[provider], why="the zone of the cluster's name", field="spec.dnsZone"
    )
    cluster = "." + name(draft).removesuffix(".")
    zones = []
    for zone in listed:
        entry = zone if isinstance(zone, dict) else {"name": zone, "id": zone}
        label = "." + str(entry["name"]).removesuffix(".")
        private = entry.get("private")
        if not cluster.endswith(label):
            continue
        if provider == "aws" and private is not None and dns(draft) != ("Private" if private else "Public"):
            continue
        zones.append((label, str(entry.get("id", entry["name"])).removeprefix("/hostedzone/")))
    return zones


def _longest(draft: Draft, zones: list[tuple[str, str]]) -> str:
    """Source: upup/pkg/fi/cloudup/utils.go:FindDNSHostedZone."""
    cluster = name(draft)
    if not zones:
        suffix = ".".join(("." + cluster).split(".")[-2:])
        draft.fail(
            f"no matching hosted zones found for {cluster!r}; please create one (e.g. {suffix!r}) first",
            field="spec.dnsZone",
        )
    longest = max(len(label) for label, _ in zones)
    best = [zone for label, zone in zones if len(label) == longest]
    if len(best) > 1:
        draft.fail(
            f"found multiple hosted zones matching cluster {cluster!r}; specify the ID of the zone",
            field="spec.dnsZone",
        )
    return best[0]


def _published_name(draft: Draft) -> None:
    if dns(draft) == "None":
        return
    if draft.text("spec.dnsZone"):
        draft.default("spec.api.publicName", f"api.{name(draft)}")
    draft.default("spec.externalDNS.provider", "dns-controller")


BEFORE_API = (
    Rule("store-paths", (f"{_STORE}.keypairs", f"{_STORE}.secrets"), _RUN, _stores),
    Rule("kubernetes-version-trimmed", ("spec.kubernetesVersion",), _RUN, _trimmed_version),
)
AFTER_API = (
    Rule("api-load-balancer-class", (f"{_BALANCER}.class",), _RUN, _balancer_class),
    Rule("dns-zone", ("spec.dnsZone",), "upup/pkg/fi/cloudup/utils.go:FindDNSHostedZone", _dns_zone),
    Rule("published-name", ("spec.api.publicName", "spec.externalDNS.provider"), _RUN, _published_name),
)

# --- step 9 -----------------------------------------------------------------------------------------------------------


def _control_plane_kubelet(draft: Draft) -> None:
    """The control plane's kubelet settings lie over the ones for all nodes."""
    draft.make("spec.controlPlaneKubelet")
    inherit(draft, draft.get("spec.kubelet") or {}, "spec.kubelet", "spec.controlPlaneKubelet")


def inherit(draft: Draft, settings: dict[str, Any], source: str, target: str) -> None:
    """Fill in kubelet settings that `target` has not; maps key by key, lists as a whole."""
    below = merged({}, {"spec": {"kubelet": settings}}, "Cluster")
    for path, value in leaves(below, "Cluster"):
        field = path.removeprefix("spec.kubelet.")
        top = field.partition("[")[0]
        if path == "spec.kubelet":
            continue
        if isinstance(settings.get(top), list):
            field, value = top, settings[top]
        if look(draft.data, f"{target}.{field}") is None:
            draft.force(f"{target}.{field}", value, inputs=(f"{source}.{field}",))


CONTROL_PLANE_KUBELET = (
    Rule(
        "control-plane-kubelet-inherits",
        ("spec.controlPlaneKubelet", *(f"spec.controlPlaneKubelet.{leaf}" for leaf in KUBELET_LEAVES)),
        "upup/pkg/fi/cloudup/spec_builder.go:BuildCompleteSpec",
        _control_plane_kubelet,
    ),
)

# --- what only checks -------------------------------------------------------------------------------------------------


def _etcd_members(draft: Draft) -> None:
    for number, etcd in enumerate(draft.items("spec.etcdClusters")):
        where = f"spec.etcdClusters[{number}]"
        if not etcd.get("name"):
            draft.fail(f"EtcdClusters #{number} did not specify a Name", field=f"{where}.name")
        members = etcd.get("etcdMembers") or []
        for index, member in enumerate(members):
            if not member.get("name") or not member.get("instanceGroup"):
                draft.fail("an etcd member needs a name and an instanceGroup", field=f"{where}.etcdMembers[{index}]")
        names = [member["name"] for member in members]
        if len(set(names)) != len(names):
            draft.fail(
                f"etcd members found with the same name in etcd cluster {etcd['name']!r}", field=f"{where}.etcdMembers"
            )
        if len(names) % 2 == 0:
            draft.fail("there should be an odd number of etcd members, for etcd's quorum", field=f"{where}.etcdMembers")


CHECKS = (Rule("etcd-members", (), _RUN, _etcd_members),)
