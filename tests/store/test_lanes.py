"""Can what hangs keep others from their turn?

Against real threads and a server that answers nothing: which requests have reached it is what counts.
"""

from __future__ import annotations

import io

import pytest
import trio

from kopsfs.store import ANY, Capabilities, Prefix
from kopsfs.store.http import Engine
from kopsfs.store.lanes import Lane, Lanes
from kopsfs.store.store import over
from tests.store.jumping import K, memory
from tests.store.simulated import Habits, Server, SimulatedDriver, SimulatedEngine
from tests.support.wire import OK, Wire, always, get


def started(lanes: Lanes) -> list[int]:
    """Give everything a place that can have one."""
    found = []
    while (ticket := lanes.next()) is not None:
        lanes.enter(Lane(ticket % 10))
        found.append(ticket)
    return found


def test_who_waits_goes_before_who_does_not() -> None:
    lanes = Lanes(3)
    for ticket in (3, 13, 2, 12, 1, 0):
        lanes.put(ticket, Lane(ticket % 10))
    assert lanes.ready
    assert started(lanes) == [0, 1, 2]
    assert not lanes.ready
    lanes.leave(Lane.READ)
    assert started(lanes) == [12]


def test_a_kind_may_take_all_but_what_is_kept_for_the_others() -> None:
    lanes = Lanes(32)
    for ticket in range(3, 500, 10):
        lanes.put(ticket, Lane.AHEAD)
    assert len(started(lanes)) == 32
    for ticket in range(2, 500, 10):
        lanes.put(ticket, Lane.WRITE)
    assert len(started(lanes)) == 2
    for ticket in range(0, 500, 10):
        lanes.put(ticket, Lane.QUESTION)
    assert len(started(lanes)) == 2
    for _ in range(10):
        lanes.leave(Lane.AHEAD)
    assert started(lanes) == list(range(20, 120, 10)), "what became free is for whoever goes first"
    for _ in range(22):
        lanes.leave(Lane.AHEAD)
    found = [ticket % 10 for ticket in started(lanes)]
    assert found == [Lane.QUESTION] * 20 + [Lane.AHEAD] * 2, "reads have their two places, however many questions wait"


@pytest.mark.parametrize(
    ("hang", "others"),
    [
        (Lane.AHEAD, [Lane.WRITE, Lane.QUESTION]),
        (Lane.READ, [Lane.WRITE, Lane.QUESTION]),
        (Lane.WRITE, [Lane.READ, Lane.QUESTION]),
        (Lane.QUESTION, [Lane.READ, Lane.WRITE]),
    ],
)
def test_what_hangs_leaves_a_place_to_other_kinds(hang: Lane, others: list[Lane]) -> None:
    """A server that answers nothing: what has reached it is what counts."""
    engine = Engine(16, environ={})
    with Wire(always(OK)) as wire:

        async def main() -> None:
            wire.block()

            async def arrived(count: int) -> None:
                with trio.fail_after(120):
                    while len(wire.heads) < count:
                        await trio.sleep(0.001)

            for i in range(40):
                engine.submit(get(f"{wire.url}/{int(hang)}/{i}"), done=lambda _result: None, lane=hang)
            await arrived(16)
            for number, lane in enumerate(others, 17):
                for i in range(2):
                    engine.submit(get(f"{wire.url}/{int(lane)}/{i}"), done=lambda _result: None, lane=lane)
                await arrived(number)

        trio.run(main)
        engine.close()
    places = [head.split(b"/")[1].decode() for head in wire.heads]
    assert sorted(places) == sorted([str(int(hang))] * 16 + [str(int(lane)) for lane in others])


def test_reads_that_hang_leave_threads_to_writes_and_questions() -> None:
    """Real threads: sixteen are there, sixteen GETs hang in them."""
    capabilities = Capabilities(create_only="atomic", replace_if="atomic", delete_if="atomic", concurrency_max=16)
    driver = memory(capabilities)
    driver.inner.put(K, io.BytesIO(b"x"), 1, expected=ANY)
    driver.open_gate.clear()

    async def main() -> None:
        store = over(driver, url="test://")

        async def one_more_hangs() -> None:
            assert await trio.to_thread.run_sync(driver.hanging.acquire, True, 20)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.get_many, [K] * 40, lambda *_: None)
            for _ in range(16):
                await one_more_hangs()
            nursery.start_soon(lambda: store.put(K, b"y", 1, expected=ANY))
            await one_more_hangs()
            nursery.start_soon(store.head, K)
            await one_more_hangs()
            assert [verb for verb, _ in driver.requests] == ["get"] * 16 + ["put", "head"]
            driver.open_gate.set()
        await store.aclose()

    trio.run(main)


def test_what_a_request_is_for_says_when_its_turn_is() -> None:
    engine = SimulatedEngine(Server(Habits()))

    async def main() -> None:
        store = over(SimulatedDriver(), url="test://", in_place=True, engine=lambda: engine)
        info = await store.put(K, b"x", 1, expected=ANY)
        await store.get_many([K], lambda *_: None)
        await store.get(K)
        await store.head(K)
        await store.list_page(Prefix("k"))
        await store.delete(K, expected=ANY)
        assert info.key == K
        await store.aclose()

    trio.run(main)
    assert engine.lanes == [
        ("PUT", Lane.WRITE),
        ("GET", Lane.AHEAD),
        ("GET", Lane.READ),
        ("HEAD", Lane.QUESTION),
        ("GET", Lane.QUESTION),
        ("DELETE", Lane.WRITE),
    ]
