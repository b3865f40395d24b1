"""How is the journal written in SQLite?

`state.db`: WAL, synchronous=FULL, one connection in the committer's thread (committer.py).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from kopsfs.fs.spool import Generation
from kopsfs.store.driver import ABSENT, ANY, Expectation, Expected, Version

SCHEMA_VERSION: Final = 1

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
-- What we owe. `data` holds small bytes, `spool` the name of a file with large ones, neither is set for a delete.
-- `base`: 'absent', 'any', 'follow' (whatever the intent before it leaves), or 'v' + a version.
-- `after`: this intent waits until that one is settled. `due`: Unix time before which it is not started.
-- `held`: why it is not uploaded, empty if nothing holds it.
CREATE TABLE IF NOT EXISTS intent (
    id INTEGER PRIMARY KEY, op TEXT NOT NULL, path TEXT NOT NULL, base TEXT NOT NULL,
    data BLOB, spool TEXT, size INTEGER NOT NULL, digest TEXT NOT NULL,
    after INTEGER, due REAL NOT NULL, held TEXT NOT NULL, created REAL NOT NULL);
-- What lives only here. `kind`: 'file', 'dir', 'link'.
CREATE TABLE IF NOT EXISTS node (
    path TEXT PRIMARY KEY, kind TEXT NOT NULL, target TEXT, data BLOB, spool TEXT,
    size INTEGER NOT NULL, digest TEXT NOT NULL);
-- What a name has here beyond its bytes; `version` says for which state of the object `mtime_ns` holds.
CREATE TABLE IF NOT EXISTS attribute (
    path TEXT PRIMARY KEY, mode INTEGER, uid INTEGER, gid INTEGER, atime_ns INTEGER, mtime_ns INTEGER,
    version TEXT, xattrs TEXT);
-- Writes that lost their race. `theirs`: the version that won, empty if it was a deletion.
CREATE TABLE IF NOT EXISTS conflict (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, base TEXT NOT NULL, theirs TEXT NOT NULL,
    data BLOB, spool TEXT, size INTEGER NOT NULL, digest TEXT NOT NULL, created REAL NOT NULL);
"""


def encode_base(base: Expected | None) -> str:
    """A base as text; see the column's comment."""
    if base is None:
        return "follow"
    return base.value if isinstance(base, Expectation) else "v" + base


def decode_base(text: str) -> Expected | None:
    """And back."""
    if text == "follow":
        return None
    if text == ABSENT.value:
        return ABSENT
    return ANY if text == ANY.value else Version(text[1:])


def columns(generation: Generation | None) -> tuple[Any, ...]:
    """data, spool, size, digest. The digest of a file is filled in by `write_batch`, off the event loop."""
    if generation is None:
        return None, None, 0, ""
    if generation.path is not None:
        return None, generation.path.name, generation.size, generation
    return generation.data, None, generation.size, generation.digest


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread, which need not be this one."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def prepare(parameters: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace a generation that stands for its digest by that digest; reads the spool file."""
    return tuple(p.digest if isinstance(p, Generation) else p for p in parameters)
