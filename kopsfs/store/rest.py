"""What have all stores in common that are spoken to over HTTP?

Keys as paths, digests of bodies, what HTTP itself says in a status or a header, and a clock that is not the server's.
What sets a store apart stands in its own modules.
"""

from __future__ import annotations

import calendar
import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from operator import attrgetter
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote

from kopsfs.errors import (
    ConflictError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    QuotaError,
    RefusedError,
    StoreError,
    TooLargeError,
    TransientError,
    UnsupportedError,
)
from kopsfs.store.driver import Answer, ObjectInfo, Page, Prefix, Version

K = TypeVar("K")
V = TypeVar("V")

HASHED_MAX: Final = 4 << 20
"""A larger body is sent without its digest: reading it twice would stall the loop for over 3 ms."""
SKEW_STEP_S: Final = 60.0
"""A clock that was corrected and is refused again within this is not the clock's fault."""
RECENT_MAX: Final = 1024
CONTENT_HEADERS: Final = frozenset(
    {"content-type", "cache-control", "content-disposition", "content-encoding", "content-language"}
)
"""What most stores keep of an object besides its bytes."""


class Recent(dict[K, V]):
    """The last so many things noted; what was noted longest ago is forgotten first."""

    def __init__(self, most: int = RECENT_MAX) -> None:
        super().__init__()
        self._most = most

    def note(self, key: K, value: V) -> None:
        """Note it as the newest."""
        self.pop(key, None)
        self[key] = value
        if len(self) > self._most:
            del self[next(iter(self))]


class Kept:
    """With `--keep-metadata`: headers of the answers about a key, which its next PUT has to say again."""

    def __init__(self, names: Collection[str], own: str, *, on: bool, before: str = "") -> None:
        """`own` is how names begin that users made up; of `names` a PUT says each with `before` before it."""
        self._names = names
        self._own = own
        self._on = on
        self._before = before
        self._recent: Recent[str, dict[str, str]] = Recent()

    def note(self, key: str, answer: Answer) -> None:
        """Take over what an answer to a HEAD or GET says."""
        if not self._on:
            return
        kept = {}
        for name, value in answer.headers.items():
            if name in self._names:
                kept[self._before + name] = value
            elif name.startswith(self._own):
                kept[name] = value
        self._recent.note(key, kept)

    def of(self, key: str) -> Mapping[str, str]:
        """Give what was noted; it stays, because a PUT may be sent more than once."""
        return self._recent.get(key, {})


# -- asking ----------------------------------------------------------------------------------------


def path_of(op: str, key: str, bytes_max: int, safe: str = "/") -> str:
    """Percent-encode a key byte for byte. Raises InvalidKeyError for what no store over HTTP can hold."""
    try:
        path = quote(key, safe=safe)
    except UnicodeEncodeError as error:
        raise InvalidKeyError(op, key, "not Unicode text") from error
    if not key:
        raise InvalidKeyError(op, key, "an empty key")
    if len(key) > bytes_max // 4 and len(key.encode()) > bytes_max:
        raise InvalidKeyError(op, key, f"longer than {bytes_max} bytes")
    return path


def digest_of(name: str, body: bytes | BinaryIO, size: int) -> Any:
    """Give hashlib's digest of a body, which is left where it stands; None for one that is too large."""
    if size > HASHED_MAX:
        return None
    if isinstance(body, bytes):
        return hashlib.new(name, body, usedforsecurity=False)
    at = body.tell()
    digest = hashlib.new(name, body.read(size), usedforsecurity=False)
    body.seek(at)
    return digest


# -- answers ---------------------------------------------------------------------------------------


def kind_of(status: int) -> type[StoreError]:
    """Give our error for a status that the store itself says nothing more of. Source: RFC 9110, 4918, 6585."""
    match status:
        case 401:
            return RefusedError
        case 403:
            return DeniedError
        case 404:
            return NotFoundError
        case 405 | 501:
            return UnsupportedError
        case 408 | 409 | 425 | 429:
            return TransientError
        case 412:
            return ConflictError
        case 413:
            return TooLargeError
        case 414:
            return InvalidKeyError
        case 507:
            return QuotaError
        case _ if status >= 500 or status < 400:
            # A success or a redirect that the store did not write: a proxy or a captive portal stands between.
            return TransientError
        case _:
            return StoreError


def made(kind: type[StoreError], op: str, key: str, detail: str, answer: Answer) -> StoreError:
    """Make an error; one to try again knows when."""
    if issubclass(kind, TransientError):
        return kind(op, key, detail, retry_after_s=retry_after(answer))
    return kind(op, key, detail)


def retry_after(answer: Answer) -> float:
    """Seconds that the server asks us to wait; 0 where it does not."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdigit() else 0.0


def size_of(answer: Answer) -> int:
    """Of the body in bytes; of one that went into a file only the headers say it."""
    size = answer.headers.get("content-length")
    return len(answer.body) if size is None else int(size)


def version_of(etag: str) -> Version:
    """Give the version that an ETag names: without its quotes, a weak one whole."""
    if len(etag) >= 2 and etag[0] == etag[-1] == '"':
        return Version(etag[1:-1])
    return Version(etag)


def page_in_order(objects: list[ObjectInfo], groups: Iterable[str], token: str | None) -> Page:
    """Make a page, in the order that the contract wants and not every server keeps."""
    objects.sort(key=_by_key)
    return Page(objects, sorted(map(Prefix, groups)), token)


_by_key = attrgetter("key")


def skew_of(answer: Answer, now: float, known_s: float) -> float | None:
    """By how many seconds the server's clock is ahead of ours; None where it does not say, or says what is known."""
    now_ns = http_date_ns(answer.headers.get("date", ""))
    skew_s = now_ns / 1e9 - now
    return skew_s if now_ns and abs(skew_s - known_s) >= SKEW_STEP_S else None


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@functools.lru_cache(maxsize=4096)
def http_date_ns(text: str) -> int:
    """Unix time in ns of `Last-Modified` or `Date`; 0 if it is none. Source: RFC 9110 section 5.6.7."""
    try:
        # The form every server uses, `Sat, 21 Nov 2026 04:44:44 GMT`; the library takes four times as long.
        month = _MONTHS.index(text[8:11]) + 1
        if text[25:] == " GMT" and text[16] == " ":
            parts = (int(text[12:16]), month, int(text[5:7]), int(text[17:19]), int(text[20:22]), int(text[23:25]))
            return calendar.timegm(parts) * 1_000_000_000
    except (ValueError, IndexError):
        pass
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0
    return calendar.timegm(moment.utctimetuple()) * 1_000_000_000


@functools.lru_cache(maxsize=4096)
def iso_date_s(text: str) -> int:
    """Unix time of `2026-11-21T04:05:06`, which is UTC."""
    return calendar.timegm(datetime.fromisoformat(text).timetuple())
