"""What does each cloud need of a cluster, and what does it not have?

`Demands` is what differs between clouds when networks and subnets are judged; AWS has its own file.

Source: kops pkg/apis/kops/validation/validation.go:validateCloudProvider, gce.go, linode.go, validateAzureBlobAccountUniformity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kopsfs.spec.field import Finding, forbidden, invalid, required
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.values import url
from kopsfs.spec.validation.view import CLOUDS, SPEC, Cluster, get, items, text

AZURE_SCHEME = "azureblob://"
LINODE_NAME_MAX = 32


@dataclass(frozen=True, slots=True)
class Demands:
    """What a cloud asks of spec.networking.

    Attributes:
        no_network_cidr: a networkCIDR is refused.
        one_network_cidr: additional ones are refused.
    """

    subnets: bool = True
    network_cidr: bool = True
    no_network_cidr: bool = False
    one_network_cidr: bool = True
    non_masquerade_cidr: bool = True
    subnet_cidr: bool = True
    subnet_region: bool = False


DEMANDS = {
    "aws": Demands(one_network_cidr=False),
    "azure": Demands(subnet_region=True),
    "do": Demands(subnets=False, subnet_cidr=False, subnet_region=True, network_cidr=False),
    "gce": Demands(
        network_cidr=False, subnet_cidr=False, subnet_region=True, no_network_cidr=True, non_masquerade_cidr=False
    ),
    "hetzner": Demands(network_cidr=False, subnets=False, subnet_cidr=False),
    "openstack": Demands(network_cidr=False, subnet_cidr=False),
    "scaleway": Demands(network_cidr=False, subnet_cidr=False),
    "linode": Demands(subnets=False, subnet_cidr=False, subnet_region=True, network_cidr=False),
    "metal": Demands(network_cidr=False, subnet_cidr=False),
    "": Demands(subnets=False, subnet_cidr=False, network_cidr=False),
}


def demands(cluster: Cluster) -> Demands:
    """What the clouds of this cluster ask; of several, what any of them says last, as in kops."""
    given = _given(cluster)
    if len(given) == 1:
        return DEMANDS[given[0]]
    plain = Demands()
    changed: dict[str, bool] = {}
    for cloud in given or [""]:
        for name in Demands.__slots__:
            if getattr(DEMANDS[cloud], name) != getattr(plain, name):
                changed[name] = getattr(DEMANDS[cloud], name)
    return Demands(**changed)


def _given(cluster: Cluster) -> list[str]:
    given = [cloud for cloud in CLOUDS if cluster.provider(cloud) is not None]
    return [*given, "metal"] if cluster.cloud == "metal" else given


@rules("validation.go:validateCloudProvider", "cloud-required", "one-cloud")
def cloud_providers(cluster: Cluster) -> Iterator[Finding]:
    path = SPEC.child("cloudProvider")
    given = _given(cluster)
    if not given:
        yield required(path, f"one of {', '.join(CLOUDS)}", rule="cloud-required")
    for cloud in given[1:]:
        yield forbidden(path.child(cloud), f"one cloud, not {len(given)}: {', '.join(given)}", rule="one-cloud")


@rules("gce.go:gceValidateCluster", "gce-subnet-zone")
def gce_cluster(cluster: Cluster) -> Iterator[Finding]:
    for index, subnet in enumerate(cluster.subnets):
        if text(subnet, "zone"):
            path = SPEC.child("networking", "subnets").index(index).child("zone")
            yield invalid(path, text(subnet, "zone"), "subnets of GCE belong to a region, not to a zone")


@rules("linode.go:linodeValidateCluster", "linode-name-length")
def linode_cluster(cluster: Cluster) -> Iterator[Finding]:
    if len(cluster.name.encode()) > LINODE_NAME_MAX:
        path = "objectMeta.name"
        yield invalid(path, cluster.name, f"on Linode a cluster's name has at most {LINODE_NAME_MAX} characters")


def blob_account(value: str) -> str:
    """The storage account of an azureblob:// URL, "" when the URL is incomplete.

    Source: kops util/pkg/vfs/context.go:buildAzureBlobPath.
    """
    parsed = url(value)
    account = parsed.host.removesuffix("/") if parsed else ""
    container = parsed.path.removeprefix("/").partition("/")[0] if parsed else ""
    return account if container else ""


@rules(
    "validation.go:validateAzureBlobAccountUniformity",
    "azure-store-url",
    "azure-store-elsewhere",
    "azure-store-account",
)
def azure_accounts(cluster: Cluster) -> Iterator[Finding]:
    """Every azureblob:// URL of a cluster names the account of configStore.base."""
    store = SPEC.child("configStore")
    incomplete = "expected azureblob://ACCOUNT/CONTAINER/KEY"
    base = text(cluster.spec, "configStore", "base")
    account = ""
    if base.startswith(AZURE_SCHEME):
        account = blob_account(base)
        if not account:
            yield invalid(store.child("base"), base, incomplete, rule="azure-store-url")
            return
    others = [(store.child(name), text(cluster.spec, "configStore", name)) for name in ("keypairs", "secrets")]
    for index, etcd in enumerate(items(cluster.spec, "etcdClusters")):
        if get(etcd, "backups") is not None:
            path = SPEC.child("etcdClusters").index(index).child("backups", "backupStore")
            others.append((path, text(etcd, "backups", "backupStore")))
    for path, value in others:
        if not value.startswith(AZURE_SCHEME):
            continue
        mine = blob_account(value)
        if not mine:
            yield invalid(path, value, incomplete, rule="azure-store-url")
        elif not account:
            yield invalid(path, value, "configStore.base is not azureblob://", rule="azure-store-elsewhere")
        elif mine != account:
            detail = f"configStore.base is in storage account {account}"
            yield invalid(path, value, detail, rule="azure-store-account")
