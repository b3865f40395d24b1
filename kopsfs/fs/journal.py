"""What do we owe the store, and what lives only here?

`Journal` is both halves of that: in memory, so that a request is answered without the disk, and in
`state.db` (SQLite, WAL, synchronous=FULL), so that it survives `kill -9` and power loss. It is
synchronous: a method is a transaction on the memory and appends the same change to a list of
statements. The committer (committer.py) takes that list, fsyncs the spool files it names, and
writes it in one SQLite transaction from its own thread; who must promise something waits for it.

Terms: an *intent* is one put or delete we owe, of one path; the intents of a path are paid in
order. Its *base* is what the store is expected to hold before. A *node* is a file, link or directory that
lives only on this machine. An *attribute* is what a stored name has here beyond its bytes. A
*conflict* is the bytes of a write that lost its race.

INVARIANT: an intent, node or conflict in memory is a row of the database once `ops` is empty.
INVARIANT: at most the first intent of a path is uploading.
INVARIANT: no intent waits for itself, by way of `after` and the order of a path.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kopsfs.errors import JournalError
from kopsfs.fs.inode import Kind
from kopsfs.fs.journal_rows import SCHEMA, SCHEMA_VERSION, columns, connect, decode_base, encode_base
from kopsfs.fs.spool import Generation
from kopsfs.store.driver import ABSENT, ANY, Expected, Version


@dataclass(slots=True, eq=False)
class Intent:
    """One put or delete we owe the store."""

    id: int
    op: str
    """`put` or `delete`."""
    path: str
    base: Expected | None
    """What the store must hold; None: whatever the intent before it on this path leaves."""
    generation: Generation | None
    after: int | None = None
    due: float = 0.0
    """Unix time before which it is not started; what counts is how long after `created` that is."""
    held: str = ""
    """Why a guard or a refusal keeps it here; empty if nothing does."""
    created: float = 0.0
    ready: bool = True
    """False while a writable handle is open: a later flush would replace it. Not stored: a crash closes all."""
    uploading: bool = False
    since: float = 0.0
    """Monotonic time since which it is owed here: the wall clock may be set back. Not stored."""

    @property
    def delay_s(self) -> float:
        """How long it waits for by itself."""
        return max(0.0, self.due - self.created) if self.due else 0.0


@dataclass(slots=True, eq=False)
class Node:
    """A file, symlink or directory that lives only here."""

    path: str
    kind: Kind
    target: str | None
    generation: Generation | None


@dataclass(slots=True)
class Attribute:
    """What a name has here beyond its bytes; None: nobody has said."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    version: Version | None = None
    xattrs: dict[str, bytes] | None = None

    @property
    def empty(self) -> bool:
        """Is there nothing worth a row?"""
        return self == Attribute()


@dataclass(slots=True, eq=False)
class Conflict:
    """A write that lost its race: the bytes and what they were based on."""

    id: int
    path: str
    base: Expected
    theirs: Version | None
    """The version that won; None: the object was deleted."""
    generation: Generation
    created: float


@dataclass(slots=True)
class Batch:
    """Statements in order, and the spool files whose bytes must be on disk before them."""

    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    discards: list[Generation] = field(default_factory=list)


