"""What would Alibaba Cloud's OSS answer?

`Server` is a small, strict OSS: it checks every signature (V1 and V4, header form), dates, digests and names,
refuses what OSS refuses, and compares and swaps under one lock. Everything it does is what the vendor's
documentation or SDK says; what is only believed of OSS stands in a switch that is off.

    with Server() as server:
        server.create_bucket("state")
        server.environment                    # the variables by which kopsfs finds it
        server.faults.append(Fault("GET", 503, "ServiceUnavailable"))

It also serves the metadata of an ECS instance (`/latest/meta-data/...`) with a RAM role whose STS tokens end.

Source: OSS API reference: "Include signatures in the Authorization header" (V1), "V4 signature", PutObject,
GetObject, HeadObject, DeleteObject, ListObjectsV2, "Object naming conventions", "Error responses", "x-oss-err";
ECS "Instance metadata".
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.server
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from tests.support.listening import Listener

SKEW_MAX_S = 900
LIST_DEFAULT, LIST_MAX = 100, 1000
SUBRESOURCES = frozenset(
    "acl bucketInfo location stat delete append tagging objectMeta uploads uploadId partNumber security-token position "
    "restore callback callback-var versions versioning versionId continuation-token symlink".split()
)
"""What V1 signs of a query. Source: "CanonicalizedResource", and `SignerV1` of the SDK."""
_POLYNOMIAL = 0xC96C5795D7870F42


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ _POLYNOMIAL if crc & 1 else crc >> 1
        table.append(crc)
    return table


_TABLE = _crc_table()


def crc64(data: bytes) -> int:
    """CRC-64/ECMA-182, reflected, as `x-oss-hash-crc64ecma` has it; check value of `123456789`: 995dc9bbdf1939fa."""
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFFFFFFFFFF


@dataclass
class Stored:
    data: bytes
    headers: dict[str, str]
    modified: float
    crc: int

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest().upper()}"'


@dataclass
class Bucket:
    objects: dict[str, Stored] = field(default_factory=dict)
    versioned: bool = False
    private_to: str = ""
    """The key id that may use it; empty: all."""
    read_only_to: frozenset[str] = frozenset()
    endpoint: str = ""
    """Where it really lives: asked elsewhere, OSS denies and names it."""


@dataclass
class Fault:
    """The next request of a method is answered with this."""

    method: str
    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """The request acts first: a lost reply."""


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str = "", **fields: str) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.message = message or code
        self.fields = fields


class Server(Listener):
    """Listens on 127.0.0.1 until its block ends."""

    def __init__(self, region: str = "cn-hangzhou") -> None:
        super().__init__(_Handler)
        self.region = region
        self.keys = {"oss-key": "oss-secret", "other-key": "other-secret"}
        self.sessions: dict[str, tuple[str, str, float]] = {}
        """STS: key id → (secret, token, end)."""
        self.session_s = 3600.0
        self.role = ""
        """The instance's RAM role; empty: it has none."""
        self.on_ecs = True
        self.buckets: dict[str, Bucket] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int]] = []
        """(method, path and query, status)."""
        self.signatures: set[str] = set()
        """Which forms of signature have been accepted."""
        self.clock: Callable[[], float] = time.time
        self.corrupt = 0
        """So many GETs deliver a wrong byte."""
        self.ignores_forbid = False
        """As a versioned bucket is believed to."""
        self.after_put: Callable[[Bucket, str], None] | None = None
        """Another client, at the worst moment: called when a PUT has acted and before it is answered."""
        self.lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OSS_ENDPOINT": self.url,
            "OSS_REGION": f"oss-{self.region}",
            "ALIYUN_ACCESS_KEY_ID": "oss-key",
            "ALIYUN_ACCESS_KEY_SECRET": "oss-secret",
        }

    @property
    def on_instance(self) -> dict[str, str]:
        """Variables of an ECS instance that is given nothing."""
        return {"OSS_ENDPOINT": self.url, "ALIYUN_METADATA_ENDPOINT": self.url}

    def create_bucket(self, name: str) -> Bucket:
        return self.buckets.setdefault(name, Bucket())

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store as another client does."""
        with self.lock:
            self.buckets[bucket].objects[key] = Stored(data, {}, self.clock(), crc64(data))

    # -- who asks ---------------------------------------------------------------------------------------------

    def secret_of(self, key_id: str, token: str) -> str:
        if key_id in self.sessions:
            secret, right, end = self.sessions[key_id]
            if token != right:
                raise Refused(403, "InvalidSecurityToken", "The security token you provided is invalid.")
            if self.clock() >= end:
                raise Refused(403, "SecurityTokenExpired", "The security token you provided has expired.")
            return secret
        if key_id not in self.keys or token:
            raise Refused(
                403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records."
            )
        return self.keys[key_id]

    def new_session(self) -> dict[str, str]:
        number = len(self.sessions) + 1
        key_id, end = f"STS.{number}", self.clock() + self.session_s
        self.sessions[key_id] = (f"sts-secret-{number}", f"sts-token+/{number}=", end)
        return {
            "AccessKeyId": key_id,
            "AccessKeySecret": self.sessions[key_id][0],
            "SecurityToken": self.sessions[key_id][1],
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end)),
            "Code": "Success",
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 30

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        path, _, query = self.path.partition("?")
        if path.startswith("/latest/"):
            self._metadata(path)
            return
        fault = self._fault()
        try:
            if fault is not None and not fault.after:
                raise Refused(fault.status, fault.code, **fault.headers)
            status, headers, answer = self._do(path, query, body)
            if fault is not None:
                raise Refused(fault.status, fault.code, **fault.headers)
        except Refused as refused:
            status, headers, answer = self._error(refused)
        self._answer(status, headers, answer)

    do_HEAD = do_PUT = do_DELETE = do_POST = do_GET

    def _fault(self) -> Fault | None:
        with self.server.lock:
            for fault in self.server.faults:
                if fault.method in {self.command, "*"}:
                    self.server.faults.remove(fault)
                    return fault
        return None

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.server.log.append((self.command, self.path, status))
        self.send_response_only(status)
        head = self.command == "HEAD"
        now = email.utils.formatdate(self.server.clock(), usegmt=True)
        full = {"Server": "AliyunOSS", "Date": now, "x-oss-request-id": "5C3D9175B6FC201293AD4890", **headers}
        full.setdefault("Content-Length", str(len(body)))
        for name, value in full.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def _error(self, refused: Refused) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in refused.fields.items() if "-" in name}
        fields = {name: value for name, value in refused.fields.items() if "-" not in name}
        fields = {"Code": refused.code, "Message": refused.message, "RequestId": "5C3D", "HostId": "h", **fields}
        rows = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{rows}</Error>'.encode()
        headers["Content-Type"] = "application/xml"
        if self.command == "HEAD":
            headers["x-oss-err"] = base64.b64encode(document).decode()
            headers["Content-Length"] = "0"
        return refused.status, headers, document

    # -- signatures ---------------------------------------------------------------------------------------------

    def _who(self, bucket: str, key: str, query: str) -> str:
        """Check the signature; give the key id."""
        authorization = self.headers.get("Authorization", "")
        when = self.headers.get("x-oss-date") or self.headers.get("Date", "")
        if authorization.startswith("OSS4-HMAC-SHA256 "):
            who = self._check_v4(authorization, bucket, key, query, when)
        elif authorization.startswith("OSS "):
            who = self._check_v1(authorization, bucket, key, query, when)
        else:
            raise Refused(403, "AccessDenied", "Anonymous access is forbidden for this operation.")
        return who

    def _check_date(self, moment: float) -> None:
        if abs(moment - self.server.clock()) > SKEW_MAX_S:
            raise Refused(
                403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."
            )

    def _check_v1(self, authorization: str, bucket: str, key: str, query: str, when: str) -> str:
        key_id, _, given = authorization.removeprefix("OSS ").partition(":")
        token = self.headers.get("x-oss-security-token") or self.headers.get("security-token", "")
        secret = self.server.secret_of(key_id, token)
        self._check_date(email.utils.parsedate_to_datetime(when).timestamp())
        own = sorted((n.lower(), v.strip()) for n, v in self.headers.items() if n.lower().startswith("x-oss-"))
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        parts = sorted((unquote(n), unquote(v)) for n, _, v in pairs if unquote(n) in SUBRESOURCES)
        resource = f"/{bucket}/{key}"
        if parts:
            resource += "?" + "&".join(f"{n}={v}" if v else n for n, v in parts)
        text = "\n".join(
            [
                self.command,
                self.headers.get("Content-MD5", ""),
                self.headers.get("Content-Type", ""),
                when,
                "".join(f"{n}:{v}\n" for n, v in own) + resource,
            ]
        )
        right = base64.b64encode(hmac.new(secret.encode(), text.encode(), "sha1").digest()).decode()
        self._compare(right, given, "v1")
        return key_id

    def _check_v4(self, authorization: str, bucket: str, key: str, query: str, when: str) -> str:
        found = re.fullmatch(
            r"OSS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/oss/aliyun_v4_request,"
            r"(?:\s*AdditionalHeaders=([^,]*),)?\s*Signature=([0-9a-f]{64})",
            authorization,
        )
        if found is None:
            raise Refused(400, "InvalidArgument", "The Authorization header is malformed.")
        key_id, date, region, additional, given = found.groups()
        secret = self.server.secret_of(key_id, self.headers.get("x-oss-security-token", ""))
        if region != self.server.region:
            raise Refused(400, "InvalidArgument", f"Invalid signing region in Authorization header: {region}.")
        stamp = self.headers.get("x-oss-date", "")
        if not re.fullmatch(r"\d{8}T\d{6}Z", stamp) or stamp[:8] != date or when != stamp:
            raise Refused(403, "InvalidArgument", "x-oss-date is malformed or of another day.")
        self._check_date(time.mktime(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - time.timezone)
        if self.headers.get("x-oss-content-sha256") != "UNSIGNED-PAYLOAD":
            raise Refused(400, "InvalidArgument", "x-oss-content-sha256 must be UNSIGNED-PAYLOAD.")
        more = [name for name in (additional or "").split(";") if name]
        signed = sorted(
            (n.lower(), v.strip())
            for n, v in self.headers.items()
            if n.lower().startswith("x-oss-") or n.lower() in {"content-type", "content-md5", *more}
        )
        canonical = "\n".join(
            [
                self.command,
                quote(f"/{bucket}/{key}", safe="/"),
                "&".join(f"{n}={v}" if v else n for n, _, v in sorted(p.partition("=") for p in query.split("&") if p)),
                "".join(f"{n}:{v}\n" for n, v in signed),
                ";".join(more),
                "UNSIGNED-PAYLOAD",
            ]
        )
        scope = f"{date}/{region}/oss/aliyun_v4_request"
        text = "\n".join(["OSS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        chain = f"aliyun_v4{secret}".encode()
        for part in (date, region, "oss", "aliyun_v4_request"):
            chain = hmac.new(chain, part.encode(), "sha256").digest()
        self._compare(hmac.new(chain, text.encode(), "sha256").hexdigest(), given, "v4")
        return key_id

    def _compare(self, right: str, given: str, form: str) -> None:
        if not hmac.compare_digest(right, given):
            raise Refused(403, "SignatureDoesNotMatch", "The request signature we calculated does not match yours.")
        self.server.signatures.add(form)

    # -- requests -----------------------------------------------------------------------------------------------

    def _do(self, path: str, query: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        host = self.headers.get("Host", "").partition(":")[0]
        decoded = unquote(path, errors="strict")
        if host == "127.0.0.1":
            name, _, key = decoded[1:].partition("/")
        else:
            name, key = host.partition(".")[0], decoded[1:]
        who = self._who(name, key, query)
        bucket = self.server.buckets.get(name)
        if bucket is None:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.", BucketName=name)
        if bucket.endpoint:
            raise Refused(
                403,
                "AccessDenied",
                "The bucket you are attempting to access must be addressed using the specified endpoint.",
                Endpoint=bucket.endpoint,
            )
        writes = self.command in {"PUT", "DELETE"}
        if (bucket.private_to and who != bucket.private_to) or (writes and who in bucket.read_only_to):
            raise Refused(403, "AccessDenied", "You have no right to access this object because of bucket acl.")
        if not key:
            return self._list(bucket, name, query)
        if len(key.encode()) > 1023 or key[0] in "/\\":
            raise Refused(400, "InvalidObjectName", "The specified object is not valid.")
        return getattr(self, f"_{self.command.lower()}")(bucket, key, body)

    def _get(self, bucket: Bucket, key: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with self.server.lock:
            stored = bucket.objects.get(key)
            corrupt = self.server.corrupt > 0 and self.command == "GET"
            self.server.corrupt -= corrupt
        if stored is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.", Key=key)
        headers = {
            **stored.headers,
            "ETag": stored.etag,
            "Last-Modified": email.utils.formatdate(stored.modified, usegmt=True),
            "Content-Length": str(len(stored.data)),
            "x-oss-object-type": "Normal",
            "x-oss-storage-class": "Standard",
            "x-oss-hash-crc64ecma": str(stored.crc),
        }
        data = bytes([stored.data[0] ^ 1]) + stored.data[1:] if corrupt and stored.data else stored.data
        return 200, headers, data

    _head = _get

    def _put(self, bucket: Bucket, key: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        for name in ("If-Match", "If-None-Match"):
            if name in self.headers:
                message = "A header you provided implies functionality that is not implemented."
                raise Refused(400, "NotImplemented", message, Header=name)
        digest = self.headers.get("Content-MD5")
        if digest is not None and base64.b64decode(digest) != hashlib.md5(body).digest():
            raise Refused(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower() in {"content-type", "content-encoding", "cache-control", "content-disposition"}
            or name.lower().startswith("x-oss-meta-")
        }
        stored = Stored(body, kept, self.server.clock(), crc64(body))
        forbid = self.headers.get("x-oss-forbid-overwrite", "") == "true" and not self.server.ignores_forbid
        with self.server.lock:
            if forbid and key in bucket.objects:
                raise Refused(
                    409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten."
                )
            bucket.objects[key] = stored
        if self.server.after_put is not None:
            self.server.after_put(bucket, key)
        headers = {"ETag": stored.etag, "x-oss-hash-crc64ecma": str(stored.crc)}
        if bucket.versioned:
            headers["x-oss-version-id"] = f"CAEQ{len(self.server.log)}"
        return 200, headers, b""

    def _delete(self, bucket: Bucket, key: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with self.server.lock:
            bucket.objects.pop(key, None)
        return 204, {}, b""

    def _list(self, bucket: Bucket, name: str, query: str) -> tuple[int, dict[str, str], bytes]:
        asked = {n: unquote(v) for n, _, v in (pair.partition("=") for pair in query.split("&"))}
        if self.command != "GET" or asked.get("list-type") != "2":
            raise Refused(405, "MethodNotAllowed")
        limit = int(asked.get("max-keys", LIST_DEFAULT))
        if not 0 < limit <= LIST_MAX or asked.get("encoding-type", "url") != "url":
            raise Refused(400, "InvalidArgument", "max-keys must be 1 to 1000.")
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        token = asked.get("continuation-token")
        after = base64.b64decode(token) if token is not None else asked.get("start-after", "").encode()
        with self.server.lock:
            entries = _entries(bucket.objects, prefix, delimiter)
        entries = [entry for entry in entries if entry[0].encode() > after]
        shown, rest = entries[:limit], entries[limit:]
        word: Callable[[str], str] = (lambda text: quote(text, safe="")) if "encoding-type" in asked else escape
        rows = [f"<Name>{name}</Name><Prefix>{word(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>"]
        rows.append(f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated><KeyCount>{len(shown)}</KeyCount>")
        if "encoding-type" in asked:
            rows.append("<EncodingType>url</EncodingType>")
        if rest:
            rows.append(
                f"<NextContinuationToken>{base64.b64encode(shown[-1][0].encode()).decode()}</NextContinuationToken>"
            )
        for key, stored in shown:
            if stored is None:
                rows.append(f"<CommonPrefixes><Prefix>{word(key)}</Prefix></CommonPrefixes>")
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.modified))
            rows.append(
                f"<Contents><Key>{word(key)}</Key><LastModified>{when}</LastModified><ETag>{escape(stored.etag)}</ETag>"
                f"<Type>Normal</Type><Size>{len(stored.data)}</Size><StorageClass>Standard</StorageClass></Contents>"
            )
        document = f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult>{"".join(rows)}</ListBucketResult>'
        return 200, {"Content-Type": "application/xml"}, document.encode()

    # -- the instance -------------------------------------------------------------------------------------------

    def _metadata(self, path: str) -> None:
        oss = self.server
        if not oss.on_ecs:
            self._answer(404, {}, b"<html>404 - Not Found</html>")
        elif path == "/latest/api/token":
            self._answer(200, {}, b"session")
        elif self.headers.get("X-aliyun-ecs-metadata-token") != "session":
            self._answer(403, {}, b"")
        elif path == "/latest/meta-data/region-id":
            self._answer(200, {}, oss.region.encode())
        elif path == "/latest/meta-data/ram/security-credentials/" and oss.role:
            self._answer(200, {}, oss.role.encode())
        elif path == f"/latest/meta-data/ram/security-credentials/{oss.role}" and oss.role:
            self._answer(200, {}, json.dumps(oss.new_session()).encode())
        else:
            self._answer(404, {}, b"<html>404 - Not Found</html>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _entries(objects: dict[str, Stored], prefix: str, delimiter: str) -> list[tuple[str, Stored | None]]:
    """Objects and groups, in the order of their UTF-8 bytes."""
    found: dict[str, Stored | None] = {}
    for key, stored in objects.items():
        if key.startswith(prefix):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                found[key] = stored
            else:
                found[key[: cut + 1]] = None
    return sorted(found.items(), key=lambda entry: entry[0].encode())
