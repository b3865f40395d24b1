"""What does an answer of Azure Blob Storage mean?

Pure functions from headers and XML to values and errors: listings by expat, and the one table from Azure's error
codes to our closed tree. The code stands in the header `x-ms-error-code`, so HEAD has it too.

Source: Microsoft "Blob Storage error codes", "Common REST API error codes", "List Blobs".
"""

from __future__ import annotations

from operator import attrgetter
from typing import Final, NamedTuple
from urllib.parse import unquote
from xml.parsers import expat

from kopsfs.errors import (
    ConflictError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    RefusedError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
    UnsupportedError,
)
from kopsfs.store.driver import Answer, Key, ObjectInfo, Page, Prefix
from kopsfs.store.rest import http_date_ns, kind_of, made, version_of
from kopsfs.store.s3_answers import flat

REFUSED: Final = frozenset(
    {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "ExpiredAuthenticationToken"}
)
"""Codes that say: who you are is not proven (any more), or not with this clock."""
_ROLE: Final = frozenset(
    {
        "AuthorizationPermissionMismatch",
        "AuthorizationFailure",
        "InsufficientAccountPermissions",
        "AuthorizationSourceIPMismatch",
    }
)
_CODES: Final[dict[str, type[StoreError]]] = {
    "BlobNotFound": NotFoundError,
    "ResourceNotFound": NotFoundError,
    "ContainerNotFound": StoreGoneError,
    "ContainerBeingDeleted": StoreGoneError,
    "ContainerDisabled": StoreGoneError,
    "AccountIsDisabled": StoreGoneError,
    "BlobAlreadyExists": ConflictError,
    "ConditionNotMet": ConflictError,
    "TargetConditionNotMet": ConflictError,
    "LeaseIdMissing": DeniedError,
    "LeaseIdMismatchWithBlobOperation": DeniedError,
    "BlobImmutableDueToPolicy": DeniedError,
    "KeyBasedAuthenticationNotPermitted": DeniedError,
    "PublicAccessNotPermitted": DeniedError,
    "SnapshotsPresent": UnsupportedError,
    "BlobArchived": UnsupportedError,
    "InvalidBlobType": UnsupportedError,
    "ConditionHeadersNotSupported": UnsupportedError,
    "MultipleConditionHeadersNotSupported": UnsupportedError,
    "InvalidUri": InvalidKeyError,
    "InvalidResourceName": InvalidKeyError,
    "RequestBodyTooLarge": TooLargeError,
    "ServerBusy": TransientError,
    "OperationTimedOut": TransientError,
    "InternalError": TransientError,
    "Md5Mismatch": TransientError,
    **dict.fromkeys(REFUSED, RefusedError),
    **dict.fromkeys(_ROLE, DeniedError),
}


class Fault(NamedTuple):
    """What an error answer says of itself."""

    status: int
    code: str
    detail: str
    """One line for people."""


def fault(answer: Answer) -> Fault:
    """Read an error answer; whatever is not Azure's has no code."""
    # A document begins with a byte order mark.
    fields = flat(answer.body.removeprefix(b"\xef\xbb\xbf")) if b"<" in answer.body[:8] else {}
    code = answer.headers.get("x-ms-error-code") or fields.get("Code", "")
    words = f"{answer.status} {code} {fields.get('Message', '').partition('RequestId:')[0]}"
    if why := fields.get("AuthenticationErrorDetail"):
        words += f" ({why})"
    return Fault(answer.status, code, " ".join(words.split())[:400])


def error_of(op: str, key: str, container: str, answer: Answer, found: Fault) -> StoreError:
    """Give our error for an answer that is not a success, with what a person can do about it."""
    status, code, detail = found
    kind = _CODES.get(code) or kind_of(status)
    if code in _ROLE:
        role = "Reader" if op in {"get", "head", "list"} else "Contributor"
        detail += (
            f"; grant the role Storage Blob Data {role} on {container}, set AZURE_STORAGE_KEY to a key of the account, "
            "or let this network in"
        )
    elif kind is RefusedError:
        detail += "; set AZURE_STORAGE_KEY to a key of the account, or correct AZURE_CLIENT_ID and its secret"
    elif code == "KeyBasedAuthenticationNotPermitted":
        detail += "; the account takes no keys: unset AZURE_STORAGE_KEY and `az login`"
    elif kind is StoreGoneError:
        detail += f"; no container {container}: make it, or correct the URL"
    elif code == "SnapshotsPresent":
        detail += "; delete the blob's snapshots first"
    return made(kind, op, key, detail, answer)


class _Listing:
    """expat's handlers for one EnumerationResults."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.groups: list[str] = []
        self.marker: str | None = None
        self._row: dict[str, str] | None = None
        self._in_group = False
        self._encoded = False
        self._pieces: list[str] = []
        self._root = ""
        parser = self._parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._pieces.append

    def parse(self, document: bytes) -> None:
        self._parser.Parse(document, True)
        if self._root != "EnumerationResults" or self.marker is None:
            raise ValueError(f"a <{self._root}> document")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._pieces.clear()
        if name == "Blob":
            self._row = {}
        elif name == "BlobPrefix":
            self._in_group = True
        elif name == "Name":
            # Names that XML cannot hold.
            self._encoded = attributes.get("Encoded") == "true"
        elif not self._root:
            self._root = name

    def _end(self, name: str) -> None:
        pieces = self._pieces
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        if name == "Name" and self._encoded:
            text = unquote(text, errors="strict")
        row = self._row
        if row is not None:
            if name == "Blob":
                self.rows.append(row)
                self._row = None
            else:
                row[name] = text
        elif name == "BlobPrefix":
            self._in_group = False
        elif self._in_group and name == "Name":
            self.groups.append(text)
        elif name == "NextMarker":
            self.marker = text


_by_key = attrgetter("key")


def page_of(prefix: Prefix, answer: Answer) -> Page:
    """Read one page. Raises TransientError for anything that is not a whole listing. CPU: about 12 us a key."""
    listing = _Listing()
    try:
        listing.parse(answer.body)
        objects = [
            ObjectInfo(
                Key(row["Name"]),
                version_of(row["Etag"]),
                int(row["Content-Length"]),
                http_date_ns(row.get("Last-Modified", "")),
            )
            for row in listing.rows
            # With a hierarchical namespace directories are listed among the blobs.
            if row.get("ResourceType") != "directory"
        ]
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise TransientError("list", prefix, f"the answer is not a listing of Azure: {error!r}") from error
    objects.sort(key=_by_key)
    return Page(objects, sorted(Prefix(group) for group in listing.groups), listing.marker or None)
