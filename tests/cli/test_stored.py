"""Can a store be asked directly, without a mount, for little, and never overwritten?

`main` in this process on `memfs://`, and on the S3 server of the benches, which counts requests and can be made to
misbehave. The tree of a directory is the model: the same keys give the same clusters and files. Planted before it was
believed: a LIST for each cluster of a small store; the backups listed; an unconditional PUT; a GET of an empty file; a
nested cluster not found.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kopsfs import places
from kopsfs.cli import completed, stored, trees
from kopsfs.cli.program import main
from kopsfs.cli.workspace import Directory, is_document
from kopsfs.config import load
from kopsfs.errors import InputError
from kopsfs.fs.journal_rows import SCHEMA
from kopsfs.store import ANY, Key, open_store
from kopsfs.store.demo import CLUSTER as DEMO
from kopsfs.store.demo import objects
from kopsfs.store.memory import bucket
from tests.bench.s3server import Server
from tests.emulators import gcs, k8s, oss

DOCUMENTS = {key.partition("/")[2]: data for key, data in objects()}
COMPLETED = "cluster-completed.spec"


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the store may be kept on this machine, and mounts of others on it are none of ours."""
    monkeypatch.setattr(places, "runtime_dir", lambda _environ, _uid: tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KOPSFS_STATE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("KOPSFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KOPSFS_REQUEST_BUDGET", "120s")  # a loaded machine is no store that is down
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "cache").exists()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


class S3:
    """A bucket of one test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"state-{uuid.uuid4().hex[:12]}"
        self.url = f"s3://{self.name}"
        server.create_bucket(self.name)
        server.reset()

    def add(self, name: str, more: Mapping[str, bytes] | None = None) -> None:
        url, old = self.url.encode(), b"s3://demo-state"
        files = {path: data.replace(DEMO.encode(), name.encode()).replace(old, url) for path, data in DOCUMENTS.items()}
        self.server.load(self.name, {f"{name}/{path}": data for path, data in (files | dict(more or {})).items()})

    def run(self, *words: str) -> int:
        self.server.reset()
        return main([*words, "--state", self.url])

    def asked(self) -> dict[str, int]:
        return {verb: number for verb, number in self.server.requests().items() if number}

    def fetched(self) -> Counter[str]:
        return Counter(key for _, verb, key, _ in self.server.log() if verb == "get")


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield S3(server)
    server.clear_faults()
    server.up()


def backups(count: int) -> dict[str, bytes]:
    return {f"backups/etcd/main/{number:05}/etcd.backup.gz": b"x" for number in range(count)}


# --- it simply works --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["validate", "check"])
def test_the_demo_is_clean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--state", "memfs://demo", DEMO]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "words",
    [
        ["infer", DEMO],
        ["infer"],
        ["infer", "--all"],
        ["explain", DEMO, "spec.kubelet"],
        ["convert", DEMO, "--to", "v1alpha3"],
        ["validate", "--all", "--json"],
        ["check", DEMO, "--hash"],
        ["validate", "--against", "store", DEMO],
    ],
)
def test_the_store_says_what_a_copy_of_it_says(words: list[str], tmp_path: Path, capsys: Any) -> None:
    for key, data in objects():
        place = tmp_path / "copy" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    answers = []
    for state in ("memfs://demo", f"file://{tmp_path / 'copy'}", str(tmp_path / "copy")):
        status = main([*words, "--state", state])
        answers.append((status, *capsys.readouterr()))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 0
    assert answers[0][1] or words[0] == "validate"


@pytest.mark.parametrize("scheme", ["s3", "gs", "oss", "k8s"])
def test_every_kind_of_store(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        url, environ = emulated(scheme, stack, tmp_path)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        store = stored.Stored(load({"state": url}))
        stack.callback(store.close)
        for path, data in DOCUMENTS.items():
            store.write(DEMO, path, data.replace(b"s3://demo-state", url.encode()), expected=None)
        assert main(["validate", DEMO, "--state", url]) == 0
        assert main(["check", "--all", "--state", url]) == 0
        assert capsys.readouterr() == ("", "")
        assert main(["infer", "--write", "--yes", "--state", url]) == 0
        capsys.readouterr()
        assert main(["infer", "--diff", "--json", "--state", url]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "cluster": DEMO, "file": f"{DEMO}/{COMPLETED}", "differs": False, "diff": "",
        }  # fmt: skip


def emulated(scheme: str, stack: contextlib.ExitStack, tmp_path: Path) -> tuple[str, Mapping[str, str]]:
    """An emulator with an empty bucket: the store's URL, and how it is found."""
    if scheme == "s3":
        return "s3://state", stack.enter_context(Server(buckets=["state"])).environment
    if scheme == "gs":
        google = stack.enter_context(gcs.Server())
        google.gcs.create_bucket("state")
        return "gs://state", {"STORAGE_EMULATOR_HOST": google.url}
    if scheme == "oss":
        aliyun = stack.enter_context(oss.Server())
        aliyun.create_bucket("state")
        return "oss://state", aliyun.environment
    kubernetes = stack.enter_context(k8s.K8sServer())
    return "k8s://", {"KUBECONFIG": str(kubernetes.kubeconfig(tmp_path / "kubeconfig"))}


