"""What does an answer of S3 mean?

Pure functions from bytes and headers to values and errors: listings, the one table from S3's error codes to our
closed tree, and what a person can do about an error. Act on codes and statuses, never on messages.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, unquote_plus
from xml.parsers import expat

from kopsfs.errors import (
    ConflictError,
    InvalidKeyError,
    NotFoundError,
    QuotaError,
    RefusedError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
    UnsupportedError,
)
from kopsfs.store.driver import Answer, Key, ObjectInfo, Page, Prefix
from kopsfs.store.rest import iso_date_s, kind_of, made, page_in_order, version_of
from kopsfs.store.xml_answers import flat, listing_of


class Fault(NamedTuple):
    """What an error answer says of itself."""

    status: int
    code: str
    """S3's word for it; empty where there is no XML (HEAD, proxies)."""
    detail: str
    """One line for people."""
    fields: dict[str, str]
    """The elements of the error document, `Region` and `ArgumentName` among them."""


_CODES: Final[dict[str, type[StoreError]]] = {
    "NoSuchKey": NotFoundError,
    "NoSuchVersion": NotFoundError,
    "NoSuchBucket": StoreGoneError,
    "PreconditionFailed": ConflictError,
    "ConditionalRequestConflict": TransientError,
    "OperationAborted": TransientError,
    "NotImplemented": UnsupportedError,
    "MethodNotAllowed": UnsupportedError,
    "KeyTooLongError": InvalidKeyError,
    "KeyTooLong": InvalidKeyError,
    "InvalidObjectName": InvalidKeyError,
    "XMinioInvalidObjectName": InvalidKeyError,
    "InvalidURI": InvalidKeyError,
    "EntityTooLarge": TooLargeError,
    "QuotaExceeded": QuotaError,
    "XMinioAdminBucketQuotaExceeded": QuotaError,
    "StorageFull": QuotaError,
    "ExpiredToken": RefusedError,
    "ExpiredTokenException": RefusedError,
    "TokenRefreshRequired": RefusedError,
    "RequestExpired": RefusedError,
    "InvalidToken": RefusedError,
    "SlowDown": TransientError,
    "SlowDownRead": TransientError,
    "SlowDownWrite": TransientError,
    "ServiceUnavailable": TransientError,
    "InternalError": TransientError,
    "RequestTimeout": TransientError,
    "RequestTimeTooSkewed": TransientError,
    "IncompleteBody": TransientError,
    "BadDigest": TransientError,
    "XAmzContentSHA256Mismatch": TransientError,
    "TooManyRequests": TransientError,
}
"""Source: AWS "Amazon S3 API Reference, Error responses"; `rgw_common.h` of Ceph; MinIO's api-errors.go for X...."""

WRONG_REGION: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "TemporaryRedirect",
        "Redirect",
        "IllegalLocationConstraintException",
    }
)
_RIGHTS: Final = {
    "list": "s3:ListBucket",
    "head": "s3:GetObject",
    "get": "s3:GetObject",
    "put": "s3:PutObject",
    "delete": "s3:DeleteObject",
}
_CONDITIONS: Final = frozenset({"if-match", "if-none-match"})


def fault(answer: Answer) -> Fault:
    """Read an error answer; whatever is not an S3 error document has no code."""
    fields = flat(answer.body)
    code = fields.get("Code", "")
    words = [str(answer.status), code, fields.get("Message", "")]
    if not code and (location := answer.headers.get("location")):
        words.append(f"redirected to {location}")
    return Fault(answer.status, code, " ".join(" ".join(words).split())[:300], fields)


def advice(op: str, bucket: str, found: Fault, *, custom: bool) -> str:
    """What to set, as the end of a message; `custom`: the bucket is where S3_ENDPOINT says. Empty: nobody knows."""
    pair = "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY" if custom else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    region = "S3_REGION" if custom else "AWS_REGION"
    match found.code:
        case "InvalidAccessKeyId":
            return f"; set {pair}" + ("" if custom else ", or AWS_PROFILE")
        case "SignatureDoesNotMatch":
            return f"; set {pair.rpartition(' ')[2]}" + (f", and {region} to the endpoint's" if custom else "")
        case code if _CODES.get(code) is RefusedError:
            return f"; set {pair}" + ("" if custom else " and AWS_SESSION_TOKEN anew, or `aws sso login`")
        case code if code in WRONG_REGION:
            return f"; set {region}" + (" or S3_ENDPOINT" if custom else "")
        case "NoSuchBucket":
            return f"; make the bucket {bucket}, or correct the URL" + (" or S3_ENDPOINT" if custom else "")
        case "RequestTimeTooSkewed":
            return "; set this machine's clock"
        case "AccessDenied" | "" if found.status == 403 and op in _RIGHTS:
            return f"; allow {_RIGHTS[op]} on {bucket}"
        case _:
            return ""


def error_of(op: str, key: str, answer: Answer, found: Fault) -> StoreError:
    """Give our error for an answer that is not a success."""
    status, code, detail, fields = found
    kind = _CODES.get(code)
    if kind is None and status in {400, 501} and fields.get("ArgumentName", "").lower() in _CONDITIONS:
        kind = UnsupportedError
    return made(kind or kind_of(status), op, key, detail, answer)


def page_of(prefix: Prefix, answer: Answer, *, plus: bool = True) -> Page:
    """Read one page. Raises TransientError for anything that is not a whole listing. CPU: about 6 us a key.

    `plus`: in an encoded name `+` stands for a space (S3), and not for itself (OSS).
    """
    try:
        rows, groups, top = listing_of(
            answer.body, "ListBucketResult", row="Contents", group="CommonPrefixes", member="Prefix"
        )
        encoded = top.get("EncodingType") == "url"
        plain = (_unquoted if plus else unquote) if encoded else str
        objects = [
            ObjectInfo(
                Key(plain(row["Key"])),
                version_of(row["ETag"]),
                int(row["Size"]),
                iso_date_s(row.get("LastModified", "")[:19]) * 1_000_000_000,
            )
            for row in rows
        ]
    except (expat.ExpatError, ValueError, KeyError) as exc:
        raise TransientError("list", prefix, f"the answer is not a listing of S3: {exc}") from exc
    token = None
    if top.get("IsTruncated") == "true":
        token = top.get("NextContinuationToken") or None
        if token is None:
            raise TransientError("list", prefix, "the listing goes on but says not where")
    return page_in_order(objects, map(plain, groups), token)


def _unquoted(text: str) -> str:
    if "%" in text or "+" in text:
        return unquote_plus(text, errors="strict")
    return text
