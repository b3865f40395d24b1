"""Does the watch say where to look, whatever becomes of it?

Nothing is answered from it, so these tests ask one thing: that a change is told after the watch has ended, broken, been
refused or stood on a version the server has forgotten.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kopsfs.store import k8s_watch
from kopsfs.store.driver import ABSENT, ANY, Key
from kopsfs.store.k8s import K8sDriver, open_driver
from kopsfs.store.k8s_layout import KINDS
from kopsfs.store.url import Settings, parse
from tests.emulators.k8s import K8sServer, all_but
from tests.store.harness import DriverFace

C = "c1.example.com"
WAIT_S = 120.0
CLUSTER = b"apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nmetadata: {name: c1.example.com}\nspec: {}\n"


class Told:
    """What a watch has told, in the order of arrival."""

    def __init__(self, driver: K8sDriver) -> None:
        self._queue: queue.Queue[Key] = queue.Queue()
        self.driver = driver
        self.stop = driver.watch(self._queue.put)

    def next(self) -> Key:
        return self._queue.get(timeout=WAIT_S)

    def until(self, key: str) -> list[str]:
        """Give what was told before a key."""
        before: list[str] = []
        while (told := self.next()) != key:
            before.append(told)
        return before

    def settle(self, server: K8sServer, kinds: int = len(KINDS)) -> None:
        """Wait until every kind is watched, and forget what was told on the way."""
        wait(server, lambda: len(server.watches) == kinds)
        while not self._queue.empty():
            self._queue.get()


def wait(server: K8sServer, holds: Callable[[], bool]) -> None:
    with server.state.changed:
        assert server.state.changed.wait_for(holds, WAIT_S)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k8s_watch, "PAUSE_FIRST_S", 0.01)


@pytest.fixture
def server() -> Iterator[K8sServer]:
    with K8sServer() as started:
        # Watches come and go without a change of the state: whoever waits for that is woken now and then.
        ticking = threading.Event()

        def tick() -> None:
            while not ticking.wait(0.02):
                with started.state.changed:
                    started.state.changed.notify_all()

        thread = threading.Thread(target=tick)
        thread.start()
        yield started
        ticking.set()
        thread.join()


Open = Callable[..., K8sDriver]


@pytest.fixture
def connect(server: K8sServer, tmp_path: Path) -> Iterator[Open]:
    opened: list[K8sDriver] = []

    def connect(url: str = "k8s://", **context: Any) -> K8sDriver:
        config = server.kubeconfig(tmp_path / f"config{len(opened)}", **context)
        driver = open_driver(parse(url), Settings(environ={"KUBECONFIG": str(config)}))
        opened.append(driver)
        return driver

    yield connect
    for driver in opened:
        driver.close()


def test_every_write_of_everybody_is_told(server: K8sServer, connect: Open) -> None:
    told = Told(connect())
    assert [told.next() for _ in KINDS] == [""] * len(KINDS), "what was before is one hint a kind"
    told.settle(server)
    other = DriverFace(connect())
    other.put(f"{C}/config", CLUSTER, ABSENT)
    assert told.next() == f"{C}/config"
    other.put(f"{C}/addons/a", b"x", ABSENT)
    assert told.next() == f"{C}/addons/a"
    other.put(f"{C}/addons/a", b"y", ANY)
    assert told.next() == f"{C}/addons/a"
    other.delete(f"{C}/config", ANY)
    assert told.next() == f"{C}/config"
    server.put("secrets", "c1-example-com", {"metadata": {"name": "x"}, "data": {}})
    other.put("README", b"x", ABSENT)
    assert told.next() == "README", "a Secret of somebody else is nobody's business"
    wait(server, lambda: told.driver.describe()["watch"] == {kind.name: "watching" for kind in KINDS})


def test_a_mount_of_one_cluster_watches_its_namespace(server: K8sServer, connect: Open) -> None:
    told = Told(connect(f"k8s://emulator/{C}"))
    told.settle(server)
    assert {watch.query.namespace for watch in server.watches} == {"c1-example-com"}
    other = DriverFace(connect())
    other.put("c2.example.com/a", b"x", ABSENT)
    other.put(f"{C}/a", b"x", ABSENT)
    assert told.next() == f"{C}/a"


@pytest.mark.parametrize("how", ["end", "cut"])
def test_a_watch_that_ends_or_breaks_goes_on_where_it_was(how: str, server: K8sServer, connect: Open) -> None:
    other = DriverFace(connect())
    other.put(f"{C}/a", b"x", ABSENT)
    told = Told(connect())
    told.settle(server)
    for n in range(3):
        there = list(server.watches)
        server.end_watches(how)
        other.put(f"{C}/a", b"%d" % n, ANY)
        assert told.next() == f"{C}/a"
        wait(server, lambda there=there: len([w for w in server.watches if w not in there]) == len(KINDS))


def test_a_watch_whose_place_is_forgotten_begins_anew_with_a_hint(server: K8sServer, connect: Open) -> None:
    other = DriverFace(connect())
    other.put(f"{C}/a", b"x", ABSENT)
    told = Told(connect())
    told.settle(server)
    there = list(server.watches)
    server.end_watches("expire")
    assert told.next() == ""
    wait(server, lambda: len([w for w in server.watches if w not in there]) == len(KINDS))
    other.put(f"{C}/a", b"y", ANY)
    told.until(f"{C}/a")


def test_a_place_that_was_compacted_while_nobody_watched_is_a_hint(server: K8sServer, connect: Open) -> None:
    other = DriverFace(connect())
    other.put("README", b"x", ABSENT)
    told = Told(connect())
    told.settle(server)
    go = threading.Event()

    def before(verb: str, resource: str, namespace: str, name: str) -> None:
        if verb == "watch":
            assert go.wait(WAIT_S)

    server.before = before
    server.end_watches("end")
    wait(server, lambda: not server.watches)
    other.put("README", b"y", ANY)
    server.compact()
    go.set()
    assert told.next() == ""
    wait(server, lambda: len(server.watches) == len(KINDS))
    other.put("README", b"z", ANY)
    told.until("README")


def test_bookmarks_keep_a_quiet_watchs_place_fresh(server: K8sServer, connect: Open) -> None:
    told = Told(connect())
    told.settle(server)
    # Much happens elsewhere, nothing here: without the bookmark's version the watch would stand on what is forgotten.
    for n in range(5):
        server.put("secrets", "default", {"metadata": {"name": f"s{n}"}, "data": {}})
    server.bookmark()
    wait(server, lambda: not any(watch.bookmark for watch in server.watches))
    server.compact()
    there = list(server.watches)
    server.end_watches("end")
    wait(server, lambda: len([w for w in server.watches if w not in there]) == len(KINDS))
    DriverFace(connect()).put(f"{C}/a", b"x", ABSENT)
    assert told.next() == f"{C}/a", "no hint that anything may have changed was needed"


def test_a_kind_that_may_not_be_watched_leaves_the_others(server: K8sServer, connect: Open) -> None:
    token = server.add_user("ann", all_but("watch", "keysets.kops.k8s.io"))
    told = Told(connect(token=token))
    told.settle(server, len(KINDS) - 1)
    DriverFace(connect()).put(f"{C}/a", b"x", ABSENT)
    told.until(f"{C}/a")
    state = told.driver.describe()["watch"]
    assert isinstance(state, dict)
    assert "ann may not watch keysets.kops.k8s.io in all namespaces: grant" in state["keysets.kops.k8s.io"]


def test_a_half_open_connection_is_given_up(server: K8sServer, connect: Open) -> None:
    """A listener that answers like a watch and then says nothing for ever, as a firewall that forgot the connection."""
    driver, lines = connect(), queue.Queue[Key]()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        accepted = threading.Semaphore(0)
        peers: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    peer, _ = deaf.accept()
                except OSError:
                    return
                request = peer.recv(65536)
                if b"watch=true" in request:
                    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                else:
                    body = b'{"metadata":{"resourceVersion":"5"},"items":[]}'
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                peers.append(peer)
                accepted.release()

        thread = threading.Thread(target=serve)
        thread.start()
        port = deaf.getsockname()[1]
        server.kubeconfig(driver._access._files[0], url=f"http://127.0.0.1:{port}")
        feed = k8s_watch.Feed(driver._api, "", driver._name, lines.put, silence_s=0.2, pause_first_s=0.01)
        try:
            # One LIST and one watch a kind; every connection more is a watch that was given up and made again.
            for _ in range(3 * len(KINDS) + 1):
                assert accepted.acquire(timeout=WAIT_S)
        finally:
            deaf.shutdown(socket.SHUT_RDWR)
            thread.join()
            for peer in peers:
                peer.close()
            feed.stop()


def test_what_is_stopped_is_silent_and_leaves_no_thread(server: K8sServer, connect: Open) -> None:
    told = Told(connect())
    told.settle(server)
    told.stop()
    told.stop()
    assert not [each for each in threading.enumerate() if each.name.startswith("kopsfs-watch")]
    DriverFace(connect()).put("README", b"x", ABSENT)
    wait(server, lambda: not server.watches)
    assert told._queue.empty()
