"""How do tests get an OpenStack whose certificate nobody knows?

A `Cloud` is one HTTPS server with a certificate of its own making: it hands out tokens as Keystone v3 does and
answers every other request with a listing of one object. It exists for what the real servers do not show: TLS.
"""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Cloud:
    """Runs until its block ends."""

    def __init__(self, directory: Path) -> None:
        self.certificate = _write_certificate(directory)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, directory / "key.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

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

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _write_certificate(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (directory / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(pem))
    return path


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
