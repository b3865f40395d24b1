"""How are findings written: for a person, for a program, for a code review, for a test report?

Text has the line of the author's file and a caret, JSON every attribute, `github` workflow commands that annotate the
lines of a pull request, `junit` the report most CI systems read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kopsfs.cli import program
from kopsfs.cli.progress import count
from kopsfs.spec.validation.manifest import Found

FORMATS: Final = ("text", "json", "github", "junit")
VALUE_CHARS_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one thing that was looked at: a cluster, a file.

    Attributes:
        name: the cluster, or the file.
    """

    name: str
    found: Sequence[Found]


def is_error(entry: Found) -> bool:
    """Does it refuse the document (else it is a warning)?"""
    return entry.finding.severity == "error"


def report(checked: Sequence[Checked], parsed: argparse.Namespace) -> int:
    """Print all findings as `naming.add_findings` lets a person ask for them; the exit status."""
    sys.stdout.write(render(checked, parsed.output))
    entries = [entry for each in checked for entry in each.found]
    if entries and parsed.output == "text":
        program.complain(summary(checked))
    return int(any(parsed.warnings_as_errors or is_error(entry) for entry in entries))


def render(checked: Sequence[Checked], output: str) -> str:
    """All findings in one of `FORMATS`; text and github are empty when there are none."""
    if output == "json":
        return as_json(checked)
    if output == "junit":
        return as_junit(checked)
    write = as_github if output == "github" else as_text
    return "".join(write(entry) for each in checked for entry in each.found)


def summary(checked: Sequence[Checked]) -> str:
    """One line that says how much was found, in how much."""
    entries = [entry for each in checked for entry in each.found]
    errors = sum(map(is_error, entries))
    parts = [count(errors, "error")] if errors else []
    if len(entries) > errors:
        parts.append(count(len(entries) - errors, "warning"))
    where = f" in {len(checked)} clusters" if len(checked) > 1 else ""
    return f"{', '.join(parts) or 'nothing found'}{where}"


# --- text -------------------------------------------------------------------------------------------------------------


def message(entry: Found) -> str:
    """The finding without its place: kind, field as the author spells it, value, detail, rule."""
    finding = entry.finding
    field = entry.spelled or finding.field
    parts = [f"{'' if is_error(entry) else 'warning: '}{finding.kind}"]
    if field:
        parts.append(f"{entry.object}: {field}" if entry.object.startswith("ig/") else field)
    elif entry.object and not finding.position:
        parts.append(entry.object)
    if finding.value is not None and finding.kind != "Required value":
        parts.append(shown(finding.value))
    if finding.supported:
        parts.append(f"expected {', '.join(finding.supported)}")
    if finding.detail:
        parts.append(finding.detail)
    return ": ".join(parts) + (f" [rule {finding.rule}]" if finding.rule else "")


def shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[: VALUE_CHARS_MAX - 1]}…"


def as_text(entry: Found) -> str:
    """`FILE:LINE:COLUMN: …`, the line and a caret."""
    position = entry.finding.position
    if position is None:
        return f"{printable(message(entry))}\n"
    head = f"{position}: {message(entry)}\n"
    if not position.text:
        return printable(head)
    number = f"{position.line:>5}"
    caret = " " * (position.column - 1) + "^"
    line = position.text.expandtabs(1)[:200]
    return printable(f"{head}{number} | {line}\n{'':>5} | {caret[:200]}\n")


def printable(text: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


# --- for programs -----------------------------------------------------------------------------------------------------


def as_data(entry: Found, cluster: str) -> dict[str, Any]:
    """One finding with everything that is known of it."""
    finding = entry.finding
    data: dict[str, Any] = {
        "type": str(finding.kind),
        "field": finding.field,
        "detail": finding.detail,
        "rule": finding.rule,
        "source": finding.source,
        "stage": entry.stage,
        "object": entry.object,
        "cluster": cluster,
    }
    if entry.spelled:
        data["spelled"] = entry.spelled
    if finding.value is not None:
        data["value"] = finding.value
    if finding.supported:
        data["supported"] = list(finding.supported)
    if finding.position is not None:
        position = finding.position
        data |= {"file": position.source, "line": position.line, "column": position.column}
    return data


def as_json(checked: Iterable[Checked]) -> str:
    """`{"errors": […], "warnings": […]}`."""
    data: dict[str, list[dict[str, Any]]] = {"errors": [], "warnings": []}
    for each in checked:
        for entry in each.found:
            data["errors" if is_error(entry) else "warnings"].append(as_data(entry, each.name))
    return json.dumps(data, indent=1, ensure_ascii=True, default=str) + "\n"


def as_github(entry: Found) -> str:
    """A workflow command.  Source: GitHub Actions, "Workflow commands": percent, CR and LF are escaped, in properties , and : too."""

    def escaped(text: str, more: str = "") -> str:
        return "".join(f"%{ord(char):02X}" if char in "%\r\n" + more else char for char in text)

    position = entry.finding.position
    properties = [f"title={escaped(entry.finding.rule or 'kopsfs', ':,')}"]
    if position is not None:
        properties += [f"file={escaped(position.source, ':,')}", f"line={position.line}", f"col={position.column}"]
    return f"::{'error' if is_error(entry) else 'warning'} {','.join(properties)}::{escaped(message(entry))}\n"


def as_junit(checked: Sequence[Checked]) -> str:
    """A test case for each thing that was looked at, a failure in it for each error."""
    from xml.sax.saxutils import escape, quoteattr

    def attribute(text: str) -> str:
        return quoteattr(printable(text))

    failures = sum(any(map(is_error, each.found)) for each in checked)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="kopsfs" tests="{len(checked)}" failures="{failures}">',
    ]
    for each in checked:
        lines.append(f'  <testcase classname="kopsfs" name={attribute(each.name)}>')
        for entry in each.found:
            place = f"{entry.finding.position}: " if entry.finding.position else ""
            text = escape(printable(f"{place}{message(entry)}"))
            if is_error(entry):
                kind, field = attribute(str(entry.finding.kind)), attribute(entry.spelled or entry.finding.field)
                lines.append(f"    <failure type={kind} message={field}>{text}</failure>")
            else:
                lines.append(f"    <system-out>{text}</system-out>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>", ""])
