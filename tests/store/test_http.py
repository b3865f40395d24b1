"""Does the engine send exactly what it was given, once, and say what came of it?

Method: a server of a few lines answers with whatever bytes the test wants and keeps what it received, so
that every claim is checked on the wire. The crowd tests run against the bench's S3 server.
"""

from __future__ import annotations

import datetime as dt
import io
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kopsfs.errors import ConfigError, StoreError, TransientError
from kopsfs.store import curl
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Answer, Request
from kopsfs.store.http import Engine
from kopsfs.store.lanes import Lane
from tests.bench.s3server import Server
from tests.conftest import ExpectLog
from tests.support.faultproxy import FaultProxy
from tests.support.wire import OK, Wire, always, ask, body_of, get, put, run


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(environ={})
    try:
        yield engine
    finally:
        engine.close()


# -- what is sent ------------------------------------------------------------------------------------


def test_a_path_goes_out_byte_for_byte(engine: Engine) -> None:
    paths = [
        "/b/a//b",
        "/b//x",
        "/b/.",
        "/b/..",
        "/b/a/../b",
        "/b/x/./y",
        "/b/%2F%41%zz?prefix=%2F&x=",
        "/b/a%0Ab",
        "/b/~*'()!",
    ]
    with Wire(always(OK)) as wire:
        run(engine, *[get(wire.url + path) for path in paths])
    assert [head.split(b" ")[1].decode() for head in wire.heads] == paths


def test_nothing_is_added_that_changes_the_meaning(engine: Engine) -> None:
    with Wire(always(OK)) as wire:
        run(
            engine,
            get(wire.url + "/k", "x-amz-date: 1"),
            put(wire.url + "/k", b"x" * 3_000_000),
            Request("DELETE", wire.url + "/k"),
        )
    names = [
        sorted(line.split(":")[0].lower() for line in head.decode().split("\r\n")[1:] if line) for head in wire.heads
    ]
    assert names == [
        ["accept", "host", "user-agent", "x-amz-date"],
        ["accept", "content-length", "host", "user-agent"],
        ["accept", "host", "user-agent"],
    ]
    assert [head.split(b"\r\n")[0] for head in wire.heads] == [
        b"GET /k HTTP/1.1",
        b"PUT /k HTTP/1.1",
        b"DELETE /k HTTP/1.1",
    ]
    assert wire.bodies == [b"", b"x" * 3_000_000, b""]


def test_a_body_comes_from_a_file_where_it_stands(engine: Engine) -> None:
    file = io.BytesIO(b"skipped" + b"y" * 1_000_000 + b"left")
    file.seek(7)
    with Wire(always(OK)) as wire:
        run(engine, Request("PUT", wire.url + "/k", (), file, 1_000_000))
    assert wire.bodies == [b"y" * 1_000_000]


def test_an_empty_body_has_its_length(engine: Engine) -> None:
    with Wire(always(OK)) as wire:
        run(engine, put(wire.url + "/k", b""))
    assert "Content-Length: 0" in wire.lines()


# -- what comes back ---------------------------------------------------------------------------------


def test_an_answer_is_handed_over_as_it_is(engine: Engine) -> None:
    answer = b'HTTP/1.1 301 Moved\r\nLocation: http://localhost:1/\r\nETag: "Ab"\r\nX-a:1\r\nX-A:  2 \r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00'
    with Wire(always(answer)) as wire:
        (result,) = run(engine, get(wire.url + "/k"))
    headers = {
        "location": "http://localhost:1/",
        "etag": '"Ab"',
        "x-a": "2",
        "content-encoding": "gzip",
        "content-length": "4",
    }
    assert result == Answer(301, headers, b"\x1f\x8b\x08\x00")


