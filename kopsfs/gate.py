"""How does the kernel's next request get read without paying for a scheduler in between?

Stock pyfuse3 takes a `trio.Lock` for every request (always a checkpoint), registers /dev/fuse with
epoll again, and hands the lock to a second task: a quarter to a half of a request that is answered
from memory (spike §4). pyfuse3 looks `trio` up as a module attribute, so a stand-in can offer it a
cheaper lock and a cheaper wait:

* The task that read a request keeps the right to read. Only when its handler really waits
  (`Gate.drive` sees it yield) is the next reader let in.
* Before waiting in epoll the descriptor is polled; every 16th request is a checkpoint all the same,
  so that uploads, listings and signals get their turn.

It leans on the inside of pyfuse3, so `install` changes nothing unless the version is one it was
checked with; `KOPSFS_GATE=off` keeps it out, and the tests run both ways.
"""

from __future__ import annotations

import inspect
import logging
import os
import select
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, TypeVar

import pyfuse3
import trio

log = logging.getLogger(__name__)
T = TypeVar("T")

CHECKED_VERSIONS: Final = ("3.5.",)
"""Of pyfuse3, whose `_session_loop` and `_wait_fuse_readable` (internal.pxi) were read for this."""
MIN_TASKS: Final = 1
"""What `pyfuse3.main` is given: a reader ends when more than so many wait."""
TURNS: Final = 16
SPIN_S: Final = 30e-6
"""How long the descriptor is polled after a request before the reader waits in epoll (spike §4: 44-50 us an open)."""
_DEAD_READER_CHECK_S: Final = 0.5


class Gate:
    """The right to read /dev/fuse.

    INVARIANT: at most one task holds it; who ends or waits passes it on.
    """

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._ready = False
        """The owner saw the descriptor readable and alive: it will read a request next."""
        self._turns = 0
        self._poll: select.poll | None = None

    # --- the lock pyfuse3 takes ------------------------------------------------------------------------------------

    async def __aenter__(self) -> None:
        task = trio.lowlevel.current_task()
        self._ready = False
        if self._owner is task:
            return
        if self._owner is None:
            self._owner = task
            return
        self._waiting.append(task)

        def abort(_raise: Callable[[], None]) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # With more than MIN_TASKS waiting this reader ends after its request: see `_session_loop`.
        if exc is not None or not self._ready or len(self._waiting) > MIN_TASKS:
            self.release()

    def release(self) -> None:
        """Let the next reader in, if the current task has the right."""
        if self._owner is trio.lowlevel.current_task():
            self._pass_on()

    def _pass_on(self) -> None:
        self._owner = self._waiting.popleft() if self._waiting else None
        if self._owner is not None:
            trio.lowlevel.reschedule(self._owner)

    async def wait_readable(self, fd: int) -> None:
        """Return when the kernel has a request, at once if it has one now."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        self._turns += 1
        events = self._poll.poll(0)
        if not events and self._turns > 1:
            # A program that is served asks again within microseconds; waiting in epoll costs more than that.
            until = time.perf_counter() + SPIN_S
            while not events and time.perf_counter() < until:
                events = self._poll.poll(0)
        if not events:
            self._turns = 0
            await trio.lowlevel.wait_readable(fd)
            events = self._poll.poll(0)
        elif self._turns >= TURNS:
            self._turns = 0
            await trio.lowlevel.checkpoint()
        # POLLERR: not connected any more (fs/fuse/dev.c, fuse_dev_poll): the reader will end.
        self._ready = bool(events) and not events[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL)

    # --- handlers ----------------------------------------------------------------------------------------------------

    async def drive(self, handler: Coroutine[Any, Any, T]) -> T:
        """Run a handler; when it waits for the first time, let the next reader in."""
        try:
            trap = handler.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        self.release()
        return await _continued(handler, trap)

    async def watch(self) -> None:
        """Service: a reader that ended with the right to read (the mount went away under it) must not keep it."""
        while True:
            await trio.sleep(_DEAD_READER_CHECK_S)
            owner = self._owner
            if owner is not None and inspect.getcoroutinestate(owner.coro) == inspect.CORO_CLOSED:
                self._pass_on()


@types.coroutine
def _continued(handler: Coroutine[Any, Any, T], trap: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that has yielded `trap` already, as `await` would."""
    sent: Any = None
    failure: BaseException | None = None
    while True:
        try:
            sent, failure = (yield trap), None
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - whatever it is, it is raised in the handler
            failure = exc
        try:
            trap = handler.send(sent) if failure is None else handler.throw(failure)
        except StopIteration as done:
            result: T = done.value
            return result


class _LowLevel:
    """`trio.lowlevel` with our `wait_readable`."""

    def __init__(self, gate: Gate) -> None:
        self.wait_readable = gate.wait_readable

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """The `trio` that pyfuse3 sees."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.lowlevel = _LowLevel(gate)

    def Lock(self) -> Gate:  # noqa: N802 - trio's name
        """pyfuse3 makes one, for its readers."""
        return self._gate

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install() -> Gate | None:
    """Give pyfuse3 the stand-in; None where it stays stock."""
    version = getattr(pyfuse3, "__version__", "")
    if os.environ.get("KOPSFS_GATE") == "off" or not version.startswith(CHECKED_VERSIONS):
        return None
    if getattr(pyfuse3, "trio", None) is not trio:
        return None
    gate = Gate()
    pyfuse3.trio = _Trio(gate)  # type: ignore[attr-defined]
    return gate
