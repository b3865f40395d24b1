"""How are the documents named that a command works on?  Only the arguments: `inputs.py` reads what they name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

EPILOG_WORLD: Final = """\
What kops would ask a cloud comes from a facts file (kopsfs-facts(5), `kopsfs facts collect`), the
Kubernetes version and images from a channel. KOPSFS_CLOUD_FACTS, KOPSFS_CHANNEL_BASE,
KOPSFS_KOPS_VERSION and KOPS_FEATURE_FLAGS say the same.
"""


EPILOG_STORE: Final = """\
Which state store: --state, KOPS_STATE_STORE, the one you stand in, ~/.kops.yaml, the only mount. A mount of it is used
where there is one; else the store is asked directly, and nothing is kept of what it answers.
"""

FORMATS: Final = ("text", "json", "github", "junit")


def add_documents(parser: argparse.ArgumentParser) -> None:
    """Add what names the documents of one cluster."""
    parser.add_argument(
        "subject", nargs="?", metavar="CLUSTER", help="the cluster: its name in the state store, or its directory"
    )
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE",
        help="read the documents from this file instead, `-` is stdin; may be given several times",
    )
    add_state(parser)


def add_clusters(parser: argparse._ActionsContainer) -> None:
    """Add what names any number of clusters."""
    parser.add_argument(
        "clusters", nargs="*", metavar="CLUSTER", help="clusters of the state store, by name or directory"
    )
    parser.add_argument("--all", action="store_true", help="every cluster of the state store")
    add_state(parser)


def add_state(parser: argparse._ActionsContainer) -> None:
    """Add which state store is meant."""
    parser.add_argument("--state", metavar="DIR|URL", help="the state store: a directory, or its URL, mounted or not")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say on stderr what is read, and what a store was asked for it"
    )


def add_findings(parser: argparse._ActionsContainer) -> None:
    """Add which findings count, and how they are printed."""
    parser.add_argument("--warnings-as-errors", action="store_true", help="warnings count for the exit status")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="RULE",
        help="leave a rule out; `kopsfs validate --list-rules` names them",
    )
    add_output(parser, FORMATS)


def add_output(parser: argparse._ActionsContainer, formats: Sequence[str]) -> None:
    """Add how results are printed; the first format is the default."""
    parser.add_argument(
        "-o", "--output", choices=formats, default=formats[0], help=f"how to print; default {formats[0]}"
    )
    parser.add_argument(
        "--json", dest="output", action="store_const", const="json", help="print JSON, for programs; as -o json"
    )
