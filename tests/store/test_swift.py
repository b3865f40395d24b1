"""Does the Swift driver log in as kops does, and does it see through what Swift gets wrong?

Where credentials are found (tables), what answers mean (made-up answers, each with the behaviour of the real
server it stands for), and what TLS does. `test_swift_real.py` asks the real servers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
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
    RefusedError,
    StoreError,
    StoreGoneError,
    TransientError,
)
from kopsfs.store import swift_credentials
from kopsfs.store.driver import ABSENT, ANY, Answer, Key, Page, Prefix
from kopsfs.store.memory import MemoryDriver
from kopsfs.store.renewal import RENEW_BEFORE_S
from kopsfs.store.swift import SwiftDriver
from kopsfs.store.swift_credentials import Endpoint, Login, Token, find, find_endpoint
from kopsfs.store.url import Settings, open_driver, parse
from tests.store.harness import StoreFace
from tests.support.keystone import Cloud

K = Key("c.example.com/config")
URL = "https://keystone.example.com:5000/v3"
BASIC = {"OS_AUTH_URL": URL, "OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_DOMAIN_NAME": "Default"}
FILE = """
[Default]
identity = https://file.example.com/v3   # comment
user = "u"
password = p%#;w
domain_name = Default
tenant_name = t
[Global]
region = R1
"""


# -- where credentials are found --------------------------------------------------------------------------


def _home(tmp_path: Path, text: str | None) -> dict[str, str]:
    if text is not None:
        (tmp_path / ".openstack").mkdir()
        (tmp_path / ".openstack" / "config").write_text(text)
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("environ", "fields"),
    [
        (BASIC, {"auth_url": URL, "user": "u", "password": "p", "domain": "Default", "project_domain": "Default"}),
        ({**BASIC, "OS_AUTH_URL": f"'{URL}'", "OS_PASSWORD": "'p'"}, {"auth_url": URL, "password": "p"}),
        ({**BASIC, "OS_PASSWORD": "it's"}, {"password": "it's"}),
        ({"OS_AUTH_URL": URL, "OS_USERID": "id", "OS_PASSWORD": "p"}, {"user_id": "id", "user": ""}),
        ({"OS_AUTH_URL": URL, "OS_USER_ID": "id", "OS_PASSWORD": "p"}, {"user_id": "id"}),
        ({**BASIC, "OS_TENANT_NAME": "t", "OS_PROJECT_NAME": "p1"}, {"project": "p1"}),
        ({**BASIC, "OS_TENANT_ID": "t", "OS_PROJECT_ID": "p1"}, {"project_id": "p1"}),
        ({**BASIC, "OS_TENANT_NAME": "t", "OS_TENANT_ID": "i"}, {"project": "t", "project_id": "i"}),
        (
            {**BASIC, "OS_USER_DOMAIN_NAME": "other", "OS_PROJECT_DOMAIN_NAME": "third"},
            {"domain": "Default", "project_domain": "Default"},
        ),
        (
            {**BASIC, "OS_DOMAIN_NAME": "", "OS_USER_DOMAIN_NAME": "a", "OS_PROJECT_DOMAIN_ID": "b"},
            {"domain": "a", "domain_id": "", "project_domain_id": "b", "project_domain": ""},
        ),
        (
            {**BASIC, "OS_DOMAIN_NAME": "", "OS_PROJECT_DOMAIN_NAME": "'a'", "OS_PROJECT_NAME": "t"},
            {"domain": "a", "project_domain": "a"},
        ),
        (
            {"OS_AUTH_URL": URL, "OS_APPLICATION_CREDENTIAL_ID": "i", "OS_APPLICATION_CREDENTIAL_SECRET": "s"},
            {"credential_id": "i", "credential_secret": "s", "user": ""},
        ),
        (
            {
                **{k: v for k, v in BASIC.items() if k != "OS_PASSWORD"},
                "OS_APPLICATION_CREDENTIAL_NAME": "n",
                "OS_APPLICATION_CREDENTIAL_SECRET": "s",
            },
            {"credential": "n", "user": "u", "domain": "Default"},
        ),
        ({**BASIC, "OS_PASSWORD": "", "OS_PASSCODE": "123456"}, {"passcode": "123456"}),
        ({**BASIC, "OS_SYSTEM_SCOPE": "all"}, {"system": True}),
    ],
)
def test_variables_mean_what_they_mean_to_kops(environ: dict[str, str], fields: dict[str, object]) -> None:
    login = find(environ)
    assert {name: getattr(login, name) for name in fields} == fields
    assert login.origin == "environment"


@pytest.mark.parametrize(
    ("without", "extra", "says"),
    [
        ("OS_AUTH_URL", {}, "Missing environment variable [OS_AUTH_URL]"),
        ("OS_USERNAME", {}, "Missing one of the following environment variables [OS_USERID, OS_USERNAME]"),
        ("OS_PASSWORD", {}, "Missing environment variable [OS_PASSWORD]"),
        (
            "OS_PASSWORD",
            {"OS_APPLICATION_CREDENTIAL_ID": "i"},
            "Missing environment variable [OS_APPLICATION_CREDENTIAL_SECRET]",
        ),
        ("OS_DOMAIN_NAME", {"OS_PROJECT_NAME": "t"}, "Missing environment variable [OS_PROJECT_ID]"),
        (
            "OS_DOMAIN_NAME",
            {"OS_APPLICATION_CREDENTIAL_NAME": "n", "OS_APPLICATION_CREDENTIAL_SECRET": "s"},
            "Missing one of the following environment variables [OS_DOMAIN_ID, OS_DOMAIN_NAME]",
        ),
    ],
)
def test_half_a_login_is_named(tmp_path: Path, without: str, extra: dict[str, str], says: str) -> None:
    environ = {**BASIC, **extra, **_home(tmp_path, None)}
    del environ[without]
    with pytest.raises(ConfigError) as error:
        find(environ)
    path = tmp_path / ".openstack" / "config"
    assert str(error.value) == (
        f"swift: error loading config file: open {path}: no such file or directory; from the environment: {says}"
    )


def test_a_missing_variable_sends_kops_to_the_file(tmp_path: Path) -> None:
    environ = {**_home(tmp_path, FILE), "OS_USERNAME": "ignored", "OS_PROJECT_NAME": "ignored"}
    login = find(environ)
    assert (login.auth_url, login.user, login.password) == ("https://file.example.com/v3", "u", "p%#;w")
    assert (login.project, login.domain, login.origin) == ("t", "Default", str(tmp_path / ".openstack" / "config"))
    assert find_endpoint(environ) == Endpoint(region="R1")
    other = tmp_path / "other"
    other.write_text(FILE.replace("t\n", "t2\n"))
    assert find({**environ, "OPENSTACK_CREDENTIAL_FILE": str(other)}).origin == str(other)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[Global]\nregion = x\n", 'error getting section of Default: section "Default" does not exist'),
        ("[DEFAULT]\nidentity = x\n", 'error getting section of Default: section "Default" does not exist'),
        ("[Default]\npassword = x\n", "missing identity in section of Default"),
        ("[Default]\nidentity = x\n", "missing password in section of Default"),
        ("[Default]\nidentity = x\npassword = x\n", "missing user and user_id in section of Default"),
        ("[Default]\nidentity = x\npassword = x\nuser = x\n", "missing domain_name and domain_id in section of"),
        (
            "[Default]\nidentity = x\npassword = x\nuser = x\ndomain_id = x\n",
            "missing tenant_name and tenant_id in section of Default",
        ),
        ("[Default]\n = hunter2\n", "error loading config file: "),
    ],
)
def test_a_file_that_lacks_something_is_named_in_kopss_words(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        find(_home(tmp_path, text))
    assert says in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("environ", "text", "endpoint"),
    [
        ({"OS_REGION_NAME": "'R2'"}, FILE, Endpoint(region="R2")),
        ({}, FILE, Endpoint(region="R1")),
        ({}, "[Global]\nother = x\n", Endpoint(region="")),
        (
            {},
            "[Swift]\nservice_type = store\nservice_name = mine\nregion = R3\navailability = internal\n",
            Endpoint(region="R3", service_type="store", service_name="mine", interface="internal"),
        ),
        ({}, "[Swift]\nservice_name = mine\n", "missing region in section of Swift"),
        ({}, None, "region not provided in OS_REGION_NAME or openstack config section GLOBAL"),
    ],
)
def test_the_region_is_found_where_kops_finds_it(
    tmp_path: Path, environ: dict[str, str], text: str | None, endpoint: Endpoint | str
) -> None:
    environ = {**environ, **_home(tmp_path, text)}
    if isinstance(endpoint, Endpoint):
        assert find_endpoint(environ) == endpoint
    else:
        with pytest.raises(ConfigError, match=endpoint):
            find_endpoint(environ)


# -- what answers mean ------------------------------------------------------------------------------------


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Logins:
    """Stands for Keystone: each login gives another token, good for an hour."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.count = 0

    def __call__(self, login: Login, endpoint: Endpoint, *, verify: object) -> Token:
        self.count += 1
        return Token(f"token-{self.count}", "https://swift/v1/A", self.clock.now + 3600)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(clock: Clock) -> Logins:
    return Logins(clock)


