"""Take out one rule after the other: does a test fail each time?  `nice python -m tests.spec.mutation [RULE …]`

For each rule the source of `kopsfs.spec.validation` is compiled without the statements that yield its finding (or without
its row of a table) in a process of its own, which then runs the tests of validation up to the first failure. Prints the
rules nobody missed, and exits 1 if there are any. Takes about a quarter of an hour; not part of `make test`.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import io
import os
import sys
import types
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

PACKAGE = "kopsfs.spec.validation."
HERE = Path(__file__).parent
TESTS = [str(HERE / name) for name in ("test_validation_rules.py", "test_validation_stages.py", "test_check.py")]
CAUGHT, MISSED, UNTOUCHED = 0, 1, 2


class TakeOut(ast.NodeTransformer):
    """Removes what makes one rule speak."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.count = 0
        self._whole = False

    def _names(self, node: ast.AST) -> bool:
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and each.value == self.rule:
                return True
            if isinstance(each, ast.JoinedStr):
                first = each.values[0]
                if isinstance(first, ast.Constant) and str(first.value) and self.rule.startswith(str(first.value)):
                    return True
        return False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        declared = [
            argument.value
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "rules"
            for argument in decorator.args[1:]
            if isinstance(argument, ast.Constant)
        ]
        self._whole = declared == [self.rule]
        node.body = [self.visit(statement) for statement in node.body]
        self._whole = False
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        value = node.value
        if isinstance(value, ast.Yield) and (self._names(value) or (self._whole and not self._named_otherwise(value))):
            self.count += 1
            return ast.copy_location(ast.Pass(), node)
        if isinstance(value, ast.YieldFrom) and self._names(value):
            self.count += 1
            return ast.copy_location(ast.Pass(), node)
        return node

    @staticmethod
    def _named_otherwise(node: ast.AST) -> bool:
        return any(isinstance(each, ast.keyword) and each.arg == "rule" for each in ast.walk(node))

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        kept = [
            item for item in node.elts
            if not (isinstance(item, ast.Call | ast.Tuple) and item is not node and self._row(item))
        ]  # fmt: skip
        self.count += len(node.elts) - len(kept)
        node.elts = [self.visit(item) for item in kept]
        return node

    def _row(self, item: ast.Call | ast.Tuple) -> bool:
        """A row of a table of rules, or of the pairs a loop goes through."""
        parts = item.args[:1] if isinstance(item, ast.Call) else item.elts[1:]
        return any(isinstance(part, ast.Constant) and part.value == self.rule for part in parts)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Compiles the modules of validation without one rule."""

    def __init__(self, rule: str) -> None:
        self.transformer = TakeOut(rule)

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(PACKAGE):
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is None or found.origin is None:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=found.origin)

    def exec_module(self, module: types.ModuleType) -> None:
        origin = str(module.__spec__.origin) if module.__spec__ else ""
        tree = self.transformer.visit(ast.parse(Path(origin).read_text("utf-8"), origin))
        module.__file__ = origin
        exec(compile(ast.fix_missing_locations(tree), origin, "exec"), module.__dict__)


def run(rule: str) -> int:
    """In a child: is the rule missed when it is gone?"""
    finder = Finder(rule)
    sys.meta_path.insert(0, finder)
    census = "not test_every_rule_has_a_case and not rules_are_listed"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", census, *TESTS])
    if not finder.transformer.count:
        return UNTOUCHED
    return CAUGHT if status == pytest.ExitCode.TESTS_FAILED else MISSED


def rule_names() -> list[str]:
    """All rules; asked of a child, so that nothing is imported here."""
    import subprocess

    script = "from kopsfs.cli.judged import all_rules; print(*all_rules())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def main(wanted: Sequence[str]) -> int:
    results: dict[int, list[str]] = {CAUGHT: [], MISSED: [], UNTOUCHED: []}
    for rule in wanted or rule_names():
        child = os.fork()
        if not child:
            os._exit(run(rule))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        results[code if code in results else MISSED].append(rule)
        if code != CAUGHT:
            print(f"{'not missed' if code == MISSED else 'no source found for'} {rule} ({code})", flush=True)
    print(
        f"{len(results[CAUGHT])} of {sum(map(len, results.values()))} rules are missed by a test when they are taken out"
    )
    return int(bool(results[MISSED] or results[UNTOUCHED]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
