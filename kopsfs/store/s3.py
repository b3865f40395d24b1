"""How does one speak to S3 and its relatives?

`S3Driver` prepares signed requests and parses answers; on the hot path it sends nothing itself. The same
class serves `s3 do scw hos linode`: what differs is a row of `s3_site.QUIRKS`. Who we are is found by
`s3_credentials`, what answers mean by `s3_answers`.

An ETag is a version and nothing more: opaque text without its quotes, sent back in the form `Store` asks
for. It counts as an MD5 only where the answer about that one object proves that it is one.

What an answer teaches (the bucket's region, the server's clock) is kept by replacing one immutable value; the
answer itself becomes a TransientError, and the repeat succeeds.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from kopsfs.errors import ConfigError, DeniedError, StoreError, TransientError
from kopsfs.store import s3_credentials
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import (
    ABSENT,
    ANY,
    Answer,
    Capabilities,
    Expected,
    Form,
    Guarantee,
    Key,
    Method,
    ObjectInfo,
    Page,
    Prefix,
    Request,
    Version,
)
from kopsfs.store.renewal import Held
from kopsfs.store.rest import (
    CONTENT_HEADERS,
    Kept,
    Recent,
    digest_of,
    http_date_ns,
    path_of,
    size_of,
    skew_of,
    version_of,
)
from kopsfs.store.s3_answers import (
    WRONG_REGION,
    Fault,
    advice,
    error_of,
    fault,
    page_of,
)
from kopsfs.store.s3_credentials import DEFAULT_REGION, Found
from kopsfs.store.s3_site import (
    QUIRKS,
    Site,
    aws_site,
    custom_site,
    endpoint_variable,
    region_of_endpoint,
    region_of_instance,
)
from kopsfs.store.sigv4 import EMPTY_SHA256, UNSIGNED, Credentials, Signer
from kopsfs.store.url import Location, Settings
from kopsfs.store.xml_answers import flat

log = logging.getLogger(__name__)

AWS_PRICES: Final = {"get": 0.0004, "head": 0.0004, "put": 0.005, "delete": 0.0, "list": 0.005}
"""US dollars per 1000 requests, S3 Standard, us-east-1. Source: aws.amazon.com/s3/pricing, 2026."""
ENCRYPTION_TRIES: Final = 3
"""A wrong region and a wrong clock are each corrected by one answer."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_KEY_BYTES_MAX: Final = 1024
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_KEPT: Final = CONTENT_HEADERS | {"x-amz-storage-class"}
_PAGES_MAX: Final = 32
_AES256: Final = (("x-amz-server-side-encryption", "AES256"),)


