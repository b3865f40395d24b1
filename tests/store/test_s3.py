"""Does the S3 driver address, sign, ask and understand as S3 and its relatives want it, and as kops does?

Method: requests and answers are values, so most tests need no network: a table of what goes in and what
must come out. What only a server can prove (rights, encryption, a missing bucket) runs against Ceph and moto;
where credentials come from is tested with files, a helper program and a metadata service of the test's own.
The contract itself is `test_contract.py`'s.
"""

from __future__ import annotations

import calendar
import hashlib
import io
import time
from pathlib import Path
from typing import Any

import pytest

from kopsfs import errors
from kopsfs.errors import ConfigError, DeniedError, InvalidKeyError, RefusedError, StoreError, TransientError
from kopsfs.store.driver import ABSENT, ANY, Answer, Key, Prefix, Version
from kopsfs.store.rest import HASHED_MAX, http_date_ns
from kopsfs.store.s3 import S3Driver
from kopsfs.store.s3_site import aws_site, custom_site
from tests.store.harness import StoreFace
from tests.support.s3 import AWS, CUSTOM, KEY, driver_of, error_answer, headers_of
from tests.support.wire import Wire

# -- where a bucket is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "origin", "base"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", "/state/"),
        ("https://minio.example.com/", "https://minio.example.com", "/state/"),
        ("nyc3.digitaloceanspaces.com", "https://nyc3.digitaloceanspaces.com", "/state/"),
        ("https://h.example.com:443", "https://h.example.com", "/state/"),
        ("http://h.example.com:80", "http://h.example.com", "/state/"),
        ("https://H.Example.com/sub/path/", "https://h.example.com", "/sub/path/state/"),
        ("http://[::1]:9000", "http://[::1]:9000", "/state/"),
    ],
)
def test_a_custom_endpoint_is_addressed_by_path(endpoint: str, origin: str, base: str) -> None:
    site = custom_site(endpoint, "state", "r")
    assert (site.origin, site.base, site.host) == (origin, base, origin.split("://")[1])


