"""Which command was asked for, and how does the program end?

The table of commands, the exit statuses (sysexits(3), design: 0 1 2 66 69 70 75 77 78), and the one
place where an exception becomes a line on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from typing_extensions import override

import kopsfs
from kopsfs import control, errors

Subparsers = Any
"""What `ArgumentParser.add_subparsers` gives; argparse keeps the class private."""

MODULES: Final[dict[str, dict[str, str]]] = {
    "kopsfs.cli.mount": {"mount": "mount a state store as a directory"},
    "kopsfs.cli.umount": {"umount": "upload what is left, then unmount"},
    "kopsfs.cli.status": {"status": "say how a mount is: fresh or stale, what is not uploaded, conflicts, cost"},
    "kopsfs.cli.flush": {"flush": "wait until the store has everything"},
    "kopsfs.cli.conflicts": {"conflicts": "list, compare and resolve edits that lost a race or are held"},
    "kopsfs.cli.forget": {"forget": "drop what is cached of a path"},
    "kopsfs.cli.validate": {"validate": "find what kops would refuse, and what it would silently drop"},
    "kopsfs.cli.check": {"check": "find what is wrong with the tree itself: stray files, keys, leftovers"},
    "kopsfs.cli.infer": {"infer": "print what kops makes of a cluster: the completed spec, offline"},
    "kopsfs.cli.explain": {"explain": "say where each value of a completed cluster comes from"},
    "kopsfs.cli.convert": {"convert": "convert documents between kops's API versions"},
    "kopsfs.cli.facts": {"facts": "ask a cloud what inference needs to know"},
    "kopsfs.cli.channel": {"channel": "show what a kops channel recommends"},
    "kopsfs.cli.k8s": {"k8s": "print what an API server needs to be a state store"},
    "kopsfs.cli.settings": {"config": "print every setting and where it came from"},
    "kopsfs.cli.completion": {"completion": "print a completion script for a shell"},
}
"""Module → its commands with one line of help each. A new module of commands is one more row."""

USAGE, INPUT, UNREACHABLE, BUG, LEFT_OVER, DENIED, CONFIGURATION = 2, 66, 69, 70, 75, 77, 78

_STATUSES: Final[dict[str, int]] = {
    "UsageError": USAGE,
    "ConfigError": CONFIGURATION,
    "InputError": INPUT,
    "NotFoundError": INPUT,
    "DeniedError": DENIED,
    "AccessError": DENIED,
    "NotPermittedError": DENIED,
    "StaleError": 1,
    "ConflictError": 1,
    "HeldError": LEFT_OVER,
    "TimedOutError": UNREACHABLE,
    "StuckError": UNREACHABLE,
    "StoreError": UNREACHABLE,
    "FsError": INPUT,
    "JournalError": BUG,
}
"""Class → exit status; the nearest class of the MRO counts."""

HELP_WIDTH: Final = 100


class UsageError(errors.KopsfsError):
    """Words that do not go together; the message says which do."""


EPILOG: Final = """\
examples:
  kopsfs mount s3://clusters.example.com /mnt/state    then work with the files as with any others
  kopsfs status /mnt/state
  kopsfs umount /mnt/state
  kopsfs validate --all --state s3://clusters.example.com    mounted or not

`kopsfs COMMAND --help` says more. Which store: --state, KOPS_STATE_STORE, ~/.kops.yaml, ~/.kops/config, as kops.

exit status: 0 done; 1 findings or conflicts; 2 usage; 66 no such input; 69 store or daemon unreachable; 70 a bug;
75 something is left over; 77 denied; 78 configuration
"""

_EPILOG_VERSION: Final = """\
examples:
  kopsfs version
  kopsfs version --json

