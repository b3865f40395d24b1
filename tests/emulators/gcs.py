"""What does Google Cloud Storage answer?  As much of its JSON API as a state store needs, strictly.

    with Server() as server:
        server.gcs.create_bucket("state")
        environ = {"STORAGE_EMULATOR_HOST": server.url}           # no credentials wanted
    with Server(anonymous=False) as server: ...                   # every request needs a token of ours

`python -m tests.emulators.gcs --bucket state --delay 0.02` runs it by itself. What it refuses the real one
refuses: a compare and its swap happen under one lock, names with line breaks are no names, a page counts items and
prefixes, what is not asked for by `fields` is not sent, an object stored as gzip is unpacked for whoever does not
accept gzip. It also is the token endpoint (`/token`, which checks the RS256 signature, the audience and the times
of an assertion) and the metadata server (`/computeMetadata/...`). Not here: resumable uploads, the XML API, IAM
beyond a set of verbs per token.

Source: Google "Cloud Storage JSON API reference", "Error codes", "Preconditions", "Object naming"; the requests
of google-cloud-storage and Go's client as recorded; RFC 7523.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import gzip
import hashlib
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

from tests.bench.s3http import Answer, Connection, Fault, Request
from tests.support.listening import BACKLOG, Loop

MESSAGES = {
    "conditionNotMet": "At least one of the pre-conditions you specified did not hold.",
    "authError": "Invalid Credentials",
    "required": "Login Required.",
    "rateLimitExceeded": "The object exceeded the rate limit for object mutation operations.",
    "backendError": "Backend Error",
    "no bucket": "The specified bucket does not exist.",
    "uniform": "Cannot insert legacy ACL for an object when uniform bucket-level access is enabled.",
}
EVERYTHING = frozenset({"list", "get", "head", "put", "delete", "other"})
PERMISSIONS = {"list": "list", "get": "get", "head": "get", "put": "create", "delete": "delete", "other": "get"}
KEY_BYTES_MAX = 1024
SETTABLE = ("contentType", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "metadata")
_FIELDS = re.compile(r"([A-Za-z]+)(?:\(([A-Za-z,]+)\))?")


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(status, reason, message)
        self.status, self.reason, self.message = status, reason, message or MESSAGES.get(reason, reason)


@dataclass
class Object:
    name: str
    data: bytes
    generation: int
    row: dict[str, Any]


@dataclass
class Bucket:
    name: str
    uniform: bool = False
    requester_pays: bool = False
    objects: dict[str, Object] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """Sorted; Python compares code points, which is the order of UTF-8 bytes."""
    acls: dict[str, str] = field(default_factory=dict)
    """What `predefinedAcl` said, by name."""


class Gcs:
    """The state of the server, and what it answers. `lock` is held around every request."""

    def __init__(self, *, anonymous: bool = True) -> None:
        self.anonymous = anonymous
        self.lock = threading.RLock()
        self.buckets: dict[str, Bucket] = {}
        self.tokens: dict[str, tuple[float, frozenset[str]]] = {}
        """Token → (when it ends, what it may do)."""
        self.accounts: dict[str, tuple[Any, frozenset[str]]] = {}
        """Service account → (public key, what it may do)."""
        self.refresh_tokens: dict[str, frozenset[str]] = {}
        self.federated: dict[str, frozenset[str]] = {}
        """Token of another identity provider → what it may do."""
        self.machine: frozenset[str] | None = None
        """What the machine's own account may do; None: it has none."""
        self.lifetime_s = 3600
        self.clock_skew_s = 0.0
        self.write_interval_s = 0.0
        """Two writes of a name within this time: 429."""
        self.requests: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        """(method, target) of each request."""
        self.user_projects: set[str] = set()
        self.delay_s = 0.0
        self.faults: list[Fault] = []
        self.connections: set[Connection] = set()
        self.bytes_in = self.bytes_out = 0
        self._last_generation = 0
        self._written: dict[tuple[str, str], float] = {}

    # -- what another client, or an administrator, does -------------------------------------------

    def create_bucket(self, name: str, *, uniform: bool = False) -> Bucket:
        with self.lock:
            return self.buckets.setdefault(name, Bucket(name, uniform))

    def put(self, bucket: str, name: str, data: bytes, **row: Any) -> int:
        with self.lock:
            return self.store(self.buckets[bucket], name, data, row).generation

    def get(self, bucket: str, name: str) -> bytes:
        with self.lock:
            return self.buckets[bucket].objects[name].data

    def delete(self, bucket: str, name: str) -> None:
        with self.lock:
            self.remove(self.buckets[bucket], name)

    def issue(self, rights: frozenset[str] = EVERYTHING) -> str:
        with self.lock:
            token = f"ya29.{len(self.tokens)}"
            self.tokens[token] = (self.now() + self.lifetime_s, rights)
            return token

    def end_tokens(self) -> None:
        """From now on every token that was given out is refused."""
        with self.lock:
            for token, (_, rights) in self.tokens.items():
                self.tokens[token] = (0.0, rights)

    def now(self) -> float:
        return time.time() + self.clock_skew_s

    def store(self, bucket: Bucket, name: str, data: bytes, row: dict[str, Any]) -> Object:
        self._last_generation = generation = max(self._last_generation + 1, int(self.now() * 1_000_000))
        moment = self.now()
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1000):03}Z"
        made = Object(name, data, generation, {})
        made.row = {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket.name,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(data)),
            "timeCreated": when,
            "updated": when,
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "etag": base64.b64encode(str(generation).encode()).decode(),
            "storageClass": "STANDARD",
            **{key: value for key, value in row.items() if key in SETTABLE},
        }
        if row.get("composite"):
            del made.row["md5Hash"]
        if name not in bucket.objects:
            bisect.insort(bucket.names, name)
        bucket.objects[name] = made
        return made

    def remove(self, bucket: Bucket, name: str) -> None:
        del bucket.objects[name]
        del bucket.names[bisect.bisect_left(bucket.names, name)]

    # -- requests: `Handler` of s3http ------------------------------------------------------------

    def classify(self, request: Request) -> None:
        path = request.raw_path.decode("latin-1")
        self.log.append((request.method, path + (f"?{request.query.decode('latin-1')}" if request.query else "")))
        match = re.fullmatch(r"(/upload|/download|)/storage/v1/b/([^/]+)/o(?:/(.*))?", path)
        if match is None:
            request.verb = "token" if path == "/token" or path.startswith("/computeMetadata") else "other"
        else:
            request.bucket = unquote(match[2])
            request.key = unquote(match[3] or "").encode("utf-8", "surrogateescape")
            request.verb = self._verb(request, match[1])
        self.requests[request.verb] += 1

    def _verb(self, request: Request, door: str) -> str:
        if request.method == "POST" and door == "/upload" and not request.key:
            return "put"
        if request.method == "DELETE" and request.key:
            return "delete"
        if request.method == "GET" and not request.key:
            request.key = parse_qs(request.query.decode()).get("prefix", [""])[0].encode()
            return "list"
        if request.method == "GET":
            return "get" if door == "/download" or b"alt=media" in request.query else "head"
        return "other"

    def answer(self, request: Request) -> Answer:
        with self.lock:
            try:
                return self._answer(request, dict(parse_qsl(request.query.decode(), keep_blank_values=True)))
            except RefusedError as error:
                return self._refusal(request, error)

    def error(self, request: Request, status: int, code: str) -> Answer:
        return self._refusal(request, RefusedError(status, code))

    def empty_listing(self, request: Request) -> Answer:
        return self._json({"kind": "storage#objects"})

    def _json(self, row: dict[str, Any], status: int = 200) -> Answer:
        body = json.dumps(row, ensure_ascii=False).encode()
        return Answer(status, b"Content-Type: application/json; charset=UTF-8\r\n" + self._date(), body)

    def _date(self) -> bytes:
        return f"Date: {formatdate(self.now(), usegmt=True)}\r\n".encode()

    def _refusal(self, request: Request, error: RefusedError) -> Answer:
        if request.verb == "get":  # media errors are plain text
            return Answer(
                error.status, b"Content-Type: text/html; charset=UTF-8\r\n" + self._date(), error.message.encode()
            )
        row = {"message": error.message, "domain": "global", "reason": error.reason}
        return self._json({"error": {"code": error.status, "message": error.message, "errors": [row]}}, error.status)

    def _answer(self, request: Request, query: dict[str, str]) -> Answer:
        path = request.raw_path.decode("latin-1")
        if path == "/token" and request.method == "POST":
            return self._token(dict(parse_qsl(bytes(request.body).decode())))
        if path.startswith("/computeMetadata/v1/instance/service-accounts/default/"):
            return self._machine(request, path.rpartition("/")[2])
        if path == "/storage/v1/b" and request.method == "POST":
            return self._json(
                {"kind": "storage#bucket", "name": self.create_bucket(json.loads(request.body)["name"]).name}
            )
        if request.verb == "other" and (match := re.fullmatch(r"/storage/v1/b/([^/]+)", path)):
            request.bucket = unquote(match[1])
        elif request.verb == "other":
            raise RefusedError(404, "notFound", "Not Found")
        self._allow(request)
        bucket = self.buckets.get(request.bucket)
        if bucket is None:
            raise RefusedError(404, "notFound", MESSAGES["no bucket"])
        if bucket.requester_pays and b"x-goog-user-project" not in request.headers:
            raise RefusedError(400, "required", "Bucket is a requester pays bucket but no user project provided.")
        self.user_projects.add(request.headers.get(b"x-goog-user-project", b"").decode())
        if request.verb == "other":
            return self._json(
                {
                    "kind": "storage#bucket",
                    "name": bucket.name,
                    "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": bucket.uniform}},
                }
            )
        act = {"list": self._list, "get": self._get, "head": self._head, "put": self._put, "delete": self._delete}
        return act[request.verb](request, bucket, query)

    # -- who may ----------------------------------------------------------------------------------

    def _allow(self, request: Request) -> None:
        word, _, token = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if self.anonymous and not word:
            return
        ends, rights = self.tokens.get(token, (0.0, frozenset()))
        if word != "Bearer" or ends <= self.now():
            raise RefusedError(401, "authError" if word else "required")
        if request.verb not in rights:
            permission = f"storage.objects.{PERMISSIONS[request.verb]}"
            raise RefusedError(
                403,
                "forbidden",
                f"a@p.iam.gserviceaccount.com does not have {permission} access to the Google Cloud Storage object. "
                f"Permission '{permission}' denied on resource (or it may not exist).",
            )

    def _token(self, form: dict[str, str]) -> Answer:
        if form.get("grant_type") == "refresh_token":
            rights = self.refresh_tokens.get(form.get("refresh_token", ""))
            if rights is None or not form.get("client_id") or not form.get("client_secret"):
                return self._json(
                    {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, 400
                )
            return self._issued(rights)
        if form.get("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange":
            rights = self.federated.get(form.get("subject_token", ""))
            if rights is None:
                return self._json({"error": "invalid_grant", "error_description": "unknown subject token"}, 400)
            return self._issued(rights)
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return self._json({"error": "unsupported_grant_type"}, 400)
        try:
            return self._issued(self._asserted(form.get("assertion", "")))
        except ValueError as error:
            return self._json({"error": "invalid_grant", "error_description": str(error)}, 400)

    def _issued(self, rights: frozenset[str]) -> Answer:
        kind = {"token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        return self._json({"access_token": self.issue(rights), "expires_in": self.lifetime_s, **kind})

    def _asserted(self, assertion: str) -> frozenset[str]:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        signed, _, signature = assertion.rpartition(".")
        head, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
        key, rights = self.accounts.get(claims["iss"], (None, frozenset()))
        if key is None or head["alg"] != "RS256":
            raise ValueError("Invalid grant: account not found")
        try:
            raw = base64.urlsafe_b64decode(signature + "==")
            key.verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise ValueError("Invalid JWT Signature.") from None
        if not claims["aud"].endswith("/token") or "devstorage" not in claims["scope"]:
            raise ValueError("Invalid JWT: audience or scope")
        now = self.now()
        if claims["exp"] - claims["iat"] > 3600 or abs(claims["iat"] - now) > 300 or claims["exp"] < now:
            raise ValueError(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            )
        return rights

    def _machine(self, request: Request, what: str) -> Answer:
        if request.headers.get(b"metadata-flavor") != b"Google":
            return Answer(403, self._date(), b"Missing Metadata-Flavor:Google header.")
        if self.machine is None:
            return Answer(404, self._date(), b"The requested URL was not found on this server.")
        flavor = b"Metadata-Flavor: Google\r\n"
        if what == "email":
            return Answer(200, flavor, b"machine@p.iam.gserviceaccount.com")
        answer = self._issued(self.machine)
        answer.headers += flavor
        return answer

    # -- objects ----------------------------------------------------------------------------------

    def _found(self, request: Request, bucket: Bucket, query: dict[str, str]) -> Object:
        """The live object, if the preconditions hold."""
        name = request.key.decode("utf-8")
        found = bucket.objects.get(name)
        if found is None:
            raise RefusedError(404, "notFound", f"No such object: {bucket.name}/{name}")
        if "generation" in query and int(query["generation"]) != found.generation:
            raise RefusedError(404, "notFound", f"No such object: {bucket.name}/{name}#{query['generation']}")
        self._compare(found, query)
        if query.get("ifGenerationNotMatch") == str(found.generation):
            raise RefusedError(304, "notModified")
        return found

    def _compare(self, found: Object | None, query: dict[str, str]) -> None:
        wanted = query.get("ifGenerationMatch")
        if wanted is None:
            return
        if not wanted.isdecimal():
            raise RefusedError(400, "invalid", f"Invalid value '{wanted}' for ifGenerationMatch")
        if int(wanted) != (0 if found is None else found.generation):
            raise RefusedError(412, "conditionNotMet")

    def _head(self, request: Request, bucket: Bucket, query: dict[str, str]) -> Answer:
        return self._json(chosen(self._found(request, bucket, query).row, query))

    def _get(self, request: Request, bucket: Bucket, query: dict[str, str]) -> Answer:
        found = self._found(request, bucket, query)
        row, data = found.row, found.data
        hashes = f"x-goog-hash: md5={row['md5Hash']}\r\n" if "md5Hash" in row else ""
        encoding = row.get("contentEncoding", "identity")
        stored = f"x-goog-stored-content-encoding: {encoding}\r\nx-goog-stored-content-length: {len(data)}\r\n"
        if encoding == "gzip" and b"gzip" not in request.headers.get(b"accept-encoding", b""):
            data, stored = gzip.decompress(data), "Warning: 214 UploadServer gunzipped\r\n"
        created = time.strptime(row["timeCreated"][:19], "%Y-%m-%dT%H:%M:%S")
        modified = time.strftime("%a, %d %b %Y %H:%M:%S GMT", created)
        own = "".join(f"x-goog-meta-{name}: {value}\r\n" for name, value in row.get("metadata", {}).items())
        kind = row.get("contentType", "application/octet-stream")
        own += f"Cache-Control: {row['cacheControl']}\r\n" if "cacheControl" in row else ""
        headers = (
            f"x-goog-generation: {found.generation}\r\nx-goog-metageneration: 1\r\nLast-Modified: {modified}\r\n"
            f"{hashes}{stored}{own}Content-Type: {kind}\r\nETag: {row['etag']}\r\n"
        )
        return Answer(200, headers.encode() + self._date(), data)

    def _put(self, request: Request, bucket: Bucket, query: dict[str, str]) -> Answer:
        kind = request.headers.get(b"content-type", b"").decode("latin-1")
        if query.get("uploadType") == "multipart":
            row, data = parts_of(kind, bytes(request.body))
        elif query.get("uploadType") == "media":
            row, data = {"contentType": kind}, bytes(request.body)
        else:
            raise RefusedError(400, "invalid", "this emulator takes uploadType=multipart and media")
        name = row.get("name") or query.get("name", "")
        check_name(name)
        digest = base64.b64encode(hashlib.md5(data).digest()).decode()
        if row.get("md5Hash", digest) != digest:
            said = f'Provided MD5 hash "{row["md5Hash"]}" doesn\'t match calculated MD5 hash "{digest}".'
            raise RefusedError(400, "invalid", said)
        if bucket.uniform and "predefinedAcl" in query:
            raise RefusedError(400, "invalid", MESSAGES["uniform"])
        self._compare(bucket.objects.get(name), query)
        self._pace(bucket, name)
        if "predefinedAcl" in query:
            bucket.acls[name] = query["predefinedAcl"]
        return self._json(chosen(self.store(bucket, name, data, row).row, query))

    def _pace(self, bucket: Bucket, name: str) -> None:
        now = time.monotonic()
        if now - self._written.get((bucket.name, name), -1e9) < self.write_interval_s:
            raise RefusedError(429, "rateLimitExceeded")
        self._written[bucket.name, name] = now

    def _delete(self, request: Request, bucket: Bucket, query: dict[str, str]) -> Answer:
        found = self._found(request, bucket, query)
        self._pace(bucket, found.name)
        self.remove(bucket, found.name)
        return Answer(204, self._date())

    def _list(self, request: Request, bucket: Bucket, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        size = min(int(query.get("maxResults", "1000")), 1000)
        at = query.get("startOffset", "")
        last_group = ""
        if token := query.get("pageToken"):
            try:
                at = base64.urlsafe_b64decode(token.encode()).decode()
            except ValueError:
                raise RefusedError(400, "invalid", "Invalid argument.") from None
            last_group = at if delimiter and at.endswith(delimiter) else ""
        items: list[dict[str, Any]] = []
        groups: list[str] = []
        names, last, row = bucket.names, "", {}
        for number in range(bisect.bisect_left(names, max(at, prefix)), len(names)):
            name = names[number]
            if not name.startswith(prefix):
                break
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            group = "" if end < 0 else name[: end + 1]
            if (group and group == last_group) or (token and name == at):
                continue
            if len(items) + len(groups) == size:
                row = {"nextPageToken": base64.urlsafe_b64encode(last.encode()).decode()}
                break
            last = group or name
            if group:
                groups.append(group)
                last_group = group
            else:
                items.append(bucket.objects[name].row)
        listing: dict[str, Any] = {"kind": "storage#objects", **row}
        # What is empty is left out.
        listing |= {key: value for key, value in (("items", items), ("prefixes", groups)) if value}
        return self._json(chosen(listing, query))


def chosen(row: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
    """A partial response: what `fields` names, of a list of rows what stands in parentheses."""
    if "fields" not in query:
        return row
    some: dict[str, Any] = {}
    for name, inner in _FIELDS.findall(query["fields"]):
        if name not in row:
            continue
        value = row[name]
        if inner:
            wanted = inner.split(",")
            value = [{key: each[key] for key in wanted if key in each} for each in value]
        some[name] = value
    return some


def check_name(name: str) -> None:
    good = 0 < len(name.encode()) <= KEY_BYTES_MAX and name not in {".", ".."} and not re.search(r"[\r\n]", name)
    if not good or name.startswith(".well-known/acme-challenge/"):
        raise RefusedError(400, "invalid", f"The object name {name!r} is not valid.")


def parts_of(kind: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """A `multipart/related` body: JSON, then the bytes."""
    match = re.fullmatch(r'multipart/related; boundary=[\'"]?([^\'"]+)[\'"]?', kind)
    if match is None:
        raise RefusedError(400, "badContent", f"Unsupported content type {kind}")
    mark = b"--" + match[1].encode()
    if not body.startswith(mark + b"\r\n") or not body.rstrip().endswith(b"\r\n" + mark + b"--"):
        raise RefusedError(400, "parseError", "Malformed multipart body.")
    first, _, rest = body[len(mark) + 2 :].partition(b"\r\n" + mark + b"\r\n")
    _, _, text = first.partition(b"\r\n\r\n")
    _, blank, data = rest.partition(b"\r\n\r\n")
    if not blank:
        raise RefusedError(400, "parseError", "Malformed multipart body.")
    return json.loads(text), data[: data.rindex(b"\r\n" + mark + b"--")]


# -- the server ------------------------------------------------------------------------------------


class Server(Loop):
    """The emulator in a thread of its own, on a port of 127.0.0.1."""

    def __init__(self, *, anonymous: bool = True, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.gcs = Gcs(anonymous=anonymous)
        self._wanted_port = port
        self._context = context
        self.url = ""

    async def opened(self) -> None:
        listener = socket.create_server(("127.0.0.1", self._wanted_port), backlog=BACKLOG)
        self._server = await self._loop.create_server(lambda: Connection(self.gcs), sock=listener, ssl=self._context)
        self.url = f"{'https://localhost' if self._context else 'http://127.0.0.1'}:{listener.getsockname()[1]}"

    async def closed(self) -> None:
        self._server.close()
        for connection in list(self.gcs.connections):
            connection.abort()

    def fault(self, kind: str, **settings: Any) -> Fault:
        made = Fault(kind, **settings)
        self.gcs.faults.append(made)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.gcs", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any; the first line on stdout tells")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="before each answer")
    parser.add_argument("--bucket", action="append", default=[], metavar="NAME", help="make it at start; repeatable")
    parser.add_argument("--fill", type=int, default=0, metavar="N", help="put N objects of 2 KB into each bucket")
    options = parser.parse_args()
    with Server(port=options.port) as server:
        server.gcs.delay_s = options.delay
        for name in options.bucket:
            server.gcs.create_bucket(name)
            for number in range(options.fill):
                server.gcs.put(name, f"c{number // 100:02}.example.com/instancegroup/n{number:06}", b"x" * 2048)
        print(json.dumps({"url": server.url}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
