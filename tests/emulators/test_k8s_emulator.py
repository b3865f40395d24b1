"""Does the emulated API server keep what the real one promises, and do its knobs do what they say?

The first half is promises of the API; with `KOPSFS_TEST_KUBECONFIG` they are asked of a real server, too (and with
`KOPSFS_TEST_ETCD=http://...`, where its etcd answers, it is compacted). What a script of single requests shows is in
`test_k8s_recorded.py`.
"""

from __future__ import annotations

import base64
import concurrent.futures
import gzip
import http.client
import itertools
import json
import os
import queue
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.emulators.k8s import Fault, K8sServer, all_but, only
from tests.emulators.k8s_asking import CORE, CRDS, ELSEWHERE, KOPS, Api, define, elsewhere, of
from tests.emulators.k8s_state import KOPS_CRDS

ETCD = os.environ.get("KOPSFS_TEST_ETCD", "")
_numbers = itertools.count()


@dataclass
class Place:
    """A namespace of its own on some server."""

    api: Api
    compact: Callable[[], None] | None
    namespace: str = field(default_factory=lambda: f"t-{os.getpid()}-{next(_numbers)}")

    @property
    def secrets(self) -> str:
        return f"{CORE}/namespaces/{self.namespace}/secrets"

    def create(self, name: str, **more: Any) -> str:
        """Give the version."""
        said = self.api.ask("POST", self.secrets, {"metadata": {"name": name}, **more})
        assert said.status == 201, said.body
        return said.version


@pytest.fixture
def server() -> Iterator[K8sServer]:
    with K8sServer() as server:
        yield server


@pytest.fixture(params=["emulator", *(["real"] if ELSEWHERE else [])])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "real":
        made = Place(elsewhere(), _compact_etcd if ETCD else None)
    else:
        server = request.getfixturevalue("server")
        made = Place(of(server), server.compact)
    assert made.api.ask("POST", CORE + "/namespaces", {"metadata": {"name": made.namespace}}).status == 201
    return made


def _compact_etcd() -> None:
    def ask(what: str, body: Any) -> Any:
        wanted = urllib.request.Request(f"{ETCD}/v3/kv/{what}", json.dumps(body).encode())
        with urllib.request.urlopen(wanted, timeout=20) as answer:
            return json.load(answer)

    revision = ask("range", {"key": base64.b64encode(b"x").decode()})["header"]["revision"]
    ask("compaction", {"revision": revision, "physical": True})


# -- versions and pages -----------------------------------------------------------------------------------------


def test_of_many_who_replace_one_version_one_wins(place: Place) -> None:
    """Source: "API conventions", Concurrency control and consistency."""
    version = place.create("one")

    def replace(number: int) -> int:
        body = {"metadata": {"name": "one", "resourceVersion": version}, "stringData": {"k": str(number)}}
        return place.api.ask("PUT", f"{place.secrets}/one", body).status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(replace, range(24)))
    assert statuses == [200] + [409] * 23


def test_of_many_who_create_one_name_one_wins(place: Place) -> None:
    def create(number: int) -> int:
        body = {"metadata": {"name": "one"}, "stringData": {"k": str(number)}}
        return place.api.ask("POST", place.secrets, body).status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(create, range(24)))
    assert statuses == [201] + [409] * 23


def test_of_many_who_delete_one_version_one_wins(place: Place) -> None:
    version = place.create("one")
    body = {"preconditions": {"resourceVersion": version}}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: place.api.ask("DELETE", f"{place.secrets}/one", body).status, range(16))
    assert sorted(answers) == [200] + [404] * 15


def test_versions_rise_over_all_kinds(place: Place) -> None:
    """Source: "API concepts", Resource versions: one etcd revision for all; clients compare for equality only."""
    cluster = {"apiVersion": "kops.k8s.io/v1alpha2", "kind": "Cluster", "metadata": {"name": "a.b"}, "spec": {}}
    first = place.create("one")
    define(place.api, *KOPS_CRDS)
    second = place.api.ask("POST", f"{KOPS}/namespaces/{place.namespace}/clusters", cluster).version
    third = place.create("two")
    listed = place.api.ask("GET", place.secrets).version
    assert int(first) < int(second) < int(third) <= int(listed)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _names(said: Any) -> list[str]:
    return [item["metadata"]["name"] for item in said["items"]]


