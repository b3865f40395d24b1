"""How are thousands of small objects fetched without a task for each?

`Many` keeps a bounded number of GETs in flight in the order of its keys; each that is done starts the
next from its own callback. Only a key that has to be tried again waits in a heap for its time. The
coroutine `run` sleeps meanwhile and wakes for the end and for retries.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import outcome
import trio

from kopsfs.errors import DeniedError, StoreDownError, StoreError, TransientError
from kopsfs.store.driver import Key, ObjectInfo
from kopsfs.store.ports import Done, Outcome

Arrived = Callable[[Key, ObjectInfo | None, bytes | None, StoreError | None], None]


class Many:
    """One run over a list of keys. Trio thread only.

    INVARIANT: every key taken from the iterator is in flight, in the heap, or delivered exactly once.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        start: Callable[[Key, Done], int],
        cancel: Callable[[int], None],
        arrived: Arrived,
        pause_s: Callable[[int, float], float],
        limit: int,
        renew: Callable[[], bool],
    ) -> None:
        self._keys = iter(keys)
        self._start = start
        self._cancel = cancel
        self._arrived = arrived
        self._pause_s = pause_s
        self._limit = limit
        self._renew = renew
        self._flying: dict[int, int] = {}
        """Serial number of an attempt → the port's ticket."""
        self._again: list[tuple[float, int, Key, int]] = []
        """Heap of (time, serial, key, attempt)."""
        self._serials = itertools.count()
        self._exhausted = False
        self._broken: BaseException | None = None
        self._wake = trio.Event()

    async def run(self) -> None:
        """Fetch all; whatever is in flight is cancelled when the caller is."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while True:
                self._fill()
                if self._broken is not None:
                    raise self._broken
                if self._exhausted and not self._flying and not self._again:
                    break
                self._wake = trio.Event()
                deadline = self._again[0][0] if self._again and len(self._flying) < self._limit else float("inf")
                with trio.move_on_at(deadline):
                    await self._wake.wait()
        finally:
            for ticket in self._flying.values():
                self._cancel(ticket)
            self._flying.clear()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _fill(self) -> None:
        now = trio.current_time()
        while len(self._flying) < self._limit and self._broken is None:
            if self._again and self._again[0][0] <= now:
                _, _, key, attempt = heapq.heappop(self._again)
            elif not self._exhausted:
                taken = next(self._keys, None)
                if taken is None:
                    self._exhausted = True
                    continue
                key, attempt = taken, 0
            else:
                return
            self._launch(key, attempt)

    def _launch(self, key: Key, attempt: int) -> None:
        serial = next(self._serials)

        def done(result: Outcome[Any]) -> None:
            if self._flying.pop(serial, None) is None:
                return
            try:
                self._settle(key, attempt, result)
                self._fill()
            except BaseException as error:  # noqa: BLE001, ASYNC103 - raised again from run(), where somebody waits for it
                self._broken = error
            if self._broken or self._again or (self._exhausted and not self._flying):
                self._wake.set()

        try:
            self._flying[serial] = self._start(key, done)
        except StoreError as error:
            self._arrived(key, None, None, error)

    def _settle(self, key: Key, attempt: int, result: Outcome[Any]) -> None:
        if isinstance(result, outcome.Value):
            info, data = result.value
            self._arrived(key, info, data, None)
            return
        assert isinstance(result, outcome.Error)
        error = result.error
        denied = isinstance(error, DeniedError) and attempt == 0 and self._renew()
        if denied or (isinstance(error, TransientError) and not isinstance(error, StoreDownError)):
            when = trio.current_time() + self._pause_s(attempt, getattr(error, "retry_after_s", 0.0))
            heapq.heappush(self._again, (when, next(self._serials), key, attempt + 1))
        elif isinstance(error, StoreError):
            self._arrived(key, None, None, error)
        else:
            raise error
