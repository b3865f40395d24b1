"""Do infer, explain, convert and channel do what their help says, on files and on trees?

`main` is called in this process; the tree is a plain directory, as a mount is one to these commands.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from kopsfs.cli import completed, outside
from kopsfs.cli.program import main
from kopsfs.cli.workspace import Directory, FileStore
from kopsfs.errors import ConflictError
from kopsfs.spec import writer
from kopsfs.spec.document import read
from tests.spec import cases

OWN = cases.OWN
NAME = "aws.example.com"
WORLD = ["--facts", str(OWN / "facts.yaml"), "--channel-dir", str(OWN / "channels")]


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KOPSFS_KOPS_VERSION", "1.34.0-beta.1")
    monkeypatch.setenv("KOPS_FEATURE_FLAGS", "+APIServerNodes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with one cluster, entered."""
    root = tmp_path / "state"
    add_cluster(root, NAME)
    monkeypatch.chdir(root)
    return root


def add_cluster(root: Path, name: str) -> None:
    text = (OWN / "aws.yaml").read_text().replace(NAME, name)
    for document in read(text):
        place = root / name / ("config" if document.kind == "Cluster" else f"instancegroup/{document.name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(writer.to_yaml(document.data))


def run(*words: str, world: bool = True) -> int:
    return main([*words, *(WORLD if world else [])])


def test_a_file_is_completed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("infer", "-f", str(OWN / "aws.yaml"), "--instance-groups") == 0
    assert capsys.readouterr().out == (OWN / "completed" / "aws.yaml").read_text()


def test_without_groups_only_the_cluster_and_as_json_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("infer", "-f", str(OWN / "aws.yaml"), "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "Cluster"


@pytest.mark.parametrize("words", [[NAME], [], ["."]])
def test_a_cluster_of_the_tree_one_stands_in(
    tree: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    if words == ["."]:
        monkeypatch.chdir(tree / NAME)
    assert run("infer", *words) == 0
    assert f"name: {NAME}\n" in capsys.readouterr().out


def test_a_tree_named_by_state(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("infer", NAME, "--state", f"file://{tree}") == 0
    assert "apiServerCount: 1" in capsys.readouterr().out


def test_write_then_diff_then_a_change(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("infer", NAME, "--diff") == 1
    assert run("infer", NAME, "--write", "--yes") == 0
    stored = tree / NAME / "cluster-completed.spec"
    assert stored.read_text() == (OWN / "completed" / "aws.yaml").read_text().split("\n---\n")[0]
    capsys.readouterr()
    assert run("infer", NAME, "--diff") == 0
    assert capsys.readouterr().out == ""
    config = tree / NAME / "config"
    config.write_text(config.read_text().replace("maxPods: 64", "maxPods: 65"))
    assert run("infer", NAME, "--diff") == 1
    changed = [
        line for line in capsys.readouterr().out.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}
    ]
    assert [line.replace(" ", "") for line in changed] == ["-maxPods:64", "+maxPods:65"] * 2
    before = stored.stat().st_mtime_ns
    assert run("infer", NAME, "--write", "--yes") == 0
    assert run("infer", NAME, "--write", "--yes") == 0
    assert "up to date" in capsys.readouterr().err
    assert stored.stat().st_mtime_ns > before
    assert sorted(path.name for path in (tree / NAME).iterdir()) == [
        "cluster-completed.spec",
        "config",
        "instancegroup",
    ]


def test_a_digest_that_kops_found_is_no_difference(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("infer", NAME, "--write", "--yes") == 0
    stored = tree / NAME / "cluster-completed.spec"
    image = "registry.k8s.io/kube-apiserver:v1.34.10"
    stored.write_text(stored.read_text().replace(image, f"{image}@sha256:{'0' * 64}"))
    assert run("infer", NAME, "--diff") == 0
    stored.write_text(stored.read_text().replace("v1.34.10@", "v1.34.9@"))
    assert run("infer", NAME, "--diff") == 1


def test_a_cluster_of_another_kops_release_is_told_apart(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / NAME / "kops-version.txt").write_text("1.31.2")
    run("infer", NAME, "--diff")
    assert "kops 1.31.2 applied this cluster last" in capsys.readouterr().err
    (tree / NAME / "kops-version.txt").write_text("1.37.0-alpha.1\n")
    run("infer", NAME, "--diff")
    assert "applied this cluster last" not in capsys.readouterr().err


def test_nobody_to_ask_is_said(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("infer", NAME, "--write") == 66
    assert "--yes" in capsys.readouterr().err
    assert not (tree / NAME / "cluster-completed.spec").exists()


class Meddling(Directory):
    """Changes the author's config when the completion is read back before it is replaced, or right after."""

    def __init__(self, root: Path, when: str) -> None:
        super().__init__(root)
        self.when = when

    @override
    def write(self, cluster: str, path: str, data: bytes, *, expected: bytes | None) -> None:
        super().write(cluster, path, data, expected=expected)
        if self.when == "after":
            self.when = ""
            self.meddle()

    def meddle(self) -> None:
        config = self.root / NAME / "config"
        config.write_text(config.read_text().replace("maxPods: 64", "maxPods: 1"))


@pytest.mark.parametrize("stored", [None, "old: 1\n"])
def test_an_author_who_writes_meanwhile_undoes_it(tree: Path, stored: str | None, monkeypatch: Any) -> None:
    target = tree / NAME / "cluster-completed.spec"
    if stored is not None:
        target.write_text(stored)
    monkeypatch.setattr("kopsfs.cli.trees.Directory", lambda root: Meddling(root, "after"))
    assert run("infer", NAME, "--write", "--yes") == 1
    assert (target.read_text() if target.exists() else None) == stored


def test_an_author_who_wrote_before_stops_it(tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def confirmed(_question: str) -> bool:
        config = tree / NAME / "config"
        config.write_text(config.read_text() + "\n")
        return True

    monkeypatch.setattr(completed, "_confirmed", confirmed)
    assert run("infer", NAME, "--write") == 1
    assert "changed meanwhile; nothing was written" in capsys.readouterr().err
    assert not (tree / NAME / "cluster-completed.spec").exists()


def test_a_completion_that_moved_on_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "f").write_bytes(b"theirs")
    for workspace in (Directory(tmp_path), FileStore(tmp_path)):
        with pytest.raises(ConflictError):
            workspace.write("c", "f", b"mine", expected=b"seen")
        with pytest.raises(ConflictError):
            workspace.write("c", "f", b"mine", expected=None)
        with pytest.raises(ConflictError):
            workspace.write("c", "gone", b"mine", expected=b"seen")
        with pytest.raises(ConflictError):
            workspace.remove("c", "f", expected=b"seen")
        assert (tmp_path / "c" / "f").read_bytes() == b"theirs"
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["f"]
        assert workspace.read("c", "gone") is None


def test_all_clusters_of_a_tree_one_of_them_broken(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_cluster(tree, "b.example.com")
    (tree / "c.example.com").mkdir()
    (tree / "c.example.com" / "config").write_text(
        "apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nmetadata: {name: c}\n"
    )
    assert run("infer", "--all") == 1
    captured = capsys.readouterr()
    assert [each["metadata"]["name"] for each in cases_of(captured.out)] == [NAME, "b.example.com"]
    assert "c.example.com" in captured.err


def cases_of(text: str) -> list[dict[str, Any]]:
    return [each.data for each in read(text)]


def test_the_completion_of_an_old_release_is_compared(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("infer", NAME, "--write", "--yes") == 0
    lines = (tree / NAME / "cluster-completed.spec").read_text().splitlines(keepends=True)
    (tree / NAME / "cluster.spec").write_text("".join(lines[2:]))
    (tree / NAME / "cluster-completed.spec").unlink()
    capsys.readouterr()
    assert run("infer", NAME, "--diff") == 1
    captured = capsys.readouterr()
    assert "1.21" in captured.err
    assert [line for line in captured.out.splitlines() if line[:1] == "+"][1:] == [
        "+apiVersion: kops.k8s.io/v1alpha2",
        "+kind: Cluster",
    ]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("a: b: c\n", 1, "f.yaml:1:5: "),
        ("apiVersion: kops.k8s.io/v9\nkind: Cluster\n", 1, "kops.k8s.io/v9"),
        (
            "apiVersion: kops.k8s.io/v1alpha2\nkind: InstanceGroup\nmetadata: {name: g}\nspec: {}\n",
            1,
            "needs the one it belongs to",
        ),
        (
            "apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nmetadata: {name: c}\nspec: {sshAccess: x}\n",
            1,
            "spec.sshAccess",
        ),
        ("", 66, "no documents"),
    ],
)
def test_bad_files(text: str, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    assert run("infer", "-f", str(path)) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["infer", "-f", "/nowhere/f.yaml"], 66, "No such file"),
        (["infer", "nowhere.example.com"], 66, "nowhere.example.com"),
        (["infer", "./instancegroup"], 66, "is no directory"),
        (["infer", NAME, "-f", "x"], 2, "not both"),
        (["infer", "--all", NAME], 2, "every cluster"),
        (["infer", "-f", "x", "--write"], 66, ""),
        (["explain", NAME, "spec.nothing"], 66, "nothing at spec.nothing"),
        (["explain", NAME, "--group", "gone"], 1, "bastions, control-plane, nodes"),
        (["facts", "collect", "--cloud", "azure"], 66, "by hand"),
        (["channel", "show", "gone"], 66, "no channel"),
        (["channel", "show", "../config"], 66, "no channel"),
    ],
)
def test_bad_words(tree: Path, words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    world = words[0] in {"infer", "explain"}
    assert run(*words, world=world) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["infer", "explain", "convert", "facts", "channel"])
def test_help_imports_nothing_that_is_slow(command: str) -> None:
    probe = f"import sys; sys.argv = ['kopsfs', '{command}', '--help']\ntry: from kopsfs.cli import main; main()\nexcept SystemExit: pass\n"
    probe += (
        "print(sorted({'trio', 'yaml', 'boto3', 'rich', 'kopsfs.spec.schema', 'kopsfs.spec.rules'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["infer", "--what"], ["convert", NAME], ["facts", "collect"], ["channel"]])
def test_usage_is_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


# --- explain, convert, channel ----------------------------------------------------------------------------------------


def test_explain_says_rule_source_and_inputs(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", NAME, "spec.kubeAPIServer.etcdServers") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:4] == [
        'spec.kubeAPIServer.etcdServers[0] = "https://127.0.0.1:4001"',
        "  rule    apiserver-etcd-servers",
        "  kops    pkg/model/components/apiserver.go:KubeAPIServerOptionsBuilder",
        "  from    spec.etcdClusters, facts.flags.EtcdEventsHTTP",
    ]


@pytest.mark.parametrize("path", ["spec.networkCIDR", "spec.networking.networkCIDR"])
def test_explain_takes_both_spellings(tree: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", NAME, path) == 0
    assert "aws-network-cidr" in capsys.readouterr().out


def test_explain_inferred_is_everything_the_author_did_not_write(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", NAME, "--inferred") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 100
    assert all(("[" in line and ".go" in line) or "omitempty" in line for line in lines)
    assert run("explain", NAME, "-o", "json") == 0
    leaves = json.loads(capsys.readouterr().out)
    assert {"path", "value", "by", "source", "inputs", "internal", "position"} == set(leaves[0])


@pytest.mark.parametrize("cloud", ["hetzner", "linode"])
def test_a_cloud_that_is_asked_nothing_has_its_facts_at_once(cloud: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["facts", "collect", "--cloud", cloud, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {cloud: {}}


def test_convert_both_ways_keeps_order_and_strangers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("apiVersion: v1\nkind: Secret\n---\n" + (OWN / "aws.yaml").read_text())
    assert run("convert", "-f", str(path), "--to", "v1alpha3", world=False) == 0
    text = capsys.readouterr().out
    assert [each["kind"] for each in cases_of(text)][:2] == ["Secret", "Cluster"]
    path.write_text(text)
    assert run("convert", "-f", str(path), "--to", "v1alpha2", world=False) == 0
    assert all(each["apiVersion"] == "kops.k8s.io/v1alpha2" for each in cases_of(capsys.readouterr().out)[1:])


def test_unknown_fields_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nmetadata: {name: c}\nspec:\n  kublet: {}\n")
    assert run("convert", "-f", str(path), "--to", "v1alpha2", world=False) == 0
    assert f"{path}:5:3: warning" in capsys.readouterr().err


def test_channel_show_says_where_it_is_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("channel", "show", world=False) == 0
    assert "shipped with kopsfs" in capsys.readouterr().out
    assert main(["channel", "show", "--channel-dir", str(OWN / "channels")]) == 0
    assert "aws-new" in capsys.readouterr().out


def test_a_fetched_channel_comes_before_the_shipped_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from kopsfs.cli import channels

    source = tmp_path / "stable"
    source.write_bytes((OWN / "channels" / "stable").read_bytes())
    monkeypatch.setattr(outside, "cache_directory", lambda: tmp_path / "kept")
    channels.refresh("stable", f"file://{tmp_path}/")
    assert main(["channel", "show"]) == 0
    assert "aws-new" in capsys.readouterr().out
    source.write_bytes(b"not: a channel\n")
    assert (tmp_path / "kept" / "stable").read_bytes() != source.read_bytes()
