"""How are many HTTP requests kept in flight for little CPU?

`Engine` runs libcurl's multi interface on one epoll in one thread of its own. The trio thread hands in
a `Request` and gets an `Answer` or a `StoreError` back through a callback in the trio thread, many of
them per wake-up. There is no task, no stream and no lock per request.

The engine knows HTTP and nothing of stores: it follows no redirect, retries nothing that might have
acted, decompresses nothing, and sends the path byte for byte. What a status means is the driver's business.
A *ticket* is the number by which the caller may cancel a job; slots and jobs are those of `curl.py`, and which job
goes next is the business of `lanes.py`.

Threads: `submit`, `cancel`, `close` and all callbacks belong to the trio thread. What the two sides share is a `_Desk`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

import pycurl
import trio

from kopsfs.errors import StoreError, TransientError
from kopsfs.store.curl import Done, Job, Options, Slot, error_of
from kopsfs.store.driver import Answer, Request
from kopsfs.store.lanes import Lane, Lanes

log = logging.getLogger(__name__)

_NEVER: Final = float("inf")
_REPEATABLE: Final = frozenset({"GET", "HEAD"})
_CLOSED_EARLY: Final = frozenset({pycurl.E_GOT_NOTHING, pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR})
CRASH_PAUSE_S: Final = 0.1
"""So that a bug that shows at once does not burn a CPU."""
DELIVERED_AT_ONCE: Final = 4
"""Answers handed over before others get a turn: 128 at once keep a `find` waiting for 15 ms."""


class _Desk:
    """What the trio thread and the engine's share: deques and a dict, whose single operations are atomic, and an eventfd."""

    def __init__(self, options: Options, connections_max: int, deliver: Callable[[], None]) -> None:
        self.options = options
        self.lanes = Lanes(connections_max)
        self.unsent: dict[int, Job] = {}
        """By ticket. Whoever pops a job has it: one thread to give it up, the other to send it."""
        self.dropped: deque[Job] = deque()
        """Given up after they were sent."""
        self.outbox: deque[tuple[Job, Answer | StoreError | None]] = deque()
        """Results; None: progress."""
        self.outbox_posted = False
        self.token: trio.lowlevel.TrioToken | None = None
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.asleep = False
        self.closing = False
        self._deliver = deliver
        """Empties the outbox, in the trio thread."""

    def wake(self) -> None:
        self.asleep = False
        os.eventfd_write(self.wake_fd, 1)

    def post(self, job: Job, result: Answer | StoreError | None) -> None:
        """Put something into the outbox and wake the trio thread unless that has been done already."""
        self.outbox.append((job, result))
        if not self.outbox_posted and self.token is not None:
            self.outbox_posted = True
            with contextlib.suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self._deliver)

    def next_job(self) -> Job | None:
        """What to start next; cancelled ones never."""
        while (ticket := self.lanes.next()) is not None:
            job = self.unsent.pop(ticket, None)
            if job is not None:
                return job
        return None


