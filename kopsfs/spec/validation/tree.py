"""What is wrong with a cluster's tree that kops cannot see?

kops reads one file at a time and believes it. Here the files of a cluster are looked at together: what does not belong there,
what does not fit together, what is older than what it was made from. Every rule can be left out by name.

Source: kops pkg/client/simple/vfsclientset, pkg/apis/kops/registry; upup/pkg/fi/nodeup/command.go (the hash of the node
configuration), upup/pkg/fi/cloudup/bootstrapchannelbuilder/addonmanifest.go (the hash of an addon).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from kopsfs.spec import conversion
from kopsfs.spec.conversion import Object
from kopsfs.spec.document import Document, read
from kopsfs.spec.field import Finding, Kind, Path, Position, RefusedError, Severity, invalid, not_found
from kopsfs.spec.validation.keysets import keyset
from kopsfs.spec.validation.manifest import Found
from kopsfs.spec.validation.places import KINDS, LEFTOVER, TOLERATED, Place, Role, role_of
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.spelling import document_path
from kopsfs.spec.validation.structure import file_findings, scrubbed
from kopsfs.spec.validation.values import Network, network, overlap, version
from kopsfs.spec.validation.view import CONTROL_PLANE, SPEC, Cluster, Group, items, text

CLUSTER_LABEL: Final = "kops.k8s.io/cluster"
COMPLETED: Final = "cluster-completed.spec"
BOOTSTRAP: Final = "addons/bootstrap-channel.yaml"
KEYSETS: Final = ("kubernetes-ca", "apiserver-aggregator-ca", "service-account")
"""What every cluster has once kops has applied it.  Source: kops pkg/model/pki.go."""

OLD_NAMES: Final = {"kubernetes-ca": "ca", "service-account": "master"}
"""Source: kops upup/pkg/fi/vfs_keystorereader.go:legacyKeysetMappings."""

NODE_FOLDERS: Final = {CONTROL_PLANE: ("control-plane", "master")}
SCRIPT_HASH: Final = re.compile(rb"^NodeupConfigHash: *(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ClusterTree:
    """The files of one cluster.

    Attributes:
        name: the cluster's path in the store.
        paths: of all files but backups, below the cluster.
        read: the content of a file.
        now: the time certificates are judged by.
        url: of the store, "" where it is not known.
        modified: when a file was last changed, in seconds; 0 where that is not known.
        hashes: by group, the hash its nodes were told to expect of their `nodeupconfig.yaml`.
        neighbours: the networks of the store's other clusters.
    """

    name: str
    paths: tuple[str, ...]
    read: Callable[[str], bytes]
    now: datetime
    url: str = ""
    modified: Callable[[str], float] = lambda _path: 0.0
    hashes: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[str, Network] = field(default_factory=dict)

    def at(self, path: str) -> Position:
        """The beginning of a file."""
        return Position(f"{self.name}/{path}", 1, 1)


@dataclass(slots=True)
class Contents:
    """What the files of a tree hold, as far as they can be read; path → object."""

    tree: ClusterTree
    cluster: Object | None = None
    completed: Object | None = None
    groups: dict[str, Object] = field(default_factory=dict)

    def view(self) -> Cluster | None:
        """The cluster as the rules see it."""
        return Cluster(self.cluster.data) if self.cluster else None

    def position(self, subject: Object | None, field_name: str) -> Position | None:
        """Where a field of an object stands."""
        if subject is None or subject.document is None:
            return None
        return subject.document.position(document_path(field_name, subject))


def check(tree: ClusterTree) -> list[Found]:
    """Everything wrong with the tree of one cluster."""
    found: list[Finding] = []
    contents = Contents(tree)
    for path in tree.paths:
        role, name = role_of(path)
        here = list(file(tree, Place(role, tree.name, path, name)))
        found += here
        if role in KINDS and not any(entry.severity is Severity.ERROR for entry in here):
            _take(contents, role, path)
    for rule in (
        names, group_files, config_base, applied, kops_version, node_configs, addon_manifests, etcd_placement, neighbours,
    ):  # fmt: skip
        found += rule(contents)
    return [Found(finding, "tree") for finding in found]


def _take(contents: Contents, role: Role, path: str) -> None:
    """Keep the object of a file that can be read."""
    tree = contents.tree
    try:
        documents: list[Document] = read(tree.read(path), f"{tree.name}/{path}")
        subject = conversion.decode(documents[0])
    except RefusedError:
        return  # a field of another cloud: `validate` says so
    if role is Role.CONFIG:
        contents.cluster = subject
    elif role is Role.COMPLETED:
        contents.completed = subject
    elif role is Role.GROUP:
        contents.groups[path] = subject


# --- single files -----------------------------------------------------------------------------------------------------


@rules("vfsclientset/clientset.go:DeleteAllClusterState", "leftover", "stray-file", "out-of-place")
def file(tree: ClusterTree, where: Place) -> Iterator[Finding]:
    """Does it belong here, and is it what belongs here?"""
    path, position = where.below, tree.at(where.below)
    if LEFTOVER.fullmatch(path):
        detail = "an editor or a tool left this behind; kops takes it for one of its own files"
        yield Finding(Kind.FORBIDDEN, "", detail, rule="leftover", position=position)
        return
    if not TOLERATED.fullmatch(path):
        detail = "does not belong to a cluster; `kops delete cluster` refuses while it is there"
        yield Finding(Kind.FORBIDDEN, "", detail, rule="stray-file", position=position)
        return
    if where.role is Role.UNKNOWN:
        detail = "nothing reads a file here"
        yield Finding(Kind.FORBIDDEN, "", detail, rule="out-of-place", position=position, severity=Severity.WARNING)
        return
    if where.role is Role.OLD_KEY or (where.role is Role.COMPLETED and path != COMPLETED):
        return
    name = f"{tree.name}/{path}"
    broken = False
    for finding in file_findings(where, _content(tree, where), name):
        broken = broken or finding.severity is Severity.ERROR
        yield finding if finding.position else replace(finding, position=position)
    if where.role is Role.KEYSET and not broken:
        yield from map(scrubbed, keyset(read(tree.read(path), name)[0], where.name, tree.now))
    elif where.role is Role.SSH_KEY:
        yield from ssh_key(tree.read(path), where.name.rpartition("/")[2], position)


def _content(tree: ClusterTree, where: Place) -> bytes:
    """Only what is looked into is read."""
    looked_into = where.role in KINDS or where.role in {Role.OBJECTS, Role.SECRET}
    return tree.read(where.below) if looked_into else b""


@rules("upup/pkg/fi/vfs_castore.go:AddSSHPublicKey", "ssh-key", "ssh-key-name")
def ssh_key(data: bytes, name: str, position: Position) -> Iterator[Finding]:
    """An OpenSSH public key, in a file called by its MD5 fingerprint."""
    words = data.split()
    try:
        blob = base64.b64decode(words[1], validate=True) if len(words) > 1 else b""
    except ValueError:
        blob = b""
    if not blob or blob[4 : 4 + len(words[0])] != words[0]:
        yield Finding(Kind.INVALID, "", "not an OpenSSH public key", rule="ssh-key", position=position)
        return
    fingerprint = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    if name.replace(":", "") != fingerprint:
        detail = f"the key's fingerprint is {fingerprint}"
        yield Finding(Kind.INVALID, "", detail, name, "ssh-key-name", Severity.WARNING, position)


# --- names ------------------------------------------------------------------------------------------------------------


@rules("vfsclientset/cluster.go:find", "name-of-directory", "completed-name")
def names(contents: Contents) -> Iterator[Finding]:
    """kops only warns, and then reads and writes another directory than it lists."""
    path = Path("metadata", "name")
    for subject, rule in ((contents.cluster, "name-of-directory"), (contents.completed, "completed-name")):
        if subject is not None and subject.name != contents.tree.name:
            position = contents.position(subject, "metadata.name")
            detail = f"the directory is called {contents.tree.name}"
            yield invalid(path, subject.name, detail, rule=rule, position=position)


@rules("vfsclientset/instancegroup.go", "group-name-of-file", "group-label")
def group_files(contents: Contents) -> Iterator[Finding]:
    """A group is found by its file, and known by the name in it."""
    for file_path, group in contents.groups.items():
        name = file_path.rpartition("/")[2]
        if group.name != name:
            position = contents.position(group, "metadata.name")
            detail = f"the file is called {name}"
            yield invalid(Path("metadata", "name"), group.name, detail, rule="group-name-of-file", position=position)
        label = text(group.data, "metadata", "labels", CLUSTER_LABEL)
        if label != contents.tree.name:
            position = contents.position(group, "metadata.labels")
            detail = f"the label {CLUSTER_LABEL} names the cluster, {contents.tree.name}"
            yield invalid(Path("metadata", "labels"), label, detail, rule="group-label", position=position)


@rules("", "config-base")
def config_base(contents: Contents) -> Iterator[Finding]:
    """kops finds the cluster in the store, and then reads everything else where this points."""
    cluster = contents.view()
    base = text(cluster.spec, "configStore", "base").rstrip("/") if cluster else ""
    expected = f"{contents.tree.url.rstrip('/')}/{contents.tree.name}"
    if contents.tree.url and base and base != expected:
        position = contents.position(contents.cluster, "spec.configStore.base")
        path = SPEC.child("configStore", "base")
        yield invalid(path, base, f"this tree is {expected}", rule="config-base", position=position)


# --- what kops wrote --------------------------------------------------------------------------------------------------


@rules("pkg/model/pki.go", "completed-old", "keyset-missing", "completed-missing")
def applied(contents: Contents) -> Iterator[Finding]:
    """What `kops update cluster --yes` leaves; nothing is expected before it has run."""
    tree = contents.tree
    if "kops-version.txt" not in tree.paths:
        return
    if COMPLETED not in tree.paths:
        detail = "kops has applied this cluster, but its completed spec is gone"
        yield not_found("", COMPLETED, detail, rule="completed-missing", position=tree.at(COMPLETED))
    elif tree.modified("config") > tree.modified(COMPLETED) > 0:
        detail = "older than config: `kops update cluster --yes` has not run since"
        yield Finding(Kind.INVALID, "", detail, None, "completed-old", Severity.WARNING, tree.at(COMPLETED))
    for name in KEYSETS:
        known = [name, *([OLD_NAMES[name]] if name in OLD_NAMES else [])]
        if not any(f"pki/private/{each}/keyset.yaml" in tree.paths for each in known):
            path = f"pki/private/{name}/keyset.yaml"
            yield not_found("", name, "a cluster has this keyset", rule="keyset-missing", position=tree.at(path))


@rules("upup/pkg/fi/cloudup/apply_cluster.go:Run", "kops-version")
def kops_version(contents: Contents) -> Iterator[Finding]:
    """kops stops with an error when it cannot read which version applied the cluster last."""
    path = "kops-version.txt"
    if path in contents.tree.paths:
        value = contents.tree.read(path)[:100].decode("utf-8", "replace").strip()
        if version(value) is None:
            yield invalid("", value, "not a version of kops, such as 1.34.0", position=contents.tree.at(path))


@rules("upup/pkg/fi/nodeup/command.go:Run", "node-config-missing", "node-config-orphan", "node-config-hash")
def node_configs(contents: Contents) -> Iterator[Finding]:
    """A node refuses its configuration when the hash in its user data is another one, and never joins."""
    tree = contents.tree
    expected: set[str] = set()
    for path, group in contents.groups.items():
        view = Group(group.data)
        folders = NODE_FOLDERS.get(view.role, (view.role.lower(),))
        called = dict.fromkeys((view.name, path.rpartition("/")[2]))
        places = [f"igconfig/{folder}/{name}/nodeupconfig.yaml" for folder in folders for name in called]
        there = [place for place in places if place in tree.paths]
        expected.update(place.rpartition("/")[0] for place in places)
        if not there and "kops-version.txt" in tree.paths and view.role != "Bastion":
            detail = "`kops update cluster --yes` has not written its node configuration yet"
            yield Finding(Kind.NOT_FOUND, "", detail, None, "node-config-missing", Severity.WARNING, tree.at(path))
        for place in there:
            yield from _hash(tree, place, view.name)
    for path in tree.paths:
        folder, _, name = path.rpartition("/")
        if name == "nodeupconfig.yaml" and folder.startswith("igconfig/") and folder not in expected:
            detail = f"there is no instance group {folder.rpartition('/')[2]} of this role"
            yield Finding(Kind.FORBIDDEN, "", detail, None, "node-config-orphan", Severity.WARNING, tree.at(path))


def node_config_hash(data: bytes) -> str:
    """The hash in the user data of the nodes: base64 of the SHA-256 of the file's bytes.  Source: bootstrapscript.go."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")


