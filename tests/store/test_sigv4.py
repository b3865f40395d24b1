"""Is every signature the one botocore makes?

Method: each key that has ever tripped a client is signed here and by botocore's `S3SigV4Auth` at the
same frozen second, with and without a session token, query and further headers; the whole Authorization
header is compared.
"""

from __future__ import annotations

import datetime as dt
from unittest import mock
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from kopsfs.store.sigv4 import UNSIGNED, Credentials, Signer

ODD_KEYS = [
    "a//b", "//x", "a/", "/lead", ".", "..", "a/../b", "x/./y", "tab\there", "new\nline", "\x01", "\x7f",
    "sp ace", "plus+", "pct%41", "pct%2F", "q?x", "h#x", "*.swp", "back\\slash", "~", "a:b@c,d;e=f&g$h",
    "(par)!'\"", "\u00e9", "e\u0301", "\u65e5\u672c", "d/" + "x" * 1022, "a+b c%zz", "\U0001f600", "<&>", "", "|^`{}[]",
]  # fmt: skip
SECOND = 1_790_000_000
HOST = "127.0.0.1:9000"


def botocores(method: str, path: str, query: str, token: str, headers: dict[str, str], sha256: str) -> str:
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=method, url=url, headers=headers, data=b"")
    request.context["payload_signing_enabled"] = sha256 != UNSIGNED
    auth = S3SigV4Auth(BotoCredentials("AKID", "sec/ret+key", token or None), "s3", "eu-west-1")
    now = dt.datetime.fromtimestamp(SECOND, dt.UTC)
    with (
        mock.patch("botocore.auth.get_current_datetime", return_value=now),
        mock.patch.object(auth, "_should_sha256_sign_payload", return_value=sha256 != UNSIGNED),
    ):
        auth.add_auth(request)
    return str(request.headers["Authorization"])


def ours(method: str, path: str, query: str, token: str, headers: dict[str, str], sha256: str | None) -> str:
    signer = Signer(Credentials("AKID", "sec/ret+key", token), "eu-west-1", clock=lambda: SECOND)
    lines = signer.sign(
        method, HOST, path, query, **({"payload_sha256": sha256} if sha256 else {}), headers=headers.items()
    )
    return lines[-1].removeprefix("Authorization: ")


@pytest.mark.parametrize("token", ["", "tok/en+=="], ids=["pair", "session"])
@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_a_path_is_signed_as_botocore_signs_it(key: str, token: str) -> None:
    path = "/bucket/" + quote(key, safe="/")
    assert ours("GET", path, "", token, {}, None) == botocores("GET", path, "", token, {}, "")


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_a_listing_is_signed_as_botocore_signs_it(key: str) -> None:
    query = f"delimiter=%2F&encoding-type=url&list-type=2&max-keys=1000&prefix={quote(key, safe='')}"
    assert ours("GET", "/bucket", query, "", {}, None) == botocores("GET", "/bucket", query, "", {}, "")


def test_conditions_acl_and_encryption_are_signed_too() -> None:
    headers = {"if-match": '"abc"', "x-amz-acl": "bucket-owner-full-control", "x-amz-server-side-encryption": "AES256"}
    assert ours("PUT", "/b/k", "", "t", headers, UNSIGNED) == botocores("PUT", "/b/k", "", "t", headers, UNSIGNED)


def test_a_new_day_makes_a_new_key_and_a_new_second_does_not() -> None:
    now = float(SECOND)
    signer = Signer(Credentials("AKID", "secret"), "us-east-1", clock=lambda: now)
    first = signer.sign("GET", HOST, "/b")
    assert signer.sign("GET", HOST, "/b") == first
    now += 1
    second = signer.sign("GET", HOST, "/b")
    assert second != first
    now += 86_400
    fresh = Signer(signer.credentials, "us-east-1", clock=lambda: now)
    assert signer.sign("GET", HOST, "/b") == fresh.sign("GET", HOST, "/b")


def test_a_secret_is_never_printed() -> None:
    assert repr(Credentials("AKID", "hush", "hush2")) == "Credentials(access_key='AKID')"
