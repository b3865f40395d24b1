"""Is a store in this process exact, and is the demo a cluster that kops would know?"""

from __future__ import annotations

import base64
import json
import uuid

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kopsfs.errors import ConflictError
from kopsfs.store import ABSENT, ANY, Expected, Key, Prefix, Version
from kopsfs.store.demo import CLUSTER, objects
from kopsfs.store.memory import Bucket, bucket

KEYS = st.text(alphabet="ab/é😀\uffee", min_size=1, max_size=4).map(Key)
WRITES = st.lists(st.tuples(st.sampled_from(["put", "create", "replace", "stale", "delete"]), KEYS), max_size=30)


@settings(max_examples=200, deadline=None)
@given(WRITES, st.integers(1, 4), st.booleans(), KEYS)
def test_listings_agree_with_a_dict(writes: list[tuple[str, Key]], limit: int, delimiter: bool, cut: Key) -> None:
    store, model = Bucket(), dict[Key, Version]()
    for op, key in writes:
        expected: Expected = {"create": ABSENT, "replace": model.get(key, ABSENT), "stale": Version("0")}.get(op, ANY)
        holds = expected is ANY or (key not in model if expected is ABSENT else model.get(key) == expected)
        try:
            if op == "delete":
                store.delete(key, ANY)
                model.pop(key, None)
            else:
                model[key] = store.put(key, op.encode(), expected).version
                assert holds
        except ConflictError:
            assert not holds
        store.check()
    prefix = Prefix(cut[: cut.rfind("/") + 1])
    below = sorted((key for key in model if key.startswith(prefix)), key=str.encode)
    groups = (
        {key[: key.index("/", len(prefix)) + 1] for key in below if "/" in key[len(prefix) :]} if delimiter else set()
    )
    got_keys, got_groups, token, pages = [], [], b"", 0
    while True:
        page = store.page(prefix, delimiter=delimiter, after=token, limit=limit)
        got_keys += [info.key for info in page.objects]
        got_groups += page.prefixes
        pages += 1
        if page.token is None:
            break
        assert len(page.objects) + len(page.prefixes) == limit
        token = bytes.fromhex(page.token)
    assert got_keys == [key for key in below if not any(key.startswith(group) for group in groups)]
    assert got_groups == sorted(groups, key=str.encode)
    assert pages == max(1, -(-(len(got_keys) + len(got_groups)) // limit))


def test_buckets_of_one_name_are_one() -> None:
    name = uuid.uuid4().hex
    assert bucket(name) is bucket(name)
    assert bucket(name) is not bucket(name + "x")


def test_the_demo_is_the_same_every_time_and_every_document_parses() -> None:
    files = dict(objects())
    assert files == dict(objects())
    kinds = {}
    for key, data in files.items():
        name = key.removeprefix(CLUSTER + "/")
        assert name != key
        if name.startswith("secrets/"):
            base64.b64decode(json.loads(data)["Data"], validate=True)
        elif name.startswith(("config", "cluster-completed", "instancegroup/", "pki/", "addons/", "manifests/")):
            kinds[name] = yaml.safe_load(data)
    assert kinds["config"]["kind"] == kinds["cluster-completed.spec"]["kind"] == "Cluster"
    assert kinds["config"]["metadata"]["name"] == CLUSTER
    assert kinds["cluster-completed.spec"] != kinds["config"]
    groups = {
        member["instanceGroup"] for each in kinds["config"]["spec"]["etcdClusters"] for member in each["etcdMembers"]
    }
    assert {f"instancegroup/{group}" for group in groups} <= kinds.keys()
    keyset = kinds["pki/private/kubernetes-ca/keyset.yaml"]["spec"]
    assert keyset["primaryId"] in {key["id"] for key in keyset["keys"]}
    for key in keyset["keys"]:
        assert base64.b64decode(key["publicMaterial"], validate=True).startswith(b"-----BEGIN CERTIFICATE-----\n")
    assert files[Key(f"{CLUSTER}/clusteraddons/default")] == b""
