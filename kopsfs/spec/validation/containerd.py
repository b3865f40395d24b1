"""Is this a containerd kops can install, with settings it has?

Source: kops pkg/apis/kops/validation/validation.go:validateContainerdConfig and the functions it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden, invalid
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.values import Version, duration_ns, tolerant_version, url, version
from kopsfs.spec.validation.view import Cluster, flag, get, text

OLDEST = Version(2, 1, 0)
OLDEST_WITH_NRI = Version(1, 7, 0)
HASH_LENGTH = 64


def containerd(cluster: Cluster, data: dict[str, Any], path: Path, *, in_cluster: bool) -> Iterator[Finding]:
    """Everything below containerd of a cluster or a group."""
    yield from containerd_version(data, path)
    if flag(data, "nri", "enabled"):
        yield from nri(data, path.child("nri"))
    for suffix, arch in (("", "Amd64"), ("Arm64", "Arm64")):
        yield from package(data, path, suffix, arch)
    yield from nvidia(cluster, data, path.child("nvidia"), in_cluster=in_cluster)
    yield from gvisor(data, path.child("gvisor"), in_cluster=in_cluster)


@rules("validation.go:validateContainerdConfig", "containerd-version", "containerd-version-old")
def containerd_version(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    value = get(data, "version")
    if value is None:
        return
    parsed = tolerant_version(value)
    if parsed is None:
        yield invalid(path.child("version"), value, "not a semantic version", rule="containerd-version")
    elif parsed < OLDEST:
        yield invalid(path.child("version"), value, "containerd 2.1.0 or newer", rule="containerd-version-old")


@rules("validation.go:validateNriConfig", "nri-timeout", "nri-version", "nri-version-old")
def nri(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    for name in ("pluginRequestTimeout", "pluginRegistrationTimeout"):
        value = get(data, "nri", name)
        if value is not None and (duration_ns(value) or 0) <= 0:
            yield invalid(path.child(name), value, "has to be longer than nothing", rule="nri-timeout")
    parsed = version(text(data, "version"))
    if parsed is None:
        yield invalid(path.child("version"), text(data, "version"), "not a semantic version", rule="nri-version")
    if parsed is None or parsed < OLDEST_WITH_NRI:
        yield forbidden(path, "containerd 1.7.0 or newer has NRI", rule="nri-version-old")


@rules(
    "validation.go:validateContainerdConfig", "package-url", "package-hash", "package-url-alone", "package-hash-alone"
)
def package(data: dict[str, Any], path: Path, suffix: str, arch: str) -> Iterator[Finding]:
    """A containerd of one's own: URL and hash, for one architecture."""
    place, digest = get(data, "packages", f"url{arch}"), get(data, "packages", f"hash{arch}")
    url_path, hash_path = path.child(f"packageUrl{suffix}"), path.child(f"packageHash{suffix}")
    if place is not None and digest is not None:
        if url(place) is None:
            yield invalid(url_path, place, "not a URL", rule="package-url")
        if len(digest) > HASH_LENGTH:
            yield invalid(hash_path, digest, f"a hash has {HASH_LENGTH} characters", rule="package-hash")
    elif place is not None:
        yield invalid(url_path, place, "needs the package's hash", rule="package-url-alone")
    elif digest is not None:
        yield invalid(hash_path, digest, "needs the package's URL", rule="package-hash-alone")


@rules("validation.go:validateNvidiaConfig", "nvidia-cloud", "nvidia-openstack")
def nvidia(cluster: Cluster, data: dict[str, Any], path: Path, *, in_cluster: bool) -> Iterator[Finding]:
    if not flag(data, "nvidiaGPU", "enabled"):
        return
    if cluster.cloud not in {"aws", "openstack"}:
        yield forbidden(path, "is for AWS and OpenStack only", rule="nvidia-cloud")
    if cluster.cloud == "openstack" and in_cluster:
        yield forbidden(path, "on OpenStack it belongs into the instance groups", rule="nvidia-openstack")


@rules("validation.go:validateGVisorConfig", "gvisor-cluster")
def gvisor(data: dict[str, Any], path: Path, *, in_cluster: bool) -> Iterator[Finding]:
    if in_cluster and get(data, "gvisor") is not None:
        yield forbidden(path, "gVisor belongs into the instance groups")
