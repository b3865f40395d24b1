"""What has changed in the store, and is what we believe young enough to answer from?

The tree is listed in *scopes*: a prefix listed flat (everything below it) or by delimiter (one
directory). A store that fits a page is one flat scope, so one LIST refreshes all of it. A larger
one is its root by delimiter and each prefix below it flat, jumping over `backups/`; a prefix of
more than 20 pages, and `backups/`, only directory by directory and only when someone looks.

A LIST is the only source of metadata; never a HEAD per file that is there. A name that is missing
from a listing is confirmed before it is dropped (promise 5): by a HEAD, and by a second LIST where
many are missing at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import trio

from kopsfs.errors import DataError, NotFoundError, StoreError, TimedOutError, TransientError
from kopsfs.fs.cache import Cache
from kopsfs.fs.content import Content
from kopsfs.fs.inode import Change, Inode
from kopsfs.fs.names import is_secret
from kopsfs.fs.scope import IDLE_AFTER_S, Pace, Scope, belongs
from kopsfs.fs.tree import Tree
from kopsfs.store import Store
from kopsfs.store.driver import Key, ObjectInfo, Page, Prefix

log = logging.getLogger(__name__)

PAGES_FLAT_MAX: Final = 20
"""A prefix of more pages is listed directory by directory."""
SLICE: Final = 100
"""Keys taken over without letting others in: a page of 1000 at once stalls the loop for 9 ms (spike §5)."""
MISSING_MANY: Final = 10
SCAN_OPENS: Final = 20
"""So many files asked for since the last listing of a scope of several pages are a scan: it is listed ahead of time."""
SCAN_LEASE_S: Final = 10.0
HINT_PAUSE_S: Final = 0.2
"""A burst of hints (our own uploads among them) is one listing."""
_LAST: Final = "\U0010ffff"


class Kernel(Protocol):
    """Who must be told what changed: `fuse.py`, or nobody where nothing is mounted."""

    def changed(self, changes: Sequence[Change]) -> None:
        """Invalidate what the kernel believes of these names and bytes, and let watchers know."""
        ...


class Refresh:
    """Asks the store what changed, on demand and by the clock."""

    def __init__(
        self,
        tree: Tree,
        store: Store,
        content: Content,
        cache: Cache,
        *,
        max_staleness_s: float,
        refresh_s: float,
        revalidate_budget_s: float,
        request_budget_s: float = 10.0,
        watch: tuple[str, ...] = (),
        prefetch: str = "auto",
        prefetch_size_bytes: int = 64 << 20,
        nursery: trio.Nursery,
    ) -> None:
        self.tree = tree
        self.store = store
        self.content = content
        self.cache = cache
        self.kernel: Kernel | None = None
        self.keep_directory: Callable[[str], bool] = lambda _path: False
        """Does a directory live here, so that it stays when the store has nothing below it?"""
        self.owes_below: Callable[[str], bool] = lambda _prefix: False
        """Is something below this prefix still to be written or deleted by us?"""
        self.max_staleness_s = max_staleness_s
        self.revalidate_budget_s = revalidate_budget_s
        self.request_budget_s = request_budget_s
        self.scopes: dict[str, Scope] = {}
        self.contacted = False
        """A listing has arrived since the mount."""
        self._pace = Pace(max_staleness_s, refresh_s, watch)
        self._prefetch = prefetch
        self._prefetch_left = prefetch_size_bytes
        """Bytes that may be on their way ahead of readers at once."""
        self._secrets_fetched: set[str] = set()
        self._nursery = nursery
        self._wake = trio.Event()

    # --- beginning -------------------------------------------------------------------------------------------------

    def restore(self) -> int:
        """Believe what the cache remembers, as stale; how many objects that were. Cost: 0 requests."""
        infos = self.cache.load_objects()
        for prefix, flat, pages in self.cache.load_scopes():
            if pages:
                self.scopes[prefix] = Scope(Prefix(prefix), flat, pages, known=True)
            if prefix:
                self.tree.ensure_directory(prefix[:-1])
        self.tree.apply(infos, self.tree.serial)
        return len(infos)

    async def first_listing(self) -> None:
        """List the store for the first time since the mount. Raises StoreError.

        Cost: 1 LIST for a store of one page.
        """
        root = self._scope_at("")
        await self.start(root).wait()
        if root.failed and root.error is not None:
            raise root.error

    def hint(self, key: Key) -> None:
        """The store says by itself that something changed there (`Store.watch`): list it soon, if anybody has looked."""
        scope = self._covering(key.removesuffix("/") if key.endswith("/") else key.rpartition("/")[0])
        if scope is not None and scope.known:
            scope.hinted = True
            self._wake.set()

    async def run(self) -> None:
        """Service: list by the clock, or when the store hints, what somebody looks at."""
        while True:
            now = trio.current_time()
            due = math.inf
            for scope in list(self.scopes.values()):
                interval = self._pace.interval_s(scope, now)
                if interval is None:
                    continue
                at = max(scope.asked_at, scope.tried_at, 0.0) + interval
                if scope.hinted:
                    at = min(at, scope.tried_at + HINT_PAUSE_S)
                if at <= now and scope.flight is not None:
                    at = now + HINT_PAUSE_S  # what it is hinted at may be newer than the listing under way
                elif at <= now:
                    scope.hinted = False
                    self.start(scope)
                    at = now + interval
                due = min(due, at)
            with trio.move_on_at(max(due, now + 0.1)):
                await self._wake.wait()
            self._wake = trio.Event()
            await trio.lowlevel.checkpoint()

    # --- questions of the file system --------------------------------------------------------------------------------

    def lease(self, path: str) -> float:
        """How long the kernel may answer for something in this directory without us, in seconds."""
        scope = self._covering(path)
        if scope is None:
            return self.max_staleness_s
        age = trio.current_time() - scope.asked_at
        return max(0.0, self.max_staleness_s - age)

    def listing_lease(self, path: str) -> float:
        """The same for the entries of a whole directory that is being read.

        A scan of thousands of files lasts longer than one lease, and a LOOKUP for each costs a quarter of it.
        So the kernel gets a longer one, and until it ends the scope is listed every `max_staleness_s` and what
        changed is pushed.
        """
        scope = self._covering(path)
        if scope is None or scope.pages == 1 or scope.failed or self.max_staleness_s < 1:
            return self.lease(path)
        if trio.current_time() - scope.asked_at > self.max_staleness_s:
            return 0.0
        scope.leased_until = trio.current_time() + SCAN_LEASE_S
        self._wake.set()
        return SCAN_LEASE_S

    def file_lease(self, inode: Inode, directory: str) -> float:
        """The same for the attributes of one file."""
        scope = self._covering(directory)
        if scope is None or inode.info is None:
            return self.max_staleness_s
        asked_at = max(scope.asked_at, scope.checked.get(inode.info.key, -math.inf))
        return max(0.0, self.max_staleness_s - (trio.current_time() - asked_at))

    def shows_vanished(self, path: str) -> bool:
        """Does one LIST show that a directory in this one has vanished? Promise 4."""
        scope = self._covering(path)
        return scope is not None and scope.flat and scope.pages == 1

    async def directory(self, path: str) -> None:
        """Make sure the names in this directory are young enough. Raises StoreError, TimedOutError.

        Cost: 0 while fresh; else the LISTs of its scope.
        """
        scope = self._scope_at(path)
        now = self._look(scope)
        if now - scope.asked_at <= self.max_staleness_s:
            return
        if scope.known and not self.contacted and self.max_staleness_s > 0:
            self.start(scope)  # the first answers after a mount come from the cache, marked stale
            await trio.lowlevel.checkpoint()
            return
        await self._answer(scope, now)

    async def file(self, inode: Inode, directory: str) -> None:
        """Make sure the version of a stored file is young enough; look at the inode again afterwards.

        Raises StoreError, TimedOutError. Cost: 0 while fresh; else 1 LIST, or 1 HEAD in a scope of several pages.
        """
        scope = self._scope_at(directory)
        now = self._look(scope)
        info = inode.info
        if info is None:
            return
        age = now - max(scope.asked_at, scope.checked.get(info.key, -math.inf))
        if scope.pages > 1 and len(scope.files) <= SCAN_OPENS:
            scope.files.add(info.key)
        if age <= self.max_staleness_s:
            if len(scope.files) > SCAN_OPENS and age + 1.5 * scope.took_s > self.max_staleness_s:
                self.start(scope)
            return
        # A few files asked for again and again cost a HEAD each; more than the scope has pages, and a LIST is cheaper.
        few = scope.pages > 1 and len(scope.files) <= min(scope.pages, SCAN_OPENS)
        if few and self.store.health.up and not scope.failed:
            await self._check(scope, info, now)
            return
        await self._answer(scope, now)

    async def _answer(self, scope: Scope, now: float) -> None:
        """Wait for a listing of the scope, but not for ever if there is a last-known answer."""
        if not self.store.health.up and scope.known and self.max_staleness_s > 0:
            self.start(scope)
            return
        flight = self.start(scope)
        if self.max_staleness_s <= 0 and scope.tried_at < now:
            # It was under way before the question, and may have been answered before it.
            with trio.move_on_at(scope.tried_at + self.request_budget_s):
                await flight.wait()
            flight = self.start(scope)
        # One listing is waited for once: a stat is a lookup and a getattr, and an `ls -l` is hundreds of them.
        until = scope.tried_at + self.revalidate_budget_s if scope.known else now + self.request_budget_s
        with trio.move_on_at(until) as timer:
            await flight.wait()
        if timer.cancelled_caught and not scope.failed:
            scope.failed = "the store did not answer in time"
        if not scope.failed:
            return
        if not scope.known:
            raise TimedOutError(scope.failed) if timer.cancelled_caught else DataError(scope.failed)
        if self.max_staleness_s <= 0:
            raise TimedOutError(scope.failed)

    async def _check(self, scope: Scope, info: ObjectInfo, now: float) -> None:
        asked = self.tree.ask()
        try:
            with trio.move_on_after(self.revalidate_budget_s) as timer:
                fresh = await self.store.head(info.key)
                scope.checked[info.key] = now
                self.learn(fresh, asked)
            if timer.cancelled_caught:
                scope.failed = "the store did not answer in time"
        except NotFoundError:
            # HEAD has no body, so a missing bucket looks like a missing key: a listing tells them apart.
            await self._answer(scope, now)
            return
        except StoreError as exc:
            scope.failed = str(exc)
        if scope.failed and self.max_staleness_s <= 0:
            raise TimedOutError(scope.failed)

    def made(self, path: str) -> None:
        """A directory was made here: the store has nothing below it, as its parent's listing showed."""
        prefix = Prefix(f"{path}/")
        if prefix not in self.scopes and self._covering(path) is None:
            parent = self._covering(path.rpartition("/")[0])
            self.scopes[prefix] = Scope(prefix, flat=False, known=True)
            if parent is not None:
                self.scopes[prefix].asked_at = parent.asked_at

    def distrust(self, path: str = "") -> None:
        """Ask again before the next answer (`kopsfs forget`, a withdrawn write)."""
        for scope in self.scopes.values():
            if scope.holds(path) or scope.prefix.startswith(path):
                scope.asked_at = -math.inf
                scope.checked.clear()
        self._wake.set()

    @property
    def stale_since(self) -> float | None:
        """Monotonic time of the oldest listing that should have been renewed and could not; None: all is well."""
        stale = [s.asked_at for s in self.scopes.values() if s.failed and s.known]
        return min(stale) if stale else None

    # --- scopes ------------------------------------------------------------------------------------------------------

    def _covering(self, path: str) -> Scope | None:
        prefix = f"{path}/" if path else ""
        found = self.scopes.get(prefix)
        if found is not None:
            return found
        while prefix:
            prefix = prefix[:-1].rpartition("/")[0]
            prefix = f"{prefix}/" if prefix else ""
            found = self.scopes.get(prefix)
            if found is not None and found.flat:
                return found if found.holds(f"{path}/x") else None
        return None

    def _scope_at(self, path: str) -> Scope:
        scope = self._covering(path)
        if scope is None:
            prefix = Prefix(f"{path}/" if path else "")
            # The root is taken for small until it has shown more than a page.
            scope = self.scopes[prefix] = Scope(prefix, flat=not path)
        return scope

    def _look(self, scope: Scope) -> float:
        now = trio.current_time()
        if now - scope.looked_at > IDLE_AFTER_S:
            self._wake.set()
        scope.looked_at = now
        if self._prefetch == "auto" and not scope.prefetched:
            scope.prefetched = True
            self._fetch_ahead([i.info for i in self._files(scope) if i.info is not None])
        return now

    # --- listing -----------------------------------------------------------------------------------------------------

    def start(self, scope: Scope) -> trio.Event:
        """Begin to list a scope unless that is happening; the event is set when it has ended, well or not."""
        if scope.flight is None:
            scope.flight = trio.Event()
            scope.tried_at = trio.current_time()
            self._nursery.start_soon(self._fly, scope, scope.flight)
        return scope.flight

    async def _fly(self, scope: Scope, flight: trio.Event) -> None:
        try:
            await self._update(scope)
            if self._doubt():
                await self._update(scope)  # asked after both answers had come: it knows
                self._doubt()
        except StoreError as exc:
            scope.failed, scope.error = str(exc), exc
            log.debug("op=refresh prefix=%s err=%s", scope.prefix, exc)
        finally:
            scope.flight = None
            flight.set()

    async def _update(self, scope: Scope) -> None:
        asked, asked_at = self.tree.ask(), trio.current_time()
        seen: set[Key] = set()
        groups: set[str] = set()
        if not await self._list(scope, seen, groups):
            return  # it was too large for one scope, and its parts have been listed instead
        missing = self.tree.missing(seen, asked, lambda key: belongs(scope, key, groups))
        missing += [m.key for m in self.tree.markers.values() if m.key not in seen and scope.lists_marker(m.key)]
        if missing:
            await self._confirm(scope, missing)
        if not scope.flat:
            self._prune_groups(scope, groups, asked)
        scope.asked_at, scope.known, scope.failed = asked_at, True, ""
        scope.took_s = trio.current_time() - asked_at
        scope.files.clear()
        scope.checked.clear()
        self.contacted = True
        self.cache.save_scope(scope.prefix, flat=scope.flat, pages=scope.pages)

    async def _list(self, scope: Scope, seen: set[Key], groups: set[str]) -> bool:
        token: str | None = None
        start_after: str | None = None
        pages = 0
        while True:
            asked = self.tree.ask()
            page = await self.store.list_page(
                scope.prefix, delimiter=not scope.flat, token=token, start_after=start_after
            )
            pages += 1
            if scope.flat and scope.prefix == "" and page.token is not None:
                await self._split(scope)
                return False
            await self._take(scope, page, asked, seen, groups)
            token, start_after = page.token, None
            if token is None:
                break
            if scope.skip and page.objects and page.objects[-1].key.startswith(scope.skip):
                token, start_after = None, scope.skip + _LAST
            if scope.flat and pages >= PAGES_FLAT_MAX:
                scope.flat = False
                return await self._list(scope, seen, groups)
        scope.pages = pages
        return True

    async def _split(self, root: Scope) -> None:
        """The store is larger than a page: the root by delimiter, then each prefix below it flat, in parallel."""
        root.flat = False
        await self._update(root)
        for inode in list((self.tree.root.children or {}).values()):
            if inode.is_dir and not inode.local:
                prefix = Prefix(f"{inode.name}/")
                if prefix not in self.scopes:
                    self.scopes[prefix] = Scope(prefix, flat=True)
        async with trio.open_nursery() as nursery:
            for scope in list(self.scopes.values()):
                if scope.flat and scope.flight is None:
                    nursery.start_soon(self.start(scope).wait)

    async def _take(self, scope: Scope, page: Page, asked: int, seen: set[Key], groups: set[str]) -> None:
        skip = scope.skip
        objects: Sequence[ObjectInfo] = page.objects
        if skip:
            inside = [o for o in objects if not o.key.startswith(skip)]
            if len(inside) != len(objects):
                self.tree.ensure_directory(skip[:-1])
                self.cache.save_directory(skip)
            objects = inside
        changes: list[Change] = []
        for start in range(0, len(objects), SLICE):
            part = objects[start : start + SLICE]
            seen.update(o.key for o in part)
            changes += self.tree.apply(part, asked)
            await trio.lowlevel.checkpoint()
        for group in page.prefixes:
            groups.add(group)
            if self.owes_below(group) and self.tree.find(group[:-1]) is None:
                continue  # removed here: what is left of it goes, too
            if all(p not in {"", ".", ".."} for p in group[:-1].split("/")):
                changes += self.tree.ensure_directory(group[:-1])[1]
                self.cache.save_directory(group)
        if self._prefetch == "all" or (self._prefetch == "auto" and scope.prefetched):
            self._fetch_ahead(
                [c.inode.info for c in changes if c.inode.info is not None] if scope.known else list(objects)
            )
        if changes:
            self.cache.save_objects([c.inode.info for c in changes if c.inode.info is not None], ())
            if scope.known:
                self.tell(changes)

    async def _confirm(self, scope: Scope, missing: list[Key]) -> None:
        """Drop what is really gone; promise 5. Raises StoreError if the listing lied."""
        believed = sum(1 for key in self.tree.stored if scope.holds(key))
        if len(missing) > MISSING_MANY and len(missing) * 10 > believed:
            again: set[Key] = set()
            token: str | None = None
            start_after: str | None = None
            while True:
                page = await self.store.list_page(
                    scope.prefix, delimiter=not scope.flat, token=token, start_after=start_after
                )
                again.update(o.key for o in page.objects)
                token = page.token
                if token is None:
                    break
            missing = [key for key in missing if key not in again]
        gone: dict[Key, int] = {}
        there: list[Key] = []
        refused: list[StoreError] = []

        async def ask(key: Key) -> None:
            number = self.tree.ask()
            try:
                with trio.move_on_after(self.request_budget_s) as timer:
                    await self.store.head(key)
                    there.append(key)
                if timer.cancelled_caught:  # a key the store chokes on must not keep all others from being refreshed
                    refused.append(TransientError("head", key, "the store did not answer in time"))
            except NotFoundError:
                gone[key] = number
            except StoreError as exc:
                refused.append(exc)

        if missing:
            # One question first: a store that lost its listing answers it, and spares the others.
            await ask(missing[0])
            if not there and not refused:
                async with trio.open_nursery() as nursery:
                    for key in missing[1:]:
                        nursery.start_soon(ask, key)
        self._drop(gone)
        if refused:
            raise refused[0]
        if there:
            raise StoreError("list", scope.prefix, f"the listing left out {len(there)} objects that exist")

    def _drop(self, keys: Mapping[Key, int]) -> None:
        changes = []
        gone = []
        for key, asked in keys.items():
            directory = self.tree.unmark(key)
            if directory is not None:
                gone.append(key)
                changes += self.tree.prune(directory, self._keep)
                continue
            change = self.tree.vanish(key, asked)
            if change is None:
                continue
            gone.append(key)
            self.content.forget(key)
            changes.append(change)
            changes += self.tree.prune(change.parent, self._keep)
        self.cache.save_objects((), gone)
        self.tell(changes)

    def _prune_groups(self, scope: Scope, groups: set[str], asked: int) -> None:
        """Directories the store no longer shows, if nothing is known below them and nothing here wants them."""
        directory = self.tree.find(scope.prefix[:-1])
        if directory is None or directory.children is None:
            return
        changes = []
        for inode in list(directory.children.values()):
            group = f"{scope.prefix}{inode.name}/"
            if inode.is_dir and not inode.local and inode.serial <= asked and group not in groups:
                self.tree.unmark(group)
                changes += self.tree.prune(inode, self._keep)
        for change in changes:
            self.cache.drop_directory(f"{change.path}/")
        self.tell(changes)

    def _keep(self, path: str) -> bool:
        return path in self.tree.markers or self.keep_directory(path)

    def learn(self, info: ObjectInfo, asked: int) -> None:
        """A GET or HEAD, question number `asked`, brought this version."""
        changes = self.tree.apply([info], asked)
        if changes:
            self.cache.save_objects([c.inode.info for c in changes if c.inode.info is not None], ())
            self.tell(changes)
        self._doubt()

    def _doubt(self) -> bool:
        """Where it is not certain which of two answers is the newer, what is shown does not count as asked for."""
        unsure, self.tree.unsure = self.tree.unsure, set()
        for key in unsure:
            self.distrust(key)
        return bool(unsure)

    def tell(self, changes: Sequence[Change]) -> None:
        """Let the kernel and those who watch know what others did."""
        if changes and self.kernel is not None:
            self.kernel.changed(changes)

    # --- fetching ahead ------------------------------------------------------------------------------------------------

    def _files(self, scope: Scope) -> list[Inode]:
        return [inode for key, inode in self.tree.stored.items() if scope.holds(key)]

    def _fetch_ahead(self, infos: list[ObjectInfo]) -> None:
        secrets = self._prefetch == "all"
        prefix = self.tree.prefix
        wanted = [
            o
            for o in infos
            if "/backups/" not in f"/{o.key}" and (secrets or not is_secret(prefix + o.key)) and not self.content.has(o)
        ]
        if wanted and self._prefetch_left > 0:
            self._nursery.start_soon(self._run_prefetch, wanted, self._prefetch_left)

    def secret_was_read(self, path: str) -> None:
        """Something below `pki/private` or `secrets` was read: its neighbours will be, too. Promise 9."""
        if self._prefetch == "none" or "/backups/" in f"/{path}":
            return
        for group in ("pki/private/", "secrets/"):
            start = f"/{path}".find(f"/{group}")
            if start >= 0:
                top = path[: start + len(group)]
                if top not in self._secrets_fetched:
                    self._secrets_fetched.add(top)
                    infos = [
                        i.info
                        for k, i in self.tree.stored.items()
                        if k.startswith(top) and k != path and i.info is not None
                    ]
                    self._nursery.start_soon(self._run_prefetch, infos, 4 << 20)
                return

    async def _run_prefetch(self, infos: list[ObjectInfo], budget_bytes: int) -> None:
        taken = min(budget_bytes, sum(o.size for o in infos))
        self._prefetch_left -= taken
        try:
            await self.content.prefetch(infos, budget_bytes=budget_bytes, ask=self.tree.ask)
        finally:
            self._prefetch_left += taken
