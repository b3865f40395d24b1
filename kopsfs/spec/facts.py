"""What has to be told from outside, because inference may not guess it?

`Facts` is everything kops would ask a cloud, a channel or its own build for: hosted zones, VPCs and subnets, zones, machine
types, the kops version, feature flags, the channel. A facts file is a map by cloud (`aws: {hosted_zones: [...], vpcs: [...]}`,
kopsfs-facts(5)); what a list does not hold does not exist, but a list that is missing is not known, and a rule that needs it
ends with a finding of kind `Missing fact` that says how to give it. Nothing here opens a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kopsfs.spec.field import Finding, Kind, RefusedError

CLOUDS = ("aws", "azure", "digitalocean", "gce", "hetzner", "linode", "openstack", "scaleway")

HOW: Mapping[str, str] = {
    "aws": "`kopsfs facts collect --cloud aws > facts.yaml`, then --facts facts.yaml",
    "gce": "`kopsfs facts collect --cloud gce > facts.yaml`, then --facts facts.yaml",
    "openstack": "`kopsfs facts collect --cloud openstack > facts.yaml`, then --facts facts.yaml",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about the world outside the documents.

    Attributes:
        clouds: by cloud, then by fact, as in a facts file.
        channel: gives the channel of a name or URL (`kopsfs.spec.channel.Channel`); None: none is known.
        kops_version: the version of kops to be; "" for that of our tables.
        flags: kops's feature flags that are on.
        source: where the facts come from, for messages.
    """

    clouds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    channel: Callable[[str], Any] | None = None
    kops_version: str = ""
    flags: frozenset[str] = frozenset()
    source: str = ""

    def get(self, cloud: str, name: str) -> Any:
        """A fact, or None when it is not known."""
        return (self.clouds.get(cloud) or {}).get(name)

    def need(self, cloud: str, name: str, *, field: str = "", why: str = "") -> Any:
        """A fact a rule cannot go on without.

        Raises:
            RefusedError: it is not known; says for what (`why`) and how to give it.
        """
        value = self.get(cloud, name)
        if value is None:
            raise RefusedError(missing(cloud, name, field=field, why=why))
        return value


def missing(cloud: str, name: str, *, field: str = "", why: str = "") -> Finding:
    """The finding for a fact that is not there."""
    how = HOW.get(cloud, "write it by hand into a facts file (kopsfs-facts(5)), then --facts FILE")
    reason = f" ({why})" if why else ""
    return Finding(Kind.FACT, field, f"needs fact {cloud}.{name}{reason}; {how}", rule=f"fact {cloud}.{name}")


def from_data(data: Any, source: str = "") -> Mapping[str, Mapping[str, Any]]:
    """The content of a facts file.

    Raises:
        RefusedError: not a map by cloud.
    """
    if not isinstance(data, dict):
        raise RefusedError(Finding(Kind.SYNTAX, "", f"{source}: a facts file is a map by cloud"))
    unknown = sorted(set(data) - set(CLOUDS))
    if unknown:
        known = ", ".join(CLOUDS)
        raise RefusedError(Finding(Kind.SYNTAX, unknown[0], f"{source}: no such cloud, known are {known}"))
    wrong = sorted(cloud for cloud, facts in data.items() if facts is not None and not isinstance(facts, dict))
    if wrong:
        raise RefusedError(Finding(Kind.SYNTAX, wrong[0], f"{source}: the facts of a cloud are a map"))
    return {cloud: facts or {} for cloud, facts in data.items()}
