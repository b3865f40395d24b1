"""Where are the bytes of one version of one object?

In memory, on local disk, on their way, or only in the store. `Content` answers for (key, version),
fetches each at most once at a time however many ask (single flight), keeps what was read within a
budget in memory and another on disk, and fetches small files ahead in LIST order. A `Blob` is what
an open file holds on to: as long as it lives, its bytes stay, whatever is evicted.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import trio
from typing_extensions import override

from kopsfs.errors import DeniedError, StoreError
from kopsfs.fs.cache import Cache
from kopsfs.fs.names import is_secret
from kopsfs.store import Store
from kopsfs.store.driver import Key, ObjectInfo, Version

log = logging.getLogger(__name__)

LARGE_BYTES: Final = 4 << 20
"""From here on an object is streamed to a file and read while it arrives."""

PREFETCH_FILE_BYTES_MAX: Final = LARGE_BYTES
DENIALS_MAX: Final = 2
"""So many 403s under a prefix stop fetching ahead there."""


class Blob:
    """The bytes of one version, held."""

    __slots__ = ("_data", "info")

    def __init__(self, info: ObjectInfo, data: bytes) -> None:
        self.info = info
        self._data = data

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`; fewer only at the end."""
        return self._data[offset : offset + size]

    async def whole(self) -> bytes | None:
        """All of it, if it is in memory."""
        return self._data

    def close(self) -> None:
        """Let go."""


