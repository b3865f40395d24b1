"""How is a mount?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kopsfs import control
from kopsfs.cli import arguments, program
from kopsfs.cli.progress import age, count, size
from kopsfs.errors import InputError
from kopsfs.mounts import is_dead, mounts

_EPILOG = """\
examples:
  kopsfs status                    every mount of this user
  kopsfs status /mnt/state
  kopsfs status --json /mnt/state | jq .pending

exit status: 0 well; 1 conflicts or held writes are open; 2 usage; 66 no such mount; 69 the store is down or the daemon
is gone; 70 the daemon met a bug
"""

_FEEDS: Final = {
    "poll": "found by listing the store again",
    "inotify": "told by inotify, and found by listing",
    "watch": "told by the store, and found by listing",
    "in process": "told at once",
}
"""What stands behind `change_feed` of the store's capabilities."""

_ROWS_MAX = 10
_LABEL = 13


def register(subparsers: program.Subparsers) -> None:
    """Add `status`."""
    parser = program.add_command(
        subparsers,
        "status",
        "Say how a mount is: fresh or stale, what is not uploaded yet, conflicts, requests and their cost.",
        _EPILOG,
    )
    arguments.add_target(parser)
    parser.add_argument("-a", "--all", action="store_true", help="print whole lists, not their first ten entries")
    arguments.add_json(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    worst = 0
    found = False
    for path in _sockets(parsed):
        for status in control.request(path, "status"):
            if parsed.json:
                print(json.dumps(status))
            else:
                if found:
                    print()
                print("\n".join(describe(status, now=time.time(), rows_max=sys.maxsize if parsed.all else _ROWS_MAX)))
            found = True
            worst = max(worst, health_status(status), key=_SEVERITY.index)
    return worst


def _sockets(parsed: argparse.Namespace) -> list[Path]:
    """Find the mount that was named, or all of them.

    Raises:
        InputError, StuckError: nothing is mounted there; it is, and its daemon is gone.
    """
    target = arguments.target_of(parsed)
    if target is None:
        found = control.sockets(None)
        dead = [mount.mountpoint for mount in mounts() if mount.ours and is_dead(mount.mountpoint)]
        for mountpoint in dead:
            program.complain(control.gone(mountpoint))
        if not found and dead:
            raise control.StuckError("no daemon answers")
        if not found:
            raise InputError("nothing is mounted; `kopsfs mount STORE DIRECTORY` does it")
        return found
    return [control.find(target)]


_SEVERITY = (0, program.UNREACHABLE, 1, program.BUG)


def health_status(status: dict[str, Any]) -> int:
    """Give the exit status that a mount's state asks for; what a person must decide outweighs a store that is down."""
    if status.get("health") == "unhealthy":
        return program.BUG
    if status.get("conflicts") or status.get("held"):
        return 1
    return program.UNREACHABLE if status.get("health") == "down" else 0


def describe(status: dict[str, Any], *, now: float, rows_max: int) -> Iterator[str]:
    """Write a status for a person, line by line."""
    mode = "read-only" if status.get("mode") == "ro" else "read-write"
    yield f"{status['store']} on {status['mountpoint']}"
    why = f" ({status['read_only_reason']})" if status.get("read_only_reason") else ""
    yield _row("mount", f"{mode}{why}, pid {status.get('pid')}, kopsfs {status.get('version')}")
    where = _where(status.get("describe") or {})
    if where:
        yield _row("at", where)
    yield _row("store", _freshness(status, now))
    if status.get("last_error") and status.get("health") != "ok":
        yield _row("", f"last error: {status['last_error']}")
    yield from _pending(status, now, rows_max)
    if status.get("conflicts"):
        hint = f"kopsfs conflicts {status['mountpoint']}"
        yield _row("conflicts", f"{count(status['conflicts'], 'edit')} lost a race; {hint}")
    for key, label, noun, what in (
        ("local_only", "local only", "file", "not in the store, nor going there"),
        ("unreachable_keys", "unreachable", "object", "no file system can name; kept as they are"),
    ):
        yield from _names(status.get(key) or [], label, noun, what, rows_max)
    yield from _amounts(status)


def _row(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"


def _where(about: dict[str, Any]) -> str:
    """Endpoint, region, and whose credentials: what is looked at first when a store refuses."""
    parts = [str(about.get("endpoint") or "")]
    parts += [
        f"{label} {about[key]}"
        for key, label in (("region", "region"), ("credentials", "credentials"))
        if about.get(key)
    ]
    return ", ".join(part for part in parts if part)


def _freshness(status: dict[str, Any], now: float) -> str:
    health = status.get("health")
    since = status.get("stale_since")
    lasting = f" for {age(now - since)}" if since else ""
    if health == "unhealthy":
        return "the daemon met a bug: look at its log, and mount again"
    if health == "down":
        return f"DOWN{lasting}; the last known state is shown, saves are kept and sent later"
    if health == "stale":
        return f"stale{lasting}; the last known state is shown"
    fresh = status.get("fresh_as_of")
    return f"ok, as of {age(now - fresh)} ago" if fresh else "ok"


def _pending(status: dict[str, Any], now: float, rows_max: int) -> Iterator[str]:
    pending = status.get("pending") or []
    total = int(status.get("pending_total") or len(pending))
    if not pending:
        if status.get("mode") != "ro":
            yield _row("to upload", "nothing; the store has everything")
        return
    oldest = min((item["since"] for item in pending if item.get("since")), default=None)
    yield _row("to upload", count(total, "change") + (f", the oldest {age(now - oldest)} old" if oldest else ""))
    shown = pending[:rows_max]
    width = max(len(item["path"]) for item in shown)
    for item in shown:
        reason = f": {item['reason']}" if item.get("reason") else ""
        yield _row("", f"  {item['op']:<7}{item['path']:<{width}}  {item['state']}{reason}")
    if total > len(shown):
        yield _row("", f"  and {total - len(shown):,} more")
    if status.get("held"):
        hint = f"kopsfs conflicts {status['mountpoint']}"
        yield _row("held", f"{count(status['held'], 'write')} waiting for a decision; {hint}")


def _names(names: list[str], label: str, noun: str, what: str, rows_max: int) -> Iterator[str]:
    if names:
        yield _row(label, f"{count(len(names), noun)} {what}")
        for name in names[:rows_max]:
            yield _row("", f"  {name}")
        if len(names) > rows_max:
            yield _row("", f"  and {len(names) - rows_max:,} more")


def _amounts(status: dict[str, Any]) -> Iterator[str]:
    cache = status.get("cache") or {}
    tree = [
        count(status[key], noun) for key, noun in (("files", "file"), ("directories", "directory")) if key in status
    ]
    if tree:
        yield _row("tree", " in ".join(tree))
    if cache:
        yield _row("cache", f"{count(cache.get('objects', 0), 'object')}, {size(cache.get('bytes', 0))} on disk")
    if status.get("memory_bytes"):
        yield _row("memory", size(status["memory_bytes"]))
    ahead = status.get("prefetch") or {}
    if ahead.get("objects"):
        yield _row(
            "prefetch", f"{count(ahead['objects'], 'object')}, {size(ahead['bytes'])} before they were asked for"
        )
    elif ahead.get("mode") == "none":
        yield _row("prefetch", "off")
    requests = {verb: number for verb, number in (status.get("requests") or {}).items() if number}
    parts = ", ".join(f"{verb} {number:,}" for verb, number in sorted(requests.items(), key=lambda each: -each[1]))
    cost = f"; about ${status['cost_usd']:.4f}" if status.get("cost_usd") else ""
    yield _row("requests", (f"{sum(requests.values()):,} since the mount ({parts})" if requests else "none yet") + cost)
    capabilities = status.get("capabilities") or {}
    words = [
        f"{label} {capabilities[key]}"
        for key, label in (("create_only", "create"), ("replace_if", "replace"), ("delete_if", "delete"))
        if key in capabilities
    ]
    if words:
        yield _row("conditions", ", ".join(words))
    if capabilities.get("change_feed"):
        yield _row("changes", _FEEDS.get(capabilities["change_feed"], capabilities["change_feed"]))
    prices = capabilities.get("price_per_1000") or {}
    if prices:
        yield _row("prices", ", ".join(f"{verb} ${price:g}" for verb, price in prices.items()) + " per 1,000")
