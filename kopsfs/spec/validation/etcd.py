"""Can these etcd clusters have a quorum, and do they agree on a version?

Source: kops pkg/apis/kops/validation/validation.go:validateEtcdClusterSpec, validateEtcdBackupStore, validateEtcdStorage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.values import version
from kopsfs.spec.validation.view import SPEC, Cluster, items, text

NAMES = ("cilium", "main", "events", "leases")


def etcd_clusters(cluster: Cluster) -> Iterator[Finding]:
    """Each etcd cluster, then what holds among them."""
    path = SPEC.child("etcdClusters")
    found = items(cluster.spec, "etcdClusters")
    yield from etcd_given(found, path)
    for index, etcd in enumerate(found):
        where = path.index(index)
        yield from etcd_names(etcd, where)
        yield from etcd_members(items(etcd, "etcdMembers"), where.child("etcdMembers"))
        yield from etcd_version(etcd, where)
    yield from etcd_together(found, path)


@rules("validation.go:validateClusterSpec", "etcd-required")
def etcd_given(found: Sequence[dict[str, Any]], path: Path) -> Iterator[Finding]:
    if not found:
        yield required(path, "a cluster has the etcd clusters main and events")


@rules("validation.go:validateEtcdClusterSpec", "etcd-name", "etcd-provider")
def etcd_names(etcd: dict[str, Any], path: Path) -> Iterator[Finding]:
    yield from one_of(path.child("name"), text(etcd, "name"), NAMES, "etcd-name")
    if text(etcd, "provider"):
        yield from one_of(path.child("provider"), text(etcd, "provider"), ("Manager",), "etcd-provider")


@rules(
    "validation.go:validateEtcdClusterSpec",
    "etcd-members",
    "etcd-members-odd",
    "etcd-member-name",
    "etcd-member-group",
)
def etcd_members(members: Sequence[dict[str, Any]], path: Path) -> Iterator[Finding]:
    """An odd number, each with a name and an instance group."""
    if not members:
        yield required(path, "an etcd cluster has members", rule="etcd-members")
    elif len(members) % 2 == 0:
        yield invalid(path, len(members), "an odd number of members makes a quorum", rule="etcd-members-odd")
    for index, member in enumerate(members):
        where = path.index(index)
        if not text(member, "name"):
            yield required(where.child("name"), "the member's name", rule="etcd-member-name")
        if not text(member, "instanceGroup"):
            yield required(where.child("instanceGroup"), "the instance group it runs on", rule="etcd-member-group")


@rules(
    "validation.go:validateEtcdVersion",
    "etcd-image-version",
    "etcd-version",
    "etcd-version-major",
)
def etcd_version(etcd: dict[str, Any], path: Path) -> Iterator[Finding]:
    value = text(etcd, "version")
    where = path.child("version")
    if text(etcd, "image") and not value:
        yield required(where, "an image of your own needs its version said", rule="etcd-image-version")
    if not value:
        return
    parsed = version(value.removeprefix("v"))
    if parsed is None:
        yield invalid(where, value, "not a semantic version", rule="etcd-version")
    elif parsed.major != 3:
        yield invalid(where, value, "only etcd 3 is known", rule="etcd-version-major")


@rules("validation.go:validateEtcdBackupStore", "etcd-twice", "etcd-versions-differ")
def etcd_together(found: Sequence[dict[str, Any]], path: Path) -> Iterator[Finding]:
    """No two of one name, all of one version; kops reports the former at the first of them, as `backupStore`."""
    seen: set[str] = set()
    for index, etcd in enumerate(found):
        name, value, first = text(etcd, "name"), text(etcd, "version"), text(found[0], "version")
        if name in seen:
            detail = f"two etcd clusters {name} would share one backup store"
            yield forbidden(path.index(0).child("backupStore"), detail, rule="etcd-twice")
        seen.add(name)
        if value and value != first:
            detail = f"{value} is not the version of the first etcd cluster, {first or '(none)'}"
            yield forbidden(path.index(index).child("version"), detail, rule="etcd-versions-differ")
