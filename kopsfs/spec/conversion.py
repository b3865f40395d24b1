"""How does a document of one API version become another?

Everything else works on kops's *internal* form: plain dicts with the internal field names (`spec.networking.subnets[0].cidr`),
where what is absent is Go's zero value. `to_internal` and `from_internal` go between it and a version; `decode` is what kops
does when it reads a file: check types, default, convert.

Fields with the same Go name carry over by themselves; `MOVES` holds the ones that moved, were inverted or belong to one
cloud, and the functions below the few that a table cannot say.

Source: kops pkg/apis/kops/v1alpha2/conversion.go and defaults.go; v1alpha3 has no conversions of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kopsfs.spec import schema
from kopsfs.spec.document import GROUP, Document
from kopsfs.spec.field import Finding, Kind, Path, RefusedError, Severity, forbidden, unsupported

CLOUDS = ("aws", "azure", "do", "gce", "hetzner", "openstack", "scaleway", "linode")
"""Fields of spec.cloudProvider; of several that are set, the last one names the cloud in v1alpha2."""

LEGACY_CLOUD = {"digitalocean": "do"}
"""v1alpha2 names of clouds that differ from the internal field."""

_CLOUDS_AS_LISTED = ("gce", "digitalocean", "azure", "aws", "hetzner", "linode", "openstack", "scaleway")

# canal is missing in kops's list, so a v1alpha2 document with nothing but canal is written without networking
_NETWORKING_OPTIONS = [
    "classic",
    "kubenet",
    "external",
    "cni",
    "kopeio",
    "weave",
    "flannel",
    "calico",
    "kuberouter",
    "romana",
    "amazonvpc",
    "cilium",
    "lyftvpc",
    "gce",
    "kindnet",
]


class Move(NamedTuple):
    """One field of v1alpha2's ClusterSpec and where it is in the internal form (dots separate).

    `cloud` is the cloud it belongs to: with another one it is refused with `refusal` (field, message), or silently dropped.
    """

    old: str
    new: str
    inverted: bool = False
    cloud: str = ""
    refusal: tuple[str, str] | None = None


def _only(cloud: str, old: str, new: str, what: str, name: str = "", known: str = "supports only") -> Move:
    label = {"aws": "AWS", "gce": "GCE"}[cloud]
    return Move(
        old, f"cloudProvider.{cloud}.{new}", cloud=cloud, refusal=(f"spec.{name or old}", f"{what} {known} {label}")
    )


MOVES: tuple[Move, ...] = (
    Move("configBase", "configStore.base"),
    Move("secretStore", "configStore.secrets"),
    Move("keyStore", "configStore.keypairs"),
    Move("networking", "networking"),
    Move("api", "api"),
    Move("cloudConfig.azure", "cloudProvider.azure", cloud="azure"),
    Move("project", "cloudProvider.gce.project", cloud="gce"),
    Move("cloudConfig.openstack", "cloudProvider.openstack", cloud="openstack"),
    _only("aws", "cloudConfig.awsEBSCSIDriver", "ebsCSIDriver", "EBS CSI driver"),
    _only("gce", "cloudConfig.gceServiceAccount", "serviceAccount", "GCE Service Account"),
    _only(
        "gce",
        "cloudConfig.gceUseStartupScript",
        "useStartupScript",
        "GCE Startup Script",
        "cloudConfig.gceStartupScript",
    ),
    _only(
        "aws", "cloudConfig.disableSecurityGroupIngress", "disableSecurityGroupIngress", "disableSecurityGroupIngress"
    ),
    _only("aws", "cloudConfig.elbSecurityGroup", "elbSecurityGroup", "elbSecurityGroup"),
    _only("aws", "cloudConfig.useIPBasedNodeNames", "useIPBasedNodeNames", "useIPBasedNodeNames"),
    _only("aws", "cloudConfig.nlbSecurityGroupMode", "nlbSecurityGroupMode", "nlbSecurityGroupMode"),
    _only("gce", "cloudConfig.gcpPDCSIDriver", "pdCSIDriver", "PD CSI driver"),
    _only("gce", "cloudConfig.multizone", "multizone", "multizone"),
    _only("aws", "cloudConfig.nodeIPFamilies", "nodeIPFamilies", "nodeIPFamilies"),
    _only("gce", "cloudConfig.nodeTags", "nodeTags", "nodeTags"),
    _only("gce", "cloudConfig.nodeInstancePrefix", "nodeInstancePrefix", "nodeInstancePrefix"),
    _only("aws", "cloudConfig.spotinstOrientation", "spotinstOrientation", "Spotinst"),
    _only("aws", "cloudConfig.spotinstProduct", "spotinstProduct", "Spotinst"),
    _only("aws", "nodeTerminationHandler", "nodeTerminationHandler", "node termination handler"),
    _only("aws", "awsLoadBalancerController", "loadBalancerController", "AWS Load Balancer Controller"),
    _only("aws", "warmPool", "warmPool", "warm pool", known="only supported on"),
    _only("aws", "podIdentityWebhook", "podIdentityWebhook", "pod identity webhook"),
    Move("subnets", "networking.subnets"),
    Move("masterPublicName", "api.publicName"),
    Move("networkCIDR", "networking.networkCIDR"),
    Move("additionalNetworkCIDRs", "networking.additionalNetworkCIDRs"),
    Move("networkID", "networking.networkID"),
    Move("topology", "networking.topology"),
    Move("serviceClusterIPRange", "networking.serviceClusterIPRange"),
    Move("podCIDR", "networking.podCIDR"),
    Move("nonMasqueradeCIDR", "networking.nonMasqueradeCIDR"),
    Move("egressProxy", "networking.egressProxy"),
    Move("isolateMasters", "networking.isolateControlPlane"),
    Move("additionalSans", "api.additionalSANs"),
    Move("kubernetesApiAccess", "api.access"),
    Move("DisableSubnetTags", "networking.tagSubnets", inverted=True),
)

INVERTED = frozenset(
    {
        ("CanalNetworkingSpec", "FlanneldIptablesForwardRules"),
        ("CiliumNetworkingSpec", "InstallIptablesRules"),
        ("CiliumNetworkingSpec", "Masquerade"),
    },
)
"""(type, Go name) of booleans that mean the opposite in v1alpha2."""

ROOT_VOLUME = {
    "rootVolumeEncryption": "encryption",
    "rootVolumeEncryptionKey": "encryptionKey",
    "rootVolumeIops": "iops",
    "rootVolumeOptimization": "optimization",
    "rootVolumeSize": "size",
    "rootVolumeThroughput": "throughput",
    "rootVolumeType": "type",
}
"""The group's flat v1alpha2 fields and their names below rootVolume."""