exit status: 0; 2 usage
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that is as wide as the terminal, at most 100 columns."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size().columns - 2
        except OSError:
            columns = HELP_WIDTH
        super().__init__(prog, max_help_position=28, width=max(40, min(HELP_WIDTH, columns)))

    @override
    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.metavar is None and action.choices is not None:
            return lambda size: ("|".join(map(str, action.choices or ())),) * size
        return super()._metavar_formatter(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")

    @override
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        if isinstance(action.choices, dict):  # see commands_of
            self.error(f"there is no command {value!r}{_nearest(str(value), known)}")
        raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(known)}{_nearest(str(value), known)}")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End because of arguments that no command has."""
        known = [name for action in arguments_of(self) for name in action.option_strings if name.startswith("--")]
        self.error(f"unknown argument {unknown[0]}{_nearest(unknown[0].partition('=')[0], known)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def build_parser(command: str | None, *, everything: bool = False) -> argparse.ArgumentParser:
    """Build the parser with the arguments of one command, or of all, and one line of help for the others."""
    parser = Parser(
        prog="kopsfs",
        description="Mount a kops state store as a local directory, and work with what is in it.",
        epilog=EPILOG,
    )
    parser.add_argument("-V", "--version", action="version", version=f"kopsfs {kopsfs.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=Parser)
    for module, commands in MODULES.items():
        if everything or command in commands:
            importlib.import_module(module).register(subparsers)
        else:
            for name, summary in commands.items():
                subparsers.add_parser(name, help=summary)
    version = subparsers.add_parser(
        "version", help="print the version", description="Print the version.", epilog=_EPILOG_VERSION
    )
    version.add_argument("--json", action="store_true", help="print JSON, for programs")
    version.set_defaults(run=_print_version)
    return parser


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Give every argument of a parser."""
    return parser._actions  # noqa: SLF001 - argparse shows them nowhere else


def commands_of(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """Give the parsers of a parser's commands: only the argument that takes a command has a map for its choices."""
    return next((action.choices for action in arguments_of(parser) if isinstance(action.choices, dict)), {})


def add_command(subparsers: Subparsers, name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Add a command, for `register`; its one line of help stands in MODULES."""
    summary = next(commands[name] for commands in MODULES.values() if name in commands)
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary, description=description, epilog=epilog)
    return parser


def _print_version(parsed: argparse.Namespace) -> int:
    import json

    print(json.dumps({"kopsfs": kopsfs.__version__}) if parsed.json else f"kopsfs {kopsfs.__version__}")
    return 0


def exit_status(error: BaseException) -> int:
    """Give the exit status of an exception; `control.RefusedError` counts as the class it had in the daemon."""
    if isinstance(error, control.RefusedError):
        kind = getattr(errors, error.kind, None)
        classes = kind.__mro__ if isinstance(kind, type) else ()
    else:
        classes = type(error).__mro__
    return next((_STATUSES[each.__name__] for each in classes if each.__name__ in _STATUSES), BUG)


def complain(text: str) -> None:
    """Write one message for a person to stderr."""
    print(f"kopsfs: {text}", file=sys.stderr)


def run_safely(action: Callable[[], int]) -> int:
    """Run a command; an exception becomes a message and an exit status, never a traceback."""
    try:
        status = action()
        sys.stdout.flush()
    except errors.KopsfsError as error:
        complain(str(error))
        return exit_status(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as error:  # the last resort: nobody is shown a traceback who has not asked for one
        if os.environ.get("KOPSFS_DEBUG"):
            raise
        complain(f"a bug: {type(error).__name__}: {error}; KOPSFS_DEBUG=1 shows where")
        return BUG
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; `kopsfs URL DIR` is mount.fuse3 speaking. The exit status is the caller's to use."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not __debug__:
        complain("python -O removes the assertions that kopsfs relies on; run it without -O")
        return CONFIGURATION
    if len(arguments) > 1 and "://" in arguments[0]:
        from kopsfs.cli import mount_helper

        return mount_helper.main(arguments)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    command = next((each for each in arguments if not each.startswith("-")), None)
    parser = build_parser(command)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands_of(parser)[parsed.command].refuse(unknown)
    return run_safely(lambda: int(parsed.run(parsed)))
