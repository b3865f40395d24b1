"""How does the emulated API server read a request and write its answer?

One `Handler` per connection. Order of a request as the real one has it: who asks (401), too many (429), may he (403),
is there such a kind (404 in plain text), then the body, then what `State` says.

Source: Kubernetes "API concepts" (Resource URIs, Watch bookmarks), "API conventions" (Response status kind);
`k8s.io/apiserver` pkg/endpoints (handlers, request/requestinfo.go, discovery) and pkg/server/config.go (order of filters).
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import select
import socket
import ssl
import time
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.emulators.k8s_rules import Object, Refused, Resource, bad_request
from tests.emulators.k8s_state import How, Query, Stored, expired, invalid_options, news

BODY_MAX = 3 << 20
GZIP_FROM = 128 << 10
"""Longer answers are sent as gzip to whom accepts it. Source: responsewriters, defaultGzipThresholdBytes."""
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
OPEN_TO_ALL = {"/healthz", "/livez", "/readyz", "/version"}
OUTLINES = "meta.k8s.io/v1"
USERS = Resource("", "v1", "users", "User", namespaced=False)
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass
class Fault:
    """What a request of a verb (and resource) is answered with instead; status 0: the connection breaks."""

    verb: str
    status: int
    reason: str = ""
    message: str = "the emulator was told to fail"
    resource: str = ""
    """As `secrets` or `clusters.kops.k8s.io`; empty: any."""
    skip: int = 0
    """So many matching requests pass first."""
    times: int = 1
    after: bool = False
    """The request acts first: a lost reply."""
    headers: dict[str, str] = field(default_factory=dict)
    text: bool = False
    """Plain text instead of a Status, as proxies and the fairness filter say it."""


@dataclass(frozen=True)
class Asked:
    """A request as the log keeps it."""

    method: str
    verb: str
    resource: str
    namespace: str
    name: str
    query: dict[str, str]
    user: str
    status: int
    body: bytes


@dataclass(eq=False)
class Watch:
    """An open watch; what a test makes of it, it does at once."""

    query: Query
    revision: int
    bookmarks: bool
    bookmark: bool = False
    over: str = ""
    """`end`: the answer ends as at its timeout; `cut`: the connection breaks; `expire`: ERROR 410."""


@dataclass
class Target:
    """What a path means. Source: requestinfo.go."""

    verb: str = "other"
    resource: Resource | None = None
    namespace: str = ""
    name: str = ""
    kind: str = ""
    """The resource as it was written, be there one or not."""


class Broken(Exception):
    """The connection is to break."""


class Handler(http.server.BaseHTTPRequestHandler):
    api: Any
    """The K8sServer."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.path_of = unquote(parts.path).rstrip("/") or "/"
        self.target, self.user, self.body = Target(), "", b""
        self.warnings: list[str] = []
        self.outline = False
        try:
            self._act()
        except Refused as refused:
            self._refuse(refused)
        except (Broken, ConnectionError, TimeoutError):
            self._note(0)
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _act(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        time.sleep(self.api.latency_s)
        self.user = self.api.who(self.headers.get("Authorization", ""), self._certificate())
        if played := self.headers.get("Impersonate-User"):
            self.api.allow(self.user, "impersonate", USERS, "", played)
            self.user = played
        self.target = target = self._read_target()
        fault = self.api.fault(target.verb, target.kind)
        if fault is not None and not fault.after:
            self._fail(fault)
        if target.kind:
            self._of_resource(target, fault)
        else:
            self._other()

    def _fail(self, fault: Fault) -> None:
        if not fault.status:
            raise Broken
        raise Refused(fault.status, fault.reason, fault.message, headers=fault.headers, text=fault.text)

    def _certificate(self) -> Any:
        return self.connection.getpeercert() if hasattr(self.connection, "getpeercert") else None

    def _read_target(self) -> Target:
        parts = [part for part in self.path_of.split("/") if part]
        if parts[:2] == ["api", "v1"]:
            group, version, rest = "", "v1", parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return Target()
        if not rest or self.path_of == REVIEWS:
            return Target()
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        name = rest[1] if len(rest) > 1 else ""
        resource = self.api.state.resource(group, version, rest[0]) if len(rest) < 3 else None
        verb = VERBS[self.command]
        if verb == "get" and not name:
            verb = "watch" if self.query.get("watch", "false") not in {"", "0", "false"} else "list"
        elif verb == "delete" and not name:
            verb = "deletecollection"
        return Target(verb, resource, namespace, name, f"{rest[0]}.{group}" if group else rest[0])

    # -- resources --------------------------------------------------------------------------------------------

    def _of_resource(self, target: Target, fault: Fault | None) -> None:
        plural, _, group = target.kind.partition(".")
        asked = target.resource or Resource(group, "", plural, plural)
        self.api.allow(self.user, target.verb, asked, target.namespace, target.name)
        resource = target.resource
        if resource is None or (target.namespace and not resource.namespaced):
            if not group:
                raise Refused(404, "NotFound", "the server could not find the requested resource", {})
            raise Refused(404, "", "404 page not found", text=True)
        homeless = resource.namespaced and not target.namespace and target.verb not in {"list", "watch"}
        misplaced = (target.verb == "create") == bool(target.name) and target.verb in {"create", "update", "patch"}
        if homeless or misplaced or target.verb == "deletecollection":
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        self._read_accept()
        if self.api.before is not None:
            self.api.before(target.verb, resource.name, target.namespace, target.name)
        if target.verb == "watch":
            self._watch(resource, target)
            return
        code, answer = getattr(self, f"_{target.verb}")(resource, target)
        if fault is not None:
            self._fail(fault)
        self._answer(code, answer)

    def _read_accept(self) -> None:
        """Find the first form that is wanted and known. Source: "API concepts", Alternate representations, Metadata-only."""
        wanted = {"get": ("PartialObjectMetadata",), "watch": ("PartialObjectMetadata",)}
        wanted["list"] = ("PartialObjectMetadataList",)
        for part in self.headers.get("Accept", "*/*").split(","):
            kind, *given = [each.strip() for each in part.split(";")]
            form = dict(each.split("=", 1) for each in given if "=" in each).get("as", "")
            if kind in {"*/*", "application/*", "application/json"}:
                if form and form not in wanted.get(self.target.verb, ()):
                    if form.startswith("PartialObjectMetadata"):
                        break
                    continue
                self.outline = bool(form)
                return
        raise Refused(406, "NotAcceptable", "only the following media types are accepted: application/json")

    def _shown(self, stored: Stored) -> bytes:
        """An object, or its metadata if no more is wanted."""
        return json.dumps(_outline(stored.item)).encode() if self.outline else stored.encoded

    def _listed(self, stored: Stored, resource: Resource) -> bytes:
        """As `_shown`; in a list, objects that are no custom ones do not say what they are."""
        if self.outline or resource.schema is not None:
            return self._shown(stored)
        head = f'{{"apiVersion":"{resource.api_version}","kind":"{resource.kind}",'.encode()
        assert stored.encoded.startswith(head)
        return b"{" + stored.encoded[len(head) :]

    def _get(self, resource: Resource, target: Target) -> tuple[int, bytes]:
        return 200, self._shown(self.api.state.get(resource, target.namespace, target.name))

    def _list(self, resource: Resource, target: Target) -> tuple[int, bytes]:
        query = self._query(resource, target)
        if self.api.page_max:
            query.limit = min(query.limit or self.api.page_max, self.api.page_max)
        shown, metadata = self.api.state.page(query)
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        if self.outline:
            head |= {"kind": "PartialObjectMetadataList", "apiVersion": OUTLINES}
        encoded = json.dumps(head, separators=(",", ":")).encode()
        return 200, encoded[:-1] + b',"items":[' + b",".join(self._listed(stored, resource) for stored in shown) + b"]}"

    def _query(self, resource: Resource, target: Target) -> Query:
        limit, name = self.query.get("limit", "0"), target.name
        if not limit.isdecimal():
            raise bad_request(f'strconv.ParseInt: parsing "{limit}": invalid syntax')
        fields = self.query.get("fieldSelector", "")
        return Query(
            resource,
            target.namespace,
            int(limit),
            self.query.get("continue", ""),
            self.query.get("resourceVersion", ""),
            self.query.get("resourceVersionMatch", ""),
            self.query.get("labelSelector", ""),
            f"metadata.name={name}" if name else fields,
        )

    def _create(self, resource: Resource, target: Target) -> tuple[int, bytes]:
        body, how = self._read_body(), self._how()
        return 201, self._warned(self.api.state.create(resource, target.namespace, body, how).encoded, how)

    def _update(self, resource: Resource, target: Target) -> tuple[int, bytes]:
        body, how = self._read_body(), self._how()
        return 200, self._warned(self.api.state.update(resource, target.namespace, target.name, body, how).encoded, how)

    def _patch(self, resource: Resource, target: Target) -> tuple[int, bytes]:
        body, how = self._read_body(PATCHES[:1] if resource.group else PATCHES), self._how()
        return 200, self._warned(self.api.state.patch(resource, target.namespace, target.name, body, how).encoded, how)

    def _warned(self, encoded: bytes, how: How) -> bytes:
        if how.fields == "Warn":
            self.warnings = [f'299 - "unknown field \\"{name}\\""' for name in how.unknown]
        return encoded

    def _delete(self, resource: Resource, target: Target) -> tuple[int, bytes]:
        options = self._read_body() if self.body else {}
        stored, gone = self.api.state.delete(
            resource, target.namespace, target.name, options, dry=self._dry() or bool(options.get("dryRun"))
        )
        if not gone:
            return 200, stored.encoded
        details = resource.details(target.name, uid=stored.item["metadata"]["uid"])
        said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return 200, json.dumps(said).encode()

    def _read_body(self, kinds: tuple[str, ...] = ("application/json",)) -> Object:
        if len(self.body) > BODY_MAX:
            raise Refused(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY_MAX}")
        kind = self.headers.get("Content-Type", "").split(";")[0].strip()
        if kind not in kinds and not (not kind and self.command != "PATCH"):
            message = f"the body of the request was in an unknown format - accepted media types include: {kinds}"
            raise Refused(415, "UnsupportedMediaType", message)
        try:
            body = json.loads(self.body)
        except ValueError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
        if not isinstance(body, dict):
            raise bad_request("couldn't get version/kind; json parse error: the body is no object")
        return body

    def _how(self) -> How:
        manager = self.query.get("fieldManager") or self.headers.get("User-Agent", "unknown").split("/")[0]
        return How(manager, self._dry(), self.query.get("fieldValidation") or "Warn")

    def _dry(self) -> bool:
        dry = self.query.get("dryRun", "")
        if dry not in {"", "All"}:
            kind = {"POST": "Create", "DELETE": "Delete", "PATCH": "Patch"}.get(self.command, "Update") + "Options"
            raise invalid_options("dryRun", "supported values: All", "FieldValueNotSupported", kind)
        return bool(dry)

    # -- watches ----------------------------------------------------------------------------------------------

    def _watch(self, resource: Resource, target: Target) -> None:
        state, query = self.api.state, self._query(resource, target)
        if query.version and not query.version.isdecimal():
            raise Refused(500, "", f'strconv.ParseUint: parsing "{query.version}": invalid syntax')
        asked, initial = int(query.version or 0), self._initial(query)
        timeout_s = min(float(self.query.get("timeoutSeconds") or 0) or 3600.0, self.api.watch_max_s)
        bookmarks = self.query.get("allowWatchBookmarks", "false") not in {"", "0", "false"}
        with state.changed:
            watch = Watch(query, asked or state.revision, bookmarks)
            first = state.at(resource, state.revision) if initial or (initial is None and not asked) else []
            watch.revision = state.revision if initial else watch.revision
            if asked and asked < state.compacted:
                watch.over = "expire"
            self.api.watches.append(watch)
        self._note(200)
        self.send_response(200)
        self._headers({"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        self.wfile.flush()  # before anything has happened. Source: pkg/endpoints/handlers/watch.go
        try:
            for stored in first:
                if query.wanted(stored.item):
                    self._tell({"type": "ADDED", "object": stored.item})
            if initial and bookmarks:
                self._tell({"type": "BOOKMARK", "object": self._bookmark(watch, {"k8s.io/initial-events-end": "true"})})
            self._follow(watch, time.monotonic() + timeout_s)
        finally:
            self.api.watches.remove(watch)

    def _initial(self, query: Query) -> bool | None:
        """Source: "API concepts", Streaming lists."""
        given = self.query.get("sendInitialEvents")
        if given is None and query.match:
            raise invalid_options("resourceVersionMatch", "is forbidden for watch unless sendInitialEvents is provided")
        if given is not None and query.match != "NotOlderThan":
            raise invalid_options("resourceVersionMatch", "must be NotOlderThan for sendInitialEvents")
        return None if given is None else given not in {"", "0", "false"}

    def _follow(self, watch: Watch, until: float) -> None:
        state, next_bookmark = self.api.state, time.monotonic() + self.api.bookmark_every_s
        while True:
            with state.changed:
                found = [event for event in state.events if event.revision > watch.revision]
                now = time.monotonic()
                if not found and not watch.over and not watch.bookmark and now < min(until, next_bookmark):
                    if self.api.stopped or self._gone():
                        raise Broken
                    state.changed.wait(min(until - now, next_bookmark - now, 0.25))
                    continue
                watch.revision = max(watch.revision, state.revision)
                over, due = watch.over, watch.bookmark or now >= next_bookmark
                watch.bookmark = False
            for event in news(watch.query, found if over != "expire" else []):
                self._tell(event)
            if watch.bookmarks and due:
                self._tell({"type": "BOOKMARK", "object": self._bookmark(watch)})
                next_bookmark = now + self.api.bookmark_every_s
            if over == "cut":
                raise Broken
            if over == "expire":
                old = f"too old resource version: {watch.query.version} ({state.compacted})"
                self._tell({"type": "ERROR", "object": expired(old).status()})
            if over or now >= until:
                self.wfile.write(b"0\r\n\r\n")
                self.wfile.flush()
                return

    def _bookmark(self, watch: Watch, annotations: dict[str, str] | None = None) -> Object:
        resource = watch.query.resource
        metadata: Object = {"resourceVersion": str(watch.revision)}
        if annotations:
            metadata["annotations"] = annotations
        return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}

    def _tell(self, event: Object) -> None:
        if self.outline and event["type"] != "ERROR":
            event = {**event, "object": _outline(event["object"])}
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()

    def _gone(self) -> bool:
        """Has the client hung up?  It sends nothing while it watches."""
        return bool(select.select([self.connection], [], [], 0)[0])

    # -- what is no resource ------------------------------------------------------------------------------------

    def _other(self) -> None:
        if self.path_of in OPEN_TO_ALL and self.path_of != "/version":
            self._answer(200, b"ok", "text/plain; charset=utf-8")
            return
        if self.user not in self.api.users and self.path_of not in OPEN_TO_ALL:
            verb = self.command.lower()
            why = f'forbidden: User "{self.user}" cannot {verb} path "{self.path_of}"'
            raise Refused(403, "Forbidden", why, {})
        said = self._discovery()
        if self.path_of == REVIEWS and self.command == "POST":
            said = self._review()
        if said is None:
            raise Refused(404, "", "404 page not found", text=True)
        self._answer(201 if self.command == "POST" else 200, json.dumps(said).encode())

    def _review(self) -> Object:
        body = self._read_body()
        wanted = body.get("spec", {}).get("resourceAttributes", {})
        resource, group = wanted.get("resource", ""), wanted.get("group", "")
        name = f"{resource}.{group}" if group else resource
        rights = self.api.users.get(self.user, lambda *asked: False)
        allowed = rights(wanted.get("verb", ""), name, wanted.get("namespace", ""))
        return {**body, "metadata": {}, "status": {"allowed": allowed}}

    def _discovery(self) -> Object | None:
        resources = self.api.state.resources()
        if self.path_of == "/version":
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.3", "platform": "linux/amd64"}
        if self.path_of == "/api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        groups: dict[str, set[str]] = {}
        for each in resources:
            groups.setdefault(each.group, set()).add(each.version)
        rows = {name: _group(name, versions) for name, versions in groups.items() if name}
        if self.path_of == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(rows.values())}
        parts = self.path_of.split("/")[1:]
        if len(parts) == 2 and parts[0] == "apis" and parts[1] in rows:
            return {"kind": "APIGroup", "apiVersion": "v1", **rows[parts[1]]}
        group, version = ("", "v1") if self.path_of == "/api/v1" else (parts[1:3] if len(parts) == 3 else ("", ""))
        kinds = [_kind(each) for each in resources if (each.group, each.version) == (group, version)]
        if not kinds:
            return None
        named = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": named, "resources": kinds}

    # -- answers ----------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        status = json.dumps(refused.status()).encode()
        body, kind = (status, "application/json")
        if refused.text:
            body, kind = refused.message.encode() + b"\n", "text/plain; charset=utf-8"
        self._answer(refused.code, body, kind, refused.headers)

    def _answer(
        self, code: int, body: bytes, kind: str = "application/json", more: dict[str, str] | None = None
    ) -> None:
        self._note(code)
        headers = {"Content-Type": kind, **(more or {})}
        if len(body) > GZIP_FROM and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 1)
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        self.send_response(code)
        self._headers({**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)
        self.wfile.flush()

    def _headers(self, headers: dict[str, str]) -> None:
        fixed = {"Audit-Id": str(uuid.uuid4()), "Cache-Control": "no-cache, private"}
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        for warning in self.warnings:
            self.send_header("Warning", warning)
        self.end_headers()

    def version_string(self) -> str:
        return "kube-apiserver (emulated)"

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(self.api.clock() if timestamp is None else timestamp, usegmt=True)

    def _note(self, status: int) -> None:
        target = self.target
        self.api.requests[target.verb] += 1
        self.api.log.append(
            Asked(
                self.command,
                target.verb,
                target.kind,
                target.namespace,
                target.name,
                self.query,
                self.user,
                status,
                self.body,
            )
        )

    def setup(self) -> None:
        """Shake hands in the connection's own thread, so that a client that does not cannot hold up the others.

        Source: Go net/http server.go (tlsRecordHeaderLooksLikeHTTP).
        """
        if hasattr(self.request, "do_handshake"):
            self.request.settimeout(10)
            try:
                self.request.do_handshake()
            except ssl.SSLError as error:
                if error.reason == "HTTP_REQUEST":
                    self._say_plainly(b"Client sent an HTTP request to an HTTPS server.\n")
                raise
        super().setup()

    def _say_plainly(self, words: bytes) -> None:
        with socket.socket(fileno=os.dup(self.request.fileno())) as plain:
            plain.settimeout(5)
            plain.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" + words)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(1 << 16):  # what is closed with bytes unread is reset, and the answer may be lost
                pass

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _outline(item: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": OUTLINES, "metadata": item["metadata"]}


def _group(name: str, versions: set[str]) -> Object:
    rows = [{"groupVersion": f"{name}/{version}", "version": version} for version in sorted(versions)]
    return {"name": name, "versions": rows, "preferredVersion": rows[0]}


def _kind(resource: Resource) -> Object:
    verbs = "create delete get list patch update watch".split()
    row = {"name": resource.plural, "singularName": resource.kind.lower(), "namespaced": resource.namespaced}
    row |= {"kind": resource.kind, "verbs": verbs}
    return {**row, **({"shortNames": list(resource.short)} if resource.short else {})}
