"""How does a change become durable without stopping anybody else?

One thread owns the SQLite connection of the journal. It takes whatever has piled up, makes the
spool files it names durable, writes all statements in one transaction (group commit: one sync for
everybody who waits), and wakes the waiters. A commit in the event loop would stop every other
request while the disk works (spike §3).

The order within one batch is what promise 2 rests on: spool bytes and their directory first, then
the rows that refer to them, and only then are files removed that no row refers to any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections import deque
from typing import Final

import trio

from kopsfs.errors import JournalError, SpaceError
from kopsfs.fs.journal import Batch, Journal
from kopsfs.fs.journal_rows import connect, prepare
from kopsfs.places import sync_directory

log = logging.getLogger(__name__)

_CHECKPOINT_IDLE_S: Final = 0.5
"""The WAL is folded back when nobody commits, so that it is recycled and not grown (spike §3)."""

_RESERVE_BYTES_MAX: Final = 8 << 20


class Committer:
    """The thread that makes the journal durable.

    INVARIANT: `durable` never decreases, and every statement up to it is on disk.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.durable = 0
        """The journal's serial up to which everything is on disk."""
        self.failure: Exception | None = None
        self.commits = 0
        self._wanted = threading.Event()
        self._stopping = False
        self._taken: deque[tuple[Batch, int]] = deque()
        self._waiters: list[tuple[int, trio.Event]] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread: threading.Thread | None = None
        self._reserve = journal.directory / "reserve"

    def start(self) -> None:
        """Begin; called inside trio. Raises JournalError."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            # Here and not in the thread: what the database keeps beside it needs room, which may be gone a moment later.
            connection = connect(self.journal.path)
        except sqlite3.Error as exc:
            raise JournalError(f"{self.journal.path}: {exc}") from exc
        self._refill_reserve()
        self._thread = threading.Thread(target=self._work, args=(connection,), name="committer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Write what is there, soon. Cheap; call after any change nobody waits for."""
        if self.journal.batch.statements:
            self._taken.append(self.journal.take())
            self._signal()

    def _signal(self) -> None:
        self._wanted.set()

    async def commit(self) -> None:
        """Wait until everything the journal holds now is on disk. Raises SpaceError, JournalError.

        Cost: no request; about 0.3 ms on a disk that syncs in 0.2.
        """
        self.wake()
        serial = self.journal.serial
        if self.durable >= serial:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        event = trio.Event()
        self._waiters.append((serial, event))
        if self.failure is not None:
            self._signal()  # what was refused is still first in the queue, and nothing new may have come
        # Whoever was promised durability waits for it, also when the request is given up meanwhile.
        with trio.CancelScope(shield=True):
            await event.wait()
        if self.durable < serial:
            raise self._refusal()

    async def stop(self) -> None:
        """Write the rest, end the thread and close the database."""
        self.wake()
        self._stopping = True
        self._wanted.set()
        if self._thread is not None:
            await trio.to_thread.run_sync(self._thread.join)

    def _refusal(self) -> Exception:
        if isinstance(self.failure, SpaceError):
            return SpaceError(str(self.failure))
        return JournalError(str(self.failure))

    # --- in the thread -----------------------------------------------------------------------------------------

    def _work(self, connection: sqlite3.Connection) -> None:
        idle = False
        try:
            while True:
                signalled = self._wanted.wait(None if idle else _CHECKPOINT_IDLE_S)
                if not signalled:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    self._refill_reserve()
                    idle = True
                    continue
                self._wanted.clear()
                idle = False
                written = self._drain(connection)
                if self._stopping and (not self._taken or not written):
                    return
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()

    def _drain(self, connection: sqlite3.Connection) -> bool:
        batches: list[Batch] = []
        serial = self.durable
        while self._taken:
            batch, serial = self._taken.popleft()
            batches.append(batch)
        if not batches:
            return True
        try:
            self._write(connection, batches)
            durable = serial
            failure = None
        except Exception as exc:  # noqa: BLE001 - a thread that ends leaves everybody waiting who was promised an answer
            durable = self.durable
            failure = exc
            # Nothing may be forgotten: it stays first in the queue and is tried again with the next commit.
            for batch in reversed(batches):
                self._taken.appendleft((batch, serial))
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._release, durable, failure)
        return failure is None

    def _write(self, connection: sqlite3.Connection, batches: list[Batch]) -> None:
        self._sync_spool(batches)
        try:
            self._transact(connection, batches)
        except (OSError, sqlite3.Error) as exc:
            if not _disk_full(exc) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            log.warning("the state directory's file system is full: using the journal's reserve")
            self._transact(connection, batches)
        for batch in batches:
            for generation in batch.discards:
                if generation.path is not None:
                    # The rows are written: what is left of a file here goes at the next start.
                    with contextlib.suppress(OSError):
                        generation.path.unlink(missing_ok=True)

    def _sync_spool(self, batches: list[Batch]) -> None:
        # What these batches discard themselves leaves no row. What was discarded meanwhile does, until the next
        # batch: its file has to be there after a power cut like any other.
        gone = {id(g) for b in batches for g in b.discards}
        files = {g.path for b in batches for g in b.generations if g.path is not None and id(g) not in gone}
        for path in files:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        if files:
            sync_directory(self.journal.spool_path)

    def _transact(self, connection: sqlite3.Connection, batches: list[Batch]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for batch in batches:
                for statement, parameters in batch.statements:
                    connection.execute(statement, prepare(parameters))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1

    def _refill_reserve(self) -> None:
        """Keep some blocks that a full disk cannot take from us: ENOSPC comes at write, never at close."""
        with contextlib.suppress(OSError):
            stat = os.statvfs(self.journal.directory)
            size = min(_RESERVE_BYTES_MAX, stat.f_bavail * stat.f_frsize // 4)
            if not self._reserve.exists() or self._reserve.stat().st_size < size:
                fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(fd, 0, max(size, 1))
                finally:
                    os.close(fd)

    # --- in trio -----------------------------------------------------------------------------------------------

    def _release(self, durable: int, failure: Exception | None) -> None:
        self.durable = max(self.durable, durable)
        if failure is not None and self.failure is None:
            log.error("the journal cannot be written: %s", failure)
        if failure is not None and _disk_full(failure):
            failure = SpaceError(str(failure))
        self.failure = failure
        waiting = []
        for serial, event in self._waiters:
            if serial <= self.durable or failure is not None:
                event.set()
            else:
                waiting.append((serial, event))
        self._waiters = waiting


def _disk_full(exc: Exception) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in {28, 122}
    return isinstance(exc, sqlite3.OperationalError) and "full" in str(exc)
