"""How does a file lie in several Secrets?

Data over 1 MiB fits into no Secret, so it is cut into chunks of that size, each an immutable Secret of a type of its own,
named after the file's Secret, a *generation* made up for this write, and a number. The chunks are there before the file's
Secret names their generation, so a reader finds all of a state or none; the generation before goes when it is no longer
named. What a writer that died has left is removed by whoever next writes a large file in the namespace, once it is an hour
old; a writer that took half of that for its chunks begins anew.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import logging
import secrets
import time
from calendar import timegm
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from kopsfs.errors import ConflictError, CorruptError, NotFoundError, StoreError, TransientError
from kopsfs.store.driver import Key
from kopsfs.store.k8s_api import Api, Ask
from kopsfs.store.k8s_entries import DATA, Entry, read_chunks
from kopsfs.store.k8s_layout import CHUNK_TYPE, KEY_NOTE, SECRETS, Kind, Object, Place

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1 << 20
"""What the data of one Secret may have."""
ORPHAN_S: Final = 3600.0
FILE_LABEL: Final = "kopsfs.io/file"
GENERATION_LABEL: Final = "kopsfs.io/generation"


@dataclass(slots=True)
class _Begun:
    """A write whose Secret does not name its chunks yet."""

    md5: str
    generation: str
    at: float
    """CLOCK_BOOTTIME: a suspended machine's clock goes on."""
    stored: int = 0


class Chunks:
    """Chunks of one server's files; any thread."""

    def __init__(self, api: Api, post: Callable[[Place, Kind, Object], Object]) -> None:
        self._api = api
        self._post = post
        self._begun: dict[Key, _Begun] = {}

    def write(self, place: Place, data: bytes, md5: str) -> tuple[str, int]:
        """Store the chunks of a new state; give generation and count. Cost: 1 POST per MiB.

        A write that is repeated after a lost answer goes on with the chunks it has.
        """
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        begun = self._begun.get(place.key)
        if begun is None or begun.md5 != md5 or now - begun.at > ORPHAN_S / 2:
            begun = self._begun[place.key] = _Begun(md5, secrets.token_hex(8), now)
        count = -(-len(data) // CHUNK_BYTES)
        for number in range(begun.stored, count):
            piece = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            labels = {FILE_LABEL: place.secret, GENERATION_LABEL: begun.generation}
            metadata = {
                "name": _name(place.secret, begun.generation, number),
                "namespace": place.namespace,
                "labels": {"app.kubernetes.io/managed-by": "kopsfs", **labels},
                "annotations": {KEY_NOTE: str(place.key)},
            }
            body: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": CHUNK_TYPE}
            body |= {"immutable": True, "data": {DATA: base64.b64encode(piece).decode()}}
            with contextlib.suppress(ConflictError):  # nobody else knows the generation: an earlier attempt's
                self._post(place, SECRETS, body)
            begun.stored = number + 1
        if time.clock_gettime(time.CLOCK_BOOTTIME) - begun.at > ORPHAN_S / 2:
            raise TransientError("put", place.key, "its chunks took too long")
        return begun.generation, count

    def done(self, key: Key) -> None:
        """The write of a file's Secret has been answered, one way or the other."""
        self._begun.pop(key, None)

    def abandon(self, place: Place, generation: str) -> None:
        """The write they were for was refused; unless an earlier attempt of it was not, they go."""
        self.done(place.key)
        with contextlib.suppress(StoreError):
            if generation and self._named(place.namespace, place.secret) != generation:
                self.tidy(place.namespace, place.secret, keep="", replaced=generation)

    def read(self, op: str, entry: Entry, into: BinaryIO) -> bool:
        """Write the bytes of a state; False: a chunk of it is gone. Raises CorruptError."""
        assert entry.chunks is not None
        generation, count = entry.chunks
        digest = hashlib.md5(usedforsecurity=False)
        for number in range(count):
            name = _name(entry.name, generation, number)
            try:
                item = self._api.ask(Ask(op, entry.key, "get", SECRETS, entry.namespace, name))
                piece = base64.b64decode((item.get("data") or {}).get(DATA, ""), validate=True)
            except NotFoundError:
                return False
            except (binascii.Error, ValueError):
                piece = b""
            digest.update(piece)
            into.write(piece)
        if digest.hexdigest() != entry.md5:
            raise CorruptError(op, entry.key, "the bytes of its chunks are not what its Secret says")
        return True

    @staticmethod
    def missing(op: str, entry: Entry) -> StoreError:
        """What to say where a state names chunks that are not there."""
        return CorruptError(op, entry.key, f"chunks of Secret {entry.name} in {entry.namespace} are missing")

    def tidy(self, namespace: str, secret: str, *, keep: str, replaced: str) -> None:
        """Remove the chunks of one file that are replaced, and of any file what nobody names and is old.

        Cost: 1 LIST, 1 DELETE per chunk. Failures are left for the next time.
        """
        try:
            query = {"fieldSelector": f"type={CHUNK_TYPE}", "limit": "500"}
            accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
            said = self._api.ask(Ask("list", "", "list", SECRETS, namespace, query=query, accept=accept))
            named: dict[str, str] = {secret: keep}
            for item in said.get("items") or ():
                labels = item["metadata"].get("labels") or {}
                file, generation = labels.get(FILE_LABEL, ""), labels.get(GENERATION_LABEL, "")
                if file == secret and generation == replaced != keep:
                    self._drop(namespace, item)
                elif file and time.time() - _age_from(item) > ORPHAN_S:
                    if file not in named or file == secret:
                        named[file] = self._named(namespace, file)
                    if named[file] != generation:
                        log.info("an unfinished write is removed chunk=%s", item["metadata"]["name"])
                        self._drop(namespace, item)
        except StoreError as error:
            log.info("chunks that nobody needs stay behind namespace=%s err=%s", namespace, error)

    def _drop(self, namespace: str, item: Object) -> None:
        with contextlib.suppress(NotFoundError):
            self._api.ask(Ask("delete", "", "delete", SECRETS, namespace, item["metadata"]["name"]))

    def _named(self, namespace: str, secret: str) -> str:
        """Give the generation that a file's Secret names now."""
        try:
            item = self._api.ask(Ask("list", "", "get", SECRETS, namespace, secret))
        except NotFoundError:
            return ""
        chunks = read_chunks(item["metadata"].get("annotations") or {})
        return chunks[0] if chunks else ""


def _name(secret: str, generation: str, number: int) -> str:
    return f"{secret}-{generation}-{number}"


def _age_from(item: Object) -> float:
    try:
        return float(timegm(time.strptime(item["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")))
    except (KeyError, ValueError):
        return time.time()