@pytest.mark.parametrize("endpoint", ["ftp://h", "http://", "http://h:port", "https://h/?x=1", "://"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="S3_ENDPOINT="):
        custom_site(endpoint, "state", "r")


@pytest.mark.parametrize(
    ("bucket", "region", "url"),
    [
        ("state", "eu-west-1", "https://state.s3.dualstack.eu-west-1.amazonaws.com/"),
        ("clusters.example.com", "eu-west-1", "https://s3.dualstack.eu-west-1.amazonaws.com/clusters.example.com/"),
        ("Old_Bucket", "us-east-1", "https://s3.dualstack.us-east-1.amazonaws.com/Old_Bucket/"),
        ("OldBucket", "us-east-1", "https://s3.dualstack.us-east-1.amazonaws.com/OldBucket/"),
        ("state", "cn-north-1", "https://state.s3.dualstack.cn-north-1.amazonaws.com.cn/"),
        ("state", "us-gov-west-1", "https://state.s3.dualstack.us-gov-west-1.amazonaws.com/"),
        ("state", "us-iso-east-1", "https://state.s3.us-iso-east-1.c2s.ic.gov/"),
    ],
)
def test_a_bucket_of_aws_is_addressed_as_kops_does(bucket: str, region: str, url: str) -> None:
    site = aws_site(bucket, region)
    assert site.origin + site.base == url
    driver = driver_of({**AWS, "AWS_REGION": region}, bucket=bucket)
    assert driver.prepare_get(KEY).url == url + KEY
    assert driver.capabilities.create_only == "atomic"


def test_fips_and_an_endpoint_of_the_sdk_are_honoured() -> None:
    driver = driver_of({**AWS, "AWS_USE_FIPS_ENDPOINT": "true"})
    assert driver.prepare_get(KEY).url.startswith("https://state.s3-fips.dualstack.us-east-1.amazonaws.com/")
    driver = driver_of({**AWS, "AWS_ENDPOINT_URL": "http://localhost:4566"})
    assert driver.prepare_get(KEY).url == f"http://localhost:4566/state/{KEY}"
    assert driver.capabilities.create_only == "unproven"


@pytest.mark.parametrize(
    ("scheme", "endpoint", "given", "region"),
    [
        ("s3", "http://127.0.0.1:9000", "", "us-east-1"),
        ("s3", "http://127.0.0.1:9000", "moon-1", "moon-1"),
        ("do", "nyc3.digitaloceanspaces.com", "", "nyc3"),
        ("do", "nyc3.digitaloceanspaces.com", "ams3", "ams3"),
        ("do", "http://127.0.0.1:9000", "", "us-east-1"),
        ("scw", "https://s3.fr-par.scw.cloud", "", "fr-par"),
        ("hos", "https://fsn1.your-objectstorage.com", "", "fsn1"),
        ("linode", "https://us-ord-1.linodeobjects.com", "", "us-ord-1"),
    ],
)
def test_the_region_of_a_relative(scheme: str, endpoint: str, given: str, region: str) -> None:
    environ = {**CUSTOM, "S3_ENDPOINT": endpoint, **({"S3_REGION": given} if given else {})}
    driver = driver_of(environ, scheme)
    assert f"/{region}/s3/aws4_request" in headers_of(driver.prepare_get(KEY))["authorization"]


def test_a_key_that_no_object_can_have_is_refused() -> None:
    driver = driver_of(CUSTOM)
    for key in ("", "\ud800", "x" * 1025, "\u00e9" * 513):
        with pytest.raises(InvalidKeyError):
            driver.prepare_get(Key(key))
    driver.prepare_get(Key("\u00e9" * 512))


# -- what is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "form", "headers"),
    [
        (ANY, "quoted", {}),
        (ABSENT, "quoted", {"if-none-match": "*"}),
        (Version("abc"), "quoted", {"if-match": '"abc"'}),
        (Version("abc"), "unquoted", {"if-match": "abc"}),
    ],
)
def test_a_condition_goes_out_in_its_form_and_signed(expected: Any, form: Any, headers: dict[str, str]) -> None:
    driver = driver_of(CUSTOM)
    for request in (
        driver.prepare_put(KEY, b"x", 1, expected=expected, form=form),
        driver.prepare_delete(KEY, expected=expected, form=form),
    ):
        found = headers_of(request)
        assert {name: found[name] for name in found if name.startswith("if-")} == headers
        assert all(name in found["authorization"] for name in headers)


@pytest.mark.parametrize(
    ("scheme", "sse", "headers"),
    [
        ("s3", "none", []),
        ("s3", "AES256", ["AES256"]),
        ("s3", "aws:kms", ["aws:kms"]),
        ("s3", "aws:kms:arn:aws:kms:eu-west-1:1:key/2", ["aws:kms", "arn:aws:kms:eu-west-1:1:key/2"]),
        ("do", "auto", []),
        ("scw", "auto", []),
        ("hos", "auto", []),
        ("linode", "auto", []),
    ],
)
def test_encryption_headers(scheme: str, sse: str, headers: list[str]) -> None:
    request = driver_of(CUSTOM, scheme, sse=sse).prepare_put(KEY, b"x", 1, expected=ANY)
    assert [value for name, value in headers_of(request).items() if "encryption" in name] == headers


def test_a_put_before_the_bucket_was_asked_is_not_sent() -> None:
    with pytest.raises(TransientError):
        driver_of(CUSTOM, sse="auto").prepare_put(KEY, b"x", 1, expected=ANY)


@pytest.mark.parametrize("sse", ["", "aes256", "aws:kms:", "AES256 "])
def test_an_encryption_nobody_knows_is_refused(sse: str) -> None:
    with pytest.raises(ConfigError, match="--sse"):
        driver_of(CUSTOM, sse=sse)


