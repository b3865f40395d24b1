"""Which edits lost a race or are held, and what becomes of them?"""

from __future__ import annotations

import argparse
import base64
import difflib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kopsfs import control
from kopsfs.cli import arguments, program
from kopsfs.cli.progress import age, count, size
from kopsfs.errors import InputError

_EPILOG = """\
examples:
  kopsfs conflicts /mnt/state                       list them
  kopsfs conflicts /mnt/state diff 3                yours beside what is in the store
  kopsfs conflicts /mnt/state take mine 3           write yours over what the store has now
  kopsfs conflicts /mnt/state take theirs --all     drop yours

3 is the number in the list; the path of the file will do, too. A held write (an empty file over cluster
configuration) is released by `take mine` and dropped by `take theirs`.

exit status: 0 none are open, or it is done; 1 some are open; 2 usage; 66 no such mount or conflict; 69 the daemon
is gone
"""

_ACTIONS = ("list", "diff", "take")


def register(subparsers: program.Subparsers) -> None:
    """Add `conflicts`."""
    parser = program.add_command(
        subparsers,
        "conflicts",
        "List, compare and resolve edits that lost a race (the store's version was kept) or are held back.",
        _EPILOG,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[MOUNTPOINT] [list | diff ID… | take mine|theirs ID…]",
        help="which mount, and what to do; without anything: list",
    )
    parser.add_argument("--all", action="store_true", help="all of them instead of ID…")
    arguments.add_other_names(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    words = list(parsed.words)
    parsed.target = words.pop(0) if words and words[0] not in _ACTIONS else None
    action = words.pop(0) if words else "list"
    if action not in _ACTIONS:
        raise program.UsageError(f"{action!r} is none of {', '.join(_ACTIONS)}; see kopsfs conflicts --help")
    if action == "list":
        return _list(arguments.socket_of(parsed), as_json=parsed.json)
    side = ""
    if action == "take":
        side = words.pop(0) if words else ""
        if side not in {"mine", "theirs"}:
            raise program.UsageError("take whose? kopsfs conflicts take mine|theirs ID…")
    if not (words or parsed.all):
        raise program.UsageError("which one? name its number or path, or say --all")
    path = arguments.socket_of(parsed)
    chosen = _choose(path, words, everything=parsed.all)
    for item in chosen:
        if action == "diff":
            _diff(path, item, as_json=parsed.json)
        else:
            _take(path, item, side, as_json=parsed.json)
    return 0


def _open(path: Path) -> list[dict[str, Any]]:
    return list(control.request(path, "conflicts", action="list"))


def _choose(path: Path, names: Sequence[str], *, everything: bool) -> list[dict[str, Any]]:
    """Find conflicts by number or path.

    Raises:
        InputError: there is no such conflict, or a path has several.
    """
    items = _open(path)
    if everything:
        return items
    chosen = []
    for name in names:
        found = [item for item in items if str(item["id"]) == name] or [
            item for item in items if name == item["path"] or name.endswith("/" + item["path"])
        ]
        if not found:
            raise InputError(f"no conflict has the number or path {name!r}")
        if len(found) > 1:
            numbers = ", ".join(str(item["id"]) for item in found)
            raise InputError(f"{name} has {count(len(found), 'conflict')}; name one by its number: {numbers}")
        chosen.extend(found)
    return chosen


def _list(path: Path, *, as_json: bool) -> int:
    items = _open(path)
    if as_json:
        for item in items:
            print(json.dumps(item))
    elif not items:
        print("no conflicts")
    else:
        width = max(len(str(item["path"])) for item in items)
        for item in items:
            since = age(time.time() - float(item.get("since") or time.time()))
            what = f"held since {since}: {item['held']}" if item.get("held") else f"lost a race {since} ago"
            print(f"{item['id']!s:>8}  {item['path']:<{width}}  {size(item.get('bytes') or 0):>9}  {what}")
    return 1 if items else 0


def _diff(path: Path, item: dict[str, Any], *, as_json: bool) -> None:
    for answer in control.request(path, "conflicts", action="diff", id=item["id"]):
        if as_json:
            print(json.dumps(answer))
        else:
            sys.stdout.write(difference(answer))


def difference(answer: dict[str, Any]) -> str:
    """Write both sides of a conflict as a unified diff from the store's bytes to ours."""
    path = answer["path"]
    mine = base64.b64decode(answer["mine_b64"])
    theirs = base64.b64decode(answer["theirs_b64"]) if answer.get("theirs_b64") is not None else b""
    if answer.get("theirs_b64") is None:
        note = f"{path}: not in the store any more, or it cannot be read; yours is shown\n"
    elif mine == theirs:
        return f"{path}: both sides are the same {count(len(mine), 'byte')}\n"
    else:
        note = ""
    try:
        old, new = theirs.decode().splitlines(keepends=True), mine.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return f"{note}{path}: not text; {count(len(theirs), 'byte')} in the store, {count(len(mine), 'byte')} yours\n"
    lines = difflib.unified_diff(old, new, f"{path} (store)", f"{path} (yours)")
    return note + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _take(path: Path, item: dict[str, Any], side: str, *, as_json: bool) -> None:
    for answer in control.request(path, "conflicts", action=f"take-{side}", id=item["id"]):
        if as_json:
            print(json.dumps(answer))
    if not as_json:
        print(f"{item['path']}: {'yours is on its way to the store' if side == 'mine' else 'yours was dropped'}")
