"""How does one speak to Alibaba Cloud's OSS?

`OssDriver` prepares requests and parses answers. What makes a request OSS's is its signature, and that is
the official SDK's (`alibabacloud_oss_v2`, V4, or V1 for `OSS_SIGNATURE_VERSION=v1`); requests go through
libcurl like S3's, because the SDK's own client costs twenty times the CPU and cannot send `a/../b`.

OSS rejects `If-Match` and `If-None-Match` on PUT. Creating is under `x-oss-forbid-overwrite`, whose
atomicity nobody promises and which a versioned bucket may ignore, so it is checked before and read back;
replacing and deleting are check-then-put.

Bytes are checked both ways: a PUT carries Content-MD5, and its CRC-64 and that of a GET are compared with
`x-oss-hash-crc64ecma`. A version is the ETag.

Source: Alibaba Cloud OSS API reference (PutObject, GetObject, HeadObject, ListObjectsV2, "Object naming
conventions", "Error responses"); kops release-1.20 `util/pkg/vfs/{ossfs,osscontext}.go`.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote

from typing_extensions import override

from kopsfs.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DeniedError,
    InvalidKeyError,
    QuotaError,
    RefusedError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from kopsfs.store import oss_credentials
from kopsfs.store.curl import Options
from kopsfs.store.driver import (
    ABSENT,
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
from kopsfs.store.oss_credentials import Instance
from kopsfs.store.renewal import Held
from kopsfs.store.rest import (
    CONTENT_HEADERS,
    Kept,
    digest_of,
    http_date_ns,
    made,
    path_of,
    size_of,
    skew_of,
    version_of,
)
from kopsfs.store.s3_answers import error_of, fault, page_of
from kopsfs.store.url import Location, Settings

log = logging.getLogger(__name__)

_KEY_BYTES_MAX: Final = 1023
_CRC64: Final = 0x142F0E1EBA9EA3693
"""CRC-64/ECMA-182, as the SDK's `crc.py` has it."""
_MD5: Final = re.compile(r"[0-9A-F]{32}")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_LOCAL: Final = re.compile(r"localhost|[0-9.]+|\[.*\]")
_KEPT: Final = CONTENT_HEADERS | {"expires", "x-oss-storage-class"}
_CODES: Final[dict[str, type[StoreError]]] = {
    "FileAlreadyExists": ConflictError,
    "FileImmutable": DeniedError,
    "InvalidObjectName": InvalidKeyError,
    "InvalidDigest": TransientError,
    "InvalidBucketName": InvalidKeyError,
    "NotImplemented": UnsupportedError,
    "QpsLimitExceeded": TransientError,
    "DownloadTrafficRateLimitExceeded": TransientError,
    "UploadTrafficRateLimitExceeded": TransientError,
    "StorageCapacityExceeded": QuotaError,
    "UserDisable": DeniedError,
}
"""What S3 does not have or says otherwise. Source: OSS "Error responses"."""
_EXPIRED: Final = frozenset({"SecurityTokenExpired", "InvalidSecurityToken", "InvalidAccessKeyId", "InvalidAccessKey"})
_HINTS: Final = {
    "SignatureDoesNotMatch": "look at ALIYUN_ACCESS_KEY_SECRET and OSS_REGION",
    "InvalidAccessKeyId": "look at ALIYUN_ACCESS_KEY_ID",
    "NoSuchBucket": "create it with: ossutil mb oss://BUCKET",
    "RequestTimeTooSkewed": "set this machine's clock",
}
_RIGHTS: Final = {
    "list": "oss:ListObjects",
    "head": "oss:GetObject",
    "get": "oss:GetObject",
    "put": "oss:PutObject",
    "delete": "oss:DeleteObject",
}
"""What RAM has to allow. Source: Alibaba Cloud "RAM policies for OSS"."""


