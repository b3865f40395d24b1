"""How does a store misbehave within its contract?

`FaultyDriver` wraps a blocking driver and fails the n-th request, once or from then on, before it acted or
after (a lost reply), with any error of the tree; it hangs, answers nothing at all (outage), or lists a store
as empty. It is as nasty as the contract allows: a GET that fails has written half the bytes and more, a PUT
that fails has read half of its body, a listing that is empty is answered 200.

Requests are counted from 1, over all verbs or over one of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from kopsfs.errors import StoreError, TransientError
from kopsfs.store.driver import Capabilities, Driver, Expected, Key, ObjectInfo, Page, Prefix

BROKEN_OFF = b"bytes of an answer that broke off; longer than any object a test stores " * 100


def _transient(op: str, key: str) -> StoreError:
    return TransientError(op, key, "503 SlowDown")


@dataclass
class Fault:
    """One rule: which requests fail, and how."""

    first: int
    """The number of the first request that fails."""
    last: float
    """The number of the last one; inf: for ever."""
    verb: str | None
    """head, get, put, delete, list; None: all, numbered together."""
    error: Callable[[str, str], StoreError]
    acted: bool
    """A lost reply: the request did what was asked, the answer did not arrive."""


class Faults:
    """Rules for requests that fail, and a count of those that arrived."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        """(verb, key) of every request, in the order of arrival."""
        self.outage = False
        """Every request fails, none acts."""
        self.empty_listings = False
        """Every listing is answered, and empty."""
        self.open_gate = threading.Event()
        """Cleared: requests hang until it is set."""
        self.open_gate.set()
        self.hanging = threading.Semaphore(0)
        """Released each time a request begins to hang."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fail(
        self,
        nth: int = 1,
        *,
        verb: str | None = None,
        times: float = 1,
        error: Callable[[str, str], StoreError] = _transient,
        acted: bool = False,
    ) -> None:
        """Fail the nth request from now on (of `verb`), and `times` - 1 after it; `times=inf`: for ever."""
        with self._lock:
            base = self._count(verb)
            self._faults.append(Fault(base + nth, base + nth + times - 1, verb, error, acted))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()
        self.outage = self.empty_listings = False
        self.open_gate.set()

    def count(self, verb: str | None = None) -> int:
        """How many requests (of a verb) arrived."""
        with self._lock:
            return self._count(verb)

    def _count(self, verb: str | None) -> int:
        return sum(1 for each, _ in self.requests if verb in {None, each})

    def arrive(self, verb: str, key: str) -> Fault | None:
        """Count a request; the rule it falls under, if any."""
        with self._lock:
            self.requests.append((verb, key))
            fault = next((each for each in self._faults if self._hits(each, verb)), None)
        if not self.open_gate.is_set():
            self.hanging.release()
            self.open_gate.wait()
        if self.outage:
            return Fault(0, 0, None, lambda op, name: TransientError(op, name, "connection refused"), acted=False)
        return fault

    def _hits(self, fault: Fault, verb: str) -> bool:
        return fault.verb in {None, verb} and fault.first <= self._count(fault.verb) <= fault.last


class FaultyDriver(Faults):
    """A driver that keeps the contract and nobody's peace."""

    def __init__(self, inner: Driver, capabilities: Capabilities | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.capabilities = capabilities or inner.capabilities

    def head(self, key: Key, /) -> ObjectInfo:
        fault = self.arrive("head", key)
        if fault is not None:
            raise fault.error("head", key)
        return self.inner.head(key)

    def get(self, key: Key, into: BinaryIO, /) -> ObjectInfo:
        fault = self.arrive("get", key)
        if fault is not None:
            into.seek(0)
            into.write(BROKEN_OFF)
            raise fault.error("get", key)
        return self.inner.get(key, into)

    def put(self, key: Key, data: BinaryIO, size: int, /, *, expected: Expected) -> ObjectInfo:
        fault = self.arrive("put", key)
        if fault is None:
            return self.inner.put(key, data, size, expected=expected)
        if fault.acted:
            self.inner.put(key, data, size, expected=expected)
        else:
            data.read(size // 2)
        raise fault.error("put", key)

    def delete(self, key: Key, /, *, expected: Expected) -> None:
        fault = self.arrive("delete", key)
        if fault is None or fault.acted:
            self.inner.delete(key, expected=expected)
        if fault is not None:
            raise fault.error("delete", key)

    def list_page(self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None) -> Page:
        fault = self.arrive("list", prefix)
        if fault is not None:
            raise fault.error("list", prefix)
        if self.empty_listings:
            return Page([], [], None)
        return self.inner.list_page(prefix, delimiter=delimiter, token=token, start_after=start_after)

    def watch(self, changed: Callable[[Key], None], /) -> Callable[[], None] | None:
        watch = getattr(self.inner, "watch", None)
        return None if watch is None else watch(changed)

    def describe(self) -> dict[str, object]:
        return {**self.inner.describe(), "faulty": True}

    def close(self) -> None:
        self.open_gate.set()
        self.inner.close()
