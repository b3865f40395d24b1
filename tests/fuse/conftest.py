"""What the tests of real mounts share: one S3 server, a bucket for each test, mounts that end with the test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.bench.s3server import Server
from tests.fuse.mounted import FileRemote, Mount, Remote, S3Remote

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    """The S3 server, well again after the test whatever was done to it."""
    _server.reset()
    yield _server
    _server.set(down=False, delay=0.0, clear_faults=True, drop_connections=True, quirks=[])


@pytest.fixture
def s3(server: Server) -> S3Remote:
    """An empty bucket."""
    name = f"t{next(_numbers)}"
    server.create_bucket(name)
    return S3Remote(server, name)


@pytest.fixture(params=["s3", "file"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    """Each kind of store that needs nothing installed."""
    if request.param == "file":
        return FileRemote(tmp_path / "store")
    found: S3Remote = request.getfixturevalue("s3")
    return found


class MakeMount(Protocol):
    def __call__(self, remote: Remote, *options: str, name: str = "m", expect: tuple[str, ...] = ()) -> Mount: ...


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[MakeMount]:
    """Mount a store; it ends with the test, and then its log must be clean."""
    made: list[Mount] = []

    def make(remote: Remote, *options: str, name: str = "m", expect: tuple[str, ...] = ()) -> Mount:
        mount = Mount(remote, tmp_path, *options, name=name).expect(*expect)
        made.append(mount)
        return mount.start()

    yield make
    trouble: Exception | None = None
    for mount in reversed(made):
        try:
            mount.stop()
            mount.check_log()
        except AssertionError as error:
            trouble = trouble or error
            print(f"--- log of {mount.path} ---\n{mount.log}")
    if trouble is not None:
        raise trouble
