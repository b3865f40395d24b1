"""Which values does kops assign once and store with the author's cluster?

PerformAssignments runs on create, replace, edit and set, where its result is stored in `config`, and again at every completion.

Source: kops upup/pkg/fi/cloudup/defaults.go:PerformAssignments.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from kopsfs.spec import channel
from kopsfs.spec.inference.cluster import NETWORKING, cloud, dns, name
from kopsfs.spec.inference.gcenetwork import RULES as GCE_NETWORK
from kopsfs.spec.inference.subnets import RULES as SUBNETS
from kopsfs.spec.rules import Draft, Rule, constants
from kopsfs.spec.validation.values import cidr
from kopsfs.spec.versions import KOPS_VERSION

_SOURCE = "upup/pkg/fi/cloudup/defaults.go"
_CIDR = f"{NETWORKING}.networkCIDR"
_NON_MASQUERADE = f"{NETWORKING}.nonMasqueradeCIDR"
_PROXY = f"{NETWORKING}.egressProxy"
_AZURE = "spec.cloudProvider.azure"

AWS_NETWORK = "172.20.0.0/16"
AZURE_NETWORK = "10.0.0.0/16"
AWS_METADATA = "169.254.169.254"


def _retention(draft: Draft) -> None:
    for number, _ in enumerate(draft.items("spec.etcdClusters")):
        draft.default(f"spec.etcdClusters[{number}].manager.backupRetentionDays", 90)


def _topology(draft: Draft) -> None:
    draft.make(f"{NETWORKING}.topology")


def _aws_network(draft: Draft) -> None:
    if cloud(draft) != "aws" or draft.text(_CIDR):
        return
    network = draft.text(f"{NETWORKING}.networkID")
    draft.force(_CIDR, _vpc_cidr(draft, network) if network else AWS_NETWORK)
    if draft.has(f"{NETWORKING}.amazonVPC") and draft.text(_NON_MASQUERADE) != "::/0":
        draft.force(_NON_MASQUERADE, draft.text(_CIDR))


def _vpc_cidr(draft: Draft, network: str) -> str:
    vpcs = draft.fact("aws", "vpcs", why=f"the address range of {network}", field=f"{NETWORKING}.networkID")
    found = next((vpc for vpc in vpcs if vpc.get("id") == network), None)
    if found is None:
        draft.fail(f"unable to find Network ID {network!r}", field=f"{NETWORKING}.networkID", value=network)
    if not found.get("cidr"):
        draft.fail("unable to infer NetworkCIDR from Network ID, please specify it", field=_CIDR)
    return str(found["cidr"])


def _azure_network(draft: Draft) -> None:
    if cloud(draft) != "azure" or draft.text(_CIDR):
        return
    network = draft.text(f"{NETWORKING}.networkID")
    if not network:
        draft.force(_CIDR, AZURE_NETWORK)
        return
    if not draft.text(f"{_AZURE}.resourceGroupName"):
        draft.fail(
            "missing required resource group name when specifying Network ID", field=f"{_AZURE}.resourceGroupName"
        )
    vnets = draft.fact("azure", "vnets", why=f"the address range of {network}", field=f"{NETWORKING}.networkID")
    found = next((vnet for vnet in vnets if vnet.get("id") == network), None)
    if found is None:
        draft.fail(f"unable to find Network ID {network!r}", field=f"{NETWORKING}.networkID", value=network)
    draft.force(_CIDR, str(found["cidr"]))


def _public_name(draft: Draft) -> None:
    if dns(draft) == "Public" and name(draft):
        draft.default("spec.api.publicName", f"api.{name(draft)}")


def _excludes(draft: Draft) -> None:
    """Who must not be reached through the proxy; what the text already contains is not added again."""
    if not draft.has(_PROXY):
        return
    had = draft.text(f"{_PROXY}.excludes")
    masquerade = draft.text(_NON_MASQUERADE)
    parsed = cidr(masquerade)
    if parsed is None:
        draft.fail("unable to parse Non Masquerade CIDR", field=_NON_MASQUERADE, value=masquerade)
    first = parsed[0] + 1
    if first not in parsed[1]:
        draft.fail("unable to get first ip address in Non Masquerade CIDR", field=_NON_MASQUERADE, value=masquerade)
    wanted = [
        "127.0.0.1",
        "localhost",
        draft.text("spec.clusterDNSDomain"),
        draft.text("spec.api.publicName"),
        name(draft),
        str(first),
        masquerade,
        AWS_METADATA if cloud(draft) == "aws" else "",
        draft.text(_CIDR),
        *draft.items(f"{NETWORKING}.additionalNetworkCIDRs"),
    ]
    added = [exclude for exclude in wanted if exclude and exclude not in had]
    if added:
        draft.force(f"{_PROXY}.excludes", ",".join([*(had.split(",") if had else ()), *added]))


def _storage_account(draft: Draft) -> None:
    field = f"{_AZURE}.storageAccountID"
    if not draft.has(_AZURE) or draft.text(field):
        return
    base = draft.text("spec.configStore.base")
    if not base.startswith("azureblob://"):
        draft.fail(
            f"expected azureblob:// as the config base of an Azure cluster, got {base!r}", field="spec.configStore.base"
        )
    account = urlsplit(base).netloc
    accounts = draft.fact("azure", "storage_accounts", why=f"the ID of {account}", field=field)
    found = next((entry for entry in accounts if entry.get("name") == account), None)
    if found is None:
        draft.fail(f"no storage account {account!r}", field="spec.configStore.base", value=base)
    draft.force(field, str(found["id"]))


def _kubernetes_version(draft: Draft) -> None:
    """The version the channel gives to this version of kops."""
    field = "spec.kubernetesVersion"
    if draft.text(field):
        return
    wanted = draft.text("spec.channel")
    loaded = load_channel(draft, wanted) if wanted else None
    version = loaded.kubernetes(draft.facts.kops_version or KOPS_VERSION) if loaded else None
    if version is None:
        draft.fail(
            f"channel {wanted!r} recommends no version for kops {draft.facts.kops_version or KOPS_VERSION}; "
            "kops would now ask dl.k8s.io, name the version instead",
            field=field,
        )
    draft.force(field, version)


def load_channel(draft: Draft, wanted: str) -> channel.Channel:
    """The cluster's channel; its name counts as an input."""
    draft.get("spec.channel")
    if wanted == channel.NONE:
        return channel.Channel(channel.NONE)
    loaded = draft.facts.channel(wanted) if draft.facts.channel else channel.shipped(wanted)
    if loaded is None:
        draft.fail(f"error reading channel {wanted!r}: give it with --channel-dir", field="spec.channel", value=wanted)
    assert isinstance(loaded, channel.Channel)
    return loaded


