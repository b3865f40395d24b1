"""How do tests run a small server in a thread of their own?

with Listener(Handler) as server: ...       # http.server, a thread for each connection
class Wire(Loop): ...                       # asyncio, everything in one thread
"""

from __future__ import annotations

import asyncio
import http.server
import ssl
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Self

BACKLOG = 1024
"""With the 5 of the standard library 50 connections at once take seconds: the kernel drops the others' first packet."""


class Listener(http.server.ThreadingHTTPServer):
    """Listens on 127.0.0.1 from when it is made, and answers until its block ends. A handshake is its connection's."""

    request_queue_size = BACKLOG

    def __init__(
        self, handler: type[http.server.BaseHTTPRequestHandler], *, port: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._scheme = "https" if context else "http"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not shake hands, is no news; anything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Loop:
    """An event loop in a thread, which a subclass serves from; its tasks end with the block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run in the loop, to its end."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    async def opened(self) -> None:
        raise NotImplementedError

    async def closed(self) -> None:
        """Listen no more, and end the connections."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self.opened())
        return self

    def __exit__(self, *_exc: object) -> None:
        self.call(self.closed())
        self.call(_no_task_stays())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _no_task_stays() -> None:
    # A connection accepted in this very moment becomes a task a few turns later.
    for _ in range(5):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
