"""Are files and kops's objects the same thing seen twice, through any order of writers?

The objects are looked at, and changed, as kops's clientset and kubectl do it: by the emulator's own hand. What the
contract asks of every driver is in `test_contract.py`, documents as pure functions in `test_k8s_documents.py`, refusals
in `test_k8s_errors.py`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from kopsfs.errors import (
    ConflictError,
    NotFoundError,
    OccupiedError,
    TooLargeError,
    TransientError,
)
from kopsfs.store.driver import ABSENT, ANY
from kopsfs.store.k8s_documents import CONTENT_NOTE, UNFIT_NOTE
from kopsfs.store.k8s_layout import KEY_NOTE
from tests.emulators.k8s import K8sServer
from tests.emulators.k8s_http import Fault
from tests.emulators.k8s_state import KOPS_CRDS
from tests.store.harness import DriverFace
from tests.store.k8s_world import (
    CLUSTER,
    FILES,
    FINGERPRINT,
    GROUP,
    NS,
    OTHER,
    OTHER_KEY,
    SSH_KEY,
    C,
    Clients,
    asked,
    listing,
    objects,
)

# -- documents are objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FILES)
def test_a_document_is_kopss_object_and_its_bytes_stay(
    key: str, face: DriverFace, server: K8sServer, connect: Clients
) -> None:
    data, plural, name = FILES[key]
    put = face.put(key, data, ABSENT)
    assert list(objects(server, plural, NS)) == [name]
    assert objects(server, "secrets") == {}
    for other in (face, connect()):
        assert other.get(key)[1] == data
        assert other.head(key).version == put.version == listing(other)[key]


def test_kops_reads_the_objects_it_would_have_written(face: DriverFace, server: K8sServer) -> None:
    for key, (data, _, _) in FILES.items():
        face.put(key, data, ABSENT)
    cluster = objects(server, "clusters", NS)[C]
    assert cluster["spec"] == {"channel": "stable", "kubernetesVersion": "1.30"}
    group = objects(server, "instancegroups", NS)["nodes"]
    assert group["spec"] == {"minSize": 2}
    assert group["metadata"]["labels"] == {"kops.k8s.io/cluster": C}
    assert objects(server, "keysets", NS)["kubernetes-ca"]["spec"]["primaryId"] == "7234567890123456789012345678"
    token = objects(server, "keysets", NS)["token-kube"]["spec"]
    assert token["type"] == "Secret"
    assert token["keys"][0]["privateMaterial"] == "c2VjcmV0"
    assert int(token["keys"][0]["id"]) > 0
    assert objects(server, "sshcredentials", NS)["admin"]["spec"]["publicKey"] == SSH_KEY.decode().strip()


def test_what_kopss_clientset_wrote_are_files(face: DriverFace, server: K8sServer) -> None:
    server.put("clusters", NS, {"metadata": {"name": C}, "spec": {"channel": "stable", "on": "1e3"}})
    server.put("instancegroups", NS, {"metadata": {"name": "nodes"}, "spec": {"role": "Node"}})
    server.put("keysets", NS, {"metadata": {"name": "ca"}, "spec": {"type": "Keypair", "keys": []}})
    keys = [{"id": "5", "privateMaterial": "b2xk"}, {"id": "31", "privateMaterial": "bmV3"}]
    server.put("keysets", NS, {"metadata": {"name": "token-kube"}, "spec": {"type": "Secret", "keys": keys}})
    server.put("sshcredentials", NS, {"metadata": {"name": "admin"}, "spec": {"publicKey": SSH_KEY.decode().strip()}})
    there = listing(face)
    names = ["config", "instancegroup/nodes", "pki/private/ca/keyset.yaml", f"pki/ssh/public/admin/{FINGERPRINT}"]
    assert list(there) == [f"{C}/{name}" for name in (*names, "secrets/kube")]
    created = objects(server, "clusters", NS)[C]["metadata"]["creationTimestamp"]
    assert face.get(f"{C}/config")[1].decode() == (
        "apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nmetadata:\n"
        f'  creationTimestamp: "{created}"\n  name: c1.example.com\nspec:\n  channel: stable\n  "on": "1e3"\n'
    )
    assert face.get(f"{C}/secrets/kube")[1] == b'{"Data":"bmV3"}'
    assert face.get(f"{C}/pki/ssh/public/admin/{FINGERPRINT}")[1] == SSH_KEY.strip()


def test_who_changes_the_object_changes_the_file_and_who_labels_it_too(face: DriverFace, server: K8sServer) -> None:
    key = f"{C}/config"
    first = face.put(key, CLUSTER, ABSENT)
    item = objects(server, "clusters", NS)[C]
    item = server.put("clusters", NS, {**item, "spec": {**item["spec"], "channel": "alpha"}})
    assert CONTENT_NOTE in item["metadata"]["annotations"]
    info, data = face.get(key)
    assert info.version != first.version
    assert b"channel: alpha" in data
    assert b"kopsfs.io" not in data
    with pytest.raises(ConflictError):
        face.put(key, CLUSTER, first.version)
    back = face.put(key, CLUSTER, info.version)
    assert face.get(key)[1] == CLUSTER
    item = objects(server, "clusters", NS)[C]
    item["metadata"]["labels"] = {"team": "a"}
    server.put("clusters", NS, item)
    assert b"team: a" in face.get(key)[1]
    assert face.head(key).version != back.version


def test_what_the_server_prunes_and_fills_in_does_not_count_as_a_change(
    face: DriverFace, server: K8sServer, connect: Clients
) -> None:
    definition = json.loads(json.dumps(KOPS_CRDS[0]))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {
        "type": "object",
        "properties": {"channel": {"type": "string"}, "sshAccess": {"type": "string", "default": "none"}},
    }
    server.define(definition)
    key = f"{C}/config"
    put = face.put(key, CLUSTER, ABSENT)
    assert objects(server, "clusters", NS)[C]["spec"] == {"channel": "stable", "sshAccess": "none"}
    assert connect().get(key) == (face.head(key), CLUSTER)
    again = face.put(key, CLUSTER + b"# more\n", put.version)
    assert connect().get(key)[1] == CLUSTER + b"# more\n"
    assert face.head(key).version == again.version


def test_finalizers_and_owners_survive_a_save(face: DriverFace, server: K8sServer) -> None:
    key = f"{C}/config"
    face.put(key, CLUSTER, ABSENT)
    item = objects(server, "clusters", NS)[C]
    owner = {"apiVersion": "v1", "kind": "Secret", "name": "x", "uid": "1"}
    item["metadata"] |= {"finalizers": ["example.com/keep"], "ownerReferences": [owner]}
    server.put("clusters", NS, item)
    face.put(key, CLUSTER + b"#\n", face.head(key).version)
    metadata = objects(server, "clusters", NS)[C]["metadata"]
    assert metadata["finalizers"] == ["example.com/keep"]
    assert metadata["ownerReferences"] == [owner]


# -- bytes that are no document ----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"spec: [", b"\xff", CLUSTER.replace(b"c1.", b"c2."), CLUSTER + b"---\na: 1\n"])
def test_a_half_written_save_is_kept_and_the_object_keeps_its_spec(
    data: bytes, face: DriverFace, server: K8sServer, connect: Clients
) -> None:
    key = f"{C}/config"
    first = face.put(key, CLUSTER, ABSENT)
    second = face.put(key, data, first.version)
    item = objects(server, "clusters", NS)[C]
    assert item["spec"] == {"channel": "stable", "kubernetesVersion": "1.30"}
    assert item["metadata"]["annotations"][UNFIT_NOTE]
    assert connect().get(key) == (second, data)
    third = face.put(key, CLUSTER, second.version)
    assert UNFIT_NOTE not in objects(server, "clusters", NS)[C]["metadata"]["annotations"]
    assert (face.get(key)[1], face.head(key).version) == (CLUSTER, third.version)


@pytest.mark.parametrize("key", FILES)
def test_a_file_that_is_no_document_yet_is_a_secret_until_it_is_one(
    key: str, face: DriverFace, server: K8sServer, connect: Clients
) -> None:
    data, plural, name = FILES[key]
    first = face.put(key, b"half", ABSENT)
    assert objects(server, plural, NS) == {}
    assert connect().get(key) == (first, b"half")
    with pytest.raises(ConflictError):
        face.put(key, data, ABSENT)
    assert objects(server, plural, NS) == {}
    second = face.put(key, b"still half", first.version)
    third = face.put(key, data, second.version)
    assert list(objects(server, plural, NS)) == [name]
    assert objects(server, "secrets", NS) == {}
    for other in (face, connect()):
        assert listing(other) == {key: third.version}
        assert other.get(key) == (third, data)
    with pytest.raises(ConflictError):
        face.put(key, b"x", second.version)


def test_what_the_server_calls_invalid_is_no_document(face: DriverFace, server: K8sServer) -> None:
    definition = json.loads(json.dumps(KOPS_CRDS[1]))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "properties": {"minSize": {"type": "integer"}}}
    server.define(definition)
    key, wrong = f"{C}/instancegroup/nodes", GROUP.replace(b"2}", b'"two"}')
    first = face.put(key, wrong, ABSENT)
    assert objects(server, "instancegroups", NS) == {}
    assert face.get(key)[1] == wrong
    second = face.put(key, GROUP, first.version)
    face.put(key, wrong, second.version)
    item = objects(server, "instancegroups", NS)["nodes"]
    assert item["spec"] == {"minSize": 2}
    assert "must be of type integer" in item["metadata"]["annotations"][UNFIT_NOTE]
    assert face.get(key)[1] == wrong


def test_bytes_that_do_not_fit_beside_the_object_are_too_large(face: DriverFace) -> None:
    key = f"{C}/config"
    first = face.put(key, CLUSTER, ABSENT)
    packs = CLUSTER + b"# long\n" * 100_000
    second = face.put(key, packs, first.version)
    assert face.get(key)[1] == packs
    noise = b"".join(hashlib.sha512(bytes([n >> 8, n & 255])).digest() for n in range(4096))
    with pytest.raises(TooLargeError, match="beside an object"):
        face.put(key, noise, second.version)
    assert face.get(key)[1] == packs


@pytest.mark.parametrize("mine", [CLUSTER, b"half"])
@pytest.mark.parametrize("theirs", [CLUSTER, b"other half"])
def test_of_two_who_create_a_document_at_once_none_overwrites_the_other(
    mine: bytes, theirs: bytes, face: DriverFace, server: K8sServer, connect: Clients
) -> None:
    """The rival comes at every moment of the first one's requests in turn."""
    for moment in range(12):
        key = f"c{moment}.example.com/config"
        bodies = [data.replace(b"c1.", b"c%d." % moment) for data in (mine, theirs)]
        rival, started, ends = connect(), len(server.log), []

        def put(who: DriverFace, data: bytes, ends: list[Any] = ends, key: str = key) -> None:
            try:
                ends.append((who.put(key, data, ABSENT), data))
            except ConflictError:
                ends.append(None)

        def before(*asked: str, moment: int = moment, rival: DriverFace = rival, data: bytes = bodies[1]) -> None:
            if len(server.log) - started == moment:
                server.before = None
                put(rival, data)

        server.before = before
        put(face, bodies[0])
        came = server.before is None
        server.before = None
        winners = [end for end in ends if end is not None]
        assert len(winners) <= 1 or not came, f"both won at moment {moment}"
        for info, data in winners[-1:]:
            assert connect().get(key) == (info, data)
        if not winners:
            with pytest.raises(NotFoundError):
                connect().head(key)


