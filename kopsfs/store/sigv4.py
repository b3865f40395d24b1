"""How does a request prove who sent it, the way AWS wants it?

AWS Signature Version 4 as S3 uses it: the path is encoded once and never normalised, the hash of the
body travels in `x-amz-content-sha256`. One SHA-256 and one HMAC per request; what lasts longer (the
key of the day, the scope, the date of the second) is kept. Source: AWS "Signature Version 4 signing
process"; `tests/store/test_sigv4.py` compares every byte with botocore's `S3SigV4Auth`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""In place of the hash of a body that is too large to be read twice."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair, perhaps with a session token."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)


class _Moment(NamedTuple):
    """What is the same for all requests of one second; replaced as a whole, since threads may share a signer."""

    second: int
    amz_date: str
    scope: str
    key: bytes


class Signer:
    """Signs for one key pair in one region. Pure but for the clock; any thread may call it."""

    __slots__ = ("_clock", "_moment", "_service", "credentials", "region")

    def __init__(
        self, credentials: Credentials, region: str, service: str = "s3", clock: Callable[[], float] = time.time
    ) -> None:
        self.credentials = credentials
        self.region = region
        self._service = service
        self._clock = clock
        self._moment = _Moment(-1, "", "", b"")

    def sign(
        self,
        method: str,
        host: str,
        path: str,
        query: str = "",
        payload_sha256: str = EMPTY_SHA256,
        headers: Iterable[tuple[str, str]] = (),
    ) -> list[str]:
        """Give the header lines that make this request valid, `headers` included.

        Args:
            method: the verb.
            host: as it goes into `Host:`, without a default port.
            path: percent-encoded, exactly as it is sent.
            query: without `?`, percent-encoded, sorted by name, every name with `=`.
            payload_sha256: of the body in hex, or UNSIGNED.
            headers: further headers to send and to sign: lower-case names, values without outer or double blanks.
        """
        second = int(self._clock())
        moment = self._moment
        if moment.second != second:
            moment = self._moment = self._new_moment(second)
        _, amz_date, scope, key = moment
        access_key, token = self.credentials.access_key, self.credentials.token
        signed = [("host", host), ("x-amz-content-sha256", payload_sha256), ("x-amz-date", amz_date), *headers]
        if token:
            signed.append(("x-amz-security-token", token))
        signed.sort()
        names = ";".join([name for name, _ in signed])
        lines = [f"{name}:{value}" for name, value in signed]
        canonical = f"{method}\n{path}\n{query}\n" + "\n".join(lines) + f"\n\n{names}\n{payload_sha256}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        lines = [f"{name}: {value}" for name, value in signed if name != "host"]
        lines.append(
            f"Authorization: AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return lines

    def _new_moment(self, second: int) -> _Moment:
        amz_date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        scope = f"{amz_date[:8]}/{self.region}/{self._service}/aws4_request"
        if scope == self._moment.scope:
            return _Moment(second, amz_date, scope, self._moment.key)
        key = b"AWS4" + self.credentials.secret_key.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return _Moment(second, amz_date, scope, key)
