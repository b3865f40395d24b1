"""Can an answer that arrives late take a name back to an older version?

Requests act when they are sent and are answered when the test says, so that answers overtake each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.support.lives import Life, Machine, run


class Late:
    """How long each verb's next answers take, in seconds; at once when nothing is said."""

    def __init__(self) -> None:
        self.answers: dict[str, list[float]] = {}

    def __call__(self, verb: str, _key: str) -> tuple[float, float]:
        waiting = self.answers.get(verb)
        return 0.0, waiting.pop(0) if waiting else 0.0


@pytest.fixture
def late() -> Late:
    return Late()


@pytest.fixture
def machine(tmp_path: Path, late: Late) -> Machine:
    machine = Machine(tmp_path, delay=late, settings={"refresh_s": 1000.0})
    machine.put("c/config", b"1")
    return machine


def during(machine: Machine, body: Callable[[Life], Awaitable[None]]) -> None:
    async def main() -> None:
        async with machine.life() as life:
            await trio.sleep(2)
            await body(life)
            life.check()

    run(main)


async def shown(life: Life) -> str:
    """The version of c/config as it is believed, without a question."""
    inode = life.tree.find("c/config")
    assert inode is not None
    assert inode.info is not None
    return inode.info.version


def test_a_listing_from_before_a_read_does_not_take_it_back(machine: Machine, late: Late) -> None:
    async def body(life: Life) -> None:
        late.answers["list"] = [4.0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.read, "c/config")  # waits a second for the listing, and reads what is known
            await trio.sleep(0.5)
            newer = machine.put("c/config", b"2")
            await trio.sleep(1)
            assert await shown(life) == newer
            await trio.sleep(4)
            assert await shown(life) == newer
        assert life.refresh.stale_since is None

    during(machine, body)


def test_a_question_from_before_a_listing_does_not_take_it_back(machine: Machine, late: Late) -> None:
    machine.driver.inner._page_size = 2  # type: ignore[attr-defined]
    for name in "abcd":
        machine.put(f"c/{name}", b"x")

    async def body(life: Life) -> None:
        late.answers["head"] = [0.8]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.stat, "c/config")
            await trio.sleep(0.1)
            assert machine.requests()[-1] == ("head", "c/config")
            newer = machine.put("c/config", b"2")
            await life.ls("c")
            assert await shown(life) == newer
        assert await shown(life) == newer

    during(machine, body)


def test_of_two_answers_that_may_both_be_newer_neither_is_believed_unasked(machine: Machine, late: Late) -> None:
    async def body(life: Life) -> None:
        await life.ls("c")
        machine.put("c/config", b"2")
        late.answers = {"get": [0.6], "list": [0.4]}
        listings = machine.driver.count("list")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.read, "c/config")
            await trio.sleep(0.3)
            newest = machine.put("c/config", b"3")
            await life.refresh.start(life.refresh._scope_at("c")).wait()
            assert await shown(life) == newest
        assert machine.driver.count("list") == listings + 2, "asked when both had answered"

    during(machine, body)
