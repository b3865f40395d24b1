"""What is measured, in which unit, and which figure is the goal?

One `Figure` per number of issue 2's table "Speed and memory to reach"; `Sample`s are what rows produce.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    label: str
    unit: str
    goal: float | None = None
    hoped: float | None = None
    exact: bool = False
    """The goal is a count: met only by every sample."""


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("grep-840", "cold `grep -r`, 840 files", "s", 1.0, 0.45),
        Figure("grep-840-total", "... with the mount command", "s"),
        Figure("grep-840-gets", "... GETs", "requests", 840, 840, exact=True),
        Figure("grep-840-heads", "... HEADs", "requests", 0, 0, exact=True),
        Figure("grep-840-lists", "... LISTs", "requests"),
        Figure("memory-840", "... memory after it", "MB", 120, 80),
        Figure("cpu-840", "... daemon's CPU until then", "s"),
        Figure("warm-grep", "warm `grep -r`, 840 files", "s", 0.25, 0.15),
        Figure("warm-open", "warm open+read+close", "µs", 120, 60),
        Figure("warm-stat", "stat within its lease", "µs", 5, 2),
        Figure("grep-10k", "cold `grep -r`, 10,000 flat files", "s", 5.0, 3.0),
        Figure("grep-10k-total", "... with the mount command", "s"),
        Figure("memory-10k", "... memory after it", "MB", 150, 80),
        Figure("find", "cold `find`", "s", 0.20, 0.15),
        Figure("ls-lR", "cold `ls -lR`", "s", 0.20, 0.15),
        Figure("cat", "cold `cat` of a cluster's config and 12 groups", "s", 0.10, 0.06),
        Figure("first-ls", "mount command → first `ls`", "s", 0.4, 0.25),
        Figure("offline-ls", "... warm cache, store unreachable", "s", 0.4, 0.25),
        Figure("learning", "learning a bucket's conditions: HEADs and refused writes", "requests", 3, 3, exact=True),
        Figure("save", "editor save, wall", "ms", 3.0, 1.5),
        Figure("save-worst", "... slowest of 20", "ms"),
        Figure("save-stored", "20 saves, until the store has them", "s", 0.15, 0.08),
        Figure("save-requests", "... requests", "requests", 20, 20, exact=True),
        Figure("cp", "`cp -r` of 84 files, wall", "s", 0.2, 0.1),
        Figure("cp-stored", "... until the store has them", "s", 0.35, 0.2),
        Figure("cp-requests", "... requests", "requests", 84, 84, exact=True),
        Figure("rm", "`rm -r` of it, wall", "s", 0.1, None),
        Figure("rm-gone", "... until it is gone", "s", 0.2, None),
        Figure("rm-requests", "... requests", "requests", 84, 84, exact=True),
        *(
            figure
            for name, what in (("clusters", "10 clusters"), ("backups", "one cluster with 1,000 backups"),
                ("fleet", "10 clusters with 1,000 backups each"), ("flat", "10,000 files"))
            for figure in (
                Figure(f"remote-{name}", f"remote change seen by an open, {what}: median", "s", 1.0),
                Figure(f"remote-{name}-worst", "... worst", "s", 1.1),
                Figure(
                    f"remote-{name}-rate", "... requests a minute meanwhile, GETs of changed contents apart", "requests",
                    60 if name == "clusters" else None,
                ),
            )
        ),
        Figure("idle", "idle, 10 clusters, requests a minute", "requests"),
        Figure("idle-lists", "... LISTs a minute", "requests", 2),
    )
}  # fmt: skip


@dataclass(slots=True)
class Sample:
    """One measurement; `value` is None where the peer could not do it, and `note` says why."""

    figure: str
    peer: str
    value: float | None
    note: str = ""
    requests: dict[str, int] = field(default_factory=dict)
    run: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def medians(samples: list[Sample]) -> dict[tuple[str, str], float | None]:
    """Give (figure, peer) → median; None where no sample has a value."""
    grouped: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        values = grouped.setdefault((sample.figure, sample.peer), [])
        if sample.value is not None:
            values.append(sample.value)
    return {which: median(values) if values else None for which, values in grouped.items()}


def verdict(figure: Figure, samples: list[Sample]) -> str:
    """Say how kopsfs stands: met, hoped, missed, or nothing where there is no goal or no figure."""
    values = [sample.value for sample in samples if sample.value is not None]
    if figure.goal is None or not values:
        return ""
    reached = max(values) if figure.exact else median(values)
    if figure.hoped is not None and reached <= figure.hoped:
        return "hoped"
    return "met" if reached <= figure.goal else "MISSED"
