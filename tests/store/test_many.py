"""Does `get_many` deliver each key once, and does what is cancelled leave its callers alone?

On a clock that jumps where that is possible; what needs real threads says so.
"""

from __future__ import annotations

import io

import pytest
import trio
import trio.testing

from kopsfs.errors import (
    DeniedError,
    NotFoundError,
    StoreDownError,
    StoreError,
)
from kopsfs.store import ABSENT, ANY, Capabilities, Key, ObjectInfo, Prefix, Store
from kopsfs.store.store import over
from tests.conftest import ExpectLog
from tests.store.jumping import K, memory, run
from tests.support.faulty import FaultyDriver

# -- get_many --------------------------------------------------------------------------------------


def test_get_many_asks_in_order_and_never_for_more_than_allowed() -> None:
    """Real threads: the number in flight is what counts."""
    driver = memory()
    keys = [Key(f"{n:03}") for n in range(60)]
    for key in keys:
        driver.inner.put(key, io.BytesIO(key.encode()), 3, expected=ANY)
    driver.open_gate.clear()

    async def main() -> None:
        store = over(driver, url="test://")
        got: list[Key] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: store.get_many(iter(keys), lambda key, info, data, error: got.append(key), in_flight=5)
            )
            for _ in range(5):
                await trio.to_thread.run_sync(driver.hanging.acquire)
            await trio.testing.wait_all_tasks_blocked()
            assert driver.count() == 5
            nursery.start_soon(store.list_page, Prefix(""))
            await trio.to_thread.run_sync(driver.hanging.acquire)
            assert driver.requests[5] == ("list", "")
            driver.open_gate.set()
        assert sorted(got) == keys
        assert sorted(key for verb, key in driver.requests[:5]) == keys[:5]
        await store.aclose()

    trio.run(main)


def test_what_is_urgent_overtakes_what_is_queued() -> None:
    """Real threads: two are there, both busy, six GETs wait."""
    capabilities = Capabilities(create_only="atomic", replace_if="atomic", delete_if="atomic", concurrency_max=2)
    driver = memory(capabilities)
    driver.inner.put(K, io.BytesIO(b"x"), 1, expected=ANY)
    driver.open_gate.clear()

    async def main() -> None:
        store = over(driver, url="test://")
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: store.get_many([K, K], lambda *_: None, in_flight=2))
            for _ in range(2):
                await trio.to_thread.run_sync(driver.hanging.acquire)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.list_page, Prefix(""))
            await trio.testing.wait_all_tasks_blocked()
            assert driver.count() == 2
            driver.open_gate.set()
        assert driver.requests.index(("list", "")) <= 3, "two threads begin at once; six GETs had been waiting"
        assert len(driver.requests) == 9
        await store.aclose()

    trio.run(main)


def test_get_many_tries_again_and_delivers_errors() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        for n in range(20):
            await store.put(Key(f"{n:02}"), b"x" * n, n, expected=ANY)
        driver.fail(3, verb="get")
        driver.fail(7, verb="get", error=DeniedError)
        driver.fail(9, verb="get")
        got: dict[Key, object] = {}

        def deliver(key: Key, info: ObjectInfo | None, data: bytes | None, error: StoreError | None) -> None:
            assert key not in got
            got[key] = error if data is None else data

        await store.get_many([Key(f"{n:02}") for n in range(21)], deliver, in_flight=4)
        assert isinstance(got.pop(Key("20")), NotFoundError)
        assert isinstance(got.pop(Key("06")), DeniedError)
        assert got == {Key(f"{n:02}"): b"x" * n for n in range(20) if n != 6}
        assert store.requests["get"] == 23
        assert store.bytes_in == sum(n for n in range(20) if n != 6)

    run(body)


def test_get_many_ends_when_the_store_goes_away(expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.put(K, b"x", 1, expected=ANY)
        driver.outage = True
        got: list[object] = []
        await store.get_many([K] * 10, lambda key, info, data, error: got.append(type(error)), in_flight=3)
        assert len(got) == 10
        assert set(got) == {StoreDownError}

    run(body)


def test_a_bug_in_deliver_comes_out_of_get_many() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.put(K, b"x", 1, expected=ANY)

        def deliver(*_: object) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store.get_many([K, K], deliver)

    run(body)


def test_a_cancelled_get_many_delivers_nothing_more() -> None:
    """Real threads: the driver hangs."""
    driver = memory()
    driver.inner.put(K, io.BytesIO(b"x"), 1, expected=ANY)
    driver.open_gate.clear()

    async def main() -> None:
        store = over(driver, url="test://")
        got: list[Key] = []
        with trio.move_on_after(0.05):
            await store.get_many([K] * 10, lambda key, info, data, error: got.append(key), in_flight=2)
        driver.open_gate.set()
        assert (await store.get(K))[1] == b"x"
        assert got == []
        await store.aclose()

    trio.run(main)


# -- cancelling ------------------------------------------------------------------------------------


def test_after_a_cancelled_get_into_the_file_is_the_callers_again() -> None:
    """Real threads: the driver hangs and writes late."""
    driver = memory()
    driver.inner.put(K, io.BytesIO(b"late bytes"), 10, expected=ANY)
    driver.open_gate.clear()

    async def main() -> None:
        store = over(driver, url="test://")
        file = io.BytesIO()
        with trio.move_on_after(0.05):
            await store.get_into(K, file)
        file.write(b"mine")
        driver.open_gate.set()
        await store.get(K)
        assert file.getvalue() == b"mine"
        await store.aclose()

    trio.run(main)


def test_a_cancelled_write_goes_on_in_the_background() -> None:
    """Real threads: the driver hangs."""
    driver = memory()
    driver.open_gate.clear()

    async def main() -> None:
        store = over(driver, url="test://")
        with trio.move_on_after(0.05) as scope:
            await store.put(K, b"x", 1, expected=ABSENT)
        assert scope.cancelled_caught
        driver.open_gate.set()
        with trio.fail_after(60):
            while True:
                try:
                    await store.head(K)
                    break
                except NotFoundError:
                    await trio.lowlevel.checkpoint()
        await store.aclose()

    trio.run(main)
