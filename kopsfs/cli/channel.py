"""What does a kops channel recommend?  `channel show`."""

from __future__ import annotations

import argparse

from kopsfs.cli import program

_EPILOG = """\
examples:
  kopsfs channel show                      stable: as fetched last, else as shipped
  kopsfs channel show alpha --refresh      fetch it from kops's repository, keep it
  kopsfs channel show stable --channel-dir /etc/kops/channels

infer, explain and validate use the same: --channel-dir, else what was fetched, else what is
shipped. Nothing is fetched unasked.

exit status: 0; 1 it is no channel; 2 usage; 66 no such channel; 69 it cannot be fetched
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `channel`."""
    parser = program.add_command(
        subparsers, "channel", "Show the Kubernetes versions and images that a kops channel recommends.", _EPILOG
    )
    parser.add_argument("action", choices=("show",), metavar="show", help="print it")
    parser.add_argument(
        "name", nargs="?", default="stable", metavar="NAME", help="stable (default), alpha, or another name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--refresh", action="store_true", help="fetch it and keep it for later")
    where.add_argument("--channel-dir", metavar="DIR", help="read it from this directory")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.cli import channels

    return channels.run(parsed)