class Engine:
    """Runs HTTP requests for one store, many at once.

    Answers arrive in the order they complete. At most `connections_max` are on their way, and of writes and
    questions a sixteenth more each. One engine lives in one `trio.run`.

    Raises (constructor): ConfigError if a named certificate bundle cannot be read.
    """

    def __init__(
        self,
        connections_max: int = 128,
        environ: Mapping[str, str] | None = None,
        *,
        ca_file: str = "",
        user_agent: str = "kopsfs",
        verify: bool = True,
        named_by: str = "",
    ) -> None:
        environ = os.environ if environ is None else environ
        options = Options.read(environ, ca_file=ca_file, user_agent=user_agent, verify=verify, named_by=named_by)
        self._desk = _Desk(options, connections_max, self._deliver)
        self._jobs: dict[int, Job] = {}
        self._tickets = itertools.count(1)
        self._thread: threading.Thread | None = None

    # What the trio thread calls.

    def submit(
        self,
        request: Request,
        *,
        done: Done,
        lane: Lane = Lane.AHEAD,
        into: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
        started: Callable[[Answer], None] | None = None,
    ) -> int:
        """Queue a request and return its ticket. `done` is called exactly once, unless it is cancelled.

        `done` must not raise. Errors carry the verb as `op` and no key, which the engine does not know.
        A body of `request` is read from where it stands and is sent at most once.

        Args:
            request: what to send.
            done: gets the answer or the error.
            lane: what it is for, and so its turn.
            into: seekable; gets the body of a success instead of `Answer.body`, written from the engine's thread.
            progress: with `into`: how many bytes have been written so far; calls are merged.
            started: with `into`: gets status and headers before the first `progress`.
        """
        if self._thread is None:
            self._start()
        job = Job(next(self._tickets), request, done, into, progress, started, lane)
        desk = self._desk
        self._jobs[job.ticket] = desk.unsent[job.ticket] = job
        desk.lanes.put(job.ticket, lane)
        if desk.asleep:
            desk.wake()
        return job.ticket

    def cancel(self, ticket: int, *, unsent_only: bool = False) -> bool:
        """Give a request up, so that `done` is not called any more; a write that was sent may have acted.

        With `unsent_only`, one that has been sent goes on and `done` will be called. An unknown ticket is ignored.

        Returns:
            True if the request never was and never will be sent.
        """
        unsent = self._desk.unsent.pop(ticket, None) is not None
        if not unsent and unsent_only:
            return False
        job = self._jobs.pop(ticket, None)
        if job is not None:
            job.cancelled = True
            if not unsent:
                self._desk.dropped.append(job)
                self._desk.wake()
        return unsent

    def close(self) -> None:
        """Stop the thread and close all connections; what is outstanding ends in TransientError."""
        desk = self._desk
        if desk.closing:
            return
        desk.closing = True
        if self._thread is not None:
            desk.wake()
            self._thread.join()
        self._deliver()
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.done(TransientError(job.request.method.lower(), detail="the connection to the store was closed"))
        os.close(desk.wake_fd)

    def _start(self) -> None:
        if self._desk.closing:
            raise RuntimeError("the engine is closed")
        self._desk.token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="kopsfs-http", daemon=True)
        self._thread.start()

    def _deliver(self) -> None:
        """Hand over what has come in, in the trio thread, a few at a time: others have requests to answer in between."""
        desk, jobs = self._desk, self._jobs
        desk.outbox_posted = False
        outbox = desk.outbox
        count = len(outbox)
        if count > DELIVERED_AT_ONCE:
            count = DELIVERED_AT_ONCE
            desk.outbox_posted = True
            assert desk.token is not None
            desk.token.run_sync_soon(self._deliver)
        for _ in range(count):
            job, result = outbox.popleft()
            if job.cancelled:
                continue
            if result is not None:
                del jobs[job.ticket]
                if job.into is not None and isinstance(result, Answer) and result.status < 300:
                    _report(job, job.head or result)
                job.done(result)
            elif job.head is not None:
                job.progress_posted = False
                _report(job, job.head)

    # What the engine's thread does.

    def _run(self) -> None:
        desk = self._desk
        while not desk.closing:
            loop = _Loop(desk)
            try:
                loop.run()
            except Exception:
                # Whatever it is, it is a bug of ours, and to wait for ever would be worse: everything in flight fails and
                # may be tried again.
                log.exception("the HTTP engine failed and starts again")
                for job in loop.in_flight():
                    desk.post(
                        job, TransientError(job.request.method.lower(), detail="internal error of the HTTP engine")
                    )
                time.sleep(CRASH_PAUSE_S)
            finally:
                loop.close()


