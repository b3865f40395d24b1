"""Where is what below a cluster's directory, and how are store URLs joined?

Source: kops pkg/apis/kops/registry/clusterpaths.go, pkg/client/simple/vfsclientset; util/pkg/vfs (Join of each path type
cleans the key as Go's path.Join does).
"""

from __future__ import annotations

import posixpath
from typing import Final

CONFIG: Final = "config"
"""The author's cluster; a directory is a cluster exactly if it has this file."""

COMPLETED: Final = "cluster-completed.spec"
COMPLETED_OLD: Final = "cluster.spec"
"""Written by kops up to 1.21, without apiVersion."""

INSTANCE_GROUPS: Final = "instancegroup"
ADDONS: Final = "clusteraddons/default"
"""Additional objects, one file of several documents."""

KOPS_VERSION: Final = "kops-version.txt"


def join(base: str, *parts: str) -> str:
    """A store URL with more path, in the form kops prints it: no slash at the end, none doubled, a file:// path bare."""
    scheme, separator, rest = base.partition("://")
    if not separator:
        return posixpath.normpath(posixpath.join(base, *parts))
    bucket, _, key = rest.partition("/")
    if scheme == "file":
        return posixpath.normpath("/".join((rest, *parts)))
    key = posixpath.normpath("/".join(part for part in (key.strip("/"), *parts) if part) or ".")
    return f"{scheme}://{bucket}" if key == "." else f"{scheme}://{bucket}/{key}"
