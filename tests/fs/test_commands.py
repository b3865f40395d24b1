"""What does the daemon answer when it is asked about a write it keeps?"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from kopsfs.commands import Commands
from tests.conftest import ExpectLog
from tests.support.lives import Life, Machine, run

BUDGET_S = 10.0


def asked(tmp_path: Path, keep: Callable[[Life], Awaitable[str]], hangs: bool) -> tuple[dict[str, Any], float]:
    """The answer to `kopsfs conflicts show` of what `keep` left here, and how long it took."""
    slow = False
    machine = Machine(tmp_path, delay=lambda verb, _key: (1e6 if verb == "get" and slow else 0.0, 0.0))
    machine.put("c/config", b"1")
    config = SimpleNamespace(request_budget_s=BUDGET_S)

    async def main() -> tuple[dict[str, Any], float]:
        nonlocal slow
        async with machine.life() as life:
            commands = Commands(life.fs, cast("Any", config), cast("Any", None), cast("Any", None))
            number = await keep(life)
            slow = hangs
            began = trio.current_time()
            (answer,) = [each async for each in commands.conflicts({"action": "show", "id": number})]
            return answer, trio.current_time() - began

    return run(main)


async def held(life: Life) -> str:
    await life.save("c/config", b"")
    await trio.sleep(1)
    (intent,) = life.journal.all()
    return f"held-{intent.id}"


async def lost(life: Life) -> str:
    handle = await life.open("c/config", 2)
    await life.fs.files.read(handle, 0, 1)
    life.machine.put("c/config", b"theirs")
    await life.write(handle, b"mine")
    await life.close(handle)
    await trio.sleep(1)
    (conflict,) = life.journal.conflicts
    return str(conflict)


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize(
    ("keep", "said", "mine", "theirs"), [(held, "held: ", b"", b"1"), (lost, "conflict ", b"mine", b"theirs")]
)
def test_both_sides_are_shown_or_what_can_be_had_in_time(
    tmp_path: Path,
    expect_log: ExpectLog,
    keep: Callable[[Life], Awaitable[str]],
    said: str,
    mine: bytes,
    theirs: bytes,
    hangs: bool,
) -> None:
    expect_log(said)
    answer, took = asked(tmp_path, keep, hangs)
    assert (answer["path"], base64.b64decode(answer["mine_b64"])) == ("c/config", mine)
    if hangs:
        assert (answer["theirs_b64"], took) == (None, BUDGET_S)
    else:
        assert base64.b64decode(answer["theirs_b64"]) == theirs
