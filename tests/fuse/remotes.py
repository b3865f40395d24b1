"""Which stores can a test mount, and who else writes to them?

A `Row` for each store on each server that stands for it: how to make an empty space, which variables lead a mount
there, and a client for `put`, `get`, `delete` and `keys` that shares no code with the driver under test. The servers
are the fixtures of `tests/support/serving.py`, started once and only when a row needs them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Request
from tests.emulators import gcs, oss
from tests.emulators.k8s import K8sServer
from tests.fuse.mounted import FileRemote, Remote
from tests.store.servers import Azurite, S3Server
from tests.store.servers_swift import SwiftServer


class CalledRemote:
    """A server that does what its owner says by `call`."""

    server: S3Server | Azurite
    space: str
    """The path of the bucket or container."""

    def put(self, key: str, data: bytes) -> object:
        return self.server.call("PUT", self._path(key), body=data)

    def get(self, key: str) -> bytes:
        return self.server.call("GET", self._path(key))

    def delete(self, key: str) -> None:
        self.server.call("DELETE", self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.space}/{urllib.parse.quote(key)}"


class BucketRemote(CalledRemote):
    """A bucket of an S3 server, for any of S3's relatives."""

    def __init__(self, scheme: str, server: S3Server, *, versioned: bool = False) -> None:
        self.server = server
        bucket = server.new_bucket(versioned=versioned)
        self.space = f"/{bucket}"
        self.url = f"{scheme}://{bucket}"
        self.environment: Mapping[str, str] = server.environment

    def keys(self) -> list[str]:
        found = ET.fromstring(self.server.call("GET", self.space, "list-type=2"))
        return [str(e.text) for e in found.iter() if e.tag.rpartition("}")[2] == "Key"]

    def history(self) -> list[str]:
        """The MD5 of every version that a versioned bucket has kept of its objects."""
        found = ET.fromstring(self.server.call("GET", self.space, "versions="))
        rows = [row for row in found if row.tag.rpartition("}")[2] == "Version"]
        return [str(e.text).strip('"') for row in rows for e in row if e.tag.rpartition("}")[2] == "ETag"]


class GsRemote:
    """A bucket of the emulator of Google's, seen from inside."""

    def __init__(self, server: gcs.Server) -> None:
        self.gcs = server.gcs
        self.bucket = server.gcs.create_bucket(_name()).name
        self.url = f"gs://{self.bucket}"
        self.environment: Mapping[str, str] = {"STORAGE_EMULATOR_HOST": server.url}

    def put(self, key: str, data: bytes) -> object:
        return self.gcs.put(self.bucket, key, data)

    def get(self, key: str) -> bytes:
        return self.gcs.get(self.bucket, key)

    def delete(self, key: str) -> None:
        self.gcs.delete(self.bucket, key)

    def keys(self) -> list[str]:
        with self.gcs.lock:
            return list(self.gcs.buckets[self.bucket].names)


class OssRemote:
    """A bucket of the emulator of Alibaba's, seen from inside."""

    def __init__(self, server: oss.Server) -> None:
        self.server = server
        self.bucket = _name()
        self.objects = server.create_bucket(self.bucket).objects
        self.url = f"oss://{self.bucket}"
        self.environment: Mapping[str, str] = server.environment

    def put(self, key: str, data: bytes) -> object:
        return self.server.put(self.bucket, key, data)

    def get(self, key: str) -> bytes:
        return self.objects[key].data

    def delete(self, key: str) -> None:
        with self.server.lock:
            del self.objects[key]

    def keys(self) -> list[str]:
        with self.server.lock:
            return sorted(self.objects)


class AzureRemote(CalledRemote):
    """A container of Azurite."""

    def __init__(self, server: Azurite) -> None:
        self.server = server
        self.space = server.new_container()
        self.url = f"azureblob://{server.account}/{self.space}"
        self.environment: Mapping[str, str] = server.environment

    def keys(self) -> list[str]:
        found = ET.fromstring(self.server.call("GET", self.space, [("comp", "list"), ("restype", "container")]))
        return [str(each.text) for each in found.iterfind("Blobs/Blob/Name")]


class SwiftRemote:
    """A container of Swift, by plain HTTP."""

    def __init__(self, server: SwiftServer) -> None:
        self.storage = server.storage
        self.token = server.token()
        self.container = server.new_container()
        self.url = f"swift://{self.container}"
        self.environment: Mapping[str, str] = server.environment

    def put(self, key: str, data: bytes) -> object:
        return self._call("PUT", key, data)

    def get(self, key: str) -> bytes:
        return self._call("GET", key)

    def delete(self, key: str) -> None:
        self._call("DELETE", key)

    def keys(self) -> list[str]:
        return self._call("GET").decode().splitlines()

    def _call(self, method: str, key: str = "", body: bytes = b"") -> bytes:
        url = f"{self.storage}/{self.container}/{urllib.parse.quote(key)}".removesuffix("/")
        sent = body if method == "PUT" else None
        answer = fetch(Request(method, url, (f"X-Auth-Token: {self.token}",), sent, len(body)), Options.read({}))  # type: ignore[arg-type]
        assert answer.status < 300, (method, key, answer)
        return answer.body


