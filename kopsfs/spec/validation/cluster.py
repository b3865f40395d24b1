"""Would kops take this cluster?

`validate_cluster` is kops's ValidateCluster: everything wrong with one cluster, in kops's order, except that without a
readable Kubernetes version nothing else is looked at.

Source: kops pkg/apis/kops/validation/legacy.go:ValidateCluster, validation.go:newValidateCluster and validateClusterSpec.
"""

from __future__ import annotations

from collections.abc import Iterator

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.addons import addons
from kopsfs.spec.validation.api import access_lists, api_load_balancer
from kopsfs.spec.validation.aws import aws_cluster, aws_provider
from kopsfs.spec.validation.clouds import azure_accounts, cloud_providers, gce_cluster, linode_cluster
from kopsfs.spec.validation.components import apiserver, controller_manager, kube_proxy, kubelet, scheduler
from kopsfs.spec.validation.containerd import containerd
from kopsfs.spec.validation.discovery import issuer_discovery
from kopsfs.spec.validation.dns import kube_dns
from kopsfs.spec.validation.etcd import etcd_clusters
from kopsfs.spec.validation.iam import cluster_iam, policies
from kopsfs.spec.validation.metadata import cluster_metadata
from kopsfs.spec.validation.networking import networking
from kopsfs.spec.validation.node import file_asset, hook, rolling_update, sysctls, update_policy
from kopsfs.spec.validation.rule import Removed, check_removed, enter, one_of, rules
from kopsfs.spec.validation.values import Version, belongs_to, kubernetes_version, network, url
from kopsfs.spec.validation.view import SPEC, Cluster, fields, get, items, text

COMPLETED = (
    "kubelet", "controlPlaneKubelet", "kubeControllerManager", "kubeDNS", "kubeScheduler", "kubeAPIServer", "kubeProxy",
)  # fmt: skip
"""What a completed cluster has to have."""

COMPONENT_CLOUDS = {
    "aws": "aws", "gce": "gce", "do": "external", "hetzner": "external", "openstack": "openstack", "azure": "azure",
    "scaleway": "external", "linode": "external",
}  # fmt: skip
"""What a component's cloudProvider may be besides `external`."""

API_SERVER_CLOUD_UNTIL = Version(1, 33, 0, ("alpha", "3"))
GOSSIP = "gossip DNS is gone since kops 1.37; take this field out"
DOCKER = "Docker is gone since Kubernetes 1.24; containerd is the only runtime"

CLUSTER_REMOVED = (
    Removed("gossip-config", "gossipConfig", GOSSIP),
    Removed("dns-controller-gossip-config", "dnsControllerGossipConfig", GOSSIP),
)
enter("validation.go:validateClusterSpec", [row.rule for row in CLUSTER_REMOVED])


def validate_cluster(cluster: Cluster) -> Iterator[Finding]:
    """All findings of a cluster; only the one on its Kubernetes version where that cannot be read."""
    version = kubernetes_version(text(cluster.spec, "kubernetesVersion"))
    if version is None:
        yield from kubernetes_version_given(cluster)
        return
    yield from completed_parts(cluster)
    yield from cluster_cidr(cluster)
    yield from kube_dns(cluster)
    yield from component_clouds(cluster, version)
    yield from cluster_metadata(cluster)
    yield from cluster_spec(cluster)
    match cluster.cloud:
        case "aws":
            yield from aws_cluster(cluster)
        case "gce":
            yield from gce_cluster(cluster)
        case "linode":
            yield from linode_cluster(cluster)
        case _:
            pass
    yield from issuer_discovery(cluster)


@rules("legacy.go:ValidateCluster", "kubernetes-version-required", "kubernetes-version")
def kubernetes_version_given(cluster: Cluster) -> Iterator[Finding]:
    value = text(cluster.spec, "kubernetesVersion")
    path = SPEC.child("kubernetesVersion")
    if not value:
        yield required(path, "every other rule depends on it", rule="kubernetes-version-required")
    elif kubernetes_version(value) is None:
        yield invalid(path, value, "not a version of Kubernetes, such as 1.36.3", rule="kubernetes-version")


@rules("legacy.go:ValidateCluster", "completed-component")
def completed_parts(cluster: Cluster) -> Iterator[Finding]:
    for name in COMPLETED if cluster.strict else ():
        if get(cluster.spec, name) is None:
            yield required(SPEC.child(name), "a completed cluster has it")


@rules("legacy.go:ValidateCluster", "cluster-cidr", "cluster-cidr-inside")
def cluster_cidr(cluster: Cluster) -> Iterator[Finding]:
    value = text(cluster.spec, "kubeControllerManager", "clusterCIDR")
    if not value:
        return
    path = SPEC.child("kubeControllerManager", "clusterCIDR")
    mine, outer = network(value), network(text(cluster.networking, "nonMasqueradeCIDR"))
    if mine is None:
        yield invalid(path, value, "not a CIDR", rule="cluster-cidr")
    elif outer is not None and not belongs_to(outer, mine):
        detail = f"{value} is not inside nonMasqueradeCIDR {outer}"
        yield forbidden(path, detail, rule="cluster-cidr-inside")


@rules("legacy.go:ValidateCluster", "component-cloud-provider")
def component_clouds(cluster: Cluster, version: Version) -> Iterator[Finding]:
    expected = COMPONENT_CLOUDS.get(cluster.cloud)
    if expected is None:
        return
    for name in ("kubelet", "controlPlaneKubelet", "kubeAPIServer", "kubeControllerManager"):
        component = get(cluster.spec, name)
        if component is None or (name == "kubeAPIServer" and not version < API_SERVER_CLOUD_UNTIL):
            continue
        value = text(component, "cloudProvider")
        if (cluster.strict or value) and value not in {"external", expected}:
            yield forbidden(SPEC.child(name, "cloudProvider"), f"expected external or {expected}")


