"""How does one speak to OpenStack Swift?

`SwiftDriver` prepares requests and parses answers: a token in a header is all Swift asks for, so small
requests go through libcurl like S3's, and keys arrive byte for byte (python-swiftclient sends `a/../b` as
`b`). keystoneauth1 logs in (`swift_credentials`), in a thread, and again before the token ends.

Swift compares nothing on PUT and DELETE but `If-None-Match: *`, and that not atomically (of 47 rounds with
40 racers 31 had several winners), so every condition is check-then-put, and a creation is read back.

A version is the ETag. *Listings lag*: they are a database beside the objects, updated afterwards. What this
driver has seen or done itself goes before a listing that is older; where the two differ, or where a listing
shows 0 bytes and may mean a large object's manifest, the page calls the key *doubtful* and `Store` asks
by HEAD. HEADs ask all replicas (`X-Newest`), GETs only where another replica is known to be behind.

Source: OpenStack Object Storage API reference; swift 2.38 `common/middleware/{slo,dlo,symlink}.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from typing import Any, BinaryIO, Final, NamedTuple
from urllib.parse import quote

import pycurl

from kopsfs.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    QuotaError,
    RefusedError,
    StoreError,
    StoreGoneError,
    TransientError,
)
from kopsfs.store import swift_credentials
from kopsfs.store.curl import Options
from kopsfs.store.driver import (
    ABSENT,
    Answer,
    Capabilities,
    Expected,
    Form,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Request,
    Tls,
    Version,
)
from kopsfs.store.renewal import Held
from kopsfs.store.rest import Kept, Recent, digest_of, http_date_ns, iso_date_s, kind_of, made, path_of, size_of
from kopsfs.store.swift_credentials import Token
from kopsfs.store.url import Location, Settings

log = logging.getLogger(__name__)

KNOWN_MAX: Final = 20_000
"""Keys whose last known state is remembered against listings that lag."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_TAG: Final = re.compile(rb"<[^>]*>")
_KEPT: Final = frozenset({"content-type", "content-encoding", "content-disposition", "x-delete-at"})
_KEY_BYTES_MAX: Final = 1024
"""Source: swift `common/constraints.py`, MAX_OBJECT_NAME_LENGTH."""


class Known(NamedTuple):
    """What this driver last saw of a key, or did to it."""

    version: Version | None
    """None: it was gone."""
    second: int
    """When that state was written, in Unix seconds rounded up, as Last-Modified has it."""


