"""How does one speak to Google Cloud Storage?

`GcsDriver` prepares requests of the JSON API and parses answers; on the hot path it sends nothing itself. Who
we are is found by `gcs_credentials`, what answers mean by `gcs_answers`.

A version is a generation, and every condition is one: `ifGenerationMatch`, 0 where nothing must be there. GCS
promises that they are atomic, and that listings are consistent. One object takes about one write a second.

Bytes are those that are stored: an object with `Content-Encoding: gzip` would be unpacked on its way unless
the request accepts gzip, so every GET does. An upload is one request with the object's MD5, which GCS checks.

Source: Google "Cloud Storage JSON API", "Preconditions", "Transcoding of gzip-compressed files", "About Cloud
Storage objects" (names), "Quotas and limits"; kops `util/pkg/vfs/gsfs.go`; Go `cloud.google.com/go/storage`.
"""

from __future__ import annotations

import io
import json
import logging
import os
from typing import BinaryIO, Final, cast
from urllib.parse import quote, urlsplit

from typing_extensions import override

from kopsfs.errors import ConfigError, DeniedError, InvalidKeyError, StoreError, TransientError
from kopsfs.store import gcs_credentials
from kopsfs.store.curl import Options
from kopsfs.store.driver import (
    ABSENT,
    ANY,
    Answer,
    Capabilities,
    Expected,
    Form,
    Guarantee,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Request,
)
from kopsfs.store.gcs_answers import (
    FIELDS,
    base64_of,
    document,
    error_of,
    fault,
    info_of_media,
    info_of_row,
    page_of,
)
from kopsfs.store.gcs_credentials import Token
from kopsfs.store.renewal import Held
from kopsfs.store.rest import Recent, digest_of, path_of
from kopsfs.store.url import Location, Settings

log = logging.getLogger(__name__)

