"""How does a store look that lives in this process?

`memfs://NAME` is a `Bucket` that every store of that name in this process shares; it ends with the
process. It is exact where real stores are loose: every condition is atomic, versions never repeat,
keys are ordered by their UTF-8 bytes, and a listing shows every write that was acknowledged. The
tests of everything above stand on it, and `memfs://demo` holds a small cluster to look around in.
kops has a scheme of this name for its own unit tests; its ghost directories are not imitated.
"""

from __future__ import annotations

import bisect
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from kopsfs.errors import ConflictError, InvalidKeyError, NotFoundError, TooLargeError
from kopsfs.store.driver import (
    ABSENT,
    ANY,
    Capabilities,
    Driver,
    Expected,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Version,
)
from kopsfs.store.url import Location, Settings

KEY_BYTES_MAX = 1024
OBJECT_SIZE_MAX = 256 << 20
"""A store in memory that takes more would take the machine with it."""

Changed = Callable[[Key], None]


@dataclass(frozen=True, slots=True)
class _Stored:
    info: ObjectInfo
    data: bytes


class Bucket:
    """Objects of one `memfs://` name. All methods may be called from any thread.

    INVARIANT: `_order` holds exactly the keys of `_objects`, as UTF-8, ascending.
    INVARIANT: no version was ever given twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[Key, _Stored] = {}
        self._order: list[bytes] = []
        self._serial = 0
        self._mtime_ns = 0
        self._watchers: list[Changed] = []

    def check(self) -> None:
        """Assert the invariants."""
        with self._lock:
            assert self._order == sorted(key.encode() for key in self._objects)
            versions = [int(stored.info.version) for stored in self._objects.values()]
            assert len(versions) == len(set(versions))
            assert max(versions, default=0) <= self._serial

    def watch(self, changed: Changed) -> Callable[[], None]:
        """Have `changed(key)` called, in the writer's thread, after every write; the answer ends that."""
        with self._lock:
            self._watchers.append(changed)

        def stop() -> None:
            with self._lock:
                if changed in self._watchers:
                    self._watchers.remove(changed)

        return stop

    def look(self, op: str, key: Key) -> tuple[ObjectInfo, bytes]:
        """Give one state of the object. Raises NotFoundError."""
        with self._lock:
            stored = self._objects.get(key)
        if stored is None:
            raise NotFoundError(op, key, "no such object")
        return stored.info, stored.data

    def put(self, key: Key, data: bytes, expected: Expected) -> ObjectInfo:
        """Replace the object when it is as `expected`. Raises ConflictError."""
        with self._lock:
            self._demand("put", key, expected)
            self._serial += 1
            self._mtime_ns = max(time.time_ns(), self._mtime_ns + 1)
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            info = ObjectInfo(key, Version(str(self._serial)), len(data), self._mtime_ns, digest)
            if key not in self._objects:
                bisect.insort(self._order, key.encode())
            self._objects[key] = _Stored(info, data)
            watchers = tuple(self._watchers)
        for changed in watchers:
            changed(key)
        return info

    def delete(self, key: Key, expected: Expected) -> None:
        """Remove the object when it is as `expected`. Raises ConflictError."""
        with self._lock:
            self._demand("delete", key, expected)
            if key not in self._objects:
                return
            del self._objects[key]
            del self._order[bisect.bisect_left(self._order, key.encode())]
            watchers = tuple(self._watchers)
        for changed in watchers:
            changed(key)

    def _demand(self, op: str, key: Key, expected: Expected) -> None:
        stored = self._objects.get(key)
        if expected is ANY:
            return
        if expected is ABSENT:
            if stored is not None:
                raise ConflictError(op, key, f"exists at version {stored.info.version}")
        elif stored is None:
            raise ConflictError(op, key, f"expected version {expected}, is absent")
        elif stored.info.version != expected:
            raise ConflictError(op, key, f"expected version {expected}, is at {stored.info.version}")

    def page(self, prefix: Prefix, *, delimiter: bool, after: bytes, limit: int) -> Page:
        """List at most `limit` objects and groups whose names come behind `after`."""
        with self._lock:
            return cut_page(
                self._order, lambda key: self._objects[key].info, prefix, delimiter=delimiter, after=after, limit=limit
            )


