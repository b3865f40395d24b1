"""How does `lives.py` use a store that somebody else serves?

`ServedMachine` is a `Machine` whose store is a server of `tests/fuse/remotes.py`. Requests are prepared and answers parsed by
the driver as ever, but sent one at a time in the trio thread, so that a clock that jumps never jumps over one; each acts
after one delay, is answered after another, and fails as `faulty.py` says. What others do goes through the row's own client.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import trio

from kopsfs.errors import NotFoundError, StoreError, TransientError
from kopsfs.store.driver import ANY, Answer, Expected, Form, HttpDriver, Key, ObjectInfo, Request
from kopsfs.store.ports import Call, Done, Stored, Wire
from kopsfs.store.url import Settings, open_driver, parse
from tests.fuse.mounted import Remote
from tests.store.harness import DriverFace, exchange
from tests.support.faulty import BROKEN_OFF, Faults, FaultyDriver
from tests.support.lives import LatePort, Machine


class ServedBucket:
    """Where our writes and other clients' meet: the methods of `memory.Bucket` that tests wrap, to see both.

    Keys are relative to the prefix of the row's URL.
    """

    def __init__(self, remote: Remote, look: DriverFace, prefix: str) -> None:
        self.remote = remote
        self.prefix = prefix
        self._look = look
        self._objects = self
        self._ours: Callable[[], Any] | None = None

    def put(self, key: Key, data: bytes, expected: Expected) -> ObjectInfo:
        if self._ours is not None:
            info: ObjectInfo = self._ours()
            return info
        self.remote.put(key, data)
        return self._look.head(self.prefix + key)

    def delete(self, key: Key, expected: Expected) -> None:
        if self._ours is not None:
            self._ours()
        elif key in self.remote.keys():
            self.remote.delete(key)

    def get(self, key: Key) -> _Seen | None:
        """As `memory.Bucket._objects.get`: what is there."""
        try:
            return _Seen(self._look.head(self.prefix + key))
        except NotFoundError:
            return None

    def write(self, whole: Key, data: bytes | None, act: Callable[[], Any]) -> Any:
        """Let our own write (None: a deletion) pass where tests look. Raises what `act` raises."""
        key = Key(whole.removeprefix(self.prefix))
        self._ours = act
        try:
            return self.delete(key, ANY) if data is None else self.put(key, data, ANY)
        finally:
            self._ours = None

    def check(self) -> None:
        """Nothing that one could see from here."""


@dataclass(frozen=True)
class _Seen:
    info: ObjectInfo


@dataclass
class ServedMachine(Machine):
    """A store on a server, and the directories of this machine."""

    remote: Any = None

    def __post_init__(self) -> None:
        driver = self._open()
        self.prefix = parse(self.remote.url, self.remote.environment).prefix
        self.look = DriverFace(self._open())
        self.bucket: Any = ServedBucket(self.remote, self.look, self.prefix)
        self.driver: Any = Faults() if isinstance(driver, HttpDriver) else FaultyDriver(_Watched(driver, self.bucket))
        self.lives = 0

    def _open(self) -> Any:
        environ = dict(self.remote.environment)
        return open_driver(parse(self.remote.url, environ), Settings(environ=environ, page_size=self.page_size))

    def connect(self) -> tuple[Any, Any]:
        if isinstance(self.driver, FaultyDriver):
            return LatePort(self.driver, self.delay), self.driver
        driver = self._open()
        return _LateWire(self, driver), driver

    def objects(self) -> dict[str, bytes]:
        return {key: self.remote.get(key) for key in sorted(self.remote.keys())}


class _Watched:
    """A blocking driver whose writes pass where tests look."""

    def __init__(self, inner: Any, bucket: ServedBucket) -> None:
        self._inner = inner
        self._bucket = bucket
        self.capabilities = inner.capabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, key: Key, data: BinaryIO, size: int, /, *, expected: Expected) -> ObjectInfo:
        body = data.read(size)
        act = lambda: self._inner.put(key, io.BytesIO(body), size, expected=expected)  # noqa: E731
        info: ObjectInfo = self._bucket.write(key, body, act)
        return info

    def delete(self, key: Key, /, *, expected: Expected) -> None:
        self._bucket.write(key, None, lambda: self._inner.delete(key, expected=expected))


@dataclass
class _At:
    """The call that is being started: what the engine is not told."""

    verb: str
    key: Key
    data: bytes | BinaryIO = b""
    size: int = 0

    def body(self) -> bytes:
        """What a put stores, whatever frame the driver gives it."""
        if isinstance(self.data, bytes):
            return self.data
        at = self.data.tell()
        found = self.data.read(self.size)
        self.data.seek(at)
        return found


class _LateWire(Wire):
    def __init__(self, machine: ServedMachine, driver: Any) -> None:
        self._late = _LateEngine(machine, driver)
        super().__init__(driver, lambda: self._late, in_place=True)
        self._puts: dict[Any, _At] = {}

    def put(self, key: Key, data: bytes | BinaryIO, size: int, expected: Expected, form: Form) -> Call[Stored]:
        call = super().put(key, data, size, expected, form)
        self._puts[call.prepare] = _At("put", key, data, size)
        return call

    def start(self, call: Call[Any], done: Done, *, urgent: bool) -> int:
        self._late.at = self._puts.pop(call.prepare, None) or _At(call.verb, Key(call.key))
        return super().start(call, done, urgent=urgent)


@dataclass
class _LateEngine:
    """Answers in the trio thread, after delays on its clock."""

    machine: ServedMachine
    driver: Any
    at: _At = field(default_factory=lambda: _At("other", Key("")))
    closed: bool = False
    _tickets: int = 0
    _alive: dict[int, Callable[[Answer | StoreError], None]] = field(default_factory=dict)
    _acted: set[int] = field(default_factory=set)

    def submit(
        self,
        request: Request,
        *,
        done: Callable[[Answer | StoreError], None],
        urgent: bool = False,
        into: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
        started: Callable[[Answer], None] | None = None,
        **_more: object,
    ) -> int:
        self._tickets += 1
        self._alive[self._tickets] = done
        trio.lowlevel.spawn_system_task(self._run, self._tickets, self.at, request, into)
        return self._tickets

    def cancel(self, ticket: int, *, unsent_only: bool = False) -> bool:
        if unsent_only and ticket in self._acted:
            return False
        return self._alive.pop(ticket, None) is not None and ticket not in self._acted

    def close(self) -> None:
        self.closed = True

    async def _run(self, ticket: int, at: _At, request: Request, into: BinaryIO | None) -> None:
        before, after = self.machine.delay(at.verb, at.key)
        await trio.sleep(before)
        if self.closed or ticket not in self._alive:
            return
        self._acted.add(ticket)
        result = self._result(at, request, into)
        await trio.sleep(after)
        self._acted.discard(ticket)
        done = self._alive.pop(ticket, None)
        if done is not None and not self.closed:
            done(result)

    def _result(self, at: _At, request: Request, into: BinaryIO | None) -> Answer | StoreError:
        fault = self.machine.driver.arrive(at.verb, at.key)
        if fault is not None and into is not None:
            into.seek(0)
            into.write(BROKEN_OFF)
        if fault is not None and not fault.acted:
            return fault.error(at.verb, at.key)
        try:
            answer = self._answer(at, request)
        except TransientError as error:
            return error
        if fault is not None:
            return fault.error(at.verb, at.key)
        if into is None or answer.status >= 300:
            return answer
        into.seek(0)
        into.truncate()
        into.write(answer.body)
        return Answer(answer.status, answer.headers, b"")

    def _answer(self, at: _At, request: Request) -> Answer:
        if at.verb not in {"put", "delete"}:
            return exchange(at.verb, request)
        answers: list[Answer] = []
        look: Any = self.machine.look

        def act() -> Any:
            body = at.body()
            answers.append(exchange(at.verb, request))
            # By another driver: this one reads the answer when it is due.
            if at.verb == "delete":
                return look._driver.parse_delete(at.key, answers[0])
            return look._driver.parse_put(at.key, len(body), answers[0])

        try:
            self.machine.bucket.write(at.key, None if at.verb == "delete" else at.body(), act)
        except StoreError:
            if not answers:
                raise
        return answers[0]
