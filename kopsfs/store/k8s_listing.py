"""What is there, in the order of keys?

The server lists by kind and by name, files are ordered by key across kinds, so a listing is gathered whole: one LIST per kind
(and 500 objects), side by side, over all namespaces, or over one where the prefix names the cluster. `Snapshot` is what was
gathered; pages are cut from it. Of Secrets the metadata are listed, so that a poll does not carry every file again; once, if they
are not too much, their bytes as well, behind the back of who waits for the listing.

A listing is never answered from memory: whoever asks gets what was gathered after he asked. A kind that may not be listed
fails the listing, because what is missing from it would look deleted. Where all namespaces may not be listed, those are
listed one by one that may be.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from kopsfs.errors import DeniedError, NotFoundError, RefusedError, StoreError
from kopsfs.store.driver import Key
from kopsfs.store.k8s_api import Api, Ask, ExpiredError
from kopsfs.store.k8s_entries import CHUNKS_NOTE, SIZE_NOTE, Bodies, Entry, Found, number, read_object, read_outline
from kopsfs.store.k8s_layout import (
    CLUSTERS,
    DOCUMENTS,
    FILE_TYPE,
    KEY_NOTE,
    KINDS,
    NAMESPACES,
    SECRETS,
    Kind,
    Object,
    namespace_of,
    noted_key,
)

log = logging.getLogger(__name__)

LIST_LIMIT: Final = 500
"""Objects a LIST asks for, as kubectl and client-go do."""
RESTARTS: Final = 3
OUTLINE: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
"""Source: API concepts, "Metadata-only fetches"."""
PAGE_BYTES: Final = 2 << 20
"""Files whose bytes are asked for in one LIST; in memory an answer is some times that, for a moment."""
PAGE_MIN: Final = 8
"""Objects such a LIST asks for, however large they are."""
BODIES_MAX: Final = 32 << 20
"""Files of a scope that are more than this, together, are not listed with their bytes."""
BODIES_WAIT_S: Final = 8.0
"""Who wants one of them waits this long for all before he asks himself."""
FILES: Final = {"fieldSelector": f"type={FILE_TYPE}"}
HELD_S: Final = 30.0
"""How long after a listing its bytes may be given without asking. Who wants a file as of now lists first."""
TOUCHED_S: Final = 600.0
_REFETCHED_MAX: Final = 32
"""So many Secrets whose metadata others have written are fetched one by one; more are listed with their bytes."""


@dataclass(frozen=True, slots=True)
class _Form:
    """In which form objects are listed, how many at a time, and who takes each page instead of all of them."""

    accept: str = "application/json"
    limit: int = LIST_LIMIT
    take: Callable[[list[Any]], None] | None = None


_OUTLINE: Final = _Form(OUTLINE)
_WHOLE: Final = _Form()


@dataclass(frozen=True)
class Snapshot:
    """Files as they were at one moment; kinds may be apart by the time their LISTs took."""

    entries: dict[Key, Entry]
    order: list[bytes]
    """Keys as UTF-8, ascending."""
    asked: float
    """`time.monotonic()` when it was begun."""


class Listing:
    """Gathers; any thread."""

    def __init__(self, api: Api, bodies: Bodies, namespace: str) -> None:
        self._api = api
        self._bodies = bodies
        self._default = namespace
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="kopsfs-k8s")
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        """More bytes of Secrets are there, or all are."""
        self._gathering: dict[tuple[str, frozenset[Kind]], threading.Lock] = {}
        self._last: dict[tuple[str, frozenset[Kind]], Snapshot] = {}
        self._fetching = ThreadPoolExecutor(2, thread_name_prefix="kopsfs-k8s-bodies")
        self._fetched: set[str] = set()
        """Scopes for which the one listing was begun that brings the bytes of their Secrets."""
        self._coming: set[str] = set()
        """Those of them whose listing is under way."""
        self._one_by_one: set[str] = set()
        """Kinds that may not be listed in all namespaces."""
        self._listable: set[tuple[str, str]] = set()
        """(kind, namespace) that were listed one by one: a refusal of these is a failure."""
        self._before: dict[tuple[Any, ...], tuple[tuple[str, str], Entry | None]] = {}
        """Object → the state it was last read in, and what was read."""
        self._touched: dict[Key, float] = {}
        """When this process last asked for or changed a file: a listing begun before does not overrule that."""
        self._seen: dict[Key, float] = {}
        """When the question was asked whose answer `known` is."""
        self.owners: dict[str, set[str]] = {}
        """Namespace → clusters that have something in it."""
        self.shadowed: dict[Key, Entry] = {}
        """Secrets of keys that are a document of kops, too: left by a writer that was cut off."""
        self.known: dict[Key, Entry] = {}
        """The last known state of each file, whoever told it."""

    def snapshot(self, scope: str, kinds: frozenset[Kind]) -> Snapshot:
        """Give what was there after this call. Cost: 1 LIST per kind and 500 objects; shared by those who wait."""
        arrived = time.monotonic()
        which = (scope, kinds)
        with self._lock:
            gathering = self._gathering.setdefault(which, threading.Lock())
        with gathering:
            last = self._last.get(which)
            if last is None or last.asked < arrived:
                last = self._gather(scope, kinds)
                self._last[which] = last
            return last

    def held(self, key: Key) -> tuple[Entry, bytes] | None:
        """Give a file whose bytes came with a listing that is not older than `HELD_S`; once. Cost: none.

        Waits for those that are on their way.
        """
        until = time.monotonic() + BODIES_WAIT_S
        with self._came:
            while True:
                entry, now = self.known.get(key), time.monotonic()
                if entry is None or now - self._seen.get(key, float("-inf")) > HELD_S:
                    return None
                found = self._bodies.take(key, entry.version)
                if found is not None:
                    break
                if not self._is_coming(entry) or now >= until:
                    return None
                self._came.wait(until - now)
        data = found.unpack()
        return None if data is None else (entry, data)

    def _is_coming(self, entry: Entry) -> bool:
        return entry.kind is SECRETS and entry.chunks is None and bool(self._coming & {"", entry.namespace})

    def _fetch_bodies(self, scope: str, secrets: list[Any]) -> None:
        """Once for each scope, list its Secrets with their bytes, beside whoever waits for the listing itself."""
        with self._lock:
            if scope in self._fetched or not secrets or any(isinstance(item, Found) for item in secrets):
                return
            if sum(map(_size, secrets)) <= BODIES_MAX:
                self._fetched.add(scope)
                self._coming.add(scope)
                self._fetching.submit(self._hold_bodies, scope, _at_a_time(secrets))

    def _hold_bodies(self, scope: str, limit: int) -> None:
        def hold(page: list[Any]) -> None:
            for found in map(self._bodies.fit, page):
                with self._lock:
                    if self.known.get(found.entry.key) == found.entry:
                        self._bodies.hold(found)
            with self._came:
                self._came.notify_all()

        try:
            self._list_all(SECRETS, scope, _Form(limit=limit, take=hold))
        except StoreError as error:
            log.info("bytes did not come with the listing, each file is asked for scope=%r err=%s", scope, error)
        finally:
            with self._came:
                self._coming.discard(scope)
                self._came.notify_all()

    def note(self, found: Found, *, hold: bool) -> Entry:
        """Take in a file as the server has just shown it, or taken it."""
        entry = found.entry
        with self._lock:
            self._touched[entry.key] = self._seen[entry.key] = time.monotonic()
            self.known[entry.key] = entry
            self._bodies.drop(entry.key)
            if hold:
                self._bodies.hold(found)
        return entry

    def gone(self, key: Key) -> None:
        """A file is not there any more."""
        with self._lock:
            self._touched[key] = time.monotonic()
            self.known.pop(key, None)
            self._bodies.drop(key)

    def forget(self) -> None:
        """Drop what was gathered, at the end."""
        for threads in (self._threads, self._fetching):
            threads.shutdown(wait=False, cancel_futures=True)
        self._last.clear()
        with self._came:
            self._coming.clear()
            self._came.notify_all()

    def owner(self, namespace: str) -> str:
        """Give the cluster that objects in a namespace belong to, as far as is known."""
        return min(self.owners.get(namespace, ()), default=namespace)

    # -- gathering ---------------------------------------------------------------------------------

    def _gather(self, scope: str, kinds: frozenset[Kind]) -> Snapshot:
        for attempt in range(RESTARTS):
            try:
                return self._gather_once(scope, kinds)
            except ExpiredError:
                if attempt == RESTARTS - 1:
                    raise
        raise AssertionError

    def _gather_once(self, scope: str, kinds: frozenset[Kind]) -> Snapshot:
        asked = time.monotonic()
        # Whose namespace it is, is known by the cluster in it.
        wanted = [kind for kind in KINDS if kind in kinds or kind is CLUSTERS]
        futures = {kind: self._threads.submit(self._list, kind, scope) for kind in wanted}
        items: dict[Kind, list[Any]] = {}
        for kind, future in futures.items():
            try:
                items[kind] = future.result()
            except DeniedError:
                if kind in kinds:
                    raise
                items[kind] = []
        self._note_owners(scope, items)
        files: dict[Key, Found] = {}
        shadowed: dict[Key, Entry] = {}
        for kind in DOCUMENTS:
            for item in items.get(kind, ()) if kind in kinds else ():
                found = self._read(kind, item)
                if found is not None:
                    files[found.entry.key] = found
        for found in self._read_secrets(items.get(SECRETS, [])):
            if found.entry.key in files:
                shadowed[found.entry.key] = found.entry
            else:
                files[found.entry.key] = found
        self._settle(files, scope, kinds, asked)
        self.shadowed = {**self.shadowed, **shadowed} if scope else shadowed
        self._fetch_bodies(scope, items.get(SECRETS, []))
        entries = {key: found.entry for key, found in files.items()}
        return Snapshot(entries, sorted(key.encode() for key in entries), asked)

    def _settle(self, files: dict[Key, Found], scope: str, kinds: frozenset[Kind], asked: float) -> None:
        """Remember what was found, but for what has happened here meanwhile."""
        with self._lock:
            gone = [
                key
                for key, entry in self.known.items()
                if key not in files and (not scope or (entry.namespace == scope and entry.kind in kinds))
            ]
            for key in gone:
                if self._touched.get(key, 0.0) < asked:
                    del self.known[key]
                    self._bodies.drop(key)
            for key, found in files.items():
                if self._touched.get(key, 0.0) < asked:
                    if self.known.get(key) != found.entry or found.packed is not None:
                        self.known[key] = found.entry
                        self._bodies.hold(found)
                    self._seen[key] = asked
            for key in [key for key, when in self._touched.items() if when < asked - TOUCHED_S]:
                del self._touched[key]
            for key in [key for key in self._seen if key not in self.known]:
                del self._seen[key]

    def _note_owners(self, scope: str, items: dict[Kind, list[Any]]) -> None:
        owners: dict[str, set[str]] = {}
        for kind, found in items.items():
            for item in found:
                if isinstance(item, Found):
                    namespace, cluster = item.entry.namespace, item.entry.key.partition("/")[0]
                else:
                    known = self._outline(item) if kind is SECRETS else None
                    namespace, key = (
                        item["metadata"].get("namespace", ""),
                        known.key if known else noted_key(kind, item),
                    )
                    cluster = item["metadata"]["name"] if kind is CLUSTERS else key.partition("/")[0] if key else ""
                if cluster and namespace_of(cluster) == namespace:
                    owners.setdefault(namespace, set()).add(cluster)
        with self._lock:
            if scope:
                self.owners.pop(scope, None)
            else:
                self.owners.clear()
            self.owners.update(owners)

    def _read(self, kind: Kind, item: Object) -> Found | None:
        """Read a document; one that was read before in this state is not read again, and has no bytes then."""
        metadata = item["metadata"]
        owner = self.owner(metadata.get("namespace", ""))
        place, state = (kind, metadata.get("namespace"), metadata["name"]), (metadata["resourceVersion"], owner)
        before = self._before.get(place)
        if before is not None and before[0] == state:
            return None if before[1] is None else Found(before[1], None)
        found = read_object(kind, item, owner)
        self._remember(place, state, found.entry if found is not None else None)
        return found

    def _outline(self, item: Object) -> Entry | None:
        metadata = item["metadata"]
        place, state = (SECRETS, metadata.get("namespace"), metadata["name"]), (metadata["resourceVersion"], "")
        before = self._before.get(place)
        if before is None or before[0] != state:
            self._remember(place, state, entry := read_outline(item))
            return entry
        return before[1]

    def _remember(self, place: tuple[Any, ...], state: tuple[str, str], entry: Entry | None) -> None:
        if len(self._before) > 2 * len(self.known) + 1000:
            self._before.clear()  # most of it is gone from the server
        self._before[place] = (state, entry)

    def _read_secrets(self, items: list[Any]) -> Iterable[Found]:
        unknown: list[Object] = []
        for item in items:
            if isinstance(item, Found):
                yield item
            elif (entry := self._outline(item)) is not None:
                yield Found(entry, None)
            elif noted_key(SECRETS, item) is not None:
                unknown.append(item)
        for future in [self._threads.submit(self._refetch, item["metadata"]) for item in unknown]:
            refetched = future.result()
            if refetched is not None:
                yield refetched

    def _refetch(self, metadata: Object) -> Found | None:
        """Somebody else has written this Secret: what its notes say may be wrong."""
        key = metadata["annotations"][KEY_NOTE]
        known = self.known.get(key)
        if known is not None and known.resource_version == metadata["resourceVersion"]:
            return Found(known, None)
        try:
            item = self._api.ask(Ask("list", key, "get", SECRETS, metadata["namespace"], metadata["name"]))
        except NotFoundError:
            return None
        return read_object(SECRETS, item, "")

    # -- asking ------------------------------------------------------------------------------------

    def _list(self, kind: Kind, scope: str) -> list[Any]:
        if kind is not SECRETS:
            return self._list_all(kind, scope, _WHOLE)
        items = self._list_all(kind, scope, _OUTLINE)
        if any(isinstance(item, Found) for item in items):
            return items  # this server knows no outlines
        untold = sum(self._outline(item) is None and noted_key(SECRETS, item) is not None for item in items)
        return items if untold <= _REFETCHED_MAX else self._list_all(kind, scope, _Form(limit=_at_a_time(items)))

    def _list_all(self, kind: Kind, scope: str, form: _Form) -> list[Any]:
        if scope or kind.name not in self._one_by_one:
            try:
                return self._pages(kind, scope, form)
            except DeniedError as error:
                if scope or isinstance(error, RefusedError):
                    raise
                return self._list_each(kind, error, form)
        return self._list_each(kind, None, form)

    def _list_each(self, kind: Kind, denied: DeniedError | None, form: _Form) -> list[Any]:
        """List the namespaces one by one; those that may not be listed are not ours to show."""
        found: list[Any] = []
        listed = 0
        for namespace in self._namespaces(kind, denied):
            try:
                found += self._pages(kind, namespace, form)
            except DeniedError as error:
                if (kind.name, namespace) in self._listable or isinstance(error, RefusedError):
                    raise
                denied = denied or error
            else:
                listed += 1
                self._listable.add((kind.name, namespace))
        if not listed and denied is not None:
            raise denied
        self._one_by_one.add(kind.name)
        return found

    def _namespaces(self, kind: Kind, denied: DeniedError | None) -> list[str]:
        try:
            items = self._pages(NAMESPACES, "", _OUTLINE)
        except DeniedError:
            # Not even their names: what the context names, and what was listed before.
            known = {namespace for name, namespace in self._listable if name == kind.name}
            names = sorted(known | ({self._default} if self._default else set()))
            if not names and denied is not None:
                detail = f"{denied.detail}, or mount one cluster: k8s://CONTEXT/CLUSTER"
                raise DeniedError(denied.op, denied.key, detail) from denied
            return names
        return [item["metadata"]["name"] for item in items]

    def _pages(self, kind: Kind, namespace: str, form: _Form) -> list[Any]:
        """Give all objects; whole Secrets as `Found`."""
        found: list[Any] = []
        more: str | None = ""
        while more is not None:
            page, more = self._page(kind, namespace, form, more)
            if form.take is not None:
                form.take(page)
            else:
                found += page if kind is not SECRETS else map(_smaller, page)
        return found

    def _page(self, kind: Kind, namespace: str, form: _Form, after: str) -> tuple[list[Any], str | None]:
        """Give one page, and where the next begins; the JSON of Secrets is gone before that is asked for."""
        query = {
            "limit": str(form.limit),
            **(FILES if kind is SECRETS else {}),
            **({"continue": after} if after else {}),
        }
        said = self._api.ask(Ask("list", "", "list", kind, namespace, query=query, accept=form.accept))
        items = said.get("items") or []
        more = (said.get("metadata") or {}).get("continue") or None
        return (items if kind is not SECRETS else list(_files(items))), more


def _files(items: Iterable[Object]) -> Iterator[Object | Found]:
    """Read whole Secrets; outlines stay what they are."""
    for item in items:
        if "type" not in item:
            yield item
        elif (found := read_object(SECRETS, item, "")) is not None:
            yield found


def _smaller(item: Object | Found) -> Object | Found:
    return item.pack() if isinstance(item, Found) else item


def _size(item: Object) -> int:
    """Bytes of the file that a Secret's outline tells of, if they lie in that Secret."""
    notes = item["metadata"].get("annotations") or {}
    return 0 if CHUNKS_NOTE in notes else number(notes.get(SIZE_NOTE))


def _at_a_time(secrets: list[Any]) -> int:
    """How many Secrets to ask for with their bytes in one LIST."""
    return max(PAGE_MIN, min(LIST_LIMIT, PAGE_BYTES * len(secrets) // max(1, sum(map(_size, secrets)))))
