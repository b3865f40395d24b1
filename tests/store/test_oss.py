"""Does the OSS driver find what kops's variables mean, and does it speak OSS?

The server is `tests/emulators/oss.py`, which checks signatures of both forms as documented, independently of the
SDK that makes them; no real OSS is at hand, and `stores.md` says so. Time is a clock the tests turn.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kopsfs.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    QuotaError,
    StoreError,
    StoreGoneError,
    TransientError,
    UnsupportedError,
)
from kopsfs.store.driver import ABSENT, ANY, Answer, Key, Prefix
from kopsfs.store.oss import OssDriver
from kopsfs.store.oss_credentials import region_given
from kopsfs.store.renewal import RENEW_BEFORE_S
from kopsfs.store.url import Settings, parse
from tests.emulators.oss import Bucket, Fault, Server, Stored, crc64
from tests.store.harness import StoreFace

K = Key("c.example.com/config")
KEYS = {"ALIYUN_ACCESS_KEY_ID": "oss-key", "ALIYUN_ACCESS_KEY_SECRET": "oss-secret"}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.create_bucket("state")
        yield running


@pytest.fixture
def bucket(server: Server) -> Bucket:
    return server.buckets["state"]


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def opened() -> Iterator[Callable[..., StoreFace]]:
    faces: list[StoreFace] = []

    def open_face(environ: dict[str, str], url: str = "oss://state", **named: Any) -> StoreFace:
        face = StoreFace(OssDriver(parse(url), Settings(environ=environ), **named))
        faces.append(face)
        return face

    yield open_face
    for face in faces:
        face.close()


@pytest.fixture
def face(server: Server, opened: Callable[..., StoreFace]) -> StoreFace:
    return opened(server.environment)


# -- what kops's variables mean -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "region"),
    [
        ("oss-cn-hangzhou", "cn-hangzhou"),
        ("cn-hangzhou", "cn-hangzhou"),
        ("oss-cn-hangzhou-internal", "cn-hangzhou"),
        ("oss-us-west-1.aliyuncs.com", "us-west-1"),
        ("", ""),
    ],
)
def test_a_region_is_taken_with_and_without_its_prefix(given: str, region: str) -> None:
    assert region_given({"OSS_REGION": given}) == region


@pytest.mark.parametrize(
    ("environ", "origin"),
    [
        ({}, "https://state.oss-cn-beijing.aliyuncs.com/k"),
        ({"ALIYUN_OSS_INTERNAL": "false"}, "https://state.oss-cn-beijing-internal.aliyuncs.com/k"),
        ({"ALIYUN_OSS_INTERNAL": ""}, "https://state.oss-cn-beijing.aliyuncs.com/k"),
        ({"OSS_ENDPOINT": "oss.example.com"}, "https://state.oss.example.com/k"),
        ({"OSS_ENDPOINT": "http://10.0.0.1:80"}, "http://10.0.0.1:80/state/k"),
    ],
)
def test_requests_go_where_kops_sends_them(environ: dict[str, str], origin: str) -> None:
    driver = OssDriver(parse("oss://State"), Settings(environ={**KEYS, "OSS_REGION": "oss-cn-beijing", **environ}))
    driver.warm_up()
    assert driver.prepare_get(Key("k")).url == origin


def test_half_a_key_pair_is_refused_in_kopss_words() -> None:
    with pytest.raises(ConfigError) as error:
        OssDriver(parse("oss://state"), Settings(environ={"ALIYUN_ACCESS_KEY_ID": "x"}))
    assert str(error.value) == "error building aliyun oss client: ALIYUN_ACCESS_KEY_SECRET cannot be empty"


@pytest.mark.parametrize(
    ("environ", "url", "says"),
    [
        ({**KEYS, "OSS_REGION": "not a region!"}, "oss://state", "write it like oss-cn-hangzhou"),
        (KEYS, "oss://a", "3 to 63 letters"),
        (KEYS, "oss://state:8080", "3 to 63 letters"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(environ: dict[str, str], url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        OssDriver(parse(url), Settings(environ=environ))


def test_outside_an_instance_the_message_says_what_to_set(server: Server) -> None:
    server.on_ecs = False
    for environ, says in (
        (KEYS, "can't get region-id from ECS metadata: set OSS_REGION"),
        ({"OSS_REGION": "cn-hangzhou"}, "Can't find role from ECS metadata: 404: set ALIYUN_ACCESS_KEY_ID"),
    ):
        driver = OssDriver(parse("oss://state"), Settings(environ=environ), metadata=server.url)
        with pytest.raises(ConfigError, match=says):
            driver.warm_up()


def test_an_instance_that_boots_is_asked_again() -> None:
    driver = OssDriver(parse("oss://state"), Settings(environ=KEYS), metadata="http://127.0.0.1:1")
    with pytest.raises(TransientError, match="can't get region-id from ECS metadata"):
        driver.warm_up()


# -- requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["v1", "v4"])
def test_signatures_of_both_forms_are_accepted(server: Server, opened: Callable[..., StoreFace], form: str) -> None:
    face = opened({**server.environment, "OSS_SIGNATURE_VERSION": form})
    for key in ("a", "a b+c%é/日=~", "a/../b//c", "x" * 1000):
        put = face.put(key, key.encode(), ABSENT)
        assert face.get(key) == (face.head(key), key.encode())
        assert [info.version for info in face.page(key, delimiter=True).objects] == [put.version]
    face.page("a", start_after="a b")
    assert server.signatures == {form}


def test_the_emulator_refuses_what_is_signed_wrongly(server: Server, opened: Callable[..., StoreFace]) -> None:
    """The tests above would prove nothing if it took every signature."""
    for form in ("v1", "v4"):
        for change in ({"ALIYUN_ACCESS_KEY_SECRET": "wrong"}, {"ALIYUN_ACCESS_KEY_ID": "nobody"}):
            face = opened({**server.environment, "OSS_SIGNATURE_VERSION": form, **change})
            with pytest.raises(DeniedError, match="look at ALIYUN_ACCESS_KEY"):
                face.page()
    driver = OssDriver(parse("oss://state"), Settings(environ={**server.environment, "OSS_REGION": "cn-other"}))
    face = StoreFace(driver)
    try:
        with pytest.raises(StoreError, match="Invalid signing region"):
            face.page()
    finally:
        face.close()
    assert server.signatures == set()


def test_a_put_says_what_kops_says_and_what_protects_it(server: Server) -> None:
    driver = OssDriver(parse("oss://state"), Settings(environ=server.environment))
    driver.warm_up()
    lines = driver.prepare_put(K, b"x", 1, expected=ABSENT).headers
    assert {
        "x-oss-forbid-overwrite: true",
        "x-oss-object-acl: private",
        f"content-md5: {_md5(b'x')}",
    } <= set(lines)
    assert not any(line.lower().startswith("if-") for line in lines)
    assert "x-oss-forbid-overwrite: true" not in driver.prepare_put(K, b"x", 1, expected=ANY).headers
    for key in ("", "/lead", "\\lead", "k" * 1024):
        with pytest.raises(InvalidKeyError):
            driver.prepare_get(Key(key))


def _md5(data: bytes) -> str:
    import base64

    return base64.b64encode(hashlib.md5(data).digest()).decode()


def test_a_plus_in_a_listing_is_a_plus(server: Server, face: StoreFace) -> None:
    """The SDK decodes names without taking `+` for a space (`serde_utils.py`), so neither do we."""
    server.put("state", "a+b c", b"x")
    listing = face.page()
    assert [info.key for info in listing.objects] == ["a+b c"]
    driver = OssDriver(parse("oss://state"), Settings(environ=server.environment))
    row = "<Contents><Key>a+b%20c</Key><ETag>x</ETag><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
    body = f"<ListBucketResult><EncodingType>url</EncodingType>{row}</ListBucketResult>".encode()
    assert [info.key for info in driver.parse_list(Prefix(""), Answer(200, {}, body)).objects] == ["a+b c"]


# -- creating, replacing -----------------------------------------------------------------------------------------


def test_creation_is_checked_forbidden_and_read_back(server: Server, face: StoreFace) -> None:
    face.put("k", b"x", ABSENT)
    assert [entry[0] for entry in server.log] == ["HEAD", "PUT", "HEAD"]
    with pytest.raises(ConflictError):
        face.put("k", b"y", ABSENT)


def test_a_rival_between_check_and_put_is_not_overwritten(server: Server, bucket: Bucket, face: StoreFace) -> None:
    server.faults.append(Fault("HEAD", 404, "NoSuchKey"))  # the check saw nothing
    server.put("state", "k", b"theirs")
    with pytest.raises(ConflictError):
        face.put("k", b"ours", ABSENT)
    assert bucket.objects["k"].data == b"theirs"


def test_a_rival_that_the_store_let_through_is_found_by_reading_back(
    server: Server, bucket: Bucket, face: StoreFace
) -> None:
    def rival(where: Bucket, key: str) -> None:
        where.objects[key] = Stored(b"theirs", {}, time.time(), crc64(b"theirs"))

    server.after_put = rival
    with pytest.raises(ConflictError):
        face.put("k", b"ours", ABSENT)
    assert bucket.objects["k"].data == b"theirs"


def test_a_rival_that_replaced_in_the_same_moment_is_found_by_reading_back(
    server: Server, bucket: Bucket, face: StoreFace
) -> None:
    base = face.put("k", b"base", ANY)

    def rival(where: Bucket, key: str) -> None:
        where.objects[key] = Stored(b"theirs", {}, time.time(), crc64(b"theirs"))

    server.after_put = rival
    with pytest.raises(ConflictError):
        face.put("k", b"ours", base.version)
    server.after_put = lambda where, key: where.objects.pop(key) and None
    with pytest.raises(ConflictError):
        face.put("k", b"ours", face.head("k").version)
    server.after_put = None
    same = face.put("same", b"same", ANY)
    assert face.put("same", b"same", same.version).version == same.version


def test_a_creation_that_was_deleted_at_once_was_a_creation(server: Server, face: StoreFace) -> None:
    server.after_put = lambda where, key: where.objects.pop(key) and None
    face.put("k", b"ours", ABSENT)


def test_a_bucket_that_ignores_forbid_overwrite_is_checked_all_the_same(
    server: Server, bucket: Bucket, face: StoreFace
) -> None:
    bucket.versioned = server.ignores_forbid = True
    server.put("state", "k", b"theirs")
    with pytest.raises(ConflictError):
        face.put("k", b"ours", ABSENT)
    assert bucket.objects["k"].data == b"theirs"


@pytest.mark.parametrize("expected", ["absent", "version"])
def test_a_lost_reply_is_no_conflict(server: Server, face: StoreFace, expected: str) -> None:
    base = ABSENT if expected == "absent" else face.put("k", b"base", ANY).version
    server.faults.append(Fault("PUT", 500, "InternalError", after=True))
    put = face.put("k", b"ours", base)
    assert face.get("k") == (put, b"ours") or face.get("k")[0].version == put.version
    assert sum(entry[0] == "PUT" for entry in server.log) == (1 if expected == "absent" else 2)


def test_replacing_and_deleting_look_first(server: Server, bucket: Bucket, face: StoreFace) -> None:
    first = face.put("k", b"one", ANY)
    server.put("state", "k", b"theirs")
    with pytest.raises(ConflictError):
        face.put("k", b"two", first.version)
    with pytest.raises(ConflictError):
        face.delete("k", first.version)
    assert bucket.objects["k"].data == b"theirs"


# -- bytes -------------------------------------------------------------------------------------------------------


def test_a_wrong_byte_is_noticed_in_small_and_streamed_reads(server: Server, face: StoreFace) -> None:
    data = os.urandom(300_000)
    face.put("k", data, ANY)
    server.corrupt = 1
    with pytest.raises(CorruptError, match="CRC-64"):
        face.get("k")
    assert face.get("k")[1] == data
    server.corrupt = 1
    with pytest.raises(CorruptError, match="CRC-64"):
        face.get_into("k", io.BytesIO())
    into = io.BytesIO()
    face.get_into("k", into)
    assert into.getvalue() == data


def test_a_large_body_that_arrives_damaged_is_sent_again(server: Server, bucket: Bucket, face: StoreFace) -> None:
    """Over 4 MiB there is no Content-MD5; the CRC-64 that OSS answers with is compared with the one of what was read."""
    data = os.urandom(1 << 20) * 5
    damaged = []

    def damage(where: Bucket, key: str) -> None:
        stored = where.objects[key]
        if not damaged:
            damaged.append(key)
            stored.data = b"!" + stored.data[1:]
            stored.crc = 1

    server.after_put = damage
    face.put("k", data, ANY)
    assert damaged == ["k"]
    assert bucket.objects["k"].data == data


# -- the role of an instance ------------------------------------------------------------------------------------


def test_a_role_is_used_and_its_token_renewed_before_it_ends(server: Server, bucket: Bucket) -> None:
    server.role = "kops"
    clock = server.clock = Clock()
    driver = OssDriver(parse("oss://state"), Settings(environ=server.on_instance, clock=clock))
    face = StoreFace(driver)
    try:
        face.put("k", b"x", ABSENT)
        assert "role kops of this instance" in str(driver.describe())
        assert "sts-" not in str(driver.describe())
        assert (len(server.sessions), driver.refresh_due()) == (1, False)
        clock.ahead_s = 3600 - RENEW_BEFORE_S + 5
        assert driver.refresh_due()
        driver.refresh_credentials()
        assert (len(server.sessions), driver.refresh_due()) == (2, False)
    finally:
        face.close()


@pytest.mark.parametrize("form", ["v1", "v4"])
def test_a_token_that_ends_in_mid_load_costs_no_answer(server: Server, form: str) -> None:
    """The driver's clock stands still, so only OSS's refusals tell it."""
    server.role = "kops"
    for n in range(50):
        server.put("state", f"k{n}", b"x")
    now = time.time()
    environ = {**server.on_instance, "OSS_SIGNATURE_VERSION": form}
    driver = OssDriver(parse("oss://state"), Settings(environ=environ, clock=lambda: now))
    face = StoreFace(driver)
    try:
        for life in range(1, 4):
            got = face.get_many([f"k{n}" for n in range(50)])
            assert all(data == b"x" for _, data, _ in got.values()), got
            assert len(server.sessions) == life
            server.sessions = {name: (s, t, 0.0) for name, (s, t, _) in server.sessions.items()}
    finally:
        face.close()


# -- bad luck -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", DeniedError),
        (403, "UserDisable", DeniedError),
        (403, "InvalidAccessKeyId", DeniedError),
        (404, "NoSuchBucket", StoreGoneError),
        (404, "NoSuchKey", NotFoundError),
        (409, "FileAlreadyExists", ConflictError),
        (409, "FileImmutable", DeniedError),
        (412, "PreconditionFailed", ConflictError),
        (400, "InvalidObjectName", InvalidKeyError),
        (400, "InvalidDigest", TransientError),
        (400, "NotImplemented", UnsupportedError),
        (403, "QuotaExceeded", QuotaError),
        (503, "ServiceUnavailable", TransientError),
        (503, "QpsLimitExceeded", TransientError),
        (500, "InternalError", TransientError),
    ],
)
@pytest.mark.parametrize("hidden", [False, True], ids=["body", "x-oss-err"])
def test_a_code_is_one_error(server: Server, status: int, code: str, kind: type[StoreError], hidden: bool) -> None:
    import base64

    driver = OssDriver(parse("oss://state"), Settings(environ=server.environment))
    document = f"<Error><Code>{code}</Code><Message>Because\nso.</Message></Error>".encode()
    headers = {"x-oss-err": base64.b64encode(document).decode()} if hidden else {}
    with pytest.raises(StoreError) as error:
        driver.parse_head(K, Answer(status, {**headers, "retry-after": "7"}, b"" if hidden else document))
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    if status == 503:
        assert error.value.retry_after_s == 7.0  # type: ignore[attr-defined]


def test_what_to_set_is_said(server: Server, bucket: Bucket, opened: Callable[..., StoreFace]) -> None:
    with pytest.raises(StoreGoneError, match="ossutil mb oss://missing"):
        opened(server.environment, "oss://missing").page()
    bucket.endpoint = "oss-cn-beijing.aliyuncs.com"
    with pytest.raises(DeniedError, match=r"set OSS_REGION=oss-cn-beijing$"):
        opened(server.environment).page()


def test_reading_without_the_right_to_write_works(server: Server, bucket: Bucket, face: StoreFace) -> None:
    server.put("state", "k", b"x")
    bucket.read_only_to = frozenset({"oss-key"})
    assert face.get("k")[1] == b"x"
    with pytest.raises(DeniedError):
        face.put("k", b"y", ANY)
    bucket.private_to = "other-key"
    with pytest.raises(DeniedError):
        face.get("k")


def test_a_wrong_clock_is_corrected_by_the_first_answer(server: Server, face: StoreFace) -> None:
    clock = server.clock = Clock()
    clock.ahead_s = 7200
    face.put("k", b"x", ANY)
    assert 7190 < int(str(face.store.describe()["clock_skew_s"])) < 7210


def test_a_page_that_fails_is_asked_for_again(server: Server, opened: Callable[..., StoreFace]) -> None:
    for n in range(7):
        server.put("state", f"k{n}", b"x")
    face = StoreFace(OssDriver(parse("oss://state"), Settings(environ=server.environment, page_size=3)))
    try:
        keys, token = [], None
        while True:
            server.faults.append(Fault("GET", 503, "ServiceUnavailable"))
            page = face.page(token=token)
            keys += [info.key for info in page.objects]
            token = page.token
            if token is None:
                break
        assert keys == [f"k{n}" for n in range(7)]
    finally:
        face.close()


def test_metadata_is_said_again_where_it_is_to_be_kept(server: Server) -> None:
    driver = OssDriver(parse("oss://state"), Settings(environ=server.environment, keep_metadata=True))
    driver.warm_up()
    headers = {"etag": '"x"', "content-type": "text/x-yaml", "x-oss-meta-owner": "me", "x-oss-request-id": "no"}
    driver.parse_head(K, Answer(200, headers, b""))
    lines = set(driver.prepare_put(K, b"x", 1, expected=ANY).headers)
    assert {"content-type: text/x-yaml", "x-oss-meta-owner: me"} <= lines
    assert not any(line.startswith("x-oss-request-id") for line in lines)


def test_the_emulators_crc_is_the_documented_one() -> None:
    assert crc64(b"123456789") == 0x995DC9BBDF1939FA