def test_a_writer_cut_off_between_document_and_secret_leaves_the_document(
    face: DriverFace, server: K8sServer, connect: Clients
) -> None:
    key = f"{C}/config"
    first = face.put(key, b"half", ABSENT)
    server.faults.append(Fault("delete", 0, times=9))
    with pytest.raises(TransientError):
        face.put(key, CLUSTER, first.version)
    server.faults.clear()
    other = connect()
    there = listing(other)
    assert list(there) == [key]
    assert other.get(key)[1] == CLUSTER
    other.delete(key, there[key])
    assert listing(other) == {}, "the Secret came back"
    assert objects(server, "secrets", NS) == {}


# -- public keys, secrets' names, namespaces ---------------------------------------------------------------


def test_a_second_public_key_is_a_file_that_kops_does_not_see(face: DriverFace, server: K8sServer) -> None:
    first, second = (f"{C}/pki/ssh/public/admin/{name}" for name in (FINGERPRINT, OTHER))
    face.put(first, SSH_KEY, ABSENT)
    other = face.put(second, OTHER_KEY, ABSENT)
    assert listing(face)[second] == other.version
    assert (face.get(first)[1], face.get(second)[1]) == (SSH_KEY, OTHER_KEY)
    assert objects(server, "sshcredentials", NS)["admin"]["spec"]["publicKey"] == SSH_KEY.decode().strip()
    server.put(
        "sshcredentials", NS, {"metadata": {"name": "admin"}, "spec": {"publicKey": "ssh-rsa AAAAB3NzaC1yc2E= x"}}
    )
    with pytest.raises(NotFoundError):
        face.head(first)
    assert first not in listing(face)


