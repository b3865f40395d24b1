"""Does a mount of a real server live as one of ours does?

moto (AWS's answers), Ceph's gateway (bare tags in If-Match) and s3rver (no condition at all): a life, a lost
race, a kill. Each server starts once; a bucket of its own for each test.
"""

from __future__ import annotations

import time
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeMount
from tests.fuse.load import Promises
from tests.fuse.mounted import Mount
from tests.fuse.test_conflicts import program
from tests.fuse.test_smoke import life
from tests.store.conftest import start_server  # noqa: F401 - a fixture
from tests.store.servers import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.real, pytest.mark.slow]


class RealRemote:
    """A bucket of a real S3 server, through its own API."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = server.new_bucket()
        self.url = f"s3://{self.bucket}"

    @property
    def environment(self) -> Mapping[str, str]:
        return self.server.environment

    def put(self, key: str, data: bytes) -> object:
        return self.server.call("PUT", self._path(key), body=data)

    def get(self, key: str) -> bytes:
        return self.server.call("GET", self._path(key))

    def delete(self, key: str) -> None:
        self.server.call("DELETE", self._path(key))

    def keys(self) -> list[str]:
        found = ET.fromstring(self.server.call("GET", f"/{self.bucket}", "list-type=2"))
        return [str(e.text) for e in found.iter() if e.tag.rpartition("}")[2] == "Key"]

    def _path(self, key: str) -> str:
        return f"/{self.bucket}/{urllib.parse.quote(key)}"


@pytest.fixture(params=["moto", "ceph", "s3rver"])
def real(request: pytest.FixtureRequest) -> RealRemote:
    start: Callable[[str], S3Server] = request.getfixturevalue("start_server")
    return RealRemote(start(request.param))


def test_a_life(real: RealRemote, tmp_path: Path) -> None:
    life(real, Mount(real, tmp_path))


@pytest.mark.parametrize("way", ["kops", "temp", "unlink", "truncate"])
def test_a_save_on_an_old_version_is_a_conflict(way: str, real: RealRemote, mounted: MakeMount) -> None:
    real.put("c1/f", b"minSize: 1\n")
    mount = mounted(real, expect=("conflict key=c1/f",))
    program(mount / "c1/f", lambda: real.put("c1/f", b"theirs\n"), way)
    mount.flush()
    assert real.get("c1/f") == b"theirs\n"
    assert [c["path"] for c in mount.conflicts()] == ["c1/f"]


def test_what_close_promised_survives_kills(real: RealRemote, mounted: MakeMount) -> None:
    promises = Promises()
    mount = mounted(real)
    for number in range(3):
        load = promises.load(mount.path, number)
        time.sleep(0.7)  # the moment
        mount.kill()
        promises.heard(load)
        mount.start()
        assert mount.flush() == 0
        promises.check({key: real.get(key) for key in real.keys()})
        assert mount.asked("conflicts", action="list") == []
