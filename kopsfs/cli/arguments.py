"""How do the options of config.py become arguments, and arguments a Config?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from kopsfs import config, control
from kopsfs.errors import ConfigError, InputError
from kopsfs.mounts import mount_of
from kopsfs.option import Kind, Option

GROUPS: Final[dict[str, str]] = {
    "store": "the store",
    "mount": "the mount",
    "freshness": "how old an answer may be",
    "cache": "what is kept on this machine",
    "writing": "how changes reach the store",
    "running": "how it runs",
}

_UNSHOWN_DEFAULTS: Final = (None, "", (), Path(), False)


def describe_default(option: Option, value: Any) -> str:
    """Write a value the way a person would type it."""
    if option.kind is Kind.BYTES:
        for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
            if value and value % size == 0:
                return f"{value // size}{unit}"
    if option.kind is Kind.SECONDS:
        return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"
    if option.kind is Kind.PATTERNS:
        return ",".join(value)
    return str(value)


def help_of(option: Option) -> str:
    """Give the help of an option with its choices and defaults."""
    text = option.help
    notes = []
    if option.default not in _UNSHOWN_DEFAULTS:
        notes.append(f"default {describe_default(option, option.default)}")
    if option.read_only_default is not None:
        notes.append(f"read-only mounts {describe_default(option, option.read_only_default)}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def add_options(parser: argparse.ArgumentParser, *, without: Iterable[str] = ()) -> None:
    """Add `--config`, `-o` and a flag for every row of the table but those named by key."""
    parser.add_argument("--config", metavar="FILE", help="read settings from this TOML file and from no other")
    parser.add_argument(
        "-o",
        dest="mount_options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="options as mount(8) takes them: every long option with _ for -, e.g. ro,allow_other,max_staleness=5",
    )
    for group, title in GROUPS.items():
        section = parser.add_argument_group(title)
        for option in config.OPTIONS:
            if option.group != group or option.key in without:
                continue
            names = [name for name in (option.short, option.flag) if name]
            text = help_of(option).replace("%", "%%")
            if option.kind is Kind.BOOL:
                section.add_argument(
                    *names, dest=f"option_{option.key}", action=argparse.BooleanOptionalAction, help=text
                )
            else:
                section.add_argument(
                    *names,
                    dest=f"option_{option.key}",
                    metavar="|".join(option.choices) or option.metavar,
                    action="append" if option.kind is Kind.PATTERNS else "store",
                    help=text,
                )


def flags_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Give option key → what stood on the command line, for `config.load`."""
    prefix = "option_"
    return {
        name.removeprefix(prefix): value
        for name, value in vars(parsed).items()
        if name.startswith(prefix) and value is not None
    }


def load_config(parsed: argparse.Namespace, *, require_store: bool = True, **more: Any) -> config.Config:
    """Build the Config of a command line; `more` are flags that come from positional arguments."""
    from kopsfs.cli.program import complain

    flags = flags_of(parsed) | {key: value for key, value in more.items() if value is not None}
    pairs = [pair for text in parsed.mount_options for pair in config.split_mount_options(text)]
    file = Path(parsed.config) if parsed.config else None
    loaded = config.load(flags, pairs, config_file=file, require_store=require_store)
    for warning in loaded.warnings:
        complain(warning)
    return loaded


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add what names a mount: a mount point or a path below it, a URL, or a configuration file."""
    parser.add_argument(
        "target",
        nargs="?",
        metavar="MOUNTPOINT|URL",
        help="which mount: its directory, a path below it, or its store; may be left out in it, and when it is the only one",
    )
    add_other_names(parser)


def add_other_names(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a mount."""
    parser.add_argument("--config", metavar="FILE", help="the mount that this TOML file describes")
    parser.add_argument("--state", metavar="URL", help="the mount of this store")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line, for programs")


def target_of(parsed: argparse.Namespace) -> str | None:
    """Give the mount point or URL that the arguments name; None when they name nothing.

    Raises:
        ConfigError: the file of `--config` names no mount point.
    """
    if parsed.target is not None:
        return str(parsed.target)
    if parsed.state is not None:
        return str(parsed.state).removesuffix("/")
    if parsed.config is not None:
        loaded = config.load({}, config_file=Path(parsed.config), require_store=False)
        if loaded.mountpoint == Path():
            raise ConfigError(f"{parsed.config} names no mountpoint")
        return str(loaded.mountpoint)
    return None


def socket_of(parsed: argparse.Namespace) -> Path:
    """Find the control socket of the mount that the arguments name, of the only one there is, or the one around us.

    Raises:
        InputError: there is none, or there are several.
    """
    target = target_of(parsed)
    if target is not None:
        return control.find(target)
    found = control.sockets(None)
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError("nothing is mounted; `kopsfs mount STORE DIRECTORY` does it")
    url = os.environ.get("KOPS_STATE_STORE", "")
    same = control.sockets(url) if "://" in url else []
    if len(same) == 1:
        return same[0]
    around = mount_of(Path.cwd())
    if around is not None and around.ours:
        return control.find(around.mountpoint)
    raise InputError(f"{len(found)} stores are mounted; name the mount point, `kopsfs status` lists them")