OIDC = {
    "oidcClientID": "clientID",
    "oidcGroupsPrefix": "groupsPrefix",
    "oidcIssuerURL": "issuerURL",
    "oidcUsernameClaim": "usernameClaim",
    "oidcUsernamePrefix": "usernamePrefix",
}
"""Fields of v1alpha2's kubeAPIServer and their names below authentication.oidc; groups and required claims change form."""

_MOVED_AWAY = frozenset(move.old.split(".")[0] for move in MOVES if "." not in move.old) | {"cloudProvider"}


@dataclass(slots=True)
class Object:
    """One kops object in the internal form.

    Attributes:
        data: `kind`, `metadata`, `spec` with internal names and canonical values.
        kind: `Cluster`, `InstanceGroup`, `Keyset`, `SSHCredential`, `Host`.
        document: what it was read from, for positions.
        findings: warnings from reading (unknown fields).
        defaulted: internal paths that decoding filled in, with the default's name.
    """

    data: dict[str, Any]
    kind: str
    document: Document | None = None
    findings: list[Finding] = field(default_factory=list)
    defaulted: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.data.get("metadata", {}).get("name", ""))

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.data.setdefault("spec", {})
        return spec


def decode(document: Document, *, defaults: bool = True, legacy: bool = False) -> Object:
    """What kops has in memory after reading this document.

    `legacy` also takes a cluster without apiVersion and kind, as kops up to 1.21 wrote its completed `cluster.spec`: the names
    in it are those of v1alpha2.

    Raises:
        RefusedError: wrong types, a version or kind kops does not know, a field of another cloud.
    """
    version, kind = document.version, document.kind
    if legacy and is_legacy(document):
        version, kind = "v1alpha2", "Cluster"
    elif not document.is_kops or not version:
        raise RefusedError(_unknown(document, "apiVersion", document.api_version))
    if kind not in schema.KINDS:
        raise RefusedError(_unknown(document, "kind", kind))
    decoded = schema.decode(document.data, kind, version)
    findings = [_placed(finding, document) for finding in decoded.findings]
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise RefusedError(*errors)
    data = decoded.data
    defaulted = apply_defaults(data, version) if defaults and kind == "Cluster" else {}
    try:
        internal = to_internal(data, kind, version)
    except RefusedError as error:
        raise RefusedError(*(_placed(finding, document) for finding in error.findings)) from None
    return Object(internal, kind, document, findings, defaulted)