@pytest.mark.parametrize(
    ("environ", "setting", "acl"),
    [
        ({}, "", None),
        ({"KOPS_STATE_S3_ACL": "  "}, "", None),
        ({"KOPS_STATE_S3_ACL": " bucket-owner-full-control\n"}, "", "bucket-owner-full-control"),
        ({"KOPS_STATE_S3_ACL": "private"}, "public-read", "public-read"),
    ],
)
def test_the_acl_of_writes(environ: dict[str, str], setting: str, acl: str | None) -> None:
    driver = driver_of({**CUSTOM, **environ}, acl=setting)
    assert headers_of(driver.prepare_put(KEY, b"x", 1, expected=ANY)).get("x-amz-acl") == acl
    assert "x-amz-acl" not in headers_of(driver.prepare_get(KEY))


def test_a_small_body_is_hashed_and_a_large_one_is_not_read() -> None:
    driver = driver_of(CUSTOM)
    body = io.BytesIO(b"..data")
    body.seek(2)
    request = driver.prepare_put(KEY, body, 4, expected=ANY)
    assert headers_of(request)["x-amz-content-sha256"] == hashlib.sha256(b"data").hexdigest()
    assert body.tell() == 2
    request = driver.prepare_put(KEY, body, HASHED_MAX + 1, expected=ANY)
    assert headers_of(request)["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_metadata_is_kept_when_asked_for() -> None:
    answer = Answer(200, {"etag": '"e"', "content-type": "text/yaml", "x-amz-meta-a": "1", "server": "s"}, b"")
    for keep, kept in ((False, set()), (True, {"content-type", "x-amz-meta-a"})):
        driver = driver_of(CUSTOM, keep_metadata=keep)
        driver.parse_head(KEY, answer)
        headers = headers_of(driver.prepare_put(KEY, b"x", 1, expected=ANY))
        assert {"content-type", "x-amz-meta-a", "server"} & headers.keys() == kept


# -- what comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", errors.NotFoundError),
        (404, "", errors.NotFoundError),
        (404, "NoSuchBucket", errors.StoreGoneError),
        (403, "AccessDenied", errors.DeniedError),
        (403, "InvalidAccessKeyId", errors.DeniedError),
        (403, "SignatureDoesNotMatch", errors.DeniedError),
        (403, "", errors.DeniedError),
        (412, "PreconditionFailed", errors.ConflictError),
        (412, "", errors.ConflictError),
        (409, "ConditionalRequestConflict", errors.TransientError),
        (409, "OperationAborted", errors.TransientError),
        (501, "NotImplemented", errors.UnsupportedError),
        (400, "NotImplemented", errors.UnsupportedError),
        (501, "", errors.UnsupportedError),
        (503, "SlowDown", errors.TransientError),
        (500, "InternalError", errors.TransientError),
        (502, "", errors.TransientError),
        (429, "TooManyRequests", errors.TransientError),
        (400, "RequestTimeout", errors.TransientError),
        (400, "KeyTooLongError", errors.InvalidKeyError),
        (400, "EntityTooLarge", errors.TooLargeError),
        (403, "QuotaExceeded", errors.QuotaError),
        (400, "ExpiredToken", errors.RefusedError),
        (302, "", errors.TransientError),
        (204, "", errors.TransientError),
        (400, "InvalidArgument", errors.StoreError),
    ],
)
def test_an_error_answer_becomes_one_of_our_errors(status: int, code: str, kind: type[StoreError]) -> None:
    driver = driver_of(CUSTOM)
    with pytest.raises(StoreError) as caught:
        driver.parse_put(KEY, 1, error_answer(status, code))
    assert type(caught.value) is kind
    assert (caught.value.op, caught.value.key) == ("put", KEY)
    assert str(status) in caught.value.detail
    with pytest.raises(StoreError) as caught:
        driver.parse_list(Prefix("c/"), error_answer(status, code))
    assert type(caught.value) is kind


def test_a_refused_condition_is_named_by_its_argument() -> None:
    extra = "<ArgumentName>If-Match</ArgumentName>"
    with pytest.raises(errors.UnsupportedError):
        driver_of(CUSTOM).parse_put(KEY, 1, error_answer(400, "InvalidArgument", extra))


