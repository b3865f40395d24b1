"""How does a test run `Store` on a clock that jumps?

With `MockClock` and the blocking driver run in the trio thread (`in_place`), so that seconds of backoff take
none and the order of events is the same each time.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from kopsfs.store import Capabilities, Key, Prefix, Store
from kopsfs.store.memory import MemoryDriver
from kopsfs.store.store import over
from tests.support.faulty import FaultyDriver

Body = Callable[[Store, FaultyDriver], Awaitable[None]]
K = Key("k")


def memory(capabilities: Capabilities | None = None) -> FaultyDriver:
    return FaultyDriver(MemoryDriver(uuid.uuid4().hex), capabilities)


def run(body: Body, driver: FaultyDriver | None = None, *, prefix: str = "") -> None:
    """Run `body(store, driver)` on a clock that jumps."""
    inner = driver or memory()

    async def main() -> None:
        store = over(inner, url="test://", prefix=Prefix(prefix), in_place=True, random_unit=lambda: 1.0)
        try:
            await body(store, inner)
        finally:
            await store.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
