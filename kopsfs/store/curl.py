"""How does libcurl send one request?

`Options` is what every handle is told once: timeouts, certificates, proxies, all from the environment of
this store. A *slot* is a libcurl handle with its buffers, set up for one kind of request and used again
and again by a *job*, one submitted request. `fetch` sends one request and waits; many at once are
`http.Engine`'s business.

A body is sent at most once. libcurl by itself would repeat a request on another connection when a kept
one turns out to be closed; for a write that is stopped, because the first one may have acted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pycurl

from kopsfs.errors import ConfigError, StoreError, TransientError
from kopsfs.store.driver import Answer, Request
from kopsfs.store.lanes import Lane

Done = Callable[[Answer | StoreError], None]
"""Gets what came of a request."""

CONNECT_TIMEOUT_MS: Final = 5_000
SILENCE_S: Final = 10
"""A transfer that moves no byte for this long is given up."""
STORED_BYTES_S: Final = 1 << 20
"""So much longer may be silent who has been sent a body: it stores before it answers (40 MB took Azurite over 10 s)."""
READ_SIZE: Final = 128 * 1024
WRITE_SIZE: Final = 256 * 1024
CA_VARIABLES: Final = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Where a bundle of certificates may be named; the first one set wins."""
CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep theirs (Go's crypto/x509/root_linux.go); a wheel's libcurl was built on another one."""
NEVER_PROXIED: Final = "localhost,127.0.0.0/8,::1"
"""As Go's net/http has it, and so kops: this machine is never reached through a proxy."""
WRITES: Final = frozenset({"PUT", "POST", "DELETE"})


@dataclass(frozen=True, slots=True)
class Options:
    """What all requests to a store have in common."""

    fixed: dict[int, Any]
    """libcurl's options by number."""
    proxies: tuple[str, str]
    """For http and for https; empty: none."""
    named_by: str = ""
    """What named the store's address, for people who have to correct it: `S3_ENDPOINT`; empty: nothing did."""

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str],
        *,
        ca_file: str = "",
        user_agent: str = "kopsfs",
        verify: bool = True,
        named_by: str = "",
    ) -> Options:
        """Read certificates and proxies from the environment. Raises ConfigError for a bundle that cannot be read."""
        fixed: dict[int, Any] = {
            pycurl.NOSIGNAL: 1,
            pycurl.PATH_AS_IS: 1,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.CONNECTTIMEOUT_MS: CONNECT_TIMEOUT_MS,
            pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: SILENCE_S,
            pycurl.TCP_KEEPALIVE: 1,
            pycurl.BUFFERSIZE: READ_SIZE,
            pycurl.USERAGENT: user_agent,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        }
        if not verify:
            fixed[pycurl.SSL_VERIFYPEER] = fixed[pycurl.SSL_VERIFYHOST] = 0
        if bundle := _ca_file(environ, ca_file):
            fixed[pycurl.CAINFO] = bundle
        if directory := environ.get("SSL_CERT_DIR"):
            fixed[pycurl.CAPATH] = directory
        exempt = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
        fixed[pycurl.NOPROXY] = "*" if exempt.strip() == "*" else f"{NEVER_PROXIED},{exempt}".rstrip(",")
        http = environ.get("HTTP_PROXY") or environ.get("http_proxy") or ""
        https = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
        return cls(fixed, (http, https), named_by)

    def direct(self) -> Options:
        """The same without a proxy: for metadata services, which are on this machine's own link."""
        return Options({**self.fixed, pycurl.NOPROXY: "*"}, ("", ""))


def _ca_file(environ: Mapping[str, str], ca_file: str) -> str:
    for origin, path in (("--ca-file", ca_file), *((name, environ.get(name, "")) for name in CA_VARIABLES)):
        if path:
            if not Path(path).is_file() or not os.access(path, os.R_OK):
                raise ConfigError(f"{origin}: cannot read certificates from {path!r}")
            return path
    return next((path for path in CA_FILES if os.access(path, os.R_OK)), "")


