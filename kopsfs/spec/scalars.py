"""How does kops read and print a duration, a quantity and a time?

All are strings in a document with a canonical form (`90s` is written `1m30s`, `1000m` is `1`), so a value is put into
that form when it is read and compared or written as a string from then on.

Source: Go time.ParseDuration and Duration.String; apimachinery pkg/api/resource quantity.go (ParseQuantity,
CanonicalizeBytes) and amount.go.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction

_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION_NS_MAX = (1 << 63) - 1

_QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?\d+)\Z")
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_NAMES = {exponent: name for name, exponent in _DECIMAL.items()}
_BINARY_NAMES = {power: name for name, power in _BINARY.items()} | {0: ""}


def duration_ns(text: str) -> int:
    """A Go duration (`1h0m0s`, `1.5m`) in nanoseconds.

    Raises:
        ValueError: not a duration.
    """
    sign, rest = (
        (-1 if text.startswith("-") else 1),
        text.removeprefix("-") if text[:1] == "-" else text.removeprefix("+"),
    )
    if rest == "0":
        return 0
    total, at = Fraction(0), 0
    while at < len(rest):
        part = _DURATION_PART.match(rest, at)
        if part is None:
            break
        total += Fraction(part[1] if part[1][-1:] != "." else part[1][:-1]) * _NS[part[2]]
        at = part.end()
    if not rest or at < len(rest) or total > _DURATION_NS_MAX:
        raise ValueError(f"invalid duration {text!r}")
    return sign * int(total)


def duration_text(ns: int) -> str:
    """Nanoseconds as Go prints them: `1h0m0s`, `10s`, `1.5ms`, `0s`."""
    if ns == 0:
        return "0s"
    sign, value = ("-", -ns) if ns < 0 else ("", ns)
    if value < 10**9:
        unit, size = next((u, s) for u, s in (("ms", 10**6), ("µs", 10**3), ("ns", 1)) if value >= s)
        return f"{sign}{_decimals(value, size)}{unit}"
    minutes, rest = divmod(value, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimals(rest, 10**9)}s"
    if hours:
        text = f"{hours}h{minutes}m{text}"
    elif minutes:
        text = f"{minutes}m{text}"
    return sign + text


def _decimals(value: int, size: int) -> str:
    whole, part = divmod(value, size)
    digits = str(part).rjust(len(str(size)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if part else str(whole)


def duration(text: str) -> str:
    """The canonical form of a duration.

    Raises:
        ValueError: not a duration.
    """
    return duration_text(duration_ns(text))


def quantity_value(text: str) -> Fraction:
    """A quantity (`100m`, `1Gi`, `1e3`) as a number.

    Raises:
        ValueError: not a quantity.
    """
    number, _ = _quantity_parts(text)
    return number


def _quantity_parts(text: str) -> tuple[Fraction, str]:
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(
            f"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$': {text!r}"
        )
    sign, digits, suffix = match.groups()
    number = Fraction(digits.removesuffix(".")) * (-1 if sign == "-" else 1)
    if suffix in _BINARY:
        form, number = "binary", number * (1 << _BINARY[suffix])
    elif suffix in _DECIMAL:
        form, number = "decimal", number * Fraction(10) ** _DECIMAL[suffix]
    else:
        form, number = "exponent", number * Fraction(10) ** int(suffix[1:])
    nano = number * 10**9
    if nano.denominator != 1:  # finer than 1n: rounded away from zero
        nano = Fraction(-((-nano).__floor__()) if nano > 0 else nano.__floor__())
    return nano / 10**9, form


def quantity(text: str | float) -> str:
    """The canonical form of a quantity: no fraction, and the largest suffix that keeps it so.

    Raises:
        ValueError: not a quantity.
    """
    number, form = _quantity_parts(str(text) if not isinstance(text, float) else _plain_float(text))
    if form == "binary" and (abs(number) < 1024 or number.denominator != 1):
        form = "decimal"
    if number == 0:
        return "0"
    if form == "binary":
        value, power = int(number), 0
        while value % 1024 == 0 and power < 60:
            value, power = value // 1024, power + 10
        return f"{value}{_BINARY_NAMES[power]}"
    exponent = -9
    value = int(number * 10**9)
    while value % 1000 == 0 and exponent < 18:
        value, exponent = value // 1000, exponent + 3
    if form == "exponent":
        return f"{value}e{exponent}" if exponent else str(value)
    return f"{value}{_DECIMAL_NAMES[exponent]}"


def _plain_float(value: float) -> str:
    """A float as JSON has it after YAML: no exponent between 1e-6 and 1e21.  Source: Go encoding/json floatEncoder."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:[.,]\d+)?(Z|[+-]\d{2}:\d{2})\Z")


def time(text: str) -> str:
    """The canonical form of a time: RFC 3339, in UTC, without fractions.  Source: apimachinery metav1.Time.MarshalJSON.

    Raises:
        ValueError: not a time.
    """
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"not a time as in RFC 3339: {text!r}")
    moment = datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