def test_an_interim_answer_leaves_no_headers(engine: Engine) -> None:
    with Wire(always(b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n" + OK)) as wire:
        (result,) = run(engine, put(wire.url + "/k"))
    assert result == Answer(200, {"content-length": "2"}, b"ok")


def test_a_head_has_a_length_and_no_body(engine: Engine) -> None:
    with Wire(always(b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n")) as wire:
        (result,) = run(engine, Request("HEAD", wire.url + "/k"))
    assert result == Answer(200, {"content-length": "4096"}, b"")


def test_a_connection_is_kept_and_used_again(engine: Engine) -> None:
    with Wire(lambda _connection, _number, head: OK[:-2] if head.startswith(b"HEAD") else OK) as wire:
        run(engine, get(wire.url + "/1"), put(wire.url + "/2"), Request("HEAD", wire.url + "/3"), get(wire.url + "/4"))
        assert wire.connections == 1


# -- connections that end ----------------------------------------------------------------------------


def closes_the_second(connection: int, number: int, _head: bytes) -> bytes | None:
    return None if (connection, number) == (1, 2) else OK


def test_a_read_on_a_kept_connection_that_closes_is_repeated_silently(engine: Engine) -> None:
    with Wire(closes_the_second) as wire:
        results = run(engine, get(wire.url + "/1"), get(wire.url + "/2"))
    assert [body_of(result) for result in results] == [b"ok", b"ok"]
    assert [head.split(b" ")[1] for head in wire.heads] == [b"/1", b"/2", b"/2"]


@pytest.mark.parametrize(
    "request_of",
    [put, lambda url: put(url, b""), lambda url: Request("DELETE", url)],
    ids=["put", "empty put", "delete"],
)
def test_a_write_is_never_sent_twice(engine: Engine, request_of: Callable[[str], Request]) -> None:
    with Wire(closes_the_second) as wire:
        _, result, after = run(engine, get(wire.url + "/1"), request_of(wire.url + "/2"), get(wire.url + "/3"))
    assert isinstance(result, TransientError)
    assert body_of(after) == b"ok"
    assert [head.split(b" ")[1] for head in wire.heads] == [b"/1", b"/2", b"/3"]


def test_a_connection_closed_while_idle_costs_a_write_nothing(engine: Engine) -> None:
    with Wire(always(OK)) as wire:

        async def main() -> None:
            await ask(engine, get(wire.url + "/1"))
            await trio.to_thread.run_sync(wire.close_idle)
            await trio.sleep(1.1)  # libcurl looks after kept connections once a second; before, it cannot know
            assert body_of(await ask(engine, put(wire.url + "/2"))) == b"ok"

        trio.run(main)
        assert wire.connections == 2


def test_a_read_outlives_a_pool_full_of_dead_connections(engine: Engine) -> None:
    with Wire(lambda connection, number, _head: OK if number == 1 or connection > 8 else None) as wire:

        async def main() -> None:
            wire.block()
            async with trio.open_nursery() as nursery:
                for i in range(8):
                    nursery.start_soon(ask, engine, get(f"{wire.url}/{i}"))
                while len(wire.heads) < 8:
                    await trio.sleep(0)
                wire.unblock()
            assert body_of(await ask(engine, get(wire.url + "/after"))) == b"ok"

        trio.run(main)


def test_a_read_that_never_gets_a_byte_fails_after_one_fresh_connection(engine: Engine) -> None:
    with Wire(lambda _connection, number, head: OK if b" /1 " in head else None) as wire:
        _, result = run(engine, get(wire.url + "/1"), get(wire.url + "/2"))
        assert isinstance(result, TransientError)
        assert len(wire.heads) <= 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le\r\nConnection: close",
        b"SSH-2.0-OpenSSH_9.2\r\nConnection: close\r\n\r\n",
    ],
    ids=["length", "chunked", "head", "another protocol"],
)  # fmt: skip
def test_an_answer_cut_off_is_an_error(engine: Engine, answer: bytes) -> None:
    with Wire(always(answer)) as wire:
        (result,) = run(engine, get(wire.url + "/k"))
    assert isinstance(result, TransientError), result


def test_nobody_listening_is_an_error_at_once(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    results = run(engine, get(f"http://127.0.0.1:{port}/k"), put(f"http://127.0.0.1:{port}/k"))
    assert all(isinstance(result, TransientError) for result in results)


def test_silence_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curl, "SILENCE_S", 1)
    engine = Engine(environ={})
    with Wire(always(OK)) as wire:
        wire.block()
        (result,) = run(engine, get(wire.url + "/k"))
        wire.unblock()
    engine.close()
    assert isinstance(result, TransientError)


def test_a_server_may_take_its_time_to_store_a_large_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curl, "SILENCE_S", 1)
    engine = Engine(environ={})
    with Wire(always(OK)) as wire:
        wire.block()
        answer = threading.Timer(9.0, wire.unblock)  # libcurl takes the speed over five seconds
        answer.start()
        (result,) = run(engine, put(wire.url + "/k", bytes(60 << 20)))
        answer.join()
    engine.close()
    assert body_of(result) == b"ok"


def test_a_url_that_cannot_be_sent_is_no_transient_error(engine: Engine) -> None:
    results = run(engine, get("gopher://localhost/"), get("http://localhost/\r\nX: 1"))
    assert [type(result) for result in results] != [Answer, Answer]
    assert all(isinstance(result, StoreError) for result in results)


# -- a crowd -----------------------------------------------------------------------------------------


def test_every_answer_belongs_to_its_request(engine: Engine) -> None:
    objects = {f"k{i:04d}": f"content of {i}".encode() * (i % 50) for i in range(1500)}
    with Server() as server:
        server.create_bucket("b")
        server.load("b", objects)
        got: dict[str, bytes] = {}

        async def main() -> None:
            all_there = trio.Event()

            def take(key: str, result: Answer | StoreError) -> None:
                got[key] = body_of(result)
                if len(got) == len(objects):
                    all_there.set()

            for key in objects:
                engine.submit(get(f"{server.url}/b/{key}"), done=lambda result, key=key: take(key, result))
            with trio.fail_after(120):
                await all_there.wait()

        trio.run(main)
        assert server.requests()["get"] == len(objects)
    assert got == objects


def test_connections_are_opened_on_demand_and_bounded() -> None:
    engine = Engine(5, environ={})
    with Wire(always(OK)) as wire:

        async def main() -> None:
            assert body_of(await ask(engine, get(wire.url + "/0"))) == b"ok"
            assert wire.open_max == 1
            async with trio.open_nursery() as nursery:
                for i in range(60):
                    nursery.start_soon(ask, engine, get(f"{wire.url}/{i}"))

        trio.run(main)
    engine.close()
    assert len(wire.heads) == 61
    assert 1 < wire.open_max <= 5


def test_an_urgent_request_overtakes_what_is_queued() -> None:
    engine = Engine(1, environ={})
    with Wire(always(OK)) as wire:

        async def main() -> None:
            wire.block()
            engine.submit(get(wire.url + "/first"), done=lambda _result: None)
            while not wire.heads:
                await trio.sleep(0)
            for i in range(2):
                engine.submit(get(f"{wire.url}/{i}"), done=lambda _result: None)
            engine.submit(get(wire.url + "/urgent"), done=lambda _result: None, lane=Lane.READ)
            wire.unblock()
            await ask(engine, get(wire.url + "/last"))

        trio.run(main)
    engine.close()
    assert [head.split(b" ")[1] for head in wire.heads] == [b"/first", b"/urgent", b"/0", b"/1", b"/last"]


# -- giving up ---------------------------------------------------------------------------------------


def test_a_cancelled_request_that_waits_is_never_sent() -> None:
    engine = Engine(1, environ={})
    called: list[str] = []
    with Wire(always(OK)) as wire:

        async def main() -> None:
            wire.block()
            first = engine.submit(get(wire.url + "/first"), done=lambda _result: called.append("first"))
            while not wire.heads:
                await trio.sleep(0)
            second = engine.submit(put(wire.url + "/second"), done=lambda _result: called.append("second"))
            assert engine.cancel(second, unsent_only=True)
            assert not engine.cancel(first, unsent_only=True)
            wire.unblock()
            await ask(engine, get(wire.url + "/third"))
            assert not engine.cancel(first)
            engine.cancel(4711)

        trio.run(main)
    engine.close()
    assert called == ["first"]
    assert [head.split(b" ")[1] for head in wire.heads] == [b"/first", b"/third"]


def test_a_cancelled_request_in_flight_frees_its_place() -> None:
    engine = Engine(1, environ={})
    called: list[str] = []
    with Wire(lambda _connection, _number, head: OK) as wire:

        async def main() -> None:
            wire.block()
            hangs = engine.submit(get(wire.url + "/hangs"), done=lambda _result: called.append("hangs"))
            while not wire.heads:
                await trio.sleep(0)
            wire.hold = None
            engine.cancel(hangs)
            assert body_of(await ask(engine, get(wire.url + "/next"))) == b"ok"

        trio.run(main)
    engine.close()
    assert called == []


def test_closing_ends_what_is_outstanding() -> None:
    engine = Engine(1, environ={})
    results: list[Answer | StoreError] = []
    with Wire(always(OK)) as wire:

        async def main() -> None:
            wire.block()
            engine.submit(get(wire.url + "/sent"), done=results.append)
            while not wire.heads:
                await trio.sleep(0)
            engine.submit(get(wire.url + "/queued"), done=results.append)
            engine.close()

        trio.run(main)
    assert [type(result) for result in results] == [TransientError, TransientError]
    assert len(wire.heads) == 1


def test_a_bug_in_the_engine_fails_requests_and_does_not_hang_them(engine: Engine, expect_log: ExpectLog) -> None:
    expect_log("the HTTP engine failed")
    with Wire(always(OK)) as wire:
        patch = pytest.MonkeyPatch()

        async def main() -> None:
            with patch.context() as broken:
                broken.setattr(curl.Slot, "answer", lambda _slot: 1 / 0)
                assert isinstance(await ask(engine, get(wire.url + "/1")), TransientError)
            assert body_of(await ask(engine, get(wire.url + "/2"))) == b"ok"

        trio.run(main)


# -- into a file -------------------------------------------------------------------------------------


def test_a_large_body_goes_to_a_file_and_is_told_as_it_comes(engine: Engine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    told: list[int] = []
    heads: list[Answer] = []
    answer = b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    with Wire(always(answer)) as wire, (tmp_path / "f").open("w+b") as file:
        file.write(b"older bytes, more than enough" * 1_000_000)
        (result,) = run(engine, get(wire.url + "/k"), into=file, progress=told.append, started=heads.append)
        file.seek(0)
        assert file.read() == data
    assert result == Answer(200, {"etag": "x", "content-length": str(len(data))}, b"")
    assert heads == [result]
    assert told == sorted(told)
    assert told[-1] == len(data)


def test_an_error_does_not_get_into_the_file(engine: Engine) -> None:
    file = io.BytesIO()
    told: list[int] = []
    with Wire(always(b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nerror")) as wire:
        (result,) = run(engine, get(wire.url + "/k"), into=file, progress=told.append)
    assert body_of(result) == b"error"
    assert file.getvalue() == b""
    assert told == []


def test_a_full_disk_is_not_the_stores_fault(engine: Engine) -> None:
    with Wire(always(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)) as wire:
        with open("/dev/full", "r+b", buffering=0) as file:
            (result,) = run(engine, get(wire.url + "/k"), into=_NoSeek(file))
    assert type(result) is StoreError
    assert "No space left" in result.detail


class _NoSeek(io.RawIOBase):
    """/dev/full, which cannot be truncated."""

    def __init__(self, file: io.RawIOBase) -> None:
        self.file = file

    def seek(self, *_args: int) -> int:
        return 0

    def truncate(self, *_args: int | None) -> int:
        return 0

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        return self.file.write(data)


def test_a_body_that_cannot_be_read_is_not_the_stores_fault(engine: Engine) -> None:
    file = io.BytesIO(b"x")
    file.close()
    with Wire(always(OK)) as wire:
        (result,) = run(engine, Request("PUT", wire.url + "/k", (), file, 1))
    assert type(result) is StoreError
    assert "local file" in result.detail


# -- certificates and proxies ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    pem = made.public_bytes(serialization.Encoding.PEM)
    (directory / "ca.pem").write_bytes(pem)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(secret + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context, directory / "ca.pem"


@pytest.mark.parametrize("variable", curl.CA_VARIABLES)
def test_certificates_are_taken_from_the_environment(certificate: tuple[ssl.SSLContext, Path], variable: str) -> None:
    context, ca_file = certificate
    engine = Engine(environ={variable: str(ca_file)})
    with Wire(always(OK), context) as wire:
        (result,) = run(engine, get(wire.url + "/k"))
    engine.close()
    assert body_of(result) == b"ok"


def test_an_unknown_certificate_is_refused(engine: Engine, certificate: tuple[ssl.SSLContext, Path]) -> None:
    with Wire(always(OK), certificate[0]) as wire:
        (result,) = run(engine, get(wire.url + "/k"))
    assert isinstance(result, TransientError)
    assert "certificate" in result.detail.lower()
    assert wire.heads == []


def test_a_bundle_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="AWS_CA_BUNDLE: cannot read certificates from '/none'"):
        Engine(environ={"AWS_CA_BUNDLE": "/none"})


def test_a_proxy_is_used_for_other_machines_only() -> None:
    with Wire(always(OK)) as proxy:
        engine = Engine(environ={"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "exempt.test"})
        results = run(
            engine,
            get("http://store.test/b/a//b"),
            get(f"http://localhost:{proxy.port}/direct"),
            get("http://exempt.test/"),
        )
        engine.close()
    assert body_of(results[0]) == b"ok"
    assert isinstance(results[2], TransientError)
    assert [head.split(b" ")[1] for head in proxy.heads] == [b"http://store.test/b/a//b", b"/direct"]


def test_https_goes_through_a_tunnel() -> None:
    with Wire(always(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as proxy:
        engine = Engine(environ={"https_proxy": f"http://127.0.0.1:{proxy.port}"})
        (result,) = run(engine, get("https://store.test/b"))
        engine.close()
    assert isinstance(result, TransientError)
    assert proxy.heads[0].startswith(b"CONNECT store.test:443 ")


def test_the_processs_own_proxies_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with Wire(always(OK)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        engine = Engine(environ={})
        (result,) = run(engine, get("http://store.test/"))
        engine.close()
    assert isinstance(result, TransientError)
    assert proxy.heads == []


# -- one at a time, and the fault proxy --------------------------------------------------------------


def test_fetch_waits_and_maps_errors() -> None:
    with Wire(always(OK)) as wire:
        assert fetch(put(wire.url + "/k"), Options.read({})).body == b"ok"
        wire.block()
        with pytest.raises(TransientError):
            fetch(get(wire.url + "/k"), Options.read({}), timeout_s=0.2)
    assert wire.bodies[0] == b"body"


def test_the_fault_proxy_does_what_it_says(engine: Engine) -> None:
    with Wire(always(OK)) as wire, FaultProxy(wire.port) as proxy:
        url = proxy.url

        async def main() -> None:
            assert body_of(await ask(engine, get(url + "/plain"))) == b"ok"
            proxy.fault("reset", method="PUT", times=1)
            assert isinstance(await ask(engine, put(url + "/lost")), TransientError)
            assert wire.heads[-1].startswith(b"PUT /lost ")
            proxy.fault("refuse", path="/refused", times=None)
            assert isinstance(await ask(engine, put(url + "/refused")), TransientError)
            proxy.clear()
            proxy.fault("status", status=503, body=b"slow", headers={"Retry-After": "7"}, times=1)
            answer = await ask(engine, get(url + "/s"))
            assert answer == Answer(503, {"content-length": "4", "retry-after": "7"}, b"slow")
            proxy.fault("truncate", size=1, times=1)
            assert isinstance(await ask(engine, get(url + "/t")), TransientError)
            proxy.fault("drip", size=1, seconds=0.01, times=1)
            assert body_of(await ask(engine, get(url + "/d"))) == b"ok"
            proxy.fault("stale", times=1)
            assert body_of(await ask(engine, get(url + "/e"))) == b"ok"
            assert body_of(await ask(engine, get(url + "/f"))) == b"ok"
            await trio.to_thread.run_sync(proxy.down)
            assert isinstance(await ask(engine, get(url + "/down")), TransientError)
            await trio.to_thread.run_sync(proxy.up)
            assert body_of(await ask(engine, get(url + "/up"))) == b"ok"

        trio.run(main)
        assert ("GET", "/up") in proxy.requests
        assert b"/refused" not in b"".join(wire.heads)