def _hash(tree: ClusterTree, path: str, group: str) -> Iterator[Finding]:
    told = tree.hashes.get(group)
    script = f"{path.rpartition('/')[0]}/nodeupscript.sh"
    if told is None and script in tree.paths:
        match = SCRIPT_HASH.search(tree.read(script))
        told = match[1].decode("ascii", "replace") if match else None
    mine = node_config_hash(tree.read(path)) if told is not None else None
    if mine != told:
        detail = f"its hash is {mine}, the nodes were told {told}: they will not start"
        yield Finding(Kind.INVALID, "", detail, rule="node-config-hash", position=tree.at(path))


@rules("upup/pkg/fi/cloudup/bootstrapchannelbuilder/addonmanifest.go:Normalize", "addon-missing", "addon-hash")
def addon_manifests(contents: Contents) -> Iterator[Finding]:
    """The bootstrap channel names every addon's file, and the hash it was written with."""
    tree = contents.tree
    if BOOTSTRAP not in tree.paths:
        return
    try:
        documents = read(tree.read(BOOTSTRAP), f"{tree.name}/{BOOTSTRAP}")
    except RefusedError as error:
        yield from (replace(finding, rule="addon-missing") for finding in error.findings)
        return
    for document in documents:
        for number, addon in enumerate(items(document.data, "spec", "addons")):
            name, told = text(addon, "manifest"), text(addon, "manifestHash")
            path = f"addons/{name}"
            if not name or "://" in name:
                continue
            if path not in tree.paths:
                position = document.position(SPEC.child("addons").index(number).child("manifest"))
                detail = "the channel installs this addon, and its manifest is gone"
                yield not_found("", name, detail, rule="addon-missing", position=position)
            elif told and hashlib.sha256(tree.read(path).strip()).hexdigest() != told:
                detail = "is not what kops wrote: its hash is not the channel's"
                yield Finding(Kind.INVALID, "", detail, rule="addon-hash", position=tree.at(path))


