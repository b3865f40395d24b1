"""How is a state store asked, whatever its kind?

`Store` is the one async face over every driver. It owns what is common: the mounted prefix, threads
or the HTTP engine (`ports.py`), retries with jitter until the caller's cancel scope ends, a limit of
requests in flight (listings before queued GETs), the circuit breaker (`breaker.py`), what conditions
the store has proven (`conditions.py`), and counters of requests by verb.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import outcome
import trio

from kopsfs.errors import (
    DeniedError,
    InvalidKeyError,
    KopsfsError,
    NotFoundError,
    StoreDownError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
)
from kopsfs.store.breaker import PROBE_WINDOW_S, Breaker, Health
from kopsfs.store.conditions import Conditions, Memory
from kopsfs.store.driver import (
    NO_PREFIX,
    Capabilities,
    Driver,
    Expected,
    Form,
    HttpDriver,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Tls,
)
from kopsfs.store.many import Many
from kopsfs.store.ports import Call, Engine, Outcome, Port, Threads, Wire
from kopsfs.store.writes import TEACHER_TRIES, Content, Write, carry_out, in_turn

__all__ = ["Deliver", "Health", "Store"]

log = logging.getLogger(__name__)
T = TypeVar("T")

Deliver = Callable[[Key, ObjectInfo | None, bytes | None, StoreError | None], None]
"""Called in the trio thread, in batches, once per key: (key, info, bytes, None) or (key, None, None, error)."""

PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
PROBE_BUDGET_S: Final = 10.0
LISTED_MAX: Final = 4096
"""Prefixes remembered as listable, so that a later 403 on one of them means that the store is gone."""
LAST_KEY: Final = "\U0010ffff"
"""Behind every key that a program makes up: a listing that starts after it is empty and cheap."""


class Store:
    """One mounted prefix of one store. Keys are relative to the prefix, both ways. Trio thread only.

    All waits are cancellable; a write that is cancelled may have acted, and goes on in the background.
    No method has a timeout: the caller's cancel scope is the timeout, and `TransientError` is retried
    until it ends; `StoreDownError` is not, it comes at once.
    """

    def __init__(
        self,
        port: Port,
        driver: Driver | HttpDriver,
        *,
        url: str,
        prefix: Prefix = NO_PREFIX,
        state_dir: Path | None = None,
        keep_metadata: bool = False,
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        """As given, without credentials: `s3://bucket/prefix`."""
        self.capabilities: Capabilities = driver.capabilities
        """Conditions as proven so far; replaced by a new value when something is learnt."""
        self.requests: Counter[str] = Counter()
        """Requests sent, by verb: get, head, put, delete, list."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.health_changed: Callable[[Health], None] | None = None
        """Called in the trio thread when `health.up` changes."""
        self._driver = driver
        self._port = port
        self._prefix = prefix
        self._state_dir = state_dir
        # A driver over HTTP writes back what the HEAD before the PUT has shown it; a blocking one asks by itself.
        self._head_before_put = keep_metadata and isinstance(driver, HttpDriver)
        self._random_unit = random_unit
        self._conditions: Conditions | None = None
        self._learning = trio.Lock()
        """Held by the one write that is used to learn conditions."""
        self._breaker: Breaker | None = None
        self._went_down = trio.Event()
        self._probing: trio.CancelScope | None = None
        self._listed: set[str] = set()
        self._lost_prefix: Prefix | None = None
        self._last_key = Key("")
        self._closed = False

    @property
    def health(self) -> Health:
        """What the circuit breaker believes."""
        return self._belief.health

    @property
    def _belief(self) -> Breaker:
        if self._breaker is None:
            self._breaker = Breaker(trio.current_time())
        return self._breaker

    # -- reading --------------------------------------------------------------------------------

    async def head(self, key: Key) -> ObjectInfo:
        """Say what is there. Raises NotFoundError. Cost: 1 HEAD."""
        info = await self._ask(lambda: self._port.head(self._whole(key)))
        return self._relative(info)

    async def get(self, key: Key) -> tuple[ObjectInfo, bytes]:
        """Fetch an object that fits in memory. Raises NotFoundError. Cost: 1 GET."""
        info, data = await self._ask(lambda: self._port.get(self._whole(key)))
        self.bytes_in += len(data)
        return self._relative(info), data

    async def get_into(
        self, key: Key, file: BinaryIO, progress: Callable[[ObjectInfo, int], None] | None = None
    ) -> ObjectInfo:
        """Stream a large object to a file. Cost: 1 GET.

        `progress(info, bytes_so_far)` comes as data arrives, at least once at the end; a retry starts over.
        After a cancel nothing is written to the file any more. Raises NotFoundError.
        """

        def report(info: ObjectInfo, size: int) -> None:
            assert progress is not None
            progress(self._relative(info), size)

        told = None if progress is None else report
        info = self._relative(await self._ask(lambda: self._port.get_into(self._whole(key), file, told)))
        self.bytes_in += info.size
        if progress is not None:
            progress(info, info.size)
        return info

    async def get_many(self, keys: Iterable[Key], deliver: Deliver, *, in_flight: int | None = None) -> None:
        """Fetch many small objects, FIFO, without a task per key. Errors are delivered, not raised. Cost: 1 GET each."""
        try:
            await self._make_ready()
        except StoreError as error:
            for key in keys:
                deliver(key, None, None, error)
            return
        limit = min(in_flight or self.capabilities.concurrency_max, self.capabilities.concurrency_max)

        def start(key: Key, done: Callable[[Outcome[Any]], None]) -> int:
            return self._start(self._port.get(self._whole(key)), done, urgent=False)

        def arrived(key: Key, info: ObjectInfo | None, data: bytes | None, error: StoreError | None) -> None:
            if info is not None and data is not None:
                self.bytes_in += len(data)
                info = self._relative(info)
            deliver(key, info, data, error)

        many = Many(
            keys, start, self._cancel_read, arrived, self._pause_s, limit, lambda: self._port.renew() is not None
        )
        await many.run()

    def _cancel_read(self, ticket: int) -> None:
        self._port.cancel(ticket, unsent_only=False)

    async def list_page(
        self,
        prefix: Prefix,
        *,
        delimiter: bool = False,
        token: str | None = None,
        start_after: str | None = None,
    ) -> Page:
        """List at most a page of the keys below `prefix`. Cost: 1 LIST (at most 1000 keys), 1 HEAD per doubtful key."""
        whole = Prefix(self._prefix + prefix)
        after = None if start_after is None else self._prefix + start_after
        page = await self._ask(lambda: self._port.list_page(whole, delimiter=delimiter, token=token, start_after=after))
        if page.doubtful:
            page = await self._settled(page)
        cut = len(self._prefix)
        if not cut:
            return page
        return Page(
            [self._relative(info) for info in page.objects if len(info.key) > cut],
            [Prefix(group[cut:]) for group in page.prefixes if len(group) > cut],
            page.token,
        )

    async def _settled(self, page: Page) -> Page:
        """Ask for each key whose state the listing may have wrong."""
        asked: dict[Key, ObjectInfo | None] = {}
        errors: list[StoreError] = []

        async def ask(key: Key) -> None:
            try:
                info = await self._ask(lambda: self._port.head(key))
                asked[key] = info
            except NotFoundError:
                asked[key] = None
            except StoreError as error:
                errors.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for key in page.doubtful:
                nursery.start_soon(ask, key)
        if errors:
            raise errors[0]
        found = (asked.get(info.key, info) for info in page.objects)
        return Page([info for info in found if info is not None], page.prefixes, page.token)

    # -- writing --------------------------------------------------------------------------------

    async def put(self, key: Key, data: bytes | BinaryIO, size: int, *, expected: Expected) -> ObjectInfo:
        """Store `size` bytes, conditional on `expected` by whatever means the store has proven.

        A file is read from where it stands, and must stay open until this returns. Raises InvalidKeyError,
        TooLargeError and ConflictError; that not where the store turns out to hold exactly our bytes, which is what a lost reply looks like.
        Cost: 1 PUT; 1 HEAD more where metadata is kept or a condition is check-then-put; 1 HEAD and 2 refused PUTs more
        for the first replacement in a bucket whose conditions are unproven; after a conflict 1 HEAD, and 1 GET where the
        store names no digest.
        """
        whole = self._storable(key, size)
        content = Content(data, size)

        def call(condition: Expected, form: Form) -> Call[Any]:
            self.bytes_out += size
            return self._port.put(whole, content.rewound(), size, condition, form)

        stored = await self._write(Write("put", key, expected, call, content))
        assert stored is not None
        return stored

    async def delete(self, key: Key, *, expected: Expected) -> None:
        """Remove an object; one already gone counts as done. Raises ConflictError.

        Cost: 1 DELETE; where delete-if is not offered, 1 HEAD more.
        """
        whole = self._whole(key)
        await self._write(Write("delete", key, expected, lambda when, form: self._port.delete(whole, when, form)))

    async def _write(self, write: Write) -> ObjectInfo | None:
        await self._make_ready(writes=write.op == "put")
        assert self._conditions is not None
        # One write at a time teaches; those that waited for it go on side by side. Creations teach nothing.
        teach = functools.partial(self._carry_out, write, tries=TEACHER_TRIES)
        if self._unproven(write) and await in_turn(self._learning, lambda: self._unproven(write), teach, self.pause):
            return write.stored
        return await self._carry_out(write)

    async def _carry_out(self, write: Write, tries: float = math.inf) -> ObjectInfo | None:
        conditions = self._conditions
        assert conditions is not None
        if self._head_before_put and write.op == "put" and not conditions.looks_first(write.expected):
            with contextlib.suppress(NotFoundError):
                await self.head(write.key)
        return await carry_out(write, conditions, self, tries)

    def _unproven(self, write: Write) -> bool:
        assert self._conditions is not None
        return self._conditions.unproven(write.expected, deleting=write.op == "delete")

    # -- asking ---------------------------------------------------------------------------------

    def _whole(self, key: Key) -> Key:
        return Key(self._prefix + key)

    def _storable(self, key: Key, size: int) -> Key:
        whole = self._whole(key)
        try:
            length = len(whole.encode())
        except UnicodeEncodeError as error:
            raise InvalidKeyError("put", key, "is not Unicode text") from error
        if not 0 < length <= self.capabilities.key_bytes_max:
            raise InvalidKeyError("put", key, f"a key has 1 to {self.capabilities.key_bytes_max} bytes, not {length}")
        if size > self.capabilities.object_size_max:
            raise TooLargeError("put", key, f"{size} bytes; this store takes {self.capabilities.object_size_max}")
        return whole

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        if not self._prefix:
            return info
        key = Key(info.key[len(self._prefix) :])
        return ObjectInfo(key, info.version, info.size, info.mtime_ns, info.md5)

    async def _ask(self, make: Callable[[], Call[T]]) -> T:
        """Ask until there is an answer or the caller's cancel scope ends."""
        attempt = 0
        while True:
            try:
                await self._make_ready()
                return await self.attempt(make)
            except StoreDownError:
                raise
            except TransientError as error:
                await self.pause(error, attempt)
                attempt += 1

    async def attempt(self, make: Callable[[], Call[T]]) -> T:
        """Ask once; after a denial once more with renewed credentials, if they can be renewed."""
        try:
            return await self._once(make())
        except DeniedError:
            renewal = self._port.renew()
            if renewal is None:
                raise
        await renewal.wait()
        return await self._once(make())

    async def _make_ready(self, *, writes: bool = False) -> None:
        """Have credentials and region at hand; what fails on the way counts against the store's health."""
        attempt = 0
        while not self._port.ready(writes=writes):
            if not self._belief.up:
                raise StoreDownError("open", "", self._belief.error)
            started = trio.current_time()
            try:
                await self._port.make_ready(writes=writes)
            except TransientError as error:
                if self._belief.failed(started, trio.current_time(), str(error)):
                    self._watch_over()
                await self.pause(error, attempt)
                attempt += 1
        if self._conditions is None:
            self._conditions = Conditions(self._driver.capabilities, self._memory())
            self.note_conditions(self._conditions)

    def note_conditions(self, conditions: Conditions) -> None:
        """Show what has been learnt in `capabilities`."""
        self.capabilities = conditions.apply(self._driver.capabilities)

    def _memory(self) -> Memory | None:
        where = self._driver.describe()
        if self._state_dir is None or "endpoint" not in where:
            return None
        return Memory(self._state_dir / "conditions.json", f"{where['endpoint']} {where.get('bucket')}")

    async def pause(self, error: TransientError, attempt: int) -> None:
        """Wait before the next attempt; not when the store is found to be down meanwhile."""
        pause = self._pause_s(attempt, error.retry_after_s)
        log.debug("retry op=%s key=%r attempt=%d pause_s=%.2f err=%s", error.op, error.key, attempt, pause, error)
        with trio.move_on_after(pause):
            await self._went_down.wait()

    def _pause_s(self, attempt: int, retry_after_s: float) -> float:
        """Exponential, with jitter: thousands of mounts must not come back in step."""
        pause = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(attempt, 16))
        return max(pause * (0.5 + self._random_unit() / 2), retry_after_s)

    async def _once(self, call: Call[T]) -> T:
        task = trio.lowlevel.current_task()
        started = trio.current_time()
        waiting = True

        def done(result: Outcome[T]) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                trio.lowlevel.reschedule(task, result)
            elif call.verb in {"put", "delete"}:
                log.info("op=%s key=%r was given up by its caller, result=%s", call.verb, call.key, _summary(result))

        ticket = self._start(call, done, urgent=True)

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            self._port.cancel(ticket, unsent_only=call.verb in {"put", "delete"})
            if call.uncover is not None:
                call.uncover()
            if self._belief.abandoned(started, trio.current_time()):
                self._watch_over()
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _start(self, call: Call[T], done: Callable[[Outcome[T]], None], *, urgent: bool, probe: bool = False) -> int:
        """Start one call, unless the store is known to be down; note how it ends."""
        name = call.key[len(self._prefix) :]
        if not self._belief.up and not probe:
            raise StoreDownError(call.verb, name, self._belief.error)
        started = trio.current_time()
        self.requests[call.verb] += 1
        if call.verb != "list":
            self._last_key = Key(call.key)

        def noted(result: Outcome[T]) -> None:
            done(self._noted(call, result, started, name))

        return self._port.start(call, noted, urgent=urgent)

    def _noted(self, call: Call[T], result: Outcome[T], started: float, name: str) -> Outcome[T]:
        """Tell the breaker, and turn whole keys in errors into relative ones."""
        now = trio.current_time()
        error = getattr(result, "error", None)
        if isinstance(error, StoreError):
            error.key = name
        log.debug("op=%s key=%r ms=%.1f result=%s", call.verb, name, 1e3 * (now - started), error or "done")
        if isinstance(error, TransientError) and self._port.ready():
            if self._belief.failed(started, now, f"{error.op}: {error.detail}"):
                self._watch_over()
        elif self._is_lost(call, error):
            self._lost_prefix = Prefix(call.key) if call.verb == "list" else None
            result = outcome.Error(StoreDownError(call.verb, name, str(error)))
            self._went_away(f"{call.verb}: {error}")
        elif error is None or isinstance(error, StoreError):
            if error is None and call.verb == "list" and len(self._listed) < LISTED_MAX:
                self._listed.add(call.key)
            if self._belief.answered(now):
                log.info("store is up again url=%s", self.url)
                self._went_down = trio.Event()
                self._tell_health()
        return result

    def _is_lost(self, call: Call[Any], error: BaseException | None) -> bool:
        """Whether this refusal means that the store went away: it was there before.

        NoSuchBucket, and a 403 for a listing that was answered earlier (promise 5). A 403 for a
        prefix never listed is an ordinary denial: policies allow prefixes one by one.
        """
        if not self._belief.proven:
            return False
        return isinstance(error, StoreGoneError) or (
            isinstance(error, DeniedError) and call.verb == "list" and call.key in self._listed
        )

    # -- health ---------------------------------------------------------------------------------

    def _tell_health(self) -> None:
        if self.health_changed is not None:
            self.health_changed(self.health)

    def _went_away(self, error: str) -> None:
        if self._belief.lost(trio.current_time(), error):
            log.warning("store is down url=%s err=%r", self.url, error)
            self._went_down.set()
            self._tell_health()
            self._watch_over()

    def _watch_over(self) -> None:
        """Have the store probed: at once while it is only suspected, at growing intervals once it is down."""
        if self._probing is None and not self._closed:
            self._probing = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._probe_until_up, name="store probe")

    async def _probe_until_up(self) -> None:
        assert self._probing is not None
        with self._probing:
            if self._belief.up and not await self._probe(PROBE_WINDOW_S):
                self._went_away(self._belief.error)
            while not self._belief.up:
                await trio.sleep(self._belief.probe_pause_s())
                await self._probe(PROBE_BUDGET_S)
        self._probing = None

    async def _probe(self, budget_s: float) -> bool:
        """Ask one cheap question; say whether there was an answer, whatever it said."""
        before = self._belief.answers
        with trio.move_on_after(budget_s):
            try:
                await self._port.make_ready()
            except KopsfsError as error:
                log.debug("probe err=%s", error)
                return False
            answered = trio.Event()
            ticket = self._start(self._probe_call(), lambda _result: answered.set(), urgent=True, probe=True)
            try:
                await answered.wait()
            finally:
                self._port.cancel(ticket, unsent_only=False)
        return self._belief.answers != before

    def _probe_call(self) -> Call[Any]:
        if not self._listed and self._last_key:
            return self._port.head(self._last_key)
        prefix = self._prefix if self._lost_prefix is None else self._lost_prefix
        after = prefix + LAST_KEY if self.capabilities.list_start_after else None
        return self._port.list_page(prefix, delimiter=True, token=None, start_after=after)

    # -- the rest -------------------------------------------------------------------------------

    def watch(self, changed: Callable[[Key], None]) -> Callable[[], None] | None:
        """Have `changed(key)` called in the trio thread when the store says by itself that a key changed.

        A hint, never a promise: what it leaves out, refreshing finds. A name that is empty or ends in `/`
        stands for everything below it, and our own writes are told as well. None: this store has no feed
        (`capabilities.change_feed` is `poll`). The answer ends it. Cost: none.
        """
        watch = getattr(self._driver, "watch", None)
        if watch is None:
            return None
        token = trio.lowlevel.current_trio_token()
        cut = len(self._prefix)

        def told(key: Key) -> None:
            if self._prefix.startswith(key) and (not key or key.endswith("/")):
                key = Key(self._prefix)
            if key.startswith(self._prefix):
                try:
                    token.run_sync_soon(changed, Key(key[cut:]))
                except trio.RunFinishedError:
                    stop()

        stop: Callable[[], None] = watch(told)
        return stop

    def reload_credentials(self) -> None:
        """Read credentials again before the next request (SIGHUP)."""
        self._port.reload()

    def describe(self) -> dict[str, object]:
        """For `status`: endpoint, region, bucket, guarantees, versioning, never a credential."""
        return {
            "url": self.url,
            "prefix": self._prefix,
            **self._driver.describe(),
            "create_only": self.capabilities.create_only,
            "replace_if": self.capabilities.replace_if,
            "delete_if": self.capabilities.delete_if,
            "change_feed": self.capabilities.change_feed,
        }

    async def aclose(self) -> None:
        """Stop probing and let go of connections; requests still in flight are forgotten."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
        self._port.close()
        await trio.lowlevel.checkpoint()


def _summary(result: Outcome[Any]) -> str:
    error = getattr(result, "error", None)
    return "done" if error is None else str(error)


def over(
    driver: Driver | HttpDriver,
    *,
    url: str,
    prefix: Prefix = NO_PREFIX,
    state_dir: Path | None = None,
    keep_metadata: bool = False,
    connections_max: int = 128,
    environ: Mapping[str, str] | None = None,
    ca_file: str = "",
    in_place: bool = False,
    engine: Callable[[], Engine] | None = None,
    random_unit: Callable[[], float] = random.random,
) -> Store:
    """Put a `Store` over a driver; `in_place` runs a blocking one in the trio thread, for tests on a mock clock."""
    if isinstance(driver, HttpDriver):
        tls: Tls = getattr(driver, "tls", Tls())
        named_by: str = getattr(driver, "named_by", "")
        make = engine or _engine(environ, connections_max, Tls(tls.verify, ca_file or tls.ca_file), named_by)
        port: Port = Wire(driver, make, in_place=in_place)
    else:
        port = Threads(driver, in_place=in_place)
    return Store(
        port,
        driver,
        url=url,
        prefix=prefix,
        state_dir=state_dir,
        keep_metadata=keep_metadata,
        random_unit=random_unit,
    )


def _engine(environ: Mapping[str, str] | None, connections_max: int, tls: Tls, named_by: str) -> Callable[[], Engine]:
    def make() -> Engine:
        from kopsfs.store import http

        return http.Engine(connections_max, environ, ca_file=tls.ca_file, verify=tls.verify, named_by=named_by)

    return make
