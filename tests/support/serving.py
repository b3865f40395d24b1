"""Which servers does a run of the tests have? Those that a test asks for, each started once; fixtures of every folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.emulators import gcs, oss
from tests.emulators.k8s import K8sServer
from tests.store import servers_swift
from tests.store.servers import STARTERS, Azurite, S3Server
from tests.store.servers import azurite as start_azurite


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[[str], S3Server]]:
    """Give a server by name, started once: `start_server("ceph")`."""
    running: dict[str, S3Server] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> S3Server:
            if name not in running:
                running[name] = stack.enter_context(STARTERS[name]())
            return running[name]

        yield start


@pytest.fixture(scope="session")
def moto(start_server: Callable[[str], S3Server]) -> S3Server:
    return start_server("moto")


@pytest.fixture(scope="session")
def ceph(start_server: Callable[[str], S3Server]) -> S3Server:
    return start_server("ceph")


@pytest.fixture(scope="session")
def s3rver(start_server: Callable[[str], S3Server]) -> S3Server:
    return start_server("s3rver")


@pytest.fixture(scope="session")
def bench(start_server: Callable[[str], S3Server]) -> S3Server:
    return start_server("bench")


@pytest.fixture(scope="session")
def gs() -> Iterator[gcs.Server]:
    with gcs.Server() as server:
        yield server


@pytest.fixture(scope="session")
def swift() -> Iterator[servers_swift.SwiftServer]:
    with servers_swift.swift() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with start_azurite() as server:
        yield server


@pytest.fixture(scope="session")
def oss_server() -> Iterator[oss.Server]:
    with oss.Server() as server:
        yield server


@pytest.fixture(scope="session")
def k8s() -> Iterator[K8sServer]:
    with K8sServer() as server:
        yield server
