"""What if the n-th request to the store fails, for every n?

One script of what people do, run again and again: the n-th request (of a verb, or of all) fails once, or from
then on, or acts and loses its reply, for n = 1, 2, … until no request is hit any more. Then the store is healed and
drained: it holds exactly what the script says, nothing is in the conflict area, and on the way nothing was lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from kopsfs.errors import FsError, StoreError, TransientError
from kopsfs.store.driver import Expected, Key
from tests.support.lives import Life, Machine, run

BEFORE = {
    "c/config": b"config",
    "c/instancegroup/nodes": b"nodes",
    "c/instancegroup/masters": b"masters",
    "c/pki/ca": b"ca",
    "c/addons/one": b"one" * 50_000,
}
AFTER = {
    "c/config": b"config, edited",
    "c/ig/nodes": b"nodes",
    "c/ig/masters": b"masters, edited",
    "c/renamed": b"ca",
    "c/new": b"new",
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("kopsfs")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


async def script(life: Life) -> None:
    """Edits by every way of saving, with time in between so that uploads happen."""
    pending: list[Callable[[], Awaitable[None]]] = [
        lambda: life.save("c/new", b"new"),
        lambda: life.save("c/.config.swp", b"swap"),
        lambda: life.rename("c/config", "c/config~"),
        lambda: life.save("c/config", b"config, edited"),
        lambda: life.unlink("c/config~"),
        lambda: life.unlink("c/.config.swp"),
        lambda: trio.sleep(0.1),
        lambda: life.save("c/instancegroup/temp", b"masters, edited"),
        lambda: life.rename("c/instancegroup/temp", "c/instancegroup/masters"),
        lambda: life.rename("c/pki/ca", "c/renamed"),
        lambda: life.rename("c/instancegroup", "c/ig"),
        lambda: trio.sleep(1.2),  # long enough for what is shown to be stale
        lambda: life.unlink("c/addons/one"),
        lambda: trio.sleep(0.001),  # an unlink is on disk a moment after it returns
    ]
    for act in pending:
        for _ in range(40):
            try:
                await act()
                break
            except (FsError, StoreError, trio.TooSlowError):
                # The program says EIO, the person waits and tries again.
                await trio.sleep(5)
                life.machine.driver.heal()
        else:
            raise AssertionError("it never works")


def once(machine: Machine, nth: int, verb: str | None, times: float, acted: bool, crash: bool) -> bool:
    """Run the script with one fault; was there such a request at all?"""
    for key, data in BEFORE.items():
        machine.put(key, data)

    delete = machine.bucket.delete

    def watched(key: Key, expected: Expected) -> None:
        to = {"c/pki/ca": "c/renamed", "c/instancegroup/nodes": "c/ig/nodes", "c/instancegroup/masters": "c/ig/masters"}
        assert to.get(key, "c/pki") in [*machine.objects(), "c/pki"], (
            f"{key} goes before its bytes are stored under the new name"
        )
        delete(key, expected)

    machine.bucket.delete = watched  # type: ignore[method-assign]

    async def main() -> bool:
        async with machine.life() as life:
            begun = machine.driver.count(verb)
            machine.driver.fail(nth, verb=verb, times=times, acted=acted, error=TransientError)
            await script(life)
            life.check()
            hit = machine.driver.count(verb) - begun >= nth
            if not crash:
                await finish(life)
        if crash:
            async with machine.life() as life:
                await finish(life)
        return hit

    async def finish(life: Life) -> None:
        await trio.sleep(20)
        machine.driver.heal()
        await trio.sleep(20)
        await life.drain()
        await trio.sleep(20)
        life.check()
        assert machine.objects() == AFTER
        assert not life.journal.conflicts
        assert await life.files() == AFTER

    return run(main)


@pytest.mark.parametrize("crash", [False, True], ids=["", "then crash"])
@pytest.mark.parametrize(
    ("times", "acted"), [(1, False), (1, True), (math.inf, False)], ids=["once", "reply lost", "for good"]
)
@pytest.mark.parametrize("verb", [None, "put", "delete", "get", "list", "head"])
def test_whichever_request_fails_the_end_is_the_same(
    tmp_path: Path, verb: str | None, times: float, acted: bool, crash: bool
) -> None:
    nth = 1
    while once(Machine(tmp_path / str(nth), settings={"guard": "off"}), nth, verb, times, acted, crash):
        nth += 1
        assert nth < 100
    assert nth > 1 or verb == "head"


def test_a_crash_after_every_step_loses_nothing(tmp_path: Path) -> None:
    """The life ends after the n-th request; the next one shows and uploads all whose close had returned."""
    steps = ["c/config", "c/instancegroup/nodes", "c/x", "c/config"]
    for nth in range(1, 12):
        machine = Machine(tmp_path / str(nth), settings={"guard": "off"})
        for key, data in BEFORE.items():
            machine.put(key, data)
        expected = dict(BEFORE)

        async def main(machine: Machine = machine, expected: dict[str, bytes] = expected, nth: int = nth) -> None:
            async with machine.life() as life:
                for number, path in enumerate(steps):
                    data = b"%d" % number * (1 if number % 2 else 70_000)
                    await life.save(path, data)
                    expected[path] = data
                    await trio.sleep(0.01 * nth)
                    if len(machine.requests()) >= nth:
                        break
            async with machine.life() as life:
                assert {p: (await life.files())[p] for p in expected} == expected
                await life.drain()
                assert machine.objects() == expected
                assert not life.journal.conflicts

        run(main)
