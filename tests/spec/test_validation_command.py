"""`kopsfs validate` as a program: what it reads, what it prints, how it ends.

The method: `main` in this process on files in a temporary directory, the whole output compared where it is short.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pexpect
import pytest

from kopsfs.cli.program import main
from tests.spec.test_validation_stages import CLUSTER, CONTROL_PLANE, MANIFEST, NODES

BROKEN = MANIFEST.replace("- 0.0.0.0/0", "- 0.0.0.0")
WARNED = MANIFEST.replace("  channel: stable", "  channel: stable\n  chanel: x")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A state store of two clusters; the second one has a finding."""
    for name, text in (("c1.example.com", CLUSTER), ("c2.example.com", CLUSTER.replace("- 0.0.0.0/0", "- x"))):
        for path, content in (("config", text), ("instancegroup/cp", CONTROL_PLANE), ("instancegroup/nodes", NODES)):
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content.replace("c1.example.com", name))
    return tmp_path


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    return str(path)


def test_a_clean_file_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-f", write(tmp_path, MANIFEST)]) == 0
    assert capsys.readouterr() == ("", "")


def test_text_shows_the_line_and_a_caret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(tmp_path, BROKEN)
    assert main(["validate", "-f", name]) == 1
    out, err = capsys.readouterr()
    assert out == (
        f'{name}:22:5: Invalid value: spec.kubernetesApiAccess[0]: "0.0.0.0": not a CIDR; 0.0.0.0/32? [rule cidr]\n'
        "   22 |   - 0.0.0.0\n"
        "      |     ^\n"
    )
    assert err == "kopsfs: 1 error\n"


def test_json_has_kops_s_path_and_the_author_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(tmp_path, BROKEN)
    assert main(["validate", "-f", name, "-o", "json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["warnings"] == []
    assert data["errors"] == [
        {
            "type": "Invalid value", "field": "spec.kubernetesAPIAccess[0]", "spelled": "spec.kubernetesApiAccess[0]",
            "detail": "not a CIDR; 0.0.0.0/32?", "value": "0.0.0.0", "rule": "cidr", "source": "validation.go:parseCIDR",
            "stage": "store", "object": "cluster", "cluster": name, "file": name, "line": 22, "column": 5,
        }
    ]  # fmt: skip
    assert main(["validate", "-f", write(tmp_path, MANIFEST), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"errors": [], "warnings": []}


def test_github_annotates_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(tmp_path, BROKEN.replace("  channel: stable", '  channel: stable\n  "a\\nb%": x'))
    assert main(["validate", "-f", name, "-o", "github"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"::warning title=unknown-field,file={name},line=9,col=3::")
    assert "%0A" in lines[0]
    assert "%25" in lines[0]
    assert lines[1].startswith(f"::error title=cidr,file={name},line=23,col=5::Invalid value: ")


def test_junit_has_a_case_for_every_cluster(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--all", "--state", str(store), "-o", "junit"]) == 1
    suite = ET.fromstring(capsys.readouterr().out)
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [(each.get("name"), len(each)) for each in suite] == [("c1.example.com", 0), ("c2.example.com", 1)]


def test_warnings_count_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(tmp_path, WARNED)
    assert main(["validate", "-f", name]) == 0
    assert "warning: Unsupported value: spec.chanel: unknown field, kops drops it; channel?" in capsys.readouterr().out
    assert main(["validate", "-f", name, "--warnings-as-errors"]) == 1
    assert main(["validate", "-f", name, "--strict-fields"]) == 1
    assert main(["validate", "-f", name, "--strict-fields", "--without", "unknown-field"]) == 0


def test_clusters_of_a_tree(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(store)]
    assert main(["validate", "c1.example.com", *state]) == 0
    assert main(["validate", "c2.example.com", *state]) == 1
    assert capsys.readouterr().out.startswith("c2.example.com/config:22:5: Invalid value")
    assert main(["validate", "--all", *state]) == 1
    assert capsys.readouterr().err == "kopsfs: 1 error in 2 clusters\n"
    assert main(["validate", "c3.example.com", *state]) == 66
    assert "there are c1.example.com, c2.example.com" in capsys.readouterr().err
    assert main(["validate", "-f", str(store / "c2.example.com")]) == 1


def test_a_file_of_the_tree_holds_what_belongs_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "c1.example.com/instancegroup/nodes").write_text(CLUSTER)
    assert main(["validate", "c1.example.com", "--state", str(store)]) == 1
    assert "[rule kind-of-place]" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_told_once(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "c1.example.com/instancegroup/nodes").write_text("a: [")
    assert main(["validate", "c1.example.com", "--state", str(store), "-o", "json"]) == 1
    assert [entry["rule"] for entry in json.loads(capsys.readouterr().out)["errors"]] == ["syntax"]


def test_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(text: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return main(["validate", *arguments])

    assert run(MANIFEST, "-f", "-") == 0
    assert run(BROKEN, "-f", "-") == 1
    assert capsys.readouterr().out.startswith("<stdin>:22:5: ")
    assert run(NODES, "--stdin", "--stdin-name", "c1.example.com/instancegroup/nodes") == 0
    assert run(NODES, "--stdin", "--stdin-name", "c1.example.com/config") == 1
    assert capsys.readouterr().out.startswith("c1.example.com/config:2:1: Syntax error: kind")


def test_against_the_old_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tail = "  - etcdMembers:\n    - instanceGroup: cp\n      name: a\n    name: events\n"
    new = write(store, MANIFEST.replace(tail, ""))
    old = str(store / "c1.example.com/config")
    for against in (old, "store"):
        assert main(["validate", "-f", new, "--against", against, "--state", str(store)]) == 1
        assert "[rule etcd-removed]" in capsys.readouterr().out
    assert main(["validate", "-f", write(store, MANIFEST), "--against", "store", "--state", str(store)]) == 0
    assert main(["validate", "-f", write(store, MANIFEST), "--against", str(store / "gone")]) == 66


def test_wrong_words_and_missing_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate"]) == 2
    assert main(["validate", "-f", str(tmp_path / "none.yaml")]) == 66
    assert main(["validate", "-f", str(tmp_path)]) == 66
    assert main(["validate", "-f", "x", "--without", "no-such-rule"]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["validate", "--as", "something"])
    assert ended.value.code == 2
    facts = tmp_path / "facts.yaml"
    facts.write_text("[]")
    assert main(["validate", "-f", write(tmp_path, MANIFEST), "--facts", str(facts)]) == 66
    assert "Traceback" not in capsys.readouterr().err


def test_rules_are_listed_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--list-rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "subnet-in-network                validation.go:validateSubnet" in lines
    assert len(lines) > 400


def test_progress_is_shown_on_a_terminal(store: Path) -> None:
    child = pexpect.spawn(
        sys.executable, ["-m", "kopsfs", "validate", "--all", "--state", str(store)], timeout=120, encoding="utf-8",
        cwd=Path(__file__).parents[2], dimensions=(24, 120),
    )  # fmt: skip
    child.expect("validate.*2/2")
    child.expect("rule cidr")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


def test_nothing_moves_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(tmp_path, MANIFEST.replace("channel: stable", 'channel: stable\n  "\\e[2J\\u202e": x'))
    assert main(["validate", "-f", name]) == 0
    shown = capsys.readouterr().out
    assert "unknown-field" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