class Journal:
    """The debts of one state store URL and user; see the module's text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "state.db"
        self.spool_path = directory / "spool"
        self.intents: dict[str, list[Intent]] = {}
        self.nodes: dict[str, Node] = {}
        self.attributes: dict[str, Attribute] = {}
        self.conflicts: dict[int, Conflict] = {}
        self.batch = Batch()
        self.serial = 0
        """Grows with every change; the committer says up to which serial all is durable."""
        self.freed: Callable[[str], None] = lambda _path: None
        """Told the path of an intent that waited for another one, when it need not any more."""
        self.replaced: Callable[[Intent, Intent | None], None] = lambda _old, _new: None
        """Told when newer bytes or a deletion took an intent's place; None where nothing is owed instead."""
        self._by_id: dict[int, Intent] = {}
        self._followers: dict[int, list[Intent]] = {}
        """By the id of the intent they wait for (`after`)."""
        self._next_id = 1
        self._next_conflict = 1
        self._loaded: dict[str, Generation] = {}
        """While `load` runs: bytes by the name of their spool file."""

    # --- opening -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read state.db, making it if there is none; remove spool files nothing refers to. Raises JournalError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.spool_path.mkdir(mode=0o700, exist_ok=True)  # SQLite syncs its name when it makes the WAL beside it
        try:
            connection = connect(self.path)
            try:
                self._load(connection)
            finally:
                connection.close()
        except sqlite3.DatabaseError as exc:
            raise JournalError(f"{self.path}: {exc}; move it away to start without what it holds") from exc
        self._loaded.clear()
        self._remove_orphans()

    def _load(self, connection: sqlite3.Connection) -> None:
        connection.executescript(SCHEMA)
        row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if row is None:
            connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            connection.commit()
        elif row[0] != str(SCHEMA_VERSION):
            raise JournalError(f"{self.path} was written by another version of kopsfs (schema {row[0]})")
        for row in connection.execute("SELECT * FROM intent ORDER BY id"):
            number, op, path, base, data, spool, size, digest, after, due, held, created = row
            generation = None if op == "delete" else self._generation(data, spool, size, digest)
            intent = Intent(
                number, op, path, decode_base(base), generation, after, due, held, created, since=time.monotonic()
            )
            self._index(intent)
            self._next_id = max(self._next_id, number + 1, (after or 0) + 1)
        for path, kind, target, data, spool, size, digest in connection.execute("SELECT * FROM node"):
            generation = self._generation(data, spool, size, digest) if kind == "file" else None
            text = target.decode("utf-8", "surrogateescape") if isinstance(target, bytes) else target
            self.nodes[path] = Node(path, kind, text, generation)
        for path, mode, uid, gid, atime, mtime, version, xattrs in connection.execute("SELECT * FROM attribute"):
            decoded = {k: bytes.fromhex(v) for k, v in json.loads(xattrs).items()} if xattrs else None
            self.attributes[path] = Attribute(mode, uid, gid, atime, mtime, version, decoded)
        for number, path, base, theirs, data, spool, size, digest, created in connection.execute(
            "SELECT * FROM conflict ORDER BY id"
        ):
            generation = self._generation(data, spool, size, digest)
            self.conflicts[number] = Conflict(
                number, path, decode_base(base) or ANY, Version(theirs) if theirs else None, generation, created
            )
            self._next_conflict = number + 1

    def _generation(self, data: bytes | None, spool: str | None, size: int, digest: str) -> Generation:
        path = None if spool is None else self.spool_path / spool
        if path is not None and not path.exists():
            raise JournalError(f"{self.path} refers to {path}, which is gone")
        # Rows that name one file stand for the same bytes, as they did before the restart.
        generation = self._loaded.get(spool) if spool is not None else None
        if generation is None:
            generation = Generation(data, path, size, digest or None)
        if spool is not None:
            self._loaded[spool] = generation
        generation.holders += 1
        return generation

    def _remove_orphans(self) -> None:
        """Spool files of handles that were never closed: nobody was promised anything about them."""
        known = {g.path.name for g in self._generations() if g.path is not None}
        for file in self.spool_path.iterdir():
            if file.name not in known:
                file.unlink()

    def _generations(self) -> Iterator[Generation]:
        for intent in self._by_id.values():
            if intent.generation is not None:
                yield intent.generation
        for node in self.nodes.values():
            if node.generation is not None:
                yield node.generation
        for conflict in self.conflicts.values():
            yield conflict.generation

    # --- intents -------------------------------------------------------------------------------------------------

    def owed(self, path: str) -> list[Intent]:
        """What we owe of this path, oldest first; often empty."""
        return self.intents.get(path, [])

    def get(self, number: int) -> Intent | None:
        """The intent of this id if it is not settled."""
        return self._by_id.get(number)

    def all(self) -> Iterator[Intent]:
        """Every intent, oldest first."""
        yield from self._by_id.values()

    def __len__(self) -> int:
        return len(self._by_id)

    def put(
        self, path: str, generation: Generation, base: Expected, *, ready: bool = True, due: float = 0.0, held: str = ""
    ) -> Intent:
        """Owe these bytes. What was owed of the path and not started yet is replaced, its base inherited."""
        after = None
        last = self._last_waiting(path)
        follow: Expected | None = base
        if last is not None:
            follow, after = last.base, last.after
        elif self.owed(path):
            follow = None
        intent = self._add("put", path, follow, generation, after=after, due=due, held=held, ready=ready)
        if last is not None:
            self._inherit(last, intent)
            self._drop(last)
            self.replaced(last, intent)
        return intent

    def _inherit(self, old: Intent, new: Intent) -> None:
        """Who waited for the replaced intent waits for its successor."""
        for follower in self._followers.pop(old.id, ()):
            self._wait(follower, new)

    def _wait(self, intent: Intent, for_: Intent | None) -> None:
        """It waits for that one from now on; for none where that one waits for it, by whatever way."""
        if intent.after is not None and intent in self._followers.get(intent.after, ()):
            self._followers[intent.after].remove(intent)
        if for_ is not None and intent in self._before(for_):
            for_ = None
        intent.after = None if for_ is None else for_.id
        self._sql("UPDATE intent SET after = ? WHERE id = ?", intent.after, intent.id)
        if for_ is None:
            self.freed(intent.path)
        else:
            self._followers.setdefault(for_.id, []).append(intent)

    def _before(self, intent: Intent) -> list[Intent]:
        """The intent and all that have to be settled before it: what they wait for, and what comes first on their path."""
        found: dict[int, Intent] = {}
        stack = [intent]
        while stack:
            one = stack.pop()
            if one.id in found:
                continue
            found[one.id] = one
            if one.after is not None and one.after in self._by_id:
                stack.append(self._by_id[one.after])
            owed = self.owed(one.path)
            at = owed.index(one)
            stack += owed[max(0, at - 1) : at]
        return list(found.values())

    def followers(self, intent: Intent) -> list[Intent]:
        """Intents that wait until this one is settled."""
        return list(self._followers.get(intent.id, ()))

    def delete(self, path: str, base: Expected, *, after: int | None = None, due: float = 0.0) -> Intent | None:
        """Owe a deletion; None where the object never reached the store, so that nothing is owed any more.

        `after`: the put that carries the bytes to their new name. What waited for them under this name waits for
        them there: a name goes only when its bytes are in the store under another, however often they move.
        """
        last = self._last_waiting(path)
        follow: Expected | None = base
        carrier = None if after is None else self.get(after)
        if last is not None:
            follow = last.base
            if carrier is None:
                after = last.after
            else:
                if last.after in self._by_id and carrier.after is None:
                    self._wait(carrier, self._by_id[last.after])
                self._inherit(last, carrier)
            self._drop(last)
        elif self.owed(path):
            follow = None
        intent = None if follow is ABSENT else self._add("delete", path, follow, None, after=after, due=due)
        if last is not None:
            self.replaced(last, intent)
        return intent

    def start(self, intent: Intent) -> None:
        """It is being uploaded: it can be followed, no longer replaced."""
        assert self.owed(intent.path)[0] is intent
        intent.uploading = True

    def pause(self, intent: Intent) -> None:
        """The attempt failed in a way that can be tried again."""
        intent.uploading = False

    def hold(self, intent: Intent, reason: str) -> None:
        """Keep it here until somebody releases it (`reason` empty: release); newer bytes of the path take its place."""
        owed = self.owed(intent.path)
        intent.uploading = False
        if reason and owed[0] is intent and len(owed) > 1:
            newer = owed[1]
            assert intent.base is not None
            self._inherit(intent, newer)
            self._drop(intent)
            if newer.base is None:
                self._rebase(newer, intent.base)
            self.replaced(intent, newer)
            return
        intent.held = reason
        self._sql("UPDATE intent SET held = ? WHERE id = ?", reason, intent.id)

    def stuck(self, intent: Intent) -> str:
        """Why it is held, or what it waits for is; empty if nothing but time is in its way."""
        return next((one.held for one in self._before(intent) if one.held), "")

    def payable(self, intent: Intent) -> bool:
        """Is nothing but time in its way: is neither it nor what it waits for held, or open for writing?"""
        return all(one.ready and not one.held for one in self._before(intent))

    def expedite(self, intent: Intent) -> None:
        """Start it now, without its delay."""
        if intent.due:
            intent.due = 0.0
            self._sql("UPDATE intent SET due = 0 WHERE id = ?", intent.id)
        intent.ready = True

    def settle(self, intent: Intent, version: Version | None) -> None:
        """The store has it: `version` is what a put made, None after a delete."""
        owed = self.owed(intent.path)
        assert owed[0] is intent
        follower = owed[1] if len(owed) > 1 else None
        self._drop(intent)
        if follower is not None and follower.base is None:
            self._rebase(follower, ABSENT if version is None else version)

    def lose(self, intent: Intent, theirs: Version | None) -> Conflict | None:
        """The store holds something else: a put's bytes go to the conflict area, a delete is dropped.

        What follows on this path was based on the lost bytes, so it keeps their base and loses by itself.
        """
        owed = self.owed(intent.path)
        assert owed[0] is intent
        assert intent.base is not None
        follower = owed[1] if len(owed) > 1 else None
        conflict = None
        if intent.generation is not None:
            conflict = Conflict(self._next_conflict, intent.path, intent.base, theirs, intent.generation, time.time())
            self._next_conflict += 1
            self.conflicts[conflict.id] = conflict
            self._attach(conflict.generation)
            self._sql(
                "INSERT INTO conflict VALUES (?,?,?,?,?,?,?,?,?)",
                conflict.id, conflict.path, encode_base(conflict.base), theirs or "",
                *columns(conflict.generation), conflict.created,
            )  # fmt: skip
        self._drop(intent)
        if follower is not None and follower.base is None:
            self._rebase(follower, intent.base)
        return conflict

    def withdraw(self, intent: Intent) -> list[Intent]:
        """It is not owed any more; gives the deletions that waited for it, which are withdrawn with it."""
        owed = self.owed(intent.path)
        at = owed.index(intent)
        newer = owed[at + 1] if len(owed) > at + 1 else None
        withdrawn = self.withdraw_followers(intent)
        self._drop(intent)
        if newer is not None and newer.base is None and intent.base is not None:
            self._rebase(newer, intent.base)
        return withdrawn

    def withdraw_followers(self, intent: Intent) -> list[Intent]:
        """Its bytes will not reach the store under this name: nothing is deleted that was to go once they had."""
        withdrawn = []
        for follower in self.followers(intent):
            if follower.op == "delete":
                withdrawn += [follower, *self.withdraw(follower)]
        return withdrawn

    def drop_conflict(self, number: int) -> None:
        """A person has decided."""
        conflict = self.conflicts.pop(number)
        self._sql("DELETE FROM conflict WHERE id = ?", number)
        self._detach(conflict.generation)

    def _last_waiting(self, path: str) -> Intent | None:
        owed = self.owed(path)
        return owed[-1] if owed and not owed[-1].uploading else None

    def _add(
        self,
        op: str,
        path: str,
        base: Expected | None,
        generation: Generation | None,
        *,
        after: int | None,
        due: float,
        held: str = "",
        ready: bool = True,
    ) -> Intent:
        intent = Intent(
            self._next_id, op, path, base, generation, after, due, held, time.time(), ready, since=time.monotonic()
        )
        self._next_id += 1
        self._index(intent)
        self._sql(
            "INSERT INTO intent VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            intent.id, op, path, encode_base(base), *columns(generation), after, due, held, intent.created,
        )  # fmt: skip
        self._attach(generation)
        return intent

    def _index(self, intent: Intent) -> None:
        self.intents.setdefault(intent.path, []).append(intent)
        self._by_id[intent.id] = intent
        if intent.after is not None:
            self._followers.setdefault(intent.after, []).append(intent)

    def _drop(self, intent: Intent) -> None:
        owed = self.intents[intent.path]
        owed.remove(intent)
        if not owed:
            del self.intents[intent.path]
        del self._by_id[intent.id]
        if intent.after is not None and intent in self._followers.get(intent.after, ()):
            self._followers[intent.after].remove(intent)
        for follower in self._followers.pop(intent.id, ()):
            self.freed(follower.path)
        self._sql("DELETE FROM intent WHERE id = ?", intent.id)
        self._detach(intent.generation)

    def _rebase(self, intent: Intent, base: Expected) -> None:
        """It comes first now, and this is what the one before it leaves: of nothing there is nothing to delete."""
        if base is ABSENT and intent.op == "delete":
            self._drop(intent)
            self.replaced(intent, None)
            return
        intent.base = base
        self._sql("UPDATE intent SET base = ? WHERE id = ?", encode_base(base), intent.id)

    # --- what lives only here --------------------------------------------------------------------------------------

    def keep_node(
        self, path: str, kind: Kind, *, target: str | None = None, generation: Generation | None = None
    ) -> Node:
        """A local file's newest bytes, a symlink or a directory made here."""
        old = self.nodes.get(path)
        node = self.nodes[path] = Node(path, kind, target, generation)
        raw = None if target is None else target.encode("utf-8", "surrogateescape")
        self._sql("INSERT OR REPLACE INTO node VALUES (?,?,?,?,?,?,?)", path, kind, raw, *columns(generation))
        self._attach(generation)
        if old is not None:
            self._detach(old.generation)
        return node

    def drop_node(self, path: str) -> None:
        """It is gone, or it has become a stored name."""
        node = self.nodes.pop(path, None)
        if node is None:
            return
        self._sql("DELETE FROM node WHERE path = ?", path)
        self._detach(node.generation)

    def set_attribute(self, path: str, attribute: Attribute) -> None:
        """Remember modes, owners, times and xattrs of a name."""
        if attribute.empty:
            self.drop_attribute(path)
            return
        self.attributes[path] = attribute
        xattrs = json.dumps({k: v.hex() for k, v in attribute.xattrs.items()}) if attribute.xattrs else None
        self._sql(
            "INSERT OR REPLACE INTO attribute VALUES (?,?,?,?,?,?,?,?)",
            path, attribute.mode, attribute.uid, attribute.gid, attribute.atime_ns, attribute.mtime_ns,
            attribute.version, xattrs,
        )  # fmt: skip

    def drop_attribute(self, path: str) -> None:
        """Nothing is known of the name any more."""
        if self.attributes.pop(path, None) is not None:
            self._sql("DELETE FROM attribute WHERE path = ?", path)

    # --- durability ------------------------------------------------------------------------------------------------

    def take(self) -> tuple[Batch, int]:
        """Everything that is not durable yet, and the serial it reaches."""
        batch, self.batch = self.batch, Batch()
        return batch, self.serial

    def _sql(self, statement: str, *parameters: Any) -> None:
        self.batch.statements.append((statement, parameters))
        self.serial += 1

    def _attach(self, generation: Generation | None) -> None:
        """One more stands for these bytes: they are made durable with the row that says so."""
        if generation is not None:
            assert not generation.discarded
            generation.holders += 1
            self.batch.generations.append(generation)

    def _detach(self, generation: Generation | None) -> None:
        """One less; who takes the bytes over has attached them before."""
        if generation is None:
            return
        generation.holders -= 1
        if generation.holders == 0:
            generation.discarded = True
            if generation.path is not None:
                self.batch.discards.append(generation)

    def check(self) -> None:
        """Assert the invariants of the memory."""
        listed = [i for owed in self.intents.values() for i in owed]
        assert sorted(i.id for i in listed) == sorted(self._by_id)
        for path, owed in self.intents.items():
            assert owed
            assert [i.id for i in owed] == sorted(i.id for i in owed)
            for position, intent in enumerate(owed):
                assert intent.path == path
                assert (intent.generation is None) == (intent.op == "delete")
                assert position == 0 or not intent.uploading
                assert position > 0 or intent.base is not None
                if intent.after in self._by_id:
                    assert intent in self._followers[intent.after]
                    before = self._before(self._by_id[intent.after])
                    assert intent not in before, "they would wait for each other for ever"
        for number, followers in self._followers.items():
            assert all(f.after == number and self.get(f.id) is f for f in followers)
        held = list(self._generations())
        for generation in held:
            assert not generation.discarded
            assert generation.holders == sum(other is generation for other in held)
