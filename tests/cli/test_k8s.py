"""Do the printed definitions make an API server that a cluster can be kept in?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kopsfs.cli.program import main
from kopsfs.errors import StoreGoneError
from kopsfs.store.driver import ABSENT
from kopsfs.store.k8s_api import INSTALL
from tests.emulators.k8s import K8sServer
from tests.store.k8s_world import FILES, Clients, listing


def printed(*options: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "kopsfs", "k8s", "crds", *options], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return run.stdout


def test_the_definitions_are_all_that_a_cluster_needs(tmp_path: Path) -> None:
    definitions = list(yaml.safe_load_all(printed()))
    with K8sServer(crds=False) as server, Clients(server, tmp_path) as connect:
        face = connect()
        with pytest.raises(StoreGoneError, match="kopsfs k8s crds"):
            face.page()
        for definition in definitions:
            server.define(definition)
        for key, (data, _, _) in FILES.items():
            face.put(key, data, ABSENT)
        assert list(listing(face)) == sorted(FILES)
        for key, (data, plural, name) in FILES.items():
            assert face.get(key)[1] == data
            assert name in server.items(plural)
        assert server.items("secrets") == {}


def test_nothing_that_a_document_says_is_dropped() -> None:
    for definition in yaml.safe_load_all(printed()):
        (version,) = definition["spec"]["versions"]
        assert version["schema"]["openAPIV3Schema"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        names = definition["spec"]["names"]
        assert definition["metadata"]["name"] == f"{names['plural']}.kops.k8s.io"


def test_as_json_it_is_one_list_of_the_same() -> None:
    said = json.loads(printed("--json"))
    assert (said["apiVersion"], said["kind"]) == ("v1", "List")
    assert said["items"] == list(yaml.safe_load_all(printed()))


def test_the_command_that_errors_name_is_the_one_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["k8s", "--help"])
    assert ended.value.code == 0
    assert INSTALL in capsys.readouterr().out
