"""May a stored cluster become this one?

Source: kops pkg/apis/kops/validation/cluster.go:ValidateClusterUpdate and the functions it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden
from kopsfs.spec.validation.groupcloud import cloud_labels
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.view import SPEC, Cluster, fields, items, text


def validate_update(old: Cluster, new: Cluster, *, created: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """What `new` may not change, besides being a cluster kops takes.

    Args:
        old: what the store holds.
        new: what is to be written.
        created: names of the etcd clusters that exist in the cloud already; their members and image are fixed.
    """
    yield from etcd_removed(old, new)
    before = _by_name(items(old.spec, "etcdClusters"))
    for name, etcd in _by_name(items(new.spec, "etcdClusters")).items():
        if name in before and name in created:
            path = SPEC.child("etcdClusters").key(name)
            yield from etcd_image(before[name], etcd, path)
            yield from etcd_moved(before[name], etcd, path.child("etcdMembers"))
    yield from cloud_labels(fields(new.spec, "cloudLabels"))


def _by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {text(entry, "name"): entry for entry in entries}


@rules("cluster.go:ValidateClusterUpdate", "etcd-removed")
def etcd_removed(old: Cluster, new: Cluster) -> Iterator[Finding]:
    kept = _by_name(items(new.spec, "etcdClusters"))
    for name in _by_name(items(old.spec, "etcdClusters")):
        if name not in kept:
            yield forbidden(SPEC.child("etcdClusters").key(name), "an etcd cluster cannot be taken out")


@rules("cluster.go:validateEtcdClusterUpdate", "etcd-image-changed", "etcd-version-of-image")
def etcd_image(old: dict[str, Any], new: dict[str, Any], path: Path) -> Iterator[Finding]:
    image = text(new, "image")
    if image != text(old, "image"):
        detail = "an image can be chosen when the etcd cluster is made, not later"
        yield forbidden(path.child("image"), detail, rule="etcd-image-changed")
    if image and text(new, "version") != text(old, "version"):
        detail = "with an image of your own the version stays"
        yield forbidden(path.child("version"), detail, rule="etcd-version-of-image")


@rules("cluster.go:validateEtcdMemberUpdate", "etcd-member-moved")
def etcd_moved(old: dict[str, Any], new: dict[str, Any], path: Path) -> Iterator[Finding]:
    before = _by_name(items(old, "etcdMembers"))
    for name, member in _by_name(items(new, "etcdMembers")).items():
        if name in before and text(member, "instanceGroup") != text(before[name], "instanceGroup"):
            detail = f"member {name} stays on {text(before[name], 'instanceGroup')}"
            yield forbidden(path.key(name).child("instanceGroup"), detail)
