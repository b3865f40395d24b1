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
from typing import BinaryIO, Final

from kopsfs.errors import CorruptError, NotFoundError, StoreError, TransientError
from kopsfs.store.k8s_api import Api, Ask
from kopsfs.store.k8s_entries import DATA, Entry, read_chunks
from kopsfs.store.k8s_layout import CHUNK_TYPE, KEY_NOTE, SECRETS, Kind, Object, Place

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1 << 20
"""What the data of one Secret may have."""
ORPHAN_S: Final = 3600.0
FILE_LABEL: Final = "kopsfs.io/file"
GENERATION_LABEL: Final = "kopsfs.io/generation"


class Chunks:
    """Chunks of one server's files; any thread."""

    def __init__(self, api: Api, post: Callable[[Place, Kind, Object], Object]) -> None:
        self._api = api
        self._post = post

    def write(self, place: Place, data: bytes) -> tuple[str, int]:
        """Store the chunks of a new state; give generation and count. Cost: 1 POST per MiB."""
        generation = secrets.token_hex(8)
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        count = -(-len(data) // CHUNK_BYTES)
        for number in range(count):
            piece = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            labels = {FILE_LABEL: place.secret, GENERATION_LABEL: generation}
            metadata = {
                "name": _name(place.secret, generation, number),
                "namespace": place.namespace,
                "labels": {"app.kubernetes.io/managed-by": "kopsfs", **labels},
                "annotations": {KEY_NOTE: str(place.key)},
            }
            body: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": CHUNK_TYPE}
            body |= {"immutable": True, "data": {DATA: base64.b64encode(piece).decode()}}
            self._post(place, SECRETS, body)
        if time.clock_gettime(time.CLOCK_BOOTTIME) - began > ORPHAN_S / 2:
            raise TransientError("put", place.key, "its chunks took too long")
        return generation, count

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

    def remove(self, namespace: str, secret: str, generation: str) -> None:
        """Remove the chunks of a write that was refused; what cannot be removed now is later."""
        if generation:
            self.tidy(namespace, secret, keep="", replaced=generation)

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
                if file == secret and replaced and generation == replaced:
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
