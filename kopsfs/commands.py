"""What does the daemon do when it is spoken to?

The daemon's side of the commands of `control.py`: each yields objects as there is something to say.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import trio

from kopsfs import __version__, control
from kopsfs.config import Config
from kopsfs.errors import InputError, NotFoundError, StoreError
from kopsfs.fs.filesystem import Filesystem
from kopsfs.fs.journal import Conflict, Intent
from kopsfs.fs.spool import Generation
from kopsfs.fuse import Operations
from kopsfs.store.driver import ABSENT, Expected, Key

PENDING_SHOWN_MAX: Final = 1000
LOCAL_SHOWN_AFTER_S: Final = 60.0
_TEXT_BYTES_MAX: Final = 4 << 20


class Life(Protocol):
    """What the daemon lets its commands do with it."""

    drained: trio.Event
    """Set when the mount is gone and everything that could be settled is."""

    async def unmount(self, *, lazy: bool) -> str:
        """Take the mount away; the error text, empty when it worked."""
        ...

    def hand_over(self) -> bool:
        """Stop draining for a successor, if the mount is gone."""
        ...


class Commands:
    """One mount's answers."""

    def __init__(
        self,
        fs: Filesystem,
        config: Config,
        operations: Operations,
        life: Life,
    ) -> None:
        self.fs = fs
        self.parts = fs.parts
        self.config = config
        self.operations = operations
        self._life = life
        self.idle = trio.Event()
        """Set while nobody waits for an unmount."""
        self.idle.set()

    def table(self) -> dict[str, control.Command]:
        """Commands by name."""
        return {
            "status": self.status,
            "flush": self.flush,
            "conflicts": self.conflicts,
            "forget": self.forget,
            "umount": self.umount,
            "handover": self.handover,
            "dump": self.dump,
        }

    # --- status ------------------------------------------------------------------------------------------------------------

    async def status(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Everything `kopsfs status` shows. Cost: 0 requests."""
        del arguments
        parts = self.parts
        store, refresh = parts.store, parts.refresh
        stale_since = refresh.stale_since
        held = sum(1 for i in parts.journal.all() if i.held)
        directories = sum(1 for i in parts.tree.inodes.values() if i.is_dir)
        yield {
            "store": self.config.state,
            "mountpoint": str(self.config.mountpoint),
            "pid": os.getpid(),
            "version": __version__,
            "mode": "ro" if self.config.read_only or parts.writeback.read_only else "rw",
            "read_only_reason": parts.writeback.read_only,
            "health": self._health(stale=stale_since is not None),
            "fresh_as_of": _unix(max((s.asked_at for s in refresh.scopes.values()), default=-float("inf"))),
            "stale_since": _unix(stale_since) if stale_since is not None else None,
            "last_error": store.health.last_error or parts.writeback.last_error,
            "pending": [self._pending(i) for i in list(parts.journal.all())[:PENDING_SHOWN_MAX]],
            "pending_total": len(parts.journal),
            "conflicts": len(parts.journal.conflicts),
            "held": held,
            "local_only": self._local_only(),
            "unreachable_keys": sorted(parts.tree.unreachable)[:100],
            "requests": dict(store.requests),
            "cost_usd": self._cost(),
            "bytes_in": store.bytes_in,
            "bytes_out": store.bytes_out,
            "uploaded": parts.writeback.uploaded,
            "cache": {"objects": len(parts.content.cache.index), "bytes": parts.content.cache.bytes},
            "memory_bytes": parts.content.memory_bytes,
            "prefetch": {
                "mode": self.config.prefetch,
                "objects": parts.content.ahead_objects,
                "bytes": parts.content.ahead_bytes,
            },
            "capabilities": {
                "create_only": store.capabilities.create_only,
                "replace_if": store.capabilities.replace_if,
                "delete_if": store.capabilities.delete_if,
                "change_feed": store.capabilities.change_feed,
                "price_per_1000": store.capabilities.price_per_1000,
            },
            "describe": store.describe(),
            "files": len(parts.tree.stored),
            "directories": directories,
            "state_dir": str(self.config.state_dir),
            "cache_dir": str(self.config.cache_dir),
        }

    def _health(self, *, stale: bool) -> str:
        if self.operations.bugs:
            return "unhealthy"
        if not self.parts.store.health.up:
            return "down"
        return "stale" if stale else "ok"

    def _pending(self, intent: Intent) -> dict[str, Any]:
        state = "uploading" if intent.uploading else "waiting"
        if intent.held:
            state = "denied" if intent.held.startswith("denied") else "held"
        return {
            "path": intent.path,
            "op": intent.op,
            "since": intent.created,
            "state": state,
            "reason": intent.held,
            "bytes": intent.generation.size if intent.generation is not None else 0,
        }

    def _local_only(self) -> list[str]:
        """Files that live only here and have lain closed for a minute, outside .git."""
        now_ns = time.time_ns()
        found = []
        for path, node in self.parts.journal.nodes.items():
            if node.kind != "file" or "/.git/" in f"/{path}":
                continue
            inode = self.parts.tree.find(path)
            if inode is not None and not inode.opens and now_ns - inode.mtime_ns > LOCAL_SHOWN_AFTER_S * 1e9:
                found.append(path)
        return sorted(found)[:1000]

    def _cost(self) -> float:
        prices = self.parts.store.capabilities.price_per_1000
        return sum(prices.get(verb, 0.0) * count / 1000 for verb, count in self.parts.store.requests.items())

    # --- uploads -------------------------------------------------------------------------------------------------------------

    async def flush(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Wait until the store has everything that is not held."""
        del arguments
        async for progress in self._drain():
            yield progress

    async def _drain(self) -> AsyncIterator[dict[str, Any]]:
        writeback = self.parts.writeback
        while True:
            writeback.expedite_all()
            left = writeback.left()
            yield self._progress(left)
            if not left:
                return
            with trio.move_on_after(0.5):
                await writeback.progress()

    def _progress(self, left: list[Intent]) -> dict[str, Any]:
        return {
            "left": len(left),
            "bytes": sum(i.generation.size for i in left if i.generation is not None),
            "held": len(self.parts.journal) - len(left),
            "conflicts": len(self.parts.journal.conflicts),
            "store_up": self.parts.store.health.up,
            "last_error": self.parts.store.health.last_error or self.parts.writeback.last_error,
        }

    async def umount(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Drain, then take the mount away. `lazy` and `budget_s` are honoured."""
        lazy = bool(arguments.get("lazy"))
        budget_s = float(arguments.get("budget_s") or self.config.drain_budget_s)
        deadline = trio.current_time() + budget_s
        async for progress in self._drain():
            yield progress
            if lazy or trio.current_time() > deadline or not self.parts.store.health.up:
                break
        self.idle = trio.Event()
        try:
            problem = await self._life.unmount(lazy=lazy)
            if problem:
                raise InputError(problem)
            yield {"detached": True, "left": len(self.parts.journal)}
            await self._life.drained.wait()
            held = sum(1 for i in self.parts.journal.all() if i.held)
            yield {"unmounted": True, "left": len(self.parts.journal), "held": held}
        finally:
            self.idle.set()

    async def handover(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A successor asks for the journal."""
        del arguments
        yield {"handover": self._life.hand_over()}

    # --- conflicts -------------------------------------------------------------------------------------------------------------

    async def conflicts(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """list, show (bytes of both sides), take-mine, take-theirs."""
        action = arguments.get("action", "list")
        if action == "list":
            for conflict in list(self.parts.journal.conflicts.values()):
                yield self._describe(conflict)
            for intent in self.parts.journal.all():
                if intent.held:
                    yield {"id": f"held-{intent.id}", "path": intent.path, "held": intent.held, "since": intent.created,
                           "bytes": intent.generation.size if intent.generation else 0}  # fmt: skip
            return
        number = str(arguments.get("id", ""))
        if number.startswith("held-"):
            yield await self._decide_held(action, int(number[5:]))
            return
        conflict = self._find(number)
        if action in {"diff", "show"}:
            yield self._describe(conflict) | await self._both(conflict.path, conflict.generation)
        elif action == "take-theirs":
            self.parts.journal.drop_conflict(conflict.id)
            await self.parts.committer.commit()
            yield {"id": conflict.id, "path": conflict.path, "taken": "theirs"}
        elif action == "take-mine":
            yield await self._take_mine(conflict)
        else:
            raise InputError(f"unknown action {action!r}")

    def _find(self, number: str) -> Conflict:
        if number.isdigit() and int(number) in self.parts.journal.conflicts:
            return self.parts.journal.conflicts[int(number)]
        found = [c for c in self.parts.journal.conflicts.values() if c.path == number]
        if len(found) == 1:
            return found[0]
        raise InputError(f"no conflict {number!r}; `kopsfs conflicts` lists them")

    def _describe(self, conflict: Conflict) -> dict[str, Any]:
        return {
            "id": conflict.id,
            "path": conflict.path,
            "since": conflict.created,
            "bytes": conflict.generation.size,
            "base": str(conflict.base),
            "theirs": conflict.theirs or "",
        }

    async def _both(self, path: str, kept: Generation | None) -> dict[str, str | None]:
        """The bytes kept here, and the store's: None where it has none or does not say. Cost: 1 GET."""
        mine = b"" if kept is None else await trio.to_thread.run_sync(kept.read)
        theirs: bytes | None = None
        with trio.move_on_after(self.config.request_budget_s), contextlib.suppress(StoreError):
            _, theirs = await self.parts.store.get(Key(path))
        return {
            "mine_b64": base64.b64encode(mine[:_TEXT_BYTES_MAX]).decode(),
            "theirs_b64": base64.b64encode(theirs[:_TEXT_BYTES_MAX]).decode() if theirs is not None else None,
        }

    async def _take_mine(self, conflict: Conflict) -> dict[str, Any]:
        """Write the kept bytes over what the store has now: that is what the person has seen."""
        parts = self.parts
        base: Expected = ABSENT
        with contextlib.suppress(NotFoundError):
            base = (await parts.store.head(Key(conflict.path))).version
        if conflict.id not in parts.journal.conflicts:
            raise InputError("somebody has just decided this conflict")
        intent = parts.journal.put(conflict.path, conflict.generation, base)
        parts.journal.drop_conflict(conflict.id)
        self.fs.adopt(conflict.path)
        await parts.committer.commit()
        parts.writeback.expedite(intent.path)
        return {"id": conflict.id, "path": conflict.path, "taken": "mine"}

    async def _decide_held(self, action: str, number: int) -> dict[str, Any]:
        intent = self.parts.journal.get(number)
        if intent is None or not intent.held:
            raise InputError("no such held write; `kopsfs conflicts` lists them")
        if action == "take-mine":
            self.parts.writeback.release(intent)
            return {"id": f"held-{number}", "path": intent.path, "taken": "mine"}
        if action == "take-theirs":
            self.fs.abandon(intent)
            await self.parts.committer.commit()
            return {"id": f"held-{number}", "path": intent.path, "taken": "theirs"}
        return {"id": f"held-{number}", "path": intent.path, **await self._both(intent.path, intent.generation)}

    # --- the rest --------------------------------------------------------------------------------------------------------------

    async def forget(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Ask the store again, and drop cached contents, below a path. Cost: LISTs at the next look."""
        path = str(arguments.get("path") or "").strip("/")
        inside = [k for k in self.parts.tree.stored if not path or k == path or k.startswith(path + "/")]
        for key in inside:
            self.parts.content.forget(key)
        self.parts.refresh.distrust(path)
        yield {"forgotten": len(inside)}

    async def dump(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Self-check of tree and journal."""
        del arguments
        self.parts.tree.check()
        self.parts.journal.check()
        yield {"inodes": len(self.parts.tree.inodes), "intents": len(self.parts.journal)}


def _unix(monotonic: float) -> float | None:
    """Trio's clock as Unix time."""
    if monotonic == -float("inf"):
        return None
    return time.time() - (trio.current_time() - monotonic)
