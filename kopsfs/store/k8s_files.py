"""How is one file read, written and removed?

A path that kops has an object for is that object (its *document*) while the bytes are one; anything else is a Secret of our
own type. Bytes at such a path that are no document (half-written, of another name, refused by the server's schema) are never
refused, because an editor's save would be lost: where the object exists it keeps its last good spec and carries the bytes,
with the reason, in its notes; where it does not, the bytes become a Secret and kops sees nothing yet. The object goes before
the Secret wherever both exist.

Every write names what it replaces: POST for what must be absent, `resourceVersion` on PUT, a precondition on DELETE. Where a
file changes from Secret to document, or both could be created at once, each writer looks for the other's after writing his
own and takes his back: two may both lose, never both win.

The digest in the notes is of the object as the server gives it back. Where the server has pruned or filled in something, a
second PUT corrects it; in between a reader sees the rendered document.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from kopsfs.errors import ConflictError, DeniedError, NotFoundError, OccupiedError, StoreError, TooLargeError
from kopsfs.store.driver import ABSENT, ANY, Expected, Key, Version
from kopsfs.store.k8s_api import Api, Ask, InvalidObjectError, NoNamespaceError, condemned
from kopsfs.store.k8s_chunks import Chunks
from kopsfs.store.k8s_documents import UnfitError, fit, noted, redigested
from kopsfs.store.k8s_entries import (
    CHUNKS_NOTE,
    DATA,
    MD5_NOTE,
    SIZE_NOTE,
    Entry,
    Found,
    read_object,
)
from kopsfs.store.k8s_layout import (
    BY_PLURAL,
    FILE_TYPE,
    HOME,
    KEY_NOTE,
    KINDS,
    NAMESPACES,
    SECRETS,
    SSH,
    Kind,
    Object,
    Place,
    noted_key,
)
from kopsfs.store.k8s_listing import Listing

SECRET_BYTES_MAX: Final = 1 << 20
"""What the data of one Secret may have. Source: core/v1 types.go, MaxSecretSize."""
MANAGED: Final = {"app.kubernetes.io/managed-by": "kopsfs"}
_TRIES: Final = 8
"""Of an unconditional write that meets other writers."""
_KEPT: Final = ("finalizers", "ownerReferences")
"""Metadata that is no part of the document and not ours to drop."""


class Files:
    """Single files of one server; any thread."""

    def __init__(self, api: Api, listing: Listing) -> None:
        self._api = api
        self._listing = listing
        self._chunks = Chunks(api, self._post)

    # -- reading -----------------------------------------------------------------------------------

    def find(self, op: str, place: Place) -> Found:
        """Ask for a file as it is now. Raises NotFoundError. Cost: 1 GET; 2 at a document's path that has none."""
        found = None
        if place.kind is not None:
            found = self._find_document(op, place)
        if found is None:
            found = self._find_secret(op, place)
        if found is None:
            self._listing.gone(place.key)
            raise NotFoundError(op, place.key, "no such object")
        return found

    def _find_document(self, op: str, place: Place) -> Found | None:
        item = self._get_document(op, place)
        return None if item is None else self._read(place, item)

    def _get_document(self, op: str, place: Place) -> Object | None:
        """Give the object at a document's path, if it is this file and not its namesake of another cluster."""
        assert place.kind is not None
        item = self._get(op, place, place.kind, place.name)
        return item if item is not None and self._read(place, item) is not None else None

    def _find_secret(self, op: str, place: Place) -> Found | None:
        item = self._get(op, place, SECRETS, place.secret)
        found = None if item is None else read_object(SECRETS, item, "")
        return found if found is not None and found.entry.key == place.key else None

    def _get(self, op: str, place: Place, kind: Kind, name: str) -> Object | None:
        try:
            return self._api.ask(Ask(op, place.key, "get", kind, place.namespace, name))
        except NotFoundError:
            return None

    def _read(self, place: Place, item: Object) -> Found | None:
        """Read an object at a path: without other signs it belongs to the cluster that asks for it."""
        assert place.kind is not None
        owner = self._listing.owner(place.namespace) if place.namespace in self._listing.owners else place.cluster
        found = read_object(place.kind, item, owner)
        return found if found is not None and found.entry.key == place.key else None

    def fetch(self, op: str, found: Found, into: BinaryIO) -> Entry:
        """Write a file's bytes; those of a large one are asked for chunk by chunk. Cost: 1 GET per MiB of these."""
        while True:
            entry = found.entry
            into.seek(0)
            into.truncate()
            if found.data is not None:
                into.write(found.data)
                return entry
            if self._chunks.read(op, entry, into):
                return entry
            # A chunk is gone: somebody has replaced the file meanwhile, or the store is damaged.
            item = self._api.ask(Ask(op, entry.key, "get", SECRETS, entry.namespace, entry.name))
            again = read_object(SECRETS, item, "")
            if again is None:
                raise NotFoundError(op, entry.key, "no such object")
            if again.entry == entry:
                raise self._chunks.missing(op, entry)
            found = again

    # -- writing -----------------------------------------------------------------------------------

    def put(self, place: Place, data: bytes, expected: Expected) -> Entry:
        """Write a file. Raises ConflictError, OccupiedError. Cost: see stores.md."""
        if place.kind is None:
            return self._put_anything(place, data, expected)
        try:
            item: Object | None = fit(place, data)
            reason = ""
        except UnfitError as error:
            item, reason = None, str(error)
        if expected is ANY:
            return self._overwrite(place, data, item, reason)
        if expected is ABSENT:
            return self._create(place, data, item, None)
        kind, version = _split(expected)
        if kind is place.kind:
            return self._replace(place, data, item, reason, version)
        if kind is SECRETS:
            if item is not None:
                return self._create(place, data, item, version)
            return self._replace_stand_in(place, data, version)
        raise ConflictError("put", place.key, f"expected version {expected}")

    def _put_anything(self, place: Place, data: bytes, expected: Expected) -> Entry:
        if expected is ABSENT:
            return self._create_secret(place, data)
        if expected is ANY:
            for _ in range(_TRIES):
                with contextlib.suppress(NotFoundError, ConflictError):
                    return self._update_secret(place, data, "")
                with contextlib.suppress(ConflictError):
                    return self._create_secret(place, data)
            raise ConflictError("put", place.key, "others write without pause")
        kind, version = _split(expected)
        if kind is not SECRETS:
            raise ConflictError("put", place.key, f"expected version {expected}")
        return self._update_secret(place, data, version)

    def _overwrite(self, place: Place, data: bytes, item: Object | None, reason: str) -> Entry:
        for _ in range(_TRIES):
            with contextlib.suppress(ConflictError, NotFoundError):
                try:
                    there = self.find("put", place).entry
                except NotFoundError:
                    return self._create(place, data, item, None)
                version = there.resource_version
                if there.kind is place.kind:
                    return self._replace(place, data, item, reason, version)
                if item is not None:
                    return self._create(place, data, item, version)
                return self._replace_stand_in(place, data, version)
        raise ConflictError("put", place.key, "others write without pause")

    # -- documents ---------------------------------------------------------------------------------

    def _create(self, place: Place, data: bytes, item: Object | None, secret: str | None) -> Entry:
        """Make a file that is not there, or is the Secret of version `secret`; its document, if it is one."""
        if item is not None:
            with contextlib.suppress(UnfitError, InvalidObjectError):
                return self._create_document(place, noted(item, place.key, data), data, secret)
        if secret is not None:
            return self._replace_stand_in(place, data, secret)
        entry = self._create_secret(place, data)
        if self._get_document("put", place) is not None:
            self._take_back(entry)
            raise ConflictError("put", place.key, "exists")
        return entry

    def _create_document(self, place: Place, item: Object, data: bytes, secret: str | None) -> Entry:
        assert place.kind is not None
        try:
            made = self._post(place, place.kind, item)
        except ConflictError:
            self._demand_slot(place)
            raise
        try:
            self._demand_no_secret(place, secret)
        except StoreError:
            with contextlib.suppress(StoreError):
                self._delete(place, place.kind, place.name, made["metadata"]["resourceVersion"])
            raise
        return self._settle(place, made, data)

    def _demand_slot(self, place: Place) -> None:
        """An object of this name exists; if it is another file's, say whose."""
        assert place.kind is not None
        item = self._get("put", place, place.kind, place.name)
        if item is None or self._read(place, item) is not None:
            return
        if place.kind is SSH:
            raise UnfitError("kops keeps one public key, and that is another")
        other = noted_key(place.kind, item) or f"{self._listing.owner(place.namespace)}/…"
        raise OccupiedError("put", place.key, f"{place.kind.kind} {place.name} in {place.namespace} is {other}")

    def _demand_no_secret(self, place: Place, version: str | None) -> None:
        """The document is there now: the Secret that stood for it goes, if it is the one that is to be replaced."""
        if version is None:
            if self._find_secret("put", place) is not None:
                raise ConflictError("put", place.key, "exists")
            return
        try:
            self._delete(place, SECRETS, place.secret, version)
        except NotFoundError as error:
            raise ConflictError("put", place.key, f"expected version {version}, is absent") from error

    def _replace(self, place: Place, data: bytes, item: Object | None, reason: str, version: str) -> Entry:
        """Write over a document of a version; cost: 1 GET and 1 PUT."""
        assert place.kind is not None
        there = self._get("put", place, place.kind, place.name)
        if there is None or self._read(place, there) is None:
            raise ConflictError("put", place.key, f"expected version {version}, is absent")
        if there["metadata"]["resourceVersion"] != version:
            raise ConflictError("put", place.key, f"is at version {there['metadata']['resourceVersion']}")
        if item is not None:
            try:
                sent = noted(_over(there, item), place.key, data)
                return self._settle(place, self._update(place, place.kind, place.name, sent), data)
            except (UnfitError, InvalidObjectError) as error:
                reason = error.detail if isinstance(error, InvalidObjectError) else str(error)
        try:
            sent = noted(_over(there, there), place.key, data, unfit=reason[:1000])
            return self._settle(place, self._update(place, place.kind, place.name, sent), data)
        except UnfitError as error:
            raise TooLargeError("put", place.key, str(error)) from error
        except InvalidObjectError as error:
            condemned("put", place.key, error)

    def _settle(self, place: Place, made: Object, data: bytes) -> Entry:
        """Take in what the server has made of a document; where that is not what was sent, note its digest."""
        assert place.kind is not None
        made = {"apiVersion": place.kind.api_version, "kind": place.kind.kind, **made}
        corrected = redigested(made)
        if corrected is not None:
            made = self._update(place, place.kind, place.name, corrected)
        found = self._read(place, made)
        if found is None or found.data != data:
            raise ConflictError("put", place.key, "somebody else has changed the object meanwhile")
        return self._listing.note(found, hold=False)

    # -- Secrets -----------------------------------------------------------------------------------

    def _replace_stand_in(self, place: Place, data: bytes, version: str) -> Entry:
        """Write over the Secret that stands for a document that is none yet."""
        entry = self._update_secret(place, data, version)
        if self._get_document("put", place) is not None:
            raise ConflictError("put", place.key, "the object has been created meanwhile")
        return entry

    def _create_secret(self, place: Place, data: bytes) -> Entry:
        item, generation = self._secret(place, data)
        try:
            made = self._post(place, SECRETS, item)
        except ConflictError:
            self._chunks.abandon(place, generation)
            there = self._get("put", place, SECRETS, place.secret)
            if there is not None and (other := noted_key(SECRETS, there)) != place.key:
                detail = f"Secret {place.secret} in {place.namespace} is {other or 'not a file'}"
                raise OccupiedError("put", place.key, detail) from None
            raise
        except InvalidObjectError as error:
            condemned("put", place.key, error)
        return self._note_secret(place, made, "")

    def _update_secret(self, place: Place, data: bytes, version: str) -> Entry:
        """PUT; without a version whatever is there is replaced."""
        known = self._listing.known.get(place.key)
        if known is None or known.kind is not SECRETS or (version and known.resource_version != version):
            before = self._find_secret("put", place)
            if before is None:
                raise ConflictError("put", place.key, "is absent")
            if version and before.entry.resource_version != version:
                raise ConflictError("put", place.key, f"is at version {before.entry.version}")
            known = before.entry
        item, generation = self._secret(place, data)
        if version:
            item["metadata"]["resourceVersion"] = version
        try:
            made = self._update(place, SECRETS, place.secret, item)
        except (ConflictError, NotFoundError):
            self._chunks.abandon(place, generation)
            raise
        except InvalidObjectError as error:
            condemned("put", place.key, error)
        return self._note_secret(place, made, known.chunks[0] if known.chunks else "")

    def _secret(self, place: Place, data: bytes) -> tuple[Object, str]:
        """Make the Secret of some bytes, its chunks first; give the chunks' generation, too."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        notes = {KEY_NOTE: str(place.key), SIZE_NOTE: str(len(data)), MD5_NOTE: digest}
        content, generation = {DATA: base64.b64encode(data).decode()}, ""
        if len(data) > SECRET_BYTES_MAX:
            generation, count = self._chunks.write(place, data, digest)
            notes[CHUNKS_NOTE], content = f"{generation} {count}", {}
        metadata: Object = {"name": place.secret, "namespace": place.namespace, "annotations": notes, "labels": MANAGED}
        head = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
        return {**head, "type": FILE_TYPE, "data": content}, generation

    def _note_secret(self, place: Place, made: Object, replaced: str) -> Entry:
        found = read_object(SECRETS, made, "")
        if found is None or found.entry.key != place.key:
            raise ConflictError("put", place.key, "the server has made something else of it")
        self._chunks.done(place.key)
        if found.entry.chunks or replaced:
            now = found.entry.chunks[0] if found.entry.chunks else ""
            self._chunks.tidy(place.namespace, place.secret, keep=now, replaced=replaced)
        return self._listing.note(found, hold=False)

    # -- removing ----------------------------------------------------------------------------------

    def delete(self, place: Place, expected: Expected) -> None:
        """Remove a file. Raises ConflictError, NotFoundError where a version is expected."""
        if expected is ANY:
            for _ in range(_TRIES):
                try:
                    there = self.find("delete", place).entry
                    self._delete_entry(place, there)
                except NotFoundError:
                    return
                except ConflictError:
                    continue
            return
        assert isinstance(expected, str)
        kind, version = _split(Version(expected))
        if kind is None or kind not in {place.kind, SECRETS}:
            raise ConflictError("delete", place.key, f"expected version {expected}")
        known = self._listing.known.get(place.key)
        name = place.secret if kind is SECRETS else place.name
        if known is None or known.version != expected:
            known = Entry(place.key, kind, place.namespace, name, version, 0, 0, "", ("", 0))
        self._delete_entry(place, known)

    def _delete_entry(self, place: Place, entry: Entry) -> None:
        try:
            self._delete(place, entry.kind, entry.name, entry.resource_version)
        except NotFoundError:
            self._listing.gone(place.key)
            raise
        self._listing.gone(place.key)
        if entry.kind is not SECRETS:
            shadow = self._listing.shadowed.get(place.key)
            if shadow is not None:
                with contextlib.suppress(NotFoundError, ConflictError):
                    self._delete(place, SECRETS, shadow.name, shadow.resource_version)
        elif entry.chunks is not None:
            self._chunks.tidy(place.namespace, place.secret, keep="", replaced=entry.chunks[0])

    def _take_back(self, entry: Entry) -> None:
        with contextlib.suppress(StoreError):
            self._api.ask(_deletion(entry.key, SECRETS, entry.namespace, entry.name, entry.resource_version))
        self._listing.gone(entry.key)

    def _delete(self, place: Place, kind: Kind, name: str, version: str) -> None:
        self._api.ask(_deletion(place.key, kind, place.namespace, name, version))

    # -- namespaces --------------------------------------------------------------------------------

    def _post(self, place: Place, kind: Kind, item: Object) -> Object:
        self.claim(place)
        ask = Ask("put", place.key, "create", kind, place.namespace, body=item)
        try:
            return self._api.ask(ask)
        except NoNamespaceError:
            self.make_namespace(place)
        return self._api.ask(ask)

    def _update(self, place: Place, kind: Kind, name: str, item: Object) -> Object:
        return self._api.ask(Ask("put", place.key, "update", kind, place.namespace, name, body=item))

    def make_namespace(self, place: Place) -> None:
        """Create the namespace of a cluster. Raises DeniedError saying how to."""
        metadata = {"name": place.namespace, "labels": MANAGED}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        try:
            self._api.ask(Ask("put", place.key, "create", NAMESPACES, body=body))
        except ConflictError:
            return
        except DeniedError as error:
            how = f"namespace {place.namespace} is missing: `kubectl create namespace {place.namespace}`"
            raise DeniedError("put", place.key, f"{how}; {error.detail}") from error
        except InvalidObjectError as error:
            condemned("put", place.key, error)

    def claim(self, place: Place) -> None:
        """See that the namespace is not another cluster's. Raises OccupiedError. Cost: once, 5 LISTs, if unknown."""
        if place.namespace == HOME:
            return
        owners = self._listing.owners
        if place.cluster not in owners.get(place.namespace, ()):
            self._listing.snapshot(place.namespace, frozenset(KINDS))
            there = owners.get(place.namespace)
            if there and place.cluster not in there:
                detail = f"its namespace {place.namespace} belongs to the cluster {', '.join(sorted(there))}"
                raise OccupiedError("put", place.key, f"{detail}: kops gives both names the same namespace")
            owners.setdefault(place.namespace, set()).add(place.cluster)


def _split(version: Version) -> tuple[Kind | None, str]:
    plural, slash, number = version.partition("/")
    return (BY_PLURAL.get(plural), number) if slash and number else (None, "")


def _over(there: Object, item: Object) -> Object:
    """Give the object to PUT over another: its version, and what is not the document's to say."""
    kept: Mapping[str, Any] = {name: there["metadata"][name] for name in _KEPT if name in there["metadata"]}
    given = {name: item["metadata"].get(name) or {} for name in ("labels", "annotations")}
    version, name = there["metadata"]["resourceVersion"], there["metadata"]["name"]
    namespace = there["metadata"]["namespace"]
    return {**item, "metadata": {"name": name, "namespace": namespace, "resourceVersion": version, **kept, **given}}


def _deletion(key: Key, kind: Kind, namespace: str, name: str, version: str) -> Ask:
    body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"resourceVersion": version}}
    return Ask("delete", key, "delete", kind, namespace, name, body=body)
