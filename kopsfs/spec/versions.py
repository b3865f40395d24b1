"""Which component versions does kops give to which Kubernetes version, and what is a version range?

Decision tables are rows of (since Kubernetes version, value), oldest first; pre-releases count as their release. The values are
kops's at commit 268927e264 (version 1.37.0-alpha.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kopsfs.spec.validation.values import Version, kubernetes_version, tolerant_version, version

KOPS_VERSION: Final = "1.37.0-alpha.1"
"""The version of kops these tables are of.  Source: kops-version.go."""

KUBERNETES_NEWEST: Final = "1.37"
"""The newest Kubernetes minor version the tables know."""

Table = tuple[tuple[str, str], ...]

ETCD: Final[Table] = (("0", "3.5.31"), ("1.34", "3.6.12"), ("1.37", "3.7.0"))
"""Source: pkg/model/components/etcd.go:EtcdOptionsBuilder."""

ETCD_BUNDLED: Final = ("3.5.31", "3.6.12", "3.7.0")
"""The newest patch of every minor version kops brings; all earlier patches are fine too.  Source: etcdmanager/options.go."""

CLUSTER_AUTOSCALER: Final[dict[int, str]] = {32: "v1.32.7", 33: "v1.33.5", 34: "v1.34.4", 35: "v1.35.1"}
CLUSTER_AUTOSCALER_OTHER: Final = "v1.36.0"
"""By Kubernetes minor version.  Source: pkg/model/components/clusterautoscaler.go."""


def release(text: str) -> Version | None:
    """A Kubernetes version without its pre-release, as kops compares it.  Source: apis/kops/model/kubernetes_version.go:IsGTE."""
    parsed = kubernetes_version(text)
    return replace(parsed, pre=()) if parsed else None


def at_least(text: str, since: str) -> bool:
    """Is this Kubernetes version (or its pre-release) `since` or newer?"""
    mine, wanted = release(text), tolerant_version(since)
    assert wanted is not None, since
    return mine is not None and not mine < wanted


def lookup(table: Table, text: str) -> str:
    """The value of the last row this Kubernetes version has reached."""
    value = table[0][1]
    for since, candidate in table:
        if at_least(text, since):
            value = candidate
    return value


def etcd_is_bundled(text: str) -> bool:
    """Does kops bring this etcd version?"""
    mine = text.removeprefix("v")
    for newest in ETCD_BUNDLED:
        major_minor, _, patch = newest.rpartition(".")
        if any(mine == f"{major_minor}.{number}" for number in range(int(patch) + 1)):
            return True
    return False


_OPERATORS: Final[dict[str, Callable[[Version, Version], bool]]] = {
    "": lambda mine, other: mine == other,
    "=": lambda mine, other: mine == other,
    "==": lambda mine, other: mine == other,
    "!": lambda mine, other: mine != other,
    "!=": lambda mine, other: mine != other,
    "<": lambda mine, other: mine < other,
    "<=": lambda mine, other: not other < mine,
    ">": lambda mine, other: other < mine,
    ">=": lambda mine, other: not mine < other,
}


def in_range(text: str, mine: Version) -> bool | None:
    """Is a version in a blang/semver range (`>=1.34.0-alpha.1 <1.36.0 || 1.40.x`)?  None: not a range.

    Pre-releases compare plainly: 1.34.0-beta.1 is in `>=1.34.0-alpha.1`.
    Source: github.com/blang/semver/v4 range.go:ParseRange.
    """
    alternatives = []
    for alternative in re.sub(r"([<>=!])\s+", r"\1", text).split("||"):
        terms = [term for word in alternative.split() for term in _expanded(word)]
        if not terms:
            return None
        held = True
        for operator, wanted in terms:
            other = version(wanted)
            if operator not in _OPERATORS or other is None:
                return None
            held = held and _OPERATORS[operator](mine, other)
        alternatives.append(held)
    return any(alternatives)


def _expanded(word: str) -> list[tuple[str, str]]:
    """A term with a wildcard (`1.2.x`) as terms without."""
    match = re.match(r"([^0-9]*)(.*)\Z", word)
    assert match is not None
    operator, wanted = match.groups()
    if "x" not in wanted:
        return [(operator, wanted)]
    numbers = wanted.split(".")
    fixed = [number for number in numbers if number != "x"]
    low = ".".join(([*fixed, "0", "0"])[:3])
    up = [*fixed[:-1], str(int(fixed[-1]) + 1)] if all(number.isdigit() for number in fixed) else fixed
    high = ".".join(([*up, "0", "0"])[:3])
    return {
        ">": [(">=", high)],
        ">=": [(">=", low)],
        "<": [("<", low)],
        "<=": [("<", high)],
        "!": [("<", low), (">=", high)],
        "!=": [("<", low), (">=", high)],
    }.get(operator, [(">=", low), ("<", high)])