class K8sRemote:
    """Secrets in a namespace of its own, below a directory for which kops has no kind of object."""

    def __init__(self, server: K8sServer, directory: Path) -> None:
        cluster = f"{_name()}.example.com"
        self.server = server
        self.namespace = cluster.replace(".", "-")
        self.above = f"{cluster}/"
        self.url = f"k8s:///{cluster}/addons"
        config = server.kubeconfig(directory / "kubeconfig")
        self.environment: Mapping[str, str] = {"KUBECONFIG": str(config), "HOME": str(directory)}

    def put(self, key: str, data: bytes) -> object:
        metadata = {"name": self._name(key), "annotations": {"kopsfs.io/key": f"{self.above}addons/{key}"}}
        content = {"content": base64.b64encode(data).decode()}
        secret = {"metadata": metadata, "type": "kopsfs.io/file", "data": content}
        return self.server.put("secrets", self.namespace, secret)

    def get(self, key: str) -> bytes:
        return base64.b64decode(self._secrets()[key]["data"]["content"])

    def delete(self, key: str) -> None:
        self.server.remove("secrets", self.namespace, self._name(key))

    def keys(self) -> list[str]:
        return sorted(self._secrets())

    def _secrets(self) -> dict[str, Any]:
        found = self.server.items("secrets", self.namespace).values()
        keys = {each["metadata"]["annotations"]["kopsfs.io/key"]: each for each in found}
        return {key.removeprefix(f"{self.above}addons/"): each for key, each in keys.items()}

    def _name(self, key: str) -> str:
        path = f"addons/{key}"
        slug = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")[:30].strip("-")
        return f"kopsfs-{slug}-{hashlib.sha256(path.encode()).hexdigest()[:20]}"


class DaemonsMemory:
    """`memfs://`, which has no other client."""

    def __init__(self) -> None:
        self.url = f"memfs://{_name()}"
        self.environment: Mapping[str, str] = {}

    def put(self, key: str, data: bytes) -> object:
        raise NotImplementedError

    def get(self, key: str) -> bytes:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError

    def keys(self) -> list[str]:
        raise NotImplementedError


def _name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class Row:
    """One store on one server. Its name begins with the scheme: `pytest --store=` selects by that."""

    name: str
    empty: Callable[[Any, Path], Remote]
    """From the server and a directory of the test's: a space of its own."""
    server: str = ""
    """The argument of `start_server`, or a fixture; empty: none."""
    window: bool = False
    """It compares nothing, so that kopsfs looks first: a window of one round trip stays open."""
    tears: bool = False
    """It shows what is being written, and keeps what broke off (measured)."""
    real: bool = False
    """The server is a package's."""

    @property
    def scheme(self) -> str:
        return self.name.partition("-")[0]

    def remote(self, request: pytest.FixtureRequest, directory: Path) -> Remote:
        """An empty space; the server is started if it does not run yet."""
        if self.server in S3_SERVERS:
            server = request.getfixturevalue("start_server")(self.server)
        else:
            server = request.getfixturevalue(self.server) if self.server else None
        return self.empty(server, directory)


S3_SERVERS = ("bench", "moto", "ceph", "s3rver")
RELATIVES = ("s3", "do", "scw", "hos", "linode")


def _bucket(scheme: str, server: str) -> Row:
    empty: Callable[[Any, Path], Remote] = lambda running, _: BucketRemote(scheme, running)  # noqa: E731
    rough = server == "s3rver"
    return Row(f"{scheme}-{server}", empty, server, window=rough, tears=rough, real=server != "bench")


def _on(remote: Callable[[Any], Remote]) -> Callable[[Any, Path], Remote]:
    return lambda server, _: remote(server)


FILE = Row("file", lambda _, directory: FileRemote(directory / "store"))
GS = Row("gs", _on(GsRemote), "gs")
AZURE = Row("azureblob", _on(AzureRemote), "azurite", real=True)
SWIFT = Row("swift", _on(SwiftRemote), "swift", window=True, real=True)
OSS = Row("oss", _on(OssRemote), "oss_server", window=True)
K8S = Row("k8s", K8sRemote, "k8s")
MEMFS = Row("memfs", lambda _server, _directory: DaemonsMemory())
"""Not among the lists below, whose tests want another client."""
LIGHT = [GS, AZURE, SWIFT, OSS, K8S, *(_bucket(scheme, "bench") for scheme in RELATIVES[1:])]
"""Every store once, where it is quickest: for `make test`. S3 and directories are `test_smoke.py`'s."""
THOROUGH = [
    *(FILE, GS, AZURE, SWIFT, OSS, K8S, _bucket("s3", "moto")),
    *(_bucket(scheme, server) for scheme in RELATIVES for server in ("ceph", "s3rver")),
]
"""Every store on every server that stands for it; S3's relatives where conditions are compared and where they are not."""
VERSIONED = Row(
    "s3-ceph-versioned", lambda server, _: BucketRemote("s3", server, versioned=True), "ceph", window=True, real=True
)
"""Ceph 16 honours no condition there (measured), and its versions show whatever was overwritten."""
COMPLETE = [FILE, GS, AZURE, SWIFT, OSS, *(_bucket(scheme, "ceph") for scheme in RELATIVES)]
"""Every store once, on the server that comes closest to it: for what takes minutes."""


def rows(chosen: list[Row]) -> pytest.MarkDecorator:
    """Run a test with each of these rows as `row`."""
    marks = {True: (pytest.mark.real,), False: ()}
    return pytest.mark.parametrize("row", [pytest.param(each, id=each.name, marks=marks[each.real]) for each in chosen])
