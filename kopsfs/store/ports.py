"""How does one request reach the driver?

A `Port` starts calls and tells when they are done, all in the trio thread, without a task per call.
`Threads` runs blocking functions in trio's threads, `Wire` hands HTTP requests to the engine. In both
the lane of a call (`lanes.py`) says when its turn is.

A `Call` is one request, ready to be started once; a retry makes a new one.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, Literal, Protocol, TypeVar, cast

import outcome
import trio

from kopsfs.errors import DeniedError, StoreError, TransientError
from kopsfs.store.driver import (
    Answer,
    Checking,
    Driver,
    Expected,
    Form,
    HttpDriver,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Request,
)
from kopsfs.store.lanes import Lane, Lanes
from kopsfs.store.renewal import Renewal

log = logging.getLogger(__name__)
T = TypeVar("T")
Verb = Literal["head", "get", "put", "delete", "list", "other"]
Outcome = outcome.Outcome[T]
Done = Callable[[Outcome[Any]], None]
Ticket = int
Progress = Callable[[ObjectInfo, int], None]
"""Called in the trio thread as data arrives: what is being received and how many bytes of it are there."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. Exactly one of `act` (for `Threads`) and `prepare` + `parse` (for `Wire`) is set."""

    verb: Verb
    key: str
    """The whole key, or the whole prefix of a listing."""
    act: Callable[[], T] | None = None
    prepare: Callable[[], Request] | None = None
    parse: Callable[[Answer], T] | None = None
    into: BinaryIO | None = None
    progress: Progress | None = None
    uncover: Callable[[], None] | None = None
    """Keeps a thread that nobody waits for any more from writing to `into`."""

    def lane(self, *, urgent: bool) -> Lane:
        """Where it waits its turn; reads are urgent where somebody waits for them."""
        if self.verb in {"put", "delete"}:
            return Lane.WRITE
        if self.verb == "get":
            return Lane.READ if urgent else Lane.AHEAD
        return Lane.QUESTION


class Port(Protocol):
    """Where calls go. All methods are called in the trio thread."""

    def start(self, call: Call[Any], done: Done, *, urgent: bool) -> Ticket:
        """Start or queue a call; `done` is called later in the trio thread, never from inside."""
        ...

    def cancel(self, ticket: Ticket, *, unsent_only: bool) -> None:
        """Forget a call: `done` is not called any more. With `unsent_only` a call already sent goes on."""
        ...

    def close(self) -> None: ...

    def ready(self, *, writes: bool = False) -> bool:
        """Whether `make_ready` has nothing to do."""
        ...

    async def make_ready(self, *, writes: bool = False) -> None:
        """Do what has to be done before the next call: credentials, region. Raises what the driver raises."""
        ...

    def renew(self) -> trio.Event | None:
        """Have credentials renewed after a denial; set when that is over. None: it was done just before."""
        ...

    def reload(self) -> None:
        """Have credentials read again before the next call."""
        ...

    def head(self, key: Key) -> Call[ObjectInfo]: ...

    def get(self, key: Key) -> Call[tuple[ObjectInfo, bytes]]: ...

    def get_into(self, key: Key, file: BinaryIO, progress: Progress | None) -> Call[ObjectInfo]: ...

    def put(self, key: Key, data: bytes | BinaryIO, size: int, expected: Expected, form: Form) -> Call[Stored]: ...

    def delete(self, key: Key, expected: Expected, form: Form) -> Call[None]: ...

    def list_page(
        self, prefix: Prefix, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Call[Page]: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What a PUT's answer said."""

    info: ObjectInfo
    versioned: bool | None
    """The bucket keeps old versions; None: the store does not say."""


class Pool:
    """Runs functions in threads, as many at once as `Lanes(limit)` has places. Trio thread only.

    A call that was started is never interrupted: a cancelled one keeps its thread until its socket
    times out, and keeps counting against the limit, which is what bounds the threads.
    """

    def __init__(self, limit: int, *, in_place: bool = False) -> None:
        self._in_place = in_place
        self._serial = 0
        self._lanes = Lanes(limit)
        self._waiting: dict[Ticket, tuple[Callable[[], Any], Done, Lane]] = {}
        self._running: dict[Ticket, tuple[Done | None, Lane]] = {}
        self._finished: deque[tuple[Ticket, Outcome[Any]]] = deque()
        self._token: trio.lowlevel.TrioToken | None = None

    def start(self, act: Callable[[], Any], done: Done, lane: Lane = Lane.QUESTION) -> Ticket:
        self._token = trio.lowlevel.current_trio_token()
        self._serial += 1
        ticket = self._serial
        self._waiting[ticket] = (act, done, lane)
        self._lanes.put(ticket, lane)
        self._advance()
        return ticket

    def cancel(self, ticket: Ticket, *, unsent_only: bool) -> None:
        if self._waiting.pop(ticket, None) is None and not unsent_only and ticket in self._running:
            self._running[ticket] = (None, self._running[ticket][1])

    def close(self) -> None:
        self._waiting.clear()

    def _advance(self) -> None:
        while (ticket := self._lanes.next()) is not None:
            found = self._waiting.pop(ticket, None)
            if found is None:
                continue
            act, done, lane = found
            self._lanes.enter(lane)
            self._running[ticket] = (done, lane)
            if self._in_place:
                self._deliver(ticket, outcome.capture(act))
            else:
                trio.lowlevel.start_thread_soon(act, functools.partial(self._deliver, ticket))

    def _deliver(self, ticket: Ticket, result: Outcome[Any]) -> None:
        # In the worker's thread.  One turn of the loop serves all that finished before it ran.
        self._finished.append((ticket, result))
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._drain, idempotent=True)

    def _drain(self) -> None:
        while self._finished:
            ticket, result = self._finished.popleft()
            done, lane = self._running.pop(ticket)
            self._lanes.leave(lane)
            if done is not None:
                done(result)
        self._advance()


