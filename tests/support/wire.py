"""What does a client put on the wire?

`Wire` is a server of a few lines that answers with whatever bytes the test wants and keeps what it received.
`ask` and `run` put requests through an `Engine` and wait for what comes of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable

import trio

from kopsfs.errors import StoreError
from kopsfs.store.driver import Answer, Request
from kopsfs.store.http import Engine
from tests.support.listening import BACKLOG, Loop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Reply = Callable[[int, int, bytes], bytes | None]
"""(connection, request on it, head) → the answer; None: close without one."""


class Wire(Loop):
    """A server that answers as `reply` says and remembers heads and bodies."""

    def __init__(self, reply: Reply, context: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.reply = reply
        self.context = context
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.open_max = 0
        self.hold: asyncio.Event | None = None
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://localhost:{self.port}"

    def block(self) -> None:
        """Answer nothing until `unblock`."""
        self.hold = asyncio.Event()

    def unblock(self) -> None:
        hold, self.hold = self.hold, None
        assert hold is not None
        self._loop.call_soon_threadsafe(hold.set)

    def close_idle(self) -> None:
        async def close() -> None:
            for writer in list(self._writers):
                writer.close()
                await writer.wait_closed()

        self.call(close())

    async def opened(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def closed(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, number = self.connections, 0
        self.open += 1
        self.open_max = max(self.open, self.open_max)
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                number += 1
                self.heads.append(head)
                self.bodies.append(body)
                if self.hold is not None:
                    await self.hold.wait()
                answer = self.reply(connection, number, head)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if b"onnection: close" in answer + head:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    def lines(self, index: int = 0) -> list[str]:
        return self.heads[index].decode().split("\r\n")


def always(answer: bytes) -> Reply:
    return lambda _connection, _number, _head: answer


async def ask(engine: Engine, request: Request, **options: object) -> Answer | StoreError:
    came = trio.Event()
    results: list[Answer | StoreError] = []

    def done(result: Answer | StoreError) -> None:
        results.append(result)
        came.set()

    engine.submit(request, done=done, **options)  # type: ignore[arg-type]
    with trio.fail_after(120):
        await came.wait()
    assert len(results) == 1
    return results[0]


def run(engine: Engine, *requests: Request, **options: object) -> list[Answer | StoreError]:
    async def main() -> list[Answer | StoreError]:
        return [await ask(engine, request, **options) for request in requests]

    return trio.run(main)


def get(url: str, *headers: str) -> Request:
    return Request("GET", url, headers)


def put(url: str, body: bytes = b"body") -> Request:
    return Request("PUT", url, (), body, len(body))


def body_of(result: Answer | StoreError) -> bytes:
    assert isinstance(result, Answer), result
    return result.body
