"""Does `Store` retry, give up, refuse and count as it says?

On a clock that jumps (`MockClock`), with the blocking driver run in the trio thread (`in_place`), so that
seconds of backoff take none and the order of events is the same each time. What needs real threads says so.
"""

from __future__ import annotations

import io
import itertools
import math
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from kopsfs.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    NotFoundError,
    QuotaError,
    StoreDownError,
    StoreError,
    StoreGoneError,
    TransientError,
)
from kopsfs.store import ABSENT, ANY, Capabilities, Health, Key, ObjectInfo, Prefix, Store, Version, open_store
from kopsfs.store.memory import MemoryDriver
from kopsfs.store.store import over
from tests.conftest import ExpectLog
from tests.store.jumping import K, memory, run
from tests.support.faulty import FaultyDriver

# -- retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["head", "get", "put", "delete", "list"])
def test_a_failed_request_is_tried_again(verb: str) -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        first = await store.put(K, b"data", 4, expected=ABSENT)
        driver.fail(1, verb=verb)
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "head": lambda: store.head(K),
            "get": lambda: store.get(K),
            "put": lambda: store.put(K, b"more", 4, expected=first.version),
            "delete": lambda: store.delete(K, expected=first.version),
            "list": lambda: store.list_page(Prefix("")),
        }
        before = driver.count(verb)
        result = await asks[verb]()
        assert driver.count(verb) == before + 2
        if verb == "get":
            assert result == (first, b"data"), "half an answer must not shine through"

    run(body)


def test_pauses_grow_and_stay_below_their_maximum() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.put(K, b"", 0, expected=ANY)
        times: list[float] = []
        inner = driver.inner.head

        def head(key: Key) -> ObjectInfo:
            times.append(trio.current_time())
            if len(times) <= 9:
                # A neighbour's success: the store is up, this request is unlucky.
                store._belief.answered(trio.current_time())
                raise TransientError("head", key, "503")
            return inner(key)

        driver.inner.head = head  # type: ignore[method-assign]
        await store.head(K)
        pauses = [round(after - before, 3) for before, after in itertools.pairwise(times)]
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]

    run(body)


def test_retry_after_is_honoured() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.put(K, b"", 0, expected=ANY)
        driver.fail(1, error=lambda op, key: TransientError(op, key, "503", retry_after_s=7.0))
        started = trio.current_time()
        await store.head(K)
        assert trio.current_time() - started == pytest.approx(7.0)

    run(body)


