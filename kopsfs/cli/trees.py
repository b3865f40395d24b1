"""Which state store does the user mean, and where are its files?

`Trees` finds the workspace of one command line: a directory, the mount of a store, or the store itself where it is not
mounted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from kopsfs import config, control
from kopsfs.cli import program
from kopsfs.cli.progress import count
from kopsfs.cli.workspace import Directory, FileStore, Workspace
from kopsfs.errors import ConfigError, InputError
from kopsfs.mounts import mount_of
from kopsfs.spec import layout

VARIABLES: Final = ("KOPSFS_STATE", "KOPS_STATE_STORE")


class Trees:
    """What one command works on; a context that ends with its connections closed.

    `state` is what `--state` says, a directory or a URL; with `verbose` stderr hears what is read, and what was asked.
    """

    def __init__(self, state: str | None, *, verbose: bool = False, environ: Mapping[str, str] = os.environ) -> None:
        self._state = state
        self._verbose = verbose
        self._environ = environ
        self._found: Workspace | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._found is not None:
            self._found.close()
            cost = self._found.cost()
            if cost:
                self._tell(cost)

    def find(self) -> Workspace:
        """The tree of --state, of KOPS_STATE_STORE, around the current directory, of kops's files, or the only mount.

        Where the user stands comes before what is said elsewhere but on the command line and in the environment: a
        command that writes must not write there unasked.

        Raises:
            InputError: a directory that is not there.
            ConfigError: a URL or setting that cannot be used.
        """
        if self._found is None:
            self._found = self._open(self._wanted())
        return self._found

    def locate(self, subject: str | None) -> tuple[Workspace, str]:
        """The tree and the cluster's name in it, from a name or a directory; None: the only cluster there is.

        Raises:
            InputError: there is no such cluster, or more than one.
        """
        by_path = subject is None or subject.endswith("/") or subject in {".", ".."} or subject.startswith(_PATHS)
        if self._state is None and (by_path or not self._said()):
            directory = Path(subject or ".").resolve()
            try:
                if _is_cluster(directory) if subject is None else (directory / layout.CONFIG).is_file():
                    return Directory(directory.parent), directory.name
                if subject is not None and by_path and not subject.endswith("/"):
                    what = f"no cluster: it has no file {layout.CONFIG}" if directory.is_dir() else "no directory"
                    raise InputError(f"{subject} is {what}")
            except OSError as error:
                control.check_alive(directory)
                raise InputError(f"{subject or '.'}: {error.strerror}") from error
        tree = self.find()
        return tree, subject.strip("/") if subject else self._only(tree)

    @staticmethod
    def _only(tree: Workspace) -> str:
        found = all_of(tree)
        if len(found) == 1:
            return found[0]
        raise InputError(f"name the cluster: {', '.join(found[:9])}{' …' if len(found) > 9 else ''}")

    # -- which ------------------------------------------------------------------------------------

    def _said(self) -> str:
        """What the environment says."""
        return next((self._environ[name] for name in VARIABLES if self._environ.get(name)), "")

    def _wanted(self) -> str:
        if self._state == "":
            raise ConfigError(config.STATE_STORE_REQUIRED)
        return self._state or self._said() or _around(Path.cwd()) or self._written() or _only_mount() or str(Path.cwd())

    def _written(self) -> str:
        """What kopsfs's own files and kops's say."""
        return config.load({}, environ=self._environ, require_store=False).state

    def _open(self, wanted: str) -> Workspace:
        if "://" not in wanted:
            self._tell(f"reading {Path(wanted).resolve()}")
            return self._directory(Path(wanted))
        loaded = config.load({"state": wanted}, environ=self._environ)
        for warning in loaded.warnings:
            program.complain(warning)
        mountpoint = self._mount_of(loaded.state)
        if mountpoint:
            self._tell(f"{loaded.state} is mounted on {mountpoint}: reading there")
            return self._directory(Path(mountpoint))
        left = unsent(loaded.state_dir)
        if left:
            program.complain(
                f"{count(left, 'change')} of an earlier mount not in the store yet; kopsfs flush {loaded.state}"
            )
        if loaded.state.startswith("file://"):
            self._tell(f"{loaded.state} is not mounted here: reading the directory")
            return self._directory(Path(loaded.state.removeprefix("file://")), FileStore)
        from kopsfs.cli.stored import Stored

        self._tell(f"{loaded.state} is not mounted here: asking it")
        return Stored(loaded)

    @staticmethod
    def _directory(root: Path, kind: type[Directory] = Directory) -> Directory:
        control.check_alive(root)
        if not root.is_dir():
            raise InputError(f"{root} is no directory")
        return kind(root)

    def _mount_of(self, url: str) -> str:
        """Where the store is mounted, by a daemon that answers this user; "" if it is not."""
        for socket in control.sockets(url, self._environ):
            try:
                return str(next(iter(control.request(socket, "status")), {}).get("mountpoint", ""))
            except InputError as error:  # somebody else's
                self._tell(str(error))
            except control.StuckError as error:
                program.complain(f"{error}; asking the store itself")
        return ""

    # -- what is told -----------------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        if self._verbose:
            program.complain(text)


_PATHS: Final = ("/", "./", "../")


def all_of(tree: Workspace) -> list[str]:
    """Every cluster. Raises InputError where there is none: nothing found is not nothing wrong."""
    found = tree.clusters()
    if not found:
        raise InputError(
            f"no cluster in {tree.name}: no directory with a file {layout.CONFIG}; "
            "--state or KOPS_STATE_STORE names another"
        )
    return found


def unsent(state_dir: Path) -> int:
    """How many changes an earlier mount kept there that the store does not have."""
    database = state_dir / "state.db"
    if not database.is_file():
        return 0
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM intent").fetchone()[0])
    except sqlite3.Error as error:
        program.complain(f"{database} cannot be read: {error}")
        return 0


def _around(directory: Path) -> str:
    """The mount of kopsfs this directory lies on, or the nearest directory above that holds clusters."""
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
        with (directory / layout.CONFIG).open("rb") as file:
            return b"apiVersion: kops" in file.read(4096)
    except OSError:
        return False


def _only_mount() -> str:
    found = control.sockets(None)
    if len(found) != 1:
        return ""
    answer = next(iter(control.request(found[0], "status")), {})
    return str(answer.get("mountpoint", ""))