RULES = (
    Rule(
        "etcd-backup-retention",
        ("spec.etcdClusters[*].manager.backupRetentionDays",),
        f"{_SOURCE}:PerformAssignments",
        _retention,
    ),
    Rule("topology", (f"{NETWORKING}.topology",), f"{_SOURCE}:PerformAssignments", _topology),
    *GCE_NETWORK,
    Rule("aws-network-cidr", (_CIDR, _NON_MASQUERADE), f"{_SOURCE}:PerformAssignments", _aws_network),
    Rule("azure-network-cidr", (_CIDR,), f"{_SOURCE}:PerformAssignments", _azure_network),
    constants(
        "non-masquerade-cidr",
        f"{_SOURCE}:PerformAssignments",
        NETWORKING,
        (("nonMasqueradeCIDR", "100.64.0.0/10"),),
    ),
    Rule("public-name", ("spec.api.publicName",), f"{_SOURCE}:PerformAssignments", _public_name),
    *SUBNETS,
    Rule("egress-proxy-excludes", (f"{_PROXY}.excludes",), f"{_SOURCE}:assignProxy", _excludes),
    Rule("azure-storage-account", (f"{_AZURE}.storageAccountID",), f"{_SOURCE}:PerformAssignments", _storage_account),
    Rule(
        "kubernetes-version",
        ("spec.kubernetesVersion",),
        f"{_SOURCE}:ensureKubernetesVersion",
        _kubernetes_version,
    ),
)
