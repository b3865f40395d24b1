"""Do man pages and completions say what the program does? They are rendered again and compared."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from kopsfs.cli import completion, program
from kopsfs.config import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "packaging" / "man"
PAGES = ["kopsfs.1", "kopsfs.conf.5", "mount.kopsfs.8"]


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", MAN / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_make_man_renders(page: str, renderer: ModuleType) -> None:
    assert (MAN / page).read_text() == renderer.render()[page], "run `make man`"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_clean(page: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(MAN / page)], capture_output=True, check=False)
    assert done.stdout + done.stderr == b""


def test_every_option_has_its_paragraph(renderer: ModuleType) -> None:
    page = renderer.render()["kopsfs.conf.5"]
    for option in OPTIONS:
        assert f".It Sy {option.key} No =" in page


def test_every_command_has_its_section(renderer: ModuleType) -> None:
    page = renderer.render()["kopsfs.1"]
    for commands in program.MODULES.values():
        for name in commands:
            assert f".Ss {name}\n" in page


def test_every_exit_status_and_variable_is_explained(renderer: ModuleType) -> None:
    page = renderer.render()["kopsfs.1"]
    statuses = page.partition(".Sh EXIT STATUS")[2].partition(".Sh ")[0]
    for status in {0, 130, *program._STATUSES.values()}:
        assert f".It {status}\n" in statuses
    settings = {option.env for option in OPTIONS}
    read = {
        name
        for path in (ROOT / "kopsfs" / "cli").glob("*.py")
        for name in re.findall(r'"(KOPS(?:FS)?_[A-Z_]+|NO_COLOR)"', path.read_text())
    }
    assert {name for name in read - settings if name not in page} == set()


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completions_know_every_command_and_option(shell: str) -> None:
    script = completion.script(shell)
    for commands in program.MODULES.values():
        assert all(name in script for name in commands)
    assert all(option.name in script for option in OPTIONS)


@pytest.mark.parametrize("shell", [shell for shell in completion.SHELLS if shutil.which(shell)])
def test_a_shell_reads_its_completions(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "kopsfs"
    file.write_text(completion.script(shell))
    done = subprocess.run([shell, "-n", str(file)], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kopsfs val", ["validate"]),
        ("kopsfs infer --d", ["--diff"]),
        ("kopsfs completion ", ["bash", "zsh", "fish", "tcsh"]),
        ("kopsfs mount --prefetch ", ["auto", "all", "none"]),
    ],
)
def test_bash_offers_what_fits(line: str, offered: list[str], tmp_path: Path) -> None:
    file = tmp_path / "kopsfs"
    file.write_text(completion.script("bash"))
    words = line.split(" ")
    asked = f"source {file}; COMP_WORDS=({' '.join(word or repr(word) for word in words)}); COMP_CWORD={len(words) - 1}"
    done = subprocess.run(
        ["bash", "-c", f'{asked}; _shtab_kopsfs; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == offered
