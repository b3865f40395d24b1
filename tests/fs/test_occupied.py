"""What does a program learn when the place its file needs in the store is another file's?"""

from __future__ import annotations

import errno
from typing import Any

import pytest

from kopsfs.errors import HeldError, OccupiedError
from kopsfs.fuse import errno_of
from tests.conftest import ExpectLog
from tests.fs.test_semantics_core import INITIAL, machine
from tests.support.lives import Life, Machine, during

__all__ = ["machine"]


def test_a_place_that_is_taken_is_eexist_to_who_waits_and_the_bytes_are_held(
    machine: Machine, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log("op=upload key=c/new held: .*belongs to the cluster c.1")

    async def refuse(*args: Any, **more: Any) -> None:
        raise OccupiedError("put", "c/new", "its namespace c-1 belongs to the cluster c.1")

    async def body(life: Life) -> None:
        monkeypatch.setattr(life.writeback.store, "put", refuse)
        await life.save("c/new", b"bytes")
        with pytest.raises(OccupiedError) as first:
            await life.fsync("c/new")
        assert errno_of(first.value) == errno.EEXIST
        with pytest.raises(HeldError, match=r"c\.1"):
            await life.fsync("c/new")
        (intent,) = life.journal.owed("c/new")
        assert "belongs to the cluster c.1" in intent.held
        assert await life.read("c/new") == b"bytes"
        assert machine.objects() == INITIAL

    during(machine, body)
