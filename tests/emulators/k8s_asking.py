"""How do tests speak to an API server, the emulated one or a real one, without any client library?

`KOPSFS_TEST_KUBECONFIG` names a kubeconfig of a real server whose current user may do anything (system:masters) and
authenticates by a token; `elsewhere()` is that server.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.emulators.k8s import ADMIN_TOKEN, K8sServer

CORE, KOPS, CRDS = "/api/v1", "/apis/kops.k8s.io/v1alpha2", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ELSEWHERE = os.environ.get("KOPSFS_TEST_KUBECONFIG", "")


@dataclass(frozen=True)
class Said:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def version(self) -> str:
        return str(self.json["metadata"]["resourceVersion"])


class Api:
    """One connection per request, as `admin` unless told otherwise."""

    def __init__(self, url: str, token: str, context: ssl.SSLContext | None = None) -> None:
        self.url, self.token, self.context = url, token, context

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> Said:
        """Headers are given as `Accept_Encoding="gzip"`; a token of "" is none."""
        connection = self._connect()
        try:
            answer = self._send(connection, method, path, body, token, headers)
            return Said(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def watch(self, path: str) -> Iterator[Any]:
        """The events until the answer ends; raises what `http.client` raises when it breaks."""
        connection = self._connect()
        try:
            answer = self._send(connection, "GET", path, None, None, {})
            assert answer.status == 200, answer.read()
            left = b""
            while part := answer.read1(1 << 16):
                *lines, left = (left + part).split(b"\n")
                yield from (json.loads(line) for line in lines)
            assert not left, "half an event"
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host = urlsplit(self.url)
        assert host.hostname is not None
        if self.context is None:
            return http.client.HTTPConnection(host.hostname, host.port, timeout=60)
        return http.client.HTTPSConnection(host.hostname, host.port, timeout=60, context=self.context)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any,
        token: str | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        sent = {"Accept": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        token = self.token if token is None else token
        if token:
            sent["Authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, raw, sent)
        return connection.getresponse()


def define(api: Api, *definitions: Any) -> None:
    """Have custom resources defined and served; a real server takes a moment."""
    for definition in definitions:
        assert api.ask("POST", CRDS, definition).status in {201, 409}
    until = time.monotonic() + 60
    for definition in definitions:
        spec = definition["spec"]
        path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        while api.ask("GET", path).status != 200:
            assert time.monotonic() < until, f"{path} is not served"
            time.sleep(0.1)


def sweep(api: Api) -> None:
    """Remove what kopsfs or kops may have left, but for the namespaces, which a server without controllers keeps."""
    paths = [f"{KOPS}/{plural}" for plural in ("clusters", "instancegroups", "keysets", "sshcredentials")]
    for path in [*paths, f"{CORE}/secrets"]:
        root, _, plural = path.rpartition("/")
        for item in api.ask("GET", path).json["items"]:
            metadata = item["metadata"]
            if plural != "secrets" or item["type"].startswith("kopsfs.io/"):
                assert api.ask(
                    "DELETE", f"{root}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
                ).status in {200, 404}


def of(server: K8sServer) -> Api:
    context = None if server.certificate is None else ssl.create_default_context(cafile=str(server.certificate))
    return Api(server.url, ADMIN_TOKEN, context)


def elsewhere() -> Api:
    config = yaml.safe_load(Path(ELSEWHERE).read_text())
    rows = {kind: {row["name"]: row[kind] for row in config[f"{kind}s"]} for kind in ("context", "cluster", "user")}
    current = rows["context"][config["current-context"]]
    cluster, user = rows["cluster"][current["cluster"]], rows["user"][current["user"]]
    context = None
    if cluster["server"].startswith("https"):
        data = cluster.get("certificate-authority-data")
        pem = base64.b64decode(data).decode() if data else Path(cluster["certificate-authority"]).read_text()
        context = ssl.create_default_context(cadata=pem)
    return Api(cluster["server"], user["token"], context)
