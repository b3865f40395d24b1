"""How does mount(8) start kopsfs?

`mount -t kopsfs URL DIR -o …` and a line of fstab run `mount.kopsfs URL DIR [-sfnv] [-o …]`; `-t fuse.kopsfs`
makes mount.fuse3 run `kopsfs URL DIR [-o …]`, which comes here, too. What mount(8) and systemd pass
for themselves is dropped; what is left are kopsfs's own options. Exit statuses are mount(8)'s.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kopsfs import config
from kopsfs.errors import ConfigError, KopsfsError

IGNORED: Final = frozenset(
    [
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "group",
        "owner",
        "nofail",
        "_netdev",
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "exec",
        "noexec",
        "async",
        "sync",
        "atime",
        "noatime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "diratime",
        "nodiratime",
        "lazytime",
        "nolazytime",
        "silent",
        "loud",
        "iversion",
        "noiversion",
        "mand",
        "nomand",
    ]
)
"""mount(8)'s own options. The mount is always nosuid and nodev; times are not recorded on reads."""

_IGNORED_PATTERN: Final = re.compile(r"(x-|X-|comment=|uhelper=|helper=|subtype=|fsname=|_)")

USAGE, FAILED = 1, 32
"""mount(8): incorrect invocation; mount failure."""

_USAGE_TEXT = "usage: mount.kopsfs STORE|none DIRECTORY [-sfnv] [-o OPTIONS]; see mount.kopsfs(8)"


class UsageError(KopsfsError):
    """The helper was called in a way mount(8) does not."""


def own_options(text: str) -> list[tuple[str, str | None]]:
    """Give the options that are left for kopsfs."""
    pairs = config.split_mount_options(text)
    return [(key, value) for key, value in pairs if key not in IGNORED and not _ignored(key, value)]


def _ignored(key: str, value: str | None) -> bool:
    return _IGNORED_PATTERN.match(key if value is None else f"{key}={value}") is not None


def _known(pair: tuple[str, str | None]) -> bool:
    try:
        config.find_option(pair[0], "-o")
    except ConfigError:
        return pair[0] in {"rw", "config"}
    return True


def parse(arguments: Sequence[str]) -> tuple[str, str, list[tuple[str, str | None]], set[str]]:
    """Read the helper's command line: device, directory, options for kopsfs, and flags of `sfnv`.

    Raises:
        UsageError: mount(8) would not call it so.
    """
    words: list[str] = []
    texts: list[str] = []
    flags: set[str] = set()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in {"-o", "-t", "-N"}:
            if not rest:
                raise UsageError(f"{word} needs a value; {_USAGE_TEXT}")
            value = rest.pop(0)
            if word == "-o":
                texts.append(value)
        elif word.startswith("-o") and len(word) > 2:
            texts.append(word[2:])
        elif re.fullmatch(r"-[sfnvrw]+", word):
            flags.update(word[1:])
        elif word.startswith("-") and len(word) > 1:
            raise UsageError(f"unknown option {word}; {_USAGE_TEXT}")
        else:
            words.append(word)
    if len(words) != 2:
        raise UsageError(_USAGE_TEXT)
    pairs = own_options(",".join(texts))
    if "r" in flags:
        pairs.append(("ro", None))
    return words[0].removeprefix("kopsfs#"), words[1], pairs, flags


def main(argv: Sequence[str] | None = None) -> int:
    """Mount for mount(8)."""
    from kopsfs.cli import program

    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_USAGE_TEXT)
        return 0 if arguments else USAGE
    try:
        device, directory, pairs, flags = parse(arguments)
    except UsageError as error:
        program.complain(str(error))
        return USAGE
    status = program.run_safely(lambda: _mount(device, directory, pairs, flags))
    return FAILED if status else 0


def _mount(device: str, directory: str, pairs: list[tuple[str, str | None]], flags: set[str]) -> int:
    from kopsfs.cli import program
    from kopsfs.cli.mount import mount

    if any(key == "remount" for key, _ in pairs):
        raise ConfigError("kopsfs cannot remount; unmount, and mount with the new options")
    if "s" in flags:
        pairs = [pair for pair in pairs if _known(pair)]
    files = [value for key, value in pairs if key == "config" and value]
    told = {"mountpoint": directory}
    if device not in {"none", "kopsfs"}:
        told["state"] = device
    loaded = config.load(
        told,
        [pair for pair in pairs if pair[0] != "config"],
        config_file=Path(files[-1]) if files else None,
    )
    for warning in loaded.warnings:
        program.complain(warning)
    if "v" in flags:
        print(f"kopsfs: {loaded.state} on {loaded.mountpoint}, state in {loaded.state_dir}")
    return 0 if "f" in flags else mount(loaded)
