"""What does an answer of Azure Blob Storage mean?

Pure functions from headers and XML to values and errors: listings, and the one table from Azure's error
codes to our closed tree. The code stands in the header `x-ms-error-code`, so HEAD has it too.

Source: Microsoft "Blob Storage error codes", "Common REST API error codes", "List Blobs".
"""

from __future__ import annotations

from typing import Final, NamedTuple
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
from kopsfs.store.rest import http_date_ns, kind_of, made, page_in_order, version_of
from kopsfs.store.xml_answers import flat, listing_of

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
    fields = flat(answer.body)
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


def page_of(prefix: Prefix, answer: Answer) -> Page:
    """Read one page. Raises TransientError for anything that is not a whole listing. CPU: about 12 us a key."""
    try:
        rows, groups, top = listing_of(answer.body, "EnumerationResults", row="Blob", group="BlobPrefix", member="Name")
        objects = [
            ObjectInfo(
                Key(row["Name"]),
                version_of(row["Etag"]),
                int(row["Content-Length"]),
                http_date_ns(row.get("Last-Modified", "")),
            )
            for row in rows
            # With a hierarchical namespace directories are listed among the blobs.
            if row.get("ResourceType") != "directory"
        ]
        marker = top["NextMarker"]
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise TransientError("list", prefix, f"the answer is not a listing of Azure: {error!r}") from error
    return page_in_order(objects, groups, marker or None)
