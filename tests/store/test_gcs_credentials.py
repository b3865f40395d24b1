"""Who are we, to Google, on every kind of machine, and what is said when we are nobody?

Method: files of the test's own, and the emulator as token endpoint, metadata server and judge of tokens: it checks
the signature, the audience and the times of what it is shown. Nothing of this process's environment.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kopsfs.errors import ConfigError, DeniedError, RefusedError, StoreError, TransientError
from kopsfs.store import gcs_credentials
from kopsfs.store.curl import Options
from kopsfs.store.driver import ANY, Key
from kopsfs.store.gcs import GcsDriver
from kopsfs.store.renewal import RENEW_BEFORE_S
from kopsfs.store.url import Settings, parse
from tests.emulators.gcs import EVERYTHING, Server
from tests.store.harness import DriverFace, StoreFace
from tests.store.servers import free_port

ACCOUNT = "kops@p.iam.gserviceaccount.com"
READING = frozenset({"list", "get", "head"})
GIVEN = "GOOGLE_APPLICATION_CREDENTIALS"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(anonymous=False) as running:
        running.gcs.create_bucket("state")
        running.gcs.put("state", "k", b"stored")
        yield running


@functools.cache
def _key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def service_account(server: Server, path: Path, *, signed_by: str = "ours", **changes: Any) -> dict[str, str]:
    """Write a key file for an account that the server knows; give the environment that names it."""
    server.gcs.accounts[ACCOUNT] = (_key("ours").public_key(), EVERYTHING)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    row = {
        "type": "service_account",
        "client_email": ACCOUNT,
        "private_key_id": "1",
        "private_key": _key(signed_by).private_bytes(pem, pkcs8, serialization.NoEncryption()).decode(),
        "token_uri": f"{server.url}/token",
        **changes,
    }
    path.write_text(json.dumps(row))
    return {GIVEN: str(path), "HOME": str(path.parent)}


def user_file(server: Server, home: Path, refresh_token: str = "r", **more: str) -> None:
    path = home / ".config/gcloud/application_default_credentials.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": refresh_token, **more}
    path.write_text(json.dumps({**row, "token_uri": f"{server.url}/token"}))


def face_of(server: Server, environ: dict[str, str], **settings: Any) -> DriverFace:
    settings = {"environ": environ, **settings}
    return DriverFace(GcsDriver(parse("gs://state"), Settings(**settings), origin=server.url))


# -- each kind ---------------------------------------------------------------------------------------


def test_a_key_file_is_exchanged_for_a_token(server: Server, tmp_path: Path) -> None:
    face = face_of(server, service_account(server, tmp_path / "key.json"))
    assert face.get("k")[1] == b"stored"
    said = face._driver.describe()
    assert (said["account"], said["credentials"]) == (ACCOUNT, f"service account key {tmp_path / 'key.json'}")
    assert "ya29" not in str(said)


def test_gclouds_own_file_is_used_and_pays_for_its_project(server: Server, tmp_path: Path) -> None:
    server.gcs.refresh_tokens["r"] = EVERYTHING
    user_file(server, tmp_path, quota_project_id="billed")
    server.gcs.buckets["state"].requester_pays = True
    # CLOUDSDK_CONFIG is gcloud's and Python's; Go, and so kops, does not look at it.
    assert face_of(server, {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": "/none"}).get("k")[1] == b"stored"
    assert server.gcs.user_projects == {"billed"}


def test_the_machine_is_asked_last(server: Server, tmp_path: Path) -> None:
    server.gcs.machine = EVERYTHING
    machine = {"GCE_METADATA_HOST": server.url.removeprefix("http://"), "HOME": str(tmp_path)}
    face = face_of(server, machine)
    assert face.get("k")[1] == b"stored"
    assert face._driver.describe()["account"] == "machine@p.iam.gserviceaccount.com"
    server.gcs.refresh_tokens["r"] = EVERYTHING
    user_file(server, tmp_path)
    assert "user credentials" in str(face_of(server, machine)._driver.describe()["credentials"])
    key = service_account(server, tmp_path / "key.json")
    assert "service account" in str(face_of(server, {**machine, **key})._driver.describe()["credentials"])


def test_workload_identity_federation_is_followed_by_google_auth(server: Server, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text("who-we-are")
    server.gcs.federated["who-we-are"] = EVERYTHING
    row = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{server.url}/token",
        "credential_source": {"file": str(tmp_path / "subject")},
    }
    (tmp_path / "wif.json").write_text(json.dumps(row))
    environ = {GIVEN: str(tmp_path / "wif.json"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    face = face_of(server, environ)
    assert face.get("k")[1] == b"stored"
    assert 3000 < float(str(face._driver.describe()["credentials_expire"])) - time.time() < 4000
    (tmp_path / "subject").write_text("somebody-else")
    with pytest.raises(DeniedError, match=r"external_account .*wif.json: .*unknown subject token"):
        face_of(server, environ)
    (tmp_path / "wif.json").write_text(json.dumps({**row, "token_url": f"http://127.0.0.1:{free_port()}/token"}))
    with pytest.raises(TransientError, match="TransportError"):
        face_of(server, environ)


def test_no_sdk_is_loaded_where_a_key_file_suffices(server: Server, tmp_path: Path) -> None:
    environ = service_account(server, tmp_path / "key.json")
    program = (
        "import sys, json; from kopsfs.store.gcs import GcsDriver; from kopsfs.store.url import Settings, parse\n"
        "driver = GcsDriver(parse('gs://state'), Settings(environ=json.loads(sys.argv[1])), origin=sys.argv[2])\n"
        "before = {name for name in sys.modules if name.startswith(('google', 'requests', 'cryptography'))}\n"
        "driver.warm_up()\n"
        "print(sorted(before), [name for name in sys.modules if name.startswith(('google', 'requests'))])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, json.dumps(environ), server.url], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[] []\n"


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; name a readable key file or unset it"),
        ("{", "not JSON: make the key file again with gcloud"),
        ("[]", "credentials of type '' are not known; set GOOGLE_APPLICATION_CREDENTIALS"),
        ('{"type": "boto"}', "credentials of type 'boto' are not known"),
        ('{"type": "service_account", "client_email": "a"}', "private_key missing: make the key file again"),
        ('{"type": "authorized_user"}', "client_id and client_secret and refresh_token missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_at_once(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as error:
        GcsDriver(parse("gs://state"), Settings(environ={GIVEN: str(path)}))
    assert str(error.value).startswith(f"{GIVEN}={path}: ")
    assert message in str(error.value)


def test_a_private_key_that_is_none_is_named(server: Server, tmp_path: Path) -> None:
    environ = service_account(server, tmp_path / "key.json", private_key="-----BEGIN")
    with pytest.raises(DeniedError, match=r"key.json: private_key is not a PEM key"):
        face_of(server, environ)


def test_a_file_that_breaks_while_we_run_is_a_denial_until_it_is_mended(server: Server, tmp_path: Path) -> None:
    environ = service_account(server, tmp_path / "key.json")
    driver = face_of(server, environ)._driver
    assert isinstance(driver, GcsDriver)
    (tmp_path / "key.json").write_text("{")
    with pytest.raises(DeniedError, match="not JSON: make the key file again"):
        driver.refresh_credentials(force=True)
    service_account(server, tmp_path / "key.json")
    driver.refresh_credentials(force=True)


def test_a_key_that_was_withdrawn_is_a_denial_that_says_so(server: Server, tmp_path: Path) -> None:
    environ = service_account(server, tmp_path / "key.json", signed_by="others")
    with pytest.raises(DeniedError, match=rf"invalid_grant Invalid JWT Signature.; make a new key for {ACCOUNT}"):
        face_of(server, environ)


def test_a_login_that_was_revoked_is_a_denial_that_says_so(server: Server, tmp_path: Path) -> None:
    user_file(server, tmp_path, "gone")
    with pytest.raises(DeniedError, match=r"expired or revoked.; run `gcloud auth application-default login`"):
        face_of(server, {"HOME": str(tmp_path)})


def test_nothing_at_all_is_a_denial_that_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr(gcs_credentials, "METADATA_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(gcs_credentials, "PRODUCT_NAME", tmp_path / "none")
    with pytest.raises(DeniedError, match="no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file"):
        gcs_credentials.find({"HOME": str(tmp_path)}, Options.read({}))
    # On a machine of Google's the metadata server is only not up yet.
    (tmp_path / "product").write_text("Google Compute Engine\n")
    monkeypatch.setattr(gcs_credentials, "PRODUCT_NAME", tmp_path / "product")
    with pytest.raises(TransientError, match="the metadata server does not answer"):
        gcs_credentials.find({"HOME": str(tmp_path)}, Options.read({}))
    environ = {"HOME": str(tmp_path), "GCE_METADATA_HOST": server.url.removeprefix("http://")}
    with pytest.raises(DeniedError, match="the metadata server says 404, no service account"):
        gcs_credentials.find(environ, Options.read({}))


def test_an_overloaded_token_endpoint_is_no_denial(server: Server, tmp_path: Path) -> None:
    server.fault("status", verb="token", status=503, code="backendError", headers="Retry-After: 7\r\n")
    with pytest.raises(TransientError) as error:
        face_of(server, service_account(server, tmp_path / "key.json"))
    assert error.value.retry_after_s == 7


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_a_wrong_clock_is_corrected_by_googles(
    server: Server, tmp_path: Path, skew_s: float, expect_log: Callable[[str], None]
) -> None:
    expect_log(r"the clock differs from Google's by -?7[12]\d\d s; .* set this machine's")
    server.gcs.clock_skew_s = skew_s
    face = face_of(server, service_account(server, tmp_path / "key.json"))
    assert face.get("k")[1] == b"stored"
    assert server.gcs.requests["token"] == 2
    assert not face._driver.refresh_due(), "its end is counted by our clock"  # type: ignore[union-attr]


# -- what a token may do, and until when -------------------------------------------------------------


def test_a_token_is_renewed_before_its_end(server: Server, tmp_path: Path) -> None:
    now = [time.time()]
    face = face_of(server, service_account(server, tmp_path / "key.json"), clock=lambda: now[0])
    driver = face._driver
    assert isinstance(driver, GcsDriver)
    now[0] += 3600 - RENEW_BEFORE_S - 1
    assert not driver.refresh_due()
    now[0] += 2
    assert driver.refresh_due()
    server.gcs.clock_skew_s = now[0] - time.time()
    driver.refresh_credentials()
    assert not driver.refresh_due()
    assert driver.prepare_get(Key("k")).headers == ("Authorization: Bearer ya29.1", "Accept-Encoding: gzip")


def test_a_token_that_ended_is_renewed_once_and_then_refused(server: Server, tmp_path: Path) -> None:
    settings = Settings(environ=service_account(server, tmp_path / "key.json"))
    face = StoreFace(GcsDriver(parse("gs://state"), settings, origin=server.url))
    try:
        assert face.get("k")[1] == b"stored"
        server.gcs.end_tokens()
        assert face.get("k")[1] == b"stored"
        assert server.gcs.requests["token"] == 2
        server.gcs.end_tokens()
        server.gcs.lifetime_s = 0
        with pytest.raises(RefusedError, match=r"set GOOGLE_APPLICATION_CREDENTIALS to a good key"):
            face.get("k")
    finally:
        face.close()


@pytest.mark.parametrize(
    ("rights", "ask", "grant"),
    [
        ({"get", "head"}, lambda face: face.page(), "storage.objects.list.*grant roles/storage.objectViewer on state"),
        ({"list"}, lambda face: face.head("k"), "storage.objects.get.*grant roles/storage.objectViewer on state"),
        (READING, lambda face: face.put("k", b"x", ANY), "storage.objects.create.*grant roles/storage.objectUser"),
        (READING, lambda face: face.delete("k", ANY), "storage.objects.delete.*grant roles/storage.objectUser"),
    ],
)
def test_what_is_not_allowed_names_the_role(
    server: Server, tmp_path: Path, rights: set[str], ask: Any, grant: str
) -> None:
    environ = service_account(server, tmp_path / "key.json")
    server.gcs.accounts[ACCOUNT] = (_key("ours").public_key(), frozenset(rights))
    face = face_of(server, environ)
    with pytest.raises(DeniedError, match=grant):
        ask(face)
    assert server.gcs.get("state", "k") == b"stored"


def test_what_media_is_refused_is_plain_text_and_still_a_denial(server: Server, tmp_path: Path) -> None:
    environ = service_account(server, tmp_path / "key.json")
    server.gcs.accounts[ACCOUNT] = (_key("ours").public_key(), frozenset({"list"}))
    with pytest.raises(DeniedError, match=r"403 .*storage.objects.get") as error:
        face_of(server, environ).get("k")
    assert isinstance(error.value, StoreError)
