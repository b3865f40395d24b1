"""How does a directory serve as a store?

A key is a path below the root, an object a regular file, and the two are the same thing seen twice:
`--state file:///DIR` of kops and of kopsfs read and write the same files. What a directory cannot say
is refused (`InvalidKeyError`), never bent: empty, `.` and `..` segments, a trailing `/`, names over
255 bytes, `a` and `a/b` at once. What an object store cannot say is not listed: empty directories,
sockets, names that are not UTF-8, our own temporary files.

A write goes to a temporary file in the same directory, is fsynced, and takes the name in one step:
`link` where the key must be absent, compare and `rename` under a lock of the root directory where a
version is expected. The lock keeps out every kopsfs on this machine; kops itself does not know it.
Symbolic links are followed to regular files inside the root only; a linked directory is not entered.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal, NoReturn

from kopsfs.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    QuotaError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
)
from kopsfs.store import file_feed
from kopsfs.store.driver import (
    ABSENT,
    ANY,
    Capabilities,
    Expected,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Version,
)
from kopsfs.store.url import Location, Settings

log = logging.getLogger(__name__)

TICK_NS: Final = 10_000_000
"""The coarsest kernel clock tick (CONFIG_HZ=100): two writes within it may carry one timestamp."""
LOCK_WAIT_S: Final = 10.0
TEMP_AGE_S: Final = 3600.0
"""A temporary file this old belongs to a process that died."""
CHUNK_BYTES: Final = 1 << 20
_TEMP: Final = re.compile(r"\.kopsfs-[0-9a-f]{16}\.tmp")


class FileDriver:
    """The contract over one directory. Methods may be called from several threads and processes."""

    def __init__(self, root: Path, *, page_size: int = 1000, feed: Literal["poll", "inotify"] = "poll") -> None:
        self.root = root
        self.capabilities = Capabilities(
            create_only="atomic",
            replace_if="compared",
            delete_if="compared",
            change_feed=feed,
            object_size_max=1 << 62,
            key_bytes_max=4095 - len(os.fsencode(root)) - 1,
            concurrency_max=16,
        )
        self._page_size = page_size
        self._writing = threading.Lock()
        self._device: int | None = None

    # -- the six ----------------------------------------------------------------------------------

    def head(self, key: Key, /) -> ObjectInfo:
        path = self._path("head", key)
        with self._translated("head", key), _opened(path, self.root) as file:
            return _info(key, _settled(file))

    def get(self, key: Key, into: BinaryIO, /) -> ObjectInfo:
        path = self._path("get", key)
        with self._translated("get", key), _opened(path, self.root) as file:
            while True:
                before = _settled(file)
                into.seek(0)
                into.truncate()
                os.lseek(file, 0, os.SEEK_SET)
                while chunk := os.read(file, CHUNK_BYTES):
                    into.write(chunk)
                if _version(os.fstat(file)) == _version(before) and into.tell() == before.st_size:
                    return _info(key, before)

    def put(self, key: Key, data: BinaryIO, size: int, /, *, expected: Expected) -> ObjectInfo:
        path = self._path("put", key)
        with self._translated("put", key, path=path):
            self._demand_root("put", key)
            self._make_parents(path)
            temp = path.with_name(f".kopsfs-{secrets.token_hex(8)}.tmp")
            file = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _fill(file, data, size, key)
                os.fsync(file)
                self._publish(temp, file, path, key, expected)
                return _info(key, os.fstat(file))
            finally:
                os.close(file)
                with contextlib.suppress(FileNotFoundError):
                    temp.unlink()

    def delete(self, key: Key, /, *, expected: Expected) -> None:
        path = self._path("delete", key)
        with self._translated("delete", key), self._locked():
            try:
                if not _is_direct(path.parent, self.root):
                    raise FileNotFoundError(errno.ENOENT, "a directory in the key is a symbolic link")
                self._demand("delete", key, path, expected)
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                self._demand_root("delete", key)
                if expected is not ANY:
                    raise ConflictError("delete", key, f"expected version {expected}, is absent") from error
                return
            _sync_directory(path.parent)
            self._prune(path.parent)

    def list_page(self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None) -> Page:
        after = bytes.fromhex(token) if token is not None else (start_after or "").encode()
        base, _, stem = prefix.rpartition("/")
        objects: list[ObjectInfo] = []
        prefixes: list[Prefix] = []
        resume = after
        with self._translated("list", Key(prefix)):
            self._demand_root("list", Key(prefix))
            if base and not _speakable(base):
                return Page([], [], None)
            top = base + "/" if base else ""
            for key, info in self._walk(top, after, delimiter=delimiter):
                if not key.startswith(top + stem):
                    continue
                if len(objects) + len(prefixes) == self._page_size:
                    return Page(objects, prefixes, resume.hex())
                if info is None:
                    prefixes.append(Prefix(key))
                    resume = key.encode() + b"\xff"
                else:
                    objects.append(info)
                    resume = key.encode()
        return Page(objects, prefixes, None)

    def describe(self) -> dict[str, object]:
        return {"kind": "file", "bucket": str(self.root)}

    def close(self) -> None:
        pass

    def watch(self, changed: Callable[[Key], None], /) -> Callable[[], None] | None:
        """Have `changed(key)` called from a thread when inotify tells of a change; None where it is blind."""
        if self.capabilities.change_feed != "inotify":
            return None
        return file_feed.Feed(self.root, changed, is_ours=lambda name: _TEMP.fullmatch(name) is not None).stop

    # -- names ------------------------------------------------------------------------------------

    def _path(self, op: str, key: Key) -> Path:
        """Give the path of a key. Raises InvalidKeyError for one that no path can say."""
        if (reason := _unspeakable(key)) is not None:
            raise InvalidKeyError(op, key, reason)
        return Path(self.root, key)

    def _make_parents(self, path: Path) -> None:
        parent = path.parent
        if not _is_direct(parent, self.root):
            raise OSError(errno.ELOOP, "a directory in the key is a symbolic link")
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)

    # -- writing ----------------------------------------------------------------------------------

    def _publish(self, temp: Path, file: int, path: Path, key: Key, expected: Expected) -> None:
        """Give a finished temporary file its name, if what is there is as expected."""
        with self._locked():
            found = self._demand("put", key, path, expected)
            # The kernel stamps in clock ticks. A finer time differs from what a write by somebody else
            # within this tick will be stamped with, and an inode number that comes back from that one.
            now = max(time.time_ns(), found.st_mtime_ns + 1 if found is not None else 0)
            os.utime(file, ns=(now, now))
            if found is not None:
                os.fchmod(file, stat.S_IMODE(found.st_mode))
                with contextlib.suppress(PermissionError):
                    os.fchown(file, found.st_uid, found.st_gid)
            elif path.is_dir() and not path.is_symlink():
                self._remove_empty(path)
            if expected is ABSENT:
                try:
                    os.link(temp, path)
                    temp.unlink()
                except FileExistsError as error:
                    raise ConflictError("put", key, "exists") from error
                except OSError as error:
                    if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
                        raise
                    temp.rename(path)  # no hard links here (FAT, some FUSE): the lock has to do
            else:
                temp.rename(path)
        _sync_directory(path.parent)

    def _demand(self, op: str, key: Key, path: Path, expected: Expected) -> os.stat_result | None:
        """Compare what is there with what is expected. Raises ConflictError; NotFoundError never."""
        try:
            with _opened(path, self.root) as file:
                found = _settled(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if expected is ANY or expected is ABSENT:
                return None
            raise ConflictError(op, key, f"expected version {expected}, is absent") from None
        if expected is ABSENT:
            raise ConflictError(op, key, f"exists at version {_version(found)}")
        if expected is not ANY and expected != _version(found):
            raise ConflictError(op, key, f"expected version {expected}, is at {_version(found)}")
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the root directory's lock against other writers of this process and this machine."""
        until = time.monotonic() + LOCK_WAIT_S
        if not self._writing.acquire(timeout=LOCK_WAIT_S):
            raise TimeoutError(errno.ETIMEDOUT, "another write holds the directory's lock")
        try:
            root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                pause = 0.001
                while not _try_lock(root):
                    if time.monotonic() > until:
                        raise TimeoutError(errno.ETIMEDOUT, "another process holds the directory's lock")
                    time.sleep(pause)
                    pause = min(pause * 2, 0.05)
                yield
            finally:
                os.close(root)
        finally:
            self._writing.release()

    def _prune(self, directory: Path) -> None:
        """Remove directories that became empty: an object store has none."""
        while directory != self.root and self.root in directory.parents:
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent

    def _remove_empty(self, directory: Path) -> None:
        """Remove a tree of empty directories that is in the way of a key; fails where there is an object."""
        for path, _, _ in os.walk(directory, topdown=False):
            Path(path).rmdir()

    # -- listing ----------------------------------------------------------------------------------

    def _walk(self, prefix: str, after: bytes, *, delimiter: bool) -> Iterator[tuple[str, ObjectInfo | None]]:
        """Yield (key, info) and, with `delimiter`, (group, None) behind `after`, in the order of UTF-8 bytes."""
        directory = Path(self.root, prefix)
        if not _is_direct(directory, self.root):
            return
        for name, is_directory in self._names(directory):
            key = prefix + name
            encoded = key.encode()
            if is_directory:
                group = encoded + b"/"
                if after > group and not after.startswith(group):
                    continue
                if not delimiter:
                    yield from self._walk(key + "/", after, delimiter=False)
                elif not after.startswith(group + b"\xff") and any(self._walk(key + "/", after, delimiter=False)):
                    yield key + "/", None
            elif encoded > after:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                    info = _look(Path(self.root, key), self.root)
                    if info is not None:
                        yield key, _info(Key(key), info)

    def _names(self, directory: Path) -> list[tuple[str, bool]]:
        """Give the names of files and directories in the order their keys have."""
        names = []
        try:
            with os.scandir(directory) as found:
                for entry in found:
                    if _TEMP.fullmatch(entry.name):
                        _remove_old(entry)
                    elif _unspeakable(entry.name) is None:
                        names.append((entry.name, entry.is_dir(follow_symlinks=False)))
        except (FileNotFoundError, NotADirectoryError):
            if directory == self.root:
                raise
        names.sort(key=lambda each: (each[0] + "/" if each[1] else each[0]).encode())
        return names

    # -- errors -----------------------------------------------------------------------------------

    def _demand_root(self, op: str, key: Key) -> None:
        """See that the root is there, and still the same file system while it looks empty.

        A mount point whose file system went away looks like an empty directory; a store does not
        become empty that way (promise 5).
        """
        try:
            found = self.root.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreGoneError(op, key, f"no directory {self.root}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise StoreGoneError(op, key, f"{self.root} is not a directory")
        if self._device is not None and found.st_dev != self._device and not any(self.root.iterdir()):
            raise StoreGoneError(op, key, f"{self.root} is empty and on another file system than before: not mounted?")
        self._device = found.st_dev

    @contextlib.contextmanager
    def _translated(self, op: str, key: Key, *, path: Path | None = None) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if error.errno == errno.ENOENT or (error.errno == errno.ENOTDIR and op != "put"):
                self._demand_root(op, key)
            _refuse(op, key, error, self._in_the_way(path))

    def _in_the_way(self, path: Path | None) -> str:
        """Name the object that keeps a key from being a path."""
        if path is None:
            return ""
        if path.is_dir():
            return f"{path.relative_to(self.root)}/ holds objects, and a directory cannot be a file as well"
        for parent in path.relative_to(self.root).parents:
            if Path(self.root, parent).is_file():
                return f"{parent} is an object, and a file cannot be a directory as well"
        return ""


def _refuse(op: str, key: Key, error: OSError, in_the_way: str) -> NoReturn:
    detail = error.strerror or str(error)
    match error.errno:
        case errno.ENOENT | errno.ESTALE if op != "put":
            raise NotFoundError(op, key, detail) from error
        case errno.EISDIR | errno.ENOTDIR if op != "put":
            raise NotFoundError(op, key, detail) from error
        case errno.EISDIR | errno.ENOTDIR | errno.ENOTEMPTY | errno.EEXIST:
            raise InvalidKeyError(op, key, in_the_way or detail) from error
        case errno.ENAMETOOLONG | errno.EILSEQ | errno.EINVAL | errno.ELOOP:
            raise InvalidKeyError(op, key, detail) from error
        case errno.EACCES | errno.EPERM | errno.EROFS:
            raise DeniedError(op, key, detail) from error
        case errno.ENOSPC | errno.EDQUOT:
            raise QuotaError(op, key, detail) from error
        case errno.EFBIG:
            raise TooLargeError(op, key, detail) from error
        case _:
            raise TransientError(op, key, detail) from error


def _unspeakable(key: str) -> str | None:
    """Say why no path can be this key; None when one can."""
    if not key:
        return "a key has at least one character"
    if "\0" in key:
        return "a file name holds no NUL"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "is not Unicode text"
    for name in key.split("/"):
        if name in {"", ".", ".."}:
            return f"no file name is {name!r}" if name else "no file name is empty"
        if len(name.encode()) > 255:
            return "a file name has at most 255 bytes"
        if _TEMP.fullmatch(name):
            return "kopsfs's own temporary files have such names"
    return None


def _speakable(key: str) -> bool:
    return _unspeakable(key) is None


def _is_direct(directory: Path, root: Path) -> bool:
    """Whether the way from the root to a directory has no symbolic link (what is not there has none)."""
    real = Path(os.path.realpath(root)) / directory.relative_to(root)
    return os.path.realpath(directory) == str(real)


def _target(link: Path, root: Path) -> Path | None:
    """Give what a symbolic link means if that is there and lies inside the root."""
    try:
        target = Path(os.path.realpath(link, strict=True))
    except OSError:
        return None
    return target if target.is_relative_to(os.path.realpath(root)) else None


@contextlib.contextmanager
def _opened(path: Path, root: Path) -> Iterator[int]:
    """Open a regular file inside the root for reading."""
    if not _is_direct(path.parent, root):
        raise FileNotFoundError(errno.ENOENT, "a directory in the key is a symbolic link")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        target = _target(path, root)
        if target is None:
            raise FileNotFoundError(errno.ENOENT, "a symbolic link leads out of the store") from error
        file = os.open(target, flags | os.O_NOFOLLOW)
    try:
        mode = os.fstat(file).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if not stat.S_ISREG(mode):
            raise FileNotFoundError(errno.ENOENT, "is not a regular file")
        yield file
    finally:
        os.close(file)


def _look(path: Path, root: Path) -> os.stat_result | None:
    """Stat one name of a listing; None for what is no object."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        target = _target(path, root)
        if target is None:
            return None
        found = target.stat()
    if not stat.S_ISREG(found.st_mode):
        return None
    if _is_young(found):
        _await_tick()
        return _look(path, root)
    return found


def _settled(file: int) -> os.stat_result:
    """Stat an open file once its timestamp is older than a clock tick, so that any later write shows."""
    while _is_young(found := os.fstat(file)):
        _await_tick()
    return found


def _is_young(found: os.stat_result) -> bool:
    return 0 <= time.time_ns() - found.st_ctime_ns < TICK_NS


def _await_tick() -> None:
    time.sleep(TICK_NS / 1e9)


def _version(found: os.stat_result) -> Version:
    """Name one state of a file: times, size and inode, so that no two states share it.

    ctime catches what keeps mtime (`cp -p` over a file); a replaced file has another inode, and when
    that number comes back, a later mtime, which `_publish` sees to.
    """
    return Version(f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_size:x}-{found.st_ino:x}")


def _info(key: Key, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, _version(found), found.st_size, found.st_mtime_ns)


def _fill(file: int, data: BinaryIO, size: int, key: Key) -> None:
    left = size
    while left > 0:
        chunk = data.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise CorruptError("put", key, f"{size - left} bytes to store instead of {size}")
        left -= len(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(file, view) :]


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _try_lock(directory: int) -> bool:
    """Take the lock if it is free. A file system without locks (NFS: EBADF on a directory) has only ours."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise
    return True


def _remove_old(entry: os.DirEntry[str]) -> None:
    """Remove a temporary file whose writer died long ago."""
    with contextlib.suppress(OSError):
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > TEMP_AGE_S:
            Path(entry.path).unlink()
            log.info("removed a temporary file of a write that never ended path=%r", entry.path)


def open_driver(location: Location, settings: Settings) -> FileDriver:
    """Open a directory. Raises ConfigError when it is not there."""
    root = Path(location.bucket).absolute()
    if not root.is_dir():
        reason = "is not a directory" if root.exists() else "does not exist"
        raise ConfigError(f"{root} {reason}; a state store is a directory, or a URL such as s3://BUCKET")
    return FileDriver(root, page_size=settings.page_size, feed="inotify" if file_feed.sees(root) else "poll")
