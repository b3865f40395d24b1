"""How are the files of clusters brought before the rules of trees?

What `check` does: on a store that is not mounted, only what a rule reads is fetched.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kopsfs.cli import findings
from kopsfs.cli.judged import without_of
from kopsfs.cli.progress import track
from kopsfs.cli.trees import Trees, all_of
from kopsfs.cli.workspace import Workspace
from kopsfs.errors import InputError
from kopsfs.spec import layout
from kopsfs.spec.conversion import decode
from kopsfs.spec.document import read_one
from kopsfs.spec.field import RefusedError
from kopsfs.spec.validation.places import KINDS, Role, role_of
from kopsfs.spec.validation.tree import ClusterTree, check, node_config_hash, own_network
from kopsfs.spec.validation.values import Network

READ: Final = frozenset(KINDS) | {Role.OBJECTS, Role.SECRET, Role.SSH_KEY, Role.VERSION, Role.ADDON}
"""Files of these roles are looked into."""

NETWORK_RULE: Final = "network-overlap"
"""The one rule that needs the other clusters."""


def run(parsed: argparse.Namespace) -> int:
    """Do what the arguments of `check` say; the exit status."""
    without = without_of(parsed)
    with Trees(parsed.state, verbose=parsed.verbose) as trees:
        tree, wanted = _wanted(parsed, trees)
        if parsed.hashes == [""]:
            return _print_hashes(tree, wanted)
        hashes = dict(entry.split("=", 1) for entry in parsed.hashes if "=" in entry)
        networks = {} if NETWORK_RULE in without else _networks(tree, tree.clusters())
        url = parsed.url or tree.store_url()
        tree.ahead(wanted, looked_into, whole=True)
        checked = []
        for name in track(wanted, "check"):
            found = check(cluster_tree(tree, name, url, hashes, networks))
            kept = [entry for entry in found if entry.finding.rule not in without]
            checked.append(findings.Checked(name, kept))
    return findings.report(checked, parsed)


def _wanted(parsed: argparse.Namespace, trees: Trees) -> tuple[Workspace, list[str]]:
    """The tree, and which of its clusters.

    Raises:
        InputError: the clusters named lie in several trees.
    """
    if parsed.all:
        tree = trees.find()
        tree.ahead((), looked_into, whole=True)
        return tree, all_of(tree)
    found = [trees.locate(name) for name in parsed.clusters]
    if len({tree.name for tree, _ in found}) > 1:
        raise InputError("these clusters lie in several directories; check one directory's at a time")
    return found[0][0], [name for _, name in found]


def looked_into(path: str) -> bool:
    """Does a rule read this file?  The node's configuration only where its hash is known, which `read` finds out."""
    role, _ = role_of(path)
    return role in READ or path.endswith("/nodeupscript.sh")


def cluster_tree(
    tree: Workspace, name: str, url: str, hashes: Mapping[str, str], networks: Mapping[str, Network]
) -> ClusterTree:
    """The files of one cluster, read when they are looked at.

    Raises:
        InputError: there is no such cluster.
    """
    paths = tuple(tree.files(name))
    if layout.CONFIG not in paths:
        tree.manifest(name)  # which says what is wrong
        raise InputError(f"no cluster {name} in {tree.name}")
    return ClusterTree(
        name,
        paths,
        lambda path: tree.read(name, path) or b"",
        datetime.now(UTC),
        url,
        lambda path: tree.modified(name, path),
        hashes,
        {other: net for other, net in networks.items() if other != name},
    )


def _networks(tree: Workspace, clusters: Sequence[str]) -> dict[str, Network]:
    """The networks of all clusters of the store, as far as their configuration can be read."""
    found = {}
    tree.ahead(clusters, lambda path: path == layout.CONFIG)
    for name in clusters:
        try:
            mine = own_network(decode(read_one(tree.read(name, layout.CONFIG) or b"", name)))
        except (RefusedError, InputError):
            continue
        if mine is not None:
            found[name] = mine
    return found


def _is_node_config(path: str) -> bool:
    return path.startswith("igconfig/") and path.endswith("/nodeupconfig.yaml")


def _print_hashes(tree: Workspace, clusters: Sequence[str]) -> int:
    tree.ahead(clusters, _is_node_config, whole=True)
    for cluster in clusters:
        for path in filter(_is_node_config, tree.files(cluster)):
            parts = Path(path).parts
            print(f"{node_config_hash(tree.read(cluster, path) or b'')}  {cluster} {parts[-2]}")
    return 0
