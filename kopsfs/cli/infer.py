"""What does kops make of a cluster, and what would change?  `infer`."""

from __future__ import annotations

import argparse

from kopsfs.cli import naming, outside, program
from kopsfs.spec import layout

_EPILOG = f"""\
examples:
  kopsfs infer c1.example.com                     the completed cluster
  kopsfs infer c1.example.com --state s3://clusters.example.com    of a store that need not be mounted
  kopsfs infer -f cluster.yaml --instance-groups  … and the completed groups
  kopsfs infer c1.example.com --diff              what `kops update` would change in the stored one
  kopsfs infer c1.example.com --write             store it as {layout.COMPLETED}
  kopsfs infer --all --diff --json                one line for each cluster of the state store

{naming.EPILOG_STORE}
{naming.EPILOG_WORLD}
exit status: 0; 1 findings, --diff found a difference, or somebody else wrote first; 2 usage; 66 no such input;
69 store unreachable; 77 denied
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `infer`."""
    parser = program.add_command(
        subparsers,
        "infer",
        "Print the completed cluster: every value kops infers, offline, as kops writes it.",
        _EPILOG,
    )
    naming.add_documents(parser)
    parser.add_argument("--all", action="store_true", help="every cluster of the state store")
    parser.add_argument("--instance-groups", action="store_true", help="the completed instance groups too")
    parser.add_argument("--diff", action="store_true", help="compare with the stored completed cluster")
    parser.add_argument("--write", action="store_true", help=f"store the result as {layout.COMPLETED}; asks first")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    naming.add_output(parser, ("yaml", "json"))
    outside.add_outside(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.cli import completed

    return completed.run(parsed)
