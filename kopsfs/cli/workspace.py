"""How does a command read and write the files of a state store?

Through `Workspace`: a few methods, paths below a cluster. Here it is a directory: the mount of a store, a copy of it,
or a `file://` store; `stored.py` asks a store that is not mounted, and `trees.py` says which of them is meant.

Writing is conditional: `expected` is what the file held when it was read. On a mount of kopsfs the store is asked again
when the bytes are uploaded, since the save counts as made on what this process read.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from typing_extensions import override

from kopsfs.cli.outside import read_file
from kopsfs.errors import ConflictError, InputError
from kopsfs.mounts import mount_of
from kopsfs.spec import layout

DIRECTORY_MODE: Final = 0o755

BELOW_CLUSTER: Final = frozenset(
    {"addons", "backups", "clusteraddons", "igconfig", "instancegroup", "manifests", "pki", "secrets"}
)
"""Directories of a cluster: no cluster lies in them."""

DEPTH_MAX: Final = 4
"""A cluster's name may have slashes in it, so many components at most."""

WELL_KNOWN: Final = ".well-known"
"""Where an issuer's discovery document lies, when it is published in this store."""

NO_BASES: Final = ("memfs://", "k8s://")
"""Stores that no `configBase` points to: the one ends with its process, the other holds objects of an API."""

CHANGED: Final = "it was changed by somebody else meanwhile; nothing was written"


def is_document(path: str) -> bool:
    """Is a file below a cluster one of the author's: `config`, an instance group, the additional objects?"""
    folder, _, name = path.rpartition("/")
    return path in {layout.CONFIG, layout.ADDONS} or (folder == layout.INSTANCE_GROUPS and name != "")


def no_cluster(name: str, where: str, there: Sequence[str]) -> str:
    """What to say of a cluster that is not there."""
    more = " …" if len(there) > 9 else ""
    return f"no cluster {name} in {where}; there {'are ' + ', '.join(there[:9]) + more if there else 'is none'}"


class Workspace(Protocol):
    """The files of a state store, wherever they are.

    Attributes:
        name: what a person calls it: its directory, or its URL.
    """

    name: str

    def store_url(self) -> str:
        """The URL that documents in it may point to, "" where that is not known: a copy is not where its URLs point."""
        ...

    def clusters(self) -> list[str]:
        """Every directory with a `config`, by its path below the root, sorted."""
        ...

    def ahead(self, clusters: Sequence[str], wanted: Callable[[str], bool], *, whole: bool = False) -> None:
        """What is going to be read, in this order: of each cluster the files that are `wanted`; `whole`: `files` too.

        Said before `clusters` is asked, and without any, it keeps that from listing too little. Only a store that is asked
        over a network has use for it.
        """
        ...

    def files(self, cluster: str) -> Iterator[str]:
        """Every file of a cluster but its backups, by its path below the cluster, in order.

        A directory whose name begins with a dot (`.git/`) counts as one, with a slash at its end.
        """
        ...

    def modified(self, cluster: str, path: str) -> float:
        """When a file was last changed, Unix time in seconds; 0 where that is not known."""
        ...

    def read(self, cluster: str, path: str) -> bytes | None:
        """A file of a cluster, None when there is none.

        Raises:
            InputError, StoreError: it cannot be read.
        """
        ...

    def manifest(self, cluster: str) -> dict[str, bytes]:
        """The author's documents: `config`, the instance groups, the additional objects if there are any; path → bytes.

        Raises:
            InputError: there is no such cluster.
        """
        ...

    def changed(self, cluster: str, manifest: Mapping[str, bytes]) -> str:
        """A document of the author's that is not as `manifest` has it by now; "" if all are."""
        ...

    def write(self, cluster: str, path: str, data: bytes, *, expected: bytes | None) -> None:
        """Replace a file that holds `expected`, or create one that is not there (None).

        Raises:
            ConflictError: it holds something else by now.
            InputError, StoreError: it cannot be written.
        """
        ...

    def remove(self, cluster: str, path: str, *, expected: bytes) -> None:
        """Delete a file that holds `expected`. Raises as `write`."""
        ...

    def close(self) -> None:
        """Let go of threads and connections."""
        ...

    def cost(self) -> str:
        """What a store was asked for all this, in words; "" where nobody was."""
        ...


