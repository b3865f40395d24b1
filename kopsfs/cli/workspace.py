"""How does a command read and write the files of a tree?

Through `Workspace`: a few methods, paths relative to the store's root. It is backed by a directory, the mount of a store or a
copy of it (`trees.find_tree` says which).

Writing is conditional: `expected` is what the file held when it was read. On a mount of kopsfs the store is asked again when the
bytes are uploaded, since the save counts as made on what this process read.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from kopsfs.errors import ConflictError, InputError

DIRECTORY_MODE: Final = 0o755


class Workspace(Protocol):
    """A tree of files."""

    name: str

    def read(self, path: str) -> bytes:
        """The file's bytes.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """
        ...

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted; none when it is not there."""
        ...

    def write(self, path: str, data: bytes, *, expected: bytes | None) -> None:
        """Replace a file that holds `expected`, or create one that is not there (None).

        Raises:
            ConflictError: it holds something else by now.
            InputError: it cannot be written.
        """
        ...

    def remove(self, path: str, *, expected: bytes) -> None:
        """Delete a file that holds `expected`.

        Raises:
            ConflictError: it holds something else by now.
            InputError: it cannot be deleted.
        """
        ...


class Directory:
    """A tree in a directory, mounted or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def read(self, path: str) -> bytes:
        try:
            return self._at(path).read_bytes()
        except OSError as error:
            raise InputError(f"{self._at(path)}: {error.strerror}") from error

    def list(self, path: str) -> list[str]:
        try:
            return sorted(entry.name for entry in self._at(path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(f"{self._at(path)}: {error.strerror}") from error

    def write(self, path: str, data: bytes, *, expected: bytes | None) -> None:
        target = self._at(path)
        with self._failures(target):
            self._check(path, expected)
            target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                self._fill(handle, data, target)
                self._check(path, expected)
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self._sync(target)

    def remove(self, path: str, *, expected: bytes) -> None:
        target = self._at(path)
        with self._failures(target):
            self._check(path, expected)
            target.unlink()

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

    def _check(self, path: str, expected: bytes | None) -> None:
        target = self._at(path)
        found = target.read_bytes() if target.exists() else None
        if found != expected:
            raise ConflictError("put", path, "it was changed by somebody else meanwhile; nothing was written")

    @contextlib.contextmanager
    def _failures(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{target}: {error.strerror}") from error

    def _at(self, path: str) -> Path:
        return self.root / path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
