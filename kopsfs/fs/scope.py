"""Which part of the tree is listed at once, and how old is what it said?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from kopsfs.errors import StoreError
from kopsfs.store.driver import Key, Prefix


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


def belongs(scope: Scope, key: Key, groups: set[str]) -> bool:
    """Would a complete listing of the scope have shown this key, or the group it is in?"""
    if scope.holds(key):
        return True
    if scope.flat or not key.startswith(scope.prefix):
        return False
    group = scope.prefix + key[len(scope.prefix) :].partition("/")[0] + "/"
    return group not in groups