class LargeBlob(Blob):
    """The bytes of a large object, in an unlinked file, perhaps still arriving."""

    __slots__ = ("_arrived", "_changed", "_closed", "_copying", "_error", "_file", "_scope", "_stall_s", "finished")

    def __init__(self, info: ObjectInfo, directory: Path, stall_s: float) -> None:
        super().__init__(info, b"")
        self._stall_s = stall_s
        self._file = tempfile.TemporaryFile(dir=directory, prefix="large-", buffering=0)  # noqa: SIM115 - held as long as the blob
        self._arrived = 0
        self._error: Exception | None = None
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._closed = False
        self._copying = 0
        self.finished = False

    async def fetch(self, store: Store, key: Key) -> None:
        """Run as a service task until all bytes are here, or nobody wants them."""
        done = False
        try:
            with self._scope:
                if not self._closed:
                    await self._fetch(store, key)
                    done = True
        finally:
            if not done and self._error is None:
                self._error = _given_up(key)
            self.finished = True
            self._announce()
            self._tidy()

    async def _fetch(self, store: Store, key: Key) -> None:
        try:
            info = await store.get_into(key, self._file, self._progress)
            if info.version != self.info.version:
                self._error = _moved(key)
        except StoreError as exc:
            self._error = exc

    @override
    async def read(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.info.size)
        while True:
            while not self.finished and self._arrived < end:
                with trio.fail_after(self._stall_s):
                    await self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                raise _given_up(self.info.key)
            data = os.pread(self._file.fileno(), size, offset)
            if self.finished or offset + len(data) >= end:
                return data
            self._arrived = 0  # an attempt that broke off begins anew, in an empty file

    @override
    async def whole(self) -> bytes | None:
        await self.read(max(0, self.info.size - 1), 1)
        return None

    async def copy_to(self, path: Path) -> None:
        """Put all bytes into a new file, off the event loop."""
        await self.whole()
        self._copying += 1
        try:
            await trio.to_thread.run_sync(self._copy, path)
        finally:
            self._copying -= 1
            self._tidy()

    def _copy(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as target:
                offset = 0
                while data := os.pread(self._file.fileno(), 1 << 20, offset):
                    target.write(data)
                    offset += len(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    @override
    def close(self) -> None:
        self._closed = True
        self._scope.cancel()
        self._tidy()

    def _tidy(self) -> None:
        """Close the file when nobody writes to it or reads from it any more."""
        if self._closed and self.finished and not self._copying:
            self._file.close()

    def _progress(self, info: ObjectInfo, arrived: int) -> None:
        if info.version != self.info.version:
            self._error = _moved(info.key)
            self._scope.cancel()
        self._arrived = arrived
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _moved(key: Key) -> StoreError:
    return StoreError("get", key, "the object changed while it was read")


def _given_up(key: Key) -> StoreError:
    return StoreError("get", key, "given up")


class _Flight:
    """One GET on its way."""

    __slots__ = ("_waiting", "data", "error", "event", "info", "scope")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.info: ObjectInfo | None = None
        self.data: bytes | None = None
        self.error: StoreError | None = None
        self.scope = trio.CancelScope()
        self._waiting = 0

    async def wait(self, patience_s: float) -> None:
        """Wait for the end. Bytes that nobody waits for any more have `patience_s` left: who asks again finds them."""
        self._waiting += 1
        self.scope.deadline = math.inf
        try:
            await self.event.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.scope.deadline = trio.current_time() + patience_s


class Content:
    """Bytes by (key, version).

    INVARIANT: `memory_bytes` is the sum of what `_memory` holds, and within its budget after `_keep`.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        *,
        memory_size_bytes: int,
        secrets_on_disk: bool,
        prefix: str,
        nursery: trio.Nursery,
        request_budget_s: float = 10.0,
    ) -> None:
        self.store = store
        self.request_budget_s = request_budget_s
        self.cache = cache
        self.memory_bytes = 0
        self.ahead_objects = self.ahead_bytes = 0
        """What was fetched before anybody asked for it, since the mount."""
        self.memory_size_bytes = memory_size_bytes
        self.on_newer: Callable[[ObjectInfo, int], None] = lambda _info, _asked: None
        """Told when a GET ahead of readers brought another version than believed, and the number of that question."""
        self._secrets_on_disk = secrets_on_disk
        self._prefix = prefix
        self._nursery = nursery
        self._memory: OrderedDict[Key, tuple[ObjectInfo, bytes]] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}

    def cached(self, info: ObjectInfo) -> bytes | None:
        """The bytes, if they are on this machine. Cost: 0 requests."""
        kept = self._memory.get(info.key)
        if kept is not None and kept[0].version == info.version:
            self._memory.move_to_end(info.key)
            return kept[1]
        data = self.cache.get(info.key, info.version)
        if data is not None:
            self._remember(info, data)
        return data

    def has(self, info: ObjectInfo) -> bool:
        """Would `cached` find it? Cheap."""
        kept = self._memory.get(info.key)
        return (kept is not None and kept[0].version == info.version) or self.cache.has(info.key, info.version)

    async def get(self, info: ObjectInfo) -> Blob:
        """The bytes of `info`, or of a newer version if the store has moved on: look at `blob.info`.

        Raises StoreError. Cost: 0 or 1 GET.
        """
        data = self.cached(info)
        if data is not None:
            return Blob(info, data)
        with trio.fail_after(self.request_budget_s):
            return await (self._get_large(info) if info.size >= LARGE_BYTES else self._get_small(info))

    async def _get_small(self, info: ObjectInfo) -> Blob:
        while True:
            flight = self._flights.get(info.key)
            joined = flight is not None and not flight.scope.cancel_called
            if flight is None or not joined:
                flight = self._flights[info.key] = _Flight()
                self._nursery.start_soon(self._fly, info.key, flight)
            await flight.wait(self.request_budget_s)
            if flight.error is not None:
                raise flight.error
            # One that was on its way already may have been answered before `info` was: only its version may be taken.
            if flight.info is not None and not (joined and flight.info.version != info.version):
                assert flight.data is not None
                return Blob(flight.info, flight.data)

    async def _get_large(self, info: ObjectInfo) -> Blob:
        fresh = await self.store.head(info.key)
        blob = LargeBlob(fresh, self.cache.content_path, self.request_budget_s)
        self._nursery.start_soon(blob.fetch, self.store, info.key)
        return blob

    async def _fly(self, key: Key, flight: _Flight) -> None:
        try:
            with flight.scope:
                flight.info, flight.data = await self.store.get(key)
            if flight.info is None or flight.data is None:
                flight.error = StoreError("get", key, "no answer")
            elif self._flights.get(key) is flight:
                self._keep(flight.info, flight.data)
        except StoreError as exc:
            flight.error = exc
        finally:
            self._land(key, flight)
            flight.event.set()

    def keep(self, info: ObjectInfo, data: bytes) -> None:
        """Bytes that were uploaded here need not be fetched again; what is on its way is older."""
        self._flights.pop(info.key, None)
        self._keep(info, data)

    def forget(self, key: Key) -> None:
        """The object is gone or nobody may see it any more."""
        self._flights.pop(key, None)
        kept = self._memory.pop(key, None)
        if kept is not None:
            self.memory_bytes -= len(kept[1])
        self.cache.drop(key)

    def _keep(self, info: ObjectInfo, data: bytes) -> None:
        self._remember(info, data)
        if self._secrets_on_disk or not is_secret(self._prefix + info.key):
            self.cache.keep(info.key, info.version, data)
        else:
            self.cache.drop(info.key)

    def _remember(self, info: ObjectInfo, data: bytes) -> None:
        old = self._memory.pop(info.key, None)
        if old is not None:
            self.memory_bytes -= len(old[1])
        if len(data) > self.memory_size_bytes // 2:
            return
        self._memory[info.key] = (info, data)
        self.memory_bytes += len(data)
        while self.memory_bytes > self.memory_size_bytes:
            _, (_, dropped) = self._memory.popitem(last=False)
            self.memory_bytes -= len(dropped)

    # --- ahead of readers ----------------------------------------------------------------------------------------

    async def prefetch(self, wanted: Iterable[ObjectInfo], *, budget_bytes: int, ask: Callable[[], int]) -> None:
        """Fetch small contents in the given order, many in flight, until all are here or the budget is used.

        `ask` numbers each question when it is asked.

        Cost: at most 1 GET for each that is not here yet.
        """
        denials: dict[str, int] = {}
        believed: dict[Key, tuple[Version, int]] = {}
        flights: dict[Key, _Flight] = {}

        def keys() -> Iterator[Key]:
            left = budget_bytes
            for info in wanted:
                if info.size > PREFETCH_FILE_BYTES_MAX or info.key in self._flights or self.has(info):
                    continue
                if denials.get(info.key.rpartition("/")[0], 0) >= DENIALS_MAX:
                    continue
                left -= info.size
                if left < 0:
                    return
                self._flights[info.key] = flights[info.key] = _Flight()
                believed[info.key] = (info.version, ask())
                yield info.key

        def deliver(key: Key, info: ObjectInfo | None, data: bytes | None, error: StoreError | None) -> None:
            flight = flights.pop(key)
            flight.info, flight.data, flight.error = info, data, error
            newest = self._land(key, flight)
            if info is not None and data is not None:
                if newest:
                    self._keep(info, data)
                    self.ahead_objects += 1
                    self.ahead_bytes += len(data)
                    version, asked = believed[key]
                    if version != info.version:
                        self.on_newer(info, asked)
            elif isinstance(error, DeniedError):
                group = key.rpartition("/")[0]
                denials[group] = denials.get(group, 0) + 1
            flight.event.set()

        try:
            await self.store.get_many(keys(), deliver)
        finally:
            for key, flight in flights.items():
                self._land(key, flight)
                flight.event.set()  # nobody fetches it now: who waits asks again

    def _land(self, key: Key, flight: _Flight) -> bool:
        """It is over; False if newer bytes have come by another way meanwhile."""
        if self._flights.get(key) is not flight:
            return False
        del self._flights[key]
        return True
