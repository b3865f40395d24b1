"""Are bytes fetched once, for as long as somebody may want them, and no longer?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.support.lives import Life, Machine, run

BUDGET_S = 10.0
"""The default of `request_budget`."""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.put("c/config", b"config")
    return machine


def with_gets_of(machine: Machine, seconds: float, body: Callable[[Life], Awaitable[None]]) -> None:
    """One life in which a GET takes so long, and nothing else does."""
    machine.delay = lambda verb, _key: (seconds if verb == "get" else 0.0, 0.0)

    async def main() -> None:
        async with machine.life() as life:
            await body(life)

    run(main)


async def gives_up(life: Life) -> None:
    with pytest.raises(trio.TooSlowError):
        await life.read("c/config")


def test_a_download_slower_than_the_budget_is_there_for_who_asks_again(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await gives_up(life)
        await trio.sleep(0.9 * BUDGET_S)
        began = trio.current_time()
        assert await life.read("c/config") == b"config"
        assert trio.current_time() == began
        assert machine.driver.count("get") == 1

    with_gets_of(machine, 1.5 * BUDGET_S, body)


def test_a_download_nobody_waits_for_ends(machine: Machine) -> None:
    async def body(life: Life) -> None:
        await gives_up(life)
        assert life.content._flights, "it goes on for a while"
        await trio.sleep(1.1 * BUDGET_S)
        assert not life.content._flights
        assert not life.port._alive

    with_gets_of(machine, 1000 * BUDGET_S, body)


def test_a_download_goes_on_as_long_as_anybody_waits(machine: Machine) -> None:
    async def body(life: Life) -> None:
        for _ in range(4):
            await gives_up(life)
            await trio.sleep(0.5 * BUDGET_S)
        await life.read("c/config")
        assert machine.driver.count("get") == 1

    with_gets_of(machine, 6.5 * BUDGET_S, body)


@pytest.mark.parametrize("seed", range(30))
def test_who_comes_when_a_download_is_given_up_gets_a_new_one(machine: Machine, seed: int) -> None:
    delays = iter([1000 * BUDGET_S, 0.5 * BUDGET_S])
    machine.delay = lambda verb, _key: (next(delays) if verb == "get" else 0.0, 0.0)

    async def main() -> None:
        async with machine.life() as life:
            await gives_up(life)
            (flight,) = life.content._flights.values()
            info = (await life.walk("c/config")).info
            assert info is not None
            await trio.sleep_until(flight.scope.deadline)
            assert await (await life.content.get(info)).whole() == b"config"

    run(main, seed)