class _Loop:
    """libcurl's multi handle, its sockets and its timer; lives in the engine's thread."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk
        self._lanes = desk.lanes
        self._free: dict[str, list[Slot]] = {}
        self._busy: set[Slot] = set()
        self._deadline = _NEVER
        self._watched: set[int] = set()
        self._epoll = select.epoll()
        self._epoll.register(desk.wake_fd, select.EPOLLIN)
        multi = self._multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, self._lanes.places)
        multi.setopt(pycurl.M_MAXCONNECTS, self._lanes.places)
        multi.setopt(pycurl.M_PIPELINING, 0)

    def run(self) -> None:
        desk, multi, epoll, wake_fd = self._desk, self._multi, self._epoll, self._desk.wake_fd
        while not desk.closing:
            self._fill()
            if self._deadline <= time.monotonic():
                self._deadline = _NEVER
                multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
                self._reap()
                continue
            desk.asleep = True
            # Look again after saying so: a submit that saw us awake has appended before.
            pending = desk.dropped or self._lanes.ready
            timeout = 0.0 if pending else max(0.0, self._deadline - time.monotonic())
            events = epoll.poll(None if timeout == _NEVER else timeout, 256)
            desk.asleep = False
            for fd, event in events:
                if fd == wake_fd:
                    os.eventfd_read(fd)
                    continue
                mask = 0
                if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    mask = pycurl.CSELECT_IN
                if event & (select.EPOLLOUT | select.EPOLLERR):
                    mask |= pycurl.CSELECT_OUT
                multi.socket_action(fd, mask)
            self._reap()

    def in_flight(self) -> list[Job]:
        return [slot.job for slot in self._busy if slot.job is not None and not slot.job.cancelled]

    def close(self) -> None:
        for slot in list(self._busy):
            self._release(slot, reuse=False)
        for slots in self._free.values():
            for slot in slots:
                slot.easy.close()
        self._multi.close()
        self._epoll.close()

    def _fill(self) -> None:
        """Drop what was cancelled, then start what there is room for."""
        desk = self._desk
        while desk.dropped:
            slot = desk.dropped.popleft().slot
            if slot is not None:
                self._release(slot)
        while (job := desk.next_job()) is not None:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        kind = job.request.method if job.into is None else "GET into"
        free = self._free.setdefault(kind, [])
        slot = free.pop() if free else Slot(kind, self._desk.options, self._report)
        self._busy.add(slot)
        self._lanes.enter(job.lane)
        try:
            slot.load(job)
            if job.repeated:
                slot.easy.setopt(pycurl.FRESH_CONNECT, 1)
        except (pycurl.error, OSError, ValueError, TypeError) as exc:
            self._release(slot, attached=False)
            self._desk.post(job, StoreError(job.request.method.lower(), detail=f"cannot be sent: {exc}"))
            return
        self._multi.add_handle(slot.easy)

    def _report(self, job: Job) -> None:
        self._desk.post(job, None)

    def _reap(self) -> None:
        """Take over what libcurl has finished."""
        while True:
            left, succeeded, failed = self._multi.info_read()
            for easy in succeeded:
                slot: Slot = easy.slot
                job = slot.job
                assert job is not None
                answer = slot.answer()
                self._release(slot)
                self._desk.post(job, answer)
            for easy, code, text in failed:
                self._fail(easy.slot, code, text)
            if not left:
                return

    def _fail(self, slot: Slot, code: int, text: str) -> None:
        job = slot.job
        assert job is not None
        repeat = (
            code in _CLOSED_EARLY
            and job.request.method in _REPEATABLE
            and not job.repeated
            and not slot.lines
            and not slot.easy.getinfo(pycurl.NUM_CONNECTS)
        )
        error = error_of(slot, code, text)
        self._release(slot)
        if repeat and not job.cancelled:
            job.repeated = True
            self._begin(job)
        else:
            self._desk.post(job, error)

    def _release(self, slot: Slot, *, reuse: bool = True, attached: bool = True) -> None:
        if attached:
            with contextlib.suppress(pycurl.error):
                self._multi.remove_handle(slot.easy)
        self._busy.discard(slot)
        job = slot.job
        assert job is not None
        self._lanes.leave(job.lane)
        if job.repeated:
            slot.easy.setopt(pycurl.FRESH_CONNECT, 0)
        slot.unload()
        if reuse:
            self._free.setdefault(slot.kind, []).append(slot)
        else:
            slot.easy.close()

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        """Do what libcurl wishes with a socket. A number may be used again after a close, so both calls are tolerant."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(fd)
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
            return
        events = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            if fd in self._watched:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)
        except FileExistsError:
            self._epoll.modify(fd, events)
        self._watched.add(fd)

    def _set_timer(self, timeout_ms: int) -> None:
        self._deadline = _NEVER if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000


def _report(job: Job, answer: Answer) -> None:
    if job.started is not None:
        started, job.started = job.started, None
        started(answer)
    if job.progress is not None:
        job.progress(job.received)
