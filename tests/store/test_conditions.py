"""Is what a store honours proven by its refusals, with no write lost on the way?

`Store` over a simulated server (`simulated.py`), one per row of the table in `conditions.py`: servers that
keep, ignore, misread and reject conditions, and lose replies. Each test ends by comparing what the server
was asked with what it should have been: the log is the behaviour.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from kopsfs.errors import ConfigError, ConflictError, DeniedError, TransientError
from kopsfs.store import ABSENT, ANY, Capabilities, Key, Store, Version
from kopsfs.store.store import over
from tests.store.simulated import (
    AWS,
    CEPH,
    CEPH_VERSIONED,
    MOTO,
    OLD,
    S3RVER,
    STRICT,
    Habits,
    Server,
    SimulatedDriver,
    SimulatedEngine,
)

K = Key("k")
NONE_MATCH = "If-None-Match: *"
WRONG = 'If-Match: "00000000000000000000000000000000"'
WRONG_BARE = WRONG.replace('"', "")
Body = Callable[[Store, Server, SimulatedEngine], Awaitable[None]]


def run(
    habits: Habits,
    body: Body,
    *,
    state_dir: Path | None = None,
    driver: SimulatedDriver | None = None,
    keep_metadata: bool = False,
) -> Server:
    server = Server(habits)
    engine = SimulatedEngine(server)

    async def main() -> None:
        store = over(
            driver or SimulatedDriver(),
            url="s3://state",
            engine=lambda: engine,
            state_dir=state_dir,
            keep_metadata=keep_metadata,
            in_place=True,
        )
        await body(store, server, engine)
        await store.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return server


def match(version: Version, *, bare: bool = False) -> str:
    return f"If-Match: {version}" if bare else f'If-Match: "{version}"'


def guarantees(store: Store) -> tuple[str, str, str]:
    return store.capabilities.create_only, store.capabilities.replace_if, store.capabilities.delete_if


@pytest.mark.parametrize("habits", [AWS, MOTO], ids=["aws", "moto"])
def test_a_store_that_keeps_conditions_costs_one_head_and_two_refusals(habits: Habits) -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        server.log.clear()
        put = await store.put(K, b"two", 3, expected=base)
        assert server.log == [
            ("HEAD", "", 200),
            ("PUT", NONE_MATCH, 412),
            ("PUT", WRONG, 412),
            ("PUT", match(base), 200),
        ]
        assert guarantees(store) == ("compared", "compared", "unproven")
        server.log.clear()
        put = await store.put(K, b"three", 5, expected=put.version)
        await store.put(Key("new"), b"x", 1, expected=ABSENT)
        assert [(verb, status) for verb, _, status in server.log] == [("PUT", 200), ("PUT", 200)]
        server.log.clear()
        with pytest.raises(ConflictError):
            await store.put(K, b"four", 4, expected=base)
        assert server.objects[K] == b"three"
        server.log.clear()
        await store.delete(K, expected=put.version)
        assert server.log == [("HEAD", "", 200), ("DELETE", WRONG, 412), ("DELETE", match(put.version), 204)]
        assert guarantees(store) == ("compared", "compared", "compared")

    run(habits, body)


def test_keeping_metadata_looks_once_however_much_is_learnt() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        server.log.clear()
        base = (await store.put(K, b"two", 3, expected=base)).version
        assert [verb for verb, _, _ in server.log] == ["HEAD", "PUT", "PUT", "PUT"]
        server.log.clear()
        await store.put(K, b"three", 5, expected=base)
        await store.put(K, b"four", 4, expected=ANY)
        await store.put(Key("new"), b"x", 1, expected=ABSENT)
        assert [verb for verb, _, _ in server.log] == ["HEAD", "PUT", "HEAD", "PUT", "PUT"]

    run(AWS, body, keep_metadata=True)


def test_ceph_wants_tags_without_quotes() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(K, b"one", 3, expected=ABSENT)).version
        server.log.clear()
        put = await store.put(K, b"two", 3, expected=base)
        assert server.log == [
            ("HEAD", "", 200),
            ("PUT", NONE_MATCH, 412),
            ("PUT", WRONG, 412),
            ("PUT", match(base), 412),
            ("HEAD", "", 200),
            ("PUT", WRONG_BARE, 412),
            ("PUT", match(base, bare=True), 200),
        ]
        assert guarantees(store)[:2] == ("compared", "compared")
        server.log.clear()
        with pytest.raises(ConflictError):
            await store.put(K, b"three", 5, expected=base)
        assert server.log[0] == ("PUT", match(base, bare=True), 412)
        assert server.objects[K] == b"two"
        server.log.clear()
        await store.delete(K, expected=put.version)
        assert server.log == [("HEAD", "", 200), ("DELETE", WRONG, 204)]
        assert guarantees(store) == ("compared", "compared", "check-then-put")

    run(CEPH, body)


def test_ceph_with_versioning_honours_nothing_and_we_check_ourselves() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(K, b"one", 3, expected=ABSENT)).version
        server.log.clear()
        second = await store.put(K, b"two", 3, expected=base)
        assert server.log == [("HEAD", "", 200), ("PUT", NONE_MATCH, 200), ("HEAD", "", 200)]
        server.log.clear()
        await store.put(K, b"three", 5, expected=second.version)
        assert server.log[-2:] == [("PUT", "", 200), ("HEAD", "", 200)]
        assert guarantees(store)[:2] == ("check-then-put", "check-then-put")
        for expected in (ABSENT, base):
            with pytest.raises(ConflictError):
                await store.put(K, b"four", 4, expected=expected)
        assert server.objects[K] == b"three"

    run(CEPH_VERSIONED, body)


def test_a_store_that_ignores_conditions_is_found_out_by_the_writes_that_were_wanted() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(K, b"one", 3, expected=ABSENT)).version
        server.log.clear()
        base = (await store.put(K, b"two", 3, expected=base)).version
        assert server.log == [("HEAD", "", 200), ("PUT", NONE_MATCH, 200), ("HEAD", "", 200)]
        server.log.clear()
        base = (await store.put(K, b"three", 5, expected=base)).version
        assert server.log == [("HEAD", "", 200), ("PUT", WRONG, 200), ("HEAD", "", 200)]
        assert guarantees(store) == ("check-then-put", "check-then-put", "unproven")
        server.log.clear()
        base = (await store.put(K, b"four", 4, expected=base)).version
        await store.put(Key("l"), b"x", 1, expected=ABSENT)
        checked = [("PUT", "", 200), ("HEAD", "", 200)]
        assert server.log == [("HEAD", "", 200), *checked, ("HEAD", "", 404), *checked]
        server.log.clear()
        await store.delete(K, expected=base)
        assert server.log == [("HEAD", "", 200), ("DELETE", WRONG, 204)]
        assert K not in server.objects
        assert guarantees(store) == ("check-then-put", "check-then-put", "check-then-put")

    run(S3RVER, body)


@pytest.mark.parametrize("habits", [OLD, STRICT], ids=["501", "400"])
def test_a_store_that_rejects_conditions_by_name_gets_none(habits: Habits) -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(K, b"one", 3, expected=ABSENT)).version
        assert [entry[1] for entry in server.log] == ["", NONE_MATCH, "", ""]
        base = (await store.put(K, b"two", 3, expected=base)).version
        await store.delete(K, expected=base)
        assert guarantees(store) == ("check-then-put", "check-then-put", "check-then-put")
        assert server.objects == {}

    run(habits, body)


def test_a_denial_teaches_nothing() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        with pytest.raises(DeniedError):
            await store.put(K, b"two", 3, expected=base)
        assert guarantees(store) == ("unproven", "unproven", "unproven")
        assert server.objects[K] == b"one"

    run(Habits(create_only="403"), body)


def test_a_conflict_in_progress_is_tried_again() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        await store.put(K, b"two", 3, expected=base)
        assert [status for verb, _, status in server.log if verb == "PUT"] == [409, 412, 412, 200]
        assert guarantees(store)[:2] == ("compared", "compared")

    run(Habits(create_only="409 once"), body)


def test_an_acceptance_whose_reply_was_lost_proves_that_the_condition_is_ignored() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        engine.lost = {1}
        put = await store.put(K, b"two", 3, expected=base)
        assert server.objects[K] == b"two"
        assert guarantees(store)[:2] == ("check-then-put", "unproven")
        engine.lost = {2}
        await store.put(K, b"three", 5, expected=put.version)
        assert guarantees(store)[:2] == ("check-then-put", "check-then-put")
        assert engine.writes == 2, "nothing was sent twice"

    run(S3RVER, body)


def test_a_refusal_whose_reply_was_lost_is_asked_for_again() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        engine.lost = {1, 3, 5}
        engine.unsent = {2}
        await store.put(K, b"two", 3, expected=base)
        assert server.objects[K] == b"two"
        assert guarantees(store)[:2] == ("compared", "compared")

    run(AWS, body)


@pytest.mark.parametrize("lost", range(1, 9))
@pytest.mark.parametrize("acted", [True, False])
@pytest.mark.parametrize(
    "habits", [AWS, CEPH, CEPH_VERSIONED, S3RVER, OLD], ids=["aws", "ceph", "cephv", "s3rver", "old"]
)
def test_any_one_lost_reply_loses_no_write(habits: Habits, acted: bool, lost: int) -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        (engine.lost if acted else engine.unsent).add(lost)
        version = (await store.put(K, b"one", 3, expected=ABSENT)).version
        for data in (b"two", b"three", b"four"):
            version = (await store.put(K, data, len(data), expected=version)).version
            assert server.objects[K] == data
        await store.delete(K, expected=version)
        assert server.objects == {}

    run(habits, body)


@pytest.mark.parametrize("move", range(1, 9))
@pytest.mark.parametrize("habits", [AWS, MOTO, CEPH], ids=["aws", "moto", "ceph"])
def test_another_clients_write_during_learning_is_never_overwritten(habits: Habits, move: int) -> None:
    """Where the store compares: whenever the other client moves, our replacement loses or came first."""

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        moved = False
        seen = 0

        def other(method: str, key: str) -> None:
            nonlocal moved, seen
            seen += 1
            if seen == move:
                moved = True
                server.objects[K] = b"theirs"

        server.before = other
        try:
            await store.put(K, b"ours", 4, expected=base)
        except ConflictError:
            assert moved
            assert server.objects[K] == b"theirs"
        else:
            assert not moved or server.objects[K] == b"theirs", "we were first, they overwrote"
            assert moved or server.objects[K] == b"ours"

    run(habits, body)


@pytest.mark.parametrize("learnt", [0, 1, 2])
@pytest.mark.parametrize("op", ["create", "replace"])
@pytest.mark.parametrize("habits", [S3RVER, OLD, CEPH_VERSIONED], ids=["s3rver", "old", "cephv"])
def test_whoever_is_overwritten_in_the_same_instant_reads_it_back(habits: Habits, op: str, learnt: int) -> None:
    """The store compares nothing, and a rival who looked when we did writes after us: ours are kept as a conflict."""

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(Key("l"), b"0", 1, expected=ABSENT)).version
        for number in range(learnt):
            base = (await store.put(Key("l"), b"%d" % (number + 1), 1, expected=base)).version
        if op == "replace":
            server.objects[K] = b"one"
        expected = (await store.head(K)).version if op == "replace" else ABSENT
        server.stored = lambda key: server.objects.update({key: b"theirs"})
        with pytest.raises(ConflictError):
            await store.put(K, b"ours", 4, expected=expected)
        assert server.objects[K] == b"theirs"

    run(habits, body)


def test_a_creation_that_was_removed_at_once_was_a_creation() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.stored = server.objects.__delitem__
        await store.put(K, b"ours", 4, expected=ABSENT)

    run(S3RVER, body)


def test_a_creation_refused_by_proof_of_somebody_elses_object() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        def other(method: str, key: str) -> None:
            if method == "PUT":
                server.objects.setdefault(key, b"theirs")

        server.before = other
        with pytest.raises(ConflictError):
            await store.put(K, b"ours", 4, expected=ABSENT)
        assert server.objects[K] == b"theirs"
        assert guarantees(store)[0] == "compared"

    run(AWS, body)


def test_a_store_that_refuses_every_creation_under_a_condition_gets_none() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        await store.put(K, b"ours", 4, expected=ABSENT)
        assert server.objects[K] == b"ours"
        assert guarantees(store)[0] == "check-then-put"

    run(Habits(create_only="refuses"), body)


def test_only_one_write_learns_at_a_time() -> None:
    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        keys = [Key(f"k{n}") for n in range(10)]
        for key in keys:
            server.objects[key] = b"one"
        base = (await store.head(keys[0])).version
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(lambda key=key: store.put(key, b"two", 3, expected=base))
        assert [status for _, _, status in server.log].count(412) == 2
        assert set(server.objects.values()) == {b"two"}

    run(AWS, body)


def test_what_was_learnt_is_remembered_and_forgotten_with_versioning(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def learn(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(K, b"one", 3, expected=ABSENT)).version
        await store.put(K, b"two", 3, expected=base)
        assert guarantees(store)[:2] == ("compared", "compared")

    run(CEPH, learn, state_dir=state)
    known = json.loads((state / "conditions.json").read_text())
    assert list(known) == ["http://s3.test state"]
    assert known["http://s3.test state"]["replace_form"] == "unquoted"

    async def remember(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"two"
        base = (await store.head(K)).version
        server.log.clear()
        await store.put(K, b"three", 5, expected=base)
        assert server.log == [("PUT", match(base, bare=True), 200)]
        server.habits = CEPH_VERSIONED
        await store.put(Key("l"), b"x", 1, expected=ANY)
        assert guarantees(store) == ("unproven", "unproven", "unproven")

    run(CEPH, remember, state_dir=state)
    assert json.loads((state / "conditions.json").read_text())["http://s3.test state"]["versioned"] is True


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"http://s3.test state": 3}', '{"http://s3.test state": {"create_only": "sure"}}']
)
def test_a_damaged_memory_is_learnt_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "conditions.json").write_text(text)

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        base = (await store.put(K, b"one", 3, expected=ABSENT)).version
        await store.put(K, b"two", 3, expected=base)
        assert guarantees(store)[:2] == ("compared", "compared")

    run(AWS, body, state_dir=tmp_path)


def test_a_promise_of_the_driver_needs_no_proof() -> None:
    promised = Capabilities(create_only="atomic", replace_if="atomic", delete_if="atomic")

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        put = await store.put(K, b"one", 3, expected=ABSENT)
        put = await store.put(K, b"two", 3, expected=put.version)
        await store.delete(K, expected=put.version)
        assert [(verb, status) for verb, _, status in server.log] == [("PUT", 200), ("PUT", 200), ("DELETE", 204)]

    run(AWS, body, driver=SimulatedDriver(promised))


# -- credentials of HTTP drivers -------------------------------------------------------------------


def test_the_first_request_waits_for_the_driver_to_warm_up_once() -> None:
    driver = SimulatedDriver()
    driver.warm_up_errors = [TransientError("open", "", "no route to the metadata service")]

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(lambda n=n: store.put(Key(f"{n}"), b"", 0, expected=ANY))
        assert driver.warmed == 2
        assert len(server.objects) == 5

    run(AWS, body, driver=driver)


def test_missing_credentials_are_a_config_error_at_the_first_request() -> None:
    driver = SimulatedDriver()
    driver.warm_up_errors = [ConfigError("no credentials")]

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        with pytest.raises(ConfigError):
            await store.head(K)
        assert server.log == []

    run(AWS, body, driver=driver)


def test_expired_credentials_are_renewed_once_and_the_request_repeated() -> None:
    driver = SimulatedDriver()

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        await store.put(K, b"one", 3, expected=ANY)
        driver.expired = True
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(store.get, K)
        assert driver.refreshed.count(True) == 1
        driver.refreshed.clear()
        driver.expired = True
        await trio.sleep(61)
        got: list[bytes | None] = []
        await store.get_many([K] * 5, lambda key, info, data, error: got.append(data))
        assert got == [b"one"] * 5
        assert driver.refreshed.count(True) == 1

    run(AWS, body, driver=driver)


def test_credentials_that_the_store_calls_expired_are_renewed_before_the_next_attempt() -> None:
    driver = SimulatedDriver()
    driver.admits_expiry = True

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        await store.put(K, b"one", 3, expected=ANY)
        driver.expired = True
        server.log.clear()
        assert (await store.get(K))[1] == b"one"
        assert len(server.log) == 2
        assert driver.refreshed == [True]
        driver.expired = True
        got: list[bytes | None] = []
        await store.get_many([K] * 5, lambda key, info, data, error: got.append(data))
        assert got == [b"one"] * 5
        assert store.health.up

    run(AWS, body, driver=driver)


def test_nothing_is_sent_with_credentials_known_to_have_expired() -> None:
    """Real threads: renewing takes its time."""
    server = Server(AWS)

    class Slow(SimulatedDriver):
        def refresh_credentials(self, *, force: bool = False) -> None:
            time.sleep(0.5)
            super().refresh_credentials(force=force)

    driver = Slow()
    driver.admits_expiry = True

    async def main() -> None:
        store = over(driver, url="s3://state", engine=lambda: SimulatedEngine(server))
        await store.put(K, b"one", 3, expected=ANY)
        driver.expired = True
        server.log.clear()
        assert (await store.get(K))[1] == b"one"
        assert len(server.log) == 2
        await store.aclose()

    trio.run(main)


def test_credentials_that_end_soon_are_renewed_in_the_background() -> None:
    driver = SimulatedDriver()

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        await store.put(K, b"one", 3, expected=ANY)
        driver.due = True
        await store.get(K)
        await store.get(K)
        assert driver.refreshed == [True]

    run(AWS, body, driver=driver)


def test_a_plain_denial_renews_once_a_minute_at_most() -> None:
    driver = SimulatedDriver()

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        server.objects[K] = b"one"
        base = (await store.head(K)).version
        for _ in range(20):
            with pytest.raises(DeniedError):
                await store.put(K, b"two", 3, expected=base)
        assert driver.refreshed.count(True) == 1

    run(Habits(create_only="403"), body, driver=driver)


def test_reload_credentials_reads_them_before_the_next_request() -> None:
    driver = SimulatedDriver()

    async def body(store: Store, server: Server, engine: SimulatedEngine) -> None:
        await store.put(K, b"one", 3, expected=ANY)
        driver.refreshed.clear()
        store.reload_credentials()
        assert driver.refreshed == []
        await store.head(K)
        assert driver.refreshed == [True]

    run(AWS, body, driver=driver)