def test_pages_are_of_one_version(place: Place) -> None:
    """Source: "API concepts", Retrieving large results sets in chunks."""
    for name in "abcde":
        place.create(name)
    first = place.api.ask("GET", f"{place.secrets}?limit=2").json
    place.api.ask("DELETE", f"{place.secrets}/d")
    place.create("c1")
    token = quote(first["metadata"]["continue"])
    second = place.api.ask("GET", f"{place.secrets}?limit=9&continue={token}").json
    assert _names(first) + _names(second) == list("abcde")
    assert first["metadata"]["remainingItemCount"] == 3
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in second["metadata"]
    assert _names(place.api.ask("GET", place.secrets).json) == ["a", "b", "c", "c1", "e"]


def test_order_is_that_of_the_bytes_of_namespace_and_name(place: Place) -> None:
    """`-` and `.` come before letters and digits, and a shorter name first; over namespaces `a-b/` comes before `a/`."""
    names = ["a", "a-b", "a.b", "a0", "ab", "b"]
    for name in reversed(names):
        place.create(name)
    longer = f"{place.namespace}-b"
    assert place.api.ask("POST", CORE + "/namespaces", {"metadata": {"name": longer}}).status == 201
    assert place.api.ask("POST", f"{CORE}/namespaces/{longer}/secrets", {"metadata": {"name": "z"}}).status == 201
    assert _names(place.api.ask("GET", place.secrets).json) == names
    items = place.api.ask("GET", f"{CORE}/secrets").json["items"]
    ours = [row["metadata"]["namespace"] for row in items if row["metadata"]["namespace"].startswith(place.namespace)]
    assert ours == [longer] + [place.namespace] * 6


def test_after_a_compaction_a_listing_can_only_go_on_inconsistently(place: Place) -> None:
    """Source: "API concepts", 410 Gone with a fresh continue token; a server may still know the version (1.36 does)."""
    if place.compact is None:
        pytest.skip("KOPSFS_TEST_ETCD says not where to compact")
    for name in "abcd":
        place.create(name)
    token = quote(place.api.ask("GET", f"{place.secrets}?limit=2").json["metadata"]["continue"])
    place.create("c1")
    place.compact()
    refused = place.api.ask("GET", f"{place.secrets}?limit=2&continue={token}")
    if refused.status == 200 and place.compact is _compact_etcd:
        assert _names(refused.json) == ["c", "d"]
        return
    assert (refused.status, refused.json["reason"]) == (410, "Expired")
    token = quote(refused.json["metadata"]["continue"])
    rest = place.api.ask("GET", f"{place.secrets}?limit=9&continue={token}").json
    assert _names(rest) == ["c", "c1", "d"]


def test_a_long_answer_comes_as_gzip_to_whom_wants_it(place: Place) -> None:
    """Source: apiserver responsewriters: from 128 KiB on."""
    place.create("large", data={"k": base64.b64encode(bytes(200 << 10)).decode()})
    place.create("small")
    plain = place.api.ask("GET", f"{place.secrets}/large")
    packed = place.api.ask("GET", f"{place.secrets}/large", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in place.api.ask("GET", f"{place.secrets}/small", Accept_Encoding="gzip").headers


def test_unknown_fields_are_dropped_with_a_warning(place: Place) -> None:
    """Source: "API concepts", Validation for unrecognized or duplicate fields; RFC 7234, Warning."""
    said = place.api.ask("POST", place.secrets, {"metadata": {"name": "a"}, "unknown": 1})
    assert said.headers["warning"] == '299 - "unknown field \\"unknown\\""'
    assert "unknown" not in said.json


def test_one_may_ask_what_one_may(place: Place) -> None:
    """Source: "Authorization", SelfSubjectAccessReview."""
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    wanted = {"verb": "list", "resource": "secrets", "namespace": place.namespace}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    said = place.api.ask("POST", path, body)
    assert (said.status, said.json["status"]["allowed"]) == (201, True)


def test_a_definition_below_k8s_io_wants_an_approval(place: Place) -> None:
    """Source: apiextensions-apiserver, api-approval-policy; kops's own files have none and are refused as they are."""
    definition = json.loads(json.dumps(KOPS_CRDS[0]).replace("kops.k8s.io", "kopsfs.k8s.io"))
    assert place.api.ask("POST", f"{CRDS}?dryRun=All", definition).status == 201
    del definition["metadata"]["annotations"]
    refused = place.api.ask("POST", f"{CRDS}?dryRun=All", definition)
    assert refused.status == 422
    (cause,) = refused.json["details"]["causes"]
    assert cause["field"] == "metadata.annotations[api-approved.kubernetes.io]"


# -- watches ----------------------------------------------------------------------------------------------------


class Watching:
    """A watch in a thread of its own."""

    def __init__(self, api: Api, path: str) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(api, path), daemon=True)
        self._thread.start()

    def _run(self, api: Api, path: str) -> None:
        try:
            for event in api.watch(path):
                self.events.put(event)
            self.events.put("ended")
        except (http.client.HTTPException, OSError):
            self.events.put("broken")

    def next(self) -> Any:
        """An event as (type, name), or `ended` or `broken`."""
        event = self.events.get(timeout=60)
        if isinstance(event, str):
            return event
        row = event["object"]
        return event["type"], row["metadata"].get("name") or row.get("code")

    def close(self) -> None:
        self._thread.join()


