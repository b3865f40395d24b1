"""Do Swift 2.38 and Keystone 30 and our driver understand one another?

The servers of `servers_swift.py`, which come from PyPI and take about 30 s to start; every test is marked `real`.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kopsfs.errors import ConfigError, ConflictError, DeniedError, StoreGoneError
from kopsfs.store import swift_credentials
from kopsfs.store.driver import ABSENT, ANY
from kopsfs.store.swift import SwiftDriver
from kopsfs.store.swift_credentials import Token, find, find_endpoint
from kopsfs.store.url import Settings, open_driver, parse
from tests.conftest import Counted
from tests.fuse.mounted import Mount
from tests.store.harness import StoreFace
from tests.store.servers_swift import SwiftServer, swift

pytestmark = pytest.mark.real


def _log_in(environ: Mapping[str, str]) -> Token:
    verify = environ.get("OS_CACERT", True)
    return swift_credentials.log_in(find(environ), find_endpoint(environ), verify=verify)


@pytest.fixture
def container(request: pytest.FixtureRequest) -> str:
    server: SwiftServer = request.getfixturevalue("swift")
    return server.new_container()


@pytest.fixture
def face(request: pytest.FixtureRequest, container: str) -> Iterator[StoreFace]:
    server: SwiftServer = request.getfixturevalue("swift")
    opened = StoreFace(open_driver(parse(f"swift://{container}"), Settings(environ=server.environment)))
    yield opened
    opened.close()


def _ways(server: SwiftServer) -> dict[str, dict[str, str]]:
    basic = server.environment
    without = {name: value for name, value in basic.items() if name in {"OS_AUTH_URL", "OS_REGION_NAME"}}
    secret = {"OS_APPLICATION_CREDENTIAL_SECRET": server.credential_secret}
    named = {"OS_APPLICATION_CREDENTIAL_NAME": "kopsfs", **secret}
    password = {"OS_PASSWORD": "kops-secret"}
    return {
        "name and project name": basic,
        "quoted": {name: f"'{value}'" for name, value in basic.items()},
        "unversioned URL": {**basic, "OS_AUTH_URL": basic["OS_AUTH_URL"].removesuffix("/v3")},
        "tenant name": {
            **without,
            **password,
            "OS_USERNAME": "kops",
            "OS_TENANT_NAME": "kops",
            "OS_DOMAIN_ID": "default",
        },
        "ids": {**without, **password, "OS_USERID": server.user_id, "OS_PROJECT_ID": server.project_id},
        "openrc's domains": {
            **without,
            **password,
            "OS_USERNAME": "kops",
            "OS_PROJECT_NAME": "kops",
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_ID": "default",
        },
        "credential by id": {**without, **secret, "OS_APPLICATION_CREDENTIAL_ID": server.credential_id},
        "credential by name": {**without, **named, "OS_USERNAME": "kops", "OS_DOMAIN_NAME": "Default"},
        "credential by name, user by id": {**without, **named, "OS_USERID": server.user_id},
    }


def test_every_way_to_log_in_reaches_the_same_account(swift: SwiftServer, container: str, tmp_path: Path) -> None:
    ways = _ways(swift)
    file = tmp_path / "config"
    file.write_text(
        f"[Default]\nidentity = {swift.keystone}\nuser = kops\npassword = kops-secret\n"
        "domain_name = Default\ntenant_name = kops\n[Global]\nregion = RegionOne\n"
    )
    ways["file"] = {"OPENSTACK_CREDENTIAL_FILE": str(file)}
    reached = {}
    for way, environ in ways.items():
        token = _log_in(environ)
        reached[way] = token.storage_url
        assert token.expires is not None
        assert token.expires > time.time()
    assert set(reached.values()) == {swift.storage}, reached


def test_bad_logins_say_what_to_set(swift: SwiftServer) -> None:
    basic = swift.environment
    with pytest.raises(DeniedError, match=r"Keystone refuses the login.*OS_PASSWORD"):
        _log_in({**basic, "OS_PASSWORD": "wrong"})
    with pytest.raises(DeniedError, match="OS_PROJECT_NAME"):
        _log_in({**basic, "OS_PROJECT_NAME": "nothing"})
    with pytest.raises(DeniedError, match="OS_APPLICATION_CREDENTIAL"):
        _log_in({**_ways(swift)["credential by id"], "OS_APPLICATION_CREDENTIAL_SECRET": "wrong"})
    with pytest.raises(ConfigError, match="region 'Nowhere': set OS_REGION_NAME to one of RegionOne"):
        _log_in({**basic, "OS_REGION_NAME": "Nowhere"})
    with pytest.raises(ConfigError, match="has no object-store: set OS_PROJECT_NAME"):
        _log_in({name: value for name, value in basic.items() if name != "OS_PROJECT_NAME"})


def test_no_container_and_no_right_are_told_apart(swift: SwiftServer, container: str) -> None:
    def as_stranger_in_our_account(*args: Any, **named: Any) -> Token:
        return replace(swift_credentials.log_in(*args, **named), storage_url=swift.storage)

    swift.put(container, "k", b"x")
    asks: list[Callable[[StoreFace], object]] = [
        lambda face: face.page(),
        lambda face: face.put("k", b"x", ANY),
        lambda face: face.get("k"),
    ]
    for ask in asks[:2]:
        face = StoreFace(open_driver(parse("swift://missing"), Settings(environ=swift.environment)))
        try:
            with pytest.raises(StoreGoneError, match="openstack container create missing"):
                ask(face)
        finally:
            face.close()
    driver = SwiftDriver(
        parse(f"swift://{container}"), Settings(environ=swift.stranger), log_in=as_stranger_in_our_account
    )
    face = StoreFace(driver)
    try:
        for ask in asks:
            with pytest.raises(DeniedError, match=f"no such right on container {container}"):
                ask(face)
    finally:
        face.close()


def test_another_clients_large_objects_have_their_real_size(
    swift: SwiftServer, container: str, face: StoreFace
) -> None:
    for n in range(3):
        swift.put(container, f"segments/{n}", b"abc" * 10)
    swift.put(container, "large/dynamic", b"", X_Object_Manifest=f"{container}/segments/")
    manifest = [{"path": f"/{container}/segments/{n}"} for n in range(3)]
    status, _, body = swift.call(
        "PUT", f"{container}/large/static?multipart-manifest=put", json.dumps(manifest).encode()
    )
    assert status == 201, body
    swift.put(container, "large/empty", b"")
    listed = {info.key: info for info in face.page("large/").objects}
    assert {key: info.size for key, info in listed.items()} == {
        "large/dynamic": 90,
        "large/empty": 0,
        "large/static": 90,
    }
    for key, info in listed.items():
        got, data = face.get(key)
        assert (got.version, len(data)) == (info.version, info.size), key
    heads = face.store.requests["head"]
    face.page("large/")
    assert face.store.requests["head"] == heads + 1, "only the dynamic one is asked for again"


def test_a_listing_that_lags_hides_nothing_we_did(swift: SwiftServer, container: str, face: StoreFace) -> None:
    first = face.put("changed", b"one", ABSENT)
    face.put("deleted", b"x", ABSENT)
    swift.container_server(False)
    try:
        second = face.put("changed", b"two", first.version)
        face.delete("deleted", ANY)
    finally:
        swift.container_server(True)
    status, _, body = swift.call("GET", f"{container}?format=json")
    while status != 200:
        status, _, body = swift.call("GET", f"{container}?format=json")
    raw = {entry["name"]: entry["hash"] for entry in json.loads(body)}
    assert raw == {"changed": first.version, "deleted": raw["deleted"]}, "the listing was meant to lag"
    assert {info.key: info.version for info in face.page().objects} == {"changed": second.version}
    swift.update()
    assert {info.key: info.version for info in face.page().objects} == {"changed": second.version}


@pytest.mark.fuse
def test_what_was_written_on_a_mount_stays_listed_while_the_container_lags(
    swift: SwiftServer, container: str, tmp_path: Path
) -> None:
    class Remote:
        url = f"swift://{container}"
        environment = swift.environment

    swift.put(container, "c.example.com/addons/one", b"one")
    with Mount(Remote(), tmp_path) as mount:  # type: ignore[arg-type]
        directory = mount / "c.example.com/addons"
        assert os.listdir(directory) == ["one"]
        swift.container_server(False)
        try:
            (directory / "one").write_bytes(b"two!")
            (directory / "new").write_bytes(b"new")
            assert mount.flush() == 0
        finally:
            swift.container_server(True)
        while swift.call("GET", container)[0] not in {200, 204}:
            pass
        assert swift.call("GET", container)[2] == b"c.example.com/addons/one\n", "the listing was meant to lag"
        for _ in range(3):
            mount.run("forget", str(mount.path))
            assert sorted(os.listdir(directory)) == ["new", "one"]
            assert (directory / "one").stat().st_size == 4
            assert (directory / "one").read_bytes() == b"two!"
            assert (directory / "new").read_bytes() == b"new"
    swift.update()


def test_whoever_lost_a_race_to_create_hears_of_it(swift: SwiftServer, face: StoreFace, counted: Counted) -> None:
    """Swift lets several creators win; each reads back, so at the end at most a few believe it."""
    from tests.store.test_contract import _race

    believers = []
    for turn in range(5):
        ends = _race(8, lambda n, turn=turn: face.put(f"k{turn}", f"racer {n}".encode(), ABSENT))
        winners = [n for n, end in enumerate(ends) if end is None]
        assert all(isinstance(end, ConflictError) for n, end in enumerate(ends) if n not in winners)
        assert int(face.get(f"k{turn}")[1].split()[1]) in winners, "whoever's bytes stay knows that he won"
        believers.append(len(winners))
    counted(f"creators that believe they won, of 8, in 5 rounds: {believers}")


def test_a_refused_token_costs_no_request_its_answer(swift: SwiftServer, container: str) -> None:
    driver = open_driver(parse(f"swift://{container}"), Settings(environ=swift.environment))
    face = StoreFace(driver)
    assert isinstance(driver, SwiftDriver)
    try:
        face.put("k", b"x", ABSENT)
        driver.signing = "X-Auth-Token: revoked"
        assert face.get("k")[1] == b"x"
        assert driver.signing != "X-Auth-Token: revoked"
    finally:
        face.close()


@pytest.mark.slow
def test_tokens_that_end_in_the_middle_of_a_load_are_renewed() -> None:
    """Tokens of 10 s, and a driver whose clock stands still, so that only a 401 tells: nothing fails for three lives."""
    with swift(token_seconds=10) as server:
        name = server.new_container()
        keys = [f"k{n}" for n in range(4)]  # Keystone validates few tokens at a time
        for key in keys:
            server.put(name, key, key.encode())
        logins: list[float] = []

        def log_in(*args: Any, **named: Any) -> Token:
            token = swift_credentials.log_in(*args, **named)
            logins.append(time.time())
            return token

        def clock() -> float:
            return min(time.time(), logins[-1] + 2) if logins else time.time()

        settings = Settings(environ=server.environment, clock=clock)
        face = StoreFace(SwiftDriver(parse(f"swift://{name}"), settings, log_in=log_in))
        rounds = 0
        try:
            while len(logins) < 4 and rounds < 20_000:
                got = face.get_many(keys)
                assert [error for _, _, error in got.values() if error is not None] == []
                assert {key: data for key, (_, data, _) in got.items()} == {key: key.encode() for key in keys}
                rounds += 1
        finally:
            face.close()
        assert len(logins) == 4
        lives = [after - before for before, after in itertools.pairwise(logins)]
        assert min(lives) > 5, f"renewed before the end: {lives}"
