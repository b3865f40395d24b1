"""What do files cost that lie in an API server, and what becomes of large ones?

Requests are counted as the server saw them. The rest of the driver's behaviour is in `test_k8s.py`.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kopsfs.errors import (
    ConflictError,
    CorruptError,
    NotFoundError,
    TransientError,
)
from kopsfs.store import k8s_chunks, k8s_entries, k8s_listing
from kopsfs.store.driver import ABSENT, ANY, Version
from kopsfs.store.k8s import K8sDriver
from kopsfs.store.k8s_documents import DIGEST_NOTE
from tests.emulators.k8s import K8sServer
from tests.emulators.k8s_http import Fault
from tests.store.harness import DriverFace
from tests.store.k8s_world import (
    CLUSTER,
    FILES,
    NS,
    C,
    Clients,
    asked,
    listing,
    objects,
)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with more work than CPUs what follows a listing may take long."""
    monkeypatch.setattr(k8s_listing, "HELD_S", 600.0)
    monkeypatch.setattr(k8s_listing, "BODIES_WAIT_S", 60.0)


# -- Secrets in chunks -------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * 8192 + b"end"


def chunks(server: K8sServer) -> list[str]:
    return [name for name, item in objects(server, "secrets").items() if item["type"] == "kopsfs.io/chunk"]


def test_a_large_file_is_chunks_that_go_with_their_state(face: DriverFace, server: K8sServer, connect: Clients) -> None:
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


def test_a_write_that_lost_leaves_no_chunks(face: DriverFace, server: K8sServer, connect: Clients) -> None:
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
    age_s: float, face: DriverFace, server: K8sServer, connect: Clients
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
    face: DriverFace, server: K8sServer, connect: Clients
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


def test_who_edits_a_files_secret_by_hand_changes_the_file(
    face: DriverFace, server: K8sServer, connect: Clients
) -> None:
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


def test_after_a_listing_reading_costs_nothing(connect: Clients, server: K8sServer) -> None:
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
    kinds = ("clusters", "instancegroups", "keysets", "sshcredentials")
    assert asked(server, since) == {"list secrets": 2, **{f"list {kind}": 1 for kind in kinds}}
    reader.get(keys[-1])
    assert asked(server, since)["get secrets"] == 1, "what was given is not kept"


