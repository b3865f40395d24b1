"""How do tests get an OpenStack whose certificate nobody knows?

A `Cloud` is one HTTPS server with a certificate of its own making: it hands out tokens as Keystone v3 does and
answers every other request with a listing of one object. It exists for what the real servers do not show: TLS.
"""

from __future__ import annotations

import http.server
import json
from pathlib import Path

from tests.support.certificates import for_localhost, server_context
from tests.support.listening import Listener


class Cloud(Listener):
    """Runs until its block ends."""

    def __init__(self, directory: Path) -> None:
        self.certificate, key = for_localhost(directory)
        super().__init__(_Handler, context=server_context(self.certificate, key))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OS_AUTH_URL": self.url,
            "OS_USERNAME": "u",
            "OS_PASSWORD": "p",
            "OS_DOMAIN_NAME": "Default",
            "OS_PROJECT_NAME": "t",
            "OS_REGION_NAME": "R",
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v3/auth/tokens":
            self._answer(404, b"{}")
            return
        url = f"https://{self.headers['Host']}/v1/A"
        endpoint = {"id": "e", "interface": "public", "region": "R", "region_id": "R", "url": url}
        token = {
            "methods": ["password"],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2100-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "D"}},
            "catalog": [{"id": "s", "type": "object-store", "name": "swift", "endpoints": [endpoint]}],
        }
        self._answer(201, json.dumps({"token": token}).encode(), {"X-Subject-Token": "t"})

    def do_GET(self) -> None:
        entry = {"name": "k", "bytes": 1, "hash": "a" * 32, "last_modified": "2026-01-01T00:00:00.000000"}
        self._answer(200, json.dumps([entry]).encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
