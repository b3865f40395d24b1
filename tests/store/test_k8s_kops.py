"""Do kops's own definitions and kops's own clientset go with what `k8s://` writes and reads?

Facts of kops 1.36.2, its `k8s/crds/*.yaml` and its binary, tried on kube-apiserver 1.36.3. What the binary sent is in
`kops-requests.json` (keys are replaced by a few bytes, a PUT's metadata by its name), and is sent to the emulator again.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from kopsfs.store.driver import ABSENT
from tests.emulators.k8s import K8sServer
from tests.emulators.k8s_asking import CORE, KOPS, of
from tests.emulators.k8s_state import KOPS_CRDS
from tests.store.harness import DriverFace

C, NS = "c1.example.com", "c1-example-com"
SENT = json.loads(Path(__file__).with_name("kops-requests.json").read_text())
SSH = "pki/ssh/public/admin/dc1e1c4a1ed04458d1360fe379d3e72c"


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


def _as_kops_does(server: K8sServer) -> None:
    api = of(server)
    assert api.ask("POST", f"{CORE}/namespaces", {"metadata": {"name": NS}}).status == 201
    for row in SENT:
        path, body = f"{KOPS}/namespaces/{NS}/{row['resource']}", row["body"]
        if row["method"] == "PUT":  # kops takes the metadata of what it has just read
            path += f"/{body['metadata']['name']}"
            body = {**body, "metadata": api.ask("GET", path).json["metadata"]}
        assert api.ask(row["method"], path, body).status in {200, 201}, row["command"]


def test_what_kops_has_written_are_the_files_kops_would_have_written(server: K8sServer, face: DriverFace) -> None:
    _as_kops_does(server)
    page = face.page()
    files = {info.key.removeprefix(f"{C}/"): face.get(info.key)[1] for info in page.objects}
    bodies: dict[str, Any] = {f"{row['resource']}/{row['body']['metadata']['name']}": row["body"] for row in SENT}
    key = bodies["sshcredentials/admin"]["spec"]["publicKey"]
    assert sorted(files) == sorted(
        ["config", "instancegroup/first", "pki/private/service-account/keyset.yaml", "secrets/dockerconfig", SSH]
    )
    assert files[SSH].decode() == key
    assert json.loads(files["secrets/dockerconfig"]) == {"Data": "eyJhdXRocyI6e319"}
    for path, name in {
        "config": f"clusters/{C}",
        "instancegroup/first": "instancegroups/first",
        "pki/private/service-account/keyset.yaml": "keysets/service-account",
    }.items():
        said, sent = yaml.safe_load(files[path]), bodies[name]
        assert said.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert said["metadata"].keys() <= {"name", "labels", "creationTimestamp"}, "nothing the server keeps for itself"
        assert (said["kind"], said["metadata"]["name"]) == (sent["kind"], sent["metadata"]["name"])
        assert said["spec"] == sent["spec"]


def test_what_kopsfs_writes_again_is_to_kops_the_same(server: K8sServer, face: DriverFace) -> None:
    """All files of one cluster, read and written under another's name, are objects of the same specs."""
    _as_kops_does(server)
    other = "c2.example.com"
    for info in face.page().objects:
        data = face.get(info.key)[1].replace(C.encode(), other.encode())
        face.put(info.key.replace(C, other), data, ABSENT)
    for plural in ("clusters", "instancegroups", "keysets", "sshcredentials"):
        ours, theirs = server.items(plural, "c2-example-com"), server.items(plural, NS)
        specs = {name: json.loads(json.dumps(item["spec"]).replace(C, other)) for name, item in theirs.items()}
        specs = {name.replace(C, other): spec for name, spec in specs.items()}
        if plural == "keysets":  # a secret's id is the time it was written
            specs["token-dockerconfig"]["keys"][0]["id"] = ours["token-dockerconfig"]["spec"]["keys"][0]["id"]
        assert {name: item["spec"] for name, item in ours.items()} == specs


def test_what_kops_replaces_keeps_its_notes_but_not_its_bytes(server: K8sServer, face: DriverFace) -> None:
    """`kops replace -f` sends back all annotations with another spec; the digest tells."""
    _as_kops_does(server)
    data = b"# by hand\n" + face.get(f"{C}/instancegroup/first")[1]
    face.put(f"{C}/instancegroup/first", data, face.head(f"{C}/instancegroup/first").version)
    assert face.get(f"{C}/instancegroup/first")[1] == data
    path = f"{KOPS}/namespaces/{NS}/instancegroups/first"
    item = of(server).ask("GET", path).json
    item["spec"]["maxSize"] = 3
    assert of(server).ask("PUT", path, item).status == 200
    said = face.get(f"{C}/instancegroup/first")[1]
    assert b"by hand" not in said
    assert yaml.safe_load(said)["spec"] == {**yaml.safe_load(data)["spec"], "maxSize": 3}
