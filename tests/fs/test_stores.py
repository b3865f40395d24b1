"""Does the file system do on each kind of store what it does on one in memory?

The models and the loop of faults of the files beside this one, with the driver and the conditions of a store that
is served (`tests/support/served.py`): lists of operations by us and by another client, and one script in which the n-th
request fails, for every n. Where a store compares nothing, what was overwritten in the window is counted and printed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Counted
from tests.fs.test_faults import once
from tests.fs.test_filesystem_model import Alone, _quiet, alone, common, filled, slow
from tests.fs.test_filesystem_shared import Shared, shared
from tests.fuse import remotes
from tests.fuse.remotes import Row, rows
from tests.support.lives import run
from tests.support.served import ServedMachine

__all__ = ["_quiet"]
pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("KOPSFS_TEST_EXAMPLES", "60"))
few = settings(common, max_examples=EXAMPLES)


def served(directory: Path, *, row: Row, request: pytest.FixtureRequest, **more: Any) -> ServedMachine:
    """A machine with an empty space of the row's store."""
    options = {"settings": {"guard": "off"}, "delay": slow(0)} | more
    return ServedMachine(directory, remote=row.remote(request, directory), **options)


@rows(remotes.THOROUGH)
@few
@given(operations=st.lists(alone, min_size=1, max_size=40), seed=st.integers(0, 50))
def test_alone_it_is_a_local_disk_that_becomes_the_store(
    row: Row, request: pytest.FixtureRequest, operations: list[tuple[Any, ...]], seed: int
) -> None:
    with filled(served, seed, row=row, request=request) as machine:
        run(Alone(machine, operations).main, seed)


@rows(remotes.THOROUGH)
def test_with_others_nothing_is_lost_and_nothing_unseen_replaced(
    row: Row, request: pytest.FixtureRequest, counted: Counted
) -> None:
    unseen: list[str] = []

    @few
    @given(st.lists(shared, min_size=1, max_size=40), st.integers(0, 50))
    def with_others(operations: list[tuple[Any, ...]], seed: int) -> None:
        with filled(served, seed, row=row, request=request) as machine:
            found = Shared(machine, operations)
            if row.window:
                found.witness.unseen = unseen
            run(found.main, seed)

    with_others()
    counted(f"{len(unseen)} writes of others replaced in the window, of {EXAMPLES} lives with others")
    assert len(unseen) <= EXAMPLES / 20, unseen


@rows(remotes.THOROUGH)
@pytest.mark.parametrize(
    ("times", "acted"), [(1, False), (1, True), (math.inf, False)], ids=["once", "reply lost", "for good"]
)
def test_whichever_request_fails_the_end_is_the_same(
    row: Row, times: float, acted: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    machine = lambda n: served(fresh(tmp_path, n), row=row, request=request)  # noqa: E731
    assert all_that_fail(lambda n: once(machine(n), n, None, times, acted, crash=False)) > 10


@rows([row for row in remotes.THOROUGH if not row.tears])
def test_whichever_page_of_a_listing_fails_no_name_is_missing(
    row: Row, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two names a page; s3rver, which answers 500 to a listing that it has to cut, is left out."""
    machine = lambda n: served(fresh(tmp_path, n), row=row, request=request, page_size=2)  # noqa: E731
    assert all_that_fail(lambda n: page_fails(machine(n), n)) > 10


def page_fails(machine: ServedMachine, nth: int) -> bool:
    """Watch what another client does while the n-th page cannot be had; was there such a page at all?"""
    for number in range(7):
        machine.put(f"d/{number}", b"%d" % number)

    async def main() -> bool:
        async with machine.life() as life:
            begun = machine.driver.count("list")
            machine.driver.fail(nth, verb="list")
            for number in range(2):
                machine.put(f"d/new{number}", b"new")
                machine.delete(f"d/{number}")
                await trio.sleep(1.5)
                assert {"3", "4", "5", "6"} <= set(await life.ls("d")), "a name is missing because a page is"
            await trio.sleep(5)
            assert await life.files() == machine.objects()
            life.check()
            return machine.driver.count("list") - begun >= nth

    return run(main)


def fresh(directory: Path, number: int) -> Path:
    found = directory / str(number)
    found.mkdir()
    return found


def all_that_fail(fails: Callable[[int], bool]) -> int:
    """Let the first request fail, the second, and so on until there is none; how many there were."""
    nth = 1
    while fails(nth):
        nth += 1
        assert nth < 200
    return nth - 1
