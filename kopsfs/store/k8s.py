"""How does a Kubernetes API server serve as a store?

`k8s://[CONTEXT][/CLUSTER...]` shows kops's own resources as the files kops keeps elsewhere: `<cluster>/config` is the
Cluster, `instancegroup/<n>` an InstanceGroup, `pki/private/<n>/keyset.yaml` and `secrets/<n>` Keysets, `pki/ssh/public/admin/<fp>`
the SSHCredential, and every other file a Secret of our own type (`k8s_layout`). kops's clientset and kopsfs see the same
objects, and what was written is what is read (`k8s_documents`, `k8s_files`).

A version is a `resourceVersion` with the kind of object that holds the file, because a path can change from Secret to
document; every condition is one the API server compares and swaps by. Listings are gathered over kinds (`k8s_listing`) and
bring the bytes along, so a GET right after one costs nothing: bytes are given without asking only for exactly the version
that a listing of the last seconds has shown, HEAD always asks, and a listing always does. The watch (`k8s_watch`) only ever
says where to look.

The transport is urllib3, not the `kubernetes` client's: models of a thousand objects cost it seconds, and what it does not
know of an object it drops. Context, credentials and plugins are that client's (`k8s_credentials`).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
from collections.abc import Callable
from typing import BinaryIO, Final

from kopsfs.errors import TooLargeError
from kopsfs.store.driver import NO_PREFIX, Capabilities, Expected, Key, ObjectInfo, Page, Prefix
from kopsfs.store.k8s_api import Api
from kopsfs.store.k8s_credentials import Access
from kopsfs.store.k8s_entries import Bodies, read_object
from kopsfs.store.k8s_files import Files
from kopsfs.store.k8s_layout import Kind, Object, kinds_below, place_of, scope_of
from kopsfs.store.k8s_listing import Listing, Snapshot
from kopsfs.store.k8s_watch import Feed
from kopsfs.store.memory import KEY_BYTES_MAX, cut_page
from kopsfs.store.url import Location, Settings

log = logging.getLogger(__name__)

OBJECT_SIZE_MAX: Final = 16 << 20
"""Sixteen chunks; etcd is not made for more."""
SNAPSHOTS_MAX: Final = 4
"""Listings under way whose next page is cut from what was gathered for the first."""
CONCURRENCY: Final = 32
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h."""


def open_driver(location: Location, settings: Settings) -> K8sDriver:
    """Open a context. Asks nothing and runs no plugin. Raises ConfigError."""
    _return_what_is_freed()
    access = Access(location.bucket, settings.environ, ca_file=settings.ca_file)
    return K8sDriver(access, prefix=location.prefix, page_size=settings.page_size)


class K8sDriver:
    """The contract over one API server. Methods block and may be called from several threads."""

    def __init__(self, access: Access, *, prefix: Prefix = NO_PREFIX, page_size: int = 1000) -> None:
        self.capabilities = Capabilities(
            create_only="atomic",
            replace_if="atomic",
            delete_if="atomic",
            change_feed="watch",
            object_size_max=OBJECT_SIZE_MAX,
            key_bytes_max=KEY_BYTES_MAX,
            concurrency_max=CONCURRENCY,
        )
        self._access = access
        self._prefix = prefix
        self._page_size = page_size
        self._api = Api(access, connections_max=CONCURRENCY)
        self._bodies = Bodies()
        self._listing = Listing(self._api, self._bodies, access.namespace)
        self._files = Files(self._api, self._listing)
        self._snapshots: dict[str, Snapshot] = {}
        self._serials = itertools.count()
        self._feed: Feed | None = None

    # -- the six -----------------------------------------------------------------------------------

    def head(self, key: Key, /) -> ObjectInfo:
        """Ask. Cost: 1 GET; 2 where kops has an object for the path and there is none."""
        found = self._files.find("head", place_of("head", key))
        return self._listing.note(found, hold=True).info

    def get(self, key: Key, into: BinaryIO, /) -> ObjectInfo:
        """Give bytes. Cost: none right after a listing that brought them; else as HEAD; 1 more per MiB over the first."""
        place = place_of("get", key)
        held = self._listing.held(key)
        if held is not None:
            into.seek(0)
            into.truncate()
            into.write(held[1])
            return held[0].info
        found = self._files.find("get", place)
        entry = self._files.fetch("get", found, into)
        if entry == found.entry:
            self._listing.note(found, hold=False)
        return entry.info

    def put(self, key: Key, data: BinaryIO, size: int, /, *, expected: Expected) -> ObjectInfo:
        """Write. Cost: 1 request for a Secret, 2 for a document; 1 more per MiB over the first."""
        place = place_of("put", key)
        if size > OBJECT_SIZE_MAX:
            raise TooLargeError("put", key, f"{size} bytes; an API server takes {OBJECT_SIZE_MAX} in chunks")
        return self._files.put(place, data.read(size), expected).info

    def delete(self, key: Key, /, *, expected: Expected) -> None:
        """Remove. Cost: 1 DELETE; 1 or 2 GETs more without a version."""
        self._files.delete(place_of("delete", key), expected)

    def list_page(self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None) -> Page:
        """Give one page. Cost: the first 1 LIST per kind and 500 objects; the others none, while they are soon."""
        serial, _, at = (token or "").partition(" ")
        snapshot = self._snapshots.pop(serial, None)
        if snapshot is None:
            scope = scope_of(prefix)
            snapshot = self._listing.snapshot(scope, frozenset(kinds_below(prefix)))
        after = bytes.fromhex(at) if token is not None else (start_after or "").encode()
        page = cut_page(
            snapshot.order,
            lambda key: snapshot.entries[key].info,
            prefix,
            delimiter=delimiter,
            after=after,
            limit=self._page_size,
        )
        if page.token is None:
            return page
        serial = f"{next(self._serials):x}"
        self._snapshots[serial] = snapshot
        while len(self._snapshots) > SNAPSHOTS_MAX:
            self._snapshots.pop(next(iter(self._snapshots)), None)
        return Page(page.objects, page.prefixes, f"{serial} {page.token}")

    def describe(self) -> dict[str, object]:
        """Server, context, who asks, what is watched; never a credential."""
        feed = self._feed
        return {
            "kind": "k8s",
            "server": self._access.server,
            "context": self._access.context or "in cluster",
            "user": self._access.user,
            "credentials": self._access.origin,
            "watch": dict(feed.state) if feed is not None else {},
        }

    def close(self) -> None:
        """End the watch and let go of connections."""
        if self._feed is not None:
            self._feed.stop()
        self._listing.forget()
        self._api.close()

    # -- beside them -------------------------------------------------------------------------------

    def watch(self, changed: Callable[[Key], None], /) -> Callable[[], None]:
        """Have `changed(key)` called from any thread when the server says so; the answer ends that. Cost: 2 requests per kind."""
        feed = self._feed = Feed(self._api, scope_of(self._prefix), self._name, changed)
        return feed.stop

    def _name(self, kind: Kind, item: Object) -> Key | None:
        found = read_object(kind, item, self._listing.owner(item["metadata"].get("namespace", "")))
        return None if found is None else found.entry.key

    def reload_credentials(self) -> None:
        """Read the kubeconfig again before the next request (SIGHUP)."""
        self._access.reload()


def _return_what_is_freed() -> None:
    """Have glibc give the pages of listings back: in the arenas of 40 threads it keeps 20 MB of them for good (measured).

    Source: mallopt(3), M_MMAP_THRESHOLD: it grows with what is freed, and with it what is kept, unless it is set.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 128 << 10)
        mallopt(M_TRIM_THRESHOLD, 2 << 20)
