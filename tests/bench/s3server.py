"""Which S3 server do the benches and the tests run against?

An in-memory one of our own: `python -m tests.bench.s3server --port 9100 --delay 0.02`, or from a test

    with Server(delay_s=0.02) as server:
        server.create_bucket("state")
        env = os.environ | server.environment      # S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_REGION
        ...
        server.put("state", "c1/config", b"as another client")
        assert server.requests()["put"] == 1

The process ends with the one that started it (its standard input is closed). What it answers stands in
`s3routes.py`, how it can be made to misbehave in `s3http.Fault` and `s3control.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from tests.bench.child import Child
from tests.bench.s3control import Control, ControlPort
from tests.bench.s3http import Answer, Connection, Request
from tests.bench.s3routes import S3

ACCESS_KEY, SECRET_KEY = "bench", "benchbench"
BACKLOG = 1024


class _S3Port(S3):
    """An `S3` that also answers `/__control` on its own port."""

    control: Control

    @override
    def answer(self, request: Request) -> Answer:
        if request.verb == "control":
            return self.control.answer(request)
        return super().answer(request)


class _Door:
    """The listening socket of the store's port; it can be shut and opened again at the same number.

    While it is shut its port is bound, and not listened on: connections are refused, and nobody else gets it.
    """

    def __init__(self, s3: S3, host: str, port: int) -> None:
        self.s3 = s3
        self.host = host
        self.port = port
        self.is_open = False
        self.socket = self._bound()
        self.port = self.socket.getsockname()[1]

    def _bound(self) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self.host, self.port))
        bound.setblocking(False)
        return bound

    def open(self) -> None:
        self.socket.listen(BACKLOG)
        self.is_open = True
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._accept, self.socket)

    def shut(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.socket.close()
        self.socket, self.is_open = self._bound(), False
        for connection in list(self.s3.connections):
            connection.abort()

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(loop.connect_accepted_socket(lambda: Connection(self.s3), accepted))
            task.add_done_callback(lambda done: done.exception())


async def _serve(options: argparse.Namespace) -> None:
    s3 = _S3Port()
    s3.delay_s = options.delay
    s3.verify_signature = options.verify_signature
    s3.secrets = {options.access_key: options.secret_key}
    s3.region = options.region
    s3.quirks = set(options.quirk)
    door = _Door(s3, options.host, options.port)
    s3.control = Control(s3, door)
    for name in options.bucket:
        s3.control.bucket(name).versioned = options.versioned
    door.open()
    loop = asyncio.get_running_loop()
    control_port = ControlPort(s3.control)
    control_server = await loop.create_server(lambda: Connection(control_port), options.host, options.control_port)
    ready = {"port": door.port, "control_port": control_server.sockets[0].getsockname()[1]}
    print(json.dumps(ready), flush=True)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    if not options.until_stdin_closes:
        await loop.create_future()
    await loop.run_in_executor(None, sys.stdin.read)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.s3server", description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any; the first line on stdout tells")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="before each answer")
    parser.add_argument("--bucket", action="append", default=[], metavar="NAME", help="make it at start; repeatable")
    parser.add_argument("--versioned", action="store_true", help="the buckets made at start keep versions")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--quirk", action="append", default=[], help="see tests/bench/s3routes.py; repeatable")
    parser.add_argument("--verify-signature", action="store_true", help="refuse what is not signed with our key")
    parser.add_argument("--access-key", default=ACCESS_KEY)
    parser.add_argument("--secret-key", default=SECRET_KEY)
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started it")
    try:
        asyncio.run(_serve(parser.parse_args(argv)))
    except KeyboardInterrupt:
        sys.exit(130)


class Server(Child):
    """The server as a child process; every method but `start` and `stop` is one control request."""

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        verify_signature: bool = False,
        versioned: bool = False,
        quirks: Iterable[str] = (),
        buckets: Iterable[str] = (),
        port: int = 0,
    ) -> None:
        super().__init__("tests.bench.s3server", "--until-stdin-closes", "--delay", str(delay_s), "--port", str(port))
        self.argv += ["--verify-signature"] * verify_signature + ["--versioned"] * versioned
        for quirk in quirks:
            self.argv += ["--quirk", quirk]
        for bucket in buckets:
            self.argv += ["--bucket", bucket]

    def store_url(self, bucket: str) -> str:
        return f"s3://{bucket}"

    @property
    def environment(self) -> dict[str, str]:
        """What kopsfs (as kops) and the SDKs need to find it."""
        return {
            "S3_ENDPOINT": self.url,
            "S3_REGION": "us-east-1",
            "S3_ACCESS_KEY_ID": ACCESS_KEY,
            "S3_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def control(
        self, method: str = "GET", path: str = "", body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Send one control request. Raises RuntimeError with what the server said."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ready["control_port"], timeout=60)
        try:
            connection.request(method, "/__control" + path, body, dict(headers or {}))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status == 404:
            raise KeyError(path)
        if answer.status != 200:
            raise RuntimeError(data.decode())
        return data

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change settings, see `s3control`: `set(delay=0.02, reset=True, quirks=[], down=True, …)`."""
        state: dict[str, Any] = json.loads(self.control("POST", "", json.dumps(settings).encode()))
        return state

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.control())
        return state

    def requests(self, *, reset: bool = False) -> dict[str, int]:
        """Give requests by verb since the last reset."""
        state = self.set(reset=True) if reset else self.state()
        return dict(state["requests"])

    def reset(self) -> None:
        """Forget counters and log (not objects, faults or the history of writes)."""
        self.set(reset=True)

    def fault(self, kind: str, **rule: Any) -> None:
        """Add a fault: `fault("status", count=3, verb="put", status=503)`; see `s3http.Fault`."""
        self.set(add_faults=[{"kind": kind, **rule}])

    def clear_faults(self) -> None:
        self.set(clear_faults=True)

    def down(self) -> None:
        """Refuse connections, and drop those that are open."""
        self.set(down=True)

    def up(self) -> None:
        self.set(down=False)

    def create_bucket(self, name: str) -> None:
        self.set(buckets=[name])

    def keys(self, bucket: str) -> dict[str, tuple[str, int, int]]:
        """Give key → (etag, size, modified_s), in listing order."""
        found = json.loads(self.control(path=f"/keys/{bucket}"))
        return {key: (etag, size, modified_s) for key, (etag, size, modified_s) in found.items()}

    def writes(self, bucket: str, key: str = "") -> list[dict[str, Any]]:
        """Give the accepted PUTs and DELETEs in order (of one key): verb, key, before, etag, size, if_match, agent, time."""
        path = f"/writes/{bucket}" + (f"/{_quoted(key)}" if key else "")
        rows: list[dict[str, Any]] = json.loads(self.control(path=path))
        return rows

    def log(self) -> list[tuple[float, str, str, int]]:
        """Give (unix time, verb, key, status) of every answer since the last reset."""
        return [(when, verb, key, status) for when, verb, key, status in json.loads(self.control(path="/log"))]

    def get(self, bucket: str, key: str) -> bytes:
        """Read an object, uncounted. Raises KeyError."""
        return self.control(path=f"/object/{bucket}/{_quoted(key)}")

    def put(self, bucket: str, key: str, data: bytes, *, modified_s: float | None = None) -> str:
        """Write as another client, unconditionally; gives the ETag without quotes."""
        headers = {"X-Modified": str(modified_s)} if modified_s is not None else None
        answer = json.loads(self.control("PUT", f"/object/{bucket}/{_quoted(key)}", data, headers))
        return str(answer["etag"])

    def delete(self, bucket: str, key: str) -> None:
        """Delete as another client."""
        self.control("DELETE", f"/object/{bucket}/{_quoted(key)}")

    def load(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Write many objects at once; they do not enter the history of writes."""
        parts = []
        for key, data in objects.items():
            name = key.encode("utf-8", "surrogateescape")
            parts += [len(name).to_bytes(4, "big"), len(data).to_bytes(4, "big"), name, data]
        self.control("POST", f"/load/{bucket}", b"".join(parts))

    def wipe(self, bucket: str) -> None:
        """Empty a bucket and its history."""
        self.control("POST", f"/wipe/{bucket}")


def _quoted(key: str) -> str:
    return quote(key.encode("utf-8", "surrogateescape"), safe="")


if __name__ == "__main__":
    main()
