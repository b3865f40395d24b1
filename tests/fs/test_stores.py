"""Does the file system do on each kind of store what it does on one in memory?

The models and the loop of faults of the files beside this one, with the driver and the conditions of a store that
is served (`tests/support/served.py`): lists of operations by us and by another client, and one script in which the n-th
request fails, for every n. Where a store compares nothing, what was overwritten in the window is counted and printed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fs.test_faults import once
from tests.fs.test_filesystem_model import INITIAL, Alone, _quiet, alone, common, scratch, slow
from tests.fs.test_filesystem_shared import Shared, shared
from tests.fuse import remotes
from tests.fuse.remotes import Row, rows
from tests.store.conftest import azurite, gs, oss_server, start_server, swift  # noqa: F401 - fixtures
from tests.support.lives import run
from tests.support.served import ServedMachine

__all__ = ["_quiet"]
pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("KOPSFS_TEST_EXAMPLES", "60"))
few = settings(common, max_examples=EXAMPLES)


def served(row: Row, request: pytest.FixtureRequest, directory: Path, seed: int = 0) -> ServedMachine:
    """A machine with an empty space of the row's store."""
    remote = row.remote(request, directory)
    return ServedMachine(directory, settings={"guard": "off"}, delay=slow(seed), remote=remote)


@rows(remotes.THOROUGH)
@few
@given(operations=st.lists(alone, min_size=1, max_size=40), seed=st.integers(0, 50))
def test_alone_it_is_a_local_disk_that_becomes_the_store(
    row: Row, request: pytest.FixtureRequest, operations: list[tuple[Any, ...]], seed: int
) -> None:
    with scratch() as directory:
        machine = served(row, request, directory, seed)
        for key, data in INITIAL.items():
            machine.put(key, data)
        run(Alone(machine, operations).main, seed)


@rows(remotes.THOROUGH)
def test_with_others_nothing_is_lost_and_nothing_unseen_replaced(row: Row, request: pytest.FixtureRequest) -> None:
    unseen: list[str] = []

    @few
    @given(st.lists(shared, min_size=1, max_size=40), st.integers(0, 50))
    def with_others(operations: list[tuple[Any, ...]], seed: int) -> None:
        with scratch() as directory:
            machine = served(row, request, directory, seed)
            for key, data in INITIAL.items():
                machine.put(key, data)
            found = Shared(machine, operations)
            if row.window:
                found.witness.unseen = unseen
            run(found.main, seed)

    with_others()
    print(f"{row.name}: {len(unseen)} writes of others replaced in the window, of {EXAMPLES} lives with others")


@rows(remotes.THOROUGH)
@pytest.mark.parametrize(
    ("times", "acted"), [(1, False), (1, True), (math.inf, False)], ids=["once", "reply lost", "for good"]
)
def test_whichever_request_fails_the_end_is_the_same(
    row: Row, times: float, acted: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    nth = 1
    while True:
        directory = tmp_path / str(nth)
        directory.mkdir()
        if not once(served(row, request, directory), nth, None, times, acted, crash=False):
            break
        nth += 1
        assert nth < 150
    assert nth > 1