def test_bytes_of_a_listing_are_not_given_for_another_version_or_later(
    connect: Clients, server: K8sServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = connect(), connect()
    writer.put("a", b"one", ABSENT)
    writer.put("b", b"one", ABSENT)
    whole(reader)
    writer.put("a", b"two", ANY)
    assert reader.head("a").version == writer.head("a").version
    assert reader.get("a")[1] == b"two", "HEAD has shown another version"
    monkeypatch.setattr(k8s_listing, "HELD_S", 0.0)
    writer.put("b", b"two", ANY)
    assert reader.get("b")[1] == b"two", "the listing is too old to be believed"


@pytest.mark.parametrize("act", ["put", "delete", "head"])
def test_a_listing_that_began_before_does_not_overrule_what_happened_since(
    act: str, connect: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    face, other = connect(), connect()
    key = f"{C}/config"
    first = face.put(key, CLUSTER, ABSENT)
    driver = face._driver
    assert isinstance(driver, K8sDriver)
    settle = driver._listing._settle

    def late(*args: Any) -> None:
        """The LISTs have been answered, what they say is not taken in yet."""
        if act == "put":
            face.put(key, CLUSTER + b"# two", first.version)
        elif act == "delete":
            face.delete(key, first.version)
        else:
            other.put(key, CLUSTER + b"# two", first.version)
            face.head(key)
        settle(*args)

    monkeypatch.setattr(driver._listing, "_settle", late)
    assert listing(face) == {key: first.version}
    if act == "delete":
        with pytest.raises(NotFoundError):
            face.get(key)
    else:
        assert face.get(key)[1] == CLUSTER + b"# two"


def whole(face: DriverFace, prefix: str = "") -> dict[str, Version]:
    """A listing, and the bytes that follow it."""
    driver = face._driver
    assert isinstance(driver, K8sDriver)
    there = listing(face, prefix)
    listed = driver._listing
    with listed._came:
        assert listed._came.wait_for(lambda: not listed._coming, 120)
    return there


def accepted(face: DriverFace) -> list[str]:
    """What forms of Secrets a client asks for from now on: `outline` or `whole`."""
    forms: list[str] = []
    api = face._driver._api  # type: ignore[union-attr]
    send = api._send

    def noting(ask: Any, *rest: Any) -> Any:
        if ask.kind.plural == "secrets":
            forms.append(f"{ask.verb} {'outline' if 'PartialObjectMetadata' in ask.accept else 'whole'}")
        return send(ask, *rest)

    api._send = noting
    return forms


def test_a_poll_asks_for_metadata_only_and_changed_files_are_fetched(connect: Clients, server: K8sServer) -> None:
    face, writer = connect(), connect()
    for n in range(5):
        writer.put(f"{n}", b"x", ABSENT)
    forms = accepted(face)
    whole(face)
    assert forms == ["list outline", "list whole"]
    changed = writer.put("3", b"changed", ANY)
    assert listing(face)["3"] == changed.version
    assert face.get("3") == (changed, b"changed")
    assert forms[2:] == ["list outline", "get whole"]


def test_bytes_come_page_by_page_and_nobody_waits_for_the_last(
    connect: Clients, server: K8sServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k8s_listing, "PAGE_BYTES", 2 * 7)
    monkeypatch.setattr(k8s_listing, "PAGE_MIN", 1)
    face, writer = connect(), connect()
    for n in range(6):
        writer.put(f"{n}", b"0123456", ABSENT)
    go_on, lists = threading.Event(), []

    def before(verb: str, resource: str, namespace: str, name: str) -> None:
        if (verb, resource) == ("list", "secrets"):
            lists.append(resource)
            if len(lists) == 3:
                assert go_on.wait(120)

    server.before, since = before, len(server.log)
    listing(face)
    for n in (0, 1):
        assert face.get(f"{n}")[1] == b"0123456"
    assert not go_on.is_set()
    go_on.set()
    for n in (2, 3, 4, 5):
        assert face.get(f"{n}")[1] == b"0123456"
    assert asked(server, since)["list secrets"] == 1 + 3
    assert asked(server, since)["get secrets"] == 0


def test_few_bytes_are_kept_as_they_are_and_many_are_packed(connect: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k8s_entries, "FRESH_BYTES_MAX", 20_000)
    writer, face = connect(), connect()
    for n in range(4):
        writer.put(f"{n}", b"%d" % n * 10_000, ABSENT)
    assert isinstance(face._driver, K8sDriver)
    whole(face)
    assert 20_000 < face._driver._bodies.size < 21_000
    for n in range(4):
        assert face.get(f"{n}")[1] == b"%d" % n * 10_000
    assert face._driver._bodies.size == 0


READ_ALL = """
import io, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from kopsfs.store import open_driver, parse
from kopsfs.store.url import Settings

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def read(info):
    driver.get(info.key, into := io.BytesIO())
    return len(into.getvalue())

driver = open_driver(parse("k8s://"), Settings(environ={"KUBECONFIG": sys.argv[1]}))
driver._access.connection()
before = resident_mb()
page = driver.list_page("", delimiter=False, token=None, start_after=None)
with ThreadPoolExecutor(32) as pool:
    size = sum(pool.map(read, page.objects))
    print(size, resident_mb() - before)
driver.close()
"""


def test_what_was_read_does_not_stay_in_memory(connect: Clients, server: K8sServer, tmp_path: Path) -> None:
    """Measured: 9 MB of files leave 6 MB; in one page and with thresholds of malloc that grow they left 27."""
    writer = connect()
    noise = hashlib.shake_128(b"x").digest(30_000)
    for n in range(300):
        writer.put(f"{n}", noise, ABSENT)
    argv = [sys.executable, "-c", READ_ALL, server.kubeconfig(tmp_path / "again")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    size, left_mb = done.stdout.split()
    assert int(size) == 300 * 30_000
    assert float(left_mb) < 16


def test_what_a_listing_remembers_does_not_grow_with_changes(connect: Clients, server: K8sServer) -> None:
    """Days of polling beside writers who replace, make and remove files."""
    face, writer = connect(), connect()
    assert isinstance(face._driver, K8sDriver)
    listed = face._driver._listing
    sizes = []
    for round_ in range(12):
        for n in range(20):
            writer.put(f"{C}/addons/{n}", b"%d" % round_, ANY)
            writer.put(f"{C}/passing/{round_}-{n}", b"x", ABSENT)
        writer.put(f"{C}/config", CLUSTER + b"# %d" % round_, ANY)
        for key in whole(face):
            face.get(key)
        for n in range(20):
            writer.delete(f"{C}/passing/{round_}-{n}", expected=ANY)
        assert len(listing(face)) == 21
        remembered = (listed.known, listed._seen, listed._bodies._held, listed.owners, listed.shadowed, listed._last)
        sizes.append([len(each) for each in remembered])
    assert sizes[2:] == sizes[2:3] * 10
    assert len(listed._before) <= 2 * len(listed.known) + 1000


def test_what_is_too_much_for_one_listing_comes_cluster_by_cluster(
    connect: Clients, server: K8sServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k8s_listing, "BODIES_MAX", 25)
    face, writer = connect(), connect()
    for n in range(6):
        writer.put(f"c{n % 2}.example.com/addons/{n}", b"0123456", ABSENT)
    forms = accepted(face)
    assert len(listing(face)) == 6
    assert forms == ["list outline"]
    whole(face, "c1.example.com/")
    assert forms[1:] == ["list outline", "list whole"]
    for n in (1, 3, 5):
        assert face.get(f"c1.example.com/addons/{n}")[1] == b"0123456"
    assert len(forms) == 3


def test_many_secrets_that_others_have_written_are_listed_whole_again(connect: Clients, server: K8sServer) -> None:
    face, writer = connect(), connect()
    for n in range(k8s_listing._REFETCHED_MAX + 1):
        writer.put(f"{n}", b"x", ABSENT)
    whole(face)
    for item in objects(server, "secrets").values():
        server.put("secrets", "kopsfs", {**item, "data": {"content": base64.b64encode(b"edited").decode()}})
    forms = accepted(face)
    assert {info.size for info in face.page().objects} == {6}
    assert forms == ["list outline", "list whole"]
    item = next(iter(objects(server, "secrets").values()))
    server.put("secrets", "kopsfs", {**item, "data": {"content": base64.b64encode(b"again").decode()}})
    assert sorted({info.size for info in face.page().objects}) == [5, 6]


def test_held_bytes_stay_within_their_budget(connect: Clients, server: K8sServer) -> None:
    writer = connect()
    noise = hashlib.shake_128(b"x").digest(200_000)
    for n in range(10):
        writer.put(f"{n}", noise, ABSENT)
    face = connect()
    assert isinstance(face._driver, K8sDriver)
    face._driver._bodies._limit = 500_000
    whole(face)
    assert 0 < face._driver._bodies.size <= 500_000
    for n in range(10):
        assert face.get(f"{n}")[1] == noise
    assert face._driver._bodies.size == 0


def test_pages_come_from_one_snapshot_and_survive_its_loss(connect: Clients, server: K8sServer) -> None:
    face = connect(page_size=3)
    for n in range(10):
        face.put(f"k{n}", b"x", ABSENT)
    whole(face)
    page = face.page()
    since = len(server.log)
    assert [info.key for info in face.page(token=page.token).objects] == ["k3", "k4", "k5"]
    assert len(server.log) == since
    assert [info.key for info in face.page(token=page.token).objects] == ["k3", "k4", "k5"]
    assert len(server.log) == since + 5


def test_a_listing_of_many_objects_goes_on_and_begins_anew_when_its_place_is_forgotten(
    connect: Clients, server: K8sServer
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
def test_a_page_that_fails_fails_the_listing(resource: str, connect: Clients, server: K8sServer) -> None:
    face = connect()
    for n in range(9):
        face.put(f"k{n}", b"x", ABSENT)
    server.page_max = 4
    server.faults.append(Fault("list", 503, resource=resource, skip=1 if resource == "secrets" else 0))
    with pytest.raises(TransientError):
        connect().page()
    assert len(listing(face)) == 9


def test_the_cost_of_writes(connect: Clients, server: K8sServer) -> None:
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
