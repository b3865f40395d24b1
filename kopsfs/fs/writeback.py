"""Who pays what the journal owes?

One service task per path with something to pay, in order per path and many paths at once. A put or
delete is sent on the condition that the store still holds the intent's base; what the store takes
is settled, what lost its race goes to the conflict area, what is refused is held and said. A write
is tried until it is settled: there is no attempt after which an edit is given up.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from kopsfs.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    HeldError,
    InvalidKeyError,
    JournalError,
    NotFoundError,
    OccupiedError,
    QuotaError,
    ReadOnlyError,
    SpaceError,
    StaleError,
    StoreError,
    StoreGoneError,
    TimedOutError,
    TooLargeError,
    TransientError,
)
from kopsfs.fs.committer import Committer
from kopsfs.fs.content import LARGE_BYTES, Content
from kopsfs.fs.inode import Inode
from kopsfs.fs.journal import Attribute, Conflict, Intent, Journal
from kopsfs.fs.refresh import Refresh
from kopsfs.fs.seen import Seen
from kopsfs.fs.tree import Tree
from kopsfs.store import Store
from kopsfs.store.driver import ABSENT, ANY, Expected, Key, ObjectInfo, Version

log = logging.getLogger(__name__)

UPLOADS_MAX: Final = 64
CLASH_PAUSE_S: Final = 0.1
RETRY_S: Final = 2.0
"""Between attempts that failed because the store is away; the breaker refuses in between at no cost."""

Outcome = Exception | None


class Writeback:
    """Settles intents.

    INVARIANT: a path with a ready intent has a task or is in `_queue`.
    """

    def __init__(
        self,
        tree: Tree,
        store: Store,
        content: Content,
        journal: Journal,
        committer: Committer,
        refresh: Refresh,
        seen: Seen,
        *,
        upload_delay_s: float,
        nursery: trio.Nursery,
    ) -> None:
        self.tree = tree
        self.store = store
        self.content = content
        self.journal = journal
        self.committer = committer
        self.refresh = refresh
        self.seen = seen
        self.read_only = ""
        """Why the credentials may not write; empty while they may."""
        self.on_conflict: Callable[[Conflict], Awaitable[None]] | None = None
        self.writers: dict[str, Inode] = {}
        """Inodes whose bytes an intent of this path carries."""
        self._upload_delay_s = upload_delay_s
        self._nursery = nursery
        self._limit = trio.Semaphore(UPLOADS_MAX)
        self._running: dict[str, trio.Event] = {}
        self._expedited: set[str] = set()
        self._waiters: dict[int, list[tuple[trio.Event, list[Outcome]]]] = {}
        self._settled = trio.Event()
        self._last_write: dict[str, float] = {}
        self.last_error = ""
        self.uploaded = 0
        journal.freed = self.poke
        journal.replaced = self._replaced

    # --- what others ask ---------------------------------------------------------------------------------------------

    def poke(self, path: str) -> None:
        """Something of this path may be ready to be paid."""
        owed = self.journal.owed(path)
        if not owed:
            return
        running = self._running.get(path)
        if running is not None:
            running.set()
            return
        self._running[path] = trio.Event()
        self._nursery.start_soon(self._pay, path)

    def replay(self) -> int:
        """After a start: owe everything the journal still holds, now."""
        for path in list(self.journal.intents):
            self.poke(path)
        return len(self.journal)

    def expedite(self, path: str, *, unfinished: bool = True) -> None:
        """Pay without waiting for more to come; `unfinished`: also what a program still has open for writing."""
        for intent in self.journal.owed(path):
            if intent.ready or unfinished:
                self.journal.expedite(intent)
        self._expedited.add(path)
        self.poke(path)

    async def settled(self, path: str) -> None:
        """Wait until what is owed of the path now is settled.

        Raises StaleError (lost its race), HeldError, ReadOnlyError, TimedOutError at once while the store is down.
        """
        owed = self.journal.owed(path)
        if not owed:
            return
        last = owed[-1]
        for intent in owed:
            self._refuse_if_stuck(intent)
        self.expedite(path)
        event: trio.Event = trio.Event()
        outcome: list[Outcome] = []
        self._waiters.setdefault(last.id, []).append((event, outcome))
        await event.wait()
        if outcome and outcome[0] is not None:
            raise outcome[0]

    def _refuse_if_stuck(self, intent: Intent) -> None:
        reason = self.journal.stuck(intent)
        if reason:
            raise ReadOnlyError(reason) if self.read_only else HeldError(reason)
        if not self.store.health.up:
            raise TimedOutError(self.store.health.last_error)

    def expedite_all(self, *, unfinished: bool = False) -> None:
        """Pay everything now; half-written files only when nobody can finish them any more."""
        for path in list(self.journal.intents):
            self.expedite(path, unfinished=unfinished)

    async def drained(self) -> None:
        """Wait until nothing is owed but what is held, or waits for what is."""
        while self.left():
            await self._settled.wait()

    def left(self) -> list[Intent]:
        """What is still owed and can be paid as things are; not what is open for writing, nor what waits for that."""
        return [intent for intent in self.journal.all() if self.journal.payable(intent)]

    async def progress(self) -> None:
        """Wait until something was settled or held."""
        await self._settled.wait()

    def release_denied(self) -> None:
        """Credentials may have changed: try again what was refused."""
        self.read_only = ""
        for intent in list(self.journal.all()):
            if intent.held.startswith("denied"):
                self.journal.hold(intent, "")
                self.poke(intent.path)
        self.committer.wake()

    def release(self, intent: Intent) -> None:
        """A person decided that what a guard holds is meant."""
        self.journal.hold(intent, "")
        self.committer.wake()
        self.expedite(intent.path)

    # --- paying ------------------------------------------------------------------------------------------------------

    async def _pay(self, path: str) -> None:
        try:
            while True:
                woken = self._running[path]
                intent = next(iter(self.journal.owed(path)), None)
                if intent is None:
                    return
                pause = self._pause(intent)
                if pause is None:
                    self._blocked(intent)
                    return
                if pause == 0:
                    async with self._limit:
                        await self._durable()
                        # The head may have been replaced while we waited for our turn.
                        current = next(iter(self.journal.owed(path)), None)
                        if current is intent and self._pause(intent) == 0:
                            pause = await self._attempt(intent)
                if pause > 0:
                    with trio.move_on_after(pause):
                        await woken.wait()
                    self._running[path] = trio.Event()
        finally:
            del self._running[path]
            self._expedited.discard(path)

    async def _durable(self) -> None:
        """Wait until the journal on disk knows what was settled and what is sent next.

        If the store took B, based on A, and a crash forgot that A was settled, the replay would find B in A's way
        and call it somebody else's. Cost: no request; 0 where all is on disk, as it mostly is.
        """
        with contextlib.suppress(SpaceError, JournalError):  # a full disk must not keep bytes from the store
            await self.committer.commit()

    def _pause(self, intent: Intent) -> float | None:
        """How long until it may start; None: not before somebody pokes."""
        if intent.held or not intent.ready:
            return None
        if intent.after is not None and self.journal.get(intent.after) is not None:
            return None
        now = time.monotonic()
        delay = intent.delay_s
        if intent.path not in self._expedited:
            delay = max(delay, self._upload_delay_s)
        pause = intent.since + delay - now
        interval = self.store.capabilities.write_interval_s
        if interval:
            pause = max(pause, self._last_write.get(intent.path, 0.0) + interval - now)
        return max(0.0, pause)

    def _blocked(self, intent: Intent) -> None:
        if intent.held:
            self._wake(intent, HeldError(intent.held))
            self._announce()

    async def _attempt(self, intent: Intent) -> float:
        """Ask the store once; how long to pause before the next attempt, in seconds, 0 where it is decided."""
        self.journal.start(intent)
        self._note_write(intent.path)
        try:
            if intent.op == "put":
                info, data = await self._put(intent)
                await self._took(intent, info, data)
            else:
                await self.store.delete(Key(intent.path), expected=_base(intent))
                await self._deleted(intent)
        except (ConflictError, NotFoundError):
            return await self._lost(intent)
        except DeniedError as exc:
            await self._denied(intent, exc)
        except InvalidKeyError as exc:
            if self._in_the_way(intent.path):
                # On file:// a file and a directory cannot share a name: what frees it is owed, too.
                self.journal.pause(intent)
                return CLASH_PAUSE_S
            log.warning("op=upload key=%s held: %s", intent.path, exc)
            self._hold(intent, str(exc), exc if isinstance(exc, OccupiedError) else None)
        except (TooLargeError, QuotaError, CorruptError) as exc:
            log.warning("op=upload key=%s held: %s", intent.path, exc)
            self._hold(intent, str(exc))
        except (TransientError, StoreGoneError) as exc:
            self.last_error = str(exc)
            self.journal.pause(intent)
            self._wake(intent, TimedOutError(str(exc)))
            return RETRY_S
        except StoreError as exc:
            self.last_error = str(exc)
            log.warning("op=upload key=%s err=%s", intent.path, exc)
            self.journal.pause(intent)
            self._wake(intent, exc)
            return RETRY_S
        return 0.0

    def _note_write(self, path: str) -> None:
        """Where a store wants time between two writes of a key: when the last one was, for as long as that matters."""
        interval = self.store.capabilities.write_interval_s
        if not interval:
            return
        now = time.monotonic()
        self._last_write.pop(path, None)
        self._last_write[path] = now
        while self._last_write[oldest := next(iter(self._last_write))] < now - interval:
            del self._last_write[oldest]

    def _in_the_way(self, path: str) -> bool:
        """Is something owed of a name above this path, or below it?"""
        parts = path.split("/")
        above = ("/".join(parts[:n]) for n in range(1, len(parts)))
        return any(self.journal.owed(a) for a in above) or any(p.startswith(f"{path}/") for p in self.journal.intents)

    async def _put(self, intent: Intent) -> tuple[ObjectInfo, bytes | None]:
        """Send the bytes; those of a file that is not large come back, to be kept for readers."""
        generation = intent.generation
        assert generation is not None
        key, size, base = Key(intent.path), generation.size, _base(intent)
        if generation.path is not None:
            await trio.to_thread.run_sync(generation.verify, intent.path)
        data = generation.data
        try:
            if data is None and size < LARGE_BYTES:
                data = await trio.to_thread.run_sync(generation.read)
            file = generation.open() if data is None else None
        except OSError as exc:
            raise CorruptError("put", key, f"the journalled bytes cannot be read: {exc}") from exc
        if file is None:
            assert data is not None
            return await self.store.put(key, data, size, expected=base), data
        with file:
            return await self.store.put(key, file, size, expected=base), None

    async def _took(self, intent: Intent, info: ObjectInfo, data: bytes | None) -> None:
        """The store has our bytes."""
        self.uploaded += 1
        if data is not None:
            self.content.keep(info, data)
        path = intent.path
        newer = len(self.journal.owed(path)) > 1
        self.journal.settle(intent, info.version)
        self.seen.made(path, info.version)
        inode = self.writers.get(path)
        if inode is not None and not newer:
            del self.writers[path]
            if self.tree.key(inode) == path:
                self.tree.settle(inode, info)
                self._remember_time(inode, info.version)
                self._drop_spool(inode)
        self.cache_changed(info)
        await self._paid(intent, None)

    def cache_changed(self, info: ObjectInfo) -> None:
        """Let the persistent tree know of a version made here."""
        self.refresh.cache.save_objects([info], ())

    def _drop_spool(self, inode: Inode) -> None:
        spool = inode.spool
        if spool is not None and not spool.changed and inode.opens == 0:
            spool.close()
            inode.spool = None

    def _remember_time(self, inode: Inode, version: Version) -> None:
        """Promise: an upload never moves the mtime an editor saw; also not after a restart."""
        if not self.tree.linked(inode):
            return
        path = self.tree.path(inode)
        attribute = self.journal.attributes.get(path) or Attribute()
        attribute.mtime_ns, attribute.version = inode.mtime_ns, version
        self.journal.set_attribute(path, attribute)

    async def _deleted(self, intent: Intent) -> None:
        key = Key(intent.path)
        newer = len(self.journal.owed(intent.path)) > 1
        self.journal.settle(intent, None)
        self.seen.made(intent.path, ABSENT)
        self.tree.bury(key)
        if not newer:
            self.content.forget(key)
            self.refresh.cache.save_objects((), [key])
        await self._paid(intent, None)

    async def _paid(self, intent: Intent, outcome: Outcome) -> None:
        self.last_error = ""
        self.committer.wake()
        self._wake(intent, outcome)
        self._announce()

    async def _lost(self, intent: Intent) -> float:
        """Somebody else wrote first. Their version gets the name, our bytes the conflict area."""
        path = intent.path
        asked = self.tree.ask()
        theirs = await self._theirs(path)
        if theirs is False:
            self.journal.pause(intent)
            return RETRY_S
        base = intent.base
        if base is ANY:
            self.journal.pause(intent)
            return 0.0
        version = theirs.version if isinstance(theirs, ObjectInfo) else None
        if intent.op == "delete" and version is None:
            await self._deleted(intent)
            return 0.0
        self._came_back(self.journal.withdraw_followers(intent))
        conflict = self.journal.lose(intent, version)
        log.warning(
            "conflict key=%s op=%s base=%s theirs=%s%s",
            path, intent.op, base, version, f" kept={conflict.id}" if conflict else "",
        )  # fmt: skip
        self._show(path, theirs if isinstance(theirs, ObjectInfo) else None, asked)
        await self._durable()
        await self._paid(intent, StaleError(path))
        if conflict is not None and self.on_conflict is not None:
            self._nursery.start_soon(self.on_conflict, conflict)
        return 0.0

    async def _theirs(self, path: str) -> ObjectInfo | bool | None:
        """What the store has under the name: info, None for nothing, False if it cannot be asked now."""
        try:
            return await self.store.head(Key(path))
        except NotFoundError:
            return None
        except StoreError as exc:
            self.last_error = str(exc)
            return False

    def withdraw(self, intent: Intent) -> None:
        """It is not owed any more; whoever waits for it is told."""
        self._came_back([intent, *self.journal.withdraw(intent)])

    def _came_back(self, withdrawn: list[Intent]) -> None:
        """Deletions that would have followed a put that is lost: the names they would have freed come back."""
        for intent in withdrawn:
            self._wake(intent, StaleError(intent.path))
            self.refresh.distrust(intent.path)

    def _replaced(self, old: Intent, new: Intent | None) -> None:
        """Whoever waits for what is not owed any more waits for what is owed instead."""
        if new is None:
            self._wake(old, None)
        elif old.id in self._waiters:
            self._waiters.setdefault(new.id, []).extend(self._waiters.pop(old.id))
            reason = self.journal.stuck(new)
            if reason:
                self._wake(new, HeldError(reason))
            else:
                self.expedite(new.path)  # also where its file is open for writing still: that is what fsync is for

    def _show(self, path: str, theirs: ObjectInfo | None, asked: int) -> None:
        """The name shows what the store has; whoever still has our version open keeps it."""
        if self.journal.owed(path):
            return  # later bytes of ours are waiting, and will lose by themselves
        inode = self.writers.pop(path, None)
        if theirs is None:
            self.tree.bury(Key(path), asked)
        if inode is not None and self.tree.linked(inode) and self.tree.key(inode) == path:
            self.refresh.tell([self.tree.expel(inode) if theirs is None else self.tree.concede(inode, theirs, asked)])
            if theirs is not None:
                self.cache_changed(theirs)
        elif theirs is not None:
            self.refresh.learn(theirs, asked)

    async def _denied(self, intent: Intent, exc: DeniedError) -> None:
        self.read_only = str(exc)
        log.warning("op=upload key=%s denied: %s", intent.path, exc)
        self._hold(intent, f"denied: {exc.detail or exc}")

    def _hold(self, intent: Intent, reason: str, told: StoreError | None = None) -> None:
        """Keep it here until somebody decides; `told`: what whoever waits is told, instead of HeldError."""
        self.last_error = reason
        self.journal.hold(intent, reason)
        self.committer.wake()
        for number in list(self._waiters):
            waiting = self.journal.get(number)
            if waiting is not None and self.journal.stuck(waiting):
                self._wake(waiting, ReadOnlyError(reason) if self.read_only else told or HeldError(reason))
        self._announce()

    def _wake(self, intent: Intent, outcome: Outcome) -> None:
        for event, result in self._waiters.pop(intent.id, []):
            result.append(outcome)
            event.set()

    def _announce(self) -> None:
        self._settled.set()
        self._settled = trio.Event()


def _base(intent: Intent) -> Expected:
    base = intent.base
    assert base is not None, "a follower is rebased before it comes first"
    assert base is not ABSENT or intent.op == "put"
    return base
