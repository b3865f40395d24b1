"""How does one speak to Azure Blob Storage?

`AzureDriver` prepares requests and parses answers; on the hot path it sends nothing itself. Where the account is,
who we are and how that is proven is `azure_credentials`' business, what answers mean that of `azure_answers`.

A version is an ETag, and every condition is one: `If-Match`, and `If-None-Match: *` where nothing must be there.
Azure promises that they are atomic, and that listings are consistent. An ETag is no digest, and the MD5 that Azure
keeps is whatever a client said last, so only the answer to our own upload counts as one.

Source: Microsoft "Blob Service REST API" (Put Blob, Get Blob, Delete Blob, List Blobs), "Specifying conditional
headers", "Naming and referencing containers, blobs, and metadata"; kops `util/pkg/vfs/azureblob.go`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from base64 import b64decode, b64encode
from typing import BinaryIO, Final
from urllib.parse import quote

from kopsfs.errors import ConfigError, DeniedError, InvalidKeyError, StoreError, TransientError
from kopsfs.store import azure_credentials
from kopsfs.store.azure_answers import REFUSED, Fault, error_of, fault, page_of
from kopsfs.store.azure_credentials import Signer
from kopsfs.store.driver import (
    ABSENT,
    ANY,
    Answer,
    Capabilities,
    Expected,
    Form,
    Key,
    Method,
    ObjectInfo,
    Page,
    Prefix,
    Request,
)
from kopsfs.store.renewal import Held
from kopsfs.store.rest import CONTENT_HEADERS, Kept, digest_of, http_date_ns, path_of, size_of, skew_of, version_of
from kopsfs.store.url import Location, Settings

log = logging.getLogger(__name__)

VERSION: Final = "2026-02-06"
"""The first version of the service whose listings take `startFrom`."""
PRICES: Final = {"get": 0.0004, "head": 0.0004, "put": 0.005, "delete": 0.0, "list": 0.005}
"""US dollars per 1000 requests, hot tier, locally redundant, East US. Source: azure.microsoft.com/pricing, 2026."""
OBJECT_SIZE_MAX: Final = 5000 << 20
"""Of one Put Blob. Source: "Put Blob"."""
_KEY_BYTES_MAX: Final = 1024
_SEGMENTS_MAX: Final = 254
_ODD: Final = re.compile(r"[\x00-\x1f\x7f\\]|\.(?:/|\Z)")
_PAGE_MAX: Final = 5000
_ECHO: Final = "x-ms-client-request-id"
"""Sent back by the service as it came, so that an answer tells what was asked."""


class AzureDriver:
    """One container. To open it sends nothing, and raises ConfigError for settings that cannot work.

    `warm_up` and `refresh_credentials` run in a thread beside the rest.
    """

    def __init__(self, location: Location, settings: Settings) -> None:
        self._environ = settings.environ
        self._clock = settings.clock
        self._account, _, self._container = location.bucket.partition("/")
        self._site = azure_credentials.site_of(self._account, self._environ)
        self.named_by = self._site.named_by
        self._path = self._site.path + quote(self._container, safe="")
        self._page_size = min(settings.page_size, _PAGE_MAX)
        self._kept = Kept(CONTENT_HEADERS, "x-ms-meta-", on=settings.keep_metadata, before="x-ms-blob-")
        self._changing = threading.Lock()
        self._skew_s = 0.0
        self._held = Held(self._clock, azure_credentials.key_of(self._account, self._environ))
        self.refresh_due = self._held.due
        self.signing = self._new_signer()
        self.capabilities = Capabilities(
            create_only="atomic",
            replace_if="atomic",
            delete_if="atomic",
            object_size_max=OBJECT_SIZE_MAX,
            key_bytes_max=_KEY_BYTES_MAX,
            concurrency_max=settings.connections_max,
            price_per_1000={} if self._site.origin.startswith("http:") else dict(PRICES),
        )

    def _new_signer(self) -> Signer:
        found = self._held.found
        key = b"" if found is None else found.key
        clock, skew_s = self._clock, self._skew_s
        return Signer(self._account, key, lambda: clock() + skew_s)

    # -- what blocks -----------------------------------------------------------------------------

    def warm_up(self, *, writes: bool = True) -> None:
        """Get a token, unless there is a key. Cost: 0 requests to the store."""
        del writes  # they need nothing more
        self.refresh_credentials()

    def refresh_credentials(self, *, force: bool = False) -> None:
        """Look for credentials again where they may have changed. Raises DeniedError, TransientError."""
        if not (force or self.refresh_due()):
            return
        try:
            found = azure_credentials.find(self._account, self._environ)
        except ConfigError as error:  # at the start it would have been one; now there is somebody who waits
            raise DeniedError("open", detail=str(error)) from error
        self._held.take(found)
        self._learn()

    def _learn(self, *, skew_s: float | None = None) -> None:
        with self._changing:
            self._skew_s = self._skew_s if skew_s is None else skew_s
            self.signing = self._new_signer()

    # -- preparing ------------------------------------------------------------------------------

    def _name(self, op: str, key: str) -> str:
        """Give the path of a blob. Raises InvalidKeyError for what Azure would not keep as it is."""
        path = path_of(op, key, _KEY_BYTES_MAX)
        if _ODD.search(key):
            raise InvalidKeyError(op, key, "Azure takes no segment that ends in a dot, no `\\`, no control character")
        if key.count("/") >= _SEGMENTS_MAX:
            raise InvalidKeyError(op, key, f"more than {_SEGMENTS_MAX} path segments")
        return f"{self._path}/{path}"

    def _request(
        self,
        method: Method,
        path: str,
        own: list[tuple[str, str]],
        query: tuple[str, str] = ("", ""),
        body: bytes | BinaryIO | None = None,
        size: int = 0,
        md5: str = "",
        condition: tuple[str, str] = ("", ""),
    ) -> Request:
        """Sign a request. `query` is as it is sent and as it is signed, `own` are `x-ms-` headers in any order."""
        signer, found = self.signing, self._held.found
        own += [("x-ms-date", signer.date()), ("x-ms-version", VERSION)]
        own.sort()
        if found is not None and found.key:
            proof = signer.sign(method, path, query[1], own, length=size, md5=md5, condition=condition)
        else:
            proof = f"Bearer {'' if found is None else found.token}"
        lines = [f"{name}: {value}" for name, value in own]
        lines.append(f"Authorization: {proof}")
        if md5:
            lines.append(f"Content-MD5: {md5}")
        if condition[0]:
            lines.append(f"If-Match: {condition[0]}")
        if condition[1]:
            lines.append(f"If-None-Match: {condition[1]}")
        url = f"{self._site.origin}{path}?{query[0]}" if query[0] else self._site.origin + path
        return Request(method, url, lines, body, size)

    def prepare_head(self, key: Key, /) -> Request:
        return self._request("HEAD", self._name("head", key), [])

    def prepare_get(self, key: Key, /) -> Request:
        return self._request("GET", self._name("get", key), [])

    def prepare_put(
        self, key: Key, body: bytes | BinaryIO, size: int, /, *, expected: Expected, form: Form = "quoted"
    ) -> Request:
        path = self._name("put", key)
        own = [("x-ms-blob-type", "BlockBlob"), *self._kept.of(key).items()]
        digest = digest_of("md5", body, size)
        md5 = "" if digest is None else b64encode(digest.digest()).decode()
        return self._request("PUT", path, own, body=body, size=size, md5=md5, condition=_condition(expected, form))

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request:
        path = self._name("delete", key)
        return self._request("DELETE", path, [], condition=_condition(expected, form))

    def prepare_list(
        self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Request:
        own: list[tuple[str, str]] = []
        asked = {"comp": "list", "maxresults": str(self._page_size), "prefix": prefix, "restype": "container"}
        if delimiter:
            asked["delimiter"] = "/"
        if token is not None:
            asked["marker"] = token
        elif start_after is not None:
            # A name that is listed too, and then left out by `parse_list`.
            asked["startFrom"] = start_after
            own.append((_ECHO, _digest(start_after)))
        names = sorted(asked, key=str.lower)
        sent = "&".join(f"{name}={quote(asked[name], safe='')}" for name in names)
        return self._request(
            "GET", self._path, own, (sent, "".join(f"\n{name.lower()}:{asked[name]}" for name in names))
        )

    # -- parsing --------------------------------------------------------------------------------

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo:
        return self._read("head", key, answer, int(answer.headers.get("content-length", "0")))

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        return self._read("get", key, answer, size_of(answer))

    def _read(self, op: str, key: Key, answer: Answer, size: int) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure(op, key, answer)
        self._kept.note(key, answer)
        return self._info(op, key, answer, size)

    def _info(self, op: str, key: Key, answer: Answer, size: int) -> ObjectInfo:
        headers = answer.headers
        etag = headers.get("etag")
        if not etag or "x-ms-version" not in headers:
            raise TransientError(op, key, "the answer has no ETag or x-ms-version: not Azure?")
        return ObjectInfo(key, version_of(etag), size, http_date_ns(headers.get("last-modified", "")))

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        if answer.status != 201:
            raise self._failure("put", key, answer)
        info = self._info("put", key, answer, size)
        md5 = answer.headers.get("content-md5")
        return ObjectInfo(key, info.version, size, info.mtime_ns, b64decode(md5).hex() if md5 else None)

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        if answer.status not in {200, 202}:
            raise self._failure("delete", key, answer)

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page:
        if answer.status != 200:
            raise self._failure("list", prefix, answer)
        page = page_of(prefix, answer)
        echo = answer.headers.get(_ECHO)
        if echo and page.objects and _digest(page.objects[0].key) == echo:
            return Page(page.objects[1:], page.prefixes, page.token)
        return page

    def versioned(self, answer: Answer, /) -> bool | None:
        """An account that keeps versions answers a PUT with `x-ms-version-id`; conditions hold either way."""
        return "x-ms-version-id" in answer.headers

    def _failure(self, op: str, key: str, answer: Answer) -> StoreError:
        """Give the error for an answer, after learning from it what it teaches."""
        found = fault(answer)
        if found.code in REFUSED and (lesson := self._clock_lesson(found, answer)):
            log.info("container=%s %s", self._container, lesson)
            return TransientError(op, key, f"{found.detail} ({lesson})")
        return error_of(op, key, f"{self._account}/{self._container}", answer, found)

    def _clock_lesson(self, found: Fault, answer: Answer) -> str:
        """A signature is good for 15 minutes around the server's time: sign by its clock where ours is wrong."""
        signed = self._held.found is not None and self._held.found.key
        skew_s = skew_of(answer, self._clock(), self._skew_s) if signed and found.status == 403 else None
        if skew_s is None:
            return ""
        self._learn(skew_s=skew_s)
        return f"the server's clock differs by {skew_s:.0f} s"

    # -- the rest -------------------------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Endpoint, account, container; never a credential."""
        return {
            "endpoint": self._site.origin + self._site.path.rstrip("/"),
            "account": self._account,
            "bucket": self._container,
            **self._held.describe(),
            "clock_skew_s": round(self._skew_s),
        }

    def close(self) -> None:
        """Nothing is held."""


def _condition(expected: Expected, form: Form) -> tuple[str, str]:
    """Give (If-Match, If-None-Match)."""
    if expected is ANY:
        return ("", "")
    if expected is ABSENT:
        return ("", "*")
    return (f'"{expected}"' if form == "quoted" else str(expected), "")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
