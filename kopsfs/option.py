"""What is one option, and how is its text read?

An `Option` is data. `parse_value` turns what a file, a variable, `-o` or a flag said into the value
of the field, or into a ConfigError that names the source.
"""

from __future__ import annotations

import dataclasses
import enum
import grp
import math
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kopsfs.errors import ConfigError

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30

_SIZE_UNITS: Final[dict[str, float]] = {"": 1, "b": 1, "k": KiB, "m": MiB, "g": GiB, "t": 1 << 40}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_YES: Final = {"1", "true", "yes", "on"}
_NO: Final = {"0", "false", "no", "off"}


class Kind(enum.Enum):
    """How the text of an option is read."""

    TEXT = "text"
    BOOL = "yes or no"
    BYTES = "size: 64M, 1G, plain numbers are bytes"
    SECONDS = "time: 500ms, 5s, 1m, plain numbers are seconds"
    USER = "user name or number"
    GROUP = "group name or number"
    OCTAL = "octal number"
    PATH = "path"
    CHOICE = "one of"
    PATTERNS = "patterns"
    SSE = "encryption rule"


_METAVARS: Final = {Kind.BYTES: "SIZE", Kind.SECONDS: "TIME", Kind.PATTERNS: "PATTERN", Kind.CHOICE: "WORD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row of the table."""

    group: str
    help: str
    default: Any
    kind: Kind = Kind.TEXT
    field: str = ""
    """The attribute of `Config`."""
    name: str = ""
    """The long option without dashes; the field's name with `-` unless the unit is left out."""
    metavar: str = "VALUE"
    choices: tuple[str, ...] = ()
    low: float | None = None
    read_only_default: Any = None
    """Default of read-only mounts, where it differs."""
    also_env: str = ""
    """A variable of kops that means the same."""
    short: str = ""

    @property
    def key(self) -> str:
        """The mount option and TOML key."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """The long option."""
        return f"--{self.name}"

    @property
    def env(self) -> str:
        """The variable."""
        return f"KOPSFS_{self.key.upper()}"


def option(
    group: str,
    default: Any,
    help: str,  # noqa: A002 — argparse's word for it
    *,
    kind: Kind | None = None,
    name: str = "",
    metavar: str = "",
    choices: tuple[str, ...] = (),
    low: float | None = None,
    read_only_default: Any = None,
    also_env: str = "",
    short: str = "",
) -> Any:
    """Declare a settable field of `Config`."""
    if kind is None:
        kind = Kind.CHOICE if choices else Kind.BOOL if isinstance(default, bool) else Kind.TEXT
    row = Option(
        group=group,
        help=help,
        default=default,
        kind=kind,
        name=name,
        metavar=metavar or _METAVARS.get(kind, "VALUE"),
        choices=choices,
        low=low,
        read_only_default=read_only_default,
        also_env=also_env,
        short=short,
    )
    return dataclasses.field(default=default, metadata={"option": row})


def parse_value(row: Option, raw: Any, origin: str) -> Any:
    """Read `raw` (text, or a TOML value) as `row` says.

    Raises:
        ConfigError: it cannot be read, or lies outside the limits; names origin, option and what would do.
    """
    where = origin if origin in {row.flag, row.env, row.name, f"-o {row.key}"} else f"{origin}: {row.key}"
    try:
        value = _PARSERS[row.kind](row, raw)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if row.low is not None and float(value) < row.low:
        raise ConfigError(f"{where}: {raw!r} is too small; at least {row.low:g}")
    return value


def parse_seconds(text: str, origin: str) -> float:
    """Read a time that is no setting. Raises ConfigError that names `origin`."""
    return float(parse_value(Option(group="", help="", default=None, kind=Kind.SECONDS, name=origin), text, origin))


def _text(_row: Option, raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is no text")  # noqa: TRY004 — a value, not a programming error
    return raw


def _bool(_row: Option, raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    word = str(raw).lower()
    if word in _YES | _NO:
        return word in _YES
    raise ValueError(f"{raw!r} is neither yes nor no; write true or false")


def _number(raw: Any, units: Mapping[str, float], pattern: str, examples: str) -> float:
    if isinstance(raw, bool):
        raise ValueError(f"{raw!r} is no number; write {examples}")  # noqa: TRY004 — a value, not a programming error
    if isinstance(raw, int | float):
        value = float(raw)
    else:
        match = re.fullmatch(pattern, str(raw).strip())
        if match is None:
            raise ValueError(f"{raw!r} cannot be read; write {examples}")
        value = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{raw!r} is out of range; write {examples}")
    return value


def _bytes(_row: Option, raw: Any) -> int:
    pattern = r"(?i)([0-9]+(?:\.[0-9]+)?)\s*([BKMGT]?)(?:(?<=[KMGT])iB?)?"
    return int(_number(raw, _SIZE_UNITS, pattern, "64M, 1G or a number of bytes"))


def _seconds(_row: Option, raw: Any) -> float:
    return _number(
        raw, _TIME_UNITS, r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(ms|s|m|h|d|)", "500ms, 5s, 1m or a number of seconds"
    )


def _account(raw: Any, known: str) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 0:
        return raw
    text = str(raw)
    if re.fullmatch(r"[0-9]{1,10}", text):
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid if known == "user" else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"there is no {known} {text!r}") from None


def _octal(_row: Option, raw: Any) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        raise ValueError(f'{raw!r} is ambiguous; write the octal number as text: "077"')  # noqa: TRY004 — a value, too
    text = str(raw).removeprefix("0o")
    if not re.fullmatch(r"[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError(f"{raw!r} is no octal mask; write 077")
    return int(text, 8)


def _path(_row: Option, raw: Any) -> Path:
    text = _text(_row, raw)
    if not text or "\0" in text:
        raise ValueError("the path is empty")
    return Path(text).expanduser()


def _choice(row: Option, raw: Any) -> str:
    if raw in row.choices:
        return str(raw)
    raise ValueError(f"{raw!r} is none of {', '.join(row.choices)}")


def _patterns(_row: Option, raw: Any) -> tuple[str, ...]:
    items = raw if isinstance(raw, list | tuple) else [raw]
    patterns: list[str] = []
    for item in items:
        patterns.extend(part for part in re.split(r"[,\s]+", _text(_row, item)) if part)
    return tuple(patterns)


def _sse(_row: Option, raw: Any) -> str:
    if raw in {"auto", "none", "AES256", "aws:kms"} or re.fullmatch(r"aws:kms:\S+", str(raw)):
        return str(raw)
    raise ValueError(f"{raw!r} is none of auto, none, AES256, aws:kms, aws:kms:KEY")


_PARSERS: Final[Mapping[Kind, Callable[[Option, Any], Any]]] = {
    Kind.TEXT: _text,
    Kind.BOOL: _bool,
    Kind.BYTES: _bytes,
    Kind.SECONDS: _seconds,
    Kind.USER: lambda _row, raw: _account(raw, "user"),
    Kind.GROUP: lambda _row, raw: _account(raw, "group"),
    Kind.OCTAL: _octal,
    Kind.PATH: _path,
    Kind.CHOICE: _choice,
    Kind.PATTERNS: _patterns,
    Kind.SSE: _sse,
}