@pytest.fixture
def driver(clock: Clock, logins: Logins) -> SwiftDriver:
    return _driver(clock, logins)


def _driver(clock: Clock, logins: Logins, **settings: Any) -> SwiftDriver:
    environ = {**BASIC, "OS_REGION_NAME": "R"}
    made = SwiftDriver(parse("swift://box"), Settings(environ=environ, clock=clock, **settings), log_in=logins)
    made.warm_up()
    return made


def _object(tag: str = "a" * 32, second: int = 1000, size: int = 5, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    stamp = {"x-timestamp": f"{second - 1}.50000"}
    return Answer(200, {"etag": tag, "content-length": str(size), **stamp, **named}, b"")


def _list(*entries: Mapping[str, Any]) -> Answer:
    full = [entry if "subdir" in entry else {"name": K, "bytes": 5, "hash": "a" * 32, **entry} for entry in entries]
    for entry in full:
        if "subdir" not in entry:
            second = entry.pop("second", 1000) - 1
            entry["last_modified"] = f"1970-01-01T00:{second // 60:02}:{second % 60:02}.500000"
    return Answer(200, {}, json.dumps(full).encode())


def _page(driver: SwiftDriver, *entries: Mapping[str, Any]) -> Page:
    return driver.parse_list(Prefix(""), _list(*entries))


def test_the_same_state_has_one_version_and_time_however_it_is_seen(driver: SwiftDriver) -> None:
    put = driver.parse_put(K, 5, Answer(201, {"etag": "a" * 32, "last-modified": "Thu, 01 Jan 1970 00:16:40 GMT"}, b""))
    head = driver.parse_head(K, _object())
    listed = _page(driver, {}).objects[0]
    assert put == head == listed
    assert head.md5 == "a" * 32


def test_a_listing_older_than_what_we_did_is_doubted(driver: SwiftDriver) -> None:
    """Swift: PUT while the container server is down; the next listing shows the state before."""
    driver.parse_put(K, 5, Answer(201, {"etag": "b" * 32, "last-modified": "Thu, 01 Jan 1970 00:16:40 GMT"}, b""))
    assert _page(driver, {"hash": "a" * 32, "second": 900}).doubtful == {K}
    assert _page(driver, {"hash": "a" * 32, "second": 1000}).doubtful == {K}
    assert _page(driver, {"hash": "b" * 32, "second": 1000}).doubtful == frozenset()
    assert _page(driver, {"hash": "c" * 32, "second": 1001}).doubtful == frozenset()


@pytest.mark.parametrize("seen", ["delete", "head", "get"])
def test_a_listing_that_shows_what_is_gone_is_doubted(driver: SwiftDriver, seen: str) -> None:
    if seen == "delete":
        driver.parse_delete(K, Answer(204, {}, b""))
    else:
        with pytest.raises(NotFoundError):
            getattr(driver, f"parse_{seen}")(K, Answer(404, {}, b""))
    assert _page(driver, {}).doubtful == {K}
    driver.parse_head(K, _object())  # somebody made it again
    assert _page(driver, {}).doubtful == frozenset()


def test_what_a_reader_saw_goes_before_an_older_listing(driver: SwiftDriver) -> None:
    driver.parse_get(K, _object("b" * 32, 1005))
    assert _page(driver, {"second": 1000}).doubtful == {K}


def test_an_empty_entry_may_be_a_manifest_and_is_asked_for_once(driver: SwiftDriver) -> None:
    """Swift lists a dynamic large object and a symlink with 0 bytes and the MD5 of nothing."""
    empty = {"bytes": 0, "hash": "d" * 32}
    assert _page(driver, empty).doubtful == {K}
    driver.parse_head(K, _object("d" * 32, 1000, 0))
    assert _page(driver, empty).doubtful == frozenset()
    assert _page(driver, {**empty, "second": 1001}).doubtful == {K}
    driver.parse_head(K, _object('"of-no-segments"', 1001, 0, x_object_manifest="seg/x"))
    assert _page(driver, {**empty, "second": 1001}).doubtful == {K}
    info = driver.parse_head(K, _object('"e-of-e"', 1001, 500, x_object_manifest="seg/x"))
    assert (info.size, info.version, info.md5) == (500, "e-of-e", None)
    assert _page(driver, {**empty, "second": 1001}).doubtful == {K}


def test_a_static_large_object_has_the_version_of_its_head(driver: SwiftDriver) -> None:
    info = driver.parse_head(K, _object('"slo"', 1000, 500, x_static_large_object="True"))
    page = _page(driver, {"bytes": 500, "slo_etag": '"slo"'})
    assert page.objects == [info]
    assert page.doubtful == frozenset()
    # Ceph lists the manifest's own 64 bytes and does not say so.
    assert _page(driver, {"bytes": 64}).doubtful == {K}


def test_a_replica_that_is_behind_is_not_believed_at_first(driver: SwiftDriver) -> None:
    driver.parse_head(K, _object("b" * 32, 1005))
    assert "X-Newest: true" not in driver.prepare_get(K).headers
    with pytest.raises(TransientError):
        driver.parse_get(K, _object("a" * 32, 1000))
    assert "X-Newest: true" in driver.prepare_get(K).headers
    assert driver.parse_get(K, _object("a" * 32, 1000)).version == "a" * 32  # no replica knows better
    assert "X-Newest: true" not in driver.prepare_get(K).headers


def test_bytes_that_are_not_the_etags_are_corrupt(driver: SwiftDriver) -> None:
    with pytest.raises(CorruptError):
        driver.parse_get(K, Answer(200, {"etag": "a" * 32, "content-length": "2", "x-timestamp": "1.0"}, b"xx"))


def test_a_listing_is_cut_where_there_is_more(driver: SwiftDriver, clock: Clock, logins: Logins) -> None:
    small = _driver(clock, logins, page_size=2)
    assert "limit=3&" in small.prepare_list(Prefix("a/"), delimiter=True, token="m é", start_after=None).url
    full = _list({"name": "a"}, {"subdir": "b/"}, {"name": "c"})
    page = small.parse_list(Prefix(""), full)
    assert ([info.key for info in page.objects], page.prefixes, page.token) == (["a"], ["b/"], "b/")
    assert small.parse_list(Prefix(""), _list({"name": "a"}, {"name": "b"})).token is None


def test_requests_say_what_swift_needs(driver: SwiftDriver) -> None:
    put = driver.prepare_put(Key("a/../b %é"), b"x", 1, expected=ABSENT)
    assert put.url == "https://swift/v1/A/box/a/../b%20%25%C3%A9"
    assert {"If-None-Match: *", "ETag: 9dd4e461268c8034f5c8564e155c67a6"} < set(put.headers)
    assert "If-None-Match: *" not in driver.prepare_put(K, b"x", 1, expected=ANY).headers
    assert "X-Newest: true" in driver.prepare_head(K).headers
    for bad in ("", "a\0b", "k" * 1025, "\ud800"):
        with pytest.raises(InvalidKeyError):
            driver.prepare_get(Key(bad))


@pytest.mark.parametrize(
    ("op", "status", "kind"),
    [
        ("head", 403, DeniedError),
        ("put", 403, DeniedError),
        ("list", 403, DeniedError),
        ("list", 404, StoreGoneError),
        ("put", 404, StoreGoneError),
        ("get", 404, NotFoundError),
        ("put", 412, ConflictError),
        ("get", 412, InvalidKeyError),
        ("put", 413, QuotaError),
        ("put", 422, TransientError),
        ("put", 409, TransientError),
        ("get", 429, TransientError),
        ("get", 498, TransientError),
        ("list", 503, TransientError),
        ("list", 302, TransientError),
        ("put", 400, StoreError),
    ],
)
def test_a_status_is_one_error(driver: SwiftDriver, op: str, status: int, kind: type[StoreError]) -> None:
    answer = Answer(status, {"retry-after": "7"}, b"<html><h1>No</h1><p>Because\nso.</p></html>")
    with pytest.raises(StoreError) as error:
        driver.parse_put(K, 1, answer) if op == "put" else getattr(driver, f"parse_{op}")(K, answer)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    if status in {429, 498, 503}:
        assert error.value.retry_after_s == 7.0  # type: ignore[attr-defined]
    if kind is StoreGoneError:
        assert "openstack container create box" in str(error.value)


def test_a_portals_200_is_no_object(driver: SwiftDriver) -> None:
    with pytest.raises(TransientError):
        driver.parse_get(K, Answer(200, {}, b"<html>log in</html>"))
    with pytest.raises(TransientError):
        driver.parse_list(Prefix(""), Answer(200, {}, b"<html>log in</html>"))


def test_a_token_is_renewed_before_it_ends(driver: SwiftDriver, clock: Clock, logins: Logins) -> None:
    clock.now += 3600 - RENEW_BEFORE_S - 1
    assert not driver.refresh_due()
    clock.now += 2
    assert driver.refresh_due()
    driver.refresh_credentials()
    assert (logins.count, driver.refresh_due()) == (2, False)
    assert driver.prepare_get(K).headers[0] == "X-Auth-Token: token-2"


def test_a_refused_token_says_so(driver: SwiftDriver) -> None:
    with pytest.raises(RefusedError, match="401: Swift refuses the token of https://keystone"):
        driver.parse_get(K, Answer(401, {}, b""))


def test_metadata_is_said_again_where_it_is_to_be_kept(clock: Clock, logins: Logins) -> None:
    driver = _driver(clock, logins, keep_metadata=True)
    driver.parse_head(K, _object(content_type="text/x-yaml", x_object_meta_owner="me", x_trans_id="no"))
    headers = set(driver.prepare_put(K, b"x", 1, expected=ANY).headers)
    assert {"content-type: text/x-yaml", "x-object-meta-owner: me"} < headers
    assert not any(line.startswith("x-trans-id") for line in headers)


def test_status_never_shows_a_credential(driver: SwiftDriver) -> None:
    shown = str(driver.describe())
    assert "token-1" not in shown
    assert "'p'" not in shown
    assert {"endpoint", "bucket", "region", "keystone"} <= set(driver.describe())


class Lagging(MemoryDriver):
    """A store whose listings are of another time than its objects."""

    stale: Page

    def list_page(self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None) -> Page:
        return self.stale


def test_store_settles_what_a_page_calls_doubtful() -> None:
    driver = Lagging("lagging")
    face = StoreFace(driver, prefix="kops/")
    try:
        old = face.put("changed", b"one", ABSENT)
        new = face.put("changed", b"three", old.version)
        listed = {key: replace(old, key=Key(f"kops/{key}")) for key in ("changed", "gone", "sure")}
        driver.stale = Page(list(listed.values()), [], "on", frozenset({Key("kops/changed"), Key("kops/gone")}))
        page = face.page()
        assert [(info.key, info.version) for info in page.objects] == [("changed", new.version), ("sure", old.version)]
        assert page.token == "on"
        driver.stale = Page([], [], None, frozenset({Key("\ud800")}))
        with pytest.raises(InvalidKeyError):
            face.page()
    finally:
        face.close()


# -- certificates: a cloud with its own authority ---------------------------------------------------------------


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path) as running:
        yield running


