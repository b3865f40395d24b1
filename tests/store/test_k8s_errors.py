"""What does a person read when an API server refuses, and does the driver know a refusal from an outage?

Each row of the table in stores.md is a test here or in `test_k8s_credentials.py`.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from kopsfs.errors import (
    ConfigError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    OccupiedError,
    QuotaError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
)
from kopsfs.store.driver import ABSENT, ANY
from kopsfs.store.k8s import open_driver
from kopsfs.store.url import Settings, parse
from tests.emulators.k8s import K8sServer, all_but, only
from tests.emulators.k8s_http import Fault
from tests.store.harness import DriverFace
from tests.store.k8s_world import CLUSTER, NS, C, Clients

KINDS = {
    "clusters.kops.k8s.io": f"{C}/config",
    "instancegroups.kops.k8s.io": f"{C}/instancegroup/nodes",
    "keysets.kops.k8s.io": f"{C}/secrets/kube",
    "sshcredentials.kops.k8s.io": f"{C}/pki/ssh/public/admin/{'a' * 32}",
    "secrets": f"{C}/addons/a",
}


@pytest.fixture
def filled(server: K8sServer, connect: Clients) -> None:
    face = connect()
    face.put(f"{C}/config", CLUSTER, ABSENT)
    face.put(f"{C}/addons/a", b"x", ABSENT)


# -- rights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("filled")
def test_a_kind_that_may_not_be_listed_is_named_with_the_verb(kind: str, server: K8sServer, connect: Clients) -> None:
    face = connect(token=server.add_user("ann", all_but("list", kind)))
    for prefix, where in ((f"{C}/", f"in namespace {NS}"), ("", "in all namespaces")):
        with pytest.raises(DeniedError, match=rf"ann may not list {kind} {where}: grant that verb by RBAC$"):
            face.page(prefix)


@pytest.mark.parametrize(("verb", "act"), [
    ("get", lambda face, key: face.get(key)),
    ("get", lambda face, key: face.head(key)),
    ("create", lambda face, key: face.put(key, b"x", ABSENT)),
    ("update", lambda face, key: face.put(f"{C}/addons/a", b"x", face.head(f"{C}/addons/a").version)),
    ("delete", lambda face, key: face.delete(f"{C}/addons/a", face.head(f"{C}/addons/a").version)),
])  # fmt: skip
@pytest.mark.usefixtures("filled")
def test_a_verb_that_is_missing_is_named(verb: str, act: Any, server: K8sServer, connect: Clients) -> None:
    face = connect(token=server.add_user("ann", all_but(verb, "secrets")))
    with pytest.raises(DeniedError, match=f"ann may not {verb} secrets in namespace {NS}: grant"):
        act(face, f"{C}/addons/b")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("filled")
def test_a_document_that_may_not_be_read_is_denied_not_absent(kind: str, server: K8sServer, connect: Clients) -> None:
    face = connect(token=server.add_user("ann", all_but("get", kind)))
    with pytest.raises(DeniedError, match=f"ann may not get {kind} in namespace {NS}"):
        face.head(KINDS[kind])


@pytest.mark.usefixtures("filled")
def test_who_may_list_one_namespace_only_sees_that(server: K8sServer, connect: Clients) -> None:
    connect().put("c2.example.com/addons/a", b"x", ABSENT)
    kinds = " ".join(KINDS)

    def may(verb: str, resource: str, namespace: str) -> bool:
        return only("get list watch", kinds, NS)(verb, resource, namespace) or (verb, resource) == (
            "list",
            "namespaces",
        )

    face = connect(token=server.add_user("ann", may))
    assert [info.key for info in face.page().objects] == [f"{C}/addons/a", f"{C}/config"]
    assert [info.key for info in face.page(f"{C}/").objects] == [f"{C}/addons/a", f"{C}/config"]
    with pytest.raises(DeniedError, match="in namespace c2-example-com"):
        face.page("c2.example.com/")


@pytest.mark.usefixtures("filled")
def test_a_namespace_that_may_not_be_listed_any_more_fails_the_listing(server: K8sServer, connect: Clients) -> None:
    connect().put("c2.example.com/addons/a", b"x", ABSENT)
    allowed = {NS, "c2-example-com"}

    def may(verb: str, resource: str, namespace: str) -> bool:
        return verb == "list" and (namespace in allowed or resource == "namespaces")

    face = connect(token=server.add_user("ann", may))
    assert len(face.page().objects) == 3
    allowed.remove("c2-example-com")
    with pytest.raises(DeniedError, match="c2-example-com"):
        face.page()


@pytest.mark.usefixtures("filled")
def test_without_the_names_of_namespaces_the_contexts_own_is_listed(server: K8sServer, connect: Clients) -> None:
    token = server.add_user("ann", only("get list", " ".join(KINDS), NS))
    face = connect(token=token, namespace=NS)
    assert len(face.page().objects) == 2
    with pytest.raises(
        DeniedError, match=r"in all namespaces: grant that verb by RBAC, or mount one cluster: k8s://CONTEXT/CLUSTER"
    ):
        connect(token=token).page()


@pytest.mark.usefixtures("filled")
def test_a_namespace_that_may_not_be_made_says_how_to(server: K8sServer, connect: Clients) -> None:
    face = connect(token=server.add_user("ann", all_but("create", "namespaces")))
    with pytest.raises(
        DeniedError, match="`kubectl create namespace c9-example-com`; ann may not create namespaces of the cluster"
    ):
        face.put("c9.example.com/addons/a", b"x", ABSENT)


@pytest.mark.usefixtures("filled")
def test_a_namespace_on_its_way_out_is_waited_for(server: K8sServer, connect: Clients) -> None:
    face = connect()
    face.page()
    server.state.namespaces_linger = True
    server.remove("namespaces", "", NS)
    with pytest.raises(TransientError, match=f"namespace {NS} is being deleted"):
        face.put(f"{C}/addons/new", b"x", ABSENT)


# -- definitions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS)[:-1])
def test_a_missing_definition_says_the_command_that_installs_it(kind: str, server: K8sServer, connect: Clients) -> None:
    server.undefine(kind.partition(".")[0])
    face = connect()
    wanted = rf"does not know {kind}/v1alpha2: kopsfs k8s crds \| kubectl apply -f -"
    for act in (lambda: face.page(), lambda: face.head(KINDS[kind]), lambda: face.page(f"{C}/")):
        with pytest.raises(StoreGoneError, match=wanted):
            act()


def test_another_server_is_no_api_server(server: K8sServer, connect: Clients) -> None:
    face = connect()
    server.faults.append(Fault("*", 404, text=True, message="404 page not found", times=99))
    with pytest.raises(StoreGoneError, match=r"the kubeconfig's server is no API server|does not know"):
        face.page()
    with pytest.raises(StoreGoneError, match="the kubeconfig's server is no API server"):
        face.head("README")


# -- refusals of single requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "kind", "words"), [
    (Fault("*", 429, "", "slow down", headers={"Retry-After": "7"}, text=True), TransientError, "429 slow down"),
    (Fault("*", 500, "InternalError", "etcdserver: leader changed"), TransientError, "500 etcdserver"),
    (Fault("*", 503, "ServiceUnavailable", "no endpoints"), TransientError, "503 no endpoints"),
    (Fault("*", 504, "Timeout", "too slow"), TransientError, "504 too slow"),
    (Fault("*", 413, "RequestEntityTooLarge", "limit is 3145728"), TooLargeError, "limit is 3145728"),
    (Fault("*", 500, "", "etcdserver: request is too large"), TooLargeError, "larger than etcd takes"),
    (Fault("*", 422, "Invalid", "metadata.name: nope"), InvalidKeyError, "nope"),
    (Fault("*", 403, "Forbidden", "exceeded quota: objects, requested: 1"), QuotaError, "exceeded quota"),
    (Fault("*", 302, "", "elsewhere", headers={"Location": "https://login"}, text=True), TransientError, "is no API server"),
    (Fault("*", 400, "BadRequest", "what?"), StoreError, "400 what?"),
    (Fault("*", 0), TransientError, "."),
])  # fmt: skip
def test_an_answer_means_what_it_says(
    fault: Fault, kind: type, words: str, server: K8sServer, connect: Clients
) -> None:
    face = connect()
    first = face.put("k", b"x", ABSENT)
    server.faults.append(fault)
    with pytest.raises(kind, match=words) as caught:
        face.put("k", b"y", first.version)
    assert (caught.value.op, caught.value.key) == ("put", "k")
    assert type(caught.value) is kind or kind is InvalidKeyError
    if isinstance(caught.value, TransientError):
        assert caught.value.retry_after_s == (7.0 if fault.headers.get("Retry-After") else 0.0)
    assert "\n" not in str(caught.value)
    assert face.get("k")[1] == b"x"


@pytest.mark.parametrize("page", [1, 2, 3])
def test_every_page_of_a_listing_may_be_throttled(page: int, server: K8sServer, connect: Clients) -> None:
    face = connect()
    for n in range(9):
        face.put(f"k{n}", b"x", ABSENT)
    server.page_max = 3
    server.faults.append(Fault("list", 429, resource="secrets", skip=page - 1, headers={"Retry-After": "3"}))
    with pytest.raises(TransientError) as caught:
        connect().page()
    assert caught.value.retry_after_s == 3.0


def test_a_key_that_no_key_can_be(connect: Clients) -> None:
    face = connect()
    for key in ("", "x" * 1025, "\ud800"):
        for act in (lambda key=key: face.put(key, b"x", ANY), lambda key=key: face.head(key)):
            with pytest.raises(InvalidKeyError):
                act()


def test_a_file_over_sixteen_megabytes_is_too_large(connect: Clients, server: K8sServer) -> None:
    face, since = connect(), len(server.log)
    with pytest.raises(TooLargeError, match="16777217 bytes; an API server takes 16777216"):
        face.put("big", b"\0" * ((16 << 20) + 1), ABSENT)
    assert len(server.log) == since


@pytest.mark.usefixtures("filled")
def test_a_name_that_is_taken_by_what_is_no_file_is_said_so(server: K8sServer, connect: Clients) -> None:
    face = connect()
    face.put("mine", b"x", ABSENT)
    (name,) = server.items("secrets", "kopsfs")
    face.delete("mine", ANY)
    server.put("secrets", "kopsfs", {"metadata": {"name": name}, "data": {}})
    with pytest.raises(OccupiedError, match=f"Secret {name} in kopsfs is not a file"):
        face.put("mine", b"x", ABSENT)


# -- the way there -----------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(("url", "words"), [
    ("http://127.0.0.1:{port}", r"refused.*; is the server of context emulator right\?"),
    ("http://no..where:6443", r"no\.\.where"),
    ("https://127.0.0.1:{open}", r"; is it https:// or http:// in the kubeconfig's server\?"),
])  # fmt: skip
def test_a_server_that_is_not_there_is_an_outage(url: str, words: str, server: K8sServer, connect: Clients) -> None:
    face = connect()
    access = face._driver._access  # type: ignore[union-attr]
    server.kubeconfig(access._files[0], url=url.format(port=_free_port(), open=server.url.rpartition(":")[2]))
    access.reload()
    with pytest.raises(TransientError, match=words) as caught:
        face.page()
    assert "object at 0x" not in str(caught.value)


def test_a_server_that_wants_https_says_so_in_the_clear(tmp_path: Path) -> None:
    with K8sServer(tls=tmp_path) as server:
        config = server.kubeconfig(tmp_path / "config", url=server.url.replace("https:", "http:"))
        face = DriverFace(open_driver(parse("k8s://"), Settings(environ={"KUBECONFIG": str(config)})))
        with pytest.raises(StoreError, match=r"400 Client sent an HTTP request.*; is it https:// or http://"):
            face.page()
        face.close()


def test_an_unknown_certificate_says_where_its_authority_belongs(tmp_path: Path) -> None:
    with K8sServer(tls=tmp_path) as server:
        for trusted, ca_file, good in ((False, "", False), (True, "", True), (False, str(server.certificate), True)):
            config = server.kubeconfig(tmp_path / f"c{trusted}{good}", trusted=trusted)
            settings = Settings(environ={"KUBECONFIG": str(config)}, ca_file=ca_file)
            face = DriverFace(open_driver(parse("k8s://"), settings))
            if good:
                assert face.page().objects == []
            else:
                wanted = "correct certificate-authority of context emulator, or set --ca-file"
                with pytest.raises(TransientError, match=wanted) as caught:
                    face.page()
                assert re.search("certificate", str(caught.value))
            face.close()


def test_a_certificate_may_be_left_unchecked_by_the_kubeconfig(tmp_path: Path) -> None:
    with K8sServer(tls=tmp_path) as server:
        config = server.kubeconfig(tmp_path / "config", trusted=False)
        config.write_text(config.read_text().replace('"server":', '"insecure-skip-tls-verify": true, "server":'))
        face = DriverFace(open_driver(parse("k8s://"), Settings(environ={"KUBECONFIG": str(config)})))
        assert face.page().objects == []
        face.close()


def test_a_bundle_that_cannot_be_read_is_a_setting(server: K8sServer, tmp_path: Path) -> None:
    config = server.kubeconfig(tmp_path / "config", url="https://127.0.0.1:1")
    settings = Settings(environ={"KUBECONFIG": str(config)}, ca_file=str(tmp_path / "nothing.pem"))
    face = DriverFace(open_driver(parse("k8s://"), settings))
    with pytest.raises(ConfigError, match="cannot read certificates from"):
        face.page()


def test_an_object_that_is_not_there_is_that_and_no_more(server: K8sServer, connect: Clients) -> None:
    for key in [*KINDS.values(), "README"]:
        with pytest.raises(NotFoundError, match="no such object"):
            connect().head(key)