@pytest.mark.parametrize("name", ["system:controller_manager", "UPPER", "a b", "日本", "x" * 250, "-", "kube-proxy"])
def test_a_secret_of_any_name_is_a_keyset(name: str, face: DriverFace, server: K8sServer) -> None:
    key, data = f"{C}/secrets/{name}", b'{"Data":"eA=="}'
    face.put(key, data, ABSENT)
    (made,) = objects(server, "keysets", NS)
    assert made.startswith("token-")
    assert (made == f"token-{name}") == (name == "kube-proxy")
    assert list(listing(face)) == [key]
    assert face.get(key)[1] == data
    face.delete(key, face.head(key).version)
    assert objects(server, "keysets", NS) == {}


def test_a_namespace_is_made_once_and_nothing_else(face: DriverFace, server: K8sServer) -> None:
    before = set(objects(server, "namespaces"))
    face.put(f"{C}/config", CLUSTER, ABSENT)
    face.put(f"{C}/addons/a", b"x", ABSENT)
    face.put("README", b"x", ABSENT)
    assert set(objects(server, "namespaces")) - before == {NS, "kopsfs"}
    assert asked(server)["create namespaces"] == 2


@pytest.mark.parametrize("first", [f"{C}/config", f"{C}/addons/a"])
@pytest.mark.parametrize("path", ["config", "addons/a", "addons/b", "instancegroup/nodes"])
def test_two_clusters_of_one_namespace_name_each_other(
    first: str, path: str, face: DriverFace, connect: Clients
) -> None:
    face.put(first, FILES[first][0] if first in FILES else b"x", ABSENT)
    for client in (face, connect()):
        for expected in (ABSENT, ANY):
            with pytest.raises(OccupiedError, match=r"belongs to the cluster c1\.example\.com"):
                client.put(f"c1-example.com/{path}", b"x", expected)
        with pytest.raises(NotFoundError):
            client.head(f"c1-example.com/{path}")
    assert list(listing(face)) == [first]
    face.delete(first, ANY)
    connect().put(f"c1-example.com/{path}", b"x", ABSENT)