class Directory:
    """A state store in a directory, mounted or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def store_url(self) -> str:
        root = self.root.resolve()
        mount = mount_of(root)
        if mount is None or not mount.ours or mount.source.startswith(NO_BASES):
            return ""
        below = str(root.relative_to(mount.mountpoint))
        return mount.source.rstrip("/") + ("" if below == "." else f"/{below}")

    # -- reading ----------------------------------------------------------------------------------

    def clusters(self) -> list[str]:
        return sorted(self._below("", 0))

    def _below(self, path: str, depth: int) -> Iterator[str]:
        directories = []
        has_config = False
        try:
            with os.scandir(self.root / path) as entries:
                for entry in entries:
                    if entry.name == layout.CONFIG and entry.is_file(follow_symlinks=False):
                        has_config = True
                    elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        directories.append(entry.name)
        except OSError as error:
            raise InputError(f"{self.root / path}: {error.strerror}") from error
        if has_config and path:
            yield path
        for name in directories:
            if depth < DEPTH_MAX and not (has_config and name in BELOW_CLUSTER):
                yield from self._below(f"{path}/{name}" if path else name, depth + 1)

    def ahead(self, clusters: Sequence[str], wanted: Callable[[str], bool], *, whole: bool = False) -> None:
        """Nothing to do: the kernel reads ahead."""

    def files(self, cluster: str) -> Iterator[str]:
        base = self.root / cluster
        mounted = bool(self.store_url())  # what begins with a dot is not in the store, and counts as nothing
        for directory, names, files in os.walk(base):
            here = Path(directory)
            hidden = [name for name in names if name.startswith(".") and name != WELL_KNOWN]
            names[:] = sorted(
                name
                for name in names
                if name not in hidden
                and not (here == base and name == "backups")
                and not (here / name / layout.CONFIG).is_file()
            )
            below = [*files, *(f"{name}/" for name in hidden if not mounted)]
            yield from (
                str(here.relative_to(base) / name) + ("/" if name.endswith("/") else "") for name in sorted(below)
            )

    def modified(self, cluster: str, path: str) -> float:
        try:
            return self._at(cluster, path).stat().st_mtime
        except OSError:
            return 0.0

    def read(self, cluster: str, path: str) -> bytes | None:
        full = self._at(cluster, path)
        try:
            mode = full.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{full}: {error.strerror}") from error
        return read_file(full) if stat.S_ISREG(mode) else None

    def manifest(self, cluster: str) -> dict[str, bytes]:
        config = self.read(cluster, layout.CONFIG)
        if config is None:
            raise InputError(no_cluster(cluster, self.name, self.clusters()))
        found = {layout.CONFIG: config}
        folder = self._at(cluster, layout.INSTANCE_GROUPS)
        for name in sorted(each.name for each in folder.iterdir()) if folder.is_dir() else ():
            content = self.read(cluster, f"{layout.INSTANCE_GROUPS}/{name}")
            if content is not None:
                found[f"{layout.INSTANCE_GROUPS}/{name}"] = content
        objects = self.read(cluster, layout.ADDONS)
        return found | ({layout.ADDONS: objects} if objects else {})

    def changed(self, cluster: str, manifest: Mapping[str, bytes]) -> str:
        now = self.manifest(cluster)
        return next((path for path in {**manifest, **now} if manifest.get(path) != now.get(path)), "")

    # -- writing ----------------------------------------------------------------------------------

    def write(self, cluster: str, path: str, data: bytes, *, expected: bytes | None) -> None:
        target = self._at(cluster, path)
        with self._failures(target):
            self._check(target, expected)
            target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                self._fill(handle, data, target)
                self._check(target, expected)
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self._sync(target)

    def remove(self, cluster: str, path: str, *, expected: bytes) -> None:
        target = self._at(cluster, path)
        with self._failures(target):
            self._check(target, expected)
            target.unlink()

    def close(self) -> None:
        """Nothing is held."""

    def cost(self) -> str:
        return ""

    @staticmethod
    def _fill(handle: int, data: bytes, target: Path) -> None:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())

    @staticmethod
    def _sync(target: Path) -> None:
        """On a mount this waits until the store has it."""
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _check(self, target: Path, expected: bytes | None) -> None:
        found = target.read_bytes() if target.exists() else None
        if found != expected:
            raise ConflictError("put", str(target.relative_to(self.root)), CHANGED)

    @contextlib.contextmanager
    def _failures(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{target}: {error.strerror}") from error

    def _at(self, cluster: str, path: str) -> Path:
        return self.root / cluster / path


class FileStore(Directory):
    """A `file://` store that is not mounted: its driver writes, and locks out every other kopsfs of this machine."""

    @override
    def write(self, cluster: str, path: str, data: bytes, *, expected: bytes | None) -> None:
        driver, key = self._driver(), f"{cluster}/{path}"
        driver.put(key, io.BytesIO(data), len(data), expected=self._base(driver, key, expected))

    @override
    def remove(self, cluster: str, path: str, *, expected: bytes) -> None:
        driver, key = self._driver(), f"{cluster}/{path}"
        driver.delete(key, expected=self._base(driver, key, expected))

    def _driver(self) -> Any:
        from kopsfs.store.file import FileDriver

        return FileDriver(self.root.resolve())

    @staticmethod
    def _base(driver: Any, key: str, expected: bytes | None) -> Any:
        """The version that holds the expected bytes."""
        from kopsfs.errors import NotFoundError
        from kopsfs.store import ABSENT

        if expected is None:
            return ABSENT
        into = io.BytesIO()
        try:
            version = driver.get(key, into).version
        except NotFoundError:
            raise ConflictError("put", key, CHANGED) from None
        if into.getvalue() != expected:
            raise ConflictError("put", key, CHANGED)
        return version


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
