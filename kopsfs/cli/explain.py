"""Where does a value of a completed cluster come from?  `explain`."""

from __future__ import annotations

import argparse

from kopsfs.cli import naming, outside, program

_EPILOG = f"""\
examples:
  kopsfs explain c1.example.com spec.kubeAPIServer.etcdServers
  kopsfs explain c1.example.com spec.networking     everything below it
  kopsfs explain c1.example.com --inferred          every value the author did not write
  kopsfs explain c1.example.com --group nodes spec.kubelet.taints

A path is v1alpha2's, or kops's internal one as its messages have it.

{naming.EPILOG_STORE}
{naming.EPILOG_WORLD}
exit status: 0; 1 findings; 2 usage; 66 no such input or field; 69 store unreachable; 77 denied
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `explain`."""
    parser = program.add_command(
        subparsers,
        "explain",
        "Say who wrote a value of the completed cluster: the author, and on which line, or a rule,\n"
        "from which values, and the file and function of kops that does the same.",
        _EPILOG,
    )
    naming.add_documents(parser)
    parser.add_argument("path", nargs="?", metavar="PATH", help="a field: everything at it and below it")
    parser.add_argument("--group", metavar="NAME", help="of this instance group, not of the cluster")
    parser.add_argument("--inferred", action="store_true", help="only what the author did not write")
    naming.add_output(parser, ("text", "json"))
    outside.add_outside(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.cli import origins

    return origins.run(parsed)
