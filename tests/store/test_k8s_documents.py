"""Are bytes and objects turned into each other without loss, and read as kops reads them?

Pure functions. kops's reading is `kopsfs.spec`'s, which is held against kops itself.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kopsfs.errors import InvalidKeyError
from kopsfs.spec import document
from kopsfs.store.driver import Key, Prefix
from kopsfs.store.k8s_documents import (
    DIGEST_NOTE,
    NOTES_BYTES_MAX,
    UnfitError,
    content,
    digest,
    fingerprint,
    fit,
    noted,
    parse,
    redigested,
    render,
)
from kopsfs.store.k8s_layout import (
    CLUSTERS,
    DOCUMENTS,
    GROUPS,
    HOME,
    KEYSETS,
    KINDS,
    SECRETS,
    SSH,
    key_of,
    kinds_below,
    namespace_of,
    noted_key,
    place_of,
    scope_of,
)
from tests.store.k8s_world import CLUSTER, FILES, FINGERPRINT, KEYSET, SSH_KEY, C

CONFIG = place_of("get", Key(f"{C}/config"))
SCALARS = [
    *["y", "Y", "n", "yes", "No", "on", "OFF", "true", "False", "~", "null", "NULL", "", "maybe"],
    *[
        "1",
        "-1",
        "+1",
        "0755",
        "0o17",
        "0x1F",
        "0b101",
        "1_000",
        "1.20",
        "1e3",
        ".5",
        "1.",
        "-.5e-3",
        "12:30",
        "1:30:00",
    ],
    *[
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "v1.30.0",
        "1.2.3",
        "10.0.0.0/8",
        "a: b",
        "08",
        "0x",
        "1__0",
        "-",
        "_1",
        "=",
        "<<",
    ],
]


# -- YAML as kops reads it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [text for text in SCALARS if text not in {"a: b", "-"}])
def test_a_plain_scalar_is_to_us_what_it_is_to_kops(text: str) -> None:
    (wanted,) = document.read(f"a: {text}\n", "f")
    assert parse(f"a: {text}\n".encode()) == wanted.data


@pytest.mark.parametrize(
    "data", [b"", b"---\n", b"a: [", b"\xff", b"- a\n", b"a", b"a: 1\n---\nb: 2\n", b"a: .nan\n", b"a: !!x y\n"]
)
def test_what_is_no_single_map_says_why(data: bytes) -> None:
    with pytest.raises(UnfitError) as caught:
        parse(data)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def laughs() -> bytes:
    """Ten to the tenth values in 500 bytes."""
    lines = ["a0: &a0 x"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("data", [
    b"a: " + b"[" * 100_000,
    b"a: " + b"[" * 200 + b"]" * 200,
    b'{"a": ' * 100_000,
    b'{"a": ' * 300 + b"1" + b"}" * 300,
    laughs(),
])  # fmt: skip
def test_a_document_that_is_too_deep_or_multiplies_is_no_crash(data: bytes) -> None:
    with pytest.raises(UnfitError, match=r"deep|values|not YAML"):
        parse(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(SCALARS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(SCALARS), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_a_rendering_is_read_as_the_object_by_us_and_by_kops(value: Any) -> None:
    item = {"apiVersion": CLUSTERS.api_version, "kind": "Cluster", "spec": {"value": value}}
    item["metadata"] = {
        "name": C,
        "namespace": "c1-example-com",
        "uid": "1",
        "managedFields": [],
        "resourceVersion": "7",
    }
    text = render(CLUSTERS, item)
    assert text == render(CLUSTERS, json.loads(json.dumps(item)))
    wanted = {**item, "metadata": {"name": C, "creationTimestamp": None}}
    assert parse(text) == wanted
    (read,) = document.read(text.decode(), "f")
    assert json.loads(json.dumps(read.data)) == wanted


@given(values)
def test_what_was_written_is_what_is_read(value: Any) -> None:
    document_ = {"apiVersion": CLUSTERS.api_version, "kind": "Cluster", "metadata": {"name": C}, "spec": {"v": value}}
    data = json.dumps(document_, indent=3).encode()
    item = noted(fit(CONFIG, data), CONFIG.key, data)
    from_server = {**item, "metadata": {**item["metadata"], "uid": "1", "generation": 1, "resourceVersion": "9"}}
    assert content(CLUSTERS, json.loads(json.dumps(from_server))) == data
    changed = {**from_server, "spec": {"v": [value]}}
    assert content(CLUSTERS, changed) == render(CLUSTERS, changed)


# -- what fits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "why"), [
    ((b"kind: Cluster", b"kind: InstanceGroup"), "not a Cluster of"),
    ((b"v1alpha2", b"v1alpha3"), "not a Cluster of kops.k8s.io/v1alpha2"),
    ((b"name: c1.example.com", b"name: c2.example.com"), "its metadata.name is not c1.example.com"),
    ((b"  name: c1.example.com\n", b""), "its metadata.name is not c1.example.com"),
    ((b"spec:", b"spex:"), "no spec"),
    ((b"  creationTimestamp: null", b"  labels: {a: 1}"), "metadata.labels holds what is no string"),
    ((b"metadata:\n", b"metadata: x\nmeta:\n"), "its metadata.name is not"),
])  # fmt: skip
def test_a_document_of_something_else_says_so(change: tuple[bytes, bytes], why: str) -> None:
    with pytest.raises(UnfitError, match=why):
        fit(CONFIG, CLUSTER.replace(*change))


def test_labels_and_annotations_of_a_document_are_the_objects(caplog: pytest.LogCaptureFixture) -> None:
    data = CLUSTER.replace(
        b"  creationTimestamp: null", b"  labels: {a: b}\n  annotations: {c: d, kopsfs.io/key: mine}"
    )
    made = fit(CONFIG, data)
    assert made["metadata"]["labels"] == {"a": "b"}
    assert made["metadata"]["annotations"] == {"c": "d"}
    item = noted(made, CONFIG.key, data)
    assert content(CLUSTERS, item) == data
    bare = {**item, "metadata": {**item["metadata"], "annotations": {"c": "e"}}}
    assert b"annotations:\n    c: e\n" in content(CLUSTERS, bare)
    assert digest(bare) != item["metadata"]["annotations"][DIGEST_NOTE]


def test_a_keyset_may_leave_its_name_out_and_must_be_of_keypairs() -> None:
    place = place_of("put", Key(f"{C}/pki/private/ca/keyset.yaml"))
    assert fit(place, KEYSET)["metadata"]["name"] == "ca"
    for wrong in (KEYSET.replace(b"Keypair", b"Secret"), KEYSET + b"metadata: {name: other}\n"):
        with pytest.raises(UnfitError):
            fit(place, wrong)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"Data": 1}', b'{"Data": "%%"}', b'{"data": "eA=="}', b"[]", b"\xff"])
def test_what_is_no_secret_of_kops_says_so(data: bytes) -> None:
    with pytest.raises(UnfitError, match="not a secret as kops stores it"):
        fit(place_of("put", Key(f"{C}/secrets/kube")), data)


def test_the_primary_key_of_a_secret_is_kopss() -> None:
    keys = [
        {"id": "9", "privateMaterial": "OQ=="},
        {"id": "10", "privateMaterial": "MTA="},
        {"id": "11", "privateMaterial": "MTE=", "distrustTimestamp": "2020-01-01T00:00:00Z"},
        {"id": "x", "privateMaterial": "eA=="},
    ]
    item = {"metadata": {"name": "token-a"}, "spec": {"type": "Secret", "keys": keys}}
    assert render(KEYSETS, item) == b'{"Data":"MTA="}'
    item["spec"] = {**item["spec"], "primaryId": "9"}
    assert render(KEYSETS, item) == b'{"Data":"OQ=="}'
    item["spec"] = {"type": "Secret"}
    assert render(KEYSETS, item) == b'{"Data":""}'


def test_a_public_key_has_the_name_kops_gives_it() -> None:
    assert fingerprint(SSH_KEY.decode()) == FINGERPRINT
    assert fingerprint('# a comment\n\nfrom="a" ' + SSH_KEY.decode()) == FINGERPRINT
    for text in ("", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa " + SSH_KEY.decode().split()[1], "no key at all"):
        assert fingerprint(text) == ""
    for name, data in (("0" * 32, SSH_KEY), (FINGERPRINT, b"\xff\n" + SSH_KEY)):
        with pytest.raises(UnfitError):
            fit(place_of("put", Key(f"{C}/pki/ssh/public/admin/{name}")), data)


def test_large_bytes_are_packed_and_too_large_ones_refused() -> None:
    for size in (0, 1, 64 << 10, (64 << 10) + 1, 300_000):
        data = CLUSTER + b"#" * size
        item = noted(fit(CONFIG, data), CONFIG.key, data)
        notes = item["metadata"]["annotations"]
        assert sum(len(name) + len(text.encode()) for name, text in notes.items()) <= NOTES_BYTES_MAX
        assert content(CLUSTERS, item) == data
    with pytest.raises(UnfitError, match="beside an object 240 KiB"):
        noted(fit(CONFIG, CLUSTER), CONFIG.key, bytes(range(256)) * 5000 + bytes(range(255, -1, -7)) * 9999 + b"".join(
            n.to_bytes(4, "big") for n in range(0, 4_000_000_000, 9973)))  # fmt: skip


def test_only_a_digest_that_is_wrong_is_corrected() -> None:
    item = noted(fit(CONFIG, CLUSTER), CONFIG.key, CLUSTER)
    assert redigested(item) is None
    pruned = {**item, "spec": {}}
    assert content(CLUSTERS, pruned) == render(CLUSTERS, pruned)
    corrected = redigested(pruned)
    assert corrected is not None
    assert content(CLUSTERS, corrected) == CLUSTER


# -- places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FILES)
def test_a_documents_place_leads_back_to_its_key(key: str) -> None:
    place = place_of("get", Key(key))
    item = fit(place, FILES[key][0])
    assert place.kind is not None
    for told in (item, noted(item, key, FILES[key][0])):
        assert key_of(place.kind, told, C, FINGERPRINT) == key
    assert place.kind in kinds_below(Prefix(key.rpartition("/")[0] + "/"))


@pytest.mark.parametrize("path", ["instancegroup/Nodes", "instancegroup/a_b", "instancegroup/a/b", "instancegroup/",
    f"instancegroup/{'n' * 254}", "pki/private/a/keyset.yml", "pki/private/token-x/keyset.yaml", "pki/private/keyset.yaml",
    "secrets/", "secrets/a/b", "pki/ssh/public/admin/short", "pki/ssh/public/other/" + "a" * 32, "config/x", "Config"])  # fmt: skip
def test_what_kops_has_no_object_for_is_a_secret(path: str) -> None:
    place = place_of("get", Key(f"{C}/{path}"))
    assert (place.kind, place.namespace) == (None, "c1-example-com")


@pytest.mark.parametrize(
    "key",
    ["config", "UPPER/config", "a_b/config", "-a/config", "a..b/config", "/config", f"{'c' * 64}/config", "é/config"],
)
def test_what_names_no_cluster_lives_at_home(key: str) -> None:
    place = place_of("get", Key(key))
    assert (place.namespace, place.kind, place.cluster) == (HOME, None, "")


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.sampled_from(
    [
        "a.b/x",
        "a-b/x",
        "a.b/y",
        "a.b/instancegroup/nodes",
        "a.b/secrets/x y",
        "a.b/secrets/x-y",
        "a.b/x/",
        "a/b",
        "a//b",
    ]
)


@given(keys, keys)
def test_two_keys_share_a_place_only_if_their_clusters_share_the_namespace(one: str, two: str) -> None:
    places = [place_of("get", Key(key)) for key in (one, two)]
    same = [(place.namespace, place.secret) for place in places]
    if one != two and same[0] == same[1]:
        clusters = [key.partition("/")[0] for key in (one, two)]
        assert clusters[0] != clusters[1]
        assert namespace_of(clusters[0]) == namespace_of(clusters[1])
    for place in places:
        assert len(place.secret) <= 63
        named = {
            "metadata": {
                "name": place.secret,
                "namespace": place.namespace,
                "annotations": {"kopsfs.io/key": place.key},
            }
        }
        assert noted_key(SECRETS, named) == place.key
        assert place.kind is None or place.kind in DOCUMENTS


def test_a_note_that_is_not_of_this_place_is_not_believed() -> None:
    for metadata in (
        {"name": "x", "namespace": "c1-example-com"},
        {"name": "nodes", "namespace": "other"},
    ):
        item = {"metadata": {**metadata, "annotations": {"kopsfs.io/key": f"{C}/instancegroup/nodes"}}}
        assert noted_key(GROUPS, item) is None
    assert noted_key(GROUPS, {"metadata": {"name": "x", "annotations": {"kopsfs.io/key": "x" * 2000}}}) is None


@pytest.mark.parametrize(("prefix", "scope", "kinds"), [
    ("", "", set(KINDS)),
    (f"{C}/", "c1-example-com", set(KINDS)),
    (f"{C}/instancegroup/", "c1-example-com", {GROUPS, SECRETS}),
    (f"{C}/pki/", "c1-example-com", {KEYSETS, SSH, SECRETS}),
    (f"{C}/pki/private/ca/", "c1-example-com", {KEYSETS, SECRETS}),
    (f"{C}/addons/", "c1-example-com", {SECRETS}),
    ("é/", HOME, {SECRETS}),
])  # fmt: skip
def test_a_prefix_asks_for_no_more_than_it_can_hold(prefix: str, scope: str, kinds: set[Any]) -> None:
    assert scope_of(Prefix(prefix)) == scope
    assert kinds_below(Prefix(prefix)) == kinds


def test_what_no_key_can_be() -> None:
    for key in ("", "x" * 1025, "\ud800"):
        with pytest.raises(InvalidKeyError):
            place_of("put", Key(key))