def converted(document: Document, version: str) -> tuple[dict[str, Any], list[Finding]]:
    """A document in another version, and what was odd about it; what is not kops's stays as it is.

    Raises:
        RefusedError: kops could not decode it.
    """
    if not (document.is_kops or is_legacy(document)):
        return document.data, []
    internal = decode(document, legacy=True)
    return from_internal(internal.data, internal.kind, version), internal.findings


def is_legacy(document: Document) -> bool:
    """Is it a completed cluster of kops 1.21 or earlier?"""
    spec = document.data.get("spec")
    return not {"apiVersion", "kind"} & set(document.data) and isinstance(spec, dict) and "configBase" in spec


def _placed(finding: Finding, document: Document) -> Finding:
    import dataclasses

    return dataclasses.replace(finding, position=document.position(finding.field))


def _unknown(document: Document, name: str, value: str) -> Finding:
    known = schema.KINDS if name == "kind" else tuple(f"{GROUP}/{version}" for version in ("v1alpha2", "v1alpha3"))
    where = document.position(name)
    if not value:
        return Finding(Kind.REQUIRED, name, f"is one of {', '.join(known)}", position=where)
    return Finding(Kind.UNSUPPORTED, name, "", value, supported=known, position=where)


def apply_defaults(data: dict[str, Any], version: str) -> dict[str, str]:
    """Fill in what kops defaults while decoding, in place; returns the *internal* paths that were filled in, with the default's name.

    Source: v1alpha2/defaults.go and v1alpha3/defaults.go:SetDefaults_ClusterSpec, zz_generated.defaults.go.
    """
    spec: dict[str, Any] = data.setdefault("spec", {})
    filled: dict[str, str] = {}
    old = version == "v1alpha2"
    topology = (spec if old else spec.setdefault("networking", {})).setdefault("topology", {})
    dns = topology.setdefault("dns", {}) if old else topology
    if not dns.get("type" if old else "dns"):
        dns["type" if old else "dns"] = "Public"
        filled["spec.networking.topology.dns"] = "decode-topology-dns"
    if old and spec.get("cloudProvider") != "openstack":
        spec.setdefault("api", {})
    authorization = spec.setdefault("authorization", {})
    if "rbac" not in authorization and "alwaysAllow" not in authorization:
        authorization["rbac"] = {}
        filled["spec.authorization.rbac"] = "decode-authorization"
    flannel = (spec.get("networking") or {}).get("flannel")
    if flannel is not None and not flannel.get("backend"):
        flannel["backend"] = "udp"
        filled["spec.networking.flannel.backend"] = "decode-flannel-backend"
    for number, env in enumerate((spec.get("kubeAPIServer") or {}).get("env") or []):
        reference = (env.get("valueFrom") or {}).get("fileKeyRef")
        if reference is not None and "optional" not in reference:
            reference["optional"] = False
            filled[f"spec.kubeAPIServer.env[{number}].valueFrom.fileKeyRef.optional"] = "decode-file-key-ref"
    return filled


