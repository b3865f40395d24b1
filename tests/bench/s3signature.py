"""Is this request signed with our secret, and what is its body once unwrapped?

AWS Signature Version 4 in the Authorization header, computed here a second time from what arrived
on the wire (Source: AWS "Authenticating Requests: Using the Authorization Header"), and the
`aws-chunked` bodies SDKs send. Chunk signatures are not checked, only the seed's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote_to_bytes


class SignatureError(Exception):
    """The request is not signed as it must be; the argument is S3's error code."""


def decoded_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """Split a raw query; `+` is a plus here, as in canonical requests."""
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs


def _keys(secret: str, scope: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def verify(
    method: str,
    raw_path: bytes,
    query: bytes,
    headers: Mapping[bytes, bytes],
    body: bytes,
    secrets: Mapping[str, str],
) -> None:
    """Compare the signature that came with one of our own.

    Raises:
        SignatureError: AccessDenied, InvalidAccessKeyId, SignatureDoesNotMatch or XAmzContentSHA256Mismatch.
    """
    given = headers.get(b"authorization", b"").decode("latin-1")
    if not given.startswith("AWS4-HMAC-SHA256 "):
        raise SignatureError("AccessDenied")
    fields = dict(part.strip().partition("=")[::2] for part in given[len("AWS4-HMAC-SHA256 ") :].split(","))
    try:
        access_key, scope = fields["Credential"].split("/", 1)
        signed, signature = fields["SignedHeaders"].split(";"), fields["Signature"]
    except (KeyError, ValueError):
        raise SignatureError("AuthorizationHeaderMalformed") from None
    if access_key not in secrets:
        raise SignatureError("InvalidAccessKeyId")
    if "host" not in signed:
        raise SignatureError("AccessDenied")
    declared = headers.get(b"x-amz-content-sha256", b"").decode()
    hexadecimal = len(declared) == 64
    if hexadecimal and not hmac.compare_digest(hashlib.sha256(body).hexdigest(), declared):
        raise SignatureError("XAmzContentSHA256Mismatch")
    canonical = canonical_request(method, raw_path, query, headers, signed, declared)
    text = "\n".join(
        ("AWS4-HMAC-SHA256", headers.get(b"x-amz-date", b"").decode(), scope, hashlib.sha256(canonical).hexdigest())
    )
    expected = hmac.digest(_keys(secrets[access_key], scope), text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, signature):
        raise SignatureError("SignatureDoesNotMatch")


def canonical_request(
    method: str, raw_path: bytes, query: bytes, headers: Mapping[bytes, bytes], signed: Sequence[str], payload: str
) -> bytes:
    """Write the request as both sides must see it: decoded, then encoded in the one canonical way."""
    pairs = sorted((quote(n, safe="-_.~"), quote(v, safe="-_.~")) for n, v in decoded_query(query))
    lines = [
        method,
        quote(unquote_to_bytes(raw_path), safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in pairs),
        *(
            f"{name}:{' '.join(headers.get(name.encode(), b'').decode('utf-8', 'surrogateescape').split())}"
            for name in signed
        ),
        "",
        ";".join(signed),
        payload,
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def unwrap_aws_chunked(body: bytes) -> bytes:
    """Take `SIZE[;chunk-signature=…]CRLF data CRLF … 0…CRLF trailers` apart.

    Raises:
        ValueError: not well formed.
    """
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        start = end + 2
        if len(body) < start + size + 2:
            raise ValueError("chunk is cut off")
        parts.append(body[start : start + size])
        at = start + size + 2
