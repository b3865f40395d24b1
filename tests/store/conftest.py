"""What several modules of this folder share: an API server with nothing in it, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.k8s import K8sServer
from tests.store.harness import DriverFace
from tests.store.k8s_world import Clients


@pytest.fixture
def server() -> Iterator[K8sServer]:
    with K8sServer() as started:
        yield started


@pytest.fixture
def connect(server: K8sServer, tmp_path: Path) -> Iterator[Clients]:
    with Clients(server, tmp_path) as clients:
        yield clients


@pytest.fixture
def face(connect: Clients) -> DriverFace:
    return connect()
