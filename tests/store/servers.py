"""Which real S3 servers do the tests run against, and how are they started and stopped?

    with moto() as server:                       # or ceph(), s3rver()
        server.create_bucket("state")
        driver = open_driver(location, Settings(environ=server.environment))

Each listens on free ports of 127.0.0.1, writes only below a directory of its own, and ends with the block.
Where the programs come from: `tests/support/packages.py`.

Tests ask for them by the session-scoped fixtures of `tests/support/serving.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

import pytest

from kopsfs.store import azure_credentials
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Request
from kopsfs.store.sigv4 import Credentials, Signer
from tests.bench.s3server import ACCESS_KEY, SECRET_KEY, Server
from tests.support import packages
from tests.support.sweeper import scratch, sweeps

START_S = 300.0
"""A server that has not answered by then never will, on however slow a machine."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 server."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    other: tuple[str, str] | None = None
    """Another user's key pair, who has no right to the first one's buckets."""
    region: str = "us-east-1"
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which kops (and kopsfs) finds this server."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_REGION": self.region,
            "S3_ACCESS_KEY_ID": self.access_key,
            "S3_SECRET_ACCESS_KEY": self.secret_key,
        }

    def call(
        self, method: str, path: str, query: str = "", body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Do something as the owner that no driver does; fails the test unless it succeeds."""
        host = self.endpoint.partition("://")[2]
        signer = Signer(Credentials(self.access_key, self.secret_key), self.region)
        digest = hashlib.sha256(body).hexdigest()
        lines = signer.sign(method, host, path, query, digest, sorted((headers or {}).items()))
        url = f"{self.endpoint}{path}" + (f"?{query}" if query else "")
        answer = fetch(Request(method, url, lines, body if method == "PUT" else None, len(body)), Options.read({}))  # type: ignore[arg-type]
        if answer.status >= 300:
            pytest.fail(f"{self.name}: {method} {path}?{query}: {answer.status} {answer.body[:500]!r}")
        return answer.body

    def create_bucket(self, name: str, *, versioned: bool = False) -> str:
        self.call("PUT", f"/{name}")
        if versioned:
            self.call(
                "PUT",
                f"/{name}",
                "versioning=",
                b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>',
            )
        return name

    def new_bucket(self, *, versioned: bool = False) -> str:
        """An empty bucket of its own for a test."""
        return self.create_bucket(f"t-{uuid.uuid4().hex[:12]}", versioned=versioned)


# -- what all of them need --------------------------------------------------------------------------


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports for programs that bind them some seconds later.

    None of those that the kernel gives to connections by itself: one of them could have it by then.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10_000, 65_000) if not low <= port <= high] or range(10_000, 65_000)
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().choice(ports)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def wait_for_answer(url: str, process: subprocess.Popen[bytes] | None, log: Path) -> None:
    """Until any HTTP answer comes; a process that ended or START_S that are over fail the test with its log."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    opener = urllib.request.build_opener(*handlers)
    deadline = time.monotonic() + START_S
    while True:
        try:
            opener.open(url, timeout=30).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            pass
        if (process is not None and process.poll() is not None) or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            pytest.fail(f"no answer from {url}; its log ends with\n{tail}")
        # Nothing announces that another program's port is open.
        time.sleep(0.05)


@contextlib.contextmanager
def program(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs in its own session until the block ends or the tests are killed; its children end with it."""
    output: IO[bytes]
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with sweeps(session=process.pid):
            yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break


# -- moto: AWS-shaped answers ------------------------------------------------------------------------


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """moto's server: conditions on PUT and DELETE, encryption, region headers; any key pair is accepted."""
    binary = packages.moto()
    port = free_port()
    with scratch("moto") as directory:
        log = directory / "log"
        with program([str(binary), "-H", "127.0.0.1", "-p", str(port)], log) as process:
            wait_for_answer(f"http://127.0.0.1:{port}/moto-api/", process, log)
            yield S3Server("moto", f"http://127.0.0.1:{port}", "kopsfs-access", "kopsfs-secret")


# -- s3rver: an endpoint that ignores every condition -------------------------------------------------


@contextlib.contextmanager
def s3rver() -> Iterator[S3Server]:
    """s3rver ignores If-Match and If-None-Match; keys with `//` or `..` break its connection."""
    script = packages.s3rver()
    port = free_port()
    # It answers a PUT before the bytes are written (filesystem.js, putObject): a busy disk would tear what is read next.
    with scratch("s3rver", in_memory=True) as directory:
        log = directory / "log"
        (directory / "data").mkdir()
        command = ["node", str(script), "-d", str(directory / "data"), "-a", "127.0.0.1", "-p", str(port)]
        with program(command, log) as process:
            wait_for_answer(f"http://127.0.0.1:{port}/", process, log)
            yield S3Server("s3rver", f"http://127.0.0.1:{port}", "S3RVER", "S3RVER")


# -- Ceph: a real S3 server that checks signatures ---------------------------------------------------

_CEPH_CONF = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr2 = false
ms bind port min = {low}
ms bind port max = {high}
run dir = {home}/run
admin socket = {home}/run/$name.asok
pid file = {home}/run/$name.pid
log file = {home}/log/$name.log
crash dir = {home}/crash
keyring = {home}/keyring
mon data = {home}/mon
mon data avail warn = 1
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 2000
mon warn on pool no redundancy = false
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pgp num = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0

[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw dns name = s3.localhost
rgw data = {home}/run
rgw enable usage log = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = kopsfs-test=YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=
debug rgw = 0
"""
"""One monitor, one OSD with its objects in memory, one gateway. Without tcp_nodelay a small GET takes 44 ms."""


@contextlib.contextmanager
def ceph() -> Iterator[S3Server]:
    """Ceph's RADOS gateway: checks signatures and rights; If-Match only with a bare tag. Ready after about 12 s."""
    packages.ceph()
    with scratch("ceph") as home, contextlib.ExitStack() as programs:
        mon_port, port = free_ports(2)
        low = free_port()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        conf = home / "ceph.conf"
        conf.write_text(_CEPH_CONF.format(fsid=fsid, mon_port=mon_port, port=port, home=home, low=low, high=low + 200))
        for name in ("mon", "osd", "run", "log"):
            (home / name).mkdir()
        log = home / "log" / "start.log"

        def do(*command: str) -> str:
            deadline = time.monotonic() + START_S
            while True:
                with log.open("ab") as output:
                    ended = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, stderr=output, check=False)
                if ended.returncode == 0:
                    return ended.stdout.decode()
                if time.monotonic() > deadline:
                    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                    pytest.fail(f"{' '.join(command)} ended with {ended.returncode}:\n{tail}")
                # While it elects itself the monitor refuses with EPERM now and then, and has no way to say when it is done.
                time.sleep(1.0)

        start = ["-c", str(conf), "-f"]
        do("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", "monmap")
        do("ceph-mon", "-c", str(conf), "-i", "a", "--mkfs", "--monmap", "monmap")
        programs.enter_context(program(["ceph-mon", *start, "-i", "a"], log))
        do("ceph", "-c", str(conf), "--connect-timeout", "60", "osd", "new", osd, "0")
        do("ceph-osd", "-c", str(conf), "-i", "0", "--mkfs", "--osd-uuid", osd)
        _start_osd(programs, start, conf, log, do)
        gateway = programs.enter_context(program(["radosgw", *start, "-n", "client.rgw"], log))
        wait_for_answer(f"http://127.0.0.1:{port}/", gateway, log)
        for user in ("kopsfs", "other"):
            keys = ["--access-key", f"{user}-access", "--secret-key", f"{user}-secret"]
            admin = ["radosgw-admin", "-c", str(conf), "-n", "client.rgw"]
            do(*admin, "user", "create", f"--uid={user}", f"--display-name={user}", *keys)
        other = ("other-access", "other-secret")
        yield S3Server("ceph", f"http://127.0.0.1:{port}", "kopsfs-access", "kopsfs-secret", other)


def _start_osd(programs: contextlib.ExitStack, start: list[str], conf: Path, log: Path, do: Callable[..., str]) -> None:
    """Start the OSD until it stays up: with cephx off it may ask before it knows the cluster's id, and exit."""
    deadline = time.monotonic() + START_S
    process = programs.enter_context(program(["ceph-osd", *start, "-i", "0"], log))
    while " 1 up" not in do("ceph", "-c", str(conf), "--connect-timeout", "60", "osd", "stat"):
        if process.poll() is not None:
            process = programs.enter_context(program(["ceph-osd", *start, "-i", "0"], log))
        if time.monotonic() > deadline:
            pytest.fail("ceph-osd does not come up:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:]))
        # The monitor has no way to say when.
        time.sleep(0.3)


@contextlib.contextmanager
def bench() -> Iterator[S3Server]:
    """The in-memory server of the benches: no package, every signature checked."""
    with Server(verify_signature=True) as running:
        yield S3Server("bench", running.url, ACCESS_KEY, SECRET_KEY)


# -- Azurite: Azure Blob Storage, by its makers -------------------------------------------------------


@dataclass(frozen=True)
class Azurite:
    """A running Azurite, which checks signatures, and with `oauth` tokens' lifetime, issuer and audience."""

    endpoint: str
    account: str = "account"
    key: str = "a2V5IG9mIHRoZSBhY2NvdW50"
    ca_file: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which kopsfs finds this server."""
        where = f"BlobEndpoint={self.endpoint}/{self.account};AccountName={self.account};AccountKey={self.key}"
        return {"AZURE_STORAGE_CONNECTION_STRING": where}

    def call(self, method: str, path: str, query: Sequence[tuple[str, str]] = (), body: bytes | None = None) -> bytes:
        """Do something as the owner; fails the test unless it succeeds. The path begins at the container."""
        signer = azure_credentials.Signer(self.account, b64decode(self.key))
        own = [("x-ms-date", signer.date()), ("x-ms-version", "2026-02-06")]
        own = [("x-ms-blob-type", "BlockBlob"), *own] if body is not None and not query else own
        path = f"/{self.account}/{path}"
        signed = "".join(f"\n{name}:{value}" for name, value in query)
        proof = signer.sign(method, path, signed, own, length=len(body or b""))
        sent = "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
        lines = [*(f"{name}: {value}" for name, value in own), f"Authorization: {proof}"]
        url = f"{self.endpoint}{path}" + (f"?{sent}" if sent else "")
        answer = fetch(
            Request(method, url, lines, body, len(body or b"")),  # type: ignore[arg-type]
            Options.read({}, ca_file=self.ca_file),
        )
        if answer.status >= 300:
            pytest.fail(f"azurite: {method} {path} {query}: {answer.status} {answer.body[:500]!r}")
        return answer.body

    def new_container(self) -> str:
        """An empty container of its own for a test."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        self.call("PUT", name, [("restype", "container")])
        return name


@contextlib.contextmanager
def azurite(*options: str, ca_file: str = "") -> Iterator[Azurite]:
    """Azurite 3.37, in memory. With a certificate in `options` it speaks HTTPS, which `--oauth` needs."""
    script = packages.azurite()
    port = free_port()
    with scratch("azurite") as directory:
        log = directory / "log"
        command = ["node", str(script), "--blobPort", str(port), "--inMemoryPersistence", "--silent", *options]
        account = {"AZURITE_ACCOUNTS": f"{Azurite.account}:{Azurite.key}"}
        with program([*command, "--disableTelemetry", "--disableProductStyleUrl"], log, account) as process:
            endpoint = f"{'https://localhost' if ca_file else 'http://127.0.0.1'}:{port}"
            wait_for_answer(f"{endpoint}/", process, log)
            yield Azurite(endpoint, ca_file=ca_file)


STARTERS = {"moto": moto, "s3rver": s3rver, "ceph": ceph, "bench": bench}
"""By name, for fixtures and for `make test-store`."""
