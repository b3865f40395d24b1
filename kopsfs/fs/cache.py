"""What survives a restart, though nobody would miss it?

`cache.db` (SQLite, synchronous=NORMAL) and the files beside it hold the tree as the store last
showed it and the contents that were read. All of it may be deleted at any time; anything that does
not match its digest is dropped and asked for again. One thread writes, 64-500 rows a transaction;
reads are small and happen where they are needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kopsfs.store.driver import Key, ObjectInfo, Version

log = logging.getLogger(__name__)

_SCHEMA_VERSION: Final = 2
_ROW_BYTES_MAX: Final = 64 * 1024
"""Larger contents are files (spike §6)."""
_ROWS_A_TRANSACTION: Final = 500
_GATHER_S: Final = 0.05

_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS object (
    key TEXT PRIMARY KEY, version TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, md5 TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scope (prefix TEXT PRIMARY KEY, flat INTEGER NOT NULL, pages INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS content (
    key TEXT PRIMARY KEY, version TEXT NOT NULL, size INTEGER NOT NULL, digest TEXT NOT NULL,
    used REAL NOT NULL, data BLOB, file TEXT);
PRAGMA user_version = {_SCHEMA_VERSION};
"""


@dataclass(slots=True)
class Entry:
    """One cached content, without its bytes."""

    version: Version
    size: int
    file: str | None


