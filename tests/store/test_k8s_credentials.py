"""Is the right server asked as the right person, and does that last for days?

What a kubeconfig, a pod and a plugin say goes through the `kubernetes` client, in a process of its own; the clock is a
number here, so that hours pass at once.
"""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kopsfs.errors import ConfigError, DeniedError, TransientError
from kopsfs.store import k8s_credentials
from kopsfs.store.driver import ABSENT, Prefix
from kopsfs.store.k8s import K8sDriver, open_driver
from kopsfs.store.k8s_credentials import MARGIN_S, REREAD_S, Access
from kopsfs.store.url import Settings, parse
from tests.emulators.k8s import K8sServer
from tests.store.harness import DriverFace, kubeconfigs_read_here


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[K8sServer]:
    with K8sServer(tls=tmp_path) as started:
        started.clock = clock
        yield started


@pytest.fixture
def faces() -> Iterator[list[DriverFace]]:
    opened: list[DriverFace] = []
    yield opened
    for face in opened:
        face.close()


def client(faces: list[DriverFace], access: Access) -> DriverFace:
    faces.append(DriverFace(K8sDriver(access, prefix=Prefix(""))))
    return faces[-1]


def users(server: K8sServer) -> set[str]:
    return {each.user for each in server.log}


# -- where they are found ------------------------------------------------------------------------------------


