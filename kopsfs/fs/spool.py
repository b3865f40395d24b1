"""Where are the bytes that were written here and that the store does not have yet?

A `Spool` is the mutable working copy of one file: in memory up to 64 KB, then a sparse file in the
state directory. `freeze` hands out an immutable `Generation` of it, which is what the journal keeps
and what is uploaded; a write after it starts the next generation, so an upload never sees half a
save. Nothing here waits for anything but the local disk.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from kopsfs.errors import CorruptError, FileTooLargeError, SpaceError

SMALL_BYTES_MAX: Final = 64 * 1024
"""Up to here contents live in memory and inside the journal's row (spike §3: one sync per close)."""

_COPY_BYTES: Final = 1 << 20


class Generation:
    """Immutable bytes of one file, either here or in a spool file."""

    __slots__ = ("_digest", "data", "discarded", "holders", "path", "size")

    def __init__(self, data: bytes | None, path: Path | None, size: int, digest: str | None = None) -> None:
        assert (data is None) != (path is None)
        self.data = data
        self.path = path
        self.size = size
        self.holders = 0
        """How many intents, nodes and conflicts of the journal stand for these bytes."""
        self.discarded = False
        """None does any more: the file goes with the next commit."""
        self._digest = digest

    @property
    def digest(self) -> str:
        """blake2b of the bytes, hex. Reads a spool file whole the first time: not in the event loop."""
        if self._digest is None:
            if self.data is not None:
                self._digest = hashlib.blake2b(self.data, digest_size=16).hexdigest()
            else:
                assert self.path is not None
                with self.path.open("rb") as file:
                    self._digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return self._digest

    def open(self) -> BinaryIO:
        """A new file object at 0."""
        if self.data is not None:
            return io.BytesIO(self.data)
        assert self.path is not None
        return self.path.open("rb")

    def read(self) -> bytes:
        """All bytes; for small contents."""
        with self.open() as file:
            return file.read()

    def verify(self, key: str) -> None:
        """Raises CorruptError if the disk gave back other bytes than were acknowledged."""
        if self._digest is None:
            return
        fresh = Generation(self.data, self.path, self.size)
        try:
            same = fresh.digest == self._digest
        except OSError as exc:
            raise CorruptError("put", key, f"the journalled bytes cannot be read: {exc}") from exc
        if not same:
            raise CorruptError("put", key, "the journalled bytes do not match their digest")


class SpoolDirectory:
    """The directory of spool files, and whether there is room for more."""

    def __init__(self, path: Path, *, reserve_bytes: int = 8 << 20) -> None:
        self.path = path
        self._serial = 0
        self._reserve_bytes = reserve_bytes
        self._checked_at = -1.0
        self._free_bytes = 0

    def new_path(self) -> Path:
        """A name nobody has used, also not before a restart."""
        self._serial += 1
        return self.path / f"{time.time_ns():x}-{self._serial:x}"

    def demand(self, size: int) -> None:
        """Refuse at write time what could not be made durable at close. Raises SpaceError.

        Asks the file system at most every 50 ms unless space is short.
        """
        now = time.monotonic()
        if now - self._checked_at > 0.05 or self._free_bytes < 4 * self._reserve_bytes:
            stat = os.statvfs(self.path)
            self._free_bytes = stat.f_bavail * stat.f_frsize
            self._checked_at = now
        self._free_bytes -= size
        if self._free_bytes < self.reserve_bytes:
            raise SpaceError("the file system of the state directory is full")

    @property
    def reserve_bytes(self) -> int:
        """What is kept free for the journal's own rows."""
        return self._reserve_bytes


