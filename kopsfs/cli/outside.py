"""What is known of the world outside the documents, as told on the command line?

Facts files, channels, the version of kops to be and its feature flags: `--facts`, `--channel-dir`, and the variables
KOPSFS_CLOUD_FACTS, KOPSFS_CHANNEL_BASE, KOPSFS_KOPS_VERSION and KOPS_FEATURE_FLAGS. No document decides what is
read: a channel is a name, and only a file of that name in the folder that was given, or fetched before.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kopsfs.errors import InputError
from kopsfs.spec.facts import Facts, from_data

CHANNEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def add_outside(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a cloud and a channel would answer."""
    section = parser.add_argument_group("what is known of the world")
    section.add_argument("--facts", metavar="FILE", help="what the clouds would answer, a map by cloud")
    section.add_argument("--channel-dir", metavar="DIR", help="where the kops channels lie that are not shipped")


def load_facts(parsed: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Facts:
    """Build the facts of a command line.

    Raises:
        InputError: the facts file cannot be read.
        RefusedError: it is not a facts file.
    """
    from kopsfs.spec.document import read_one

    name = parsed.facts or environ.get("KOPSFS_CLOUD_FACTS", "")
    clouds: Mapping[str, Mapping[str, Any]] = {}
    if name:
        clouds = from_data(read_one(read_file(Path(name)), name).data, name)
    folder = parsed.channel_dir or environ.get("KOPSFS_CHANNEL_BASE", "")
    flags = {flag.strip() for flag in environ.get("KOPS_FEATURE_FLAGS", "").split(",")}
    return Facts(
        clouds,
        Channels(Path(folder) if folder else None),
        environ.get("KOPSFS_KOPS_VERSION", ""),
        frozenset(flag.removeprefix("+") for flag in flags if flag and not flag.startswith("-")),
        name,
    )


def cache_directory() -> Path:
    """Where `kopsfs channel show --refresh` keeps what it fetched."""
    from platformdirs import user_cache_path

    return user_cache_path("kopsfs") / "channels"


class Channels:
    """Finds a channel by its name: in the folder that was given, else as it was fetched last, else as it is shipped."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._read: dict[str, Any] = {}

    def __call__(self, name: str) -> Any:
        from kopsfs.spec import channel

        if name == channel.NONE:
            return channel.Channel(name)
        short = name.removeprefix(channel.BASE_URL)
        if short not in self._read:
            self._read[short] = self._found(short) if CHANNEL_NAME.fullmatch(short) else None
        return self._read[short]

    def _found(self, name: str) -> Any:
        from kopsfs.spec import channel

        for folder in (self._folder, None if self._folder else cache_directory()):
            path = folder / name if folder else None
            if path is not None and path.is_file():
                return channel.parse(read_file(path), name, str(path))
        return channel.shipped(name)


def read_file(path: Path, limit_bytes: int = 0) -> bytes:
    """The content of a file the user named; one byte more than the limit at most, so that it shows.

    Raises:
        InputError: it cannot be read.
    """
    from kopsfs.spec.composer import BYTES_MAX

    try:
        with path.open("rb") as file:
            return file.read((limit_bytes or BYTES_MAX) + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
