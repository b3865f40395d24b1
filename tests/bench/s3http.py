"""How do requests come off a connection, and what can go wrong with their answers on purpose?

HTTP/1.1 on a raw asyncio protocol: keep-alive, pipelining in order, Content-Length and chunked bodies,
`Expect: 100-continue`. One request of a connection is worked on at a time. What a request does is
`Handler.answer`; when (delay) and whether the client learns of it (`Fault`) is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from http.client import responses
from typing import Any, Protocol, cast

from typing_extensions import override

READ_BYTES = 128 * 1024


@dataclass(slots=True)
class Request:
    """One request as it came; the path is still percent-encoded."""

    method: str
    raw_path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes | bytearray = b""
    verb: str = "other"
    """What it counts as: get, head, put, delete, list, copy, multipart, delete-many, other."""
    bucket: str = ""
    key: bytes = b""


@dataclass(slots=True)
class Answer:
    """Status, header lines (each ended by CRLF, without Content-Length) and body."""

    status: int
    headers: bytes = b""
    body: bytes = b""
    size: int | None = None
    """Content-Length where there is no body to measure (HEAD)."""


@dataclass(slots=True)
class Fault:
    """What happens to the next `count` requests that match.

    Kinds: `status` (answer `status`/`code` without acting), `hang` (never answer, nor act), `refuse` (drop the
    connection without acting), `lost` (act, then drop the connection), `truncate` (act, send half of the body, close),
    `stall` (act, send half of the body, then nothing), `empty-list` (200 and an empty listing), `delay` (`seconds` more).
    """

    kind: str
    count: int = 1
    """How many requests; -1: all from now on."""
    skip: int = 0
    """How many matching requests pass before."""
    verb: str = ""
    """Only this verb; several with commas; empty: every one."""
    key: str = ""
    """Only keys (of a listing: prefixes) that start with this."""
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    headers: str = ""
    """More header lines for `status`, each ended by CRLF."""
    hits: int = 0

    def matches(self, request: Request) -> bool:
        """Tell whether it is this fault's turn, and count."""
        if self.count == 0 or (self.verb and request.verb not in self.verb.split(",")):
            return False
        if self.key and not request.key.startswith(self.key.encode("utf-8", "surrogateescape")):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.count -= self.count > 0
        self.hits += 1
        return True

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Handler(Protocol):
    """What the server is, to a connection."""

    delay_s: float
    faults: list[Fault]
    connections: set[Connection]
    bytes_in: int
    bytes_out: int

    def classify(self, request: Request) -> None:
        """Fill in verb, bucket and key, and count."""
        ...

    def answer(self, request: Request) -> Answer:
        """Act."""
        ...

    def error(self, request: Request, status: int, code: str) -> Answer:
        """Write an error document."""
        ...

    def empty_listing(self, request: Request) -> Answer:
        """Write a listing of nothing."""
        ...


@dataclass(slots=True)
class _Chunked:
    """A chunked body on its way in."""

    data: bytearray = field(default_factory=bytearray)
    needed: int = -1
    """Bytes left of the current chunk with its CRLF; -1: a size line comes next; -2: trailers."""


