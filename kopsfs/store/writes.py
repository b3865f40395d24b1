"""How is a conditional write carried out?

`carry_out` follows the plan that `conditions.py` gives: looks, sends, waits after a lost answer, and in
the end says what is stored, or who was faster. A conflict with our own bytes is no conflict: the reply
to an earlier attempt was lost.
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, BinaryIO, Final, Literal, Protocol

import trio

from kopsfs.errors import ConflictError, NotFoundError, StoreDownError, TransientError, UnsupportedError
from kopsfs.store.conditions import Conditions, Look, Plan, Seen, Send, Verdict
from kopsfs.store.driver import ABSENT, ANY, Expected, Form, Key, ObjectInfo
from kopsfs.store.ports import Call, Stored

IN_MEMORY_MAX: Final = 8 << 20
"""A larger object is compared through a temporary file."""

TEACHER_TRIES: Final = 4
"""So often in a row may a write that teaches go unanswered before another has its turn: about 0.7 s."""


class Asking(Protocol):
    """What `Store` offers here."""

    async def head(self, key: Key) -> ObjectInfo: ...

    async def get_into(self, key: Key, file: BinaryIO) -> ObjectInfo: ...

    def attempt(self, make: Callable[[], Call[Any]]) -> Awaitable[Any]:
        """Ask once."""
        ...

    async def pause(self, error: TransientError, attempt: int) -> None:
        """Wait before the next attempt."""
        ...

    def note_conditions(self, conditions: Conditions) -> None:
        """Something may have been learnt."""
        ...


class Content:
    """What a write is about to store: `size` bytes from where a file stands, as often as needed."""

    def __init__(self, data: bytes | BinaryIO, size: int, offset: int | None = None) -> None:
        self.size = size
        self._data = data
        self._offset = offset if offset is not None or isinstance(data, bytes) else data.tell()
        self._md5 = ""

    def rewound(self) -> bytes | BinaryIO:
        """Give the bytes, a file at the place where they begin."""
        if not isinstance(self._data, bytes):
            assert self._offset is not None
            self._data.seek(self._offset)
        return self._data

    def md5(self) -> str:
        """Hex digest, as most stores name it."""
        if not self._md5:
            data = self.rewound()
            file = io.BytesIO(data) if isinstance(data, bytes) else data
            digest = hashlib.md5(usedforsecurity=False)
            left = self.size
            while left > 0 and (chunk := file.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
            self._md5 = digest.hexdigest()
        return self._md5


class Write:
    """One put or delete under way: what it wants and what has been seen."""

    def __init__(
        self,
        op: Literal["put", "delete"],
        key: Key,
        expected: Expected,
        call: Callable[[Expected, Form], Call[Any]],
        content: Content | None = None,
    ) -> None:
        self.op = op
        self.key = key
        self.expected = expected
        self.call = call
        self.content = content
        """None for a delete."""
        self.stored: ObjectInfo | None = None
        """What the store holds now; set when that is ours."""
        self._refusal = ""
        self._found = ""

    def found(self, what: str) -> None:
        """Note what was there instead."""
        self._found = what

    def refused(self, error: ConflictError) -> None:
        """Note what the store said when it refused."""
        self._refusal = error.detail

    def conflict(self) -> ConflictError:
        """Say who won, as far as it is known."""
        wanted = "to be absent" if self.expected is ABSENT else f"version {self.expected}"
        return ConflictError(
            self.op,
            self.key,
            f"expected {wanted}, {self._found}" if self._found else self._refusal or f"expected {wanted}",
        )


async def in_turn(
    turn: trio.Lock,
    wanted: Callable[[], bool],
    act: Callable[[], Awaitable[object]],
    pause: Callable[[TransientError, int], Awaitable[None]],
) -> bool:
    """Act while nobody else does; False where it is not wanted any more. One key the store chokes on stops nobody else."""
    attempt = 0
    while wanted():
        try:
            async with turn:
                if wanted():
                    await act()
                    return True
        except StoreDownError:
            raise
        except TransientError as error:
            await pause(error, attempt)
            attempt += 1
    return False


async def carry_out(write: Write, conditions: Conditions, store: Asking, tries: float = math.inf) -> ObjectInfo | None:
    """Do it; give what is stored (of a delete: None). Raises ConflictError.

    Raises TransientError where so many `tries` in a row were not answered; whether one has acted the next will see.
    """
    verdict = await _follow(_plan(write, conditions), write, conditions, store, tries)
    store.note_conditions(conditions)
    if verdict is Verdict.DONE:
        return write.stored
    if write.content is not None:
        if await _holds(write, store):
            return write.stored
        raise write.conflict()
    try:
        write.found(f"is at version {(await store.head(write.key)).version}")
    except NotFoundError:
        return None
    raise write.conflict()


def _plan(write: Write, conditions: Conditions) -> Plan:
    if write.expected is ANY:
        return conditions.overwrite()
    if write.expected is ABSENT:
        assert write.op == "put", "a delete of nothing"
        return conditions.create()
    assert isinstance(write.expected, str)
    return (conditions.delete if write.op == "delete" else conditions.replace)(write.expected)


async def _follow(plan: Plan, write: Write, conditions: Conditions, store: Asking, tries: float) -> Verdict:
    attempt = 0
    try:
        step = next(plan)
        while True:
            if isinstance(step, Look):
                seen = await _look(step, write, store)
            else:
                seen = await _send(step, write, conditions, store, attempt, last=attempt + 1 >= tries)
                attempt = attempt + 1 if seen is Seen.LOST else 0
            step = plan.send(seen)
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


async def _look(step: Look, write: Write, store: Asking) -> Seen:
    try:
        found = await store.head(write.key)
    except NotFoundError:
        write.found("is absent")
        return Seen.HOLDS if write.expected is ABSENT else Seen.GONE
    if found.version == write.expected:
        return Seen.HOLDS
    write.found(f"is at version {found.version}")
    if step.ours and write.content is not None and await _holds(write, store, found):
        return Seen.OURS
    return Seen.OTHER


async def _send(step: Send, write: Write, conditions: Conditions, store: Asking, attempt: int, *, last: bool) -> Seen:
    try:
        stored = await store.attempt(lambda: write.call(step.expected, step.form))
    except ConflictError as error:
        write.refused(error)
        return Seen.REFUSED
    except NotFoundError:
        return Seen.ACCEPTED if write.op == "delete" and step.expected is ANY else Seen.MISSING
    except UnsupportedError:
        if step.expected is ANY:
            raise
        return Seen.UNKNOWN
    except StoreDownError:
        raise
    except TransientError as error:
        if last:
            raise
        await store.pause(error, attempt)
        return Seen.LOST
    if isinstance(stored, Stored):
        write.stored = replace(stored.info, key=write.key)
        conditions.note_versioning(stored.versioned)
    return Seen.ACCEPTED


async def _holds(write: Write, store: Asking, info: ObjectInfo | None = None) -> bool:
    """Say whether the store holds exactly our bytes: then it was our own write that came first."""
    content = write.content
    assert content is not None
    try:
        if info is None:
            info = await store.head(write.key)
        if info.size != content.size:
            return False
        if info.md5 is not None:
            same = info.md5 == content.md5()
        else:
            with tempfile.TemporaryFile() if info.size > IN_MEMORY_MAX else io.BytesIO() as theirs:
                info = await store.get_into(write.key, theirs)
                same = info.size == content.size and Content(theirs, info.size, 0).md5() == content.md5()
    except NotFoundError:
        return False
    if same:
        write.stored = info
    return same
