"""Does the Azure driver ask and understand as Azure Blob Storage wants it, and as kops does?

Method: what goes out and what an answer means are values, so a table needs no network; signatures, tokens, rights
and a missing container are Azurite's to judge (over HTTPS, with `--oauth`, it checks a token's times, issuer and
audience). DefaultAzureCredential gets its tokens from a managed identity endpoint of the test's own. The contract
itself is `test_contract.py`'s.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import hmac
import http.server
import io
import json
import time
from collections.abc import Iterator
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import pytest

from kopsfs import errors
from kopsfs.errors import ConfigError, ConflictError, DeniedError, RefusedError, StoreGoneError, TransientError
from kopsfs.store import azure_credentials
from kopsfs.store.azure import VERSION, AzureDriver
from kopsfs.store.curl import CA_VARIABLES, Options, fetch
from kopsfs.store.driver import ABSENT, ANY, Answer, Key, Prefix, Request, Version
from kopsfs.store.rest import HASHED_MAX
from kopsfs.store.url import Settings, parse
from tests.store.harness import DriverFace, StoreFace
from tests.store.servers import Azurite
from tests.store.servers import azurite as start_azurite
from tests.support.certificates import for_localhost
from tests.support.faultproxy import FaultProxy
from tests.support.listening import Listener

KEY = Key("c.example.com/config")
KEYED = {"AZURE_STORAGE_KEY": base64.b64encode(b"hush-hush").decode()}


def driver_of(environ: dict[str, str], url: str = "azureblob://account/state", **settings: Any) -> AzureDriver:
    return AzureDriver(parse(url, environ), Settings(environ=environ, **settings))


def headers_of(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in request.headers)}


# -- where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "https://account.blob.core.windows.net/state/"),
        ({"AZURE_ENVIRONMENT": "AzurePublicCloud"}, "https://account.blob.core.windows.net/state/"),
        ({"AZURE_ENVIRONMENT": "AzureUSGovernmentCloud"}, "https://account.blob.core.usgovcloudapi.net/state/"),
        ({"AZURE_ENVIRONMENT": "AzureChinaCloud"}, "https://account.blob.core.chinacloudapi.cn/state/"),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=account;EndpointSuffix=core.test;AccountKey=aGg="},
            "https://account.blob.core.test/state/",
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=http://127.0.0.1:10000/account/;AccountKey=aGg="},
            "http://127.0.0.1:10000/account/state/",
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=other;BlobEndpoint=http://o"},
            "https://account.blob.core.windows.net/state/",
        ),
    ],
)
def test_an_account_is_where_azure_says(environ: dict[str, str], url: str) -> None:
    assert driver_of(environ).prepare_get(KEY).url == url + KEY


def test_the_development_account_is_azurites() -> None:
    environ = {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}
    driver = driver_of(environ, "azureblob://devstoreaccount1/state")
    assert driver.describe()["endpoint"] == "http://127.0.0.1:10000/devstoreaccount1"
    assert driver.describe()["credentials"] == "AZURE_STORAGE_CONNECTION_STRING"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"AZURE_ENVIRONMENT": "Moon"}, "AZURE_ENVIRONMENT=Moon: write AzureCloud"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "nonsense"}, "AZURE_STORAGE_CONNECTION_STRING: write NAME=VALUE"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=ftp://h"}, "BlobEndpoint=ftp://h: write https://HOST"),
        ({"AZURE_STORAGE_KEY": "no base64!"}, "AZURE_STORAGE_KEY: the account key is not base64: copy it whole"),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=x"},
            "AZURE_STORAGE_CONNECTION_STRING: the account key is not",
        ),
        ({"AZURE_STORAGE_ACCOUNT": "account"}, "unset AZURE_STORAGE_ACCOUNT; the storage account belongs in the URL"),
    ],
)
def test_settings_that_cannot_work_are_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        driver_of(environ)
    assert message in str(error.value)


# -- what is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "headers"),
    [(ANY, {}), (ABSENT, {"if-none-match": "*"}), (Version("0x8D"), {"if-match": '"0x8D"'})],
)
def test_every_condition_is_an_etag_and_signed(expected: Any, headers: dict[str, str]) -> None:
    driver = driver_of(KEYED)
    proofs = set()
    for wanted in (expected, Version("other")):
        for request in (
            driver.prepare_put(KEY, b"x", 1, expected=wanted),
            driver.prepare_delete(KEY, expected=wanted),
        ):
            found = headers_of(request)
            proofs.add(found["authorization"])
            if wanted is expected:
                assert {name: found[name] for name in found if name.startswith("if-")} == headers
    assert len(proofs) == 4


def test_the_string_that_is_signed_is_microsofts() -> None:
    """The example of "Authorize with Shared Key", version 2015-02-21 and later; its signature by openssl."""
    key = b"key"
    signer = azure_credentials.Signer("myaccount", key)
    own = [("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("x-ms-version", "2015-02-21")]
    query = "\ncomp:metadata\nrestype:container\ntimeout:20"
    text = (
        "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"
        "/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
    )
    wanted = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
    assert signer.sign("GET", "/mycontainer", query, own) == f"SharedKey myaccount:{wanted}"


@pytest.mark.parametrize(
    "key", ["", "\ud800", ".", "a/../b", "a./b", "a.", "a\\b", "a\nb", "\x01", "\u00e9" * 513, "a/" * 255]
)
def test_a_name_that_azure_would_not_keep_is_refused(key: str) -> None:
    driver = driver_of(KEYED)
    for ask in (driver.prepare_get, driver.prepare_head):
        with pytest.raises(errors.InvalidKeyError):
            ask(Key(key))
    driver.prepare_get(Key("a.b/..c/d.e"))


def test_a_body_is_sent_with_its_md5_unless_it_is_large() -> None:
    driver = driver_of(KEYED)
    file = io.BytesIO(b"..data")
    file.seek(2)
    small = headers_of(driver.prepare_put(KEY, file, 4, expected=ANY))
    assert file.tell() == 2
    assert small["content-md5"] == headers_of(driver.prepare_put(KEY, b"data", 4, expected=ANY))["content-md5"]
    assert "content-md5" not in headers_of(driver.prepare_put(KEY, file, HASHED_MAX + 1, expected=ANY))


def test_metadata_is_kept_when_asked_for() -> None:
    answer = Answer(200, {"etag": '"e"', "x-ms-version": VERSION, "content-type": "text/yaml", "x-ms-meta-a": "1"}, b"")
    for keep, kept in ((False, {}), (True, {"x-ms-blob-content-type": "text/yaml", "x-ms-meta-a": "1"})):
        driver = driver_of(KEYED, keep_metadata=keep)
        driver.parse_head(KEY, answer)
        for _ in range(2):  # a PUT may be sent more than once
            sent = headers_of(driver.prepare_put(KEY, b"x", 1, expected=ANY))
            assert {n: v for n, v in sent.items() if n.startswith(("x-ms-meta", "x-ms-blob-content"))} == kept


# -- what comes back ---------------------------------------------------------------------------------


def error_answer(status: int, code: str, **headers: str) -> Answer:
    body = f"\ufeff<?xml version='1.0' encoding='utf-8'?><Error><Code>{code}</Code><Message>words\nRequestId:1</Message></Error>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"x-ms-error-code": code, **named}, body.encode())


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (error_answer(404, "BlobNotFound"), errors.NotFoundError, "404 BlobNotFound words"),
        (Answer(404, {"x-ms-error-code": "BlobNotFound"}, b""), errors.NotFoundError, "BlobNotFound"),
        (
            error_answer(404, "ContainerNotFound"),
            StoreGoneError,
            "no container account/state: make it, or correct the URL",
        ),
        (Answer(404, {"x-ms-error-code": "ContainerNotFound"}, b""), StoreGoneError, "no container"),
        (error_answer(409, "ContainerBeingDeleted"), StoreGoneError, "no container"),
        (error_answer(409, "BlobAlreadyExists"), ConflictError, "409"),
        (error_answer(412, "ConditionNotMet"), ConflictError, "412"),
        (error_answer(412, "LeaseIdMissing"), DeniedError, "LeaseIdMissing"),
        (error_answer(403, "AuthorizationPermissionMismatch"), DeniedError, "grant the role Storage Blob Data Reader"),
        (error_answer(403, "AuthorizationFailure"), DeniedError, "or let this network in"),
        (
            error_answer(403, "KeyBasedAuthenticationNotPermitted"),
            DeniedError,
            "unset AZURE_STORAGE_KEY and `az login`",
        ),
        (
            error_answer(403, "AuthenticationFailed"),
            errors.RefusedError,
            "set AZURE_STORAGE_KEY to a key of the account",
        ),
        (error_answer(409, "SnapshotsPresent"), errors.UnsupportedError, "delete the blob's snapshots first"),
        (error_answer(413, "RequestBodyTooLarge"), errors.TooLargeError, "413"),
        (error_answer(500, "OperationTimedOut"), TransientError, "500"),
        (error_answer(400, "Md5Mismatch"), TransientError, "Md5Mismatch"),
        (error_answer(400, "InvalidHeaderValue"), errors.StoreError, "400 InvalidHeaderValue"),
        (Answer(302, {}, b"<html>log in</html>"), TransientError, "302"),
        (Answer(200, {"etag": '"e"'}, b"<html>log in</html>"), TransientError, "not Azure"),
    ],
)
def test_answers_and_errors(answer: Answer, kind: type[Exception], says: str) -> None:
    with pytest.raises(errors.StoreError, match=says) as error:
        driver_of(KEYED).parse_get(KEY, answer)
    assert type(error.value) is kind
    assert error.value.key == KEY


def test_writing_without_the_right_to_names_the_role() -> None:
    with pytest.raises(DeniedError, match="grant the role Storage Blob Data Contributor on account/state"):
        driver_of(KEYED).parse_put(KEY, 1, error_answer(403, "AuthorizationPermissionMismatch"))


def test_a_pace_that_is_asked_for_is_passed_on() -> None:
    with pytest.raises(TransientError) as error:
        driver_of(KEYED).parse_get(KEY, error_answer(503, "ServerBusy", retry_after="7"))
    assert error.value.retry_after_s == 7


LISTING = (
    "\ufeff<?xml version='1.0'?><EnumerationResults><Blobs><Blob><Name Encoded=\"true\">a%01%20b</Name><Properties>"
    "<Last-Modified>Sat, 21 Nov 2026 04:44:44 GMT</Last-Modified><Etag>0x8D</Etag><Content-Length>3</Content-Length>"
    "</Properties></Blob><Blob><Name>dir</Name><Properties><Etag>0x1</Etag><Content-Length>0</Content-Length>"
    "<ResourceType>directory</ResourceType></Properties></Blob>"
    "<BlobPrefix><Name>d/</Name></BlobPrefix></Blobs><NextMarker>m</NextMarker></EnumerationResults>"
)


def test_a_listing_is_read_whole_and_without_directories() -> None:
    page = driver_of(KEYED).parse_list(Prefix(""), Answer(200, {}, LISTING.encode()))
    assert [(info.key, info.version, info.size) for info in page.objects] == [("a\x01 b", "0x8D", 3)]
    assert (page.prefixes, page.token) == (["d/"], "m")
    assert page.objects[0].mtime_ns == 1795236284 * 10**9


@pytest.mark.parametrize(
    "body", [b"", b"<html/>", LISTING.encode()[:300], LISTING.replace("<Etag>0x8D</Etag>", "").encode(),
             LISTING.replace("<NextMarker>m</NextMarker>", "").encode()]
)  # fmt: skip
def test_a_listing_that_is_not_whole_is_no_listing(body: bytes) -> None:
    with pytest.raises(TransientError, match="not a listing of Azure"):
        driver_of(KEYED).parse_list(Prefix(""), Answer(200, {}, body))


def test_a_wrong_clock_is_corrected_by_the_answer_and_only_once() -> None:
    driver = driver_of(KEYED)
    ahead = error_answer(403, "AuthenticationFailed", date=formatdate(time.time() + 7200, usegmt=True))
    with pytest.raises(TransientError, match=r"the server's clock differs by 7[12]\d\d s"):
        driver.parse_head(KEY, ahead)
    sent = parsedate_to_datetime(headers_of(driver.prepare_head(KEY))["x-ms-date"])
    assert abs(sent.timestamp() - time.time() - 7200) < 100
    with pytest.raises(DeniedError):
        driver.parse_head(KEY, ahead)


# -- Azurite -----------------------------------------------------------------------------------------


@pytest.mark.real
def test_a_wrong_key_is_denied_and_a_missing_container_is_gone(azurite: Azurite) -> None:
    where = f"BlobEndpoint={azurite.endpoint}/account;AccountName=account"
    container = azurite.new_container()
    wrong = {"AZURE_STORAGE_CONNECTION_STRING": f"{where};AccountKey={base64.b64encode(b'wrong').decode()}"}
    face = DriverFace(driver_of(wrong, f"azureblob://account/{container}"))
    gone = DriverFace(driver_of(azurite.environment, "azureblob://account/never-made"))
    for ask in ("page", "get", "head", "put", "delete"):
        arguments: tuple[Any, ...] = {"page": (), "put": ("k", b"x", ANY), "delete": ("k", ANY)}.get(ask, ("k",))
        with pytest.raises(DeniedError, match="set AZURE_STORAGE_KEY to a key of the account"):
            getattr(face, ask)(*arguments)
        with pytest.raises(StoreGoneError, match="no container account/never-made: make it"):
            getattr(gone, ask)(*arguments)


@pytest.mark.real
def test_the_old_form_of_the_url_reaches_the_same_objects(azurite: Azurite) -> None:
    container = azurite.new_container()
    DriverFace(driver_of(azurite.environment, f"azureblob://account/{container}")).put("k", b"x", ABSENT)
    old = {
        "AZURE_STORAGE_ACCOUNT": "account",
        "AZURE_STORAGE_KEY": azurite.key,
        "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={azurite.endpoint}/account",
    }
    assert DriverFace(driver_of(old, f"azureblob://{container}/prefix")).get("k")[1] == b"x"


@pytest.mark.real
def test_damage_on_the_way_is_noticed_by_the_store(azurite: Azurite) -> None:
    driver = driver_of(azurite.environment, f"azureblob://account/{azurite.new_container()}")
    request = driver.prepare_put(KEY, b"data", 4, expected=ANY)
    answer = fetch(Request("PUT", request.url, request.headers, b"dada", 4), Options.read({}))
    with pytest.raises(errors.StoreError):
        driver.parse_put(KEY, 4, answer)
    assert DriverFace(driver).page().objects == []


@pytest.mark.real
def test_a_page_that_fails_is_asked_for_again_and_never_left_out(azurite: Azurite) -> None:
    container = azurite.new_container()
    with FaultProxy(int(azurite.endpoint.rpartition(":")[2])) as proxy:
        where = f"BlobEndpoint={proxy.url}/account;AccountName=account;AccountKey={azurite.key}"
        environ = {"AZURE_STORAGE_CONNECTION_STRING": where}
        face = StoreFace(driver_of(environ, f"azureblob://account/{container}", page_size=2))
        try:
            names = [f"k{n}" for n in range(5)]
            for name in names:
                face.put(name, b"x", ABSENT)
            for kind in ("status", "truncate", "reset"):
                page = face.page()
                listed = [info.key for info in page.objects]
                proxy.fault(kind, times=1)
                while page.token is not None:
                    page = face.page(token=page.token)
                    listed += [info.key for info in page.objects]
                assert listed == names, kind
        finally:
            face.close()


@pytest.mark.real
def test_a_lost_reply_to_our_own_write_is_no_conflict(azurite: Azurite) -> None:
    container = azurite.new_container()
    with FaultProxy(int(azurite.endpoint.rpartition(":")[2])) as proxy:
        where = f"BlobEndpoint={proxy.url}/account;AccountName=account;AccountKey={azurite.key}"
        face = StoreFace(driver_of({"AZURE_STORAGE_CONNECTION_STRING": where}, f"azureblob://account/{container}"))
        try:
            first = face.put("k", b"one", ABSENT)
            proxy.fault("reset", method="PUT", times=1)
            second = face.put("k", b"two", first.version)
            assert face.head("k").version == second.version
            assert face.get("k")[1] == b"two"
        finally:
            face.close()


# -- DefaultAzureCredential --------------------------------------------------------------------------


class Identity:
    """A managed identity endpoint (App Service's), which gives tokens that Azurite takes, for `lifetime_s`."""

    def __init__(self) -> None:
        self.lifetime_s = 3600.0
        self.asked = 0
        identity = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                identity.asked += 1
                good = self.headers["X-IDENTITY-HEADER"] == "secret" and "storage.azure.com" in self.path
                row = {
                    "access_token": identity.token(),
                    "expires_on": str(int(time.time() + 3600)),
                    "token_type": "Bearer",
                }
                body = json.dumps(row if good else {"error": "invalid"}).encode()
                self.send_response(200 if good else 400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = Listener(Handler)
        self.environ = {
            "IDENTITY_ENDPOINT": f"{self._server.url}/msi/token",
            "IDENTITY_HEADER": "secret",
            "PATH": "/usr/bin:/bin",
            "HOME": "/none",
        }

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/t/",
            "iat": now,
            "nbf": now - 3600,
            "exp": int(now + self.lifetime_s),
            "jti": str(self.asked),
        }
        parts = [{"alg": "RS256", "typ": "JWT"}, claims]
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        return ".".join([*encoded, "c2lnbmF0dXJl"])

    @contextlib.contextmanager
    def running(self) -> Iterator[Identity]:
        with self._server:
            yield self


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    certificate, private = for_localhost(tmp_path_factory.mktemp("tls"))
    options = ("--cert", str(certificate), "--key", str(private), "--oauth", "basic")
    with start_azurite(*options, ca_file=str(certificate)) as server:
        yield server


@pytest.fixture
def identity() -> Iterator[Identity]:
    with Identity().running() as running:
        yield running


@pytest.mark.real
def test_a_managed_identity_is_found_and_renewed_in_the_middle_of_a_load(
    secure: Azurite, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CA_VARIABLES:
        monkeypatch.setenv(name, secure.ca_file)
    container = secure.new_container()
    where = {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=account;BlobEndpoint={secure.endpoint}/account"}
    wanted = [f"k{n:02}" for n in range(40)]
    for name in wanted:
        secure.call("PUT", f"{container}/{name}", (), name.encode())
    environ = {**identity.environ, **where}
    driver = driver_of(environ, f"azureblob://account/{container}")
    face = StoreFace(driver)
    try:
        assert [info.key for info in face.page().objects] == wanted
        said = driver.describe()
        assert said["credentials"] == "DefaultAzureCredential"
        assert "eyJ" not in str(said)
        # Azurite goes by the real clock: instead of waiting, the driver is given a token that has ended.
        identity.lifetime_s = -60
        driver._held.found = dataclasses.replace(driver._held.found, token=identity.token())  # type: ignore[type-var]
        identity.lifetime_s = 3600
        got = face.get_many(wanted)
        assert {name: data for name, (_, data, _) in got.items()} == {name: name.encode() for name in wanted}
        assert identity.asked == 2
    finally:
        face.close()


@pytest.mark.real
def test_an_unknown_certificate_says_what_to_set(secure: Azurite) -> None:
    where = f"AccountName=account;BlobEndpoint={secure.endpoint}/account;AccountKey={secure.key}"
    driver = driver_of({"AZURE_STORAGE_CONNECTION_STRING": where})
    with pytest.raises(TransientError, match=r"certificate.*; set SSL_CERT_FILE or --ca-file"):
        fetch(driver.prepare_get(KEY), Options.read({}))


BARE = {"PATH": "/usr/bin:/bin", "HOME": "/none", "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"}


def test_nothing_at_all_is_a_denial_that_says_what_to_set() -> None:
    with pytest.raises(DeniedError, match=r"no Azure credentials: .*; set AZURE_STORAGE_KEY, or AZURE_TENANT_ID"):
        driver_of(BARE).warm_up()


def test_half_a_service_principal_is_named() -> None:
    half = {**BARE, "AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t"}
    with pytest.raises(DeniedError, match="AZURE_CLIENT_ID is set, AZURE_CLIENT_SECRET not; "):
        driver_of(half).warm_up()


def test_a_token_that_is_refused_says_so_and_is_replaced(identity: Identity) -> None:
    driver = driver_of(identity.environ)
    driver.warm_up()
    first, signed = headers_of(driver.prepare_get(KEY))["authorization"], driver.signing
    with pytest.raises(RefusedError, match="correct AZURE_CLIENT_ID and its secret"):
        driver.parse_get(KEY, error_answer(401, "InvalidAuthenticationInfo"))
    driver.refresh_credentials(force=True)
    assert headers_of(driver.prepare_get(KEY))["authorization"] != first
    assert driver.signing is not signed