def test_a_watch_tells_what_happens_after_a_listing(place: Place) -> None:
    """Source: "API concepts", Efficient detection of changes."""
    place.create("before")
    version = place.api.ask("GET", place.secrets).version
    watching = Watching(place.api, f"{place.secrets}?watch=true&resourceVersion={version}&timeoutSeconds=300")
    created = place.create("a")
    assert watching.next() == ("ADDED", "a")
    place.api.ask("PUT", f"{place.secrets}/a", {"metadata": {"name": "a"}, "stringData": {"k": "v"}})
    assert watching.next() == ("MODIFIED", "a")
    place.api.ask("DELETE", f"{place.secrets}/a")
    deleted = watching.events.get(timeout=60)
    assert deleted["type"] == "DELETED"
    assert int(deleted["object"]["metadata"]["resourceVersion"]) > int(created) + 1, "the version of the deletion"
    place.create("b")
    assert watching.next() == ("ADDED", "b")


def test_a_watch_of_no_version_begins_with_what_is_there(place: Place) -> None:
    place.create("a")
    events = list(place.api.watch(f"{place.secrets}?watch=true&timeoutSeconds=1"))
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [("ADDED", "a")]


def test_a_watch_of_a_version_that_is_forgotten_ends_with_410(place: Place) -> None:
    """Either as the answer's status or as its one event."""
    if place.compact is None:
        pytest.skip("KOPSFS_TEST_ETCD says not where to compact")
    define(place.api, *KOPS_CRDS)
    place.compact()
    said = place.api.ask("GET", f"{KOPS}/clusters?watch=true&resourceVersion=1&timeoutSeconds=5")
    status = said.json if said.status == 410 else json.loads(said.body.splitlines()[0])["object"]
    assert (status["code"], status["reason"]) == (410, "Expired")


def test_a_watch_may_begin_with_a_listing_whose_end_a_bookmark_tells(place: Place) -> None:
    """Source: "API concepts", Streaming lists, Watch bookmarks: kind, apiVersion and a version, nothing else."""
    version = place.create("a")
    asked = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    added, bookmark = place.api.watch(f"{place.secrets}?watch=true&timeoutSeconds=1{asked}")
    assert (added["type"], added["object"]["metadata"]["resourceVersion"]) == ("ADDED", version)
    metadata = bookmark["object"].pop("metadata")
    assert bookmark == {"type": "BOOKMARK", "object": {"kind": "Secret", "apiVersion": "v1"}}
    assert int(metadata.pop("resourceVersion")) >= int(version)
    assert metadata == {"annotations": {"k8s.io/initial-events-end": "true"}}


# -- knobs of the emulator ----------------------------------------------------------------------------------------


def _watched(server: K8sServer, more: str = "") -> Watching:
    watching = Watching(of(server), f"{CORE}/secrets?watch=true{more}")
    _until(lambda: bool(server.watches))
    return watching


@pytest.mark.parametrize(("how", "said"), [("end", "ended"), ("cut", "broken"), ("expire", ("ERROR", 410))])
def test_a_watch_ends_as_it_is_told(server: K8sServer, how: str, said: Any) -> None:
    watching = _watched(server)
    server.put("secrets", "a", {"metadata": {"name": "x"}})
    assert watching.next() == ("ADDED", "x")
    server.end_watches(how)
    assert watching.next() == said
    watching.close()
    _until(lambda: not server.watches)


