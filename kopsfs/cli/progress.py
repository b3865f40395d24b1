"""How are amounts, ages and progress written for a person?"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


def count(number: int, noun: str) -> str:
    """Write `1 change`, `2 changes`, `1,204 requests`, `2 entries`."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {plural}"


def size(number_bytes: float) -> str:
    """Write a size in binary units: `640 B`, `3.4 MiB`."""
    if number_bytes < 1024:
        return f"{number_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        number_bytes /= 1024
        if number_bytes < 1024:
            return f"{number_bytes:.1f} {unit}"
    return f"{number_bytes / 1024:.1f} TiB"


def age(seconds: float) -> str:
    """Write a span: `0.4 s`, `12 s`, `3 min`, `2 h 5 min`, `4 days`."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def colour(stream: TextIO) -> bool:
    """May colours be written there?  Source: no-color.org: NO_COLOR says no when it is set and not empty."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def track(items: Sequence[T], verb: str, name_of: Callable[[T], str] = str) -> Iterator[T]:
    """Each of them; with a bar on stderr where that is a terminal and there are several."""
    if len(items) < 2 or not sys.stderr.isatty():
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:  # the extra `cli` is not installed
        yield from items
        return
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=name_of(item))
            yield item
            bar.advance(task)


class Progress:
    """Shows what flush and umount report: one line that is overwritten on a terminal, else nothing; or JSON."""

    def __init__(self, *, as_json: bool, verb: str) -> None:
        self._as_json = as_json
        self._verb = verb
        self._shown = 0
        self.held = 0
        """How many writes a guard or a refusal holds, as last reported; they are not in `left`."""
        self.conflicts = 0
        """How many edits have lost a race and are not decided, as last reported."""

    def follow(
        self, answers: Iterable[dict[str, Any]], *, until: str | None = None, budget_s: float | None = None
    ) -> int:
        """Show each answer; give the `left` of the last.

        Ends early at an answer that has the key `until`, and after `budget_s`.
        """
        deadline = math.inf if budget_s is None else time.monotonic() + budget_s
        left = 0
        try:
            for answer in answers:
                left = int(answer.get("left", left))
                self.held = int(answer.get("held", self.held))
                self.conflicts = int(answer.get("conflicts", self.conflicts))
                trouble = "" if answer.get("store_up", True) else str(answer.get("last_error") or "no answer")
                if self._as_json:
                    print(json.dumps(answer), flush=True)
                elif sys.stderr.isatty():
                    self._show(left, int(answer.get("bytes", 0)), trouble)
                if until in answer or time.monotonic() > deadline:
                    break
        finally:
            self._clear()
        return left

    def _show(self, left: int, number_bytes: int, trouble: str) -> None:
        text = f"{self._verb}: {count(left, 'change')} left to upload" if left else f"{self._verb}: all uploaded"
        if number_bytes:
            text += f", {size(number_bytes)}"
        if trouble:
            text += f"; the store is down: {trouble}"[:80]
        print(f"\r{text:<{self._shown}}", end="", file=sys.stderr, flush=True)
        self._shown = len(text)

    def _clear(self) -> None:
        if self._shown:
            print(f"\r{'':<{self._shown}}\r", end="", file=sys.stderr, flush=True)
            self._shown = 0
