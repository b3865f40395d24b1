"""Is the store up?

`Breaker` turns what happened to requests into one belief. Any answer proves the store alive, a
refusal (404, 412, 403) as much as a success. After `FAILURES` failures in a row that span `WINDOW_S`
it is suspected, and if then a probe fails as well, which asks something else, it is believed down: one key
that the store chokes on is not an outage. A caller who gave up waiting counts as a failure when nothing was
heard from the store since he began, because a network that swallows packets never says no. Pure: the
clock's reading is an argument. Who probes is `Store`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FAILURES: Final = 3
WINDOW_S: Final = 1.0
"""A store that failed for less than this may be restarting a process or dropping one connection."""
PATIENCE_S: Final = 0.9
"""Who waited this long in vain noticed something: just under the shortest budget above (1 s)."""
PROBE_WINDOW_S: Final = 1.0
"""A suspected store has this long to answer a probe."""
PROBE_FIRST_S: Final = 1.0
PROBE_MAX_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Health:
    """What the circuit breaker believes."""

    up: bool
    """False: requests are refused at once with StoreDownError, but for one probe every few seconds."""
    since: float
    """trio.current_time() when `up` last changed."""
    last_success: float | None
    """trio.current_time() of the last answer that proved the store alive; None before the first."""
    last_error: str
    """One line, empty when all is well."""


class Breaker:
    """The belief and what it rests on. `answered` and `lost` say whether they changed it."""

    def __init__(self, now: float) -> None:
        self._up = True
        self._since = now
        self._last_success: float | None = None
        self._last_error = ""
        self._failures = 0
        self._failing_since = now
        self._probes = 0
        self.answers = 0
        """How often the store has proven itself alive."""

    @property
    def health(self) -> Health:
        return Health(self._up, self._since, self._last_success, self._last_error)

    @property
    def up(self) -> bool:
        return self._up

    @property
    def proven(self) -> bool:
        """Whether the store has ever answered."""
        return self._last_success is not None

    @property
    def error(self) -> str:
        return self._last_error

    def answered(self, now: float) -> bool:
        """Note an answer, whatever it said."""
        self.answers += 1
        self._last_success = now
        self._failures = 0
        self._last_error = ""
        return self._turn(up=True, now=now)

    def failed(self, started: float, now: float, error: str) -> bool:
        """Note a request, sent at `started`, that got no usable answer; say whether the store is suspect now."""
        if self._last_success is not None and self._last_success > started:
            # Others got through meanwhile: this one was unlucky.  Not proof of health either.
            self._last_error = error
            return False
        self._failing_since = min(self._failing_since, started) if self._failures else started
        self._failures += 1
        self._last_error = error
        return self._up and self._failures >= FAILURES and now - self._failing_since >= WINDOW_S

    def abandoned(self, started: float, now: float) -> bool:
        """Note that a caller stopped waiting for a request sent at `started`; say whether the store is suspect."""
        if now - started < PATIENCE_S:
            return False
        return self.failed(started, now, f"no answer for {now - started:.1f} s")

    def lost(self, now: float, error: str) -> bool:
        """Note that the store is away: a probe failed, or the bucket or the right to list it is gone."""
        self._last_error = error
        return self._turn(up=False, now=now)

    def probe_pause_s(self) -> float:
        """How long to wait before the next probe; grows with each call until the store is up again."""
        pause = min(PROBE_FIRST_S * 2.0**self._probes, PROBE_MAX_S)
        self._probes += 1
        return pause

    def _turn(self, *, up: bool, now: float) -> bool:
        if self._up == up:
            return False
        self._up = up
        self._since = now
        self._probes = 0
        return True