def test_retry_after_is_handed_on() -> None:
    with pytest.raises(TransientError) as caught:
        driver_of(CUSTOM).parse_get(KEY, error_answer(503, "SlowDown", retry_after="7"))
    assert caught.value.retry_after_s == 7.0


def test_a_success_without_an_etag_is_no_answer_of_s3() -> None:
    with pytest.raises(TransientError):
        driver_of(CUSTOM).parse_get(KEY, Answer(200, {"content-type": "text/html"}, b"<html>log in</html>"))


@pytest.mark.parametrize(
    ("headers", "trusted"),
    [
        ({}, True),
        ({"x-amz-server-side-encryption": "AES256"}, True),
        ({"x-amz-server-side-encryption": "aws:kms"}, False),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, False),
        ({"etag": '"900150983cd24fb0d6963f7d28e17f72-3"'}, False),
        ({"etag": '"opaque"'}, False),
    ],
)
def test_an_etag_is_an_md5_only_where_it_must_be(headers: dict[str, str], trusted: bool) -> None:
    answer = Answer(200, {"etag": '"900150983cd24fb0d6963f7d28e17f72"', **headers}, b"abc")
    info = driver_of(CUSTOM).parse_get(KEY, answer)
    assert info.md5 == (info.version if trusted else None)
    assert info.version == answer.headers["etag"].strip('"')


def test_what_an_answer_says_of_an_object() -> None:
    headers = {"etag": '"e"', "last-modified": "Sat, 21 Nov 2026 04:44:44 GMT", "content-length": "4096"}
    info = driver_of(CUSTOM).parse_head(KEY, Answer(200, headers, b""))
    assert (info.version, info.size, info.mtime_ns) == ("e", 4096, 1_795_236_284_000_000_000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sat, 21 Nov 2026 04:44:44 GMT", 1_795_236_284),
        ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
        ("Sat, 21 Nov 2026 05:44:44 +0100", 1_795_236_284),
        ("Sat,  1 Nov 2026 04:44:44 GMT", 1_793_508_284),
        ("yesterday", 0),
        ("", 0),
    ],
)
def test_a_date_of_http(text: str, seconds: int) -> None:
    assert http_date_ns(text) == seconds * 1_000_000_000


def test_versioning_is_seen_in_answers_to_puts() -> None:
    driver = driver_of(CUSTOM)
    assert driver.versioned(Answer(200, {"etag": '"e"'}, b"")) is False
    assert driver.versioned(Answer(200, {"etag": '"e"', "x-amz-version-id": "v"}, b"")) is True
    assert driver.describe()["versioned"] is True


LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Contents><LastModified>2026-11-21T04:44:44.123Z</LastModified><Size>3</Size><ETag>&quot;e1&quot;</ETag>
<Owner><ID>i</ID><DisplayName>d</DisplayName></Owner><Key>b%2Bc+d%01%E2%82%AC</Key></Contents>
<Contents><Key>a%2F%2Fb</Key><ETag>"e2"</ETag><Size>0</Size><LastModified>2026-11-21T04:44:45Z</LastModified></Contents>
<CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes><CommonPrefixes><Prefix>%2F</Prefix></CommonPrefixes>
<Prefix>top%2F</Prefix><Name>state</Name><IsTruncated>{truncated}</IsTruncated>{more}<EncodingType>url</EncodingType>
</ListBucketResult>"""


def listing(driver: S3Driver, text: str) -> Any:
    return driver.parse_list(Prefix(""), Answer(200, {}, text.encode()))


def test_a_listing_in_any_order_of_elements() -> None:
    more = "<NextContinuationToken>to/k+en==</NextContinuationToken>"
    page = listing(driver_of(CUSTOM), LISTING.format(truncated="true", more=more))
    assert [(info.key, info.version, info.size, info.md5) for info in page.objects] == [
        ("a//b", "e2", 0, None),
        ("b+c d\x01\u20ac", "e1", 3, None),
    ]
    assert [info.mtime_ns for info in page.objects] == [1_795_236_285_000_000_000, 1_795_236_284_000_000_000]
    assert page.prefixes == ["/", "p/"]
    assert page.token == "to/k+en=="


def test_a_listing_that_is_not_encoded_is_taken_as_it_is() -> None:
    text = LISTING.format(truncated="false", more="").replace("<EncodingType>url</EncodingType>", "")
    page = listing(driver_of(CUSTOM), text)
    assert [info.key for info in page.objects] == ["a%2F%2Fb", "b%2Bc+d%01%E2%82%AC"]
    assert page.token is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html><body>log in</body></html>",
        "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        LISTING.format(truncated="false", more="")[:-30],
        LISTING.format(truncated="true", more=""),
        LISTING.format(truncated="false", more="").replace("%01", "%FF"),
        "<Error><Code>SlowDown</Code></Error>",
    ],
    ids=["empty", "html", "no etag", "cut", "no token", "not utf-8", "error with 200"],
)
def test_what_is_not_a_whole_listing_is_an_error_and_never_short(text: str) -> None:
    with pytest.raises(TransientError):
        listing(driver_of(CUSTOM), text)


def test_a_listing_is_asked_for_with_a_sorted_query() -> None:
    driver = driver_of(CUSTOM, page_size=7)
    for options in (
        {"delimiter": True, "token": "to/k+en==", "start_after": "ignored"},
        {"delimiter": False, "token": None, "start_after": "c/a b"},
        {"delimiter": True, "token": None, "start_after": None},
    ):
        query = driver.prepare_list(Prefix("c/+ &/"), **options).url.partition("?")[2].split("&")
        assert query == sorted(query)
        assert {"encoding-type=url", "list-type=2", "max-keys=7", "prefix=c%2F%2B%20%26%2F"} <= set(query)
        assert ("delimiter=%2F" in query) is options["delimiter"]
        starts = [part for part in query if part.startswith("start-after=")]
        assert starts == (["start-after=c%2Fa%20b"] if options["token"] is None and options["start_after"] else [])
        assert ("continuation-token=to%2Fk%2Ben%3D%3D" in query) is (options["token"] is not None)


# -- what an answer teaches --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        error_answer(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
        error_answer(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
        error_answer(307, "TemporaryRedirect", x_amz_bucket_region="eu-west-1"),
        error_answer(400, "", x_amz_bucket_region="eu-west-1"),
        error_answer(403, "", x_amz_bucket_region="eu-west-1"),
    ],
    ids=["301", "400", "307", "head 400", "head 403"],
)
def test_the_region_is_learnt_and_the_repeat_goes_there(answer: Answer) -> None:
    driver = driver_of(AWS)
    with pytest.raises(TransientError, match="eu-west-1"):
        driver.parse_head(KEY, answer)
    request = driver.prepare_head(KEY)
    assert request.url == f"https://state.s3.dualstack.eu-west-1.amazonaws.com/{KEY}"
    assert "/eu-west-1/s3/" in headers_of(request)["authorization"]
    assert driver.describe()["region"] == "eu-west-1"
    if answer.status == 403:
        with pytest.raises(DeniedError):
            driver.parse_head(KEY, answer)


def test_a_custom_endpoint_keeps_its_address_when_the_region_is_learnt() -> None:
    driver = driver_of(CUSTOM)
    with pytest.raises(TransientError):
        driver.parse_get(KEY, error_answer(400, "AuthorizationHeaderMalformed", "<Region>moon-1</Region>"))
    request = driver.prepare_get(KEY)
    assert request.url.startswith("http://127.0.0.1:9000/state/")
    assert "/moon-1/s3/" in headers_of(request)["authorization"]


def test_a_clock_that_is_wrong_is_corrected() -> None:
    driver = driver_of(CUSTOM)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 7200))
    with pytest.raises(TransientError, match="clock"):
        driver.parse_get(KEY, error_answer(403, "RequestTimeTooSkewed", date=date))
    signed = time.strptime(headers_of(driver.prepare_get(KEY))["x-amz-date"], "%Y%m%dT%H%M%SZ")
    assert abs(calendar.timegm(signed) - time.time() - 7200) < 120


def test_ended_credentials_are_read_again(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    environ = {"AWS_SHARED_CREDENTIALS_FILE": str(credentials), "HOME": str(tmp_path), "AWS_REGION": "us-east-1"}
    credentials.write_text("[default]\naws_access_key_id=OLD\naws_secret_access_key=s\naws_session_token=t1\n")
    driver = driver_of(environ)
    driver.warm_up()
    assert not driver.refresh_due()
    credentials.write_text("[default]\naws_access_key_id=NEW\naws_secret_access_key=s\naws_session_token=t2\n")
    driver.refresh_credentials()
    assert headers_of(driver.prepare_get(KEY))["x-amz-security-token"] == "t1"
    signed = driver.signing
    with pytest.raises(RefusedError):
        driver.parse_get(KEY, error_answer(400, "ExpiredToken"))
    driver.refresh_credentials(force=True)
    assert driver.signing is not signed
    headers = headers_of(driver.prepare_get(KEY))
    assert headers["x-amz-security-token"] == "t2"
    assert "Credential=NEW/" in headers["authorization"]
    assert not driver.refresh_due()


# -- bytes and digests -------------------------------------------------------------------------------

LIKE_MD5 = "b" * 32


def got(data: bytes, etag: str, **headers: str) -> Answer:
    return Answer(
        200, {"etag": f'"{etag}"', **{name.replace("_", "-"): value for name, value in headers.items()}}, data
    )


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_bytes_that_are_not_those_of_the_etag_are_asked_for_again() -> None:
    driver = driver_of(CUSTOM)
    with pytest.raises(TransientError, match="not those of the ETag"):
        driver.parse_get(KEY, got(b"ha", md5(b"half")))
    with pytest.raises(TransientError):
        driver.parse_get(KEY, got(b"hal", md5(b"half")))
    assert driver.parse_get(KEY, got(b"half", md5(b"half"))).md5 == md5(b"half")


def test_a_server_whose_etags_are_no_md5s_stays_readable() -> None:
    driver = driver_of(CUSTOM)
    for key in (KEY, Key("other")):
        with pytest.raises(TransientError):
            driver.parse_get(key, got(b"x", LIKE_MD5))
    for _ in range(2):
        for key in (KEY, Key("other")):
            assert driver.parse_get(key, got(b"x", LIKE_MD5)).version == LIKE_MD5
    with pytest.raises(TransientError):
        driver.parse_get(KEY, got(b"y", LIKE_MD5))


@pytest.mark.parametrize(
    "answer",
    [
        got(b"x", LIKE_MD5, x_amz_server_side_encryption="aws:kms"),
        got(b"x", LIKE_MD5, x_amz_server_side_encryption_customer_algorithm="AES256"),
        got(b"x", f"{LIKE_MD5}-2"),
        got(b"", LIKE_MD5, content_length="4096"),  # went into a file, which has a digest of its own
    ],
    ids=["kms", "customer key", "parts", "into a file"],
)
def test_what_is_no_md5_is_not_compared(answer: Answer) -> None:
    driver_of(AWS).parse_get(KEY, answer)


@pytest.mark.parametrize("large", [False, True])
def test_half_an_object_is_read_again_by_itself(large: bool) -> None:
    whole = b"half an object, whole"
    bodies = [whole, whole[:4]]

    def reply(_connection: int, _number: int, _head: bytes) -> bytes:
        body = bodies.pop() if len(bodies) > 1 else bodies[0]
        head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nETag: "{md5(whole)}"\r\n\r\n'
        return head.encode() + body

    with Wire(reply) as server:
        face = StoreFace(driver_of({**CUSTOM, "S3_ENDPOINT": server.url}))
        try:
            file = io.BytesIO()
            info = face.get_into("k", file) if large else face.get("k")[0]
            data = file.getvalue() if large else face.get("k")[1]
        finally:
            face.close()
    assert (info.size, info.md5, data) == (len(whole), md5(whole), whole)
