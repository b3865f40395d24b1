"""What does a client do when the network misbehaves?

A small HTTP proxy in front of one port, in a thread of the test:

    with FaultProxy(upstream_port) as proxy:
        proxy.fault("reset", method="PUT", times=1)      # the request is delivered, the answer is lost
        ...
        assert proxy.requests == [("PUT", "/bucket/key")]

It reads whole requests, counts them, forwards each on an upstream connection of its own, and hands the
answer back on the client's connection, which it keeps open. Faults, each for the next `times` requests
that match (None: until `clear`):

    delay     wait `seconds` before forwarding
    refuse    close the connection without forwarding
    reset     forward, wait for the answer, then reset the connection: acted, but no answer
    hang      forward, and never answer
    black     do not forward, and never answer
    status    answer `status` with `body` and `headers`, do not forward
    truncate  forward, answer only the first `size` bytes of the body, then close
    drip      forward, answer `size` bytes at a time, `seconds` apart
    stale     forward and answer, then close the kept-alive connection without a word
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal

from tests.support.listening import BACKLOG, Loop

Kind = Literal["delay", "refuse", "reset", "hang", "black", "status", "truncate", "drip", "stale"]


@dataclass
class Fault:
    """One rule; `times` counts down."""

    kind: Kind
    method: str = ""
    path: str = ""
    """A regular expression that must be found in the target."""
    times: int | None = None
    seconds: float = 0.0
    status: int = 503
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 1

    def matches(self, method: str, target: str) -> bool:
        return self.times != 0 and self.method in {"", method} and re.search(self.path, target) is not None


class FaultProxy(Loop):
    """See the module. Every method may be called from the test's thread at any time."""

    def __init__(self, upstream_port: int, *, upstream_host: str = "127.0.0.1") -> None:
        super().__init__()
        self.upstream = (upstream_host, upstream_port)
        self.requests: list[tuple[str, str]] = []
        """Method and target of every request that arrived whole."""
        self.connections = 0
        """How many the client has opened."""
        self.port = 0
        self._faults: list[Fault] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fault(self, kind: Kind, **rule: object) -> Fault:
        """Add a fault; earlier ones come first."""
        fault = Fault(kind, **rule)  # type: ignore[arg-type]
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def down(self) -> None:
        """Refuse connections and reset those that are open."""
        self.call(self.closed())

    def up(self) -> None:
        """Listen (again, on the same port)."""
        self.call(self.opened())

    def drop_idle(self) -> None:
        """Close every connection politely, as a server does with idle ones."""
        self.call(self._close_all())

    # In the loop's thread.

    async def opened(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=BACKLOG)
            self.port = self._server.sockets[0].getsockname()[1]

    async def closed(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            _abort(writer)

    async def _close_all(self) -> None:
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False: the connection is done."""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(_header(head, b"content-length") or 0))
        method, target = head.split(b" ", 2)[:2]
        self.requests.append((method.decode(), target.decode()))
        fault = self._take(method.decode(), target.decode())
        kind = fault.kind if fault else ""
        if fault and kind == "delay":
            await asyncio.sleep(fault.seconds)
        if kind == "refuse":
            return False
        if kind == "black":
            await asyncio.Event().wait()
        if fault and kind == "status":
            writer.write(_answer(fault))
            return True
        answer = await self._forward(head, body)
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "reset":
            _abort(writer)
            return False
        start = answer.index(b"\r\n\r\n") + 4
        if fault and kind == "truncate":
            writer.write(answer[: start + fault.size])
            return False
        if fault and kind == "drip":
            writer.write(answer[:start])
            for at in range(start, len(answer), fault.size):
                writer.write(answer[at : at + fault.size])
                await writer.drain()
                await asyncio.sleep(fault.seconds)
            return True
        writer.write(answer)
        await writer.drain()
        return kind != "stale"

    def _take(self, method: str, target: str) -> Fault | None:
        for fault in self._faults:
            if fault.matches(method, target):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(_without_connection(head)[:-2] + b"Connection: close\r\n\r\n" + body)
            answer = await reader.read()
        finally:
            writer.close()
        start = answer.index(b"\r\n\r\n") + 4
        kept = _without_connection(answer[:start])
        if _header(kept, b"content-length") is None and _header(kept, b"transfer-encoding") is None:
            kept = kept[:-2] + b"Content-Length: %d\r\n\r\n" % (len(answer) - start)
        return kept + answer[start:]


def _header(head: bytes, name: bytes) -> bytes | None:
    found = re.search(rb"\r\n" + name + rb":[ \t]*([^\r]*)", head, re.IGNORECASE)
    return found.group(1) if found else None


def _without_connection(head: bytes) -> bytes:
    return re.sub(rb"\r\n(?:connection|keep-alive):[^\r]*", b"", head, flags=re.IGNORECASE)


def _answer(fault: Fault) -> bytes:
    lines = [f"HTTP/1.1 {fault.status} Fault", f"Content-Length: {len(fault.body)}"]
    lines += [f"{name}: {value}" for name, value in fault.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + fault.body


def _abort(writer: asyncio.StreamWriter) -> None:
    """Send RST, as a machine that lost the connection does."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
