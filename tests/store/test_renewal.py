"""Are credentials renewed when they have to be, and no oftener, and is a denial one only when it is?

Method: `Store` on a clock that jumps, a driver whose credentials end when the test says so, and an engine that holds
answers back until the test lets them go.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from kopsfs.errors import ConfigError, DeniedError, RefusedError, StoreError, TransientError
from kopsfs.store import renewal
from kopsfs.store.driver import Answer, Key, ObjectInfo, Request
from kopsfs.store.oss_credentials import Found
from kopsfs.store.renewal import DENIED_PAUSE_S, PAUSE_MAX_S, renew_at
from kopsfs.store.store import Store, over
from tests.store.simulated import AWS, Server, SimulatedDriver, SimulatedEngine
from tests.support.s3 import AWS as KEYS
from tests.support.s3 import driver_of

K = Key("k")


class Driver(SimulatedDriver):
    """Its requests name the credentials they are signed with, as a number; which of them are good the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.good = {0}
        self.kind: type[DeniedError] = RefusedError
        self.errors: list[Exception] = []
        self.asked_at: list[float] = []

    def refresh_credentials(self, *, force: bool = False) -> None:
        self.asked_at.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        super().refresh_credentials(force=force)
        self.number += 1

    def prepare_get(self, key: Key, /) -> Request:
        return Request("GET", key, (f"Number: {self.number}",))

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status == 401:
            raise self.kind("get", key, "401")
        return super().parse_get(key, answer)


class Gate(Server):
    """Answers as `driver.good` has it at the time of the request."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(AWS, {K: b"one"})
        self.driver = driver
        self.refused = 0

    def answer(self, request: Request) -> Answer:
        number = next((line for line in request.headers if line.startswith("Number: ")), "Number: 0")
        if int(number.partition(" ")[2]) not in self.driver.good:
            self.refused += 1
            return Answer(401, {}, b"")
        return super().answer(request)


class Held(SimulatedEngine):
    """Answers at once, and delivers what `hold` was asked for when the test says so."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.hold = False
        self.held: list[Callable[[], None]] = []

    def submit(self, request: Request, *, done: Callable[[Answer | StoreError], None], **options: object) -> int:  # type: ignore[override]
        if not self.hold:
            return super().submit(request, done=done, **options)  # type: ignore[arg-type]
        answer = self.server.answer(request)
        self.held.append(lambda: done(answer))
        return 0


Body = Callable[[Store, Driver, Gate, Held], Awaitable[None]]


def run(body: Body) -> None:
    driver = Driver()
    gate = Gate(driver)
    engine = Held(gate)

    async def main() -> None:
        store = over(driver, url="s3://state", in_place=True, engine=lambda: engine, random_unit=lambda: 1.0)
        try:
            with trio.fail_after(3600):
                assert (await store.get(K))[1] == b"one"
                await body(store, driver, gate, engine)
        finally:
            await store.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("kind", [RefusedError, DeniedError])
def test_a_refusal_that_comes_late_is_repeated_and_renews_nothing(kind: type[DeniedError]) -> None:
    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.kind = kind
        engine.hold = True
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(store.get, K)
            driver.good = {1}
            await trio.testing.wait_all_tasks_blocked()
            assert gate.refused == 10
            first, *late = engine.held
            engine.hold = False
            first()
            await trio.sleep(1)
            assert driver.number == 1
            for deliver in late:
                deliver()
                await trio.sleep(1)
        assert driver.number == 1

    run(body)


@pytest.mark.parametrize("status", [301, 400, 403])
def test_a_region_that_one_request_has_taught_is_not_held_against_the_others(status: int) -> None:
    class Elsewhere(Server):
        def answer(self, request: Request) -> Answer:
            here = any("/eu-west-1/s3/" in line for line in request.headers)
            self.log.append((request.method, "", 200 if here else status))
            headers = {"etag": '"e"', "content-length": "3"} if here else {"x-amz-bucket-region": "eu-west-1"}
            return Answer(self.log[-1][2], headers, b"")

    server = Elsewhere(AWS)

    async def main() -> None:
        store = over(driver_of(KEYS), url="s3://state", in_place=True, engine=lambda: SimulatedEngine(server))
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(store.head, K)
        await store.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [code for _, _, code in server.log] == [status] * 10 + [200] * 10


def test_each_end_of_a_token_costs_one_renewal() -> None:
    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        for life in range(1, 6):
            driver.good = {life}
            got: list[object] = []
            await store.get_many([K] * 100, lambda key, info, data, error: got.append(error or data))
            assert got == [b"one"] * 100
            assert driver.number == life

    run(body)


def test_a_denial_is_not_final_while_credentials_are_renewed() -> None:
    """Real threads: a renewal that takes longer than the pause before the next attempt."""
    enough = threading.Event()

    class Slow(Driver):
        def refresh_credentials(self, *, force: bool = False) -> None:
            enough.wait(120)
            SimulatedDriver.refresh_credentials(self, force=force)
            self.number += 1

    driver = Slow()
    driver.kind = DeniedError
    gate = Gate(driver)

    async def main() -> None:
        store = over(driver, url="s3://state", engine=lambda: SimulatedEngine(gate))
        await store.get(K)
        driver.good = {1}
        got: list[object] = []
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.get_many, [K] * 3, lambda key, info, data, error: got.append(error or data))
                while gate.refused < 9:
                    await trio.sleep(0.01)
                enough.set()
        assert got == [b"one"] * 3
        assert driver.number == 1
        await store.aclose()

    trio.run(main)