PRICES: Final = {"get": 0.0004, "head": 0.0004, "put": 0.005, "delete": 0.0, "list": 0.005}
"""US dollars per 1000 requests, Standard storage in one region. Source: cloud.google.com/storage/pricing, 2026."""
WRITE_INTERVAL_S: Final = 1.0
"""Source: "Quotas and limits": one write per second to the same object name."""
OBJECT_SIZE_MAX: Final = 5 << 40
_KEY_BYTES_MAX: Final = 1024
_RESERVED: Final = ".well-known/acme-challenge/"
_ACLS: Final = {
    "private": "private",
    "public-read": "publicRead",
    "authenticated-read": "authenticatedRead",
    "bucket-owner-read": "bucketOwnerRead",
    "bucket-owner-full-control": "bucketOwnerFullControl",
    "project-private": "projectPrivate",
}
"""`--acl` as S3 writes it → GCS's word, which is taken too."""
_KEPT: Final = ("contentType", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage")
_KEPT_HEADERS: Final = {
    "content-type": "contentType",
    "cache-control": "cacheControl",
    "content-disposition": "contentDisposition",
    "x-goog-stored-content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
}
_FRAME: Final = "multipart/related; boundary="


class GcsDriver:
    """One bucket. To open it sends nothing, and raises ConfigError for settings that cannot work.

    `warm_up` and `refresh_credentials` run in a thread beside the rest.
    """

    def __init__(self, location: Location, settings: Settings, *, origin: str = "") -> None:
        """`origin` stands for storage.googleapis.com and is spoken to with credentials; tests have one."""
        environ = self._environ = settings.environ
        self._clock = settings.clock
        self._bucket = location.bucket
        self._options = Options.read(environ, ca_file=settings.ca_file)
        emulator = "" if origin else environ.get("STORAGE_EMULATOR_HOST", "")
        universe = environ.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "")
        self.named_by = "STORAGE_EMULATOR_HOST" if emulator else "GOOGLE_CLOUD_UNIVERSE_DOMAIN" if universe else ""
        self._held = Held(self._clock, Token("", "none: STORAGE_EMULATOR_HOST") if emulator else None)
        self.refresh_due = self._held.due
        if not emulator:
            file = gcs_credentials.file_of(environ)
            universe = universe or ("" if file is None else str(file.fields.get("universe_domain") or ""))
        self._origin = origin or _emulator_origin(emulator) or f"https://storage.{universe or 'googleapis.com'}"
        bucket = quote(self._bucket, safe="")
        self._objects = f"{self._origin}/storage/v1/b/{bucket}/o"
        self._media = f"{self._origin}/download/storage/v1/b/{bucket}/o/"
        self._uploads = f"{self._origin}/upload/storage/v1/b/{bucket}/o?uploadType=multipart&fields={FIELDS}"
        self._list_query = (
            f"projection=noAcl&fields=items({FIELDS}),prefixes,nextPageToken&maxResults={settings.page_size}"
        )
        self._acl = _acl(settings.acl)
        self._uniform: bool | None = None
        """The bucket refuses ACLs; None: nothing has shown it yet."""
        self._keep_metadata = settings.keep_metadata
        self._metadata: Recent[Key, dict[str, object]] = Recent()
        self._boundary = os.urandom(16).hex()
        self.signing: tuple[str, ...] = ()
        """The headers that say who we are."""
        self._media_headers: tuple[str, ...] = ("Accept-Encoding: gzip",)
        # What an emulator keeps is anybody's guess: fake-gcs-server looks at no condition of a DELETE (measured).
        guarantee: Guarantee = "unproven" if emulator else "atomic"
        self.capabilities = Capabilities(
            create_only=guarantee,
            replace_if=guarantee,
            delete_if=guarantee,
            object_size_max=OBJECT_SIZE_MAX,
            key_bytes_max=_KEY_BYTES_MAX,
            write_interval_s=WRITE_INTERVAL_S,
            concurrency_max=settings.connections_max,
            price_per_1000={} if emulator else dict(PRICES),
        )

    # -- what blocks -----------------------------------------------------------------------------

    def warm_up(self, *, writes: bool = True) -> None:
        """Get a token. Cost: 0 requests to the store."""
        del writes  # they need nothing more
        self.refresh_credentials()

    def refresh_credentials(self, *, force: bool = False) -> None:
        """Get a new token where the old one ends soon. Raises DeniedError, TransientError."""
        held = self._held.found
        if not (force or self.refresh_due()) or (held is not None and not held.value):
            return
        try:
            token = gcs_credentials.find(self._environ, self._options, self._clock)
        except ConfigError as error:  # at the start it would have been one; now there is somebody who waits
            raise DeniedError("open", detail=str(error)) from error
        headers = [f"Authorization: Bearer {token.value}"]
        if token.quota_project:
            headers.append(f"x-goog-user-project: {token.quota_project}")
        self._held.take(token, before_s=token.renew_before_s)
        self.signing = tuple(headers)
        self._media_headers = (*headers, "Accept-Encoding: gzip")

    # -- preparing ------------------------------------------------------------------------------

    def _name(self, op: str, key: str) -> str:
        """Percent-encode a key. Raises InvalidKeyError for what GCS cannot hold."""
        name = path_of(op, key, _KEY_BYTES_MAX, safe="")
        if "\n" in key or "\r" in key or key in {".", ".."} or key.startswith(_RESERVED):
            raise InvalidKeyError(op, key, "GCS takes no line breaks, no `.`, no `..`, nothing below " + _RESERVED)
        return name

    def prepare_head(self, key: Key, /) -> Request:
        fields = f"{FIELDS},metadata,{','.join(_KEPT)}" if self._keep_metadata else FIELDS
        return Request(
            "GET", f"{self._objects}/{self._name('head', key)}?projection=noAcl&fields={fields}", self.signing
        )

    def prepare_get(self, key: Key, /) -> Request:
        return Request("GET", f"{self._media}{self._name('get', key)}?alt=media", self._media_headers)

    def prepare_put(
        self,
        key: Key,
        body: bytes | BinaryIO,
        size: int,
        /,
        *,
        expected: Expected,
        form: Form = "quoted",
    ) -> Request:
        del form  # generations have one
        self._name("put", key)
        resource: dict[str, object] = {"name": key, **self._metadata.get(key, {})}
        if (digest := digest_of("md5", body, size)) is not None:
            resource["md5Hash"] = base64_of(digest.digest())
        boundary = self._boundary
        before = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: {resource.get('contentType', 'application/octet-stream')}\r\n\r\n"
        ).encode()
        after = f"\r\n--{boundary}--\r\n".encode()
        whole = (
            before + body + after if isinstance(body, bytes) else cast("BinaryIO", _Framed(before, body, size, after))
        )
        url = self._uploads + _condition("&", expected)
        if self._acl:
            url += f"&predefinedAcl={self._acl}"
        headers = (*self.signing, f"Content-Type: {_FRAME}{boundary}")
        return Request("POST", url, headers, whole, len(before) + size + len(after))

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request:
        del form  # generations have one
        url = f"{self._objects}/{self._name('delete', key)}{_condition('?', expected)}"
        return Request("DELETE", url, self.signing)

    def prepare_list(
        self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Request:
        query = f"{self._list_query}&prefix={quote(prefix, safe='')}"
        if delimiter:
            query += "&delimiter=%2F"
        if token is not None:
            query += f"&pageToken={quote(token, safe='')}"
        elif start_after is not None:
            # `startOffset` is a key that is listed too; U+0001 stands before every character that a key goes on with.
            query += f"&startOffset={quote(start_after, safe='')}%01"
        return Request("GET", f"{self._objects}?{query}", self.signing)

    # -- parsing --------------------------------------------------------------------------------

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("head", key, answer)
        row = document("head", key, answer)
        if self._keep_metadata:
            self._metadata.note(key, {name: row[name] for name in ("metadata", *_KEPT) if name in row})
        return info_of_row("head", key, row)

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("get", key, answer)
        if self._keep_metadata:
            headers = answer.headers
            kept: dict[str, object] = {_KEPT_HEADERS[name]: headers[name] for name in _KEPT_HEADERS if name in headers}
            if kept.get("contentEncoding") == "identity":
                del kept["contentEncoding"]
            own = {name[12:]: value for name, value in headers.items() if name.startswith("x-goog-meta-")}
            self._metadata.note(key, {**kept, **({"metadata": own} if own else {})})
        return info_of_media(key, answer)

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("put", key, answer)
        info = info_of_row("put", key, document("put", key, answer))
        if info.size != size:
            raise TransientError("put", key, f"{info.size} bytes were stored instead of {size}")
        return info

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        if answer.status not in {200, 204}:
            raise self._failure("delete", key, answer)

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page:
        if answer.status != 200:
            raise self._failure("list", prefix, answer)
        return page_of(prefix, answer)

    def versioned(self, answer: Answer, /) -> bool | None:
        del answer  # GCS does not say
        return None

    def _failure(self, op: str, key: str, answer: Answer) -> StoreError:
        """Give the error for an answer, after learning from it what it teaches."""
        found = fault(answer)
        if op == "put" and found.status == 400 and self._acl and "uniform bucket-level access" in found.message:
            self._acl, self._uniform = "", True
            lesson = "the bucket has uniform access: --acl is left out from now on"
            log.info("bucket=%s %s", self._bucket, lesson)
            return TransientError(op, key, f"{found.detail} ({lesson})")
        return error_of(op, key, self._bucket, answer, found)

    # -- the rest -------------------------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Endpoint, bucket, account, ACL; never a credential."""
        token = self._held.found
        return {
            "endpoint": self._origin,
            "bucket": self._bucket,
            "acl": self._acl or ("none: uniform access" if self._uniform else "none"),
            "account": None if token is None else token.account or None,
            **self._held.describe(),
        }

    def close(self) -> None:
        """Nothing is held."""


class _Framed(io.RawIOBase):
    """`size` bytes of a file between two pieces of text, as one stream; not rewound, sent once."""

    def __init__(self, before: bytes, file: BinaryIO, size: int, after: bytes) -> None:
        super().__init__()
        self._before = before
        self._file = file
        self._left = size
        self._after = after

    @override
    def read(self, size: int = -1) -> bytes:
        pieces: list[bytes] = []
        wanted = (1 << 62) if size < 0 else size
        while wanted > 0:
            if self._before:
                piece, self._before = self._before[:wanted], self._before[wanted:]
            elif self._left:
                piece = self._file.read(min(wanted, self._left))
                self._left -= len(piece)
                if not piece:
                    raise OSError(f"the file ends {self._left} bytes early")
            else:
                piece, self._after = self._after[:wanted], self._after[wanted:]
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)


def _condition(sign: str, expected: Expected) -> str:
    if expected is ANY:
        return ""
    if expected is ABSENT:
        return f"{sign}ifGenerationMatch=0"
    # A version that is no number is none of GCS's: no object is at generation 1.
    return f"{sign}ifGenerationMatch={expected if str(expected).isdecimal() else 1}"


def _acl(given: str) -> str:
    """Give GCS's word for an ACL. `KOPS_STATE_S3_ACL` is S3's alone, in kops too. Raises ConfigError."""
    given = given.strip()
    if not given or given in _ACLS.values():
        return given
    if given not in _ACLS:
        raise ConfigError(f"--acl {given}: GCS knows {', '.join(_ACLS)}")
    return _ACLS[given]


def _emulator_origin(host: str) -> str:
    """Source: Go `cloud.google.com/go/storage/storage.go:NewClient`: http where no scheme is given, the path dropped."""
    if not host:
        return ""
    try:
        parts = urlsplit(host if "://" in host else f"http://{host}")
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        pass
    raise ConfigError(f"STORAGE_EMULATOR_HOST={host}: write HOST:PORT or http://HOST:PORT")
