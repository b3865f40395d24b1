"""Does everything in a cluster's tree belong there and fit together?  `check`."""

from __future__ import annotations

import argparse

from kopsfs.cli import naming, program

_EPILOG = f"""\
examples:
  kopsfs check c1.example.com           stray files, keys, leftovers, what does not fit together
  kopsfs check --all -o github
  kopsfs check c1.example.com --hash    the hash each group's nodes have to be told
  kopsfs check c1.example.com --hash nodes=2fbx…=    would nodes with this in their user data start?

`kopsfs validate` looks at what the documents say; this looks at the files.

{naming.EPILOG_STORE}
exit status: 0 clean; 1 findings; 2 usage; 66 no such cluster; 69 store unreachable; 77 denied
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `check`."""
    parser = program.add_command(
        subparsers,
        "check",
        "Find what is wrong with the tree of a cluster: what does not belong there or does not fit together.",
        _EPILOG,
    )
    naming.add_clusters(parser)
    parser.add_argument("--url", metavar="URL", help="where the tree comes from, when --state is a directory")
    parser.add_argument(
        "--hash",
        dest="hashes",
        nargs="?",
        const="",
        action="append",
        default=[],
        metavar="GROUP=HASH",
        help="compare nodeupconfig.yaml with NodeupConfigHash of the user data; print it when nothing is given",
    )
    naming.add_findings(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    if not (parsed.clusters or parsed.all):
        raise program.UsageError("name a cluster (. is the one here), or --all; see kopsfs check --help")
    from kopsfs.cli import checked

    return checked.run(parsed)