class Threads:
    """A blocking driver, called in threads."""

    def __init__(self, driver: Driver, *, in_place: bool = False) -> None:
        self._driver = driver
        self._pool = Pool(driver.capabilities.concurrency_max, in_place=in_place)

    def start(self, call: Call[Any], done: Done, *, urgent: bool) -> Ticket:
        assert call.act is not None
        return self._pool.start(call.act, done, call.lane(urgent=urgent))

    def cancel(self, ticket: Ticket, *, unsent_only: bool) -> None:
        self._pool.cancel(ticket, unsent_only=unsent_only)

    def close(self) -> None:
        self._pool.close()
        self._driver.close()

    def ready(self, *, writes: bool = False) -> bool:
        del writes  # SDKs look after themselves
        return True

    async def make_ready(self, *, writes: bool = False) -> None:
        del writes
        await trio.lowlevel.checkpoint()

    def renew(self) -> trio.Event | None:
        """SDKs renew credentials by themselves."""
        return None

    def reload(self) -> None:
        reload = getattr(self._driver, "reload_credentials", None)
        if reload is not None:
            self._pool.start(reload, _forget)

    def head(self, key: Key) -> Call[ObjectInfo]:
        return Call("head", key, lambda: self._driver.head(key))

    def get(self, key: Key) -> Call[tuple[ObjectInfo, bytes]]:
        def act() -> tuple[ObjectInfo, bytes]:
            into = io.BytesIO()
            info = self._driver.get(key, into)
            return info, into.getvalue()

        return Call("get", key, act)

    def get_into(self, key: Key, file: BinaryIO, progress: Progress | None) -> Call[ObjectInfo]:
        del progress  # a blocking driver says at the end only what it has fetched
        cover = _Cover(file)
        return Call("get", key, lambda: self._driver.get(key, cast("BinaryIO", cover)), into=file, uncover=cover.drop)

    def put(self, key: Key, data: bytes | BinaryIO, size: int, expected: Expected, form: Form) -> Call[Stored]:
        del form  # SDKs know one

        def act() -> Stored:
            body = io.BytesIO(data) if isinstance(data, bytes) else data
            try:
                return Stored(self._driver.put(key, body, size, expected=expected), None)
            except ValueError as error:
                # The caller gave up and closed the file under this thread.
                if isinstance(data, bytes) or not data.closed:
                    raise
                raise TransientError("put", key, "its bytes were taken away") from error

        return Call("put", key, act)

    def delete(self, key: Key, expected: Expected, form: Form) -> Call[None]:
        del form  # SDKs know one
        return Call("delete", key, lambda: self._driver.delete(key, expected=expected))

    def list_page(self, prefix: Prefix, *, delimiter: bool, token: str | None, start_after: str | None) -> Call[Page]:
        return Call(
            "list",
            prefix,
            lambda: self._driver.list_page(prefix, delimiter=delimiter, token=token, start_after=start_after),
        )


class _Cover:
    """A file seen through a lid: once dropped, writes go nowhere, because its owner uses it for something else."""

    def __init__(self, file: BinaryIO, new_digest: Callable[[], Any] | None = None) -> None:
        self._file = file
        self._new_digest = new_digest
        self.digest: Any = None
        """Of what was written since the last truncation."""
        self._lock = threading.Lock()
        self._dropped = False

    def drop(self) -> None:
        with self._lock:
            self._dropped = True

    def write(self, data: bytes) -> int:
        with self._lock:
            if self._dropped:
                return len(data)
            if self.digest is not None:
                self.digest.update(data)
            return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._lock:
            return 0 if self._dropped else self._file.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        with self._lock:
            if self._new_digest is not None:
                self.digest = self._new_digest()
            return 0 if self._dropped else self._file.truncate(size)

    def tell(self) -> int:
        with self._lock:
            return 0 if self._dropped else self._file.tell()


# -- HTTP ------------------------------------------------------------------------------------------


