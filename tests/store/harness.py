"""How does the contract suite get at one kind of store?

A `Harness` opens an empty space (a bucket, a directory) of one kind of store and says what it declares
not to hold. A `Face` is the contract as plain blocking calls; `DriverFace` goes straight to the driver
(HTTP drivers: through the standard library's client, one connection per request, so that the driver is
tested without our engine), `StoreFace` through `Store`, its threads and the engine.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import io
import json
import os
import re
import ssl
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import pytest
import trio

from kopsfs.errors import NotFoundError, TransientError
from kopsfs.store import k8s_credentials
from kopsfs.store.driver import ANY, Answer, Driver, Expected, HttpDriver, Key, ObjectInfo, Page, Prefix, Request
from kopsfs.store.file import FileDriver
from kopsfs.store.gcs import GcsDriver
from kopsfs.store.memory import MemoryDriver
from kopsfs.store.store import Store, over
from kopsfs.store.url import Settings, open_driver, parse
from tests.emulators import k8s_asking
from tests.emulators.gcs import EVERYTHING
from tests.emulators.k8s import K8sServer
from tests.emulators.k8s_state import KOPS_CRDS

AnyDriver = Driver | HttpDriver


@dataclass(frozen=True)
class Harness:
    """One kind of store. `space(directory, page_size, server)` yields a driver on an empty store of its own."""

    name: str
    space: Callable[[Path, int, Any], contextlib.AbstractContextManager[AnyDriver]]
    server: str = ""
    """The session fixture of the server it needs; empty: none."""
    may_refuse: Callable[[str], bool] = field(default=lambda key: False)
    """Keys the store declares it cannot hold (in the order of the suite's list)."""
    server_loses: Callable[[str], bool] = field(default=lambda key: False)
    """Keys this server, unlike the store it stands for, is known to get wrong (measured); left out."""
    server_pages: bool = True
    """The server can cut a listing into pages (s3rver answers 500)."""
    server_tears: str = ""
    """How this server, unlike the store it stands for, answers a GET while it is being written to (measured); empty: whole."""
    trusted_md5: bool = False
    marks: tuple[Any, ...] = ()


@contextlib.contextmanager
def _memory(directory: Path, page_size: int, server: object) -> Iterator[AnyDriver]:
    driver = MemoryDriver(uuid.uuid4().hex, page_size=page_size)
    yield driver
    driver.bucket.check()


@contextlib.contextmanager
def _file(directory: Path, page_size: int, server: object) -> Iterator[AnyDriver]:
    root = directory / "store"
    root.mkdir()
    yield FileDriver(root, page_size=page_size)
    temps = [path for path in root.rglob(".kopsfs-*")]
    assert not temps, f"temporary files stay behind: {temps}"


def _no_path(key: str) -> bool:
    """What no path can be; and `a/b` once `a` is there."""
    names = key.split("/")
    return any(name in {"", ".", ".."} or len(name.encode()) > 255 for name in names) or key == "a/b"


def _s3(scheme: str, *, versioned: bool = False) -> Callable[[Path, int, Any], Any]:
    @contextlib.contextmanager
    def space(directory: Path, page_size: int, server: Any) -> Iterator[AnyDriver]:
        bucket = server.new_bucket(versioned=versioned)
        settings = Settings(environ=server.environment, page_size=page_size)
        yield open_driver(parse(f"{scheme}://{bucket}", server.environment), settings)

    return space


def _plain(key: str) -> bool:
    return (
        re.fullmatch(r"(?!.*//)(?!.*/\./)[A-Za-z0-9][A-Za-z0-9./=~+-]{0,99}(?<!/)", key) is not None and ".." not in key
    )


def _no_gs_name(key: str) -> bool:
    """Source: Google "Object naming requirements"."""
    return key in {".", ".."} or "\n" in key or "\r" in key


@contextlib.contextmanager
def _gs(directory: Path, page_size: int, server: Any) -> Iterator[AnyDriver]:
    """As the real one is spoken to: with a token, and its conditions taken for atomic."""
    server.gcs.machine = EVERYTHING
    bucket = server.gcs.create_bucket(f"t-{uuid.uuid4().hex[:12]}").name
    environ = {"GCE_METADATA_HOST": server.url.removeprefix("http://"), "HOME": str(directory)}
    yield GcsDriver(parse(f"gs://{bucket}"), Settings(environ=environ, page_size=page_size), origin=server.url)


@contextlib.contextmanager
def _gs_emulator(directory: Path, page_size: int, server: Any) -> Iterator[AnyDriver]:
    """As an emulator is spoken to: nothing is taken for granted."""
    bucket = server.gcs.create_bucket(f"t-{uuid.uuid4().hex[:12]}").name
    environ = {"STORAGE_EMULATOR_HOST": server.url}
    yield open_driver(parse(f"gs://{bucket}", environ), Settings(environ=environ, page_size=page_size))


@contextlib.contextmanager
def _gs_elsewhere(directory: Path, page_size: int, server: object) -> Iterator[AnyDriver]:
    """An empty bucket of the emulator that KOPSFS_TEST_GS_EMULATOR names (fake-gcs-server)."""
    environ = {"STORAGE_EMULATOR_HOST": os.environ["KOPSFS_TEST_GS_EMULATOR"]}
    bucket = f"t-{uuid.uuid4().hex[:12]}"
    driver = open_driver(parse(f"gs://{bucket}", environ), Settings(environ=environ, page_size=page_size))
    made = json.dumps({"name": bucket}).encode()
    url, headers = f"{driver.describe()['endpoint']}/storage/v1/b?project=p", ("Content-Type: application/json",)
    assert exchange("other", Request("POST", url, headers, made, len(made))).status == 200
    yield driver


def _no_azure_name(key: str) -> bool:
    """Source: Microsoft "Naming and referencing containers, blobs, and metadata"; dots at the end of a segment are lost."""
    return re.search(r"[\x00-\x1f\x7f\\]|\.(?:/|\Z)", key) is not None


@contextlib.contextmanager
def _azure(directory: Path, page_size: int, server: Any) -> Iterator[AnyDriver]:
    settings = Settings(environ=server.environment, page_size=page_size)
    yield open_driver(parse(f"azureblob://{server.account}/{server.new_container()}", server.environment), settings)


def _oss(**more: str) -> Callable[[Path, int, Any], Any]:
    @contextlib.contextmanager
    def space(directory: Path, page_size: int, server: Any) -> Iterator[AnyDriver]:
        name = f"t-{uuid.uuid4().hex[:12]}"
        server.create_bucket(name)
        yield open_driver(parse(f"oss://{name}"), Settings(environ={**server.environment, **more}, page_size=page_size))

    return space


def _no_oss_name(key: str) -> bool:
    """Source: OSS "Object naming conventions"."""
    return key[0] in "/\\" or len(key.encode()) > 1023


@contextlib.contextmanager
def _swift(directory: Path, page_size: int, server: Any) -> Iterator[AnyDriver]:
    settings = Settings(environ=server.environment, page_size=page_size)
    yield open_driver(parse(f"swift://{server.new_container()}"), settings)


@contextlib.contextmanager
def kubeconfigs_read_here() -> Iterator[None]:
    """Without a process of their own, which takes most of a second; that it reads them is tested in `test_k8s_credentials`."""

    def ask(module: str, *words: str, **_: Any) -> Any:
        return json.loads(json.dumps(importlib.import_module(module).outside(*words)))

    with mock.patch.object(k8s_credentials, "ask", ask):
        yield


@contextlib.contextmanager
def _k8s(directory: Path, page_size: int, server: object) -> Iterator[AnyDriver]:
    with K8sServer() as emulator, kubeconfigs_read_here():
        environ = {"KUBECONFIG": str(emulator.kubeconfig(directory / "kubeconfig")), "HOME": str(directory)}
        yield open_driver(parse("k8s://"), Settings(environ=environ, page_size=page_size))


@contextlib.contextmanager
def _k8s_elsewhere(directory: Path, page_size: int, server: object) -> Iterator[AnyDriver]:
    """The server that KOPSFS_TEST_KUBECONFIG names; everything a store shows is removed from it first."""
    api = k8s_asking.elsewhere()
    k8s_asking.define(api, *KOPS_CRDS)
    k8s_asking.sweep(api)
    environ = {"KUBECONFIG": k8s_asking.ELSEWHERE, "HOME": str(directory)}
    yield open_driver(parse("k8s://"), Settings(environ=environ, page_size=page_size))


real = pytest.mark.real
slow = pytest.mark.slow


def _on_s3rver(scheme: str, *marks: Any) -> Harness:
    return Harness(
        f"{scheme}-s3rver",
        _s3(scheme),
        "s3rver",
        server_loses=lambda key: not _plain(key),
        server_pages=False,
        server_tears="of 56 GETs among 400 PUTs 1 was half an object, 13 one state under another's ETag, 4 a 500",
        marks=(real, *marks),
    )


HARNESSES = [
    Harness("memory", _memory, trusted_md5=True),
    Harness("file", _file, may_refuse=_no_path),
    Harness("s3-bench", _s3("s3"), "bench"),
    Harness("s3-bench-versioned", _s3("s3", versioned=True), "bench"),
    Harness("s3-moto", _s3("s3"), "moto", server_loses=lambda key: "\n" in key, marks=(real,)),
    Harness("do-moto", _s3("do"), "moto", server_loses=lambda key: "\n" in key, marks=(real, slow)),
    _on_s3rver("do"),
    Harness("s3-ceph", _s3("s3"), "ceph", marks=(real,)),
    Harness("do-ceph", _s3("do"), "ceph", marks=(real,)),
    Harness("s3-ceph-versioned", _s3("s3", versioned=True), "ceph", marks=(real,)),
    Harness("azureblob", _azure, "azurite", _no_azure_name, server_loses=lambda key: key == "\uffee", marks=(real,)),
    Harness("gs", _gs, "gs", may_refuse=_no_gs_name, trusted_md5=True),
    Harness("gs-emulator", _gs_emulator, "gs", may_refuse=_no_gs_name, trusted_md5=True),
    Harness("oss", _oss(), "oss_server", may_refuse=_no_oss_name),
    Harness("oss-v1", _oss(OSS_SIGNATURE_VERSION="v1"), "oss_server", may_refuse=_no_oss_name),
    Harness("swift", _swift, "swift", marks=(real,)),
    Harness("k8s", _k8s, trusted_md5=True),
    *(Harness(f"{scheme}-ceph", _s3(scheme), "ceph", marks=(real, slow)) for scheme in ("scw", "hos", "linode")),
    *(_on_s3rver(scheme, slow) for scheme in ("s3", "scw", "hos", "linode")),
]
"""What each server proves and does not prove is measured: moto takes no newline, s3rver breaks on odd keys and writes an
object's bytes and its ETag in place, one after the other, Azurite sorts by UTF-16, so that U+FFEE comes behind 😀."""

if os.environ.get("KOPSFS_TEST_GS_EMULATOR"):
    HARNESSES.append(Harness("gs-elsewhere", _gs_elsewhere, may_refuse=_no_gs_name, trusted_md5=True, marks=(real,)))
if k8s_asking.ELSEWHERE:
    HARNESSES.append(Harness("k8s-elsewhere", _k8s_elsewhere, trusted_md5=True, marks=(real,)))


class Face(Protocol):
    """The contract, blocking."""

    def head(self, key: str) -> ObjectInfo: ...
    def get(self, key: str) -> tuple[ObjectInfo, bytes]: ...
    def put(self, key: str, data: bytes, expected: Expected) -> ObjectInfo: ...
    def delete(self, key: str, expected: Expected) -> None: ...
    def page(
        self, prefix: str = "", *, delimiter: bool = False, token: str | None = None, start_after: str | None = None
    ) -> Page: ...
    def guarantee(self, condition: str) -> str: ...
    def close(self) -> None: ...


class DriverFace:
    def __init__(self, driver: AnyDriver) -> None:
        self._driver = driver
        if isinstance(driver, HttpDriver):
            driver.warm_up()

    def guarantee(self, condition: str) -> str:
        return str(getattr(self._driver.capabilities, condition))

    def head(self, key: str) -> ObjectInfo:
        driver, key = self._driver, Key(key)
        if isinstance(driver, HttpDriver):
            return driver.parse_head(key, exchange("head", driver.prepare_head(key)))
        return driver.head(key)

    def get(self, key: str) -> tuple[ObjectInfo, bytes]:
        driver, key = self._driver, Key(key)
        if isinstance(driver, HttpDriver):
            answer = exchange("get", driver.prepare_get(key))
            return driver.parse_get(key, answer), answer.body
        into = io.BytesIO(b"left over from an earlier attempt, longer than what comes")
        return driver.get(key, into), into.getvalue()

    def put(self, key: str, data: bytes, expected: Expected) -> ObjectInfo:
        driver, key = self._driver, Key(key)
        if isinstance(driver, HttpDriver):
            request = driver.prepare_put(key, data, len(data), expected=expected)
            return driver.parse_put(key, len(data), exchange("put", request))
        return driver.put(key, io.BytesIO(data), len(data), expected=expected)

    def delete(self, key: str, expected: Expected) -> None:
        driver, key = self._driver, Key(key)
        if isinstance(driver, HttpDriver):
            answer = exchange("delete", driver.prepare_delete(key, expected=expected))
            with contextlib.suppress(NotFoundError) if expected is ANY else contextlib.nullcontext():
                driver.parse_delete(key, answer)
        else:
            driver.delete(key, expected=expected)

    def page(
        self, prefix: str = "", *, delimiter: bool = False, token: str | None = None, start_after: str | None = None
    ) -> Page:
        driver, prefix = self._driver, Prefix(prefix)
        if isinstance(driver, HttpDriver):
            request = driver.prepare_list(prefix, delimiter=delimiter, token=token, start_after=start_after)
            return driver.parse_list(prefix, exchange("list", request))
        return driver.list_page(prefix, delimiter=delimiter, token=token, start_after=start_after)

    def close(self) -> None:
        self._driver.close()


def exchange(op: str, request: Request) -> Answer:
    """Send one request over a connection of its own, the path byte for byte."""
    url = urllib.parse.urlsplit(request.url)
    assert url.hostname is not None
    if url.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=90, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=90)
    target = request.url.split("://", 1)[1].partition("/")
    headers = [line.split(":", 1) for line in request.headers]
    names = {name.lower() for name, _ in headers}
    try:
        connection.putrequest(request.method, "/" + target[2], skip_host="host" in names, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value.strip())
        body = request.body if isinstance(request.body, bytes | None) else request.body.read(request.body_size)
        if "content-length" not in names and (body is not None or request.method in {"PUT", "POST"}):
            connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(op, detail=str(error)) from error
    finally:
        connection.close()