def test_new_credentials_that_are_refused_as_well_are_a_denial() -> None:
    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.good = set()
        with pytest.raises(RefusedError):
            await store.get(K)
        assert driver.number == 2, "one for the refusal, one for the denial"
        for _ in range(10):
            with pytest.raises(RefusedError):
                await store.get(K)
        assert driver.number == 2, "a denial renews once a minute at most"
        driver.good = {3}
        await trio.sleep(DENIED_PAUSE_S)
        assert (await store.get(K))[1] == b"one"

    run(body)


def test_what_ends_soon_is_used_while_renewing_fails() -> None:
    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.due, driver.good = True, {0, 1}
        driver.errors = [TransientError("open", detail="STS is away") for _ in range(200)]
        for _ in range(600):
            assert (await store.get(K))[1] == b"one"
            await trio.sleep(1)
        pauses = [after - before for before, after in zip(driver.asked_at, driver.asked_at[1:], strict=False)]
        assert pauses == sorted(pauses)
        assert PAUSE_MAX_S <= pauses[-1] <= PAUSE_MAX_S + 1
        assert len(driver.asked_at) < 600 / PAUSE_MAX_S + 10
        driver.errors.clear()
        await trio.sleep(PAUSE_MAX_S)
        await store.get(K)
        await trio.testing.wait_all_tasks_blocked()
        assert (driver.number, driver.due, gate.refused) == (1, False, 0)

    run(body)


def test_a_failing_answer_does_not_wait_for_credentials_that_are_still_good() -> None:
    """Due, not to be had, and the store throttles: the request is repeated with what there is."""

    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.due = True
        driver.errors = [TransientError("open", detail="STS is away") for _ in range(200)]
        answers = [Answer(409, {}, b""), Answer(409, {}, b"")]
        driver_answer = gate.answer
        gate.answer = lambda request: answers.pop() if answers else driver_answer(request)  # type: ignore[method-assign]
        with trio.fail_after(5):
            assert (await store.get(K))[1] == b"one"

    run(body)


def test_what_has_ended_waits_until_it_can_be_renewed() -> None:
    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.good = {1}
        driver.errors = [TransientError("open", detail="STS is away") for _ in range(4)]
        assert (await store.get(K))[1] == b"one"
        assert (gate.refused, driver.number) == (1, 1)

    run(body)


@pytest.mark.parametrize("error", [DeniedError("open", detail="no AWS credentials"), ConfigError("not JSON")])
def test_what_cannot_be_had_is_not_asked_for_by_everybody(error: Exception) -> None:
    """Each attempt may be a process: a thousand requests in 10 s are not a thousand of them."""

    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.good = {1}
        driver.errors = [error] * 10_000
        for _ in range(1000):
            with pytest.raises(type(error)):
                await store.get(K)
            await trio.sleep(0.01)
        assert 5 <= len(driver.asked_at) <= 8, driver.asked_at
        driver.errors.clear()
        store.reload_credentials()
        assert (await store.get(K))[1] == b"one", "told to look again, it looks at once"

    run(body)


def test_a_pause_that_is_asked_for_is_kept() -> None:
    async def body(store: Store, driver: Driver, gate: Gate, engine: Held) -> None:
        driver.good = {1}
        driver.errors = [TransientError("open", detail="429", retry_after_s=17.0)]
        await store.get(K)
        assert driver.asked_at[1] - driver.asked_at[0] == pytest.approx(17.0, abs=0.1)

    run(body)


@pytest.mark.parametrize(
    ("left_s", "renewed_in_s"),
    [(3600, 2700), (1800, 900), (900, 450), (60, 30), (0, 900), (-7200, 900)],
)
def test_when_credentials_are_renewed(left_s: float, renewed_in_s: float) -> None:
    assert renew_at(1e9 + left_s, 1e9) == 1e9 + renewed_in_s


def test_a_source_that_keeps_handing_out_the_old_ones_is_not_asked_all_the_time() -> None:
    now = 0.0
    for _ in range(60):
        if now < 3600:
            now = renew_at(3600, now)
    assert now >= 3600
    assert renew_at(None, now) == float("inf")


@pytest.mark.parametrize("skew_s", [-7200.0, 0.0, 7200.0])
def test_credentials_end_by_the_servers_clock_and_are_due_by_ours(skew_s: float) -> None:
    now = 1e9
    held: renewal.Held[Found] = renewal.Held(lambda: now)
    assert held.due()
    assert held.describe() == {"credentials": "not looked for yet", "credentials_expire": None}
    held.take(Found("id", "secret", "token", 1e9 + skew_s + 3600, "role"), skew_s=skew_s)
    now += 2699
    assert not held.due()
    now += 1
    assert held.due()
    assert held.describe() == {"credentials": "role", "credentials_expire": 1e9 + skew_s + 3600}


def test_what_stands_written_down_is_never_due() -> None:
    assert not renewal.Held(lambda: 1e18, Found("id", "secret")).due()