# --- etcd and networks ------------------------------------------------------------------------------------------------


@rules("", "etcd-group-missing", "etcd-zone-majority")
def etcd_placement(contents: Contents) -> Iterator[Finding]:
    """Each member has its group, and no zone has a majority of them while there are other zones."""
    cluster = contents.view()
    if cluster is None:
        return
    groups = {group.name: Group(group.data) for group in contents.groups.values()}
    zones = {text(subnet, "name"): text(subnet, "zone") for subnet in cluster.subnets}
    for index, etcd in enumerate(items(cluster.spec, "etcdClusters")):
        path = SPEC.child("etcdClusters").index(index).child("etcdMembers")
        where: list[str] = []
        for number, member in enumerate(items(etcd, "etcdMembers")):
            name = text(member, "instanceGroup")
            group = groups.get(name)
            if group is None:
                position = contents.position(contents.cluster, str(path.index(number).child("instanceGroup")))
                detail = f"member {text(member, 'name')} is on an instance group that is not there"
                yield not_found(
                    path.index(number).child("instanceGroup"),
                    name,
                    detail,
                    rule="etcd-group-missing",
                    position=position,
                )
                continue
            where += [zones.get(subnet, "") for subnet in items(group.spec, "subnets")[:1]]
        worst = max(where, key=where.count, default="")
        if worst and len(where) > 2 and where.count(worst) * 2 > len(where) and len(set(zones.values())) > 2:
            position = contents.position(contents.cluster, str(path))
            detail = f"{where.count(worst)} of {len(where)} members are in {worst}: etcd does not survive its loss"
            yield Finding(Kind.INVALID, str(path), detail, None, "etcd-zone-majority", Severity.WARNING, position)


@rules("", "network-overlap")
def neighbours(contents: Contents) -> Iterator[Finding]:
    """Clusters of one store with overlapping networks can never be connected."""
    cluster = contents.view()
    mine = own_network(contents.cluster) if contents.cluster else None
    if cluster is None or mine is None:
        return
    others = [name for name, other in contents.tree.neighbours.items() if overlap(mine, other)]
    if others:
        path = "spec.networking.networkCIDR"
        position = contents.position(contents.cluster, path)
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        detail = f"overlaps the network of {', '.join(sorted(others)[:3])}{more}"
        yield Finding(Kind.INVALID, path, detail, str(mine), "network-overlap", Severity.WARNING, position)


def own_network(cluster: Object) -> Network | None:
    """The network a cluster has for itself; None where it shares one, or says none."""
    view = Cluster(cluster.data)
    return None if text(view.networking, "networkID") else network(text(view.networking, "networkCIDR"))
