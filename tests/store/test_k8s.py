"""Are files and kops's objects the same thing seen twice, through any order of writers?

The objects are looked at, and changed, as kops's clientset and kubectl do it: by the emulator's own hand. What the
contract asks of every driver is in `test_contract.py`, documents as pure functions in `test_k8s_documents.py`, refusals
in `test_k8s_errors.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kopsfs.errors import (
    ConflictError,
    CorruptError,
    NotFoundError,
    OccupiedError,
    TooLargeError,
    TransientError,
)
from kopsfs.store import k8s_chunks, k8s_listing
from kopsfs.store.driver import ABSENT, ANY, Version
from kopsfs.store.k8s import K8sDriver, open_driver
from kopsfs.store.k8s_documents import CONTENT_NOTE, DIGEST_NOTE, UNFIT_NOTE
from kopsfs.store.k8s_layout import KEY_NOTE
from kopsfs.store.url import Settings, parse
from tests.emulators.k8s import K8sServer
from tests.emulators.k8s_http import Fault
from tests.emulators.k8s_state import KOPS_CRDS
from tests.store.harness import DriverFace

C, NS = "c1.example.com", "c1-example-com"
CLUSTER = b"""# mine
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata:
  name: c1.example.com
  creationTimestamp: null
spec:
    channel: stable  # by hand
    kubernetesVersion: "1.30"
"""
GROUP = b"""{"kind": "InstanceGroup", "apiVersion": "kops.k8s.io/v1alpha2",
 "metadata": {"name": "nodes", "labels": {"kops.k8s.io/cluster": "c1.example.com"}}, "spec": {"minSize": 2}}"""
KEYSET = b"""apiVersion: kops.k8s.io/v1alpha2
kind: Keyset
spec:
  keys:
  - id: "7234567890123456789012345678"
    privateMaterial: a2V5
  primaryId: "7234567890123456789012345678"
  type: Keypair
