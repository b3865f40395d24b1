"""How is a channel fetched, kept and shown?"""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from kopsfs.cli import inputs, outside
from kopsfs.errors import InputError, TransientError
from kopsfs.spec import channel
from kopsfs.spec.field import RefusedError

FETCH_BUDGET_S: Final = 10.0
FETCH_BYTES_MAX: Final = 1 << 20


def run(parsed: argparse.Namespace) -> int:
    """Do what the arguments of `channel` say; the exit status."""
    try:
        if parsed.refresh:
            refresh(parsed.name)
        base = parsed.channel_dir or (None if parsed.refresh else os.environ.get("KOPSFS_CHANNEL_BASE"))
        found = outside.Channels(Path(base) if base else None)(parsed.name)
    except RefusedError as error:
        return inputs.complain_about(error.findings)
    if found is None:
        raise InputError(f"no channel {parsed.name!r} in {base or 'the package'}; --refresh fetches it")
    if parsed.json:
        about = {"name": found.name, "date": found.date, "source": found.source}
        print(json.dumps(about | {"spec": found.spec}, indent=1, default=str))
    else:
        _show(found)
    return 0


def refresh(name: str, base_url: str = channel.BASE_URL) -> Path:
    """Fetch a channel into the cache; one request.

    Raises:
        InputError: there is no such channel.
        TransientError: it could not be had.
        RefusedError: what came is no channel; nothing is kept.
    """
    if "/" in name or name.startswith("."):
        raise InputError(f"{name!r} is no channel's name")
    url = base_url + name
    try:
        with urllib.request.urlopen(url, timeout=FETCH_BUDGET_S) as answer:  # noqa: S310 - the scheme is ours
            data = answer.read(FETCH_BYTES_MAX)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: {error.code} {error.reason}") from error
    except OSError as error:
        raise TransientError("get", name, f"{url}: {error}") from error
    channel.parse(data, name, url)
    target = outside.cache_directory() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{name}.new")
    new.write_bytes(data)
    new.replace(target)
    return target


def _show(found: channel.Channel) -> None:
    date = f" of {found.date}" if found.date else ""
    print(f"{found.name}{date}, from {found.source or 'nowhere'}")
    _rows(
        found.spec.get("kopsVersions"), "kops", ("range", "recommendedVersion", "requiredVersion", "kubernetesVersion")
    )
    _rows(found.spec.get("kubernetesVersions"), "Kubernetes", ("range", "recommendedVersion", "requiredVersion"))
    _rows(found.spec.get("images"), "images", ("providerID", "architectureID", "kubernetesVersion", "name"))


def _rows(rows: list[dict[str, Any]] | None, title: str, columns: tuple[str, ...]) -> None:
    if not rows:
        return
    print(f"\n{title}")
    lines = [columns, *(tuple(str(row.get(column) or "-") for column in columns) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
