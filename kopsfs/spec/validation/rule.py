"""Which rule found this, and where does kops do the same?

Every check has a name. `@rules(source, name, …)` stands above the function that makes it, enters the names into `RULES`
and completes each finding the function yields: with the name, where the function has only one, and with the place in
kops's source. Two checks that occur dozens of times, *one of these words* and *no longer there*, are tables of `OneOf` and
`Removed` rows.

A validator yields findings and decides nothing else: who collects them, in which order and up to which, is said in
`stages.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec

from kopsfs.spec.field import Finding, Kind, Path, forbidden, unsupported

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Rule:
    """A check with a name: `source` is where kops makes it, "" where kops does not."""

    name: str
    source: str


RULES: dict[str, Rule] = {}
"""All rules of the modules imported so far, by name."""


def rules(source: str, *names: str) -> Callable[[Callable[P, Iterator[Finding]]], Callable[P, Iterator[Finding]]]:
    """Declare which rules a function makes.

    Raises:
        AssertionError: two rules of one name.
    """

    def declared(function: Callable[P, Iterator[Finding]]) -> Callable[P, Iterator[Finding]]:
        enter(source, names)

        @functools.wraps(function)
        def named(*args: P.args, **kwargs: P.kwargs) -> Iterator[Finding]:
            for finding in function(*args, **kwargs):
                if finding.source:
                    yield finding
                else:
                    name = finding.rule or names[0]
                    assert name in RULES, f"{name} is not declared"
                    yield replace(finding, rule=name, source=RULES[name].source or "kopsfs")

        return named

    return declared


def enter(source: str, names: Iterable[str]) -> None:
    """Add rules to `RULES`."""
    for name in names:
        assert name not in RULES, f"two rules {name}"
        RULES[name] = Rule(name, source)


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field that takes some words only.

    Attributes:
        field: the field below the object at hand.
        pointer: unset where it is absent only; else the empty string counts as unset too.
    """

    rule: str
    field: str
    words: tuple[str, ...]
    pointer: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """A field that must not be there any more.

    Attributes:
        field: the field below the object at hand.
        detail: since when, and what takes its place.
        shown: how kops's message spells the field where that differs.
        pointer: any value counts as set; else the empty one does not.
    """

    rule: str
    field: str
    detail: str
    shown: str = ""
    pointer: bool = True


def one_of(path: Path, value: str, words: Sequence[str], rule: str) -> Iterator[Finding]:
    """`value` has to be one of `words`.  Source: pkg/apis/kops/validation/helpers.go:IsValidValue."""
    if value not in words:
        yield unsupported(path, value, words, rule=rule)


def check_words(table: Sequence[OneOf], data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """Each row of a table of `OneOf` against the fields of one object."""
    for row in table:
        value = data.get(row.field)
        if value is None or (value == "" and not row.pointer):
            continue
        yield from one_of(path.child(row.field), value, row.words, row.rule)


def check_removed(table: Sequence[Removed], data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """Each row of a table of `Removed` against the fields of one object."""
    for row in table:
        value = data.get(row.field)
        if value is None or (not row.pointer and value in ("", [])):
            continue
        yield forbidden(path.child(row.shown or row.field), row.detail, rule=row.rule)


def failed(detail: str, rule: str) -> Finding:
    """What kops ends with as a plain error: no field, nothing after it."""
    return Finding(Kind.FAILED, "", detail, rule=rule)
