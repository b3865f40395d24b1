"""How are many HTTP requests kept in flight for little CPU?

`Engine` runs libcurl's multi interface on one epoll in one thread of its own. The trio thread hands in
a `Request` and gets an `Answer` or a `StoreError` back through a callback in the trio thread, many of
them per wake-up. There is no task, no stream and no lock per request.

The engine knows HTTP and nothing of stores: it follows no redirect, retries nothing that might have
acted, decompresses nothing, and sends the path byte for byte. What a status means is the driver's business.
A *ticket* is the number by which the caller may cancel a job; slots and jobs are those of `curl.py`, and which job
goes next is the business of `lanes.py`.

Threads: `submit`, `cancel`, `close` and all callbacks belong to the trio thread. The two sides share
deques and a dict, whose single operations are atomic, and one eventfd.
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
        self._options = Options.read(environ, ca_file=ca_file, user_agent=user_agent, verify=verify, named_by=named_by)
        self._lanes = Lanes(connections_max)
        self._unsent: dict[int, Job] = {}
        self._dropped: deque[Job] = deque()
        self._outbox: deque[tuple[Job, Answer | StoreError | None]] = deque()
        self._outbox_posted = False
        self._jobs: dict[int, Job] = {}
        self._tickets = itertools.count(1)
        self._token: trio.lowlevel.TrioToken | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asleep = False
        self._closing = False
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
        self._jobs[job.ticket] = self._unsent[job.ticket] = job
        self._lanes.put(job.ticket, lane)
        if self._asleep:
            self._wake()
        return job.ticket

    def cancel(self, ticket: int, *, unsent_only: bool = False) -> bool:
        """Give a request up, so that `done` is not called any more; a write that was sent may have acted.

        With `unsent_only`, one that has been sent goes on and `done` will be called. An unknown ticket is ignored.

        Returns:
            True if the request never was and never will be sent.
        """
        # Whoever pops the ticket has the job: this thread or the engine's.
        unsent = self._unsent.pop(ticket, None) is not None
        if not unsent and unsent_only:
            return False
        job = self._jobs.pop(ticket, None)
        if job is not None:
            job.cancelled = True
            if not unsent:
                self._dropped.append(job)
                self._wake()
        return unsent

    def close(self) -> None:
        """Stop the thread and close all connections; what is outstanding ends in TransientError."""
        if self._closing:
            return
        self._closing = True
        if self._thread is not None:
            self._wake()
            self._thread.join()
        self._deliver()
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.done(TransientError(job.request.method.lower(), detail="the connection to the store was closed"))
        os.close(self._wake_fd)

    def _start(self) -> None:
        if self._closing:
            raise RuntimeError("the engine is closed")
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="kopsfs-http", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        self._asleep = False
        os.eventfd_write(self._wake_fd, 1)

    def _deliver(self) -> None:
        """Hand over what has come in, in the trio thread, a few at a time: others have requests to answer in between."""
        self._outbox_posted = False
        outbox, jobs = self._outbox, self._jobs
        count = len(outbox)
        if count > DELIVERED_AT_ONCE:
            count = DELIVERED_AT_ONCE
            self._outbox_posted = True
            assert self._token is not None
            self._token.run_sync_soon(self._deliver)
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
        while not self._closing:
            loop = _Loop(self)
            try:
                loop.run()
            except Exception:
                # A bug, but waiting for ever would be worse: everything in flight fails and may be tried again.
                log.exception("the HTTP engine failed and starts again")
                for job in loop.in_flight():
                    self.post(
                        job, TransientError(job.request.method.lower(), detail="internal error of the HTTP engine")
                    )
                time.sleep(CRASH_PAUSE_S)
            finally:
                loop.close()

    def post(self, job: Job, result: Answer | StoreError | None) -> None:
        """Put something into the trio thread's inbox and wake it unless that has been done already."""
        self._outbox.append((job, result))
        if not self._outbox_posted and self._token is not None:
            self._outbox_posted = True
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver)

    def next_job(self) -> Job | None:
        """What to start next; cancelled ones never."""
        while (ticket := self._lanes.next()) is not None:
            job = self._unsent.pop(ticket, None)
            if job is not None:
                return job
        return None


class _Loop:
    """libcurl's multi handle, its sockets and its timer; lives in the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lanes = engine._lanes  # noqa: SLF001 - the engine's own half
        self._free: dict[str, list[Slot]] = {}
        self._busy: set[Slot] = set()
        self._deadline = _NEVER
        self._watched: set[int] = set()
        self._epoll = select.epoll()
        self._epoll.register(engine._wake_fd, select.EPOLLIN)  # noqa: SLF001 - the engine's own half
        multi = self._multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, self._lanes.places)
        multi.setopt(pycurl.M_MAXCONNECTS, self._lanes.places)
        multi.setopt(pycurl.M_PIPELINING, 0)

    def run(self) -> None:
        engine, multi, epoll, wake_fd = self._engine, self._multi, self._epoll, self._engine._wake_fd  # noqa: SLF001
        while not engine._closing:  # noqa: SLF001
            self._fill()
            if self._deadline <= time.monotonic():
                self._deadline = _NEVER
                multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
                self._reap()
                continue
            engine._asleep = True  # noqa: SLF001
            # Look again after saying so: a submit that saw us awake has appended before.
            pending = engine._dropped or self._lanes.ready  # noqa: SLF001
            timeout = 0.0 if pending else max(0.0, self._deadline - time.monotonic())
            events = epoll.poll(None if timeout == _NEVER else timeout, 256)
            engine._asleep = False  # noqa: SLF001
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
        engine = self._engine
        while engine._dropped:  # noqa: SLF001
            slot = engine._dropped.popleft().slot  # noqa: SLF001
            if slot is not None:
                self._release(slot)
        while (job := engine.next_job()) is not None:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        kind = job.request.method if job.into is None else "GET into"
        free = self._free.setdefault(kind, [])
        slot = free.pop() if free else Slot(kind, self._engine._options, self._report)  # noqa: SLF001
        self._busy.add(slot)
        self._lanes.enter(job.lane)
        try:
            slot.load(job)
            if job.repeated:
                slot.easy.setopt(pycurl.FRESH_CONNECT, 1)
        except (pycurl.error, OSError, ValueError, TypeError) as exc:
            self._release(slot, attached=False)
            self._engine.post(job, StoreError(job.request.method.lower(), detail=f"cannot be sent: {exc}"))
            return
        self._multi.add_handle(slot.easy)

    def _report(self, job: Job) -> None:
        self._engine.post(job, None)

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
                self._engine.post(job, answer)
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
            self._engine.post(job, error)

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
