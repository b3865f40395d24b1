"""Who are we, to S3, and where is it, on a machine that may be an instance or a container?

Method: files, a helper program and a metadata service of the test's own; nothing of this process's environment.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopsfs.errors import ConfigError, DeniedError
from kopsfs.store import s3_credentials, s3_site
from tests.support.listening import Listener
from tests.support.s3 import AWS, CUSTOM, KEY, driver_of, headers_of


@pytest.mark.parametrize("missing", ["S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"])
def test_an_endpoint_without_its_keys_fails_in_kops_words(missing: str) -> None:
    environ = {name: value for name, value in {**CUSTOM, **AWS}.items() if name != missing}
    with pytest.raises(ConfigError, match=f"^{missing} cannot be empty when S3_ENDPOINT is not empty$"):
        driver_of(environ)


def test_a_custom_endpoint_takes_no_session_token_and_no_chain() -> None:
    driver = driver_of({**CUSTOM, "AWS_SESSION_TOKEN": "t", "AWS_ACCESS_KEY_ID": "OTHER"})
    headers = headers_of(driver.prepare_get(KEY))
    assert "x-amz-security-token" not in headers
    assert "Credential=AKID/" in headers["authorization"]


PROFILES = """
[default]
aws_access_key_id = DEFAULT
aws_secret_access_key = ds
[work]
aws_access_key_id = WORK
aws_secret_access_key = ws%x
aws_session_token = wt
[profile role]
role_arn = arn:aws:iam::1:role/r
source_profile = default
[half]
aws_access_key_id = HALF
[both]
aws_access_key_id = BOTH
aws_secret_access_key = bs
"""


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, ("DEFAULT", "ds", "")),
        ({"AWS_PROFILE": "work"}, ("WORK", "ws%x", "wt")),
        ({"AWS_PROFILE": "work", **AWS, "AWS_SESSION_TOKEN": "et"}, ("AKID", "hush-hush", "et")),
        ({"AWS_PROFILE": "conf"}, ("CONF", "cs", "")),
        ({"AWS_PROFILE": "role"}, None),
        ({"AWS_PROFILE": "both"}, None),
        ({"AWS_PROFILE": "sso"}, None),
        ({"AWS_PROFILE": "half"}, None),
        ({"AWS_PROFILE": "none"}, None),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}, None),
    ],
)
def test_a_key_pair_is_found_without_the_sdk(
    tmp_path: Path, environ: dict[str, str], found: tuple[str, str, str] | None
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(PROFILES)
    (tmp_path / ".aws/config").write_text(
        "[profile conf]\naws_access_key_id=CONF\naws_secret_access_key=cs\n[profile sso]\nsso_session=x\n"
        "[profile role]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=default\n"
        "[profile both]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=both\n"
    )
    pair = s3_credentials.key_pair({"HOME": str(tmp_path), **environ})
    if found is None:
        assert pair is None
    else:
        assert pair is not None
        credentials = pair.credentials
        assert (credentials.access_key, credentials.secret_key, credentials.token) == found


def test_a_credentials_file_that_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("aws_access_key_id=x\n")
    with pytest.raises(ConfigError, match=str(tmp_path / "c")):
        s3_credentials.key_pair({"HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "c")})


NO_AWS = {"AWS_EC2_METADATA_DISABLED": "true", "PATH": "/usr/bin:/bin"}


def test_the_chain_is_followed_by_a_helper_and_renewed_before_its_end(tmp_path: Path) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
    row = {"Version": 1, "AccessKeyId": "PROC", "SecretAccessKey": "ps", "SessionToken": "pt", "Expiration": soon}
    (tmp_path / "row").write_text(json.dumps(row))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/row\n")
    environ = {**NO_AWS, "HOME": str(tmp_path), "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_REGION": "r"}
    now = [time.time()]
    driver = driver_of(environ, clock=lambda: now[0])
    assert driver.refresh_due()
    driver.warm_up()
    headers = headers_of(driver.prepare_get(KEY))
    assert headers["x-amz-security-token"] == "pt"
    assert "Credential=PROC/" in headers["authorization"]
    assert not driver.refresh_due(), "a process that gives what ends in 5 minutes is not asked at once again"
    now[0] += 151
    assert driver.refresh_due()
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7200))
    (tmp_path / "row").write_text(json.dumps({**row, "AccessKeyId": "PROC2", "Expiration": later}))
    driver.refresh_credentials()
    assert "Credential=PROC2/" in headers_of(driver.prepare_get(KEY))["authorization"]
    assert not driver.refresh_due()


def test_no_credentials_at_all_is_said(tmp_path: Path) -> None:
    driver = driver_of({**NO_AWS, "HOME": str(tmp_path), "AWS_REGION": "us-east-1"})
    with pytest.raises(DeniedError, match="no AWS credentials: set AWS_ACCESS_KEY_ID"):
        driver.warm_up()


def _end() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7200))


class _Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata service (credentials of a container and of an instance, its region), and STS."""

    def do_PUT(self) -> None:
        self._answer(b"the-token")

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/placement/region":
            self._answer(b"ap-south-1" if self.headers["X-aws-ec2-metadata-token"] == "the-token" else b"")
        elif self.path.endswith("/iam/security-credentials/"):
            self._answer(b"role-of-the-machine")
        else:
            name = "EC2" if self.path.endswith("/role-of-the-machine") else "ECS"
            row = {"Code": "Success", "AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": _end()}
            self._answer(json.dumps(row).encode())

    def do_POST(self) -> None:
        asked = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        action = asked["Action"]
        scope = self.headers.get("Authorization", "").partition("Credential=")[2].split("/")
        by = asked.get("WebIdentityToken") or f"{scope[0]}@{scope[2]}"
        made = f"<AccessKeyId>{by}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
        self._answer(
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>{made}'
            f"<Expiration>{_end()}</Expiration></Credentials></{action}Result></{action}Response>".encode()
        )

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    with Listener(_Metadata) as server:
        yield server.url