class SwiftDriver:
    """One container. To open it sends nothing, and raises ConfigError for settings that cannot work.

    `warm_up` and `refresh_credentials` run in a thread beside the rest.
    """

    def __init__(
        self,
        location: Location,
        settings: Settings,
        *,
        log_in: Callable[..., Token] = swift_credentials.log_in,
    ) -> None:
        environ = settings.environ
        self._environ = environ
        self._container = location.bucket
        if "/" in self._container or len(self._container.encode()) > 256:
            raise InvalidKeyError("open", "", f"a container's name has at most 256 bytes and no '/': {location.bucket}")
        self._login = swift_credentials.find(environ)
        self._endpoint = swift_credentials.find_endpoint(environ)
        self.named_by = f"the catalogue of {self._login.named_by}, region {self._endpoint.region or 'any'},"
        self.tls = Tls(not swift_credentials.insecure(environ), environ.get("OS_CACERT", ""))
        bundle = Options.read(environ, ca_file=settings.ca_file or self.tls.ca_file).fixed.get(pycurl.CAINFO, True)
        self._verify: bool | str = bundle if self.tls.verify else False
        self._log_in = log_in
        self._held: Held[Token] = Held(settings.clock)
        self.refresh_due = self._held.due
        self._base = ""
        self.signing = ""
        """The header that says who we are."""
        self._kept = Kept(_KEPT, "x-object-meta-", on=settings.keep_metadata)
        self._known: Recent[Key, Known] = Recent(KNOWN_MAX)
        self._empty: Recent[Key, int] = Recent(KNOWN_MAX)
        """Keys that a HEAD has shown to be empty, and when they were written."""
        self._manifests: set[Key] = set()
        """Static large objects whose listing does not say so (Ceph)."""
        self._behind: set[Key] = set()
        """Keys of which a replica gave an older state than another."""
        self._page_size = settings.page_size
        # One more than wanted tells whether there are more; Swift itself does not say.
        self._list_query = f"format=json&limit={settings.page_size + 1}&prefix="
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
        """Log in. Cost: 1 request to Keystone."""
        del writes  # they need nothing more
        self.refresh_credentials()

    def refresh_credentials(self, *, force: bool = False) -> None:
        """Log in again where the token ends soon. Raises DeniedError, TransientError, ConfigError."""
        if not (force or self.refresh_due()):
            return
        if force:
            self._login = swift_credentials.find(self._environ)
        token = self._log_in(self._login, self._endpoint, verify=self._verify)
        self._base = f"{token.storage_url}/{quote(self._container, safe='')}"
        self.signing = f"X-Auth-Token: {token.value}"
        self._held.take(token)

    # -- preparing ------------------------------------------------------------------------------

    def _url(self, op: str, key: str) -> str:
        if "\0" in key:
            raise InvalidKeyError(op, key, "Swift takes no NUL in a key")
        if not self._base:
            raise TransientError(op, key, "not logged in yet")
        return f"{self._base}/{path_of(op, key, _KEY_BYTES_MAX)}"

    def prepare_head(self, key: Key, /) -> Request:
        return Request("HEAD", self._url("head", key), [self.signing, "X-Newest: true"])

    def prepare_get(self, key: Key, /) -> Request:
        auth = self.signing
        return Request("GET", self._url("get", key), [auth, "X-Newest: true"] if key in self._behind else [auth])

    def prepare_put(
        self, key: Key, body: bytes | BinaryIO, size: int, /, *, expected: Expected, form: Form = "quoted"
    ) -> Request:
        """A version as `expected` changes nothing: Swift ignores `If-Match` on PUT, and `Store` has looked before."""
        del form
        kept = self._kept.of(key) or {"Content-Type": "application/octet-stream"}
        lines = [self.signing, *(f"{name}: {value}" for name, value in kept.items())]
        if expected is ABSENT:
            lines.append("If-None-Match: *")
        if (digest := digest_of("md5", body, size)) is not None:
            lines.append(f"ETag: {digest.hexdigest()}")
        return Request("PUT", self._url("put", key), lines, body, size)

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request:
        """A version as `expected` changes nothing, as with PUT. Of a large object only the manifest goes."""
        del expected, form
        return Request("DELETE", self._url("delete", key), [self.signing])

    def prepare_list(
        self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Request:
        if not self._base:
            raise TransientError("list", prefix, "not logged in yet")
        query = self._list_query + quote(prefix, safe="")
        if delimiter:
            query += "&delimiter=/"
        marker = token if token is not None else start_after
        if marker is not None:
            query += f"&marker={quote(marker, safe='')}"
        return Request("GET", f"{self._base}?{query}", [self.signing])

    # -- parsing --------------------------------------------------------------------------------

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status not in {200, 204}:
            raise self._failure("head", key, answer)
        info = self._info("head", key, answer, int(answer.headers.get("content-length", "0")))
        if info.size == 0 and not _is_manifest(answer):
            self._empty.note(key, _second(info))
        (self._manifests.add if "x-static-large-object" in answer.headers else self._manifests.discard)(key)
        self._kept.note(key, answer)
        self._note(key, info)
        return info

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        if answer.status != 200:
            raise self._failure("get", key, answer)
        info = self._info("get", key, answer, size_of(answer))
        known = self._known.get(key)
        if known is not None and known.version not in {None, info.version} and _second(info) < known.second:
            if key not in self._behind:
                self._behind.add(key)
                raise TransientError("get", key, "a replica answered with an older state than is known")
        elif len(answer.body) == info.size and (digest := digest_of("md5", answer.body, info.size)) is not None:
            self.check_digest(key, answer, digest)
        self._behind.discard(key)
        self._kept.note(key, answer)
        self._note(key, info)
        return info

    def new_digest(self) -> Any:
        """What a large body is checked by while it arrives."""
        return hashlib.md5(usedforsecurity=False)

    def check_digest(self, key: Key, answer: Answer, digest: Any, /) -> None:
        """Compare the bytes that arrived with the ETag, where that is their MD5. Raises CorruptError."""
        tag = answer.headers.get("etag", "")
        if _MD5.fullmatch(tag) and not _is_manifest(answer) and digest.hexdigest() != tag:
            raise CorruptError("get", key, "the bytes are not those of the ETag")

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        if answer.status not in {200, 201}:
            raise self._failure("put", key, answer)
        info = self._info("put", key, answer, size)
        if size == 0:
            self._empty.note(key, _second(info))
        self._manifests.discard(key)
        self._note(key, info)
        return info

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        if answer.status not in {200, 204, 404}:
            raise self._failure("delete", key, answer)
        self._note_gone(key)

    def versioned(self, answer: Answer, /) -> bool | None:
        """Swift's own versioning neither shows in answers nor changes what a condition means."""
        del answer
        return None

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page:
        if answer.status == 204:
            return Page([], [], None)
        if answer.status != 200:
            raise self._failure("list", prefix, answer)
        try:
            entries = json.loads(answer.body)
            more = len(entries) > self._page_size
            if more:
                del entries[self._page_size :]
            prefixes = [Prefix(entry["subdir"]) for entry in entries if "subdir" in entry]
            listed = [entry for entry in entries if "subdir" not in entry]
            objects = [_listed(entry) for entry in listed]
        except (ValueError, TypeError, KeyError) as error:
            raise TransientError("list", prefix, "the answer is no listing of Swift") from error
        doubtful = frozenset(info.key for info, entry in zip(objects, listed, strict=True) if self._doubts(info, entry))
        last = entries[-1].get("subdir") or entries[-1]["name"] if more else None
        return Page(objects, prefixes, last, doubtful)

    # -- what is known ---------------------------------------------------------------------------

    def _doubts(self, info: ObjectInfo, entry: dict[str, Any]) -> bool:
        """Whether only a HEAD can say what this entry of a listing is worth."""
        key = info.key
        if info.size == 0 and self._empty.get(key) != _second(info):
            return True
        if key in self._manifests and "slo_etag" not in entry:
            return True
        known = self._known.get(key)
        if known is None or known.version == info.version:
            return False
        # Of two writes within one second the listing may show either.
        return known.version is None or _second(info) <= known.second

    def _note(self, key: Key, info: ObjectInfo) -> None:
        self._known.note(key, Known(info.version, _second(info)))

    def _note_gone(self, key: Key) -> None:
        self._empty.pop(key, None)
        self._manifests.discard(key)
        self._known.note(key, Known(None, 0))

    def _info(self, op: str, key: Key, answer: Answer, size: int) -> ObjectInfo:
        tag = answer.headers.get("etag", "")
        if not tag:
            # Also what a captive portal's 200 looks like.
            raise TransientError(op, key, "the answer has no ETag: not a Swift server?")
        stamp = answer.headers.get("x-timestamp")
        mtime_ns = _ceiling(stamp) if stamp else http_date_ns(answer.headers.get("last-modified", ""))
        proven = _MD5.fullmatch(tag) is not None and not _is_manifest(answer)
        return ObjectInfo(key, Version(tag.strip('"')), size, mtime_ns, tag if proven else None)

    # -- errors ----------------------------------------------------------------------------------

    def _failure(self, op: str, key: str, answer: Answer) -> StoreError:
        status = answer.status
        detail = _words(answer)
        match status:
            case 401:
                return RefusedError(op, key, f"{detail}: Swift refuses the token of {self._login.auth_url}")
            case 403:
                what = f"this login has no such right on container {self._container}"
                return DeniedError(
                    op, key, f"{detail}: {what}; grant it a role in the project, or an ACL of the container"
                )
            case 404 if op in {"list", "put"}:
                hint = f"no container {self._container}: openstack container create {self._container}"
                return StoreGoneError(op, key, hint)
            case 404:
                self._note_gone(Key(key))
                return NotFoundError(op, key, detail)
            case 412 if op == "put":
                return ConflictError(op, key, "exists")
            case 412:
                return InvalidKeyError(op, key, detail)
            case 413:
                return QuotaError(op, key, detail)
            case 422 | 498 | 499:
                return made(TransientError, op, key, detail, answer)
            case _:
                return made(kind_of(status), op, key, detail, answer)

    def describe(self) -> dict[str, object]:
        """Endpoint, region, container, what the login was made of, when its token ends; never a credential."""
        token = self._held.found
        where = {} if token is None else {"endpoint": token.storage_url}
        return {
            **where,
            "keystone": self._login.auth_url,
            "region": self._endpoint.region or "any",
            "bucket": self._container,
            **self._held.describe(),
            "credentials": self._login.origin,
            "tls_verified": self.tls.verify,
        }

    def close(self) -> None:
        """Nothing is held."""


def _listed(entry: dict[str, Any]) -> ObjectInfo:
    """Read one entry of a listing. Source: Object Storage API, "Show container details and list objects"."""
    tag = entry.get("slo_etag") or entry["hash"]
    large = tag is not entry["hash"] or _MD5.fullmatch(tag) is None
    size = int(entry["bytes"])
    # The md5 of no bytes may be a manifest's, so it proves nothing.
    md5 = None if large or size == 0 else str(tag)
    return ObjectInfo(Key(entry["name"]), Version(tag.strip('"')), size, _listed_ns(entry["last_modified"]), md5)


def _listed_ns(text: str) -> int:
    """Read `2026-11-21T05:25:51.123450`, UTC, rounded up to a second as Last-Modified is."""
    return (iso_date_s(text[:19]) + (1 if text[19:].strip(".0Z") else 0)) * 10**9


def _ceiling(stamp: str) -> int:
    whole, _, fraction = stamp.partition(".")
    return (int(whole) + (1 if fraction.strip("0") else 0)) * 10**9


def _second(info: ObjectInfo) -> int:
    return info.mtime_ns // 10**9


def _is_manifest(answer: Answer) -> bool:
    return "x-object-manifest" in answer.headers or "x-static-large-object" in answer.headers


def _words(answer: Answer) -> str:
    """What an answer says, in one line: Swift writes small HTML pages."""
    text = _TAG.sub(b" ", answer.body[:2000]).decode(errors="replace")
    location = answer.headers.get("location", "") if 300 <= answer.status < 400 else ""
    return " ".join(f"{answer.status} {text} {location}".split())[:200]
