"""Does the Google Cloud Storage driver ask and understand as GCS wants it, and as kops does?

Method: what goes out and what an answer means are values, so a table needs no network; what needs a server runs
against the emulator of `tests/emulators/gcs.py`, which Google's own client is set upon as well. The contract itself
is `test_contract.py`'s, who we are `test_gcs_credentials.py`'s.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kopsfs import errors
from kopsfs.errors import ConfigError, ConflictError, DeniedError, StoreGoneError, TransientError
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import ABSENT, ANY, Answer, Key, Prefix, Version
from kopsfs.store.gcs import GcsDriver
from kopsfs.store.rest import HASHED_MAX
from kopsfs.store.url import Settings, parse
from tests.emulators import gcs as gcs_emulator
from tests.emulators.gcs import EVERYTHING, Server
from tests.store.harness import DriverFace, StoreFace, exchange
from tests.store.test_gcs_credentials import service_account
from tests.support.certificates import for_localhost, server_context
from tests.support.packages import install

KEY = Key("c.example.com/config")
NOWHERE = {"STORAGE_EMULATOR_HOST": "127.0.0.1:1"}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.gcs.create_bucket("state")
        yield running


def driver_of(where: Server | dict[str, str], bucket: str = "state", **settings: Any) -> GcsDriver:
    environ = {"STORAGE_EMULATOR_HOST": where.url} if isinstance(where, Server) else where
    return GcsDriver(parse(f"gs://{bucket}"), Settings(environ=environ, **settings))


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Iterator[StoreFace]:
    """As the real one is spoken to: with a token, its conditions taken for atomic."""
    server.gcs.machine = EVERYTHING
    environ = {"GCE_METADATA_HOST": server.url.removeprefix("http://"), "HOME": str(tmp_path)}
    settings = Settings(environ=environ, page_size=2)
    face = StoreFace(GcsDriver(parse("gs://state"), settings, origin=server.url))
    yield face
    face.close()


# -- where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:9023", "http://127.0.0.1:9023"),
        ("localhost", "http://localhost"),
        ("https://gcs.test/some/path/", "https://gcs.test"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_an_emulator_is_addressed_as_go_does(host: str, origin: str) -> None:
    driver = driver_of({"STORAGE_EMULATOR_HOST": host})
    request = driver.prepare_get(KEY)
    assert request.url == f"{origin}/download/storage/v1/b/state/o/c.example.com%2Fconfig?alt=media"
    assert request.headers == ("Accept-Encoding: gzip",), "no credentials for an emulator"
    driver.warm_up()
    assert driver.prepare_get(KEY).headers == ("Accept-Encoding: gzip",)


@pytest.mark.parametrize("host", ["http://", "ftp://h", "h:port", "[::1"])
def test_an_emulator_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^STORAGE_EMULATOR_HOST=.*: write HOST:PORT"):
        driver_of({"STORAGE_EMULATOR_HOST": host})


def test_googles_own_address_and_another_universe(tmp_path: Path) -> None:
    nobody = {"HOME": str(tmp_path)}
    assert driver_of(nobody).prepare_head(KEY).url.startswith("https://storage.googleapis.com/storage/v1/b/state/o/")
    universe = {**nobody, "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "apis.example"}
    assert driver_of(universe).describe()["endpoint"] == "https://storage.apis.example"
    key = {"type": "service_account", "client_email": "a", "private_key": "b", "universe_domain": "u.example"}
    (tmp_path / "key.json").write_text(json.dumps(key))
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}
    assert driver_of(environ).describe()["endpoint"] == "https://storage.u.example"


def test_what_it_can_do_is_data() -> None:
    said = driver_of({"HOME": "/none"}).capabilities
    assert (said.create_only, said.replace_if, said.delete_if) == ("atomic", "atomic", "atomic")
    assert said.write_interval_s == 1.0
    assert driver_of(NOWHERE).capabilities.create_only == "unproven", "an emulator may be any"
    assert said.price_per_1000["list"] > said.price_per_1000["get"] > said.price_per_1000["delete"] == 0


# -- what is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        (ANY, ""),
        (ABSENT, "ifGenerationMatch=0"),
        (Version("17"), "ifGenerationMatch=17"),
        (Version("x"), "ifGenerationMatch=1"),
    ],
)
def test_every_condition_is_a_generation(expected: Any, query: str) -> None:
    driver = driver_of(NOWHERE)
    for request in (
        driver.prepare_put(KEY, b"x", 1, expected=expected),
        driver.prepare_delete(KEY, expected=expected),
    ):
        assert ("ifGenerationMatch" in request.url) is bool(query)
        assert query in request.url


@pytest.mark.parametrize(
    "key", ["", "\ud800", ".", "..", "a\nb", "a\rb", ".well-known/acme-challenge/x", "\u00e9" * 513]
)
def test_a_name_that_no_object_can_have_is_refused(key: str) -> None:
    driver = driver_of(NOWHERE)
    for ask in (driver.prepare_get, driver.prepare_head):
        with pytest.raises(errors.InvalidKeyError):
            ask(Key(key))


def test_a_body_is_framed_whole_from_memory_and_from_a_file() -> None:
    driver = driver_of(NOWHERE)
    file = io.BytesIO(b"..data and more")
    file.seek(2)
    framed = driver.prepare_put(KEY, file, 4, expected=ANY)
    plain = driver.prepare_put(KEY, b"data", 4, expected=ANY)
    assert framed.body is not None
    assert not isinstance(framed.body, bytes)
    pieces = list(iter(lambda: framed.body.read(7), b""))  # type: ignore[union-attr]
    assert b"".join(pieces) == plain.body
    assert all(len(piece) == 7 for piece in pieces[:-1])
    assert len(plain.body) == plain.body_size == framed.body_size  # type: ignore[arg-type]
    short = driver.prepare_put(KEY, io.BytesIO(b"abc"), 4, expected=ANY)
    with pytest.raises(OSError, match="ends 1 bytes early"):
        short.body.read()  # type: ignore[union-attr]


def test_a_large_file_arrives_without_being_read_twice(server: Server) -> None:
    driver = driver_of(server)
    data = bytes(range(256)) * (HASHED_MAX // 256 + 1)
    request = driver.prepare_put(KEY, io.BytesIO(data), len(data), expected=ABSENT)
    assert b"md5Hash" not in request.body.read(300)  # type: ignore[union-attr]
    face = StoreFace(driver)
    try:
        face._run(lambda: face.store.put(KEY, io.BytesIO(data), len(data), expected=ABSENT))
    finally:
        face.close()
    assert server.gcs.get("state", KEY) == data


def test_damage_on_the_way_is_noticed_by_the_store(server: Server) -> None:
    driver = driver_of(server)
    request = driver.prepare_put(KEY, b"data", 4, expected=ANY)
    assert isinstance(request.body, bytes)
    damaged = type(request)(
        "POST", request.url, request.headers, request.body.replace(b"data", b"dada"), request.body_size
    )
    with pytest.raises(errors.StoreError, match="400 invalid Provided MD5 hash"):
        driver.parse_put(KEY, 4, exchange("put", damaged))
    assert server.gcs.buckets["state"].objects == {}


@pytest.mark.parametrize(
    ("acl", "sent"),
    [("", None), ("public-read", "publicRead"), ("bucketOwnerFullControl", "bucketOwnerFullControl")],
)
def test_the_acl_of_writes_to_a_fine_grained_bucket(server: Server, acl: str, sent: str | None) -> None:
    environ = {"STORAGE_EMULATOR_HOST": server.url, "KOPS_STATE_S3_ACL": "private"}
    DriverFace(driver_of(environ, acl=acl)).put(KEY, b"x", ANY)
    assert server.gcs.buckets["state"].acls.get(KEY) == sent


def test_an_acl_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--acl everyone: GCS knows private, public-read"):
        driver_of(NOWHERE, acl="everyone")


def test_a_bucket_with_uniform_access_is_sent_no_acl_after_its_first_answer(server: Server) -> None:
    server.gcs.create_bucket("uniform", uniform=True)
    driver = driver_of(server, "uniform", acl="private")
    face = StoreFace(driver)
    try:
        face.put(KEY, b"x", ABSENT)
    finally:
        face.close()
    assert server.gcs.get("uniform", KEY) == b"x"
    assert server.gcs.requests["put"] == 2
    assert driver.describe()["acl"] == "none: uniform access"


def test_metadata_is_kept_when_asked_for(server: Server) -> None:
    row = {"contentType": "text/yaml", "cacheControl": "no-store", "metadata": {"a": "1"}}
    for read in ("get", "head"):
        for keep in (False, True):
            server.gcs.put("state", KEY, b"x", **row)
            face = DriverFace(driver_of(server, keep_metadata=keep))
            getattr(face, read)(KEY)
            face.put(KEY, b"y", ANY)
            kept = server.gcs.buckets["state"].objects[KEY].row
            assert {name: kept[name] for name in row if name in kept} == (row if keep else {}), (read, keep)


# -- what comes back ---------------------------------------------------------------------------------


def test_what_is_stored_as_gzip_is_read_as_it_is_stored(server: Server) -> None:
    data = gzip.compress(b"addons" * 100)
    server.gcs.put("state", KEY, data, contentEncoding="gzip")
    for face in (DriverFace(driver_of(server)), StoreFace(driver_of(server))):
        info, got = face.get(KEY)
        assert (got, info.size) == (data, len(data))
        face.close()


def test_an_object_put_together_from_others_has_no_md5(server: Server) -> None:
    server.gcs.put("state", KEY, b"x", composite=True)
    face = DriverFace(driver_of(server))
    assert [face.head(KEY).md5, face.get(KEY)[0].md5, face.page().objects[0].md5] == [None] * 3


def test_versions_are_generations_that_grow(server: Server) -> None:
    face = DriverFace(driver_of(server))
    versions = [int(face.put(KEY, b"x", ANY).version) for _ in range(5)]
    assert versions == sorted(set(versions))
    info = face.head(KEY)
    assert abs(info.mtime_ns - versions[-1] * 1000) < 10**9


def error_answer(status: int, reason: str, message: str = "words", **headers: str) -> Answer:
    row = {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(row).encode())


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (error_answer(404, "notFound", "No such object: state/k"), errors.NotFoundError, "404 notFound"),
        (
            error_answer(404, "notFound", "The specified bucket does not exist."),
            StoreGoneError,
            "no bucket state: make it",
        ),
        (Answer(404, {}, b"No such object: state/k"), errors.NotFoundError, "No such object"),
        (error_answer(412, "conditionNotMet"), ConflictError, "412"),
        (error_answer(403, "forbidden", "no access"), DeniedError, "grant roles/storage.objectViewer on state"),
        (error_answer(403, "insufficientPermissions"), DeniedError, "access scope devstorage.full_control"),
        (error_answer(400, "required", "no user project provided"), DeniedError, "set quota_project_id"),
        (error_answer(403, "userRateLimitExceeded"), TransientError, "403"),
        (error_answer(429, "rateLimitExceeded"), TransientError, "429"),
        (error_answer(503, "backendError"), TransientError, "503"),
        (error_answer(403, "quotaExceeded"), errors.QuotaError, "quotaExceeded"),
        (error_answer(413, "uploadTooLarge"), errors.TooLargeError, "413"),
        (error_answer(403, "retentionPolicyNotMet"), DeniedError, "retentionPolicyNotMet"),
        (error_answer(400, "invalid"), errors.StoreError, "400 invalid words"),
        (Answer(302, {}, b"<html>log in</html>"), TransientError, "302"),
        (Answer(200, {}, b"<html>log in</html>"), TransientError, "not JSON"),
        (Answer(200, {}, b"{}"), TransientError, "not an object of GCS"),
        (Answer(200, {}, b"[1]"), TransientError, "not a JSON object"),
    ],
)
def test_answers_and_errors(answer: Answer, kind: type[Exception], says: str) -> None:
    with pytest.raises(errors.StoreError, match=says) as error:
        driver_of(NOWHERE).parse_head(KEY, answer)
    assert type(error.value) is kind
    assert error.value.key == KEY


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {}, b"ok"),
        Answer(
            200, {"x-goog-generation": "1", "x-goog-stored-content-length": "3", "content-length": "9"}, b"unpacked!"
        ),
    ],
)
def test_a_200_that_gcs_did_not_write_is_no_object(answer: Answer) -> None:
    with pytest.raises(TransientError):
        driver_of(NOWHERE).parse_get(KEY, answer)


@pytest.mark.parametrize(
    "body", [b"", b'{"items": [', b'{"items": [{"name": "a"}]}', b'"x"', b'{"error": {"code": 1}}']
)
def test_a_listing_that_is_not_whole_is_no_listing(body: bytes) -> None:
    with pytest.raises(TransientError):
        driver_of(NOWHERE).parse_list(Prefix(""), Answer(200, {}, body))


# -- bad luck ----------------------------------------------------------------------------------------


def test_a_missing_bucket_is_a_store_that_is_gone(server: Server) -> None:
    face = DriverFace(driver_of(server, "never-made"))
    for ask in (
        lambda: face.page(),
        lambda: face.get("k"),
        lambda: face.head("k"),
        lambda: face.put("k", b"x", ANY),
        lambda: face.delete("k", ANY),
    ):
        with pytest.raises(StoreGoneError, match="no bucket never-made: make it, or correct the URL"):
            ask()


def test_a_pace_that_is_asked_for_is_kept(server: Server, store: StoreFace) -> None:
    fault = server.fault("status", verb="get", status=429, code="rateLimitExceeded", headers="Retry-After: 1\r\n")
    server.gcs.put("state", "k", b"x")
    began = time.monotonic()
    assert store.get("k")[1] == b"x"
    assert time.monotonic() - began >= 1.0
    assert fault.hits == 1


def test_two_writes_of_one_object_within_a_second_both_arrive(
    server: Server, store: StoreFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()
    clock = {**vars(time), "monotonic": lambda: 0.2 * next(looks)}  # a fifth of a second from write to write
    monkeypatch.setattr(gcs_emulator, "time", SimpleNamespace(**clock))
    server.gcs.write_interval_s = 0.3
    first = store.put("k", b"one", ABSENT)
    store.put("k", b"two", first.version)
    assert server.gcs.get("state", "k") == b"two"
    assert server.gcs.requests["put"] == 3, "it was refused in between"


def test_a_page_that_fails_is_asked_for_again_and_never_left_out(server: Server, store: StoreFace) -> None:
    names = [f"k{n}" for n in range(5)]
    for name in names:
        server.gcs.put("state", name, b"x")
    for kind in ({"kind": "status"}, {"kind": "truncate"}, {"kind": "refuse"}):
        server.fault(**kind, verb="list", skip=1)
        listed: list[str] = []
        token = None
        while True:
            page = store.page(token=token)
            listed += [info.key for info in page.objects]
            token = page.token
            if token is None:
                break
        assert listed == names, kind


@pytest.mark.parametrize("op", ["put", "delete"])
def test_a_lost_reply_to_our_own_write_is_no_conflict(server: Server, store: StoreFace, op: str) -> None:
    first = store.put("k", b"one", ABSENT)
    server.fault("lost", verb=op)
    if op == "put":
        second = store.put("k", b"two", first.version)
        assert store.head("k").version == second.version
    else:
        store.delete("k", first.version)
        assert server.gcs.buckets["state"].objects == {}
    assert server.gcs.requests[op] == (3 if op == "put" else 2)


def test_tokens_that_end_in_the_middle_of_a_load_are_not_noticed(tmp_path: Path) -> None:
    with Server(anonymous=False) as server:
        bucket = server.gcs.create_bucket("state")
        wanted = [f"d/{n:03}" for n in range(300)]
        for name in wanted:
            server.gcs.put("state", name, name.encode())
        environ = service_account(server, tmp_path / "key.json")
        face = StoreFace(GcsDriver(parse("gs://state"), Settings(environ=environ), origin=server.url))
        try:
            store, got = face.store, {}

            def deliver(key: Key, info: Any, data: bytes | None, error: Exception | None) -> None:
                got[key] = data if error is None else error
                if len(got) in {50, 200}:
                    server.gcs.end_tokens()

            face._run(lambda: store.get_many([Key(name) for name in wanted], deliver, in_flight=32))
            assert got == {name: name.encode() for name in wanted}
            assert bucket.objects.keys() == got.keys()
            assert 3 <= server.gcs.requests["token"] <= 5
        finally:
            face.close()


def test_a_certificate_nobody_vouches_for_says_what_to_set(tmp_path: Path) -> None:
    certificate, private = for_localhost(tmp_path)
    with Server(context=server_context(certificate, private)) as server:
        server.gcs.create_bucket("state")
        server.gcs.put("state", "k", b"x")
        request = driver_of(server).prepare_get(Key("k"))
        with pytest.raises(TransientError, match=r"certificate.*; set SSL_CERT_FILE or --ca-file"):
            fetch(request, Options.read({}))
        assert fetch(request, Options.read({"SSL_CERT_FILE": str(certificate)})).body == b"x"


# -- Google's own client -----------------------------------------------------------------------------


@pytest.mark.real
def test_googles_client_and_ours_see_the_same_objects(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        from google.cloud import storage
    except ImportError:
        install("google-cloud-storage", [sys.executable, "-m", "pip", "install", "-q", "google-cloud-storage>=2.18,<4"])
        from google.cloud import storage
    from google.api_core.exceptions import NotFound, PreconditionFailed
    from google.auth.credentials import AnonymousCredentials

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    bucket = storage.Client(project="p", credentials=AnonymousCredentials()).bucket("state")
    face = DriverFace(driver_of(server))
    theirs = bucket.blob("d/\u00e9 %41")
    theirs.upload_from_string(b"theirs", if_generation_match=0, retry=None)
    info, data = face.get("d/\u00e9 %41")
    assert (data, info.version) == (b"theirs", Version(str(theirs.generation)))
    ours = face.put("d/ours", b"ours", ABSENT)
    assert bucket.blob("d/ours").download_as_bytes(retry=None) == b"ours"
    for attempt in (0, int(ours.version) + 1):
        with pytest.raises(PreconditionFailed):
            bucket.blob("d/ours").upload_from_string(b"x", if_generation_match=attempt, retry=None)
    with pytest.raises(PreconditionFailed):
        bucket.blob("d/ours").delete(if_generation_match=7, retry=None)
    listed = list(bucket.list_blobs(prefix="d/", page_size=1, retry=None))
    assert [(blob.name, blob.generation) for blob in listed] == [
        (each.key, int(each.version)) for each in face.page("d/").objects
    ]
    bucket.blob("d/ours").delete(if_generation_match=int(ours.version), retry=None)
    with pytest.raises(NotFound):
        bucket.blob("d/ours").reload(retry=None)