def test_contexts_are_chosen_as_kops_chooses_them(server: K8sServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    for name in ("one", "admin@two", "three"):
        server.kubeconfig(config, context=name, namespace=f"ns-{name.removeprefix('admin@')}")
    environ = {"KUBECONFIG": str(config)}
    for url, context in (("k8s://", "three"), ("k8s://one", "one"), ("k8s://admin@two/c1", "admin@two")):
        access = Access(parse(url).bucket, environ)
        assert (access.context, access.namespace) == (context, f"ns-{context.removeprefix('admin@')}")
    assert Access(parse("k8s://whoever@one").bucket, environ).context == "one"
    assert parse("k8s://arn%3Aaws%3Aeks%3Aeu-1%3A1%3Acluster%2Fprod/c1").bucket == "arn:aws:eks:eu-1:1:cluster/prod"


def test_several_files_and_the_one_at_home(server: K8sServer, tmp_path: Path) -> None:
    first, second = server.kubeconfig(tmp_path / "a", context="a"), server.kubeconfig(tmp_path / "b", context="b")
    environ = {"KUBECONFIG": f"{first}:{tmp_path / 'missing'}:{second}"}
    assert Access("a", environ).context == "a"
    assert Access("b", environ).context == "b"
    (tmp_path / ".kube").mkdir()
    server.kubeconfig(tmp_path / ".kube" / "config", context="home")
    assert Access("", {"HOME": str(tmp_path)}).context == "home"


@pytest.mark.parametrize(("content", "context", "words"), [
    (None, "", r"no kubeconfig at .*config: set KUBECONFIG, or make one"),
    ("", "", "cannot read the kubeconfig|is empty"),
    ("{", "", "cannot read the kubeconfig"),
    ("[]", "", "cannot read the kubeconfig"),
    ({"current-context": ""}, "", r"has no current context: write k8s://CONTEXT; there are: good, clusterless$"),
    ({}, "wrong", r"has no context wrong: write k8s://CONTEXT; there are: good, clusterless$"),
    ({}, "clusterless", "context clusterless of .* has no cluster"),
])  # fmt: skip
def test_a_kubeconfig_that_does_not_say_it_is_a_setting(
    content: Any, context: str, words: str, server: K8sServer, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    if isinstance(content, dict):
        server.kubeconfig(config, context="good")
        whole = json.loads(config.read_text())
        whole["contexts"].append({"name": "clusterless", "context": {"user": "good"}})
        config.write_text(json.dumps(whole | content))
    elif content is not None:
        config.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        open_driver(parse(f"k8s://{context}"), Settings(environ={"KUBECONFIG": str(config)}))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_no_url_is_a_setting(server: K8sServer, tmp_path: Path, faces: list[DriverFace]) -> None:
    config = server.kubeconfig(tmp_path / "config", url="kube.example.com")
    with pytest.raises(ConfigError, match="context emulator has no server"):
        client(faces, Access("", {"KUBECONFIG": str(config)})).page()


def test_a_pod_asks_with_its_own_account_and_its_file_is_read_again(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    environ = server.in_cluster(account, server.issue("pod", 3600.0), namespace="ops") | {"HOME": str(tmp_path)}
    server.users["pod"] = lambda *asked: True
    access = Access("", environ, clock=clock, service_account=account)
    assert (access.context, access.namespace) == ("", "ops")
    face = client(faces, access)
    face.put("k", b"x", ABSENT)
    for hour in range(24):
        clock.now += 3500
        (account / "token").write_text(server.issue("pod", 3600.0))
        assert face.head("k").size == 1, hour
    assert users(server) == {"pod"}
    assert {each.status for each in server.log} <= {200, 201, 404}, "no request had to be refused"


def test_a_context_that_is_named_is_not_the_pods(server: K8sServer, tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match="no kubeconfig at"):
        Access("prod", environ, service_account=tmp_path)


# -- who reads them -----------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process of its own is asked from now on."""
    questions: list[str] = []
    ask = k8s_credentials.ask

    def noting(module: str, question: str, *words: str, **how: Any) -> Any:
        questions.append(question)
        return ask(module, question, *words, **how)

    monkeypatch.setattr(k8s_credentials, "ask", noting)
    return questions


def test_the_client_is_never_loaded_into_the_daemon(server: K8sServer, tmp_path: Path) -> None:
    config = server.kubeconfig(tmp_path / "config", **said(tmp_path, "{'token': 'admin-token'}"))
    program = """
import sys
from kopsfs.store import open_driver, parse
from kopsfs.store.url import Settings
driver = open_driver(parse("k8s://"), Settings(environ={"KUBECONFIG": sys.argv[1]}))
driver.list_page("", delimiter=False, token=None, start_after=None)
driver.close()
print([name for name in sys.modules if name.partition(".")[0] in {"kubernetes", "oauthlib", "pydantic"}])
"""
    done = subprocess.run([sys.executable, "-c", program, config], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_is_written_in_a_kubeconfig_is_read_once_until_it_changes(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace], asked: list[str]
) -> None:
    config = server.kubeconfig(tmp_path / "config")
    face = client(faces, Access("", {"KUBECONFIG": str(config)}, clock=clock))
    face.put("k", b"x", ABSENT)
    server.tokens.clear()
    for _ in range(3):
        with pytest.raises(DeniedError, match="does not know the credentials"):
            face.head("k")
    assert asked == ["context"], "a refusal says nothing new of the same kubeconfig"
    server.kubeconfig(config, token=server.issue("admin", 9000.0))
    assert face.head("k").size == 1
    assert asked == ["context", "login"]


def test_keys_in_a_kubeconfig_are_shown_and_lie_nowhere_else(
    server: K8sServer, tmp_path: Path, faces: list[DriverFace]
) -> None:
    server.users["localhost"] = lambda *asked: True
    assert server.certificate is not None
    assert server.key is not None
    pair = {"client-certificate-data": server.certificate, "client-key-data": server.key}
    user = {name: base64.b64encode(path.read_bytes()).decode() for name, path in pair.items()}
    config, scratch = server.kubeconfig(tmp_path / "config", **user), tmp_path / "scratch"
    scratch.mkdir()
    access = Access("", {"KUBECONFIG": str(config), "TMPDIR": str(scratch)})
    assert client(faces, access).page().objects == []
    assert users(server) == {"localhost"}
    assert list(scratch.iterdir()) == []


def test_who_waits_for_a_plugin_that_fails_fails_with_it(server: K8sServer, tmp_path: Path) -> None:
    """Its run is not repeated for each request that a listing is made of."""
    config = server.kubeconfig(tmp_path / "config", **plugin(tmp_path, "sys.exit('please log in')"))
    access = Access("", {"KUBECONFIG": str(config)})
    ends: list[str] = []
    lock, waiting = threading.Lock(), threading.Semaphore(0)

    class Counted:
        def acquire(self, *, blocking: bool) -> bool:
            waiting.release()
            return lock.acquire(blocking=blocking)

        release = staticmethod(lock.release)

    def connect() -> None:
        try:
            access.connection()
        except DeniedError as error:
            ends.append(error.detail)

    access._changing = Counted()  # type: ignore[assignment]
    with lock:
        threads = [threading.Thread(target=connect) for _ in range(7)]
        for thread in threads:
            thread.start()
        for _ in threads:
            waiting.acquire()
    for thread in threads:
        thread.join()
    assert len(ends) == 7
    assert set(ends) == {ends[0]}
    assert calls(tmp_path) == 1
    with pytest.raises(DeniedError):
        access.connection()
    assert calls(tmp_path) == 2, "who comes later tries again"


@pytest.mark.parametrize("left", ["", None])
def test_a_token_file_that_is_empty_or_gone_leaves_the_old_token(
    left: str | None, server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    token = tmp_path / "token"
    token.write_text(server.issue("admin", 1000.0))
    config = server.kubeconfig(tmp_path / "config", tokenFile="token")
    access = Access("", {"KUBECONFIG": str(config)}, clock=clock)
    face = client(faces, access)
    face.page()
    first = access.connection().authorization
    token.unlink()
    if left is not None:
        token.write_text(left)
    clock.now += REREAD_S + 1
    assert access.connection().authorization == first
    clock.now += 1000
    with pytest.raises(TransientError, match=r"is empty|No such file"):
        face.page()


# -- that they last -------------------------------------------------------------------------------------------


def test_a_token_file_is_read_again_every_minute(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    token = tmp_path / "token"
    token.write_text(server.issue("admin", 1000.0))
    config = server.kubeconfig(tmp_path / "config", tokenFile=str(token))
    access = Access("", {"KUBECONFIG": str(config)}, clock=clock)
    face = client(faces, access)
    face.page()
    first = access.connection().authorization
    token.write_text(server.issue("admin", 1000.0))
    clock.now += REREAD_S - 1
    assert access.connection().authorization == first
    clock.now += 2
    assert access.connection().authorization != first
    face.page()


def plugin(directory: Path, body: str) -> dict[str, Any]:
    """An exec plugin; what it prints is `body`, a Python expression of `n`, the number of the call."""
    program = directory / "plugin"
    calls = directory / "calls"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys, pathlib\ncalls = pathlib.Path({str(calls)!r})\n"
        f"n = len(calls.read_text()) if calls.exists() else 0\ncalls.write_text('x' * (n + 1))\n{body}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"command": str(program), "apiVersion": "client.authentication.k8s.io/v1"}}


def said(directory: Path, body: str) -> dict[str, Any]:
    head = "'kind': 'ExecCredential', 'apiVersion': 'client.authentication.k8s.io/v1'"
    return plugin(directory, f"print(json.dumps({{{head}, 'status': {body}}}))")


def calls(directory: Path) -> int:
    return len((directory / "calls").read_text()) if (directory / "calls").exists() else 0


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_plugin_runs_when_its_token_ends_and_not_before(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    tokens = [server.issue("admin", 900.0 * (n + 1)) for n in range(40)]
    ends = [stamp(clock.now + 900.0 * (n + 1)) for n in range(40)]
    user = said(tmp_path, f"{{'token': {tokens!r}[n], 'expirationTimestamp': {ends!r}[n]}}")
    config = server.kubeconfig(tmp_path / "config", **user)
    with kubeconfigs_read_here():
        face = client(faces, Access("", {"KUBECONFIG": str(config)}, clock=clock))
        assert calls(tmp_path) == 0, "opening runs nothing"
        face.put("k", b"x", ABSENT)
        started = clock.now
        while clock.now < started + 8 * 3600:
            assert face.head("k").size == 1
            clock.now += 120
    assert 8 * 4 <= calls(tmp_path) <= 8 * 4 + 3
    assert all(each.status != 401 for each in server.log)


def test_a_plugin_without_an_end_runs_again_when_its_token_is_refused(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    tokens = [server.issue("admin", 1000.0), server.issue("admin", 9000.0)]
    config = server.kubeconfig(tmp_path / "config", **said(tmp_path, f"{{'token': {tokens!r}[n]}}"))
    face = client(faces, Access("", {"KUBECONFIG": str(config)}, clock=clock))
    face.put("k", b"x", ABSENT)
    clock.now += 1001
    racers = [threading.Thread(target=face.head, args=("k",)) for _ in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert face.head("k").size == 1
    assert calls(tmp_path) == 2, "one run for all who were refused"


def test_a_plugin_that_fails_in_mid_load_is_an_outage_and_the_old_token_serves_to_its_end(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    token, end = server.issue("admin", 1000.0), stamp(clock.now + 1000)
    body = f"{{'token': {token!r}, 'expirationTimestamp': {end!r}}} if n == 0 else sys.exit('the provider is away')"
    config = server.kubeconfig(tmp_path / "config", **said(tmp_path, body))
    face = client(faces, Access("", {"KUBECONFIG": str(config)}, clock=clock))
    face.put("k", b"x", ABSENT)
    clock.now += 1000 - MARGIN_S + 5
    assert face.head("k").size == 1
    assert calls(tmp_path) == 2
    assert face.head("k").size == 1
    assert calls(tmp_path) == 2, "not at each request"
    clock.now += MARGIN_S
    with pytest.raises(TransientError, match=r"the exec plugin .* fails: .*the provider is away"):
        face.head("k")


@pytest.mark.parametrize(("body", "words"), [
    ("sys.exit('please log in')", r"user emulator: the exec plugin \S+ fails: .*please log in"),
    ("print('no json')", "fails: .*decode"),
    ("print(json.dumps({'kind': 'ExecCredential', 'apiVersion': 'client.authentication.k8s.io/v1', 'status': {}}))",
     "gives neither a token nor a certificate"),
])  # fmt: skip
def test_a_plugin_that_never_worked_is_a_denial(
    body: str, words: str, server: K8sServer, tmp_path: Path, faces: list[DriverFace]
) -> None:
    config = server.kubeconfig(tmp_path / "config", **plugin(tmp_path, body))
    face = client(faces, Access("", {"KUBECONFIG": str(config)}))
    with pytest.raises(DeniedError, match=words):
        face.page()


@pytest.mark.parametrize("hint", ["", "get it from\nexample.com"])
def test_a_plugin_that_is_not_installed_says_so(
    hint: str, server: K8sServer, tmp_path: Path, faces: list[DriverFace]
) -> None:
    entry = {"command": "no-such-plugin-here", "apiVersion": "client.authentication.k8s.io/v1"}
    user = {"exec": entry | ({"installHint": hint} if hint else {})}
    config = server.kubeconfig(tmp_path / "config", **user)
    wanted = "get it from example.com" if hint else "install no-such-plugin-here, or set PATH"
    face = client(faces, Access("", {"KUBECONFIG": str(config)}))
    with pytest.raises(DeniedError, match=f"user emulator: the exec plugin no-such-plugin-here is not there: {wanted}"):
        face.page()


def test_a_plugins_certificate_is_shown(server: K8sServer, tmp_path: Path, faces: list[DriverFace]) -> None:
    server.users["localhost"] = lambda *asked: True
    assert server.certificate is not None
    assert server.key is not None
    pair = (server.certificate.read_text(), server.key.read_text())
    user = said(tmp_path, f"{{'clientCertificateData': {pair[0]!r}, 'clientKeyData': {pair[1]!r}}}")
    config = server.kubeconfig(tmp_path / "config", **user)
    assert client(faces, Access("", {"KUBECONFIG": str(config)})).page().objects == []
    assert users(server) == {"localhost"}


@pytest.mark.parametrize("missing", ["client-certificate", "client-key"])
def test_half_of_a_client_certificate_is_named(
    missing: str, server: K8sServer, tmp_path: Path, faces: list[DriverFace]
) -> None:
    user = {"client-certificate": str(server.certificate), "client-key": str(server.key)}
    user[missing] = str(tmp_path / "nothing.pem")
    config = server.kubeconfig(tmp_path / "config", **user)
    with pytest.raises(DeniedError, match=r"nothing\.pem"):
        client(faces, Access("", {"KUBECONFIG": str(config)})).page()


@pytest.mark.parametrize("token", [None, "wrong-token"])
def test_no_credentials_and_wrong_ones_are_a_denial(
    token: str | None, server: K8sServer, tmp_path: Path, faces: list[DriverFace]
) -> None:
    config = server.kubeconfig(tmp_path / "config", token=token)
    wanted = (
        rf"does not know the credentials of emulator in {config}: log in again, or name another context, k8s://CONTEXT$"
    )
    with pytest.raises(DeniedError, match=wanted):
        client(faces, Access("", {"KUBECONFIG": str(config)})).page()


def test_sighup_reads_the_kubeconfig_again(server: K8sServer, tmp_path: Path, faces: list[DriverFace]) -> None:
    config = server.kubeconfig(tmp_path / "config")
    face = client(faces, Access("", {"KUBECONFIG": str(config)}))
    face.page()
    server.kubeconfig(config, token=server.add_user("ann"))
    face.page()
    assert users(server) == {"admin"}
    driver = face._driver
    assert isinstance(driver, K8sDriver)
    driver.reload_credentials()
    face.page()
    assert users(server) == {"admin", "ann"}


def test_a_clock_that_is_wrong_neither_runs_plugins_at_each_request_nor_stops(
    server: K8sServer, tmp_path: Path, clock: Clock, faces: list[DriverFace]
) -> None:
    user = said(tmp_path, f"{{'token': 'admin-token', 'expirationTimestamp': {stamp(clock.now - 7200)!r}}}")
    config = server.kubeconfig(tmp_path / "config", **user)
    face = client(faces, Access("", {"KUBECONFIG": str(config)}, clock=clock))
    for _ in range(20):
        face.page()
    assert calls(tmp_path) == 1


def test_what_status_says_holds_no_secret(server: K8sServer, tmp_path: Path, faces: list[DriverFace]) -> None:
    config = server.kubeconfig(tmp_path / "config")
    driver = client(faces, Access("", {"KUBECONFIG": str(config)}))._driver
    driver.list_page(Prefix(""), delimiter=False, token=None, start_after=None)  # type: ignore[union-attr]
    text = json.dumps(driver.describe())
    assert "admin-token" not in text
    assert str(config) in text
    assert server.url in text


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://192.0.2.1", True),
        ("http://192.0.2.1", False),
        ("http://api.example.com", False),
        ("http://127.0.0.1:8001", True),
        ("http://[::1]:8001", True),
        ("http://localhost:8001", True),
    ],
)
def test_no_token_crosses_a_network_in_the_clear(url: str, sent: bool, server: K8sServer, tmp_path: Path) -> None:
    config = server.kubeconfig(tmp_path / "config", url=url, token="secret")
    assert bool(Access("", {"KUBECONFIG": str(config)}).connection().authorization) is sent