def test_retries_end_with_the_callers_scope(expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(store: Store, driver: FaultyDriver) -> None:
        driver.outage = True
        started = trio.current_time()
        with trio.move_on_after(0.5) as scope:
            await store.head(K)
        assert scope.cancelled_caught
        assert trio.current_time() - started == pytest.approx(0.5)
        with pytest.raises(StoreDownError):
            await store.get(K)

    run(body)


@pytest.mark.parametrize("error", [NotFoundError, DeniedError, QuotaError, StoreGoneError])
def test_a_refusal_is_not_tried_again(error: type[StoreError]) -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        driver.fail(1, error=error)
        with pytest.raises(error) as raised:
            await store.get(Key("a/b"))
        assert driver.count() == 1
        assert raised.value.key == "a/b"

    run(body)


def test_errors_and_infos_carry_relative_keys() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        put = await store.put(Key("a"), b"x", 1, expected=ABSENT)
        assert put.key == "a"
        assert (await store.head(Key("a"))).key == "a"
        with pytest.raises(NotFoundError) as missing:
            await store.get(Key("b"))
        assert missing.value.key == "b"
        with pytest.raises(ConflictError) as conflict:
            await store.put(Key("a"), b"y", 1, expected=ABSENT)
        assert conflict.value.key == "a"
        assert driver.requests[0] == ("put", "/x/a")

    run(body, prefix="/x/")


# -- lost replies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", ["absent", "version"])
def test_a_put_whose_reply_was_lost_is_no_conflict(expected: str) -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        base: Version | object = ABSENT
        if expected == "version":
            base = (await store.put(K, b"base", 4, expected=ABSENT)).version
        driver.fail(1, verb="put", acted=True)
        put = await store.put(K, b"mine", 4, expected=base)  # type: ignore[arg-type]
        assert await store.get(K) == (put, b"mine")

    run(body)


def test_a_lost_reply_is_known_without_a_digest() -> None:
    class NoDigest(MemoryDriver):
        def head(self, key: Key, /) -> ObjectInfo:
            info = super().head(key)
            return ObjectInfo(info.key, info.version, info.size, info.mtime_ns, None)

    async def body(store: Store, driver: FaultyDriver) -> None:
        driver.fail(1, verb="put", acted=True)
        await store.put(K, b"mine", 4, expected=ABSENT)
        assert driver.count("get") == 1
        driver.fail(1, verb="put", acted=True)
        with pytest.raises(ConflictError):
            await store.put(K, b"them", 4, expected=Version("0"))

    run(body, FaultyDriver(NoDigest(uuid.uuid4().hex)))


def test_a_put_that_lost_its_reply_and_then_the_race_is_a_conflict() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        original = driver.inner.put

        def put(key: Key, data: io.BytesIO, size: int, *, expected: object) -> ObjectInfo:
            info = original(key, data, size, expected=expected)  # type: ignore[arg-type]
            driver.inner.put = original  # type: ignore[method-assign]
            original(key, io.BytesIO(b"them"), 4, expected=info.version)
            raise TransientError("put", key, "connection reset")

        driver.inner.put = put  # type: ignore[method-assign,assignment]
        with pytest.raises(ConflictError):
            await store.put(K, b"mine", 4, expected=ABSENT)
        assert (await store.get(K))[1] == b"them"

    run(body)


def test_a_file_is_sent_again_from_where_it_stood() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        file = io.BytesIO(b"header, then the body")
        file.seek(8)
        driver.fail(1, verb="put", times=2)
        await store.put(K, file, 13, expected=ABSENT)
        assert (await store.get(K))[1] == b"then the body"

    run(body)


def test_a_delete_whose_reply_was_lost_is_done() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        put = await store.put(K, b"x", 1, expected=ABSENT)
        driver.fail(1, verb="delete", acted=True)
        await store.delete(K, expected=put.version)
        with pytest.raises(NotFoundError):
            await store.head(K)

    run(body)


def test_a_delete_of_another_version_is_a_conflict_and_deletes_nothing() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        put = await store.put(K, b"x", 1, expected=ABSENT)
        await store.put(K, b"y", 1, expected=ANY)
        with pytest.raises(ConflictError):
            await store.delete(K, expected=put.version)
        assert (await store.get(K))[1] == b"y"

    run(body)


# -- the circuit breaker ---------------------------------------------------------------------------


def test_a_store_that_is_away_is_refused_at_once_and_found_again(expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(store: Store, driver: FaultyDriver) -> None:
        told: list[Health] = []
        store.health_changed = told.append
        await store.put(K, b"x", 1, expected=ABSENT)
        assert store.health.up
        driver.outage = True
        started = trio.current_time()
        with pytest.raises(StoreDownError):
            await store.head(K)
        took = trio.current_time() - started
        assert 1.0 <= took <= 2.0, "the request that finds it out waits for the proof, no longer"
        sent = driver.count()
        for _ in range(100):
            with pytest.raises(StoreDownError):
                await store.get(K)
        assert driver.count() == sent, "known to be down: nothing is sent"
        await trio.sleep(60)
        probes = driver.count() - sent
        assert 4 <= probes <= 8, "1, 2, 4, 8, 15, 15 ... seconds apart"
        driver.outage = False
        await trio.sleep(16)
        assert store.health.up
        assert (await store.get(K))[1] == b"x"
        assert [health.up for health in told] == [False, True]
        assert store.health.last_error == ""

    run(body)


def test_any_answer_proves_the_store_alive(expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(store: Store, driver: FaultyDriver) -> None:
        with pytest.raises(NotFoundError):
            await store.head(K)
        assert store.health.last_success is not None
        driver.outage = True
        with pytest.raises(StoreDownError):
            await store.head(K)
        driver.heal()
        driver.fail(1, times=math.inf, error=DeniedError)
        await trio.sleep(3)
        assert store.health.up, "403 is an answer"

    run(body)


def test_one_key_that_the_store_chokes_on_is_no_outage() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.put(K, b"x", 1, expected=ABSENT)
        driver.fail(1, verb="get", times=math.inf)
        with trio.move_on_after(60):
            await store.get(K)
        assert store.health.up
        assert (await store.head(K)).size == 1
        assert driver.count("list") + driver.count("head") <= 15, "suspicion is cheap"

    run(body)


def test_failures_among_successes_do_not_open_the_breaker() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.put(K, b"x", 1, expected=ABSENT)
        for _ in range(30):
            driver.fail(1)
            await store.head(K)
        assert store.health.up

    run(body)


def test_callers_who_give_up_on_a_silent_store_open_the_breaker(expect_log: ExpectLog) -> None:
    """Real threads: the driver hangs."""
    expect_log("store is down")
    driver = memory()

    async def main() -> None:
        store = over(driver, url="test://")
        await store.put(K, b"x", 1, expected=ABSENT)
        driver.open_gate.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(give_up, store)
        with trio.fail_after(60):
            while store.health.up:
                await trio.sleep(0.01)
        with trio.fail_after(60), pytest.raises(StoreDownError):  # asking would take for ever
            await store.head(K)
        driver.heal()
        await store.aclose()

    async def give_up(store: Store) -> None:
        with trio.move_on_after(1.05):
            await store.head(K)

    trio.run(main)


def test_a_bucket_that_vanishes_is_a_store_that_is_down(expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(store: Store, driver: FaultyDriver) -> None:
        driver.fail(1, error=StoreGoneError)
        with pytest.raises(StoreGoneError):
            await store.list_page(Prefix(""))
        await store.list_page(Prefix(""))
        driver.fail(1, times=math.inf, error=StoreGoneError)
        with pytest.raises(StoreDownError):
            await store.list_page(Prefix(""))
        assert not store.health.up
        await trio.sleep(5)
        assert not store.health.up, "the probe must ask what shows that the bucket is gone"
        driver.heal()
        await trio.sleep(16)
        assert store.health.up

    run(body)


def test_a_listing_that_is_denied_after_it_was_allowed_is_a_store_that_is_down(expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(store: Store, driver: FaultyDriver) -> None:
        await store.list_page(Prefix("a/"))
        driver.fail(1, times=math.inf, verb="list", error=DeniedError)
        with pytest.raises(DeniedError):
            await store.list_page(Prefix("b/"))
        assert store.health.up, "a prefix that was never allowed is an ordinary denial"
        with pytest.raises(StoreDownError):
            await store.list_page(Prefix("a/"))
        await trio.sleep(5)
        assert not store.health.up
        driver.heal()
        await trio.sleep(16)
        assert store.health.up

    run(body)


# -- stores that cannot compare --------------------------------------------------------------------

CHECKING = Capabilities(create_only="check-then-put", replace_if="check-then-put", delete_if="check-then-put")


def test_where_the_store_does_not_compare_we_do_and_send_no_condition() -> None:
    class Ignorant(MemoryDriver):
        def put(self, key: Key, data: io.BytesIO, size: int, /, *, expected: object) -> ObjectInfo:  # type: ignore[override]
            assert expected is ANY
            return super().put(key, data, size, expected=ANY)

    async def body(store: Store, driver: FaultyDriver) -> None:
        first = await store.put(K, b"one", 3, expected=ABSENT)
        assert driver.requests == [("head", "k"), ("put", "k"), ("head", "k")]
        with pytest.raises(ConflictError):
            await store.put(K, b"two", 3, expected=ABSENT)
        second = await store.put(K, b"two", 3, expected=first.version)
        with pytest.raises(ConflictError) as conflict:
            await store.put(K, b"333", 3, expected=first.version)
        assert second.version in str(conflict.value)
        with pytest.raises(ConflictError):
            await store.delete(K, expected=first.version)
        await store.delete(K, expected=second.version)
        await store.delete(K, expected=second.version)
        with pytest.raises(ConflictError):
            await store.put(K, b"new", 3, expected=second.version)

    run(body, FaultyDriver(Ignorant(uuid.uuid4().hex), CHECKING))


def test_a_lost_reply_without_conditions_is_looked_for_before_it_is_repeated() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        driver.fail(1, verb="put", acted=True)
        await store.put(K, b"one", 3, expected=ABSENT)
        assert driver.count("put") == 1, "the bytes were there: nothing is sent twice"
        driver.fail(1, verb="put")
        await store.put(Key("l"), b"one", 3, expected=ABSENT)
        assert driver.count("put") == 3

    run(body, memory(CHECKING))


# -- the rest --------------------------------------------------------------------------------------


def test_requests_and_bytes_are_counted() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        put = await store.put(K, b"12345", 5, expected=ABSENT)
        await store.get(K)
        await store.get_into(K, io.BytesIO())
        await store.head(K)
        await store.list_page(Prefix(""), delimiter=True)
        await store.delete(K, expected=put.version)
        assert store.requests == {"put": 1, "get": 2, "head": 1, "list": 1, "delete": 1}
        assert (store.bytes_out, store.bytes_in) == (5, 10)

    run(body)


def test_the_change_feed_tells_keys_of_the_mounted_prefix() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        told: list[str] = []
        stop = store.watch(told.append)
        assert stop is not None
        for key in ("pre/a", "elsewhere", "pre/dir/b"):
            driver.inner.put(Key(key), io.BytesIO(b"x"), 1, expected=ANY)
        driver.inner.delete(Key("pre/a"), expected=ANY)
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["a", "dir/b", "a"]
        stop()
        driver.inner.put(Key("pre/c"), io.BytesIO(b"x"), 1, expected=ANY)
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["a", "dir/b", "a"]

    run(body, prefix="pre/")


def test_describe_names_the_store_and_its_guarantees() -> None:
    async def body(store: Store, driver: FaultyDriver) -> None:
        said = store.describe()
        assert said["create_only"] == "atomic"
        assert said["prefix"] == "pre/"
        assert said["faulty"] is True

    run(body, prefix="pre/")


def test_an_sdk_that_is_not_there_is_a_setting_that_can_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "kopsfs.store.swift", None)
    with pytest.raises(ConfigError, match=r"install kopsfs\[swift\]"):
        open_store("swift://container", environ={})


def test_memfs_stores_of_one_name_are_one_store(tmp_path: Path) -> None:
    name = uuid.uuid4().hex

    async def main() -> None:
        one, two = open_store(f"memfs://{name}"), open_store(f"memfs://{name}/dir", state_dir=tmp_path)
        await one.put(Key("dir/k"), b"x", 1, expected=ABSENT)
        assert (await two.get(Key("k")))[1] == b"x"
        assert (two.url, two.describe()["prefix"]) == (f"memfs://{name}/dir", "dir/")

    trio.run(main)
