"""Which object of an API server is a file?

`place_of` says where a key lives: the namespace of its cluster (the cluster's name with `.` as `-`, kops's rule) and in it
the object of kops that is the document of that name, if there is one, and the Secret that holds anything else. `key_of`
is the way back. A key that names no cluster lives in the namespace `kopsfs`. Names are functions of the path below the
cluster, so whoever writes a path writes the same object, and two clusters that share a namespace meet in it.

Source: kops pkg/client/simple/api/clientset.go (restNamespaceForClusterName), upup/pkg/fi/secrets/clientset_secretstore.go
(NamePrefix), upup/pkg/fi/clientset_castore.go, pkg/apis/kops/registry/registry.go.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from kopsfs.errors import InvalidKeyError
from kopsfs.store.driver import Key, Prefix
from kopsfs.store.memory import valid_key

Object = dict[str, Any]

GROUP: Final = "kops.k8s.io"
HOME: Final = "kopsfs"
"""The namespace of keys that name no cluster."""
FILE_TYPE: Final = "kopsfs.io/file"
CHUNK_TYPE: Final = "kopsfs.io/chunk"
KEY_NOTE: Final = "kopsfs.io/key"
"""Annotation: the whole key, on everything kopsfs writes."""
CLUSTER_LABEL: Final = "kops.k8s.io/cluster"
"""On instance groups. Source: kops pkg/apis/kops/labels.go."""
TOKEN: Final = "token-"  # noqa: S105  a prefix of names
"""Source: clientset_secretstore.go, NamePrefix."""

_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object, and how it is addressed."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"

    @property
    def name(self) -> str:
        """As RBAC and messages have it: `keysets.kops.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """Give the URL's path of an object, of a namespace's objects, or of all."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


CLUSTERS: Final = Kind("clusters", "Cluster", GROUP, "v1alpha2")
GROUPS: Final = Kind("instancegroups", "InstanceGroup", GROUP, "v1alpha2")
KEYSETS: Final = Kind("keysets", "Keyset", GROUP, "v1alpha2")
SSH: Final = Kind("sshcredentials", "SSHCredential", GROUP, "v1alpha2")
SECRETS: Final = Kind("secrets", "Secret")
NAMESPACES: Final = Kind("namespaces", "Namespace")
DOCUMENTS: Final = (CLUSTERS, GROUPS, KEYSETS, SSH)
KINDS: Final = (*DOCUMENTS, SECRETS)
BY_PLURAL: Final[Mapping[str, Kind]] = {kind.plural: kind for kind in KINDS}

_FOLDERS: Final = {
    CLUSTERS: ("config",),
    GROUPS: ("instancegroup/",),
    KEYSETS: ("pki/private/", "secrets/"),
    SSH: ("pki/ssh/public/admin/",),
    SECRETS: ("",),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key lives."""

    key: Key
    namespace: str
    cluster: str
    """Empty in the namespace `kopsfs`."""
    secret: str
    """Name of the Secret that holds the bytes where no object of kops does."""
    kind: Kind | None = None
    """What the document at this path is; None: kops has no object for it."""
    name: str = ""
    """Of that document's object."""

    @property
    def last(self) -> str:
        """The file's own name."""
        return self.key.rpartition("/")[2]

    @property
    def is_token(self) -> bool:
        """Whether this is a secret of kops: a Keyset of type Secret."""
        return self.kind is KEYSETS and self.name.startswith(TOKEN)


def namespace_of(cluster: str) -> str:
    """Give the namespace kops has for a cluster, or nothing where no cluster can have this name."""
    namespace = cluster.replace(".", "-")
    return namespace if _SUBDOMAIN.fullmatch(cluster) and _LABEL.fullmatch(namespace) else ""


def place_of(op: str, key: Key) -> Place:
    """Say where a key lives. Raises InvalidKeyError for what no key can be."""
    valid_key(op, key)
    cluster, slash, path = key.partition("/")
    namespace = namespace_of(cluster) if slash else ""
    if not namespace:
        return Place(key, HOME, "", _secret_name(key))
    kind, name = _document(cluster, path)
    return Place(key, namespace, cluster, _secret_name(path), kind, name)


def _document(cluster: str, path: str) -> tuple[Kind | None, str]:
    parts = path.split("/")
    kind: Kind | None = None
    name = ""
    if path == "config":
        kind, name = CLUSTERS, cluster
    elif len(parts) == 2 and parts[0] == "instancegroup":
        kind, name = GROUPS, parts[1]
    elif len(parts) == 4 and parts[:2] == ["pki", "private"] and parts[3] == "keyset.yaml":
        kind, name = KEYSETS, parts[2]
        if name.startswith(TOKEN):
            kind = None  # the name belongs to a secret
    elif len(parts) == 2 and parts[0] == "secrets" and parts[1]:
        kind, name = KEYSETS, _token_name(parts[1])
    elif len(parts) == 5 and path.startswith(_FOLDERS[SSH]) and _FINGERPRINT.fullmatch(parts[4]):
        kind, name = SSH, "admin"
    if kind is None or len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        return None, ""
    return kind, name


def _secret_name(path: str) -> str:
    """At most 58 characters, so that it can be a label's value, too."""
    slug = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")[:30].strip("-")
    return "-".join(filter(None, (HOME, slug, hashlib.sha256(path.encode()).hexdigest()[:20])))


def _token_name(name: str) -> str:
    """Give kops's name of a secret's Keyset; what no object's name can hold is escaped, and a digest keeps it apart."""
    if _SUBDOMAIN.fullmatch(name) and len(name) + len(TOKEN) <= 253:
        return TOKEN + name
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:30].strip("-") or "secret"
    return f"{TOKEN}{slug}.x{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def noted_key(kind: Kind, item: Object) -> Key | None:
    """Give the key kopsfs has noted on an object, if the object is where that key lives."""
    metadata = item["metadata"]
    key = (metadata.get("annotations") or {}).get(KEY_NOTE)
    if not key:
        return None
    try:
        place = place_of("list", Key(key))
    except InvalidKeyError:
        return None
    name = place.secret if kind is SECRETS else place.name if place.kind is kind else ""
    return place.key if (place.namespace, name) == (metadata.get("namespace"), metadata["name"]) else None


def key_of(kind: Kind, item: Object, owner: str, fingerprint: str = "") -> Key | None:
    """Give the key of an object in a namespace of the cluster `owner`; None: it is no file."""
    metadata = item["metadata"]
    name: str = metadata["name"]
    if kind is CLUSTERS:
        return Key(f"{name}/config") if namespace_of(name) == metadata.get("namespace") else None
    if (noted := noted_key(kind, item)) is not None and kind is not SSH:
        return noted
    label = (metadata.get("labels") or {}).get(CLUSTER_LABEL, "")
    cluster = label if label and namespace_of(label) == metadata.get("namespace") else owner
    if kind is GROUPS:
        return Key(f"{cluster}/instancegroup/{name}")
    if kind is KEYSETS and (item.get("spec") or {}).get("type") == "Secret":
        return Key(f"{cluster}/secrets/{name.removeprefix(TOKEN)}") if name.startswith(TOKEN) else None
    if kind is KEYSETS:
        return Key(f"{cluster}/pki/private/{name}/keyset.yaml") if not name.startswith(TOKEN) else None
    if kind is SSH and name == "admin" and fingerprint:
        return Key(f"{cluster}/pki/ssh/public/admin/{fingerprint}")
    return None


def kinds_below(prefix: Prefix) -> set[Kind]:
    """Say which kinds may have keys below a prefix."""
    cluster, slash, rest = prefix.partition("/")
    if not slash:
        return set(KINDS)
    if not namespace_of(cluster):
        return {SECRETS}
    return {
        kind
        for kind, folders in _FOLDERS.items()
        if any(folder.startswith(rest) or rest.startswith(folder) for folder in folders)
    }


def scope_of(prefix: Prefix) -> str:
    """Give the one namespace in which all keys below a prefix live; empty: they may live in many."""
    cluster, slash, _ = prefix.partition("/")
    return (namespace_of(cluster) or HOME) if slash else ""