class Spool:
    """The working copy of one file.

    INVARIANT: `changed` is False exactly when the last generation holds these bytes.
    """

    __slots__ = ("_data", "_directory", "_fd", "_frozen", "_generation", "_path", "changed", "size", "size_max")

    def __init__(self, directory: SpoolDirectory, *, size_max: int) -> None:
        self._directory = directory
        self._data: bytearray | None = bytearray()
        self._fd = -1
        self._path: Path | None = None
        self._frozen = False
        self._generation: Generation | None = None
        self.size = 0
        self.size_max = size_max
        self.changed = True

    @classmethod
    def of(cls, directory: SpoolDirectory, generation: Generation, *, size_max: int, owned: bool = False) -> Spool:
        """A working copy that starts as `generation`, without copying a file before it is written.

        `owned`: a file of it was made for this, and is written itself.
        """
        spool = cls(directory, size_max=size_max)
        spool._generation = generation
        spool.size = generation.size
        spool.changed = False
        if generation.data is not None and generation.size <= SMALL_BYTES_MAX:
            spool._data = bytearray(generation.data)
            return spool
        spool._data = None
        if generation.path is not None:
            spool._path = generation.path
            spool._fd = os.open(generation.path, os.O_RDWR | os.O_CLOEXEC)
            spool._frozen = not owned
            if owned:
                spool._generation = None
        else:
            assert generation.data is not None
            spool._spill(generation.data)
        return spool

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`, fewer at the end."""
        if self._data is not None:
            return bytes(self._data[offset : offset + size])
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, data: bytes) -> int:
        """Put bytes at `offset`, zeros before it where nothing was. Raises SpaceError, FileTooLargeError."""
        end = offset + len(data)
        if end > self.size_max:
            raise FileTooLargeError(end)
        self._directory.demand(max(0, end - self.size) if self._data is None else len(data))
        if self._data is not None and end > SMALL_BYTES_MAX:
            self._spill(bytes(self._data))
        if self._data is not None:
            if offset > len(self._data):
                self._data.extend(bytes(offset - len(self._data)))
            self._data[offset:end] = data
            self.size = len(self._data)
        else:
            self._thaw()
            self.changed = True  # also where the disk takes only half of it
            try:
                self._pwrite(data, offset)
            except SpaceError:
                os.ftruncate(self._fd, self.size)
                raise
            self.size = max(self.size, end)
        self.changed = True
        return len(data)

    def truncate(self, size: int) -> None:
        """Cut, or grow with zeros. Raises FileTooLargeError, SpaceError."""
        if size > self.size_max:
            raise FileTooLargeError(size)
        if size == self.size:
            return
        if self._data is not None and size > SMALL_BYTES_MAX:
            self._spill(bytes(self._data))
        if size == 0 and self._data is None:
            self._leave_file()  # nothing is copied to be thrown away: a full disk does not refuse it
            self._data = bytearray()
        elif self._data is not None:
            if size < len(self._data):
                del self._data[size:]
            else:
                self._data.extend(bytes(size - len(self._data)))
        else:
            self._thaw()
            os.ftruncate(self._fd, size)
        self.size = size
        self.changed = True

    def freeze(self) -> Generation:
        """The bytes as they are now, for ever. The same object again while nothing changes."""
        if not self.changed and self._generation is not None and not self._generation.discarded:
            return self._generation
        if self._data is not None:
            self._generation = Generation(bytes(self._data), None, self.size)
        else:
            if self._frozen:
                self._copy_file()
            assert self._path is not None
            self._generation = Generation(None, self._path, self.size)
            self._frozen = True
        self.changed = False
        return self._generation

    def close(self) -> None:
        """Let go. A file that the journal does not know is removed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            generation = self._generation
            known = self._frozen and generation is not None and (generation.holders > 0 or generation.discarded)
            if not known and self._path is not None:
                self._path.unlink(missing_ok=True)

    def _spill(self, data: bytes) -> None:
        """Go on in a file that begins with these bytes; where the disk takes none, all is as it was."""
        self._new_file()
        try:
            self._pwrite(data, 0)
        except BaseException:
            self._leave_file()
            raise
        self._data = None

    def _leave_file(self) -> None:
        """Without the file from now on, which stays only where a generation is in it."""
        os.close(self._fd)
        if not self._frozen:
            assert self._path is not None
            self._path.unlink(missing_ok=True)
        self._fd, self._path, self._frozen = -1, None, False

    def _new_file(self) -> None:
        path = self._directory.new_path()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._path, self._frozen = path, False

    def _thaw(self) -> None:
        """Before a write: a frozen file belongs to its generation, so go on with a copy."""
        if self._frozen:
            self._copy_file()

    def _copy_file(self) -> None:
        source = self._fd
        old_path = self._path
        self._directory.demand(self.size)
        self._new_file()
        try:
            os.ftruncate(self._fd, self.size)
            for start, end in _segments(source, self.size):
                offset = start
                while offset < end:
                    data = os.pread(source, min(_COPY_BYTES, end - offset), offset)
                    if not data:
                        break
                    self._pwrite(data, offset)
                    offset += len(data)
        except BaseException:
            os.close(self._fd)
            assert self._path is not None
            self._path.unlink(missing_ok=True)
            self._fd, self._path, self._frozen = source, old_path, True
            raise
        os.close(source)

    def _pwrite(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._fd, view, offset)
                view = view[done:]
                offset += done
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise SpaceError(str(exc)) from exc
            if exc.errno in {errno.EFBIG, errno.EINVAL}:
                raise FileTooLargeError(offset) from exc
            raise


def _segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that hold data (lseek(2), SEEK_DATA)."""
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, offset, os.SEEK_HOLE)
        yield offset, min(end, size)
        offset = end
