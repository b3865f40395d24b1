"""How does kops write an object?

As its Kubernetes serializer does: keys sorted so that numbers in them count as numbers, two spaces, list items at the indent
of their key, quotes only where the text would be read as something else, lines folded after column 80.

Source: apimachinery pkg/runtime/serializer/json (doEncode), go-yaml v2 encode.go, sorter.go and emitterc.go.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from typing import Any

from kopsfs.spec.document import is_plain_string

_WIDTH = 80
_KEY_LENGTH_MAX = 128
_SEPARATOR = "\n---\n\n"
"""Between the objects of one stream.  Source: kops cmd/kops/get.go."""

_TIMESTAMP = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[Tt](\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)| (\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.\d+)?)?\Z"
)
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")
_SIMPLE = re.compile(r"[A-Za-z/][A-Za-z0-9_./@=,+-]*\Z")
"""Text that any style can hold; most values are."""

_FIRST_INDICATORS = frozenset("#,[]{}&*!|>'\"%@`")
_ESCAPES = {
    "\0": "0", "\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r", "\x1b": "e",
    '"': '"', "\\": "\\", "\x85": "N", "\xa0": "_", "\u2028": "L", "\u2029": "P",
}  # fmt: skip
_BREAKS = frozenset("\r\n\x85\u2028\u2029")
_ODD_BREAKS = _BREAKS - {"\n"}
"""Line breaks few parsers agree on; go-yaml would write them raw, here they are escaped."""


def to_yaml(data: dict[str, Any]) -> str:
    """One object as YAML."""
    lines: list[str] = []
    if not data:
        return "{}\n"
    _mapping(data, 0, "", lines)
    return "\n".join(lines) + "\n"


def stream(objects: Iterable[dict[str, Any]]) -> str:
    """Several objects as one YAML file."""
    return _SEPARATOR.join(to_yaml(data) for data in objects)


def to_json(objects: list[dict[str, Any]]) -> str:
    """One object as indented JSON, several as a list of them."""
    value: Any = objects[0] if len(objects) == 1 else objects
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _mapping(data: dict[str, Any], indent: int, lead: str, lines: list[str]) -> None:
    """Block mapping; `lead` is what stands before its first key instead of the indent (the dash of a list item)."""
    for key in sorted(data, key=functools.cmp_to_key(compare_keys)):
        start, lead = lead or " " * indent, ""
        shown = _scalar(key, indent, len(start), key=True)
        if len(key.encode()) > _KEY_LENGTH_MAX or "\n" in key:
            lines.append(f"{start}? {shown}")
            start, shown = " " * indent, ""
        _entry(data[key], indent, f"{start}{shown}:", lines)


def _entry(value: Any, indent: int, start: str, lines: list[str]) -> None:
    if isinstance(value, dict) and value:
        lines.append(start)
        _mapping(value, indent + 2, "", lines)
    elif isinstance(value, list) and value:
        lines.append(start)
        _sequence(value, indent, "", lines)
    else:
        lines.append(f"{start} {_value(value, indent, len(start) + 1)}")


def _sequence(values: list[Any], indent: int, lead: str, lines: list[str]) -> None:
    for value in values:
        start, lead = (lead or " " * indent) + "- ", ""
        if isinstance(value, dict) and value:
            _mapping(value, indent + 2, start, lines)
        elif isinstance(value, list) and value:
            _sequence(value, indent + 2, start, lines)
        else:
            lines.append(start + _value(value, indent, len(start)))


def _value(value: Any, indent: int, column: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _scalar(value, indent, column)
    return "{}" if isinstance(value, dict) else "[]"


def _float(value: float) -> str:
    """As strconv.FormatFloat(value, 'g', -1, 64)."""
    if value != value:  # noqa: PLR0124 - not a number
        return ".nan"
    if value in {float("inf"), float("-inf")}:
        return ".inf" if value > 0 else "-.inf"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    mantissa, _, exponent = f"{value:.17e}".partition("e")
    for digits in range(17):
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        if float(f"{mantissa}e{exponent}") == value:
            break
    if -4 <= int(exponent) < 21 and abs(value) < 1e6:
        return repr(value)
    return f"{mantissa}e{exponent}"


def _scalar(text: str, indent: int, column: int, *, key: bool = False) -> str:
    """A string in the style go-yaml takes: literal for several lines, plain if it can, else double or single quotes."""
    style = _style(text, key=key)
    if style == "literal":
        return _literal(text, indent + 2)
    if style == "double":
        return _folded_double(text, indent + 2, column) if not key else _double(text)
    if style == "single":
        text = text.replace("'", "''")
    folded = text if key else _folded(text, indent + 2, column + (style == "single"))
    return f"'{folded}'" if style == "single" else folded


def _style(text: str, *, key: bool) -> str:
    if _SIMPLE.match(text):
        return "plain" if is_plain_string(text) else "double"
    if not text or any(char in _ODD_BREAKS for char in text):
        return "double"
    allowed = _allowed(text)
    if "\n" in text:
        if "block" in allowed and not key:
            return "literal"
        return "double"
    if not is_plain_string(text) or _is_timestamp(text) or _BASE_60.match(text):
        return "double"
    if "plain" in allowed:
        return "plain"
    return "single" if "single" in allowed else "double"


def _allowed(text: str) -> set[str]:
    """Which styles can hold this text.  Source: emitterc.go:yaml_emitter_analyze_scalar."""
    styles = {"plain", "single", "block"}
    if text.startswith(("---", "...")) or text[0] in _FIRST_INDICATORS:
        styles.discard("plain")
    if re.match(r"[?:-](?:[\s]|\Z)", text) or re.search(r":(?:[ \t\r\n\x85\u2028\u2029]|\Z)|(?<=[ \t\r\n])#", text):
        styles.discard("plain")
    if text[0] == " " or text[-1] == " " or any(char in _BREAKS for char in text):
        styles.discard("plain")
    if text[-1] == " ":
        styles.discard("block")
    if re.search(r"[\r\n\x85\u2028\u2029] ", text):
        styles -= {"plain", "single"}
    if re.search(r" [\r\n\x85\u2028\u2029]", text) or not all(map(_printable, text)):
        styles -= {"plain", "single", "block"}
    return styles


def _printable(char: str) -> bool:
    code = ord(char)
    return (
        code == 0x0A
        or 0x20 <= code <= 0x7E
        or code == 0x85
        or (code >= 0xA0 and char != "\ufeff" and not 0xFFFE <= code <= 0xFFFF)
    )


def _is_timestamp(text: str) -> bool:
    match = _TIMESTAMP.match(text)
    if match is None:
        return False
    _, month, day, *clock = (int(part) if part else 0 for part in match.groups())
    hour, minute, second = (max(clock[number], clock[number + 3]) for number in range(3))
    return 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60


def _folded(text: str, indent: int, column: int) -> str:
    """Lines are broken at the first single space after column 80."""
    out: list[str] = []
    spaces = False
    for at, char in enumerate(text):
        if char == " ":
            if not spaces and column > _WIDTH and 0 < at < len(text) - 1 and text[at + 1] != " ":
                out.append("\n" + " " * indent)
                column = indent
            else:
                out.append(char)
                column += 1
            spaces = True
        else:
            out.append(char)
            column += 1
            spaces = False
    return "".join(out)


def _double(text: str) -> str:
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES and (char in {'"', "\\"} or not _printable(char) or char in _BREAKS):
        return "\\" + _ESCAPES[char]
    if _printable(char):
        return char
    code = ord(char)
    return f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _folded_double(text: str, indent: int, column: int) -> str:
    out, column, spaces = ['"'], column + 1, False
    for at, char in enumerate(text):
        piece = _escaped(char)
        if char == " " and not spaces and column > _WIDTH and 0 < at < len(text) - 1:
            piece = "\n" + " " * indent + ("\\" if text[at + 1] == " " else "")
            column = indent + len(piece) - 1 - indent
        else:
            column += len(piece)
        spaces = char == " "
        out.append(piece)
    return "".join([*out, '"'])


def _literal(text: str, indent: int) -> str:
    hint = "2" if text[0] in {" ", "\n"} else ""
    chomp = "-" if text[-1] != "\n" else "+" if text == "\n" or text[-2:-1] == "\n" else ""
    body = text.removesuffix("\n").split("\n")
    return "\n".join([f"|{hint}{chomp}", *(" " * indent + line if line else "" for line in body)])


def compare_keys(left: str, right: str) -> int:
    """Order of keys: letters after everything else, runs of digits by their value.  Source: sorter.go:keyList.Less."""
    for at in range(min(len(left), len(right))):
        one, two = left[at], right[at]
        if one == two:
            continue
        if one.isalpha() or two.isalpha():
            if one.isalpha() and two.isalpha():
                return -1 if one < two else 1
            return -1 if two.isalpha() else 1
        return _compare_numbers(left, right, at)
    return len(left) - len(right)


def _compare_numbers(left: str, right: str, at: int) -> int:
    prefix = ""
    if "0" in {left[at], right[at]}:
        before = re.search(r"[0-9]*\Z", left[:at])
        assert before is not None
        prefix = "1" if before[0].strip("0") else ""
    one, two = (_digits(text, at) for text in (left, right))
    first, second = int(prefix + one or "0"), int(prefix + two or "0")
    if first != second:
        return -1 if first < second else 1
    if len(one) != len(two):
        return len(one) - len(two)
    return -1 if left[at] < right[at] else 1


def _digits(text: str, at: int) -> str:
    match = re.compile(r"[0-9]*").match(text, at)
    assert match is not None
    return match[0]
