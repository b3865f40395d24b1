"""Which request goes next, and is there a place for it?

Requests share a limited number of places, and a server that no longer answers one kind of them may well answer
another. So each kind - reads, writes, questions (LIST, HEAD) - has a few places that no other can take: 128 GETs
that hang keep nobody from saving or from looking. Reads alone may take as many as the limit says.

`put` and `next` may be called from two threads; `enter` and `leave` belong to the one that calls `next`.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

OWN_SHARE: Final = 16
"""Each kind keeps a sixteenth of the limit to itself: 8 of 128."""


class Lane(enum.IntEnum):
    """What a request is for; the lower goes first."""

    QUESTION = 0
    READ = 1
    """Somebody waits for these bytes."""
    WRITE = 2
    AHEAD = 3
    """Bytes that somebody may ask for."""


_KIND: Final = (0, 1, 2, 1)
"""Of each lane: those of one kind share their places."""
_KINDS: Final = 3


class Lanes:
    """Tickets that wait, and how many are at work.

    INVARIANT: a kind with fewer than `own` at work has room, whatever the others do.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own = limit // OWN_SHARE
        self.places = limit + (_KINDS - 1) * self._own
        """At work at once, all kinds together."""
        self._busy = [0] * _KINDS
        self._all = 0
        self._waiting: tuple[tuple[deque[int], int], ...] = tuple((deque(), _KIND[lane]) for lane in Lane)

    def put(self, ticket: int, lane: Lane) -> None:
        """Let it wait behind those of its lane."""
        self._waiting[lane][0].append(ticket)

    def next(self) -> int | None:
        """Take the ticket that is first among those with a place."""
        for tickets, kind in self._waiting:
            if tickets and self._room(kind):
                return tickets.popleft()
        return None

    @property
    def ready(self) -> bool:
        """Whether `next` would give one."""
        return any(tickets and self._room(kind) for tickets, kind in self._waiting)

    def enter(self, lane: Lane) -> None:
        """One of this lane is at work now."""
        self._all += 1
        self._busy[_KIND[lane]] += 1

    def leave(self, lane: Lane) -> None:
        """It is not any more."""
        self._all -= 1
        self._busy[_KIND[lane]] -= 1

    def _room(self, kind: int) -> bool:
        if self._all < self._limit:
            return True
        kept = sum(max(self._own, busy) for other, busy in enumerate(self._busy) if other != kind)
        return self._busy[kind] + kept < self.places
