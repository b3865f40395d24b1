"""How does a shell complete kopsfs's arguments?"""

from __future__ import annotations

import argparse

from kopsfs.cli import program
from kopsfs.errors import ConfigError

_EPILOG = """\
examples:
  kopsfs completion bash > /etc/bash_completion.d/kopsfs
  kopsfs completion zsh > ~/.zfunc/_kopsfs
"""

SHELLS = ("bash", "zsh", "tcsh")


def register(subparsers: program.Subparsers) -> None:
    """Add `completion`."""
    parser = subparsers.add_parser(
        "completion",
        help=program.summary_of("completion"),
        description="Print a completion script for a shell.",
        epilog=_EPILOG,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    print(script(parsed.shell))
    return 0


def script(shell: str) -> str:
    """Render the completion script of a shell.

    Raises:
        ConfigError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ConfigError("completions need shtab: pip install 'kopsfs[cli]'") from None
    parser = program.build_parser(None, everything=True)
    return str(shtab.complete(parser, shell=shell))