class Job:
    """One submitted request and where its answer goes."""

    __slots__ = (
        "cancelled",
        "done",
        "head",
        "into",
        "lane",
        "progress",
        "progress_posted",
        "received",
        "repeated",
        "request",
        "slot",
        "started",
        "ticket",
    )

    def __init__(
        self,
        ticket: int,
        request: Request,
        done: Done,
        into: BinaryIO | None,
        progress: Callable[[int], None] | None,
        started: Callable[[Answer], None] | None,
        lane: Lane = Lane.QUESTION,
    ) -> None:
        self.ticket = ticket
        self.request = request
        self.done = done
        self.into = into
        self.progress = progress
        self.started = started
        self.lane = lane
        self.slot: Slot | None = None
        self.head: Answer | None = None
        """Status and headers of an answer that goes into a file, known before its end."""
        self.received = 0
        self.progress_posted = False
        self.repeated = False
        self.cancelled = False


class Slot:
    """A libcurl handle that is set up once per kind of request and used again and again."""

    __slots__ = ("chunks", "easy", "failure", "https", "job", "kind", "lines", "named_by", "post", "proxies", "starts")

    def __init__(self, kind: str, options: Options, post: Callable[[Job], None]) -> None:
        self.kind = kind
        self.post = post
        self.job: Job | None = None
        self.lines: list[bytes] = []
        self.chunks: list[bytes] = []
        self.starts = 0
        self.failure: OSError | ValueError | None = None
        easy = self.easy = pycurl.Curl()
        easy.slot = self
        for option, value in options.fixed.items():
            easy.setopt(option, value)
        self.proxies = options.proxies
        self.named_by = options.named_by
        self.https: bool | None = None
        easy.setopt(pycurl.HEADERFUNCTION, self.lines.append)
        easy.setopt(pycurl.WRITEFUNCTION, self.write if kind == "GET into" else self.chunks.append)
        match kind:
            case "HEAD":
                easy.setopt(pycurl.NOBODY, 1)
            case "PUT" | "POST":
                easy.setopt(pycurl.UPLOAD, 1)
                easy.setopt(pycurl.UPLOAD_BUFFERSIZE, WRITE_SIZE)
                easy.setopt(pycurl.CUSTOMREQUEST, kind)
            case "DELETE":
                easy.setopt(pycurl.CUSTOMREQUEST, kind)
            case _:
                easy.setopt(pycurl.HTTPGET, 1)
        if kind in WRITES:
            easy.setopt(pycurl.PREREQFUNCTION, self.before_sending)

    def load(self, job: Job) -> None:
        """Take a job on; a failed seek or a URL libcurl refuses raises."""
        request, easy = job.request, self.easy
        self.job, job.slot = job, self
        self.starts, self.failure = 0, None
        self.lines.clear()
        self.chunks.clear()
        easy.setopt(pycurl.URL, request.url)
        https = request.url.startswith("https:")
        if https is not self.https:
            self.https = https
            # Never unset: libcurl would look into the process's environment then.
            easy.setopt(pycurl.PROXY, self.proxies[https])
        if request.body is None and self.kind in {"GET", "GET into", "HEAD", "DELETE"}:
            easy.setopt(pycurl.HTTPHEADER, request.headers)
        else:
            easy.setopt(pycurl.HTTPHEADER, [*request.headers, "Expect:"])
            body = request.body
            read = io.BytesIO(body or b"").read if body is None or isinstance(body, bytes) else body.read
            # Without a seek function libcurl cannot send the body twice behind our back.
            easy.setopt(pycurl.READFUNCTION, self.reader(read) if isinstance(body, io.IOBase) else read)
            easy.setopt(pycurl.INFILESIZE_LARGE, request.body_size)
            easy.setopt(pycurl.LOW_SPEED_TIME, SILENCE_S + request.body_size // STORED_BYTES_S)
        if job.into is not None:
            job.into.seek(0)
            job.into.truncate()

    def unload(self) -> None:
        """Forget the job, so that neither its buffers nor its callbacks live on."""
        if self.job is not None:
            self.job.slot = None
            self.job = None
        self.lines.clear()
        self.chunks.clear()
        self.failure = None

    def before_sending(self, *_addresses: object) -> int:
        """Stop libcurl from repeating a write on another connection: the first one may have acted."""
        self.starts += 1
        return int(pycurl.PREREQFUNC_OK if self.starts == 1 else pycurl.PREREQFUNC_ABORT)

    def reader(self, read: Callable[[int], bytes]) -> Callable[[int], bytes | int]:
        """Wrap a file's `read`, whose failure must not be printed by pycurl."""

        def safely(size: int) -> bytes | int:
            try:
                return read(size)
            except (OSError, ValueError) as exc:
                self.failure = exc
                return int(pycurl.READFUNC_ABORT)

        return safely

    def write(self, data: bytes) -> int | None:
        """Take a piece of a large body: to the file if the status is a success, else it is an error text."""
        job = self.job
        if job is None or job.into is None or self.status() >= 300:
            self.chunks.append(data)
            return None
        try:
            job.into.write(data)
        except (OSError, ValueError) as exc:
            self.failure = exc
            return 0
        job.received += len(data)
        if job.head is None:
            job.head = self.answer()
        if (job.progress or job.started) and not job.progress_posted:
            job.progress_posted = True
            self.post(job)
        return None

    def status(self) -> int:
        """Of the answer being read; 0 before its first line. libcurl refuses to be asked inside a callback."""
        for line in reversed(self.lines):
            if line.startswith(b"HTTP/"):
                return _status(line.decode("latin-1"))
        return 0

    def answer(self) -> Answer:
        """What has arrived, headers lower-case, those of interim answers left out."""
        chunks = self.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        headers: dict[str, str] = {}
        status = 0
        for line in b"".join(self.lines).decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if line.startswith("HTTP/"):
                status = _status(line)
                headers.clear()
            elif colon:
                headers[name.lower()] = value.strip()
        return Answer(status, headers, body)


def _status(line: str) -> int:
    """Read a status line; its reason may hold anything."""
    word = line.split(" ", 2)[1:2]
    return int(word[0]) if word and word[0].isdigit() else 0


def fetch(request: Request, options: Options, *, timeout_s: float = 10.0) -> Answer:
    """Send one request and wait for it: for what is rare and runs in a thread. Raises TransientError."""
    slot = Slot(request.method, options, lambda _job: None)
    job = Job(0, request, lambda _result: None, None, None, None)
    try:
        slot.easy.setopt(pycurl.TIMEOUT_MS, int(timeout_s * 1000))
        slot.easy.setopt(pycurl.CONNECTTIMEOUT_MS, int(min(timeout_s * 1000, CONNECT_TIMEOUT_MS)))
        slot.load(job)
        slot.easy.perform()
        return slot.answer()
    except pycurl.error as exc:
        code, text = exc.args
        raise error_of(slot, code, text) from exc
    finally:
        slot.unload()
        slot.easy.close()


def error_of(slot: Slot, code: int, text: str) -> StoreError:
    """Say what libcurl's error means for the request that the slot holds."""
    op = "" if slot.job is None else slot.job.request.method.lower()
    if slot.failure is not None:
        return StoreError(op, detail=f"local file: {slot.failure}")
    if slot.starts > 1 or code == pycurl.E_SEND_FAIL_REWIND:
        return TransientError(op, detail="the server closed the connection before it answered; this may have acted")
    if code == pycurl.E_PARTIAL_FILE:
        return TransientError(op, detail="the answer was cut off")
    text = text or f"libcurl error {code}"
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        text += "; set SSL_CERT_FILE or --ca-file to its authority's certificates"
    if slot.named_by and slot.job is not None:
        text += f"; {slot.named_by} leads to {'/'.join(slot.job.request.url.split('/', 3)[:3])}"
    return TransientError(op, detail=text)
