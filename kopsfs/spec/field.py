"""Which field is meant, and what is wrong with it?

`Path` names a field the way kops's messages do (`spec.networking.subnets[0].cidr`); `Finding` is one thing wrong with
one field. Findings are values: a validator yields them, nobody raises them one by one. `RefusedError` carries them where a
step cannot go on.

Source: apimachinery pkg/util/validation/field (the kinds and how a path prints).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from kopsfs.errors import KopsfsError


@dataclass(frozen=True, slots=True, init=False)
class Path:
    """A field's place in a document: names of fields, indices of lists, keys of maps.

    A string is a field (`Path("spec", "api")`), an int an index; a map's key is a `Key`, which prints in brackets.
    """

    parts: tuple[str | int, ...]

    def __init__(self, *parts: str | int) -> None:
        object.__setattr__(self, "parts", parts)

    def child(self, *names: str) -> Path:
        return Path(*self.parts, *names)

    def index(self, number: int) -> Path:
        return Path(*self.parts, number)

    def key(self, name: str) -> Path:
        return Path(*self.parts, Key(name))

    @property
    def parent(self) -> Path:
        return Path(*self.parts[:-1])

    @override
    def __str__(self) -> str:
        text = ""
        for part in self.parts:
            if isinstance(part, int | Key):
                text += f"[{part}]"
            else:
                text += f".{part}" if text else part
        return text

    @classmethod
    def parse(cls, text: str) -> Path:
        """`spec.subnets[0].cidr` as a path; what stands in brackets is an index if it is a number, else a key."""
        parts: list[str | int] = []
        for piece in _pieces(text):
            if not piece.startswith("["):
                parts.append(piece)
            elif piece[1:-1].isdigit():
                parts.append(int(piece[1:-1]))
            else:
                parts.append(Key(piece[1:-1]))
        return cls(*parts)


class Key(str):
    """A key of a map, as opposed to the name of a field: equal to its string, printed in brackets."""

    __slots__ = ()


def _pieces(text: str) -> Iterable[str]:
    word = ""
    rest = iter(text)
    for char in rest:
        if char not in ".[":
            word += char
            continue
        if word:
            yield word
        word = ""
        if char == "[":
            word = "["
            for inner in rest:
                word += inner
                if inner == "]":
                    break
            yield word
            word = ""
    if word:
        yield word


class Kind(enum.StrEnum):
    """What is wrong; the values are apimachinery's words, which the corpus compares."""

    REQUIRED = "Required value"
    INVALID = "Invalid value"
    UNSUPPORTED = "Unsupported value"
    FORBIDDEN = "Forbidden"
    NOT_FOUND = "Not found"
    DUPLICATE = "Duplicate value"
    TOO_MANY = "Too many"
    TOO_LONG = "Too long"
    TYPE = "Wrong type"
    """Not of the schema's type; kops refuses such a document while it decodes it."""
    SYNTAX = "Syntax error"
    """Not YAML, or not a document of kops at all."""
    FACT = "Missing fact"
    """What has to be known from outside is not in the facts; the detail says what and how to give it."""
    FAILED = "Failed"
    """A step of kops that ends with a plain error, without a field."""


class Severity(enum.StrEnum):
    """An error refuses, a warning is only told."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a file: line and column count from 1, `text` is the line itself."""

    source: str
    line: int
    column: int
    text: str = ""

    @override
    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with one field.

    `field` is kops's internal path (it is what upstream compares), `detail` is for people. `rule` names the check, its
    identity in tests; `value` is what stands there. `position` is filled in by whoever has the document at hand.
    """

    kind: Kind
    field: str
    detail: str = ""
    value: Any = None
    rule: str = ""
    severity: Severity = Severity.ERROR
    position: Position | None = None
    supported: tuple[str, ...] = ()
    source: str = ""
    """The kops file and function that makes the same finding."""

    @property
    def key(self) -> str:
        """`Type::field`, the form the corpus compares."""
        return f"{self.kind}::{self.field}"

    @override
    def __str__(self) -> str:
        where = f"{self.position}: " if self.position else ""
        value = f": {self.value!r}" if self.value is not None and self.kind is not Kind.FORBIDDEN else ""
        detail = f": {self.detail}" if self.detail else ""
        known = f": supported values: {', '.join(self.supported)}" if self.supported else ""
        return f"{where}{self.field + ': ' if self.field else ''}{self.kind}{value}{detail}{known}"


def required(path: Path | str, detail: str = "", **more: Any) -> Finding:
    """A field that has to be there is not."""
    return Finding(Kind.REQUIRED, str(path), detail, **more)


def invalid(path: Path | str, value: Any, detail: str, **more: Any) -> Finding:
    """A value that cannot be."""
    return Finding(Kind.INVALID, str(path), detail, value, **more)


def unsupported(path: Path | str, value: Any, supported: Sequence[str], **more: Any) -> Finding:
    """A value other than the ones there are."""
    return Finding(Kind.UNSUPPORTED, str(path), "", value, supported=tuple(supported), **more)


def forbidden(path: Path | str, detail: str, **more: Any) -> Finding:
    """A field that must not be set here."""
    return Finding(Kind.FORBIDDEN, str(path), detail, **more)


def not_found(path: Path | str, value: Any, detail: str = "", **more: Any) -> Finding:
    """What a field refers to does not exist."""
    return Finding(Kind.NOT_FOUND, str(path), detail, value, **more)


def duplicate(path: Path | str, value: Any, **more: Any) -> Finding:
    """A value that must be unique and is there twice."""
    return Finding(Kind.DUPLICATE, str(path), "", value, **more)


class RefusedError(KopsfsError):
    """A step that cannot go on, with everything found wrong.  Exit 1.

    Attributes:
        findings: at least one.
    """

    def __init__(self, *findings: Finding) -> None:
        assert findings, "a refusal says why"
        super().__init__(*findings)
        self.findings = findings

    @override
    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)