class Engine(Protocol):
    """The part of `http.Engine` used here; a test brings its own."""

    def submit(
        self,
        request: Request,
        *,
        done: Callable[[Answer | StoreError], None],
        lane: Lane = Lane.AHEAD,
        into: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
        started: Callable[[Answer], None] | None = None,
    ) -> int: ...

    def cancel(self, ticket: int, *, unsent_only: bool = False) -> bool: ...

    def close(self) -> None: ...


class Wire:
    """An HTTP driver, its requests run by an engine that is made when the first one is sent."""

    def __init__(self, driver: HttpDriver, make_engine: Callable[[], Engine], *, in_place: bool = False) -> None:
        self._driver = driver
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._aside = Pool(2, in_place=in_place)
        """For what blocks: credentials and region."""
        renewal = self._renewal = Renewal(driver, self._aside.start)
        self.ready = renewal.ready
        self.make_ready = renewal.make_ready
        self.renew = renewal.renew
        self.reload = renewal.reload

    def start(self, call: Call[Any], done: Done, *, urgent: bool) -> Ticket:
        assert call.prepare is not None
        assert call.parse is not None
        renewal = self._renewal
        renewal.check()
        if self._engine is None:
            self._engine = self._make_engine()
        parse, progress, lane = call.parse, call.progress, call.lane(urgent=urgent)
        signed = self._driver.signing
        try:
            request = call.prepare()
        except StoreError as error:
            trio.lowlevel.current_trio_token().run_sync_soon(done, outcome.Error(error))
            return 0

        def answered(answer: Answer | StoreError) -> None:
            result = outcome.Error(answer) if isinstance(answer, StoreError) else outcome.capture(parse, answer)
            if isinstance(result, outcome.Value):
                renewal.accepted = signed
            elif isinstance(result.error, DeniedError) or type(result.error) is StoreError:
                result = outcome.Error(renewal.judge(result.error, signed))
            done(result)

        if progress is None:
            return self._engine.submit(request, done=answered, lane=lane, into=call.into)
        info: list[ObjectInfo] = []

        def started(answer: Answer) -> None:
            with contextlib.suppress(StoreError):
                info.append(self._driver.parse_get(Key(call.key), answer))

        def arrived(size: int) -> None:
            if info:
                progress(info[0], size)

        return self._engine.submit(request, done=answered, lane=lane, into=call.into, progress=arrived, started=started)

    def cancel(self, ticket: Ticket, *, unsent_only: bool) -> None:
        if self._engine is not None:
            self._engine.cancel(ticket, unsent_only=unsent_only)

    def close(self) -> None:
        self._aside.close()
        if self._engine is not None:
            self._engine.close()
        self._driver.close()

    # Calls.

    def head(self, key: Key) -> Call[ObjectInfo]:
        driver = self._driver
        return Call("head", key, None, lambda: driver.prepare_head(key), lambda answer: driver.parse_head(key, answer))

    def get(self, key: Key) -> Call[tuple[ObjectInfo, bytes]]:
        driver = self._driver

        def parse(answer: Answer) -> tuple[ObjectInfo, bytes]:
            return driver.parse_get(key, answer), answer.body

        return Call("get", key, None, lambda: driver.prepare_get(key), parse)

    def get_into(self, key: Key, file: BinaryIO, progress: Progress | None) -> Call[ObjectInfo]:
        driver = self._driver
        checking = driver if isinstance(driver, Checking) else None
        cover = _Cover(file, None if checking is None else checking.new_digest)

        def parse(answer: Answer) -> ObjectInfo:
            info = driver.parse_get(key, answer)
            if checking is not None and cover.digest is not None:
                checking.check_digest(key, answer, cover.digest)
            return info

        return Call(
            "get",
            key,
            None,
            lambda: driver.prepare_get(key),
            parse,
            into=cast("BinaryIO", cover),
            progress=progress,
            uncover=cover.drop,
        )

    def put(self, key: Key, data: bytes | BinaryIO, size: int, expected: Expected, form: Form) -> Call[Stored]:
        driver = self._driver

        def parse(answer: Answer) -> Stored:
            return Stored(driver.parse_put(key, size, answer), driver.versioned(answer))

        return Call("put", key, None, lambda: driver.prepare_put(key, data, size, expected=expected, form=form), parse)

    def delete(self, key: Key, expected: Expected, form: Form) -> Call[None]:
        driver = self._driver
        return Call(
            "delete",
            key,
            None,
            lambda: driver.prepare_delete(key, expected=expected, form=form),
            lambda answer: driver.parse_delete(key, answer),
        )

    def list_page(self, prefix: Prefix, *, delimiter: bool, token: str | None, start_after: str | None) -> Call[Page]:
        driver = self._driver
        return Call(
            "list",
            prefix,
            None,
            lambda: driver.prepare_list(prefix, delimiter=delimiter, token=token, start_after=start_after),
            lambda answer: driver.parse_list(prefix, answer),
        )


def _forget(result: Outcome[Any]) -> None:
    """Note how something went that nobody waits for."""
    error = getattr(result, "error", None)
    if error is not None:
        log.info("credentials could not be renewed: %s", error)
