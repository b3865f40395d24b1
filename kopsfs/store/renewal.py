"""When are credentials renewed, and when is a refusal final?

Ahead of their end, in the background, while requests go on with the old ones; at once when the store refuses what
it has taken before; after any other denial once a minute at most, because a denial is often just that. What fails
is tried again with growing pauses, and as long as the old credentials are good nobody notices.

Each request remembers what it was signed with (`HttpDriver.signing`). Its denial says nothing of what is signed
with now: it is repeated. So a token that ends costs one renewal, however many requests were in flight; the same
holds for a region or a clock that was wrong.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import outcome
import trio

from kopsfs.errors import RefusedError, StoreError, TransientError
from kopsfs.store.driver import HttpDriver

log = logging.getLogger(__name__)

RENEW_BEFORE_S: Final = 900.0
"""So long before their end: an outage of 10 minutes passes unnoticed."""
DENIED_PAUSE_S: Final = 60.0
"""Between two renewals because of a denial."""
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 30.0
"""Between two attempts that fail: each may be a process of its own."""
NEVER: Final = float("inf")


def renew_at(expires: float | None, now: float, before_s: float = RENEW_BEFORE_S) -> float:
    """When to renew credentials that were obtained now, in Unix seconds as both arguments are; infinite: never.

    A source that goes on handing out the old ones is asked again each time half of what is left has passed. New ones
    that seem to have ended mean a wrong clock: the store's refusal will tell.
    """
    if expires is None:
        return NEVER
    left_s = expires - now
    return expires - min(before_s, left_s / 2) if left_s > 0 else now + RENEW_BEFORE_S


class Proof(Protocol):
    """What a driver signs with."""

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        ...

    @property
    def expires(self) -> float | None:
        """Unix time in s; None: never, as far as anyone knows."""
        ...


P = TypeVar("P", bound=Proof)


class Held(Generic[P]):
    """The credentials a driver has, and when it is due to get others. What is due goes by the driver's own clock."""

    def __init__(self, clock: Callable[[], float], found: P | None = None) -> None:
        """`found`: what stands written down and does not end; None: they have to be looked for."""
        self.found = found
        self._clock = clock
        self._renew_at = -NEVER if found is None else NEVER

    def due(self) -> bool:
        """Whether others are to be got."""
        return self._clock() >= self._renew_at

    def take(self, found: P, *, skew_s: float = 0.0, before_s: float = RENEW_BEFORE_S) -> None:
        """Take over what was found; their end is by a clock that is `skew_s` ahead."""
        self.found = found
        self._renew_at = renew_at(found.expires, self._clock() + skew_s, before_s) - skew_s

    def describe(self) -> dict[str, object]:
        """For `status`."""
        found = self.found
        return {
            "credentials": "not looked for yet" if found is None else found.origin,
            "credentials_expire": None if found is None else found.expires,
        }


class Renewal:
    """The credentials of one HTTP driver, as its port sees them. Trio thread only."""

    def __init__(self, driver: HttpDriver, aside: Callable[[Callable[[], Any], Callable[[Any], None]], object]) -> None:
        """`aside` runs a function in a thread and hands its outcome back in the trio thread."""
        self.accepted: object = None
        """What the last request that succeeded was signed with; set by the port."""
        self._driver = driver
        self._aside = aside
        self._warm = False
        self._warm_writes = False
        self._wanted = False
        """Nothing is to be sent before they have been renewed."""
        self._under_way: trio.Event | None = None
        self._error: Exception | None = None
        self._failures = 0
        self._not_before = -NEVER
        self._denied_at = -NEVER

    def ready(self, *, writes: bool = False) -> bool:
        """Whether `make_ready` has nothing to do."""
        return (self._warm_writes if writes else self._warm) and not self._wanted

    async def make_ready(self, *, writes: bool = False) -> None:
        """Do what comes before the next request; whoever asks meanwhile waits for the same. Raises what the driver raises.

        What failed just now fails again without asking; a TransientError then says how long.
        """
        if self._under_way is None:
            left_s = self._not_before - trio.current_time()
            if self._error is None or left_s <= 0:
                self._begin(writes=writes)
            elif isinstance(self._error, TransientError):
                raise TransientError("open", detail=self._error.detail, retry_after_s=left_s) from self._error
        if self._under_way is not None:
            await self._under_way.wait()
        if self._error is not None:
            raise self._error

    def check(self) -> None:
        """Before each request: renew what ends soon, without making anybody wait."""
        if (self._wanted or self._driver.refresh_due()) and self._may_begin():
            self._begin()

    def judge(self, error: StoreError, signed: object) -> StoreError:
        """Say what a denial means, or a 400: itself, or a TransientError where the request is worth repeating.

        `signed` is what it was signed with.
        """
        if signed is not self._driver.signing or self._under_way is not None:
            why = "sent with what has been replaced since"
        elif isinstance(error, RefusedError) and (self._wanted or self.accepted is signed):
            self._wanted = True
            why = "credentials are renewed"
        else:
            return error
        return TransientError(error.op, error.key, f"{error.detail} ({why})")

    def renew(self) -> trio.Event | None:
        """Renew after a denial; set when that is over. None: it was done just before."""
        now = trio.current_time()
        if self._may_begin() and now - self._denied_at >= DENIED_PAUSE_S:
            self._denied_at = now
            self._begin()
        return self._under_way

    def reload(self) -> None:
        """Have credentials read again before the next request."""
        self._wanted = True
        self._not_before = -NEVER

    def _may_begin(self) -> bool:
        return self._under_way is None and trio.current_time() >= self._not_before

    def _begin(self, *, writes: bool = False) -> None:
        renews = self._warm_writes if writes else self._warm
        act: Callable[[], None]
        if renews:
            act = functools.partial(self._driver.refresh_credentials, force=True)
        else:
            act = functools.partial(self._driver.warm_up, writes=writes)
        before = self._driver.signing
        under_way = self._under_way = trio.Event()

        def ended(result: outcome.Outcome[None]) -> None:
            error = getattr(result, "error", None)
            assert error is None or isinstance(error, Exception)
            self._under_way, self._error = None, error
            if error is None:
                self._warm = True
                self._warm_writes = self._warm_writes or writes
                if renews:
                    self._wanted = False
                    if self._driver.signing is before:
                        self.accepted = None  # there are no others
                self._failures, self._not_before = 0, -NEVER
            else:
                log.info("credentials could not be renewed: %s", error)
                pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(self._failures, 16))
                self._failures += 1
                self._not_before = trio.current_time() + max(pause_s, getattr(error, "retry_after_s", 0.0))
            under_way.set()

        self._aside(act, ended)