def to_internal(data: dict[str, Any], kind: str, version: str) -> dict[str, Any]:
    """A decoded document of `version` in the internal form.

    Raises:
        RefusedError: a field of another cloud, or a cloud kops does not know.
    """
    out = _Auto(version, schema.INTERNAL).struct(data, kind)
    out.pop("apiVersion", None)
    out["kind"] = kind
    if version == "v1alpha2" and kind == "Cluster":
        _cluster_to_internal(data.get("spec") or {}, out.setdefault("spec", {}))
    return out


def from_internal(data: dict[str, Any], kind: str, version: str) -> dict[str, Any]:
    """An internal object as a document of `version`, every field as kops writes it (zero values left out, or put in)."""
    out = _Auto(schema.INTERNAL, version).struct(data, kind)
    if version == "v1alpha2" and kind == "Cluster":
        _cluster_from_internal(data.get("spec") or {}, out.setdefault("spec", {}))
    out["apiVersion"], out["kind"] = f"{GROUP}/{version}", kind
    return encode(out, kind, version)


def encode(data: dict[str, Any], type_name: str, version: str) -> dict[str, Any]:
    """What Go's JSON encoder writes of a struct: `omitempty` fields only when not zero, structs always."""
    table = schema.types(version)
    return _encoded(data, type_name, table)


def _encoded(data: dict[str, Any], type_name: str, table: schema.Types) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, known in table.fields(type_name).items():
        if known.hidden:
            continue
        if name in data:
            value = _encoded_value(data[name], known.type, table)
            if known.pointer or known.always or known.type in table or not schema.is_zero(value):
                out[name] = value
        elif not known.pointer and known.type in table:
            out[name] = _encoded({}, known.type, table)
        elif known.type == "quantity" and not known.pointer:
            out[name] = "0"  # a struct in Go, so `omitempty` does not leave it out
        elif known.always and not known.pointer:
            out[name] = {"string": "", "bool": False}.get(known.type, None if "<" in known.type else 0)
    if type_name in schema.KINDS and not out.get("metadata"):
        out["metadata"] = {}
    return out


def _encoded_value(value: Any, kind: str, table: schema.Types) -> Any:
    inner = schema.element(kind)
    if inner is not None:
        if isinstance(value, dict):
            return {key: _encoded_value(item, inner, table) for key, item in value.items()}
        return [_encoded_value(item, inner, table) for item in value or ()]
    return _encoded(value, kind, table) if kind in table else value