class Cache:
    """The disposable half of what is on local disk.

    INVARIANT: `bytes` is the sum of the sizes in `index`.
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self.directory = directory
        self.path = directory / "cache.db"
        self.content_path = directory / "content"
        self.size_bytes = size_bytes
        self.index: dict[Key, Entry] = {}
        """Least recently used first."""
        self.bytes = 0
        self._queue: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | Path | threading.Event | None] = (
            queue.SimpleQueue()
        )
        self._objects: list[ObjectInfo] = []
        """As read by `open`, which is where a damaged database is noticed, until somebody takes them."""
        self._scopes: list[tuple[str, bool, int]] = []
        self._reader: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Read the index; a damaged or foreign database is removed and begun anew."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.content_path.mkdir(mode=0o700, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError as exc:
            log.info("the cache %s cannot be used (%s): begun anew", self.path, exc)
            self.index.clear()
            self.bytes = 0
            if self._reader is not None:
                self._reader.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._open()
        self._thread = threading.Thread(target=self._work, name="cache", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.path.chmod(0o600)
        self._reader.execute("PRAGMA journal_mode = WAL")
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, _SCHEMA_VERSION}:
            raise sqlite3.DatabaseError("made by another version of kopsfs")
        self._reader.executescript(_SCHEMA)
        for key, entry_version, size, file in self._reader.execute(
            "SELECT key, version, size, file FROM content ORDER BY used"
        ):
            self.index[Key(key)] = Entry(Version(entry_version), size, file)
            self.bytes += size
        self._objects = [
            ObjectInfo(Key(key), Version(version), size, mtime_ns, md5)
            for key, version, size, mtime_ns, md5 in self._reader.execute(
                "SELECT key, version, size, mtime_ns, md5 FROM object ORDER BY key"
            )
        ]
        self._scopes = [(p, bool(f), n) for p, f, n in self._reader.execute("SELECT prefix, flat, pages FROM scope")]

    def close(self) -> None:
        """Write what is queued and let go."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def settle(self) -> None:
        """Wait until what was queued is written; for tests and for a hand-over."""
        event = threading.Event()
        self._queue.put(event)
        event.wait()

    # --- contents ------------------------------------------------------------------------------------------------

    def has(self, key: Key, version: Version) -> bool:
        """Is this version there, as far as the index knows?"""
        entry = self.index.get(key)
        return entry is not None and entry.version == version

    def get(self, key: Key, version: Version) -> bytes | None:
        """The bytes if they are there and whole. Up to a few MB: about 0.05 ms for a small one."""
        entry = self.index.get(key)
        if entry is None or entry.version != version or self._reader is None:
            return None
        data: bytes | None = None
        digest = ""
        with contextlib.suppress(sqlite3.Error, OSError):
            row = self._reader.execute(
                "SELECT version, digest, data, file FROM content WHERE key = ?", (key,)
            ).fetchone()
            if row is not None and row[0] == version:
                digest = row[1]
                data = row[2] if row[3] is None else (self.content_path / row[3]).read_bytes()
        if data is None:
            return None  # not written yet, or gone: the index is ahead of the disk for a moment
        if _digest(data) != digest:
            log.info("the cached content of %s is damaged: dropped", key)
            self.drop(key)
            return None
        self.index[key] = self.index.pop(key)
        self._queue.put(("UPDATE content SET used = ? WHERE key = ?", (time.time(), key)))
        return data

    def keep(self, key: Key, version: Version, data: bytes) -> None:
        """Remember these bytes, evicting the least recently used beyond the budget."""
        if len(data) > self.size_bytes // 4:
            return
        self.drop(key)
        file = None
        row: bytes | None = data
        if len(data) > _ROW_BYTES_MAX:
            file = hashlib.blake2b(f"{key}\0{version}".encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
            row = None
        self.index[key] = Entry(version, len(data), file)
        self.bytes += len(data)
        statement = "INSERT OR REPLACE INTO content VALUES (?,?,?,?,?,?,?)"
        extra = () if file is None else (data,)
        self._queue.put((statement, (key, version, len(data), _digest(data), time.time(), row, file, *extra)))
        while self.bytes > self.size_bytes:
            self.drop(next(iter(self.index)))

    def drop(self, key: Key) -> None:
        """Forget one content."""
        entry = self.index.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.size
        self._queue.put(("DELETE FROM content WHERE key = ?", (key,)))
        if entry.file is not None:
            self._queue.put(self.content_path / entry.file)

    # --- the tree ------------------------------------------------------------------------------------------------

    def load_objects(self) -> list[ObjectInfo]:
        """The tree as it was saved when this was opened, in key order; once."""
        objects, self._objects = self._objects, []
        return objects

    def load_scopes(self) -> list[tuple[str, bool, int]]:
        """(prefix, flat, pages) of what had been listed whole; 0 pages: a directory nobody has looked into."""
        return self._scopes

    def save_objects(self, changed: Iterable[ObjectInfo], gone: Iterable[Key]) -> None:
        """Take changes of the tree over."""
        for info in changed:
            row = (info.key, info.version, info.size, info.mtime_ns, info.md5)
            self._queue.put(("INSERT OR REPLACE INTO object VALUES (?,?,?,?,?)", row))
        for key in gone:
            self._queue.put(("DELETE FROM object WHERE key = ?", (key,)))

    def save_scope(self, prefix: str, *, flat: bool, pages: int) -> None:
        """A scope was listed whole."""
        self._queue.put(("INSERT OR REPLACE INTO scope VALUES (?,?,?)", (prefix, int(flat), pages)))

    def save_directory(self, prefix: str) -> None:
        """A directory is there, though nothing in it has been listed."""
        self._queue.put(("INSERT OR IGNORE INTO scope VALUES (?,0,0)", (prefix,)))

    def drop_directory(self, prefix: str) -> None:
        """It is gone."""
        self._queue.put(("DELETE FROM scope WHERE prefix = ?", (prefix,)))

    # --- in the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        stopping = False
        try:
            while not stopping:
                first = self._queue.get()
                if not isinstance(first, threading.Event) and first is not None:
                    time.sleep(_GATHER_S)
                stopping = self._transact(connection, first)
        finally:
            connection.close()

    def _transact(self, connection: sqlite3.Connection, item: Any) -> bool:
        """Write up to 500 rows; True when it is time to stop."""
        events: list[threading.Event] = []
        stopping = False
        rows = 0
        try:
            connection.execute("BEGIN")
            while True:
                rows += 1
                if item is None:
                    stopping = True
                elif isinstance(item, threading.Event):
                    events.append(item)
                elif isinstance(item, Path):
                    item.unlink(missing_ok=True)
                else:
                    self._execute(connection, *item)
                if stopping or rows >= _ROWS_A_TRANSACTION:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as exc:
            log.info("the cache cannot be written: %s", exc)
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        for event in events:
            event.set()
        return stopping

    def _execute(self, connection: sqlite3.Connection, statement: str, row: tuple[Any, ...]) -> None:
        if len(row) == 8:  # a content with a file: the bytes come last
            *row_, data = row
            target = self.content_path / str(row_[6])
            temporary = target.with_suffix(".new")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            temporary.replace(target)
            row = tuple(row_)
        connection.execute(statement, row)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