def test_the_environment_names_the_store_and_a_name_is_looked_for_there(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.add("c1.example.com")
    (tmp_path / "c1.example.com").mkdir()
    (tmp_path / "c1.example.com" / "config").write_text("apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\n")
    monkeypatch.setenv("KOPS_STATE_STORE", s3.url + "/")
    assert main(["validate", "c1.example.com", "-v"]) == 0
    assert f"{s3.url} is not mounted here: asking it" in capsys.readouterr().err
    assert main(["validate", "./c1.example.com"]) == 1, "a path is a directory"
    (tmp_path / "config").write_text("[core]\n")
    assert main(["convert", "--to", "v1alpha2"]) == 0, "many programs have a file of that name"
    (tmp_path / "config").unlink()
    monkeypatch.delenv("KOPS_STATE_STORE")
    (tmp_path / ".kops.yaml").write_text(f"kops_state_store: {s3.url}\n")
    assert main(["validate", "c1.example.com"]) == 1, "where one stands comes before a file"
    monkeypatch.chdir("/")
    assert main(["validate", "c1.example.com"]) == 0
    assert main(["validate", "c1.example.com", "--state", ""]) == 78


# --- for little -------------------------------------------------------------------------------------------------------


def test_one_cluster_is_a_list_and_its_documents(s3: S3) -> None:
    s3.add("c1.example.com", backups(1500))
    for number in range(200):
        s3.add(f"d{number}.example.com")
    words = ["validate", "c1.example.com"]
    assert s3.run(*words) == 0
    assert s3.asked() == {"list": 1, "get": 3}, "the additional objects are empty: no GET"
    assert s3.run("infer", "c1.example.com") == 0
    assert s3.asked() == {"list": 1, "get": 3}
    assert s3.run("infer", "c1.example.com", "--diff") == 1
    assert s3.asked() == {"list": 1, "get": 5}, "the completed cluster and the version of kops, too"


def test_a_check_reads_what_a_rule_looks_into(s3: S3) -> None:
    manifests = {f"manifests/static/{number}.yaml": b"x: 1\n" for number in range(20)}
    s3.add("c1.example.com", backups(3500) | manifests)
    assert s3.run("check", "c1.example.com", "--without", "network-overlap") == 0
    assert s3.asked()["list"] == 2, "up to the backups, and behind them"
    assert set(s3.asked()) == {"list", "get"}
    assert not [key for key in s3.fetched() if "/backups/" in key or "/manifests/" in key or "/igconfig/" in key]
    assert max(s3.fetched().values()) == 1


def test_all_clusters_of_a_small_store_are_one_list(s3: S3) -> None:
    for number in range(5):
        s3.add(f"c{number}.example.com")
    assert s3.run("validate", "--all") == 0
    assert s3.asked() == {"list": 1, "get": 5 * 3}
    assert s3.run("check", "--all") == 0
    assert s3.asked()["list"] == 1
    assert max(s3.fetched().values()) == 1, "the neighbours' networks and the check share what was read"


def test_all_clusters_of_a_large_store(s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(60):
        s3.add(f"c{number:02}.example.com", backups(20))
    s3.server.load(s3.name, {"logs/2026/x": b"", "team/a/c.example.com/config": DOCUMENTS["config"]})
    assert s3.run("validate", "--all", "-v") == 1, "one of them has no groups"
    # The first page, the root by delimiter, each of the 62 directories; and down to team/a/c.example.com and logs/2026.
    below_team = 1 + 1 + 1 + 1
    below_logs = 1 + 1 + 1
    assert s3.asked() == {"list": 1 + 1 + 62 + below_team + below_logs, "get": 60 * 3 + 1}
    assert f"{s3.url} was asked get 181, list 71" in capsys.readouterr().err


def test_a_check_of_a_large_store_lists_each_cluster_once(s3: S3) -> None:
    for number in range(30):
        s3.add(f"c{number:02}.example.com", backups(40))
    assert s3.run("check", "--all", "--without", "network-overlap") == 0
    assert s3.asked()["list"] == 1 + 1 + 30
    assert max(s3.fetched().values()) == 1
    assert s3.run("check", "--all") == 0
    assert s3.asked()["list"] == 1 + 1 + 30
    assert max(s3.fetched().values()) == 1


def test_the_next_clusters_are_fetched_while_one_is_worked_on(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "AHEAD", 3)
    names = [f"c{number}.example.com" for number in range(9)]
    for name in names:
        s3.add(name)
    store = stored.Stored(load({"state": s3.url}))
    try:
        store.ahead(names, is_document)
        store.manifest(names[2])
        until = time.monotonic() + 60
        while len(s3.fetched()) < 3 * 3 and time.monotonic() < until:
            time.sleep(0.02)
        assert {key.partition("/")[0] for key in s3.fetched()} == set(names[2:5])
    finally:
        store.close()


def test_a_bucket_of_other_things_is_given_up(
    s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stored, "LISTINGS_MAX", 50)
    s3.server.load(s3.name, {f"logs/{number}/x/y": b"" for number in range(1100)})
    assert s3.run("validate", "--all") == 66
    assert "name the cluster, or a prefix" in capsys.readouterr().err
    assert s3.asked()["list"] <= 50


# --- the same as a directory ------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "config", ".git", "pki", "instancegroup", "backups", ".well-known", "zz"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
KEYS = st.lists(PATHS | PATHS.map(lambda path: f"{path}/config"), max_size=14)


@pytest.mark.parametrize("page_size", [1000, 2])
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(paths=KEYS)
def test_the_same_keys_give_the_same_clusters_and_files(
    page_size: int, paths: list[str], tmp_path_factory: Any
) -> None:
    root, name = tmp_path_factory.mktemp("tree"), uuid.uuid4().hex
    for path in _possible(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
        bucket(name).put(Key(path), b"x", ANY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "open_store", functools.partial(open_store, page_size=page_size))
        store = stored.Stored(load({"state": f"memfs://{name}"}))
    try:
        directory = Directory(root)
        if page_size < 1000:  # a cluster inside a cluster is not looked for in a store of several pages
            assume(
                not any(f"{parent}/" in f"{name}" for name in directory.clusters() for parent in directory.clusters())
            )
        assert store.clusters() == directory.clusters()
        for cluster in directory.clusters():
            assert sorted(store.files(cluster)) == sorted(directory.files(cluster))
            assert store.manifest(cluster) == directory.manifest(cluster)
    finally:
        store.close()


def _possible(paths: Iterable[str]) -> list[str]:
    """Without what a directory cannot say: a file that is a directory, too."""
    chosen: list[str] = []
    for path in sorted(set(paths), key=len, reverse=True):
        if not any(other.startswith(f"{path}/") for other in chosen):
            chosen.append(path)
    return chosen


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_completion_is_written_once_under_a_condition(s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    s3.add("c1.example.com")
    s3.server.delete(s3.name, f"c1.example.com/{COMPLETED}")
    assert s3.run("infer", "c1.example.com", "--write", "--yes") == 0
    assert s3.asked()["list"] == 3, "read, and right before and after the PUT"
    first = s3.server.get(s3.name, f"c1.example.com/{COMPLETED}")
    assert s3.run("infer", "c1.example.com", "--write", "--yes") == 0
    assert "up to date" in capsys.readouterr().err
    assert s3.asked() == {"list": 1, "get": 5}
    s3.server.put(s3.name, f"c1.example.com/{COMPLETED}", first.replace(b"1.34.2", b"1.34.1"))
    assert s3.run("infer", "c1.example.com", "--write", "--yes") == 0
    assert s3.server.get(s3.name, f"c1.example.com/{COMPLETED}") == first
    writes = [
        row for row in s3.server.writes(s3.name, f"c1.example.com/{COMPLETED}") if row["agent"] != "another client"
    ]
    assert len(writes) == 2
    assert [bool(row["if_match"]) for row in writes] == [False, True]


@pytest.mark.parametrize("there", [True, False])
def test_somebody_who_is_faster_keeps_his(
    there: bool, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.add("c1.example.com")
    key = f"c1.example.com/{COMPLETED}"
    if not there:
        s3.server.delete(s3.name, key)

    def confirmed(_question: str) -> bool:
        s3.server.put(s3.name, key, b"theirs")
        return True

    monkeypatch.setattr(completed, "_confirmed", confirmed)
    assert s3.run("infer", "c1.example.com", "--write") == 1
    assert s3.server.get(s3.name, key) == b"theirs"
    assert "changed by somebody else meanwhile; nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["config", "instancegroup/new"])
def test_an_author_who_wrote_before_stops_it(
    path: str, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.add("c1.example.com")

    def confirmed(_question: str) -> bool:
        s3.server.put(s3.name, f"c1.example.com/{path}", b"x")
        return True

    monkeypatch.setattr(completed, "_confirmed", confirmed)
    assert s3.run("infer", "c1.example.com", "--write") == 1
    assert f"c1.example.com/{path} was changed meanwhile; nothing was written" in capsys.readouterr().err
    assert [row["agent"] for row in s3.server.writes(s3.name)] == ["another client"]


@pytest.mark.parametrize("there", [True, False])
def test_an_author_who_writes_meanwhile_undoes_it(there: bool, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.add("c1.example.com")
    key = f"c1.example.com/{COMPLETED}"
    if not there:
        s3.server.delete(s3.name, key)
    before = s3.server.keys(s3.name).get(key)
    write = stored.Stored.write

    def meddling(self: stored.Stored, *words: Any, **more: Any) -> None:
        write(self, *words, **more)
        s3.server.put(s3.name, "c1.example.com/config", b"x")

    monkeypatch.setattr(stored.Stored, "write", meddling)
    assert s3.run("infer", "c1.example.com", "--write", "--yes") == 1
    after = s3.server.keys(s3.name).get(key)
    assert (after and after[0]) == (before and before[0])


# --- when something is wrong ------------------------------------------------------------------------------------------


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("kopsfs: ")
    return err


def test_errors_are_one_line_and_a_status(
    s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.add("c1.example.com")
    assert s3.run("validate", "c2.example.com") == 66
    assert "there are c1.example.com" in one_line(capsys)
    assert main(["validate", "c1", "--state", "s3://no-such-bucket"]) == 69
    assert "s3://no-such-bucket" in one_line(capsys)
    s3.server.fault("status", count=-1, status=403, code="AccessDenied")
    assert s3.run("validate", "c1.example.com") == 77
    assert s3.url in one_line(capsys)
    s3.server.clear_faults()
    s3.server.fault("status", count=1, verb="get", status=503, code="SlowDown")
    assert s3.run("validate", "c1.example.com") == 0, "a hiccup is tried again"
    assert main(["validate", "c1", "--state", "ftp://x"]) == 78
    assert "unknown / unhandled path type" in one_line(capsys)


def run_apart(s3: S3, *words: str, **environ: str) -> tuple[int, str, str]:
    """In a process of its own, where what the store logs would show."""
    done = subprocess.run(
        [sys.executable, "-m", "kopsfs", *words, "--state", s3.url],
        env=os.environ | environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("verb", ["list", "get"])
def test_a_store_that_does_not_answer_is_not_waited_for(verb: str, s3: S3) -> None:
    s3.add("c1.example.com")
    s3.server.fault("hang", count=-1, verb=verb)
    status, out, err = run_apart(s3, "validate", "c1.example.com", KOPSFS_REQUEST_BUDGET="300ms")
    assert (status, out, err.count("\n")) == (69, "", 1), err
    assert err.startswith("kopsfs: ")
    assert s3.url in err


def test_a_store_that_is_down_is_said_once(s3: S3) -> None:
    s3.server.down()
    status, out, err = run_apart(s3, "validate", "--all", KOPSFS_REQUEST_BUDGET="5s")
    assert (status, out, err.count("\n")) == (69, "", 1), err
    assert err.startswith(f"kopsfs: list '{s3.url}': ")


def test_a_document_that_goes_away_meanwhile_is_not_there(s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    s3.add("c1.example.com")
    s3.server.fault("status", count=1, verb="get", key="c1.example.com/config", status=404, code="NoSuchKey")
    assert s3.run("validate", "c1.example.com") == 66
    assert "no cluster c1.example.com" in one_line(capsys)


def test_ctrl_c_ends_it_at_once_and_silently(s3: S3) -> None:
    s3.server.fault("hang", count=-1, verb="list")
    running = subprocess.Popen(
        [sys.executable, "-m", "kopsfs", "validate", "--all", "--state", s3.url],
        env=os.environ | {"KOPSFS_REQUEST_BUDGET": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs in the background of a shell inherits that SIGINT is ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not s3.asked().get("list"):
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
        assert (running.returncode, out, err) == (130, "", "")
    finally:
        running.kill()
        running.communicate()


def test_what_an_earlier_mount_kept_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    directory = load({"state": "memfs://demo"}).state_dir
    directory.mkdir(parents=True)
    connection = sqlite3.connect(directory / "state.db")
    connection.executescript(SCHEMA)
    connection.execute(
        "INSERT INTO intent (op, path, base, size, digest, due, held, created) VALUES ('put', 'a', 'any', 1, '', 0, '', 0)"
    )
    connection.commit()
    connection.close()
    assert main(["validate", "--state", "memfs://demo", DEMO]) == 0
    assert one_line(capsys) == (
        "kopsfs: 1 change of an earlier mount not in the store yet; kopsfs flush memfs://demo\n"
    )
    (directory / "state.db").write_bytes(b"no database, and long enough to be looked at")
    assert main(["validate", "--state", "memfs://demo", DEMO]) == 0
    assert "cannot be read" in one_line(capsys)


def test_a_file_too_large_for_a_document_is_not_fetched(s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    from kopsfs.spec.composer import BYTES_MAX

    s3.add("c1.example.com", {"instancegroup/huge": bytes(BYTES_MAX + 1)})
    assert s3.run("validate", "c1.example.com") == 66
    assert "no document is that large" in one_line(capsys)


def test_json_of_a_store_is_one_document(s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    s3.add("c1.example.com")
    assert s3.run("validate", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"errors": [], "warnings": []}


@pytest.mark.parametrize("words", ["validate --all", "check --all", "infer --all", "infer", "validate x", "check x"])
def test_nothing_found_is_not_nothing_wrong(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = uuid.uuid4().hex
    (tmp_path / "empty").mkdir()
    for state in (f"memfs://{name}", str(tmp_path / "empty")):
        assert main([*words.split(), "--state", state]) == 66
        said = one_line(capsys)
        assert f"in {state}" in said
        assert "no cluster" in said


def test_clusters_of_several_directories_are_not_checked_together(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "c").mkdir(parents=True)
        (tmp_path / folder / "c" / "config").write_text("x")
    with trees.Trees(None) as found:
        assert found.locate("./one/c")[1] == "c"
        with pytest.raises(InputError):
            found.locate("./three/c")
    assert main(["check", "./one/c", "./two/c"]) == 66