def _lists(cloud: Cloud, **extra: str) -> list[str]:
    driver = open_driver(parse("swift://box"), Settings(environ={**cloud.environment, **extra}))
    face = StoreFace(driver)
    try:
        return [info.key for info in face.page().objects]
    finally:
        face.close()


@pytest.mark.parametrize("value", ["true", "1"])
def test_certificates_are_checked_unless_kopss_variable_says_no(cloud: Cloud, value: str) -> None:
    with pytest.raises(ConfigError, match=r"certificate cannot be verified.*KOPS_OS_TLS_INSECURE_SKIP_VERIFY"):
        _lists(cloud)
    with pytest.raises(ConfigError, match="certificate cannot be verified"):
        _lists(cloud, KOPS_OS_TLS_INSECURE_SKIP_VERIFY="yes")
    assert _lists(cloud, OS_CACERT=str(cloud.certificate)) == ["k"]
    assert _lists(cloud, KOPS_OS_TLS_INSECURE_SKIP_VERIFY=value) == ["k"]


def test_a_keystone_that_is_none_is_named(cloud: Cloud) -> None:
    environ = {**cloud.environment, "OS_CACERT": str(cloud.certificate)}
    with pytest.raises(ConfigError, match=r"does not answer as Keystone v3.*OS_AUTH_URL"):
        _log_in({**environ, "OS_AUTH_URL": f"{environ['OS_AUTH_URL']}/nothing"})


def _log_in(environ: Mapping[str, str]) -> Token:
    verify = environ.get("OS_CACERT", True)
    return swift_credentials.log_in(find(environ), find_endpoint(environ), verify=verify)


def test_a_keystone_that_is_away_is_tried_again() -> None:
    with pytest.raises(TransientError, match=r"Keystone at OS_AUTH_URL=http://127.0.0.1:1/v3: "):
        _log_in({**BASIC, "OS_AUTH_URL": "http://127.0.0.1:1/v3", "OS_REGION_NAME": "R"})
