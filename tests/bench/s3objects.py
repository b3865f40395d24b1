"""What does the bench's S3 server hold, and which writes did it accept?

`Bucket` is one dict from key to `Object`; the server is one thread, so compare and swap in
`Bucket.write` is atomic. Keys are bytes: S3 lists in the byte order of UTF-8, and bytes sort that way.
Nothing here knows HTTP; conditions arrive as the header's text and leave as an `Outcome`.
"""

from __future__ import annotations

import base64
import hashlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from typing import Any
from urllib.parse import quote_plus

KEPT_HEADERS = (b"content-type", b"content-encoding", b"cache-control", b"content-disposition", b"x-amz-storage-class")
"""Request headers that come back with the object, beside `x-amz-meta-*` and the encryption headers."""


class Outcome(Enum):
    """How a conditional write ended."""

    DONE = 200
    NO_SUCH_KEY = 404
    FAILED = 412


@dataclass(slots=True, eq=False)
class Object:
    """One state of one key."""

    key: bytes
    data: bytes
    etag: str
    """Without quotes; the MD5 of the data unless it came in parts."""
    modified_s: int
    version_id: str
    meta: dict[bytes, bytes]
    head: bytes = b""
    """Response headers, made once."""
    entries: dict[tuple[bool, bool], bytes] = field(default_factory=dict)
    """Its XML in listings, made once per form (url-encoded?, with owner?)."""

    def headers(self) -> bytes:
        """Give the header lines of a GET or HEAD answer, without Content-Length."""
        if not self.head:
            lines = [
                f'ETag: "{self.etag}"'.encode(),
                b"Last-Modified: " + formatdate(self.modified_s, usegmt=True).encode(),
                b"Accept-Ranges: bytes",
            ]
            if b"content-type" not in self.meta:
                lines.append(b"Content-Type: binary/octet-stream")
            if self.version_id != "null":
                lines.append(b"x-amz-version-id: " + self.version_id.encode())
            lines += [name + b": " + value for name, value in self.meta.items()]
            self.head = b"\r\n".join(lines) + b"\r\n"
        return self.head

    def entry(self, *, url: bool, owner: bool) -> bytes:
        """Give the `<Contents>` of a listing."""
        made = self.entries.get((url, owner))
        if made is None:
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.modified_s))
            made = (
                b"<Contents><Key>" + listed(self.key, url=url) + b"</Key>"
                b"<LastModified>" + when.encode() + b"</LastModified>"
                b"<ETag>&quot;" + self.etag.encode() + b"&quot;</ETag>"
                b"<Size>"
                + str(len(self.data)).encode()
                + b"</Size>"
                + (b"<Owner><ID>bench</ID><DisplayName>bench</DisplayName></Owner>" if owner else b"")
                + b"<StorageClass>STANDARD</StorageClass></Contents>"
            )
            self.entries[url, owner] = made
        return made


def listed(key: bytes, *, url: bool) -> bytes:
    """Write a key as a listing does: AWS's url form (a space is `+`), else XML with character references."""
    if url:
        return quote_plus(key, safe="/-_.*").encode()
    text = key.decode("utf-8", "surrogateescape")
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    if not plain.isprintable():
        plain = "".join(c if c >= " " and c != "\x7f" else f"&#x{ord(c):x};" for c in plain)
    return plain.encode("utf-8", "surrogateescape")


