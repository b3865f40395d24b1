"""Which directory holds the state store the user means, and which clusters are in it?

A tree is a directory: the mount of a store, a copy of it, or a `file://` store. Nothing here needs to know which.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kopsfs.cli.outside import read_file
from kopsfs.errors import InputError
from kopsfs.mounts import mount_of

BELOW_CLUSTER: Final = frozenset(
    {"addons", "backups", "clusteraddons", "igconfig", "instancegroup", "manifests", "pki", "secrets"}
)
"""Directories of a cluster: no cluster lies in them."""

WELL_KNOWN: Final = ".well-known"
"""Where an issuer's discovery document lies, when it is published in this store."""

VARIABLE: Final = "KOPS_STATE_STORE"


@dataclass(frozen=True, slots=True)
class Tree:
    """A state store as a directory.

    Attributes:
        root: the directory.
        url: the store's URL, "" where it is not known.
    """

    root: Path
    url: str = ""

    def store_url(self) -> str:
        """The URL of the store this is a mount of, "" for a plain directory: a copy is not where its URLs point."""
        if self.url and not self.url.startswith("file://"):
            return self.url
        root = self.root.resolve()
        mount = mount_of(root)
        if mount is None or not mount.ours:
            return ""
        below = str(root.relative_to(mount.mountpoint))
        return mount.source.rstrip("/") + ("" if below == "." else f"/{below}")

    def clusters(self) -> list[str]:
        """Every directory with a `config`, by its path below the root; names may have slashes in them."""
        return sorted(self._below("", 0))

    def _below(self, path: str, depth: int) -> Iterator[str]:
        directories = []
        has_config = False
        with os.scandir(self.root / path) as entries:
            for entry in entries:
                if entry.name == "config" and entry.is_file(follow_symlinks=False):
                    has_config = True
                elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    directories.append(entry.name)
        if has_config and path:
            yield path
        for name in directories:
            if depth < 4 and not (has_config and name in BELOW_CLUSTER):
                yield from self._below(f"{path}/{name}" if path else name, depth + 1)

    def files(self, cluster: str) -> Iterator[str]:
        """Every file of a cluster but its backups, by its path below the cluster, in order.

        A directory whose name begins with a dot (`.git/`) counts as one, with a slash at its end; on a mount it is not in the
        store and counts as none.
        """
        base = self.root / cluster
        local = bool(self.store_url())
        for directory, names, files in os.walk(base):
            here = Path(directory)
            hidden = [name for name in names if name.startswith(".") and name != WELL_KNOWN]
            names[:] = sorted(
                name
                for name in names
                if name not in hidden
                and not (here == base and name == "backups")
                and not (here / name / "config").is_file()
            )
            below = [*files, *(f"{name}/" for name in hidden if not local)]
            yield from (
                str(here.relative_to(base) / name) + ("/" if name.endswith("/") else "") for name in sorted(below)
            )

    def read(self, cluster: str, path: str) -> bytes | None:
        """A file of a cluster, None when there is none.

        Raises:
            InputError: it cannot be read.
        """
        full = self.root / cluster / path
        try:
            mode = full.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{full}: {error.strerror}") from error
        return read_file(full) if stat.S_ISREG(mode) else None

    def manifest(self, cluster: str) -> dict[str, bytes]:
        """What makes up a cluster: `config`, its instance groups and additional objects; path → content.

        Raises:
            InputError: there is no such cluster.
        """
        config = self.read(cluster, "config")
        if config is None:
            raise InputError(
                f"no cluster {cluster} in {self.root}; there are {', '.join(self.clusters()[:9]) or 'none'}"
            )
        found = {"config": config}
        folder = self.root / cluster / "instancegroup"
        for name in sorted(each.name for each in folder.iterdir()) if folder.is_dir() else ():
            content = self.read(cluster, f"instancegroup/{name}")
            if content is not None:
                found[f"instancegroup/{name}"] = content
        objects = self.read(cluster, "clusteraddons/default")
        return found | ({"clusteraddons/default": objects} if objects else {})


def find_tree(state: str | None, environ: Mapping[str, str] = os.environ) -> Tree:
    """The tree of `--state`, of KOPS_STATE_STORE, around the current directory, or of the only mount there is.

    Where the user stands comes before a mount elsewhere: a command that writes must not write there unasked.

    Raises:
        InputError: a store that is not mounted, or a directory that is not there.
    """
    wanted = state or environ.get(VARIABLE, "")
    if not wanted:
        wanted = _around(Path.cwd()) or _only_mount() or os.curdir
    url = wanted if "://" in wanted else ""
    if url and not url.startswith("file://"):
        return Tree(_mount_of(url), url)
    root = Path(wanted.removeprefix("file://"))
    if not root.is_dir():
        raise InputError(f"{root} is no directory")
    return Tree(root, url)


def _around(directory: Path) -> str:
    """The mount of kopsfs this directory lies on, or the nearest directory above that holds clusters."""
    from kopsfs.mounts import mount_of

    mount = mount_of(directory)
    if mount is not None and mount.ours:
        return str(mount.mountpoint)
    for candidate in (directory, *directory.parents):
        try:
            if any(_is_cluster(entry) for entry in candidate.iterdir() if not entry.name.startswith(".")):
                return str(candidate)
        except OSError:
            continue
    return ""


def _is_cluster(directory: Path) -> bool:
    """Has it a `config` that is a document of kops (many programs have a file of that name)?"""
    try:
        with (directory / "config").open("rb") as file:
            return b"apiVersion: kops" in file.read(4096)
    except OSError:
        return False


def _mount_of(url: str) -> Path:
    from kopsfs import control

    try:
        found = control.find(url.rstrip("/"))
    except InputError:
        raise InputError(f"{url} is not mounted; `kopsfs mount {url} DIRECTORY`, or --state DIRECTORY") from None
    answer = next(iter(control.request(found, "status")), {})
    return Path(str(answer.get("mountpoint", "")))


def _only_mount() -> str:
    from kopsfs import control

    found = control.sockets(None)
    if len(found) != 1:
        return ""
    answer = next(iter(control.request(found[0], "status")), {})
    return str(answer.get("mountpoint", ""))
