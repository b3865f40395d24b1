"""Do kops's own definitions and kops's own clientset go with what `k8s://` writes and reads?

Facts of kops 1.36.2, its `k8s/crds/*.yaml` and its binary, tried on kube-apiserver 1.36.3 and written down here for the
emulator.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopsfs.store.driver import ABSENT
from kopsfs.store.url import Settings, open_driver, parse
from tests.emulators.k8s import K8sServer
from tests.emulators.k8s_state import KOPS_CRDS
from tests.store.harness import DriverFace

C, NS = "c1.example.com", "c1-example-com"


@pytest.fixture
def server() -> Iterator[K8sServer]:
    with K8sServer() as server:
        yield server


@pytest.fixture
def face(server: K8sServer, tmp_path: Path) -> Iterator[DriverFace]:
    environ = {"KUBECONFIG": str(server.kubeconfig(tmp_path / "config")), "HOME": str(tmp_path)}
    opened = DriverFace(open_driver(parse("k8s://"), Settings(environ=environ)))
    yield opened
    opened.close()


def test_a_cluster_has_what_kops_always_sends(server: K8sServer, face: DriverFace) -> None:
    """kops's definition demands `spec.iam.legacy`, because the Go type never omits it; people leave it out."""
    strict = copy.deepcopy(KOPS_CRDS[0])
    schema = strict["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    iam = {"type": "object", "required": ["legacy"], "properties": {"legacy": {"type": "boolean"}}}
    schema["properties"]["spec"] = {**schema["properties"]["spec"], "properties": {"iam": iam}}
    server.define(strict)
    data = f"apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nmetadata: {{name: {C}}}\nspec: {{iam: {{}}}}\n".encode()
    put = face.put(f"{C}/config", data, ABSENT)
    assert server.items("clusters", NS)[C]["spec"] == {"iam": {"legacy": False}}
    assert face.get(f"{C}/config") == (put, data)