def cut_page(
    order: list[bytes],
    info: Callable[[Key], ObjectInfo],
    prefix: Prefix,
    *,
    delimiter: bool,
    after: bytes,
    limit: int,
) -> Page:
    """Cut a page from keys in their order: at most `limit` objects and groups behind `after`; its token is hex."""
    start = prefix.encode()
    objects: list[ObjectInfo] = []
    prefixes: list[Prefix] = []
    resume = after
    at = max(bisect.bisect_left(order, start), bisect.bisect_right(order, after) if after else 0)
    while at < len(order) and order[at].startswith(start):
        if len(objects) + len(prefixes) == limit:
            return Page(objects, prefixes, resume.hex())
        name = order[at]
        cut = name.find(b"/", len(start)) if delimiter else -1
        if cut < 0:
            objects.append(info(Key(name.decode())))
            resume, at = name, at + 1
        else:
            prefixes.append(Prefix(name[: cut + 1].decode()))
            resume = name[:cut] + b"/\xff"  # behind every key of the group: UTF-8 has no byte 0xff
            at = bisect.bisect_right(order, resume, lo=at)
    return Page(objects, prefixes, None)


_buckets: dict[str, Bucket] = {}
_buckets_lock = threading.Lock()


def bucket(name: str) -> Bucket:
    """Give the bucket of `memfs://NAME`, made when it is asked for first; `demo` comes filled."""
    with _buckets_lock:
        found = _buckets.get(name)
        if found is None:
            found = _buckets[name] = Bucket()
            if name == "demo":
                from kopsfs.store.demo import objects

                for key, data in objects():
                    found.put(key, data, ANY)
        return found


class MemoryDriver:
    """The contract over one `Bucket`."""

    def __init__(self, name: str, *, page_size: int = 1000) -> None:
        self.capabilities = Capabilities(
            create_only="atomic",
            replace_if="atomic",
            delete_if="atomic",
            change_feed="in process",
            object_size_max=OBJECT_SIZE_MAX,
            key_bytes_max=KEY_BYTES_MAX,
        )
        self.bucket = bucket(name)
        self._name = name
        self._page_size = page_size

    def head(self, key: Key, /) -> ObjectInfo:
        return self.bucket.look("head", valid_key("head", key))[0]

    def get(self, key: Key, into: BinaryIO, /) -> ObjectInfo:
        info, data = self.bucket.look("get", valid_key("get", key))
        into.seek(0)
        into.truncate()
        into.write(data)
        return info

    def put(self, key: Key, data: BinaryIO, size: int, /, *, expected: Expected) -> ObjectInfo:
        valid_key("put", key)
        if size > OBJECT_SIZE_MAX:
            raise TooLargeError("put", key, f"{size} bytes; a store in memory takes {OBJECT_SIZE_MAX}")
        return self.bucket.put(key, data.read(size), expected)

    def delete(self, key: Key, /, *, expected: Expected) -> None:
        self.bucket.delete(valid_key("delete", key), expected)

    def list_page(self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None) -> Page:
        after = bytes.fromhex(token) if token is not None else (start_after or "").encode()
        return self.bucket.page(prefix, delimiter=delimiter, after=after, limit=self._page_size)

    def watch(self, changed: Changed, /) -> Callable[[], None]:
        """Have `changed(key)` called from any thread after every write; the answer ends that."""
        return self.bucket.watch(changed)

    def describe(self) -> dict[str, object]:
        return {"kind": "memfs", "bucket": self._name}

    def close(self) -> None:
        pass


def valid_key(op: str, key: Key) -> Key:
    """Give the key if it is Unicode text of 1 to 1024 bytes. Raises InvalidKeyError."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidKeyError(op, key, "is not Unicode text") from error
    if not 0 < size <= KEY_BYTES_MAX:
        raise InvalidKeyError(op, key, f"a key has 1 to {KEY_BYTES_MAX} bytes, this has {size}")
    return key


def open_driver(location: Location, settings: Settings) -> Driver:
    """Open `memfs://NAME`."""
    return MemoryDriver(location.bucket, page_size=settings.page_size)