class _Auto:
    """Carries fields over by their Go name, with what kops's own functions add for single types."""

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = schema.types(source), schema.types(target)
        self.fixes: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {}
        self.inverted: frozenset[tuple[str, str]] = frozenset()
        if source == "v1alpha2":
            self.fixes, self.inverted = _TO_INTERNAL, INVERTED
        elif target == "v1alpha2":
            self.fixes, self.inverted = _FROM_INTERNAL, INVERTED

    def struct(self, data: dict[str, Any], type_name: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if type_name not in self.target:
            return out
        fields, names = self.source.fields(type_name), self.target.by_go(type_name)
        for name, value in data.items():
            known = fields.get(name)
            if known is None or known.go not in names:
                continue
            if (type_name, known.go) in self.inverted:
                value = not value
            out[names[known.go]] = self.value(value, known.type)
        fix = self.fixes.get(type_name)
        if fix is not None:
            fix(data, out)
        return out

    def value(self, value: Any, kind: str) -> Any:
        inner = schema.element(kind)
        if inner is None:
            return self.struct(value, kind) if kind in self.source else value
        if isinstance(value, dict):
            return {key: self.value(item, inner) for key, item in value.items()}
        return [self.value(item, inner) for item in value]


def _cluster_to_internal(old: dict[str, Any], spec: dict[str, Any]) -> None:
    """Source: v1alpha2/conversion.go:Convert_v1alpha2_ClusterSpec_To_kops_ClusterSpec."""
    auto = _Auto("v1alpha2", schema.INTERNAL)
    table = schema.types("v1alpha2")
    for name in ("networking", "api", "cloudProvider"):
        spec.pop(name, None)
    _rename_policies(spec, "master", "control-plane")
    _oidc_to_internal(old.get("kubeAPIServer") or {}, spec)
    cloud = _cloud_to_internal(old, spec)
    for move in MOVES:
        value: Any = _get(old, move.old)
        if value is None:
            continue
        if move.cloud and move.cloud != cloud:
            if move.refusal is None or (move.old == "cloudConfig.gceServiceAccount" and not value):
                continue
            raise RefusedError(forbidden(*move.refusal, rule="decode-cloud", value=None))
        known = table.at("ClusterSpec", Path(*move.old.split(".")))
        assert known is not None, move.old
        value = not value if move.inverted else auto.value(value, known.type)
        if not known.pointer and schema.is_zero(value) and not isinstance(value, list | dict):
            continue
        _merge_at(spec, move.new, value)
    for hook in spec.get("hooks") or []:
        if "enabled" in hook:
            hook["enabled"] = not hook["enabled"]


def _cloud_to_internal(old: dict[str, Any], spec: dict[str, Any]) -> str:
    name = old.get("cloudProvider") or ""
    if not name:
        return ""
    if name not in _CLOUDS_AS_LISTED:
        raise RefusedError(unsupported("spec.cloudProvider", name, _CLOUDS_AS_LISTED, rule="decode-cloud"))
    cloud = LEGACY_CLOUD.get(name, name)
    spec["cloudProvider"] = {cloud: {}}
    return cloud


def _oidc_to_internal(kube: dict[str, Any], spec: dict[str, Any]) -> None:
    if not any(name in kube for name in (*OIDC, "oidcGroupsClaim", "oidcRequiredClaim")):
        return
    oidc = spec.setdefault("authentication", {}).setdefault("oidc", {})
    for old, new in OIDC.items():
        if old in kube:
            oidc[new] = kube[old]
    if "oidcGroupsClaim" in kube:
        oidc["groupsClaims"] = kube["oidcGroupsClaim"].split(",")
    if kube.get("oidcRequiredClaim") is not None:
        claims = oidc["requiredClaims"] = {}
        for number, claim in enumerate(kube["oidcRequiredClaim"]):
            name, equals, value = claim.partition("=")
            if not equals:  # kops panics here
                where = Path("spec", "kubeAPIServer", "oidcRequiredClaim").index(number)
                raise RefusedError(Finding(Kind.INVALID, str(where), "has to be of the form key=value", claim))
            claims[name] = value


def _cluster_from_internal(spec: dict[str, Any], old: dict[str, Any]) -> None:
    """Source: v1alpha2/conversion.go:Convert_kops_ClusterSpec_To_v1alpha2_ClusterSpec."""
    auto = _Auto(schema.INTERNAL, "v1alpha2")
    table = schema.types(schema.INTERNAL)
    for name in _MOVED_AWAY:
        old.pop(name, None)
    _rename_policies(old, "control-plane", "master")
    _oidc_from_internal((spec.get("authentication") or {}).get("oidc"), old)
    clouds = spec.get("cloudProvider") or {}
    cloud = next((name for name in reversed(CLOUDS) if clouds.get(name) is not None), "")
    if cloud:
        old["cloudProvider"] = {new: legacy for legacy, new in LEGACY_CLOUD.items()}.get(cloud, cloud)
    for move in MOVES:
        value: Any = _get(spec, move.new)
        if value is None or (move.cloud and move.cloud != cloud):
            continue
        known = table.at("ClusterSpec", Path(*move.new.split(".")))
        assert known is not None, move.new
        value = not value if move.inverted else auto.value(value, known.type)
        if not known.pointer and schema.is_zero(value) and not isinstance(value, dict):
            continue
        if move.old == "networking" and not any(option in value for option in _NETWORKING_OPTIONS):
            continue
        if move.old == "api" and "dns" not in value and "loadBalancer" not in value:
            continue
        _merge_at(old, move.old, value)
    for hook in old.get("hooks") or []:
        if "disabled" in hook:
            hook["disabled"] = not hook["disabled"]


def _oidc_from_internal(oidc: dict[str, Any] | None, old: dict[str, Any]) -> None:
    if oidc is None:
        return
    kube = old.setdefault("kubeAPIServer", {})
    for old_name, new in OIDC.items():
        if new in oidc:
            kube[old_name] = oidc[new]
    if oidc.get("groupsClaims") is not None:
        kube["oidcGroupsClaim"] = ",".join(oidc["groupsClaims"])
    if oidc.get("requiredClaims") is not None:
        kube["oidcRequiredClaim"] = sorted(f"{name}={value}" for name, value in oidc["requiredClaims"].items())


def _rename_policies(spec: dict[str, Any], old: str, new: str) -> None:
    for name in ("additionalPolicies", "externalPolicies"):
        if spec.get(name) is not None:
            spec[name] = {new if key == old else key: value for key, value in spec[name].items()}


def _hook_roles(old: str, new: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def fix(_source: dict[str, Any], out: dict[str, Any]) -> None:
        if out.get("roles") is not None:
            out["roles"] = [new if role == old else role for role in out["roles"]]

    return fix


def _dns_disabled(source: dict[str, Any], out: dict[str, Any]) -> None:
    if source.get("disable"):
        out["provider"] = "none"


def _dns_disable(source: dict[str, Any], out: dict[str, Any]) -> None:
    if source.get("provider") == "none":
        out.pop("provider", None)
        out["disable"] = True


def _topology_dns(source: dict[str, Any], out: dict[str, Any]) -> None:
    out.pop("dns", None)
    if source.get("dns") is not None and source["dns"].get("type"):
        out["dns"] = source["dns"]["type"]


def _topology_legacy_dns(source: dict[str, Any], out: dict[str, Any]) -> None:
    out.pop("dns", None)
    if source.get("dns"):
        out["dns"] = {"type": source["dns"]}


def _group_to_internal(source: dict[str, Any], out: dict[str, Any]) -> None:
    if source.get("role") == "Master":
        out["role"] = "ControlPlane"
    for old, new in ROOT_VOLUME.items():
        if old in source:
            out.setdefault("rootVolume", {})[new] = source[old]


def _group_from_internal(source: dict[str, Any], out: dict[str, Any]) -> None:
    if source.get("role") == "ControlPlane":
        out["role"] = "Master"
    for old, new in ROOT_VOLUME.items():
        if new in (source.get("rootVolume") or {}):
            out[old] = source["rootVolume"][new]


_TO_INTERNAL: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "HookSpec": _hook_roles("Master", "ControlPlane"),
    "ExternalDNSConfig": _dns_disabled,
    "TopologySpec": _topology_dns,
    "InstanceGroupSpec": _group_to_internal,
}
_FROM_INTERNAL: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "HookSpec": _hook_roles("ControlPlane", "Master"),
    "ExternalDNSConfig": _dns_disable,
    "TopologySpec": _topology_legacy_dns,
    "InstanceGroupSpec": _group_from_internal,
}


def _get(data: dict[str, Any], dotted: str) -> Any:
    value: Any = data
    for name in dotted.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _merge_at(data: dict[str, Any], dotted: str, value: Any) -> None:
    *above, last = dotted.split(".")
    for name in above:
        data = data.setdefault(name, {})
    if isinstance(value, dict) and isinstance(data.get(last), dict):
        data[last] |= value
    else:
        data[last] = copy.deepcopy(value)
