"""What does each kind of store say when something is wrong, and is it one line that says what to set?

What has a file of its own stays there (credentials, tokens that end, clocks, pages of each driver); here is what is asked of
every store alike, and the relatives of S3. A message is judged by what a person has to set, never by the server's words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from kopsfs.errors import ConfigError, DeniedError, RefusedError, StoreError, StoreGoneError, TransientError
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import ANY, Answer, HttpDriver, Prefix
from kopsfs.store.store import over
from kopsfs.store.swift_credentials import Token
from kopsfs.store.url import Settings, open_driver, parse
from tests.store.harness import DriverFace
from tests.store.servers import S3Server
from tests.support.certificates import for_localhost, server_context
from tests.support.s3 import AWS, CUSTOM, KEY, driver_of, error_answer
from tests.support.wire import Wire, always

RELATIVES = ["s3", "do", "scw", "hos", "linode"]


def answered(driver: Any, op: str, answer: Answer) -> StoreError:
    """The error that this answer to a request becomes; its message is one line."""
    parse_it = {
        "list": lambda: driver.parse_list(Prefix(""), answer),
        "head": lambda: driver.parse_head(KEY, answer),
        "get": lambda: driver.parse_get(KEY, answer),
        "put": lambda: driver.parse_put(KEY, 1, answer),
        "delete": lambda: driver.parse_delete(KEY, answer),
    }
    with pytest.raises(StoreError) as caught:
        parse_it[op]()
    assert "\n" not in str(caught.value)
    return caught.value


# -- S3 and its relatives ----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", RELATIVES)
@pytest.mark.parametrize("missing", ["S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"])
def test_half_a_key_pair_is_refused_in_kopss_words(scheme: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"^{missing} cannot be empty when S3_ENDPOINT is not empty$"):
        driver_of({name: value for name, value in CUSTOM.items() if name != missing}, scheme)


@pytest.mark.parametrize(
    ("code", "kind", "custom", "aws"),
    [
        ("InvalidAccessKeyId", DeniedError, "S3_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", DeniedError, "S3_SECRET_ACCESS_KEY, and S3_REGION", "AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", RefusedError, "S3_ACCESS_KEY_ID", "AWS_SESSION_TOKEN anew, or `aws sso login`"),
        ("AuthorizationHeaderMalformed", StoreError, "S3_REGION or S3_ENDPOINT", "AWS_REGION"),
        ("PermanentRedirect", StoreError, "S3_REGION or S3_ENDPOINT", "AWS_REGION"),
        ("NoSuchBucket", StoreGoneError, "make the bucket state, or correct the URL or S3_ENDPOINT", "correct the URL"),
        ("RequestTimeTooSkewed", TransientError, "this machine's clock", "this machine's clock"),
    ],
)
@pytest.mark.parametrize("scheme", [*RELATIVES, "aws"])
def test_a_relative_says_what_to_set(scheme: str, code: str, kind: type[StoreError], custom: str, aws: str) -> None:
    driver = driver_of(AWS) if scheme == "aws" else driver_of(CUSTOM, scheme)
    status = {"AuthorizationHeaderMalformed": 400, "PermanentRedirect": 400, "NoSuchBucket": 404}.get(code, 403)
    for op in ("list", "get", "put", "delete"):
        error = answered(driver, op, error_answer(status, code))
        assert type(error) is kind
        assert (aws if scheme == "aws" else custom) in str(error)


@pytest.mark.parametrize("scheme", RELATIVES)
@pytest.mark.parametrize(
    ("op", "right"),
    [
        ("list", "s3:ListBucket"),
        ("head", "s3:GetObject"),
        ("get", "s3:GetObject"),
        ("put", "s3:PutObject"),
        ("delete", "s3:DeleteObject"),
    ],
)
def test_a_right_that_is_missing_is_named(scheme: str, op: str, right: str) -> None:
    answer = error_answer(403, "" if op == "head" else "AccessDenied")
    error = answered(driver_of(CUSTOM, scheme), op, answer)
    assert type(error) is DeniedError
    assert str(error).endswith(f"; allow {right} on state")


@pytest.mark.parametrize("scheme", RELATIVES)
def test_what_is_no_s3_server_is_said(scheme: str) -> None:
    error = answered(driver_of(CUSTOM, scheme), "list", Answer(200, {}, b"<html>It works!</html>"))
    assert "is S3_ENDPOINT an S3 server's?" in str(error)


@pytest.mark.real
def test_rights_that_ceph_does_not_give_are_named(ceph: S3Server) -> None:
    bucket = ceph.new_bucket()
    assert ceph.other is not None
    policy = {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"AWS": ["arn:aws:iam:::user/other"]},
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
    }
    ceph.call("PUT", f"/{bucket}", "policy=", json.dumps(policy).encode())
    ceph.call("PUT", f"/{bucket}/{KEY}", body=b"x")
    stranger = {"S3_ACCESS_KEY_ID": ceph.other[0], "S3_SECRET_ACCESS_KEY": ceph.other[1]}
    face = DriverFace(driver_of({**ceph.environment, **stranger}, "hos", bucket))
    assert face.get(KEY)[1] == b"x"
    with pytest.raises(DeniedError, match=f"; allow s3:ListBucket on {bucket}$"):
        face.page()
    with pytest.raises(DeniedError, match=f"; allow s3:PutObject on {bucket}$"):
        face.put(KEY, b"y", ANY)
    with pytest.raises(DeniedError, match=f"; allow s3:DeleteObject on {bucket}$"):
        face.delete(KEY, ANY)


# -- every store over HTTP ---------------------------------------------------------------------------


def driver_at(scheme: str, home: Path, origin: str) -> HttpDriver:
    """A driver whose requests go to `origin`, without a token where it would have to ask for one."""
    environ = {
        "HOME": str(home),
        **CUSTOM,
        "S3_ENDPOINT": origin,
        "STORAGE_EMULATOR_HOST": origin,
        "OSS_ENDPOINT": origin,
        "OSS_REGION": "oss-cn-hangzhou",
        "ALIYUN_ACCESS_KEY_ID": "id",
        "ALIYUN_ACCESS_KEY_SECRET": "secret",
        "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={origin}/account;AccountName=account;AccountKey=a2V5",
        "OS_AUTH_URL": f"{origin}/v3",
        "OS_USERNAME": "u",
        "OS_PASSWORD": "p",
        "OS_PROJECT_ID": "i",
        "OS_REGION_NAME": "r",
        "OS_DOMAIN_NAME": "Default",
    }
    url = "azureblob://account/container" if scheme == "azureblob" else f"{scheme}://state"
    driver = open_driver(parse(url, environ), Settings(environ=environ, sse="none"))
    assert isinstance(driver, HttpDriver)
    return driver


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("scheme", [*RELATIVES, "gs", "azureblob", "swift", "oss"])
def test_a_pace_that_is_asked_for_is_handed_on(scheme: str, status: int, tmp_path: Path) -> None:
    driver = driver_at(scheme, tmp_path, "http://127.0.0.1:9")
    for op in ("list", "get", "put", "delete"):
        error = answered(driver, op, Answer(status, {"retry-after": "7"}, b""))
        assert type(error) is TransientError
        assert error.retry_after_s == 7.0


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [
        *((scheme, "S3_ENDPOINT") for scheme in RELATIVES),
        ("gs", "STORAGE_EMULATOR_HOST"),
        ("azureblob", "AZURE_STORAGE_CONNECTION_STRING"),
        ("oss", "OSS_ENDPOINT"),
        ("swift", f"the catalogue of OS_AUTH_URL={NOBODY}/v3, region r,"),
    ],
)
def test_where_nobody_listens_names_the_endpoint_and_what_named_it(scheme: str, variable: str, tmp_path: Path) -> None:
    driver: Any = driver_at(scheme, tmp_path, NOBODY)
    if scheme == "swift":
        driver._log_in = lambda *_login, **_tls: Token("t", f"{NOBODY}/v1/a", None)
    driver.warm_up(writes=False)

    async def ask() -> str:
        store = over(driver, url=f"{scheme}://state", environ={})
        try:
            await store.attempt(lambda: store._port.get(KEY))
        except TransientError as error:
            return error.detail
        finally:
            await store.aclose()
        raise AssertionError("somebody listens")

    said = trio.run(ask)
    assert said.endswith(f"; {variable} leads to {NOBODY}")
    assert "127.0.0.1" in said.removesuffix(NOBODY)
    assert "\n" not in said


def test_who_asks_before_the_first_request_names_the_endpoint_too(tmp_path: Path) -> None:
    driver = driver_of({**CUSTOM, "S3_ENDPOINT": NOBODY, "HOME": str(tmp_path)}, sse="auto")
    with pytest.raises(TransientError, match=f"; S3_ENDPOINT leads to {NOBODY}$"):
        driver.warm_up()


@pytest.mark.parametrize(
    ("url", "environ", "named_by"),
    [
        ("s3://state", AWS, "AWS_REGION"),
        ("s3://state", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, ""),
        ("s3://state", {**AWS, "AWS_ENDPOINT_URL": NOBODY}, "AWS_ENDPOINT_URL"),
        ("s3://state", {**AWS, "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": NOBODY}, "AWS_ENDPOINT_URL_S3"),
        (
            "s3://state",
            {**AWS, "AWS_ENDPOINT_URL": NOBODY, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "AWS_REGION",
        ),
        ("gs://state", {}, ""),
        ("gs://state", {"GOOGLE_CLOUD_UNIVERSE_DOMAIN": "example.com"}, "GOOGLE_CLOUD_UNIVERSE_DOMAIN"),
        ("azureblob://account/c", {}, "the account in the URL"),
        (
            "azureblob://account/c",
            {"AZURE_ENVIRONMENT": "AzureChinaCloud"},
            "the account in the URL and AZURE_ENVIRONMENT",
        ),
        ("oss://state", {"OSS_REGION": "oss-cn-hangzhou"}, "OSS_REGION"),
    ],
)
def test_what_names_an_address_without_an_endpoint(
    url: str, environ: dict[str, str], named_by: str, tmp_path: Path
) -> None:
    environ = {"HOME": str(tmp_path), **environ}
    driver: Any = open_driver(parse(url, environ), Settings(environ=environ))
    assert driver.named_by == named_by


@pytest.mark.parametrize("scheme", [*RELATIVES, "gs", "azureblob", "oss"])
def test_a_certificate_nobody_vouches_for_says_what_to_set(scheme: str, tmp_path: Path) -> None:
    """Swift's, whose origin Keystone tells, is in `test_swift.py`."""
    certificate, _ = pair = for_localhost(tmp_path)
    with Wire(always(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), server_context(*pair)) as server:
        driver = driver_at(scheme, tmp_path, server.url)
        driver.warm_up(writes=False)
        request = driver.prepare_get(KEY)
        with pytest.raises(
            TransientError, match=r"certificate.*; set SSL_CERT_FILE or --ca-file.*; IT leads to https://"
        ):
            fetch(request, Options.read({}, named_by="IT"))
        assert fetch(request, Options.read({"SSL_CERT_FILE": str(certificate)})).status == 404


@pytest.mark.parametrize(
    ("op", "right"),
    [
        ("list", "oss:ListObjects"),
        ("head", "oss:GetObject"),
        ("get", "oss:GetObject"),
        ("put", "oss:PutObject"),
        ("delete", "oss:DeleteObject"),
    ],
)
@pytest.mark.parametrize("scheme", ["oss"])
def test_a_right_that_ram_does_not_give_is_named(scheme: str, op: str, right: str, tmp_path: Path) -> None:
    answer = error_answer(403, "" if op == "head" else "AccessDenied")
    error = answered(driver_at(scheme, tmp_path, "http://127.0.0.1:9"), op, answer)
    assert type(error) is DeniedError
    assert str(error).endswith(f": allow {right} on state")