def test_an_instance_group_of_the_other_cluster_is_not_this_ones(face: DriverFace, server: K8sServer) -> None:
    server.put("clusters", NS, {"metadata": {"name": C}, "spec": {}})
    server.put("instancegroups", NS, {"metadata": {"name": "nodes"}, "spec": {}})
    assert f"{C}/instancegroup/nodes" in listing(face)
    with pytest.raises(NotFoundError):
        face.head("c1-example.com/instancegroup/nodes")
    face.delete("c1-example.com/instancegroup/nodes", ANY)
    assert objects(server, "instancegroups", NS)


def test_other_peoples_secrets_are_not_files(face: DriverFace, server: K8sServer) -> None:
    server.put("secrets", NS, {"metadata": {"name": "db"}, "data": {"password": "eA=="}})
    noted = {"name": "copy", "annotations": {KEY_NOTE: f"{C}/addons/a"}}
    server.put("secrets", NS, {"metadata": noted, "type": "kopsfs.io/file", "data": {"content": "eA=="}})
    assert listing(face) == {}
    assert all("password" not in each.query.get("fieldSelector", "") for each in server.log)
    for each in server.log:
        if each.resource == "secrets" and each.verb == "list":
            assert each.query["fieldSelector"].startswith("type=kopsfs.io/")


def test_the_prefix_of_a_url_is_one_cluster(connect: Clients, server: K8sServer) -> None:
    whole = connect()
    whole.put(f"{C}/config", CLUSTER, ABSENT)
    whole.put("c2.example.com/addons/a", b"x", ABSENT)
    since = len(server.log)
    assert [info.key for info in whole.page(f"{C}/").objects] == [f"{C}/config"]
    assert {each.namespace for each in server.log[since:]} == {NS}