class OssDriver:
    """One bucket. To open it sends nothing, and raises ConfigError for settings that cannot work.

    `warm_up` and `refresh_credentials` run in a thread beside the rest.
    """

    def __init__(
        self,
        location: Location,
        settings: Settings,
        *,
        metadata: str = oss_credentials.METADATA,
    ) -> None:
        environ = settings.environ
        self._bucket = location.bucket.lower()
        if not _BUCKET.fullmatch(self._bucket):
            raise ConfigError(f"{location.url}: a bucket's name has 3 to 63 letters, digits and hyphens")
        self._environ = environ
        self._clock = settings.clock
        self._instance = Instance(
            Options.read(environ, ca_file=settings.ca_file), environ.get("ALIYUN_METADATA_ENDPOINT") or metadata
        )
        self._held = Held(self._clock, oss_credentials.from_environment(environ))
        self.refresh_due = self._held.due
        self._region = oss_credentials.region_given(environ)
        self.named_by = next((name for name in ("OSS_ENDPOINT", "OSS_REGION") if environ.get(name)), "")
        # Any value counts, even `false`: that is what kops makes of it.
        self._internal = bool(environ.get("ALIYUN_OSS_INTERNAL"))
        self._v1 = environ.get("OSS_SIGNATURE_VERSION", "").lower() == "v1"
        self._acl = (settings.acl or "private").strip()
        self._kept = Kept(_KEPT, "x-oss-meta-", on=settings.keep_metadata)
        self._origin = self._base = ""
        self.signing: object = self._held.found
        self._skew_s = 0.0
        self._sign: Callable[[str, str, str | None, dict[str, str]], list[str]] | None = None
        self._new_crc: Callable[[], Any] | None = None
        self._sent: dict[Key, _Tally] = {}
        self._versioned: bool | None = None
        self._list_query = f"list-type=2&encoding-type=url&max-keys={settings.page_size}&prefix="
        self.capabilities = Capabilities(
            create_only="check-then-put",
            replace_if="check-then-put",
            delete_if="check-then-put",
            forbids_most=True,
            key_bytes_max=_KEY_BYTES_MAX,
            concurrency_max=settings.connections_max,
        )

    # -- what blocks -----------------------------------------------------------------------------

    def warm_up(self, *, writes: bool = True) -> None:
        """Find region and credentials, load the SDK. Cost: 0 to 5 requests to the instance's metadata service."""
        del writes  # they need nothing more
        if not self._region:
            self._region = self._instance.region()
        if not self._base:
            self._origin, self._base = self._site()
        self.refresh_credentials()
        if self._sign is None:
            self._load()

    def _site(self) -> tuple[str, str]:
        """Give origin and path of the bucket; `OSS_ENDPOINT` is ours, for private clouds and tests."""
        endpoint = self._environ.get("OSS_ENDPOINT", "")
        if not endpoint:
            internal = "-internal" if self._internal else ""
            return f"https://{self._bucket}.oss-{self._region}{internal}.aliyuncs.com", "/"
        scheme, _, host = endpoint.rstrip("/").rpartition("://")
        scheme = scheme or "https"
        if _LOCAL.fullmatch(re.sub(r":\d+$", "", host)):
            return f"{scheme}://{host}", f"/{self._bucket}/"
        return f"{scheme}://{self._bucket}.{host}", "/"

    def _load(self) -> None:
        """Import the SDK's signer and the CRC-64 it brings: about 0.3 s, once."""
        import crcmod
        from alibabacloud_oss_v2.credentials import Credentials
        from alibabacloud_oss_v2.signer import SignerV1, SignerV4
        from alibabacloud_oss_v2.types import HttpRequest, SigningContext

        signer = SignerV1() if self._v1 else SignerV4()

        def sign(method: str, url: str, key: str | None, headers: dict[str, str]) -> list[str]:
            found = self._held.found
            assert found is not None
            request = HttpRequest(method, url, headers=headers)
            credentials = Credentials(found.key_id, found.secret, found.token or None)
            moment = datetime.fromtimestamp(self._clock() + self._skew_s, UTC)
            context = SigningContext("oss", self._region, self._bucket, key, request, credentials, moment)
            signer.sign(context)
            return [f"{name}: {value}" for name, value in request.headers.items()]

        # The SDK's own class would build its table of 2 KB anew for every object: 240 us.
        self._new_crc = crcmod.Crc(_CRC64, initCrc=0, rev=True, xorOut=0xFFFFFFFFFFFFFFFF).new
        self._sign = sign

    def refresh_credentials(self, *, force: bool = False) -> None:
        """Look for credentials again where they end soon. Raises TransientError, ConfigError."""
        if not (force or self.refresh_due()):
            return
        found = oss_credentials.from_environment(self._environ)
        found = found or self._instance.credentials(self._clock() + self._skew_s)
        self._held.take(found, skew_s=self._skew_s)
        self.signing = found

    # -- preparing ------------------------------------------------------------------------------

    def _request(
        self, op: str, method: Method, key: Key, headers: dict[str, str], body: Any = None, size: int = 0
    ) -> Request:
        path = path_of(op, key, _KEY_BYTES_MAX, safe="/~")
        if key[0] in "/\\":
            raise InvalidKeyError(op, key, "OSS takes no key that begins with / or \\")
        return self._signed(op, method, f"{self._origin}{self._base}{path}", key, headers, body, size)

    def _signed(
        self,
        op: str,
        method: Method,
        url: str,
        key: str | None,
        headers: dict[str, str],
        body: Any = None,
        size: int = 0,
    ) -> Request:
        if self._sign is None:
            raise TransientError(op, key or "", "no credentials yet")
        return Request(method, url, self._sign(method, url, key, headers), body, size)

    def prepare_head(self, key: Key, /) -> Request:
        return self._request("head", "HEAD", key, {})

    def prepare_get(self, key: Key, /) -> Request:
        return self._request("get", "GET", key, {})

    def prepare_put(
        self, key: Key, body: bytes | BinaryIO, size: int, /, *, expected: Expected, form: Form = "quoted"
    ) -> Request:
        """A version as `expected` changes nothing: OSS rejects `If-Match` on PUT, and `Store` has looked before."""
        del form
        headers = {"content-type": "application/octet-stream", **self._kept.of(key)}
        headers["x-oss-object-acl"] = self._acl
        if expected is ABSENT:
            headers["x-oss-forbid-overwrite"] = "true"
        tally = None
        if (digest := digest_of("md5", body, size)) is not None:
            headers["content-md5"] = base64.b64encode(digest.digest()).decode()
        elif self._new_crc is not None:
            tally = _Tally(body, self._new_crc())
        request = self._request("put", "PUT", key, headers, tally or body, size)
        self._sent.pop(key, None)
        if tally is not None:
            self._sent[key] = tally
        return request

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request:
        """A version as `expected` changes nothing, as with PUT."""
        del expected, form
        return self._request("delete", "DELETE", key, {})

    def prepare_list(
        self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Request:
        query = self._list_query + quote(prefix, safe="")
        if delimiter:
            query += "&delimiter=%2F"
        if token is not None:
            query += f"&continuation-token={quote(token, safe='')}"
        elif start_after is not None:
            query += f"&start-after={quote(start_after, safe='')}"
        return self._signed("list", "GET", f"{self._origin}{self._base}?{query}", None, {})

    # -- parsing --------------------------------------------------------------------------------

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("head", key, answer)
        self._kept.note(key, answer)
        return _info("head", key, answer, int(answer.headers.get("content-length", "0")))

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("get", key, answer)
        info = _info("get", key, answer, size_of(answer))
        if info.size == len(answer.body) and self._new_crc is not None:
            digest = self._new_crc()
            digest.update(answer.body)
            self.check_digest(key, answer, digest)
        self._kept.note(key, answer)
        return info

    def new_digest(self) -> Any:
        """What a large body is checked by while it arrives."""
        assert self._new_crc is not None
        return self._new_crc()

    def check_digest(self, key: Key, answer: Answer, digest: Any, /) -> None:
        """Compare the bytes that arrived with what OSS says of them. Raises CorruptError."""
        told = answer.headers.get("x-oss-hash-crc64ecma")
        if told and told != _decimal(digest):
            raise CorruptError("get", key, f"CRC-64 is {_decimal(digest)}, OSS says {told}")

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        tally = self._sent.pop(key, None)
        if answer.status != 200:
            raise self._failure("put", key, answer)
        told = answer.headers.get("x-oss-hash-crc64ecma")
        if tally is not None and told and told != _decimal(tally.digest):
            # What is stored is not what was read here: look, and send again.
            raise TransientError("put", key, f"CRC-64 is {_decimal(tally.digest)}, OSS has stored {told}")
        return _info("put", key, answer, size)

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        if answer.status not in {200, 204}:
            raise self._failure("delete", key, answer)

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page:
        if answer.status != 200:
            raise self._failure("list", prefix, answer)
        return page_of(prefix, answer, plus=False)

    def versioned(self, answer: Answer, /) -> bool | None:
        """A PUT into a versioned bucket answers with a version id."""
        self._versioned = "x-oss-version-id" in answer.headers
        return self._versioned

    # -- errors ----------------------------------------------------------------------------------

    def _failure(self, op: str, key: str, answer: Answer) -> StoreError:
        """Give the error for an answer, after learning from it what it teaches."""
        if not answer.body and (hidden := answer.headers.get("x-oss-err")):
            # The answer to a HEAD has no body.
            answer = Answer(answer.status, answer.headers, _decoded(hidden))
        found = fault(answer)
        if lesson := self._lesson(answer, found.code):
            log.info("bucket=%s %s", self._bucket, lesson)
            return TransientError(op, key, f"{found.detail} ({lesson})")
        detail = found.detail
        if endpoint := found.fields.get("Endpoint", ""):
            detail += f": set OSS_REGION={endpoint.removesuffix('.aliyuncs.com')}"
        elif hint := _HINTS.get(found.code):
            detail += f": {hint.replace('BUCKET', self._bucket)}"
        elif found.status == 403 and found.code in {"AccessDenied", ""} and op in _RIGHTS:
            detail += f": allow {_RIGHTS[op]} on {self._bucket}"
        # Of a key pair that does not end they say that it was never good.
        ended = found.code in _EXPIRED and self._held.found is not None and self._held.found.token
        kind = RefusedError if ended else _CODES.get(found.code)
        if kind is None:
            return error_of(op, key, answer, found._replace(detail=detail))
        return made(kind, op, key, detail, answer)

    def _lesson(self, answer: Answer, code: str) -> str:
        """Learn the clock; empty where there is nothing to learn, or it was known."""
        skew_s = skew_of(answer, self._clock(), self._skew_s) if code == "RequestTimeTooSkewed" else None
        if skew_s is None:
            return ""
        self._skew_s = skew_s
        return f"the server's clock differs by {skew_s:.0f} s"

    def describe(self) -> dict[str, object]:
        """Endpoint, region, bucket, versioning seen, where credentials came from; never one of them."""
        where = {"endpoint": self._origin} if self._origin else {}
        return {
            **where,
            "region": self._region or "not looked for yet",
            "bucket": self._bucket,
            "internal": self._internal,
            "acl": self._acl,
            "signature": "v1" if self._v1 else "v4",
            "versioned": self._versioned,
            **self._held.describe(),
            "clock_skew_s": round(self._skew_s),
        }

    def close(self) -> None:
        """Nothing is held."""


class _Tally(io.RawIOBase):
    """A body whose CRC-64 is taken while it is sent."""

    def __init__(self, body: bytes | BinaryIO, digest: Any) -> None:
        super().__init__()
        self._body = body
        self._at = 0
        self.digest = digest

    @override
    def read(self, size: int = -1, /) -> bytes:
        if isinstance(self._body, bytes):
            data = self._body[self._at : self._at + size]
            self._at += len(data)
        else:
            data = self._body.read(size)
        self.digest.update(data)
        return data


def _info(op: str, key: Key, answer: Answer, size: int) -> ObjectInfo:
    headers = answer.headers
    tag = headers.get("etag")
    if not tag:
        # Also what a captive portal's 200 looks like.
        raise TransientError(op, key, "the answer has no ETag: not an OSS server?")
    version = version_of(tag)
    # A PUT's answer does not name the type: what one PUT makes is Normal.
    plain = headers.get("x-oss-object-type", "Normal") == "Normal"
    plain = plain and headers.get("x-oss-server-side-encryption", "AES256") == "AES256"
    md5 = version.lower() if plain and _MD5.fullmatch(version) else None
    when = headers.get("last-modified") or headers.get("date", "")
    return ObjectInfo(key, version, size, http_date_ns(when), md5)


def _decimal(digest: Any) -> str:
    return str(int.from_bytes(cast("bytes", digest.digest()), "big"))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""