def cluster_spec(cluster: Cluster) -> Iterator[Finding]:
    """Source: validation.go:validateClusterSpec."""
    spec = cluster.spec
    yield from cloud_providers(cluster)
    if cluster.provider("aws") is not None:
        yield from aws_provider(cluster)
    yield from check_removed(CLUSTER_REMOVED, spec, SPEC)
    yield from access_lists(cluster)
    yield from update_policy(spec)
    for index, entry in enumerate(items(spec, "hooks")):
        yield from hook(entry, SPEC.child("hooks").index(index))
    for index, entry in enumerate(items(spec, "fileAssets")):
        yield from file_asset(entry, SPEC.child("fileAssets").index(index))
    yield from control_plane_components(cluster)
    yield from networking(cluster, SPEC.child("networking"))
    yield from addons(cluster)
    yield from policies(cluster)
    yield from etcd_clusters(cluster)
    yield from azure_accounts(cluster)
    yield from container_runtime(cluster)
    if get(spec, "containerd") is not None:
        yield from containerd(cluster, spec["containerd"], SPEC.child("containerd"), in_cluster=True)
    yield from assets(cluster)
    yield from sysctls(spec)
    if get(spec, "rollingUpdate") is not None:
        yield from rolling_update(spec["rollingUpdate"], SPEC.child("rollingUpdate"), control_plane=False)
    yield from api_load_balancer(cluster)
    yield from storage_classes(cluster)
    yield from cluster_iam(cluster)


def control_plane_components(cluster: Cluster) -> Iterator[Finding]:
    """The settings of what runs on a node, where they are there."""
    spec = cluster.spec
    if get(spec, "kubeAPIServer") is not None:
        yield from apiserver(cluster, SPEC.child("kubeAPIServer"))
    yield from controller_manager(cluster, SPEC.child("kubeControllerManager"))
    yield from scheduler(cluster, SPEC.child("kubeScheduler"))
    yield from kube_proxy(cluster, SPEC.child("kubeProxy"))
    yield from kubelet(fields(spec, "kubelet"), SPEC.child("kubelet"))
    yield from kubelet(fields(spec, "controlPlaneKubelet"), SPEC.child("controlPlaneKubelet"))


@rules("validation.go:validateContainerRuntime", "container-runtime", "container-runtime-docker", "docker")
def container_runtime(cluster: Cluster) -> Iterator[Finding]:
    runtime = text(cluster.spec, "ContainerRuntime")
    path = SPEC.child("containerRuntime")
    if runtime:
        yield from one_of(path, runtime, ("containerd", "docker"), "container-runtime")
    if runtime == "docker":
        yield forbidden(path, DOCKER, rule="container-runtime-docker")
    if get(cluster.spec, "Docker") is not None:
        yield forbidden(SPEC.child("docker"), DOCKER, rule="docker")


@rules("validation.go:validateClusterSpec", "assets-proxy-and-registry")
def assets(cluster: Cluster) -> Iterator[Finding]:
    path = SPEC.child("assets")
    if (
        get(cluster.spec, "assets", "containerProxy") is not None
        and get(cluster.spec, "assets", "containerRegistry") is not None
    ):
        yield forbidden(path.child("containerProxy"), "containerProxy and containerRegistry exclude each other")
    repository = get(cluster.spec, "assets", "fileRepository")
    if repository is not None:
        yield from file_repository(repository, path.child("fileRepository"), cluster.cloud)


@rules(
    "validation.go:validateFileRepository",
    "file-repository",
    "file-repository-scheme",
    "file-repository-cloud",
    "file-repository-container",
    "file-repository-host",
)
def file_repository(value: str, path: Path, cloud: str) -> Iterator[Finding]:
    """Where binaries are copied to: only what the nodes of the cloud can read from."""
    parsed = url(value)
    if parsed is None:
        yield invalid(path, value, "not a URL", rule="file-repository")
        return
    clouds = {"gs": "gce", "s3": "aws", "azureblob": "azure"}
    if parsed.scheme in clouds:
        if cloud != clouds[parsed.scheme]:
            detail = f"nodes of {clouds[parsed.scheme]} only can read {parsed.scheme}://"
            yield invalid(path, value, detail, rule="file-repository-cloud")
        if parsed.scheme == "azureblob" and not parsed.path.removeprefix("/").partition("/")[0]:
            detail = "needs a container: azureblob://ACCOUNT/CONTAINER/PATH"
            yield invalid(path, value, detail, rule="file-repository-container")
    elif parsed.scheme not in {"http", "https"}:
        detail = "expected http, https, gs, s3 or azureblob"
        yield invalid(path, value, detail, rule="file-repository-scheme")
    if not parsed.host:
        yield invalid(path, value, "has no host", rule="file-repository-host")


@rules("validation.go:validateCloudConfiguration", "storage-classes-disagree")
def storage_classes(cluster: Cluster) -> Iterator[Finding]:
    managed = get(cluster.spec, "cloudConfig", "manageStorageClasses")
    created = get(cluster.provider("openstack"), "blockStorage", "createStorageClass")
    if managed is not None and created is not None and managed != created:
        detail = "says something else than openstack.blockStorage.createStorageClass"
        yield forbidden(SPEC.child("cloudConfig", "manageStorageClasses"), detail)