def above(prefix: bytes) -> bytes:
    """Give the smallest string above everything that starts with `prefix` (which holds no 0xff, being UTF-8)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@dataclass(slots=True)
class Listing:
    """One page of a listing, V1 or V2."""

    objects: list[Object]
    groups: list[bytes]
    next_after: bytes | None
    """Where the next page continues: the last key or group of this one."""


@dataclass(slots=True)
class Bucket:
    """The objects of one bucket, and the history of accepted writes."""

    name: str
    versioned: bool = False
    encryption: str = ""
    """Default encryption's algorithm; empty: none set."""
    objects: dict[bytes, Object] = field(default_factory=dict)
    writes: list[dict[str, Any]] = field(default_factory=list)
    """Every accepted PUT and DELETE in order, by anybody."""
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)
    """Keys in byte order; made again by `sorted_keys` after `order_is_old`."""
    order_is_old: bool = False
    sequence: int = 0

    def sorted_keys(self) -> list[bytes]:
        if self.order_is_old:
            self.order = sorted(self.objects)
            self.order_is_old = False
        return self.order

    def check(self, key: bytes, if_match: str, if_none_match: str, *, unquoted: bool = False) -> Outcome:
        """Compare without swapping. `unquoted`: as Ceph 16 does, a quoted tag never matches."""
        there = self.objects.get(key)
        if if_none_match and there is not None and (if_none_match == "*" or _is_tag(if_none_match, there.etag)):
            return Outcome.FAILED
        if if_match:
            if there is None:
                return Outcome.NO_SUCH_KEY
            if unquoted and if_match.startswith('"'):
                return Outcome.FAILED
            if if_match != "*" and not _is_tag(if_match, there.etag):
                return Outcome.FAILED
        return Outcome.DONE

    def put(
        self,
        key: bytes,
        data: bytes,
        meta: dict[bytes, bytes],
        *,
        etag: str = "",
        modified_s: float | None = None,
        **said: object,
    ) -> Object:
        """Store, unconditionally: the caller has just checked, and nothing ran in between."""
        before = self.objects.get(key)
        if before is None:
            self.order_is_old = True
        self.sequence += 1
        version_id = f"v{self.sequence:012d}" if self.versioned else "null"
        made = Object(
            key,
            data,
            etag or hashlib.md5(data).hexdigest(),
            int(time.time() if modified_s is None else modified_s),
            version_id,
            meta,
        )
        self.objects[key] = made
        self._record("PUT", key, before, made, said)
        return made

    def delete(self, key: bytes, **said: object) -> Object | None:
        """Remove; gives what was there."""
        before = self.objects.pop(key, None)
        if before is not None:
            self.order_is_old = True
            self.sequence += 1
            self._record("DELETE", key, before, None, said)
        return before

    def _record(
        self, verb: str, key: bytes, before: Object | None, after: Object | None, said: dict[str, object]
    ) -> None:
        self.writes.append(
            {
                "seq": self.sequence,
                "time": time.time(),
                "verb": verb,
                "key": key.decode("utf-8", "surrogateescape"),
                "before": before.etag if before else None,
                "etag": after.etag if after else None,
                "size": len(after.data) if after else None,
                **said,
            }
        )

    def page(self, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Listing:
        """List at most `limit` objects and groups above `after`; a group named by `after` is not repeated."""
        found = Listing([], [], None)
        if limit <= 0:
            return found
        for position, name, thing in self._walk(prefix, delimiter, after):
            if len(found.objects) + len(found.groups) == limit:
                found.next_after = position
                break
            if thing is None:
                found.groups.append(name)
            else:
                found.objects.append(thing)
        return found

    def _walk(self, prefix: bytes, delimiter: bytes, after: bytes) -> Iterator[tuple[bytes, bytes, Object | None]]:
        """Yield (name before this one, name, object or None for a group)."""
        keys = self.sorted_keys()
        objects = self.objects
        if delimiter and after.startswith(prefix) and after.endswith(delimiter) and len(after) > len(prefix):
            at = bisect_left(keys, above(after))
        else:
            at = bisect_right(keys, after) if after >= prefix else bisect_left(keys, prefix)
        last = after
        while at < len(keys) and keys[at].startswith(prefix):
            key = keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                yield last, key, objects[key]
                last = key
                at += 1
            else:
                group = key[: cut + len(delimiter)]
                yield last, group, None
                last = group
                at = bisect_left(keys, above(group), at)


def _is_tag(header: str, etag: str) -> bool:
    return any(part.strip().strip('"') == etag for part in header.split(","))


def token_of(after: bytes) -> str:
    """Make a continuation token: opaque to clients, and without meaning when used as a key."""
    return "1" + base64.urlsafe_b64encode(after).decode().rstrip("=")


def after_of(token: str) -> bytes:
    """Read it back.

    Raises:
        ValueError: not one of ours.
    """
    if not token.startswith("1"):
        raise ValueError(token)
    return base64.urlsafe_b64decode(token[1:] + "=" * (-len(token[1:]) % 4))
