"""Does the code keep the rules of the house?

Read from the syntax trees, nothing is imported. The tables below are the rules; a new module at the
top of kopsfs/ gets a row in ARROWS, or the test fails and says so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kopsfs"

FLOOR = {"errors", "config", "option", "places", "mounts", "log"}

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "option": {"errors"},
    "mounts": {"errors"},
    "places": {"errors", "mounts"},
    "config": {"errors", "option", "places"},
    "log": {"errors"},
    "systemd": set(),
    "spec": {"spec", "errors"},
    "store": {"store"} | FLOOR,
    "fs": {"fs", "store"} | FLOOR,
    "gate": set(),
    "echo": {"fs", "store"} | FLOOR,
    "echo_helper": set(),
    "fuse": {"echo", "gate", "fs", "store"} | FLOOR,
    "control": {"fs"} | FLOOR,
    "commands": {"control", "fuse", "fs", "store"} | FLOOR,
    "daemon": {"commands", "echo", "fuse", "control", "fs", "store", "spec", "systemd"} | FLOOR,
    "cli": {"cli", "daemon", "commands", "fuse", "control", "fs", "store", "spec", "systemd"} | FLOOR,
}
"""Who may import whom. `fs` and `spec` never meet; nothing below the CLI knows it."""

SYNCHRONOUS = ["spec/**/*.py", "fs/tree.py", "fs/journal.py", "fs/names.py", "config.py", "option.py", "places.py"]
"""State is synchronous, waiting is asynchronous, and they live in different modules."""

BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc", "types", "constants"}

TYPE_CHECKING_ALLOWED = {
    "control.py": "its client's half must not import trio, its types need it",
}

PRINTERS = {
    "cli/": "the only place that prints for a person",
    "store/outside.py": "a helper process whose parent reads its output",
}

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give (line, full name) of everything imported from kopsfs, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "kopsfs")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kopsfs":
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if top in {"__init__", "__main__"}:
        return
    assert top in ARROWS, f"kopsfs/{top} is new: say in ARROWS what it may import"
    for line, name in imported(syntax(path)):
        parts = name.split(".")
        if len(parts) < 2 or parts[1].startswith("__"):
            continue
        assert (
            parts[1] == top
            or parts[1] in ARROWS[top]
            or not ((PACKAGE / parts[1]).exists() or (PACKAGE / f"{parts[1]}.py").exists())
        ), f"{name_of(path)}:{line} imports {name}; {top} may import {sorted(ARROWS[top])}"


def test_every_arrow_points_at_something() -> None:
    expected = {"fuse", "daemon"}  # written last
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(ARROWS) - there - expected == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(syntax(path)), f"{name_of(path)} does not say which question it answers"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_say_what_is_inside(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    assert path.parent.name not in BANNED_NAMES
    assert not re.search(r"_(utils?|helpers|common|base)$", path.stem)


@pytest.mark.parametrize("path", MODULES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_have_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_fit_on_a_page(path: Path) -> None:
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_state_is_synchronous(path: Path) -> None:
    if not any(path.match(str(PACKAGE / pattern)) or path in PACKAGE.glob(pattern) for pattern in SYNCHRONOUS):
        return
    for node in ast.walk(syntax(path)):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{name_of(path)}:{node.lineno} may wait"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if name_of(path).startswith(tuple(PRINTERS)):
        return
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name_of(path)}:{node.lineno} prints"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_import_graph_is_not_hidden(path: Path) -> None:
    if name_of(path) not in TYPE_CHECKING_ALLOWED:
        assert not re.search(r"^if TYPE_CHECKING", path.read_text(encoding="utf-8"), re.MULTILINE)


WRITTEN = [
    path
    for pattern in ("*.py", "*.md", "*.toml", "Makefile", "*.service", "*.1", "*.5", "*.8")
    for folder in ("kopsfs", "tests", "packaging", "systemd", ".")
    for path in ((ROOT / folder).rglob(pattern) if folder != "." else ROOT.glob(pattern))
]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_for_later(path: Path) -> None:
    marks = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not re.search(rf"\b({marks})\b", line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def leaves() -> Iterator[str]:
    """Give the classes of errors.py below StoreError and FsError: what a system call can end with."""
    classes = {node.name: node for node in syntax(PACKAGE / "errors.py").body if isinstance(node, ast.ClassDef)}
    parents = {name: [base.id for base in node.bases if isinstance(base, ast.Name)] for name, node in classes.items()}

    def ancestors(name: str) -> set[str]:
        return {name}.union(*(ancestors(parent) for parent in parents.get(name, [])))

    for name in classes:
        if ancestors(name) & {"StoreError", "FsError", "JournalError"} and name not in {"StoreError", "FsError"}:
            yield name


@pytest.mark.skipif(not (PACKAGE / "fuse.py").exists(), reason="kopsfs/fuse.py is not written yet")
@pytest.mark.parametrize("name", list(leaves()))
def test_every_error_has_an_errno(name: str) -> None:
    tables = [
        node.value
        for node in ast.walk(syntax(PACKAGE / "fuse.py"))
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Dict)
        and "ERRNO" in ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
    ]
    assert tables, "fuse.py has no table named ERRNO…"
    keys = {ast.unparse(key).split(".")[-1] for table in tables for key in table.keys if key is not None}
    assert name in keys, f"fuse.py's errno table has no row for {name}"
