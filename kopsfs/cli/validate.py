"""What would kops refuse, and what would it silently ignore?  `validate`."""

from __future__ import annotations

import argparse

from kopsfs.cli import naming, outside, program

_EPILOG = f"""\
examples:
  kopsfs validate c1.example.com              a cluster of the state store, as kops would see it
  kopsfs validate c1.example.com --state s3://clusters.example.com    mounted or not
  kopsfs validate -f cluster.yaml             a file; - is stdin
  kopsfs validate -f new.yaml --as new-manifest     what kops create -f would say
  kopsfs validate --all -o github             every cluster, as annotations of a pull request
  kopsfs validate --stdin --stdin-name config < config      from an editor or a hook
  kopsfs validate -f new.yaml --against store    may what is stored become this?
  kopsfs validate --list-rules

{naming.EPILOG_STORE}
exit status: 0 clean; 1 findings; 2 usage; 66 no such input; 69 store unreachable; 77 denied
"""

KINDS = ("manifest", "new-manifest", "completed-manifest", "cluster-only")


def register(subparsers: program.Subparsers) -> None:
    """Add `validate`."""
    parser = program.add_command(
        subparsers,
        "validate",
        "Find everything kops would refuse, and what it would silently drop, without a network.",
        _EPILOG,
    )
    _add_input(parser)
    _add_rules(parser)
    outside.add_outside(parser)
    parser.set_defaults(run=_run)


def _add_input(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("what to look at")
    naming.add_clusters(section)
    section.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE|DIR|-",
        help="documents, or a cluster's directory",
    )
    section.add_argument("--stdin", action="store_true", help="one document from stdin")
    section.add_argument("--stdin-name", default="", metavar="PATH", help="the path in the store it is for")
    section.add_argument("--against", metavar="FILE|store", help="the old version: may it become this?")


def _add_rules(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("how to judge and what to print")
    section.add_argument(
        "--as", dest="kind", choices=KINDS, default=KINDS[0], help="what the documents are: stored, new, complete"
    )
    section.add_argument(
        "--strict",
        choices=("true", "false"),
        default="false",
        help="completed documents have all that completion fills in",
    )
    section.add_argument(
        "--kops-order", action="store_true", help="stop where kops stops: only its first stage that fails"
    )
    section.add_argument(
        "--cloud-checks", action="store_true", help="also whether machine types and images exist and suit"
    )
    section.add_argument("--strict-fields", action="store_true", help="unknown fields are errors")
    section.add_argument("--list-rules", action="store_true", help="print all rules and where kops has them")
    naming.add_findings(section)


def _run(parsed: argparse.Namespace) -> int:
    if not (parsed.list_rules or parsed.clusters or parsed.all or parsed.filename or parsed.stdin):
        raise program.UsageError("name a cluster (. is the one here), or --all, or -f FILE; see kopsfs validate --help")
    from kopsfs.cli import judged

    return judged.run(parsed)
