"""What is a cluster called where Google Cloud allows no dots and 63 characters?

Source: kops upup/pkg/fi/cloudup/gce/utils.go:ClusterPrefixedName and SafeClusterName, pkg/truncate/truncate.go.
"""

from __future__ import annotations

import base64

_HASH_CHARACTERS = 6


def safe_cluster_name(cluster: str) -> str:
    """The name with dashes for dots, uncut."""
    return cluster.replace(".", "-")


def name_for_cluster(label: str, cluster: str, length_max: int) -> str:
    """`<cluster>-<label>`, the cluster's part cut and marked with a hash where it is too long."""
    room = length_max - len(label) - 1
    return f"{truncated(safe_cluster_name(cluster), room)}-{label}"


def truncated(text: str, length_max: int) -> str:
    """A name of at most this length; what is cut is replaced by six characters of its hash."""
    if len(text) <= length_max:
        return text
    digest = base64.b32hexencode(_fnv1a(text.encode()).to_bytes(4, "big")).decode().lower()[:_HASH_CHARACTERS]
    return f"{text[: length_max - len(digest) - 1]}-{digest}"


def _fnv1a(data: bytes) -> int:
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value
