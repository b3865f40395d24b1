"""What does an answer of Google Cloud Storage mean?

Pure functions from headers and JSON to values and errors. Act on reasons and statuses; the one exception is a
404, whose reason is `notFound` both for an object and for its bucket, and whose words tell which.

Source: Google "Cloud Storage JSON API: status and error codes", "Objects", "Preconditions".
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final, NamedTuple

from kopsfs.errors import (
    ConflictError,
    DeniedError,
    QuotaError,
    RefusedError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
)
from kopsfs.store.driver import Answer, Key, ObjectInfo, Page, Prefix, Version
from kopsfs.store.rest import http_date_ns, iso_date_s, kind_of, made, page_in_order

FIELDS: Final = "name,generation,size,timeCreated,md5Hash"
"""What is asked of an object; nothing else is sent back."""
GONE: Final = "bucket does not exist"

_REASONS: Final[dict[str, type[StoreError]]] = {
    "conditionNotMet": ConflictError,
    "rateLimitExceeded": TransientError,
    "userRateLimitExceeded": TransientError,
    "backendError": TransientError,
    "internalError": TransientError,
    "quotaExceeded": QuotaError,
    "dailyLimitExceeded": QuotaError,
    "uploadTooLarge": TooLargeError,
    "retentionPolicyNotMet": DeniedError,
}


class Fault(NamedTuple):
    """What an error answer says of itself."""

    status: int
    reason: str
    """Google's word for it; empty where the body is plain text (media)."""
    message: str

    @property
    def detail(self) -> str:
        """One line for people."""
        return " ".join(f"{self.status} {self.reason} {self.message}".split())[:400]


def fault(answer: Answer) -> Fault:
    """Read an error answer, a JSON document or, of media, plain text."""
    text = answer.body.decode("utf-8", "replace").strip()
    try:
        error = json.loads(text)["error"]
        rows = error.get("errors") or [{}]
        return Fault(answer.status, str(rows[0].get("reason", "")), str(error.get("message", "")))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return Fault(answer.status, "", "" if text.startswith("<") else text[:300])


def error_of(op: str, key: str, bucket: str, answer: Answer, found: Fault) -> StoreError:
    """Give our error for an answer that is not a success, with what a person can do about it."""
    kind = _REASONS.get(found.reason) or kind_of(found.status)
    detail = found.detail
    if found.status == 404 and (op in {"put", "list"} or GONE in found.message):
        return StoreGoneError(op, key, f"{detail}: no bucket {bucket}: make it, or correct the URL")
    if kind is DeniedError and found.reason in {"insufficientPermissions", "insufficientScopes"}:
        detail += "; give the machine the access scope devstorage.full_control"
    elif kind is RefusedError:
        detail += "; set GOOGLE_APPLICATION_CREDENTIALS to a good key, or run `gcloud auth application-default login`"
    elif kind is DeniedError and found.reason == "forbidden":
        detail += f"; grant roles/storage.object{'Viewer' if op in {'get', 'head', 'list'} else 'User'} on {bucket}"
    elif found.status == 400 and found.reason == "required" and "user project" in found.message:
        kind = DeniedError
        detail += "; set quota_project_id: `gcloud auth application-default set-quota-project PROJECT`"
    return made(kind, op, key, detail, answer)


def document(op: str, key: str, answer: Answer) -> dict[str, Any]:
    """Read a JSON document. Raises TransientError for anything else."""
    try:
        row = json.loads(answer.body)
    except ValueError as error:
        raise TransientError(op, key, f"the answer is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise TransientError(op, key, "the answer is not a JSON object")
    return row


def info_of_row(op: str, key: str, row: dict[str, Any]) -> ObjectInfo:
    """Read an object resource."""
    try:
        return _object(row)
    except (KeyError, ValueError, TypeError) as error:
        raise TransientError(op, key, f"the answer is not an object of GCS: {error!r}") from error


def _object(row: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        Key(row["name"]),
        Version(row["generation"]),
        int(row["size"]),
        _iso_date_ns(row.get("timeCreated", "")),
        _hex(row.get("md5Hash", "")),
    )


def info_of_media(key: Key, answer: Answer) -> ObjectInfo:
    """Read the headers of an object's bytes; the size is that of what is stored."""
    headers = answer.headers
    generation = headers.get("x-goog-generation")
    if not generation:
        raise TransientError("get", key, "the answer has no x-goog-generation: not Google Cloud Storage?")
    delivered = headers.get("content-length")
    size = len(answer.body) if delivered is None else int(delivered)
    if headers.get("x-goog-stored-content-length", str(size)) != str(size):
        raise TransientError("get", key, "a proxy changed the length of the object")
    when = headers.get("last-modified") or headers.get("date", "")
    return ObjectInfo(key, Version(generation), size, http_date_ns(when), _hex(_md5_of(headers)))


def _md5_of(headers: dict[str, str]) -> str:
    """Out of `x-goog-hash: crc32c=n03x6A==,md5=Ojk9…`; an object put together from others has no MD5."""
    return headers.get("x-goog-hash", "").partition("md5=")[2].partition(",")[0]


def page_of(prefix: Prefix, answer: Answer) -> Page:
    """Read one page. Raises TransientError for anything that is not a whole listing. CPU: about 4 us a key."""
    row = document("list", prefix, answer)
    try:
        objects = [_object(item) for item in row.get("items", ())]
        page = page_in_order(objects, row.get("prefixes", ()), row.get("nextPageToken") or None)
    except (KeyError, ValueError, TypeError) as error:
        raise TransientError("list", prefix, f"the answer is not a listing of GCS: {error!r}") from error
    if "error" in row:
        raise TransientError("list", prefix, f"the answer is not a listing of GCS: {fault(answer).detail}")
    return page


def _hex(md5: str) -> str | None:
    if not md5:
        return None
    try:
        return binascii.a2b_base64(md5).hex()
    except binascii.Error:
        return None


def base64_of(digest: bytes) -> str:
    """As GCS writes digests."""
    return base64.b64encode(digest).decode()


def _iso_date_ns(text: str) -> int:
    """Unix time in ns of `2026-11-21T04:05:06.123Z`; 0 where there is none."""
    if not text:
        return 0
    fraction = text[20:].rstrip("Z") if text[19:20] == "." else ""
    return iso_date_s(text[:19]) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9])
