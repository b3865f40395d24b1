"""How do the man pages stay true?

`make man` renders kopsfs(1), kopsfs.conf(5) and mount.kopsfs(8) in mdoc(7): prose from the templates
here, commands and options from the parsers and the option table. A test renders them and compares.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from kopsfs import config
from kopsfs.cli import arguments, program
from kopsfs.cli.mount_helper import IGNORED
from kopsfs.option import Kind, Option

HERE: Final = Path(__file__).resolve().parent
DATE: Final = "November 21, 2026"


def escape(text: str) -> str:
    """Make text safe for mdoc: backslashes, and dots or quotes that would start a request."""
    text = text.replace("\\", "\\e")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def words(text: str) -> str:
    """Quote the argument of a macro."""
    return '"' + escape(text).replace('"', '""') + '"'


def sentence(text: str) -> str:
    """Write a help text as sentences, one to a line."""
    text = text[:1].upper() + text[1:]
    return escape(re.sub(r"\. (?=[A-Z])", ".\n", text if text.endswith((".", "?", "…")) else text + "."))


def command_sections() -> str:
    """Describe every command with its own arguments; mount's settings stand in kopsfs.conf(5)."""
    commands = program.commands_of(program.build_parser(None, everything=True))
    settings = {option.flag for option in config.OPTIONS}
    lines = []
    for name, command in sorted(commands.items()):
        lines.append(f".Ss {name}")
        lines.append(sentence(command.description or "Print the version"))
        rows = []
        for action in program.arguments_of(command):
            if action.dest == "help" or action.help == argparse.SUPPRESS:
                continue
            names = [each for each in action.option_strings if not each.startswith("--no-")]
            if settings & set(names) and name in {"mount", "config"}:
                continue
            rows += [item(names, action), sentence(action.help or "")]
        if rows:
            lines += [".Bl -tag -width Ds", *rows, ".El"]
        if name in {"mount", "config"}:
            lines += ["Every setting of", ".Xr kopsfs.conf 5", "is a long option, too, with a dash for an underscore."]
        lines += examples(command.epilog or "")
    return "\n".join(lines)


def item(names: list[str], action: argparse.Action) -> str:
    """Write the head of one argument."""
    metavar = action.metavar if isinstance(action.metavar, str) else "|".join(map(str, action.choices or ()))
    if not names:
        return f".It Ar {words(metavar or action.dest)}"
    flags = " , ".join(f"Fl {escape(name[1:])}" for name in names)
    return f".It {flags}" + (f" Ar {words(metavar)}" if action.nargs != 0 and metavar else "")


def examples(epilog: str) -> list[str]:
    """Take the examples out of a command's epilog."""
    match = re.search(r"examples:\n((?:  .*\n)+)", epilog)
    if match is None:
        return []
    return [".Pp", "Examples:", ".Bd -literal -offset indent -compact", escape(match[1].rstrip()), ".Ed"]


def option_sections() -> str:
    """Describe every row of the option table, in its groups."""
    lines = []
    for group, title in arguments.GROUPS.items():
        lines += [f".Ss {title[0].upper()}{title[1:]}", ".Bl -tag -width Ds"]
        for option in config.OPTIONS:
            if option.group == group:
                lines += [f".It Sy {option.key} No = Ar {words(value_of(option))}", sentence(option.help)]
                lines += notes(option)
        lines.append(".El")
    return "\n".join(lines)


def value_of(option: Option) -> str:
    """Name what an option takes."""
    return "true | false" if option.kind is Kind.BOOL else " | ".join(option.choices) or option.metavar


def notes(option: Option) -> list[str]:
    """Give default and other names."""
    default = "false" if option.kind is Kind.BOOL else arguments.describe_default(option, option.default)
    lines = [f"Default: {escape(default)}."] if default not in {"", ".", "None"} else []
    if option.read_only_default is not None:
        text = arguments.describe_default(option, option.read_only_default)
        lines.append(f"Default of read-only mounts: {escape(text)}.")
    if option.also_env:
        lines += ["Also:", f".Ev {option.also_env} ."]
    return lines


def render() -> dict[str, str]:
    """Render all pages: file name → text."""
    pages = {}
    for name in ("kopsfs.1", "kopsfs.conf.5", "mount.kopsfs.8"):
        text = (HERE / f"{name}.in").read_text(encoding="utf-8")
        fills = {
            "DATE": DATE,
            "COMMANDS": command_sections(),
            "OPTIONS": option_sections(),
            "IGNORED": ", ".join(sorted(IGNORED)),
        }
        for mark, filling in fills.items():
            text = text.replace(f"@{mark}@", filling)
        pages[name] = text
    return pages


def main() -> int:
    """Write the pages beside their templates."""
    for name, text in render().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(f"packaging/man/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
