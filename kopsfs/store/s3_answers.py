"""What does an answer of S3 mean?

Pure functions from bytes and headers to values and errors: listings by expat, the one table from S3's error codes to our
closed tree, and what a person can do about an error. Act on codes and statuses, never on messages.
"""

from __future__ import annotations

from operator import attrgetter
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
from kopsfs.store.rest import iso_date_s, kind_of, made, version_of


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
    fields: dict[str, str] = {}
    if answer.body.lstrip()[:1] == b"<":
        try:
            fields = _flat(answer.body)
        except expat.ExpatError:
            fields = {}
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


def _flat(document: bytes) -> dict[str, str]:
    """Give the text of each element by name, nested ones too, the last of a name."""
    fields: dict[str, str] = {}
    pieces: list[str] = []

    def start(_name: str, _attributes: object) -> None:
        pieces.clear()

    def end(name: str) -> None:
        fields[name] = "".join(pieces)
        pieces.clear()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = pieces.append
    parser.Parse(document, True)
    return fields


def flat(document: bytes) -> dict[str, str]:
    """Give the text of each element of a small document by name; {} if it is not XML."""
    try:
        return _flat(document)
    except expat.ExpatError:
        return {}


class _Listing:
    """expat's handlers for one ListBucketResult; elements may come in any order."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.groups: list[str] = []
        self.top: dict[str, str] = {}
        self._row: dict[str, str] | None = None
        self._in_group = False
        self._pieces: list[str] = []
        self._root = ""
        parser = self._parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._pieces.append

    def parse(self, document: bytes) -> None:
        self._parser.Parse(document, True)
        if self._root != "ListBucketResult":
            raise ValueError(f"a <{self._root}> document")

    def _start(self, name: str, _attributes: object) -> None:
        self._pieces.clear()
        if name == "Contents":
            self._row = {}
        elif name == "CommonPrefixes":
            self._in_group = True
        elif not self._root:
            self._root = name

    def _end(self, name: str) -> None:
        pieces = self._pieces
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        row = self._row
        if row is not None:
            if name == "Contents":
                self.rows.append((row["Key"], row["ETag"], row["Size"], row.get("LastModified", "")))
                self._row = None
            else:
                row[name] = text
        elif name == "CommonPrefixes":
            self._in_group = False
        elif not self._in_group:
            self.top[name] = text
        elif name == "Prefix":
            self.groups.append(text)


_by_key = attrgetter("key")


def page_of(prefix: Prefix, answer: Answer, *, plus: bool = True) -> Page:
    """Read one page. Raises TransientError for anything that is not a whole listing. CPU: about 6 us a key.

    `plus`: in an encoded name `+` stands for a space (S3), and not for itself (OSS).
    """
    listing = _Listing()
    try:
        listing.parse(answer.body)
        encoded = listing.top.get("EncodingType") == "url"
        plain = (_unquoted if plus else unquote) if encoded else str
        objects = [
            ObjectInfo(Key(plain(name)), version_of(etag), int(size), iso_date_s(modified[:19]) * 1_000_000_000)
            for name, etag, size, modified in listing.rows
        ]
    except (expat.ExpatError, ValueError, KeyError) as exc:
        raise TransientError("list", prefix, f"the answer is not a listing of S3: {exc}") from exc
    objects.sort(key=_by_key)
    token = None
    if listing.top.get("IsTruncated") == "true":
        token = listing.top.get("NextContinuationToken") or None
        if token is None:
            raise TransientError("list", prefix, "the listing goes on but says not where")
    return Page(objects, sorted(Prefix(plain(group)) for group in listing.groups), token)


def _unquoted(text: str) -> str:
    if "%" in text or "+" in text:
        return unquote_plus(text, errors="strict")
    return text