def test_credentials_of_a_container(tmp_path: Path, metadata: str) -> None:
    environ = {**NO_AWS, "HOME": str(tmp_path), "AWS_CONTAINER_CREDENTIALS_FULL_URI": metadata + "/creds"}
    found = s3_credentials.find(environ)
    assert (found.credentials.access_key, found.origin) == ("ECS", "container-role")
    assert found.expires is not None
    assert 7100 < found.expires - time.time() < 7300


@pytest.mark.parametrize(
    ("environ", "access_key", "origin"),
    [
        ({"AWS_PROFILE": "role"}, "DEFAULT@us-east-1", "assume-role"),
        ({"AWS_PROFILE": "role", "AWS_REGION": "eu-1", "AWS_DEFAULT_REGION": "no"}, "DEFAULT@eu-1", "assume-role"),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "HOME/web", "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"},
            "who-we-are",
            "assume-role-with-web-identity",
        ),
        ({"AWS_EC2_METADATA_DISABLED": "false", "AWS_PROFILE": "empty"}, "EC2", s3_credentials.INSTANCE),
    ],
)
def test_credentials_of_a_role(
    tmp_path: Path, metadata: str, environ: dict[str, str], access_key: str, origin: str
) -> None:
    (tmp_path / "both").write_text(PROFILES + "[profile empty]\n[empty]\n")
    (tmp_path / "web").write_text("who-we-are")
    files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), str(tmp_path / "both"))
    where = dict.fromkeys(("AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_SERVICE_ENDPOINT"), metadata)
    environ = {name: value.replace("HOME", str(tmp_path)) for name, value in environ.items()}
    found = s3_credentials.find({**NO_AWS, **files, **where, "HOME": str(tmp_path), **environ})
    assert (found.credentials.access_key, found.credentials.token, found.origin) == (access_key, "t", origin)
    assert found.expires is not None
    assert 7000 < found.expires - time.time() < 7300


def test_the_region_of_an_instance(tmp_path: Path, metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = tmp_path / "product_uuid"
    monkeypatch.setattr(s3_site, "PRODUCT_UUID", uuid)
    monkeypatch.setattr(s3_site, "IMDS", metadata)
    monkeypatch.setattr(s3_site, "IMDS_TIMEOUT_S", 5.0)
    environ = {name: value for name, value in AWS.items() if name != "AWS_REGION"}
    for text, region in ((None, "us-east-1"), ("4C4C4544-x", "us-east-1"), ("EC2E1916-x\n", "ap-south-1")):
        if text is not None:
            uuid.write_text(text)
        driver = driver_of(environ)
        driver.warm_up()
        assert driver.describe()["region"] == region
    driver = driver_of(AWS)
    driver.warm_up()
    assert driver.describe()["region"] == "us-east-1", "AWS_REGION is believed first"


def test_no_sdk_is_imported_for_a_key_pair() -> None:
    program = (
        "import sys; from tests.support.s3 import driver_of, AWS, KEY\n"
        "for name in [n for n in sys.modules if n.startswith('boto')]: del sys.modules[name]\n"
        "driver_of(AWS).warm_up(); driver_of(AWS).prepare_get(KEY)\n"
        "sys.exit(any(name.startswith('boto') for name in sys.modules))"
    )
    root = Path(__file__).parent.parent.parent
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def test_no_secret_is_shown() -> None:
    for environ in (CUSTOM, {**AWS, "AWS_SESSION_TOKEN": "hush-hush-token"}):
        driver = driver_of(environ)
        shown = f"{driver.describe()} {driver!r} {driver._held.found!r} {vars(driver)} {vars(driver._held)}"
        assert "hush" not in shown.replace(repr(environ), "")