class StoreFace:
    """`Store` in a trio loop of its own thread."""

    def __init__(self, driver: AnyDriver, *, prefix: str = "", state_dir: Path | None = None) -> None:
        started: list[trio.lowlevel.TrioToken] = []
        ready = threading.Event()

        async def main() -> None:
            self.store: Store = over(driver, url="test://", prefix=Prefix(prefix), state_dir=state_dir)
            self._stop = trio.Event()
            started.append(trio.lowlevel.current_trio_token())
            ready.set()
            await self._stop.wait()
            await self.store.aclose()

        self._thread = threading.Thread(target=trio.run, args=(main,))
        self._thread.start()
        ready.wait()
        self._token = started[0]

    def _run(self, act: Callable[[], Any]) -> Any:
        async def bounded() -> Any:
            with trio.fail_after(240):
                return await act()

        return trio.from_thread.run(bounded, trio_token=self._token)

    def guarantee(self, condition: str) -> str:
        return str(getattr(self.store.capabilities, condition))

    def head(self, key: str) -> ObjectInfo:
        return self._run(lambda: self.store.head(Key(key)))

    def get(self, key: str) -> tuple[ObjectInfo, bytes]:
        return self._run(lambda: self.store.get(Key(key)))

    def put(self, key: str, data: bytes, expected: Expected) -> ObjectInfo:
        return self._run(lambda: self.store.put(Key(key), data, len(data), expected=expected))

    def delete(self, key: str, expected: Expected) -> None:
        self._run(lambda: self.store.delete(Key(key), expected=expected))

    def page(
        self, prefix: str = "", *, delimiter: bool = False, token: str | None = None, start_after: str | None = None
    ) -> Page:
        return self._run(
            lambda: self.store.list_page(Prefix(prefix), delimiter=delimiter, token=token, start_after=start_after)
        )

    def get_many(self, keys: list[str]) -> dict[str, tuple[ObjectInfo | None, bytes | None, Exception | None]]:
        got: dict[str, tuple[ObjectInfo | None, bytes | None, Exception | None]] = {}

        def deliver(key: Key, info: ObjectInfo | None, data: bytes | None, error: Exception | None) -> None:
            assert key not in got, "delivered twice"
            got[key] = (info, data, error)

        self._run(lambda: self.store.get_many([Key(key) for key in keys], deliver))
        return got

    def get_into(self, key: str, file: Any, progress: Any = None) -> ObjectInfo:
        return self._run(lambda: self.store.get_into(Key(key), file, progress))

    def close(self) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()
