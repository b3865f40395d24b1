"""How are the documents named that a command works on?  Only the arguments: `inputs.py` reads what they name."""

from __future__ import annotations

import argparse
from typing import Final

EPILOG_WORLD: Final = """\
What kops would ask a cloud comes from a facts file (kopsfs-facts(5), `kopsfs facts collect`), the
Kubernetes version and images from a channel. KOPSFS_CLOUD_FACTS, KOPSFS_CHANNEL_BASE,
KOPSFS_KOPS_VERSION and KOPS_FEATURE_FLAGS say the same.
"""


def add_documents(parser: argparse.ArgumentParser, what: str = "cluster") -> None:
    """Add what names the documents."""
    parser.add_argument(
        "subject",
        nargs="?",
        metavar="CLUSTER",
        help=f"the {what}: its name in the tree, or its directory",
    )
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE",
        help="read the documents from this file instead, `-` is stdin; may be given several times",
    )
    parser.add_argument("--state", metavar="DIR|URL", help="the tree: a directory, or the store whose mount is used")
