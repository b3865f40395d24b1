"""Does every driver keep the contract of `driver.py`, and does `Store` on top of it?

Every test runs over every store of `harness.py` and, where it takes `face`, once straight
through the driver and once through `Store`. The condition tests ask of a driver only what its
capabilities claim; of `Store`, all of it, because it makes up for what the store lacks.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kopsfs.errors import ConflictError, InvalidKeyError, KopsfsError, NotFoundError, StoreError
from kopsfs.store import curl
from kopsfs.store.driver import ABSENT, ANY, ObjectInfo, Version
from tests.store.harness import HARNESSES, AnyDriver, DriverFace, Face, Harness, StoreFace


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "harness" in metafunc.fixturenames:
        metafunc.parametrize("harness", [pytest.param(each, id=each.name, marks=each.marks) for each in HARNESSES])
    if "face" in metafunc.fixturenames:
        metafunc.parametrize("way", ["driver", "store"])


@pytest.fixture
def small_pages(harness: Harness) -> None:
    """The store gives three keys a page."""
    if not harness.server_pages:
        pytest.skip(f"{harness.name}: the server answers 500 to a listing that it has to cut")


@pytest.fixture
def driver(
    harness: Harness, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AnyDriver]:
    # A server of a thread or two, asked 128 questions at once on a busy machine, is silent for longer than a store may be.
    monkeypatch.setattr(curl, "SILENCE_S", 180)
    page_size = 3 if "small_pages" in request.fixturenames else 1000
    server = request.getfixturevalue(harness.server) if harness.server else None
    with harness.space(tmp_path, page_size, server) as opened:
        yield opened


@pytest.fixture
def face(driver: AnyDriver, way: str) -> Iterator[Face]:
    """One store seen one way."""
    opened: Face = DriverFace(driver) if way == "driver" else StoreFace(driver)
    yield opened
    opened.close()


@pytest.fixture
def store_face(driver: AnyDriver) -> Iterator[StoreFace]:
    opened = StoreFace(driver)
    yield opened
    opened.close()


ODD_KEYS = [
    *["a//b", "//x", "/lead", "a/", "a", "a/b", "a/b/", "pct%41", "pct%2F", "pct%", "sp ace", "plus+"],
    *["caf\u00e9", "cafe\u0301", "日本", "😀", "col:on", "amp&<>\"'", "q?x", "h#x", "t\tab", "new\nline", "c\x01d"],
    *["back\\slash", ".", "..", "a/../b", "x/./y", "nodes.swp", "nodes~", "k=v", "n" * 255, "d/" + "n" * 255],
    "k" * 1024,
]
WRONG = Version("d41d8cd98f00b204e9800998ecf8427f")

Promising = {"atomic", "compared"}


def _listing(face: Face, prefix: str = "", *, delimiter: bool = False) -> tuple[list[ObjectInfo], list[str], int]:
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    token, pages = None, 0
    while True:
        page = face.page(prefix, delimiter=delimiter, token=token)
        pages += 1
        assert pages < 100, "the listing does not end"
        objects += page.objects
        prefixes += page.prefixes
        token = page.token
        if token is None:
            return objects, prefixes, pages


def _needs(face: Face, condition: str) -> None:
    """Where the driver does not claim to compare, only `Store` has to."""
    if isinstance(face, DriverFace) and face.guarantee(condition) not in Promising:
        pytest.skip(f"the driver does not claim {condition}: {face.guarantee(condition)}")


# -- bytes and keys --------------------------------------------------------------------------------


def test_what_was_put_is_what_get_head_and_list_say(face: Face, harness: Harness) -> None:
    data = bytes(range(256)) * 3 + b"\r\n no newline at the end"
    put = face.put("c.example.com/config", data, ABSENT)
    info, got = face.get("c.example.com/config")
    assert got == data
    listed, prefixes, _ = _listing(face)
    assert prefixes == []
    assert [each.version for each in (put, info, face.head("c.example.com/config"), *listed)] == [put.version] * 4
    assert {each.key for each in (put, info, *listed)} == {"c.example.com/config"}
    assert {each.size for each in (put, info, *listed)} == {len(data)}
    for each in (put, info, *listed):
        assert each.md5 in {None, hashlib.md5(data).hexdigest()}
    assert abs(listed[0].mtime_ns - info.mtime_ns) < 10**9
    if harness.trusted_md5:
        assert info.md5


def test_an_odd_key_is_kept_exactly_or_refused_by_name(face: Face, harness: Harness) -> None:
    stored = {}
    for number, key in enumerate(ODD_KEYS):
        if harness.server_loses(key):
            continue
        data = f"{number} {key!r}".encode()
        try:
            face.put(key, data, ANY)
        except InvalidKeyError:
            assert harness.may_refuse(key), f"{key!r} is refused without having said so"
        else:
            stored[key] = data
    assert len(stored) >= 5
    for key, data in stored.items():
        assert face.get(key)[1] == data, key
        assert face.head(key).size == len(data), key
    listed, _, _ = _listing(face)
    assert [info.key for info in listed] == sorted(stored, key=str.encode)
    for key in stored:
        face.delete(key, ANY)
    assert _listing(face)[0] == []


def test_a_refused_key_is_refused_by_every_request(face: Face, harness: Harness) -> None:
    refused = [key for key in ODD_KEYS if harness.may_refuse(key) and key != "a/b"]
    for key in refused:
        for ask in (
            lambda key=key: face.put(key, b"x", ANY),
            lambda key=key: face.get(key),
            lambda key=key: face.head(key),
            lambda key=key: face.delete(key, ANY),
        ):
            with pytest.raises((InvalidKeyError, NotFoundError)):
                ask()
    assert _listing(face)[0] == []


def test_zero_bytes_are_an_object(face: Face) -> None:
    put = face.put("c/clusteraddons/default", b"", ABSENT)
    assert put.size == 0
    assert face.get("c/clusteraddons/default")[1] == b""
    assert [info.size for info in _listing(face)[0]] == [0]


def test_nine_megabytes_survive(face: Face) -> None:
    data = os.urandom(9_000_001)
    put = face.put("backups/etcd.backup.gz", data, ANY)
    info, got = face.get("backups/etcd.backup.gz")
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert (info.size, info.version) == (len(data), put.version)


def test_a_shorter_object_replaces_a_longer_one_whole(face: Face) -> None:
    face.put("k", b"a long text that must not shine through", ANY)
    face.put("k", b"short", ANY)
    assert face.get("k")[1] == b"short"


# -- versions and conditions -----------------------------------------------------------------------


def test_a_version_names_one_state(face: Face) -> None:
    versions = [face.put("k", f"state {n}".encode(), ANY).version for n in range(20)]
    assert len(set(versions)) == 20
    assert face.head("k").version == versions[-1]


def test_create_refuses_what_exists(face: Face) -> None:
    _needs(face, "create_only")
    first = face.put("k", b"one", ABSENT)
    with pytest.raises(ConflictError):
        face.put("k", b"two", ABSENT)
    info, data = face.get("k")
    assert (data, info.version) == (b"one", first.version)


def test_create_takes_a_key_that_was_deleted(face: Face) -> None:
    face.put("k", b"one", ABSENT)
    face.delete("k", ANY)
    face.put("k", b"two", ABSENT)
    assert face.get("k")[1] == b"two"


def test_replace_wants_the_version_that_is_there(face: Face) -> None:
    _needs(face, "replace_if")
    first = face.put("k", b"one", ANY)
    second = face.put("k", b"two", first.version)
    with pytest.raises(ConflictError):
        face.put("k", b"three", first.version)
    with pytest.raises(ConflictError):
        face.put("k", b"three", WRONG)
    info, data = face.get("k")
    assert (data, info.version) == (b"two", second.version)
    face.put("k", b"three", second.version)
    assert face.get("k")[1] == b"three"


def test_replace_does_not_create(face: Face) -> None:
    _needs(face, "replace_if")
    first = face.put("k", b"one", ANY)
    face.delete("k", ANY)
    with pytest.raises((ConflictError, NotFoundError) if isinstance(face, DriverFace) else ConflictError):
        face.put("k", b"two", first.version)
    with pytest.raises(NotFoundError):
        face.head("k")


def test_delete_wants_the_version_that_is_there(face: Face) -> None:
    _needs(face, "delete_if")
    first = face.put("k", b"one", ANY)
    second = face.put("k", b"two", first.version if face.guarantee("replace_if") in Promising else ANY)
    with pytest.raises(ConflictError):
        face.delete("k", first.version)
    assert face.get("k")[1] == b"two"
    face.delete("k", second.version)
    with pytest.raises(NotFoundError):
        face.head("k")


def test_delete_of_what_is_gone(face: Face) -> None:
    face.delete("never", ANY)
    first = face.put("k", b"one", ANY)
    face.delete("k", ANY)
    if isinstance(face, StoreFace):
        face.delete("k", first.version)
    elif face.guarantee("delete_if") in Promising:
        with pytest.raises((ConflictError, NotFoundError)):
            face.delete("k", first.version)


def _race(racers: int, act: Callable[[int], None]) -> list[Exception | None]:
    """Run `act(n)` in as many threads as there are racers, at once; give how each ended."""
    start = threading.Barrier(racers)
    ends: list[Exception | None] = [None] * racers

    def run(n: int) -> None:
        start.wait()
        try:
            act(n)
        except KopsfsError as error:
            ends[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def _prove_conditions(face: StoreFace) -> None:
    """Let the store show what it honours, as the first writes of a mount do."""
    first = face.put("proof", b"one", ABSENT)
    second = face.put("proof", b"two", first.version)
    face.put("proof", b"three", second.version)


def test_forty_creators_have_one_winner(store_face: StoreFace) -> None:
    _prove_conditions(store_face)
    if store_face.guarantee("create_only") not in Promising:
        pytest.skip(f"create_only is {store_face.guarantee('create_only')}: a window stays open, and status says so")
    ends = _race(40, lambda n: store_face.put("k", f"racer {n}".encode(), ABSENT))
    winners = [n for n, end in enumerate(ends) if end is None]
    assert len(winners) == 1
    assert all(isinstance(end, ConflictError) for n, end in enumerate(ends) if n not in winners)
    assert store_face.get("k")[1] == f"racer {winners[0]}".encode()


def test_forty_replacers_have_one_winner(store_face: StoreFace) -> None:
    _prove_conditions(store_face)
    if store_face.guarantee("replace_if") not in Promising:
        pytest.skip(f"replace_if is {store_face.guarantee('replace_if')}: a window stays open, and status says so")
    base = store_face.put("k", b"base", ANY).version
    ends = _race(40, lambda n: store_face.put("k", f"racer {n}".encode(), base))
    winners = [n for n, end in enumerate(ends) if end is None]
    assert len(winners) == 1
    assert all(isinstance(end, ConflictError) for n, end in enumerate(ends) if n not in winners)
    assert store_face.get("k")[1] == f"racer {winners[0]}".encode()


def test_a_reader_among_writers_sees_whole_states_only(store_face: StoreFace, harness: Harness) -> None:
    if harness.server_tears:
        pytest.skip(f"{harness.name}: the server tears what it is writing: {harness.server_tears}")
    bodies = {f"{n}".encode() * 50_000: n for n in range(1, 5)}
    store_face.put("k", next(iter(bodies)), ANY)
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(store_face.get("k")[1])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for body in list(bodies) * 5:
            store_face.put("k", body, ANY)
    finally:
        done.set()
        reader.join()
    assert seen
    assert all(data in bodies for data in seen)


# -- listings --------------------------------------------------------------------------------------

TREE = ["a.b", "a/x", "a/y/z", "a0", "b", "c/", "é/1", "日/1", "😀", "\uffee"]


def _fill(face: Face, harness: Harness) -> list[str]:
    keys = [key for key in TREE if not harness.may_refuse(key) and not harness.server_loses(key)]
    for key in keys:
        face.put(key, key.encode(), ANY)
    return sorted(keys, key=str.encode)


@pytest.mark.usefixtures("small_pages")
def test_pages_are_in_the_order_of_utf8_and_complete(face: Face, harness: Harness) -> None:
    keys = _fill(face, harness)
    objects, prefixes, pages = _listing(face)
    assert [info.key for info in objects] == keys
    assert prefixes == []
    assert pages == -(-len(keys) // 3)


@pytest.mark.usefixtures("small_pages")
def test_a_delimiter_groups_what_is_below(face: Face, harness: Harness) -> None:
    keys = _fill(face, harness)
    objects, prefixes, _ = _listing(face, delimiter=True)
    assert [info.key for info in objects] == [key for key in keys if "/" not in key]
    assert prefixes == sorted({key.split("/")[0] + "/" for key in keys if "/" in key}, key=str.encode)
    objects, prefixes, _ = _listing(face, "a/", delimiter=True)
    assert ([info.key for info in objects], prefixes) == (["a/x"], ["a/y/"])


def test_a_prefix_is_not_a_beginning_of_a_name(face: Face) -> None:
    for key in ("cluster1/config", "cluster10/config"):
        face.put(key, b"x", ANY)
    assert [info.key for info in _listing(face, "cluster1/")[0]] == ["cluster1/config"]


@pytest.mark.usefixtures("small_pages")
def test_start_after_skips_and_goes_on(face: Face, harness: Harness) -> None:
    keys = _fill(face, harness)
    page = face.page(start_after="a/x")
    rest = list(page.objects)
    while page.token is not None:
        page = face.page(token=page.token)
        rest += page.objects
    assert [info.key for info in rest] == [key for key in keys if key.encode() > b"a/x"]
    assert face.page("a/", start_after="a/y/" + "\U0010ffff").objects == []


def test_a_prefix_without_objects_is_empty_and_no_error(face: Face) -> None:
    face.put("k", b"x", ANY)
    assert _listing(face, "nothing/here/") == ([], [], 1)
    assert _listing(face, "k/") == ([], [], 1)


def test_a_listing_shows_every_acknowledged_write(face: Face) -> None:
    for n in range(10):
        put = face.put(f"k{n}", b"x" * n, ANY)
        listed = {info.key: info.version for info in _listing(face)[0]}
        assert listed[f"k{n}"] == put.version
        face.delete(f"k{n}", ANY)
        assert _listing(face)[0] == []


# -- errors ----------------------------------------------------------------------------------------


def test_what_is_missing_is_not_found(face: Face) -> None:
    face.put("a", b"x", ANY)
    for key in ("b", "a/b/c", "dir"):
        with pytest.raises(NotFoundError) as head:
            face.head(key)
        with pytest.raises(NotFoundError) as get:
            face.get(key)
        assert (get.value.op, get.value.key) == ("get", key)
        assert (head.value.op, head.value.key) == ("head", key)


def test_a_group_is_not_an_object(face: Face) -> None:
    face.put("dir/k", b"x", ANY)
    with pytest.raises(NotFoundError):
        face.get("dir")
    with pytest.raises(NotFoundError):
        face.head("dir")
    face.delete("dir", ANY)
    assert face.get("dir/k")[1] == b"x"


@pytest.mark.parametrize("key", ["", "k\ud800", "k" * 20_000], ids=["empty", "surrogate", "too long"])
def test_a_key_no_store_can_hold_is_a_store_error(face: Face, key: str) -> None:
    if len(key) > 1024 and isinstance(face, DriverFace):
        pytest.skip("moto takes it; Store refuses it for all")
    with pytest.raises(StoreError):
        face.put(key, b"x", ANY)
    assert _listing(face)[0] == []


# -- what only Store has ---------------------------------------------------------------------------


def test_get_many_delivers_each_key_once(store_face: StoreFace) -> None:
    wanted = {f"d/{n:03}": f"bytes of {n}".encode() for n in range(150)}
    for key, data in wanted.items():
        store_face.put(key, data, ANY)
    got = store_face.get_many([*wanted, "missing"])
    assert isinstance(got.pop("missing")[2], NotFoundError)
    assert {key: data for key, (_, data, _) in got.items()} == wanted
    assert all(info is not None and info.key == key for key, (info, _, _) in got.items())


def test_get_into_streams_and_reports_what_it_streams(store_face: StoreFace) -> None:
    data = os.urandom(3_000_000)
    put = store_face.put("k", data, ANY)
    file = io.BytesIO(b"old bytes" * 1_000_000)
    reports: list[tuple[str, int]] = []
    info = store_face.get_into("k", file, lambda info, size: reports.append((info.version, size)))
    assert file.getvalue() == data
    assert info == store_face.head("k") or info.version == put.version
    assert reports[-1] == (put.version, len(data))
    assert [size for _, size in reports] == sorted(size for _, size in reports)
    assert {version for version, _ in reports} == {put.version}


def test_a_mounted_prefix_sees_its_own_keys_only(harness: Harness, driver: object) -> None:
    outer = StoreFace(driver)  # type: ignore[arg-type]
    outer.put("other/k", b"x", ANY)
    outer.put("kops/k", b"x", ANY)
    outer.put("kops/dir/k", b"x", ANY)
    if not harness.may_refuse("kops/"):
        outer.put("kops/", b"", ANY)
    inner = StoreFace(driver, prefix="kops/")  # type: ignore[arg-type]
    try:
        assert [info.key for info in _listing(inner)[0]] == ["dir/k", "k"]
        objects, prefixes, _ = _listing(inner, delimiter=True)
        assert ([info.key for info in objects], prefixes) == (["k"], ["dir/"])
        assert inner.get("dir/k")[0].key == "dir/k"
        with pytest.raises(NotFoundError) as error:
            inner.get("other/k")
        assert error.value.key == "other/k"
        inner.put("new", b"y", ABSENT)
        assert outer.get("kops/new")[1] == b"y"
        assert [info.key for info in inner.page(start_after="dir/k").objects] == ["k", "new"]
    finally:
        inner.close()
        outer.close()