"""
SSH_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here\n"
FINGERPRINT = hashlib.md5(base64.b64decode(SSH_KEY.split()[1])).hexdigest()
OTHER_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8eHRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEA you@there\n"
OTHER = hashlib.md5(base64.b64decode(OTHER_KEY.split()[1])).hexdigest()

FILES = {
    f"{C}/config": (CLUSTER, "clusters", C),
    f"{C}/instancegroup/nodes": (GROUP, "instancegroups", "nodes"),
    f"{C}/pki/private/kubernetes-ca/keyset.yaml": (KEYSET, "keysets", "kubernetes-ca"),
    f"{C}/secrets/kube": (b'{"Data":"c2VjcmV0"}\n', "keysets", "token-kube"),
    f"{C}/pki/ssh/public/admin/{FINGERPRINT}": (SSH_KEY, "sshcredentials", "admin"),
}


@pytest.fixture
def server() -> Iterator[K8sServer]:
    with K8sServer() as started:
        yield started


Open = Callable[..., DriverFace]


@pytest.fixture
def connect(server: K8sServer, tmp_path: Path) -> Iterator[Open]:
    """Open one more client of the server."""
    opened: list[DriverFace] = []

    def connect(url: str = "k8s://", *, page_size: int = 1000, **context: Any) -> DriverFace:
        config = server.kubeconfig(tmp_path / f"config{len(opened)}", **context)
        driver = open_driver(parse(url), Settings(environ={"KUBECONFIG": str(config)}, page_size=page_size))
        opened.append(DriverFace(driver))
        return opened[-1]

    yield connect
    for face in opened:
        face.close()


@pytest.fixture
def face(connect: Open) -> DriverFace:
    return connect()


def listing(face: DriverFace, prefix: str = "") -> dict[str, Version]:
    found: dict[str, Version] = {}
    token = None
    while True:
        page = face.page(prefix, token=token)
        found |= {info.key: info.version for info in page.objects}
        token = page.token
        if token is None:
            return found


def objects(server: K8sServer, plural: str, namespace: str = "") -> dict[str, Any]:
    """Copies: what another client has of them."""
    copied: dict[str, Any] = json.loads(json.dumps(server.items(plural, namespace)))
    return copied


def asked(server: K8sServer, since: int = 0) -> Counter[str]:
    return Counter(f"{each.verb} {each.resource.partition('.')[0]}" for each in server.log[since:])


# -- documents are objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FILES)
def test_a_document_is_kopss_object_and_its_bytes_stay(
    key: str, face: DriverFace, server: K8sServer, connect: Open
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
    face: DriverFace, server: K8sServer, connect: Open
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
    data: bytes, face: DriverFace, server: K8sServer, connect: Open
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
    key: str, face: DriverFace, server: K8sServer, connect: Open
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
    mine: bytes, theirs: bytes, face: DriverFace, server: K8sServer, connect: Open
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
    face: DriverFace, server: K8sServer, connect: Open
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
def test_two_clusters_of_one_namespace_name_each_other(first: str, path: str, face: DriverFace, connect: Open) -> None:
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


def test_the_prefix_of_a_url_is_one_cluster(connect: Open, server: K8sServer) -> None:
    whole = connect()
    whole.put(f"{C}/config", CLUSTER, ABSENT)
    whole.put("c2.example.com/addons/a", b"x", ABSENT)
    since = len(server.log)
    assert [info.key for info in whole.page(f"{C}/").objects] == [f"{C}/config"]
    assert {each.namespace for each in server.log[since:]} == {NS}


# -- Secrets in chunks -------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * 8192 + b"end"


def chunks(server: K8sServer) -> list[str]:
    return [name for name, item in objects(server, "secrets").items() if item["type"] == "kopsfs.io/chunk"]


def test_a_large_file_is_chunks_that_go_with_their_state(face: DriverFace, server: K8sServer, connect: Open) -> None:
    first = face.put("big", LARGE, ABSENT)
    assert len(chunks(server)) == 3
    other = connect()
    assert other.get("big") == (first, LARGE)
    old = set(chunks(server))
    second = other.put("big", LARGE[::-1], first.version)
    assert len(chunks(server)) == 3
    assert not old & set(chunks(server))
    assert face.get("big") == (second, LARGE[::-1])
    third = face.put("big", b"small", second.version)
    assert chunks(server) == []
    assert other.get("big") == (third, b"small")
    fourth = face.put("big", LARGE, third.version)
    face.delete("big", fourth.version)
    assert objects(server, "secrets") == {}


def test_a_write_that_lost_leaves_no_chunks(face: DriverFace, server: K8sServer, connect: Open) -> None:
    first = face.put("big", LARGE, ABSENT)
    there = chunks(server)
    with pytest.raises(ConflictError):
        connect().put("big", LARGE, ABSENT)
    face.put("big", LARGE + b"!", first.version)
    with pytest.raises(ConflictError):
        connect().put("big", LARGE, first.version)
    assert len(chunks(server)) == 3
    assert chunks(server) != there
    assert connect().get("big")[1] == LARGE + b"!"


@pytest.mark.parametrize("skip", range(4))
def test_a_write_whose_answer_was_lost_goes_on_with_its_chunks(skip: int, face: DriverFace, server: K8sServer) -> None:
    face.put("other", b"x", ABSENT)
    server.faults.append(Fault("create", 0, resource="secrets", skip=skip, after=True))
    with pytest.raises(TransientError):
        face.put("big", LARGE, ABSENT)
    try:
        face.put("big", LARGE, ABSENT)
    except ConflictError:
        assert skip == 3, "the file itself was created"
    assert face.get("big")[1] == LARGE
    assert len(chunks(server)) == 3


@pytest.mark.parametrize("age_s", [-60.0, 60.0])
def test_what_a_dead_writer_left_goes_after_an_hour(
    age_s: float, face: DriverFace, server: K8sServer, connect: Open
) -> None:
    connect().put("other", b"x", ABSENT)
    server.clock = lambda: time.time() - k8s_chunks.ORPHAN_S - age_s
    server.faults.append(Fault("create", 503, resource="secrets", skip=2))
    with pytest.raises(TransientError):
        connect().put("dead", LARGE, ABSENT)
    server.clock = time.time
    left = set(chunks(server))
    assert len(left) == 2
    face.put("big", LARGE, ABSENT)
    assert bool(left & set(chunks(server))) == (age_s < 0), "somebody may be at it still"
    assert len(set(chunks(server)) - left) == 3
    assert face.get("big")[1] == LARGE


def test_a_reader_whose_chunks_are_replaced_reads_the_next_state(
    face: DriverFace, server: K8sServer, connect: Open
) -> None:
    first = face.put("big", LARGE, ABSENT)
    writer, reader = connect(), connect()
    reads: list[str] = []

    def before(verb: str, resource: str, namespace: str, name: str) -> None:
        reads.append(name)
        if len(reads) == 3:
            server.before = None
            writer.put("big", LARGE[::-1], first.version)

    server.before = before
    info, data = reader.get("big")
    assert data == LARGE[::-1]
    assert info == writer.head("big")


def test_chunks_that_are_damaged_or_missing_are_said_so(face: DriverFace, server: K8sServer) -> None:
    face.put("big", LARGE, ABSENT)
    name = chunks(server)[1]
    item = objects(server, "secrets")[name]
    server.remove("secrets", "kopsfs", name)
    with pytest.raises(CorruptError, match="missing"):
        face.get("big")
    server.put("secrets", "kopsfs", {**item, "data": {"content": "eA=="}, "metadata": {"name": name}})
    with pytest.raises(CorruptError, match="not what its Secret says"):
        face.get("big")


def test_who_edits_a_files_secret_by_hand_changes_the_file(face: DriverFace, server: K8sServer, connect: Open) -> None:
    face.put("a", b"one", ABSENT)
    other = connect()
    listing(other)
    (name,) = objects(server, "secrets")
    item = objects(server, "secrets")[name]
    server.put("secrets", "kopsfs", {**item, "data": {"content": base64.b64encode(b"edited").decode()}})
    (info,) = other.page().objects
    assert (info.size, info.md5) == (6, hashlib.md5(b"edited").hexdigest())
    assert other.get("a") == (info, b"edited")


# -- what it costs, and what is never answered from memory ---------------------------------------------------


def test_after_a_listing_reading_costs_nothing(connect: Open, server: K8sServer) -> None:
    writer = connect()
    keys = [*FILES, *(f"{C}/addons/{n}" for n in range(40))]
    for key in keys:
        writer.put(key, FILES[key][0] if key in FILES else key.encode(), ABSENT)
    reader, since = connect(), len(server.log)
    there = listing(reader)
    assert sorted(there) == sorted(keys)
    for key in keys:
        info, data = reader.get(key)
        assert data == (FILES[key][0] if key in FILES else key.encode())
        assert info.version == there[key]
    assert asked(server, since) == {
        f"list {kind}": 1 for kind in ("clusters", "instancegroups", "keysets", "sshcredentials", "secrets")
    }
    reader.get(keys[-1])
    assert asked(server, since)["get secrets"] == 1, "what was given is not kept"


def test_bytes_of_a_listing_are_not_given_for_another_version_or_later(
    connect: Open, server: K8sServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = connect(), connect()
    writer.put("a", b"one", ABSENT)
    writer.put("b", b"one", ABSENT)
    listing(reader)
    writer.put("a", b"two", ANY)
    assert reader.head("a").version == writer.head("a").version
    assert reader.get("a")[1] == b"two", "HEAD has shown another version"
    monkeypatch.setattr(k8s_listing, "HELD_S", 0.0)
    writer.put("b", b"two", ANY)
    assert reader.get("b")[1] == b"two", "the listing is too old to be believed"


def test_a_listing_that_began_before_a_write_does_not_overrule_it(connect: Open, server: K8sServer) -> None:
    face, other = connect(), connect()
    first = face.put("a", b"one", ABSENT)
    held, go = threading.Event(), threading.Event()

    def before(verb: str, resource: str, namespace: str, name: str) -> None:
        if verb == "list" and resource == "clusters.kops.k8s.io":
            held.set()
            assert go.wait(30)

    server.before = before
    thread = threading.Thread(target=face.page)
    thread.start()
    assert held.wait(30)
    server.before = None
    second = face.put("a", b"two", first.version)
    go.set()
    thread.join()
    assert face.get("a") == (second, b"two")
    assert other.get("a")[1] == b"two"


def test_a_poll_asks_for_metadata_only_and_changed_files_are_fetched(connect: Open, server: K8sServer) -> None:
    accepted: list[str] = []
    face = connect()
    writer = connect()
    for n in range(5):
        writer.put(f"{n}", b"x", ABSENT)
    listing(face)
    api = face._driver._api  # type: ignore[union-attr]
    send = api._send
    api._send = lambda ask, *rest: (
        accepted.append(f"{ask.kind.plural} {ask.accept.partition(',')[0]}"),
        send(ask, *rest),
    )[1]
    changed = writer.put("3", b"changed", ANY)
    assert listing(face)["3"] == changed.version
    assert sum("PartialObjectMetadata" in each for each in accepted) == 1
    assert face.get("3") == (changed, b"changed")


def test_held_bytes_stay_within_their_budget(connect: Open, server: K8sServer) -> None:
    writer = connect()
    noise = hashlib.shake_128(b"x").digest(200_000)
    for n in range(10):
        writer.put(f"{n}", noise, ABSENT)
    face = connect()
    assert isinstance(face._driver, K8sDriver)
    face._driver._bodies._limit = 500_000
    listing(face)
    assert 0 < face._driver._bodies.size <= 500_000
    for n in range(10):
        assert face.get(f"{n}")[1] == noise
    assert face._driver._bodies.size == 0


def test_pages_come_from_one_snapshot_and_survive_its_loss(connect: Open, server: K8sServer) -> None:
    face = connect(page_size=3)
    for n in range(10):
        face.put(f"k{n}", b"x", ABSENT)
    page = face.page()
    since = len(server.log)
    assert [info.key for info in face.page(token=page.token).objects] == ["k3", "k4", "k5"]
    assert len(server.log) == since
    assert [info.key for info in face.page(token=page.token).objects] == ["k3", "k4", "k5"]
    assert len(server.log) == since + 5


def test_a_listing_of_many_objects_goes_on_and_begins_anew_when_its_place_is_forgotten(
    connect: Open, server: K8sServer
) -> None:
    face = connect()
    for n in range(9):
        face.put(f"k{n}", b"x", ABSENT)
    server.page_max = 4
    assert len(listing(connect())) == 9
    pages: list[str] = []

    def before(verb: str, resource: str, namespace: str, name: str) -> None:
        pages.append(resource)
        if pages.count("secrets") == 2:
            server.before = None
            face.put("k9", b"x", ABSENT)
            server.compact()

    server.before = before
    assert len(listing(connect())) == 10


@pytest.mark.parametrize("resource", ["secrets", "keysets.kops.k8s.io", "clusters.kops.k8s.io"])
def test_a_page_that_fails_fails_the_listing(resource: str, connect: Open, server: K8sServer) -> None:
    face = connect()
    for n in range(9):
        face.put(f"k{n}", b"x", ABSENT)
    server.page_max = 4
    server.faults.append(Fault("list", 503, resource=resource, skip=1 if resource == "secrets" else 0))
    with pytest.raises(TransientError):
        connect().page()
    assert len(listing(face)) == 9


def test_the_cost_of_writes(connect: Open, server: K8sServer) -> None:
    face = connect()
    listing(face)
    put = face.put(f"{C}/config", CLUSTER, ABSENT)
    since = len(server.log)
    put = face.put(f"{C}/config", CLUSTER + b"#", put.version)
    assert asked(server, since) == {"get clusters": 1, "update clusters": 1}
    face.delete(f"{C}/config", put.version)
    put = face.put(f"{C}/addons/a", b"x", ABSENT)
    since = len(server.log)
    put = face.put(f"{C}/addons/a", b"y", put.version)
    face.delete(f"{C}/addons/a", put.version)
    face.put(f"{C}/addons/b", b"y", ABSENT)
    assert asked(server, since) == {"update secrets": 1, "delete secrets": 1, "create secrets": 1}


def test_the_digest_is_of_the_object_as_it_is(face: DriverFace, server: K8sServer) -> None:
    face.put(f"{C}/config", CLUSTER, ABSENT)
    item = objects(server, "clusters", NS)[C]
    item["metadata"]["annotations"][DIGEST_NOTE] = "0" * 64
    server.put("clusters", NS, item)
    assert face.get(f"{C}/config")[1].startswith(b"apiVersion:"), "notes that do not fit the object do not count"
