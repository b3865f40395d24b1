"""Does everything in a cluster's tree belong there and fit together?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from kopsfs.cli import program
from kopsfs.cli.inputs import locate
from kopsfs.cli.trees import Tree, find_tree
from kopsfs.errors import InputError
from kopsfs.spec.validation.tree import ClusterTree
from kopsfs.spec.validation.values import Network

_EPILOG = """\
examples:
  kopsfs check c1.example.com           stray files, keys, leftovers, what does not fit together
  kopsfs check --all -o github
  kopsfs check c1.example.com --hash    the hash each group's nodes have to be told
  kopsfs check c1.example.com --hash nodes=2fbx…=    would nodes with this in their user data start?

`kopsfs validate` looks at what the documents say; this looks at the files.
exit status: 0 clean; 1 findings; 2 usage; 66 no such cluster
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `check`."""
    parser = subparsers.add_parser(
        "check",
        help=program.summary_of("check"),
        description="Find what is wrong with the tree of a cluster: what does not belong there or does not fit together.",
        epilog=_EPILOG,
    )
    parser.add_argument("clusters", nargs="*", metavar="CLUSTER", help="clusters of the state store")
    parser.add_argument("--all", action="store_true", help="every cluster of the state store")
    parser.add_argument("--state", metavar="DIR|URL", help="the tree of a state store, or the URL of a mounted one")
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
    parser.add_argument("--without", action="append", default=[], metavar="RULE", help="leave a rule out")
    parser.add_argument("--warnings-as-errors", action="store_true", help="warnings count for the exit status")
    parser.add_argument("-o", "--output", choices=("text", "json", "github", "junit"), default="text")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.cli import findings
    from kopsfs.cli.validate import progress, without_of
    from kopsfs.spec.validation.tree import check

    if not (parsed.clusters or parsed.all):
        program.complain("check: name a cluster, or --all; see kopsfs check --help")
        return program.USAGE
    without = without_of(parsed)
    if without is None:
        return program.USAGE
    tree, wanted = _wanted(parsed)
    if parsed.hashes == [""]:
        return _print_hashes(tree, wanted)
    hashes = dict(entry.split("=", 1) for entry in parsed.hashes if "=" in entry)
    networks = _networks(tree, tree.clusters())
    url = parsed.url or tree.store_url()
    checked = []
    for name in progress(wanted, "check"):
        found = check(cluster_tree(tree, name, url, hashes, networks))
        kept = [entry for entry in found if entry.finding.rule not in without]
        checked.append(findings.Checked(name, kept))
    sys.stdout.write(findings.render(checked, parsed.output))
    entries = [entry for each in checked for entry in each.found]
    if entries and parsed.output == "text":
        program.complain(findings.summary(checked))
    return int(any(parsed.warnings_as_errors or findings.is_error(entry) for entry in entries))


def _wanted(parsed: argparse.Namespace) -> tuple[Tree, list[str]]:
    """The tree, and which of its clusters."""
    if parsed.all:
        tree = find_tree(parsed.state)
        return tree, tree.clusters()
    found = [locate(name, parsed.state) for name in parsed.clusters]
    return found[0][0], [name for _, name in found]


def cluster_tree(
    tree: Tree, name: str, url: str, hashes: Mapping[str, str], networks: Mapping[str, Network]
) -> ClusterTree:
    """The files of one cluster, read when they are looked at.

    Raises:
        InputError: there is no such cluster.
    """
    paths = tuple(tree.files(name))
    if "config" not in paths:
        raise InputError(f"no cluster {name} in {tree.root}")
    base = tree.root / name

    def modified(path: str) -> float:
        try:
            return (base / path).stat().st_mtime
        except OSError:
            return 0.0

    others = {other: net for other, net in networks.items() if other != name}
    return ClusterTree(
        name, paths, lambda path: tree.read(name, path) or b"", datetime.now(UTC), url, modified, hashes, others
    )


def _networks(tree: Tree, clusters: Iterable[str]) -> dict[str, Network]:
    """The networks of all clusters of the store, as far as their configuration can be read."""
    from kopsfs.spec.conversion import decode
    from kopsfs.spec.document import read_one
    from kopsfs.spec.field import RefusedError
    from kopsfs.spec.validation.tree import own_network

    found = {}
    for name in clusters:
        try:
            mine = own_network(decode(read_one(tree.read(name, "config") or b"", name)))
        except (RefusedError, InputError):
            continue
        if mine is not None:
            found[name] = mine
    return found


def _print_hashes(tree: Tree, clusters: Iterable[str]) -> int:
    from kopsfs.spec.validation.tree import node_config_hash

    for cluster in clusters:
        for path in tree.files(cluster):
            parts = Path(path).parts
            if parts[0] == "igconfig" and parts[-1] == "nodeupconfig.yaml":
                print(f"{node_config_hash(tree.read(cluster, path) or b'')}  {cluster} {parts[-2]}")
    return 0
