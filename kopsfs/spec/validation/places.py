"""Which file of a state store is this, and what does kops expect in it?

A cluster is a directory that holds `config`; what may stand below it is fixed, and `kops delete cluster` refuses to touch a
cluster with anything else in it.

Source: kops pkg/apis/kops/registry/registry.go, pkg/client/simple/vfsclientset/clientset.go:DeleteAllClusterState.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final


class Role(enum.Enum):
    """What a file of a cluster is for."""

    CONFIG = "config"
    COMPLETED = "completed cluster"
    VERSION = "kops version"
    GROUP = "instance group"
    OBJECTS = "additional objects"
    KEYSET = "keyset"
    OLD_KEY = "key of an old release"
    SSH_KEY = "SSH key"
    SECRET = "secret"  # noqa: S105  -- a word, not one
    NODE = "node configuration"
    MANIFEST = "manifest"
    ADDON = "addon"
    BACKUP = "backup"
    DISCOVERY = "issuer discovery"
    UNKNOWN = "unknown"


KINDS: Final = {Role.CONFIG: "Cluster", Role.COMPLETED: "Cluster", Role.GROUP: "InstanceGroup", Role.KEYSET: "Keyset"}
"""The kind of the one kops object a file holds."""

_PLACES: Final = (
    (Role.CONFIG, r"config"),
    (Role.COMPLETED, r"cluster-completed\.spec|cluster\.spec"),
    (Role.VERSION, r"kops-version\.txt"),
    (Role.GROUP, r"instancegroup/(?P<name>[^/]+)"),
    (Role.OBJECTS, r"clusteraddons/(?P<name>[^/]+)"),
    (Role.KEYSET, r"pki/(?:private|issued)/(?P<name>[^/]+)/keyset\.yaml"),
    (Role.OLD_KEY, r"pki/(?:private|issued)/(?P<name>[^/]+)/[0-9]+\.(?:key|crt)"),
    (Role.SSH_KEY, r"pki/ssh/public/(?P<name>[^/]+/[^/]+)"),
    (Role.SECRET, r"secrets/(?P<name>[^/]+)"),
    (Role.NODE, r"igconfig/(?P<name>[^/]+/[^/]+)/(?:nodeupconfig\.yaml|nodeupscript\.sh)"),
    (Role.MANIFEST, r"manifests/(?P<name>.+)"),
    (Role.ADDON, r"addons/(?P<name>.+)"),
    (Role.BACKUP, r"backups/(?P<name>.+)"),
    (Role.DISCOVERY, r"\.well-known/openid-configuration|openid/v1/jwks"),
)
_PATTERNS: Final = tuple((role, re.compile(pattern)) for role, pattern in _PLACES)

TOLERATED: Final = re.compile(
    r"\.well-known/openid-configuration|openid/v1/jwks|config|cluster\.spec|cluster-completed\.spec|kops-version\.txt|"
    r"(?:addons|clusteraddons|pki|secrets|instancegroup|igconfig|manifests|backups)/.*"
)
"""What `kops delete cluster` takes for part of a cluster, by its path below the cluster; discovery it deletes first."""

LEFTOVER: Final = re.compile(
    r"(?:.*/)?(?:[^/]*~|#[^/]*#|4913|\.[^/]*\.sw[a-z]|\.#[^/]*|\.goutputstream-[^/]*|\.nfs[0-9a-f]+|\.DS_Store|"
    r"tmp[0-9]{6,}|sed[A-Za-z0-9]{6}|[^/]*\.(?:bak|orig|rej|swp|tmp|kate-swp))"
)
"""What editors and tools leave behind."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file's place.

    Attributes:
        cluster: the cluster's path in the store, "" when no such file belongs to a cluster.
        below: the path below the cluster.
        name: what it is called: the group's, keyset's or secret's name.
    """

    role: Role
    cluster: str
    below: str
    name: str = ""


def role_of(below: str) -> tuple[Role, str]:
    """What a path below a cluster is, and its name."""
    for role, pattern in _PATTERNS:
        match = pattern.fullmatch(below)
        if match:
            return role, match.groupdict().get("name") or ""
    return Role.UNKNOWN, ""


def place(path: str) -> Place:
    """Which file is this, told by its path in the store alone?

    A cluster's name may have slashes in it, so the shortest one that makes sense of the rest counts: `a/config` is cluster a's,
    whatever else lies in the store. A path that makes sense as it is (`config`) is below a cluster that is not named.
    """
    parts = path.strip("/").split("/")
    for length in (*range(1, len(parts)), 0):
        below = "/".join(parts[length:])
        role, name = role_of(below)
        if role is not Role.UNKNOWN:
            return Place(role, "/".join(parts[:length]), below, name)
    return Place(Role.UNKNOWN, "", path)