class Connection(asyncio.BufferedProtocol):
    """One client connection."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.loop = asyncio.get_running_loop()
        self.memory = bytearray(READ_BYTES)
        self.view = memoryview(self.memory)
        self.pending = b""
        self.request: Request | None = None
        self.body = bytearray()
        self.body_needed = 0
        self.chunked: _Chunked | None = None
        self.busy = False
        self.advancing = False
        self.closed = False
        self.transport: asyncio.Transport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.handler.connections.add(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.handler.connections.discard(self)

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self.handler.bytes_in += nbytes
        if self.request is not None and self.chunked is None and not self.busy and not self.pending:
            take = min(nbytes, self.body_needed)
            self.body += self.view[:take]
            self.body_needed -= take
            self.pending = bytes(self.view[take:nbytes])
        else:
            self.pending += bytes(self.view[:nbytes])
        self.advance()

    def advance(self) -> None:
        """Work on whole requests until one is busy or more bytes are needed."""
        if self.advancing:
            return
        self.advancing = True
        try:
            while not self.busy and not self.closed:
                if self.request is None and not self.read_head():
                    return
                assert self.request is not None
                if not self.read_body():
                    return
                request, self.request = self.request, None
                self.busy = True
                self.begin(request)
        finally:
            self.advancing = False

    def read_head(self) -> bool:
        end = self.pending.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self.pending[:end].split(b"\r\n")
        self.pending = self.pending[end + 4 :]
        try:
            method, target, _ = lines[0].split(b" ")
        except ValueError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.close()
            return False
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        raw_path, _, query = target.partition(b"?")
        if raw_path[:4] == b"http":
            raw_path = b"/" + raw_path.split(b"/", 3)[3]
        self.request = Request(method.decode("latin-1"), raw_path, query, headers)
        self.chunked = _Chunked() if headers.get(b"transfer-encoding", b"").lower() == b"chunked" else None
        self.body_needed = 0 if self.chunked else int(headers.get(b"content-length", b"0"))
        self.body = bytearray()
        waits = self.chunked is not None or len(self.pending) < self.body_needed
        if waits and headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def read_body(self) -> bool:
        assert self.request is not None
        if self.chunked is not None:
            if not self.read_chunks(self.chunked):
                return False
            self.request.body, self.chunked = self.chunked.data, None
            return True
        if self.body_needed:
            self.body += self.pending[: self.body_needed]
            taken = min(len(self.pending), self.body_needed)
            self.pending = self.pending[taken:]
            self.body_needed -= taken
            if self.body_needed:
                return False
        self.request.body = self.body
        return True

    def read_chunks(self, chunked: _Chunked) -> bool:
        while True:
            if chunked.needed > 0:
                if len(self.pending) < chunked.needed:
                    return False
                chunked.data += self.pending[: chunked.needed - 2]
                self.pending = self.pending[chunked.needed :]
                chunked.needed = -1
            line, found, rest = self.pending.partition(b"\r\n")
            if not found:
                return False
            self.pending = rest
            if chunked.needed == -2:
                if not line:
                    return True
                continue
            size = int(line.partition(b";")[0], 16)
            chunked.needed = size + 2 if size else -2

    def begin(self, request: Request) -> None:
        """Decide what becomes of the request, and when."""
        handler = self.handler
        handler.classify(request)
        delay = handler.delay_s if request.verb != "control" else 0.0
        fault = None
        if handler.faults and request.verb != "control":
            fault = next((f for f in handler.faults if f.matches(request)), None)
        if fault is not None and fault.kind == "delay":
            delay += fault.seconds
            fault = None
        if delay:
            self.loop.call_later(delay, self.act, request, fault)
        else:
            self.act(request, fault)

    def act(self, request: Request, fault: Fault | None) -> None:
        if self.closed:  # the client went away; a real store acts all the same
            if fault is None or fault.kind in {"lost", "truncate", "stall"}:
                self.handler.answer(request)
            return
        if fault is not None:
            FAULTS[fault.kind](self, request, fault)
        else:
            self.reply(request, self.handler.answer(request))
        self.advance()

    def reply(self, request: Request, answer: Answer, *, send: int | None = None) -> None:
        """Send it; only the first `send` bytes of the body where given."""
        size = len(answer.body) if answer.size is None else answer.size
        closing = request.headers.get(b"connection", b"").lower() == b"close"
        head = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n%b\r\n" % (
            answer.status,
            REASONS[answer.status],
            answer.headers,
            size,
            b"Connection: close\r\n" if closing else b"",
        )
        if answer.status in {204, 304}:
            head = head.replace(b"Content-Length: 0\r\n", b"")
        body = b"" if request.method == "HEAD" else answer.body
        if send is not None:
            body = body[:send]
        self.handler.bytes_out += len(head) + len(body)
        self.transport.write(head + body)
        if send is None:
            self.busy = False
            if closing:
                self.close()

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    def abort(self) -> None:
        self.closed = True
        self.transport.abort()


REASONS = {code: reason.encode() for code, reason in responses.items()}


def _status(connection: Connection, request: Request, fault: Fault) -> None:
    answer = connection.handler.error(request, fault.status, fault.code)
    answer.headers += fault.headers.encode()
    connection.reply(request, answer)


def _hang(connection: Connection, request: Request, fault: Fault) -> None:
    """Stay busy for ever: the connection answers nothing more."""


def _refuse(connection: Connection, request: Request, fault: Fault) -> None:
    connection.abort()


def _lost(connection: Connection, request: Request, fault: Fault) -> None:
    connection.handler.answer(request)
    connection.abort()


def _truncate(connection: Connection, request: Request, fault: Fault) -> None:
    answer = connection.handler.answer(request)
    connection.reply(request, answer, send=len(answer.body) // 2)
    connection.close()


def _stall(connection: Connection, request: Request, fault: Fault) -> None:
    answer = connection.handler.answer(request)
    connection.reply(request, answer, send=len(answer.body) // 2)


def _empty_list(connection: Connection, request: Request, fault: Fault) -> None:
    if request.verb == "list":
        connection.reply(request, connection.handler.empty_listing(request))
    else:
        connection.reply(request, connection.handler.answer(request))


FAULTS: dict[str, Callable[[Connection, Request, Fault], None]] = {
    "status": _status,
    "hang": _hang,
    "refuse": _refuse,
    "lost": _lost,
    "truncate": _truncate,
    "stall": _stall,
    "empty-list": _empty_list,
}