def test_a_bookmark_comes_when_told(server: K8sServer) -> None:
    without, watching = _watched(server), _watched(server, "&allowWatchBookmarks=true")
    _until(lambda: len(server.watches) == 2)
    server.bookmark()
    event = watching.events.get(timeout=60)
    assert (event["type"], event["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", str(server.state.revision))
    server.end_watches()
    assert watching.next() == without.next() == "ended"


def test_rights_are_by_verb_kind_and_namespace(server: K8sServer) -> None:
    api = of(server)
    api.ask("POST", f"{CORE}/namespaces", {"metadata": {"name": "a"}})
    reader = server.add_user("reader", only("get list", "secrets keysets.kops.k8s.io", "a"))
    nearly = server.add_user("nearly", all_but("delete", "secrets"))
    asked = [
        (reader, "GET", f"{CORE}/namespaces/a/secrets", 200),
        (reader, "GET", f"{KOPS}/namespaces/a/keysets", 200),
        (reader, "GET", f"{KOPS}/namespaces/a/clusters", 403),
        (reader, "GET", f"{CORE}/namespaces/default/secrets", 403),
        (reader, "GET", f"{CORE}/secrets", 403),
        (reader, "GET", f"{CORE}/secrets?watch=true", 403),
        (reader, "POST", f"{CORE}/namespaces/a/secrets", 403),
        (nearly, "DELETE", f"{CORE}/namespaces/a/secrets/x", 403),
        (nearly, "DELETE", f"{KOPS}/namespaces/a/keysets/x", 404),
    ]
    for token, method, path, status in asked:
        body = {"metadata": {"name": "x"}} if method == "POST" else None
        assert api.ask(method, path, body, token=token).status == status, (method, path)
    said = api.ask("GET", f"{KOPS}/namespaces/a/clusters", token=reader).json
    assert said["message"] == (
        'clusters.kops.k8s.io is forbidden: User "reader" cannot list resource "clusters" in API group "kops.k8s.io" '
        'in the namespace "a"'
    )


def test_a_token_ends(server: K8sServer) -> None:
    now = [1000.0]
    server.clock = lambda: now[0]
    token = server.issue(lifetime_s=60)
    api = of(server)
    assert api.ask("GET", CORE, token=token).status == 200
    now[0] += 60
    assert api.ask("GET", CORE, token=token).status == 401


def test_who_has_no_token_is_anonymous_or_nobody(server: K8sServer) -> None:
    api = of(server)
    assert api.ask("GET", f"{CORE}/secrets", token="").status == 403
    server.anonymous = False
    assert api.ask("GET", f"{CORE}/secrets", token="").status == 401


def test_it_speaks_tls_and_takes_certificates(tmp_path: Path) -> None:
    with K8sServer(tls=tmp_path) as server:
        server.users["localhost"] = only("list", "secrets")
        assert of(server).ask("GET", CORE).status == 200
        context = ssl.create_default_context(cafile=str(server.certificate))
        assert server.certificate is not None
        context.load_cert_chain(server.certificate, server.key)
        known = Api(server.url, "", context)
        assert known.ask("GET", f"{CORE}/secrets").status == 200
        assert known.ask("GET", f"{CORE}/namespaces").status == 403
        with pytest.raises(ssl.SSLCertVerificationError):
            Api(server.url, "", ssl.create_default_context()).ask("GET", CORE)
        said = Api(server.url.replace("https", "http"), "").ask("GET", CORE)
        assert (said.status, said.body) == (400, b"Client sent an HTTP request to an HTTPS server.\n")


def test_it_throttles(server: K8sServer) -> None:
    server.throttle(2, retry_after_s=7)
    api = of(server)
    answers = [api.ask("GET", f"{CORE}/secrets") for _ in range(3)]
    assert [(said.status, said.headers.get("retry-after")) for said in answers] == [(429, "7"), (429, "7"), (200, None)]


def test_it_fails_the_request_it_is_told_to(server: K8sServer) -> None:
    server.faults.append(Fault("list", 503, "ServiceUnavailable", resource="secrets", skip=1, times=2))
    api = of(server)
    assert api.ask("GET", f"{CORE}/namespaces").status == 200
    said = [api.ask("GET", f"{CORE}/secrets") for _ in range(4)]
    assert [each.status for each in said] == [200, 503, 503, 200]
    assert said[1].json["reason"] == "ServiceUnavailable"


def test_a_reply_is_lost_after_the_request_acted(server: K8sServer) -> None:
    server.faults.append(Fault("create", 0, after=True))
    api = of(server)
    body = {"metadata": {"name": "x"}}
    with pytest.raises((http.client.HTTPException, OSError)):
        api.ask("POST", f"{CORE}/namespaces/default/secrets", body)
    assert api.ask("POST", f"{CORE}/namespaces/default/secrets", body).status == 409


def test_pages_can_be_shorter_than_asked(server: K8sServer) -> None:
    for name in "abc":
        server.put("secrets", "default", {"metadata": {"name": name}})
    server.page_max = 2
    assert _names(of(server).ask("GET", f"{CORE}/secrets?limit=500").json) == ["a", "b"]


def test_another_client_acts_at_the_worst_moment(server: K8sServer) -> None:
    first = server.put("secrets", "default", {"metadata": {"name": "x"}})["metadata"]["resourceVersion"]

    def other(verb: str, resource: str, namespace: str, name: str) -> None:
        if verb == "update":
            server.before = None
            server.put(resource, namespace, {"metadata": {"name": name}, "stringData": {"k": "other"}})

    server.before = other
    body = {"metadata": {"name": "x", "resourceVersion": first}, "stringData": {"k": "ours"}}
    assert of(server).ask("PUT", f"{CORE}/namespaces/default/secrets/x", body).status == 409
    assert server.items("secrets")["x"]["data"] == {"k": base64.b64encode(b"other").decode()}


def test_the_log_and_the_counts_say_what_was_asked(server: K8sServer) -> None:
    api = of(server)
    api.ask("GET", f"{CORE}/namespaces/default/secrets?limit=5")
    api.ask("DELETE", f"{KOPS}/namespaces/a/clusters/a.b")
    api.ask("GET", "/version")
    assert server.requests == {"list": 1, "delete": 1, "other": 1}
    listed, deleted, _ = server.log
    assert (listed.resource, listed.namespace, listed.query) == ("secrets", "default", {"limit": "5"})
    assert (deleted.resource, deleted.name, deleted.status) == ("clusters.kops.k8s.io", "a.b", 404)


def test_a_definition_goes_with_its_objects_and_comes_again(server: K8sServer) -> None:
    server.put("keysets", "a", {"metadata": {"name": "ca"}, "spec": {}})
    server.undefine("keysets")
    said = of(server).ask("GET", f"{KOPS}/keysets")
    assert (said.status, said.body) == (404, b"404 page not found\n")
    assert of(server).ask("GET", f"{KOPS}/clusters").status == 200
    server.define(KOPS_CRDS[2])
    assert of(server).ask("GET", f"{KOPS}/keysets").json["items"] == []


def test_a_deleted_namespace_goes_with_what_is_in_it_or_lingers(server: K8sServer) -> None:
    """Source: "Namespaces"; finalization is the namespace controller's, which a server without one lacks."""
    api = of(server)
    for name in ("a", "b"):
        server.put("secrets", name, {"metadata": {"name": "x"}})
    assert api.ask("DELETE", f"{CORE}/namespaces/a").json["status"]["phase"] == "Terminating"
    assert api.ask("GET", f"{CORE}/namespaces/a").status == 404
    assert list(server.items("secrets", "a")) == []
    server.state.namespaces_linger = True
    api.ask("DELETE", f"{CORE}/namespaces/b")
    assert api.ask("GET", f"{CORE}/namespaces/b").json["status"]["phase"] == "Terminating"
    assert list(server.items("secrets", "b")) == ["x"]


def test_each_answer_waits(server: K8sServer) -> None:
    server.latency_s = 0.05
    before = time.monotonic()
    of(server).ask("GET", CORE)
    assert time.monotonic() - before >= 0.05


def test_its_kubeconfig_has_contexts(server: K8sServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "config", context="one", namespace="ns")
    server.kubeconfig(path, context="two", exec={"command": "give-token"}, url="http://elsewhere")
    said = json.loads(path.read_text())
    assert said["current-context"] == "two"
    assert [row["name"] for row in said["contexts"]] == ["one", "two"]
    assert said["users"][1]["user"] == {"exec": {"command": "give-token"}}
    assert [row["cluster"]["server"] for row in said["clusters"]] == [server.url, "http://elsewhere"]


def test_a_pod_finds_its_account(tmp_path: Path) -> None:
    with K8sServer(tls=tmp_path) as server:
        environ = server.in_cluster(tmp_path, server.issue("admin"))
        assert urlsplit(server.url).port == int(environ["KUBERNETES_SERVICE_PORT"])
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        assert Api(server.url, (tmp_path / "token").read_text(), context).ask("GET", CORE).status == 200
