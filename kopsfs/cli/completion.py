"""How does a shell complete kopsfs's arguments?"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from kopsfs.cli import program
from kopsfs.errors import ConfigError

_EPILOG = """\
examples:
  kopsfs completion bash > /etc/bash_completion.d/kopsfs
  kopsfs completion zsh > ~/.zfunc/_kopsfs
  kopsfs completion fish > ~/.config/fish/completions/kopsfs.fish

exit status: 0; 2 usage; 78 shtab is not installed
"""

SHELLS = ("bash", "zsh", "fish", "tcsh")


def register(subparsers: program.Subparsers) -> None:
    """Add `completion`."""
    parser = program.add_command(subparsers, "completion", "Print a completion script for a shell.", _EPILOG)
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="which shell")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    print(script(parsed.shell))
    return 0


def script(shell: str) -> str:
    """Render the completion script of a shell.

    Raises:
        ConfigError: shtab is not installed, or too old for this shell.
    """
    try:
        import shtab
    except ImportError:
        raise ConfigError("completions need shtab: pip install 'kopsfs[cli]'") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(f"this release of shtab does not know {shell}: pip install --upgrade shtab")
    parser = program.build_parser(None, everything=True)
    for action in _actions(parser):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        words = set(re.findall("[A-Z]+", metavar))
        if re.fullmatch(r"[a-z]+(\|[a-z]+)+", metavar):
            action.choices = metavar.split("|")  # a setting's are checked with its other sources, in config.py
        elif words & {"FILE", "PATH", "CLUSTER", "MOUNTPOINT"}:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own mark
        elif "DIR" in words:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own mark
    return str(shtab.complete(parser, shell=shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of every command."""
    yield from program.arguments_of(parser)
    for command in program.commands_of(parser).values():
        yield from _actions(command)
