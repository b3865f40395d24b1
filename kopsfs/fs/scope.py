"""Which part of the tree is listed at once, and how old is what it said?"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, field
from typing import Final

import trio

from kopsfs.errors import StoreError
from kopsfs.store.driver import Key, Prefix

IDLE_REFRESH_S: Final = 30.0
"""How often what nobody asks for is listed: at most two rounds a minute."""
IDLE_AFTER_S: Final = 60.0
ABANDON_AFTER_S: Final = 3600.0
"""A directory nobody has looked at for so long is not listed by itself any more."""


@dataclass(slots=True, eq=False)
class Scope:
    """A part of the tree that is listed at once."""

    prefix: Prefix
    flat: bool
    pages: int = 1
    known: bool = False
    """It has been listed whole, now or before a restart: there is a last-known answer."""
    asked_at: float = -math.inf
    """Monotonic time at which the last complete listing was asked for."""
    tried_at: float = -math.inf
    hinted: bool = False
    """The store has said that something changed since the last listing."""
    leased_until: float = -math.inf
    """The kernel answers for it by itself so long: until then it is listed often enough to keep promise 4."""
    took_s: float = 0.0
    """How long the last complete listing took."""
    looked_at: float = -math.inf
    failed: str = ""
    """Why the last listing failed; empty when it did not."""
    error: StoreError | None = None
    """The exception of the last failure."""
    files: set[Key] = field(default_factory=set)
    """Files asked for since the last listing, up to what makes a scan."""
    checked: dict[Key, float] = field(default_factory=dict)
    """Keys asked for one by one since the last listing, and when."""
    flight: trio.Event | None = None
    prefetched: bool = False

    @property
    def skip(self) -> str:
        """The part of a flat scope that is left out: one cluster's backups. Empty at the root."""
        return f"{self.prefix}backups/" if self.flat and self.prefix else ""

    def holds(self, key: str) -> bool:
        """Does a listing of this scope show this key?"""
        if not key.startswith(self.prefix):
            return False
        if self.flat:
            return not (self.skip and key.startswith(self.skip))
        return "/" not in key[len(self.prefix) :].removesuffix("/")

    def lists_marker(self, key: str) -> bool:
        """Does a listing of this scope show this directory marker as an object? One by delimiter only its own."""
        return self.holds(key) if self.flat else key == self.prefix


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a scope is listed by the clock."""

    max_staleness_s: float
    refresh_s: float
    watch: tuple[str, ...]
    """Patterns of --watch."""

    def interval_s(self, scope: Scope, now: float) -> float | None:
        """None: not at all."""
        if not scope.known:
            return None
        if now < scope.leased_until:
            return max(self.max_staleness_s - scope.took_s, self.max_staleness_s / 2)
        if self.watch and self._watched(scope):
            return self.refresh_s
        idle = now - scope.looked_at
        if idle < IDLE_AFTER_S:
            return self.refresh_s
        if idle < ABANDON_AFTER_S or scope.prefix == "":
            return max(self.refresh_s, IDLE_REFRESH_S)
        return None

    def _watched(self, scope: Scope) -> bool:
        """Does a pattern match something below this scope (or could it)?"""
        cluster = scope.prefix.partition("/")[2]
        if scope.flat:
            return True
        return any(fnmatch.fnmatch(cluster + "x", pattern.replace("**", "*")) for pattern in self.watch)


def belongs(scope: Scope, key: Key, groups: set[str]) -> bool:
    """Would a complete listing of the scope have shown this key, or the group it is in?"""
    if scope.holds(key):
        return True
    if scope.flat or not key.startswith(scope.prefix):
        return False
    group = scope.prefix + key[len(scope.prefix) :].partition("/")[0] + "/"
    return group not in groups
