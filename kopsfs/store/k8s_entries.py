"""What is a file that lies in an API server, and what do we remember of it?

An `Entry` is one state of one file: which object it is, its version, size, time and digest. `read_object` makes it of an
object of the server, with its bytes where the object holds them. `Bodies` keeps bytes that came along with a listing, packed
and within a budget, until somebody asks for exactly that version; whether they may still be given is for the driver to say.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
import zlib
from calendar import timegm
from dataclasses import dataclass
from functools import lru_cache
from time import strptime
from typing import Final

from kopsfs.store.driver import Key, ObjectInfo, Version
from kopsfs.store.k8s_api import MANAGER
from kopsfs.store.k8s_documents import content, fingerprint
from kopsfs.store.k8s_layout import FILE_TYPE, SECRETS, SSH, Kind, Object, key_of

SIZE_NOTE: Final = "kopsfs.io/size"
MD5_NOTE: Final = "kopsfs.io/md5"
CHUNKS_NOTE: Final = "kopsfs.io/chunks"
"""Annotation of a large file's Secret: `GENERATION COUNT`."""
DATA: Final = "content"
"""The one key of a Secret's data."""
HELD_BYTES_MAX: Final = 32 << 20
"""Bytes of files that a listing brought and nobody has asked for yet."""
FRESH_BYTES_MAX: Final = 4 << 20
"""So many of them are kept as they are, because most are asked for at once; what comes on top is packed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One state of one file."""

    key: Key
    kind: Kind
    namespace: str
    name: str
    resource_version: str
    size: int
    mtime_ns: int
    md5: str
    chunks: tuple[str, int] | None = None
    """Generation and count, of a file that does not fit into one Secret."""

    @property
    def version(self) -> Version:
        """Names the state and the kind of object that holds it."""
        return Version(f"{self.kind.plural}/{self.resource_version}")

    @property
    def info(self) -> ObjectInfo:
        return ObjectInfo(self.key, self.version, self.size, self.mtime_ns, self.md5)


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was found: bytes are None where they lie in chunks, or did not come along."""

    entry: Entry
    data: bytes | None
    packed: bytes | None = None
    """The bytes, smaller, instead."""

    def pack(self) -> Found:
        """Give the same, smaller."""
        return self if self.data is None else Found(self.entry, None, zlib.compress(self.data, 1))

    def unpack(self) -> bytes | None:
        """Give the bytes, if they are here."""
        return self.data if self.packed is None else zlib.decompress(self.packed)

    @property
    def kept(self) -> int:
        """Bytes that it takes, as it is."""
        return len(self.data or self.packed or b"")


def read_object(kind: Kind, item: Object, owner: str) -> Found | None:
    """Make a file of an object in a namespace of the cluster `owner`; None: it is none of ours."""
    item = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
    metadata = item["metadata"]
    notes = metadata.get("annotations") or {}
    if kind is SECRETS:
        return _read_secret(item, notes)
    key_text = (item.get("spec") or {}).get("publicKey", "") if kind is SSH else ""
    key = key_of(kind, item, owner, fingerprint(str(key_text)) if kind is SSH else "")
    if key is None:
        return None
    data = content(kind, item)
    return Found(_entry(key, kind, metadata, len(data), _md5(data)), data)


def _read_secret(item: Object, notes: dict[str, str]) -> Found | None:
    metadata = item["metadata"]
    key = key_of(SECRETS, item, "")
    if key is None or item.get("type") != FILE_TYPE:
        return None
    chunks = read_chunks(notes)
    if chunks is not None:
        return Found(
            _entry(key, SECRETS, metadata, number(notes.get(SIZE_NOTE)), notes.get(MD5_NOTE, ""), chunks), None
        )
    try:
        data = base64.b64decode((item.get("data") or {}).get(DATA, ""), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    return Found(_entry(key, SECRETS, metadata, len(data), _md5(data)), data)


def read_outline(item: Object) -> Entry | None:
    """Make an entry of a Secret's metadata alone, if nobody but kopsfs has ever written it; None: ask for all of it."""
    metadata = item["metadata"]
    notes = metadata.get("annotations") or {}
    managers = {each.get("manager") for each in metadata.get("managedFields") or ()}
    key = key_of(SECRETS, item, "")
    if managers != {MANAGER} or key is None or not {SIZE_NOTE, MD5_NOTE} <= set(notes):
        return None
    return _entry(key, SECRETS, metadata, number(notes[SIZE_NOTE]), notes[MD5_NOTE], read_chunks(notes))


def read_chunks(notes: dict[str, str]) -> tuple[str, int] | None:
    """Give generation and count of a large file's chunks."""
    generation, _, count = notes.get(CHUNKS_NOTE, "").partition(" ")
    return (generation, int(count)) if generation and count.isdecimal() else None


def _entry(key: Key, kind: Kind, metadata: Object, size: int, md5: str, chunks: tuple[str, int] | None = None) -> Entry:
    namespace, name = str(metadata.get("namespace") or ""), str(metadata["name"])
    return Entry(key, kind, namespace, name, str(metadata["resourceVersion"]), size, _mtime_ns(metadata), md5, chunks)


def _mtime_ns(metadata: Object) -> int:
    """When anybody last wrote it, by the server's clock: whole seconds."""
    times = [each.get("time") for each in metadata.get("managedFields") or ()]
    return max((_instant(each) for each in (*times, metadata.get("creationTimestamp")) if each), default=0) * 10**9


@lru_cache(maxsize=4096)
def _instant(text: str) -> int:
    try:
        return timegm(strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def number(text: str | None) -> int:
    """Read a note that counts something; 0 where somebody else has written there."""
    return int(text) if text and text.isdecimal() else 0


class Bodies:
    """Bytes that came along; given once. Any thread."""

    def __init__(self, limit: int = HELD_BYTES_MAX) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._held: dict[Key, Found] = {}
        self.size = 0
        """In bytes, as they are kept."""

    def hold(self, found: Found) -> None:
        """Keep the bytes of a file, unless the budget is spent."""
        found = self.fit(found)
        key = found.entry.key
        with self._lock:
            self._drop(key)
            if (found.data, found.packed) != (None, None) and self.size + found.kept <= self._limit:
                self._held[key] = found
                self.size += found.kept

    def fit(self, found: Found) -> Found:
        """Give it as it would be kept now."""
        return found.pack() if self.size + found.kept > FRESH_BYTES_MAX else found

    def take(self, key: Key, version: Version) -> Found | None:
        """Give a file with the bytes of exactly this version and forget these; None: they are not here."""
        with self._lock:
            held = self._held.get(key)
            if held is None or held.entry.version != version:
                return None
            self._drop(key)
        return held

    def drop(self, key: Key) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self.size -= held.kept