class S3Driver:
    """One bucket. To open it sends nothing, and raises ConfigError for settings that cannot work.

    `warm_up` and `refresh_credentials` run in a thread beside the rest.
    """

    def __init__(self, location: Location, settings: Settings) -> None:
        self._bucket = location.bucket
        self._scheme = location.scheme
        self._environ = settings.environ
        self._clock = settings.clock
        self._acl = (settings.acl or self._environ.get("KOPS_STATE_S3_ACL", "")).strip()
        self._sse_setting = settings.sse
        wanted = _sse_headers(settings.sse)
        self._sse = () if wanted is None and not QUIRKS[self._scheme].sse else wanted
        """Header pairs for a PUT; None: the bucket has to be asked first."""
        self._kept = Kept(_KEPT, "x-amz-meta-", on=settings.keep_metadata)
        self._pages: Recent[bytes, Page] = Recent(_PAGES_MAX)
        """Listings by the digest of their bytes."""
        self._unlike: Recent[Key, tuple[Version, str]] = Recent()
        """Bytes that were not those of their ETag, as ETag and MD5."""
        self._endpoint = self._environ.get("S3_ENDPOINT", "")
        self._site, found = self._open()
        self.named_by = "S3_ENDPOINT" if self._endpoint else _named_by(self._environ)
        self._options = Options.read(self._environ, ca_file=settings.ca_file, named_by=self.named_by)
        self._held = Held(self._clock, found)
        self.refresh_due = self._held.due
        self._region_given = bool(self._endpoint or self._environ.get("AWS_REGION"))
        self._skew_s = 0.0
        self._changing = threading.Lock()
        self.signing = self._new_signer()
        self._versioned: bool | None = None
        self._list_query = f"encoding-type=url&list-type=2&max-keys={settings.page_size}&prefix="
        guarantee: Guarantee = "unproven" if self._site.custom else "atomic"
        self.capabilities = Capabilities(
            create_only=guarantee,
            replace_if=guarantee,
            delete_if=guarantee,
            key_bytes_max=_KEY_BYTES_MAX,
            concurrency_max=settings.connections_max,
            price_per_1000={} if self._site.custom else dict(AWS_PRICES),
        )

    def _open(self) -> tuple[Site, Found | None]:
        """Read endpoint, region and what credentials need no SDK."""
        environ = self._environ
        if self._endpoint:
            region = environ.get("S3_REGION") or region_of_endpoint(self._scheme, self._endpoint) or DEFAULT_REGION
            return custom_site(self._endpoint, self._bucket, region), s3_credentials.custom(environ)
        return self._aws_site(environ.get("AWS_REGION") or DEFAULT_REGION), s3_credentials.key_pair(environ)

    def _aws_site(self, region: str) -> Site:
        environ = self._environ
        if variable := endpoint_variable(environ):
            return custom_site(environ[variable], self._bucket, region, variable)
        return aws_site(self._bucket, region, fips=environ.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true")

    def _new_signer(self) -> Signer:
        found = self._held.found
        credentials = Credentials("", "") if found is None else found.credentials
        clock, skew_s = self._clock, self._skew_s
        return Signer(credentials, self._site.region, clock=lambda: clock() + skew_s)

    # -- what blocks -----------------------------------------------------------------------------

    def warm_up(self, *, writes: bool = True) -> None:
        """Find credentials and region; with `writes` also whether the bucket encrypts by itself. Cost: 0 or 1 request."""
        if not self._region_given:
            self._region_given = True
            if region := region_of_instance(self._options):
                self._learn(site=self._aws_site(region))
        self.refresh_credentials()
        if writes and self._sse is None:
            self._sse = self._default_encryption()

    def refresh_credentials(self, *, force: bool = False) -> None:
        """Look for credentials again where they may have changed. Raises DeniedError, TransientError, ConfigError."""
        if not (force or self.refresh_due()):
            return
        try:
            found = s3_credentials.custom(self._environ) if self._endpoint else s3_credentials.find(self._environ)
        except DeniedError as error:
            if self._held.found is None or self._held.found.origin != s3_credentials.INSTANCE:
                raise
            # To botocore a metadata service that is silent is none.
            raise TransientError("open", detail=error.detail) from error
        self._held.take(found, skew_s=self._skew_s)
        self._learn()

    def _learn(self, *, site: Site | None = None, skew_s: float | None = None) -> None:
        """Take over what has been found out; the signer is replaced as a whole."""
        with self._changing:
            self._site = site or self._site
            self._skew_s = self._skew_s if skew_s is None else skew_s
            self.signing = self._new_signer()

    def _default_encryption(self) -> tuple[tuple[str, str], ...]:
        """Give kops's answer to `--sse auto`: nothing where the bucket has a rule, AES256 where it has none or hides it.

        Only an answer settles it: while requests are lost or throttled this raises TransientError, since AES256
        would override a bucket's own KMS key. Source: kops `s3context.go:hasServerSideEncryptionByDefault`.
        """
        error: StoreError | None = None
        for _ in range(ENCRYPTION_TRIES):
            answer = fetch(self._request("GET", self._site.base, "encryption="), self._options)
            if answer.status == 200:
                return () if "SSEAlgorithm" in flat(answer.body) else _AES256
            error = self._failure("other", "", answer)
            if not isinstance(error, TransientError) or answer.status in {500, 502}:
                return _AES256
        raise TransientError("other", detail=f"the bucket's default encryption: {error}")

    # -- preparing ------------------------------------------------------------------------------

    def _path(self, op: str, key: str) -> str:
        return self._site.base + path_of(op, key, _KEY_BYTES_MAX)

    def prepare_head(self, key: Key, /) -> Request:
        return self._request("HEAD", self._path("head", key))

    def prepare_get(self, key: Key, /) -> Request:
        return self._request("GET", self._path("get", key))

    def _request(self, method: Method, path: str, query: str = "") -> Request:
        site = self._site
        url = f"{site.origin}{path}?{query}" if query else site.origin + path
        return Request(method, url, self.signing.sign(method, site.host, path, query))

    def prepare_put(
        self, key: Key, body: bytes | BinaryIO, size: int, /, *, expected: Expected, form: Form = "quoted"
    ) -> Request:
        path = self._path("put", key)
        headers = _condition(expected, form)
        if self._sse is None:
            raise TransientError("put", key, "the bucket's default encryption is not known yet")
        headers += self._sse
        if self._acl:
            headers.append(("x-amz-acl", self._acl))
        headers += self._kept.of(key).items()
        site = self._site
        digest = digest_of("sha256", body, size)
        signed = UNSIGNED if digest is None else digest.hexdigest()
        lines = self.signing.sign("PUT", site.host, path, "", signed, headers)
        return Request("PUT", site.origin + path, lines, body, size)

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request:
        path = self._path("delete", key)
        site = self._site
        lines = self.signing.sign("DELETE", site.host, path, "", EMPTY_SHA256, _condition(expected, form))
        return Request("DELETE", site.origin + path, lines)

    def prepare_list(
        self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Request:
        # Sorted by name, as the signature wants it.
        query = self._list_query + quote(prefix, safe="")
        if delimiter:
            query = f"delimiter=%2F&{query}"
        if token is not None:
            query = f"continuation-token={quote(token, safe='')}&{query}"
        elif start_after is not None:
            query = f"{query}&start-after={quote(start_after, safe='')}"
        return self._request("GET", self._site.base, query)

    # -- parsing --------------------------------------------------------------------------------

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("head", key, answer)
        self._kept.note(key, answer)
        return _info("head", key, answer, int(answer.headers.get("content-length", "0")))

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("get", key, answer)
        self._kept.note(key, answer)
        info = _info("get", key, answer, size_of(answer))
        if info.md5 is not None and info.size == len(answer.body):
            digest = digest_of("md5", answer.body, info.size)
            if digest is not None:
                self.check_digest(key, answer, digest)
        return info

    def new_digest(self) -> Any:
        """What a large body is checked by while it arrives."""
        return hashlib.md5(usedforsecurity=False)

    def check_digest(self, key: Key, answer: Answer, digest: Any, /) -> None:
        """Compare the bytes that arrived with an ETag that is to be their MD5. Raises TransientError: ask again.

        What arrives twice the same is what the store has: AWS promises MD5s, its relatives do not, and one that makes up
        32 digits (Chimera does) must stay readable. `x-amz-checksum-*` would prove more, but has to be asked for, is
        there only where the writer or AWS took one, and is mostly a CRC-64 that Python has none of.
        """
        version, given = version_of(answer.headers.get("etag", "")), digest.hexdigest()
        if given == version or not _says_md5(answer, version):
            return
        if self._unlike.get(key) != (version, given):
            self._unlike.note(key, (version, given))
            raise TransientError("get", key, "the bytes are not those of the ETag")
        log.info("bucket=%s key=%r the ETag is not the MD5 of the bytes", self._bucket, key)

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("put", key, answer)
        return _info("put", key, answer, size)

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        if answer.status not in {200, 204}:
            raise self._failure("delete", key, answer)

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page:
        if answer.status != 200:
            raise self._failure("list", prefix, answer)
        # A listing that says what it said before is not read again: 0.2 ms a page instead of 8.
        digest = hashlib.blake2b(answer.body, digest_size=16).digest()
        try:
            page = self._pages.get(digest) or page_of(prefix, answer)
        except TransientError as error:
            if self._endpoint:
                error.detail += "; is S3_ENDPOINT an S3 server's?"
            raise
        self._pages.note(digest, page)
        return page

    def versioned(self, answer: Answer, /) -> bool | None:
        """A PUT into a versioned bucket answers with a version id (`null` where versioning is suspended)."""
        self._versioned = "x-amz-version-id" in answer.headers
        return self._versioned

    def _failure(self, op: str, key: str, answer: Answer) -> StoreError:
        """Give the error for an answer, after learning from it what it teaches."""
        found = fault(answer)
        lesson = self._lesson(answer, found)
        if lesson:
            log.info("bucket=%s %s", self._bucket, lesson)
            return TransientError(op, key, f"{found.detail} ({lesson})")
        detail = found.detail + advice(op, self._bucket, found, custom=bool(self._endpoint))
        return error_of(op, key, answer, found._replace(detail=detail))

    def _lesson(self, answer: Answer, found: Fault) -> str:
        """Learn region and clock; empty where there is nothing to learn, or it was known."""
        if found.code == "RequestTimeTooSkewed":
            skew_s = skew_of(answer, self._clock(), self._skew_s)
            if skew_s is None:
                return ""
            self._learn(skew_s=skew_s)
            return f"the server's clock differs by {skew_s:.0f} s"
        if answer.status in {301, 307, 400, 403} or found.code in WRONG_REGION:
            region = answer.headers.get("x-amz-bucket-region") or found.fields.get("Region", "")
            if region and region != self._site.region and _REGION.fullmatch(region):
                site = self._site._replace(region=region) if self._site.custom else self._aws_site(region)
                self._learn(site=site)
                return f"the bucket is in region {region}"
        return ""

    def describe(self) -> dict[str, object]:
        """Endpoint, region, bucket, encryption, ACL, versioning seen; never a credential."""
        sse = self._sse
        return {
            "endpoint": self._site.origin,
            "region": self._site.region,
            "bucket": self._bucket,
            "style": "path" if len(self._site.base) > 1 else "virtual host",
            "sse": self._sse_setting if sse is None else " ".join(value for _, value in sse) or "none",
            "acl": self._acl or "none",
            "versioned": self._versioned,
            **self._held.describe(),
            "clock_skew_s": round(self._skew_s),
        }

    def close(self) -> None:
        """Nothing is held."""


def _named_by(environ: Mapping[str, str]) -> str:
    """What leads to AWS, or elsewhere without S3_ENDPOINT; empty: the bucket's own region."""
    return endpoint_variable(environ) or ("AWS_REGION" if environ.get("AWS_REGION") else "")


def _condition(expected: Expected, form: Form) -> list[tuple[str, str]]:
    if expected is ANY:
        return []
    if expected is ABSENT:
        return [("if-none-match", "*")]
    return [("if-match", f'"{expected}"' if form == "quoted" else str(expected))]


def _info(op: str, key: Key, answer: Answer, size: int) -> ObjectInfo:
    headers = answer.headers
    etag = headers.get("etag")
    if not etag:
        # Also what a captive portal's 200 looks like.
        raise TransientError(op, key, "the answer has no ETag: not an S3 server?")
    version = version_of(etag)
    when = headers.get("last-modified") or headers.get("date", "")
    return ObjectInfo(key, version, size, http_date_ns(when), str(version) if _says_md5(answer, version) else None)


def _says_md5(answer: Answer, version: Version) -> bool:
    """Whether an answer about one object says that the ETag is an MD5. Source: AWS "API_Object", ETag.

    Of several parts it ends in `-N`; under SSE-KMS and SSE-C it looks like one and is none.
    """
    headers = answer.headers
    return (
        headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
        and "x-amz-server-side-encryption-customer-algorithm" not in headers
        and _MD5.fullmatch(version) is not None
    )


def _sse_headers(sse: str) -> tuple[tuple[str, str], ...] | None:
    """What `--sse` means; None for `auto`. Raises ConfigError."""
    name = "x-amz-server-side-encryption"
    if sse == "auto":
        return None
    if sse == "none":
        return ()
    if sse == "AES256":
        return ((name, sse),)
    if sse == "aws:kms":
        return ((name, "aws:kms"),)
    if sse.startswith("aws:kms:") and sse != "aws:kms:":
        return ((name, "aws:kms"), (f"{name}-aws-kms-key-id", sse.removeprefix("aws:kms:")))
    raise ConfigError(f"--sse {sse}: must be auto, none, AES256, aws:kms or aws:kms:KEY")
