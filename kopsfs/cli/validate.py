"""What would kops refuse, and what would it silently ignore?

`kopsfs validate` reads clusters from a state store's tree, or documents from files or stdin, and never asks the network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from kopsfs.cli import outside, program
from kopsfs.errors import InputError
from kopsfs.spec.validation.manifest import Found
from kopsfs.spec.validation.rule import Rule

_EPILOG = """\
examples:
  kopsfs validate c1.example.com              a cluster of the mounted store, as kops would see it
  kopsfs validate -f cluster.yaml             a file; - is stdin
  kopsfs validate -f new.yaml --as new-manifest     what kops create -f would say
  kopsfs validate --all -o github             every cluster, as annotations of a pull request
  kopsfs validate --stdin --stdin-name config < config      from an editor or a hook
  kopsfs validate -f new.yaml --against store    may what is stored become this?
  kopsfs validate --list-rules

exit status: 0 clean; 1 findings; 2 usage; 66 no such input
"""

T = TypeVar("T")

KINDS = ("manifest", "new-manifest", "completed-manifest", "cluster-only")


def register(subparsers: program.Subparsers) -> None:
    """Add `validate`."""
    parser = subparsers.add_parser(
        "validate",
        help=program.summary_of("validate"),
        description="Find everything kops would refuse, and what it would silently drop, without a network.",
        epilog=_EPILOG,
    )
    _add_input(parser)
    _add_rules(parser)
    outside.add_outside(parser)
    parser.set_defaults(run=_run)


def _add_input(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("what to look at")
    section.add_argument(
        "clusters", nargs="*", metavar="CLUSTER", help="clusters of the state store, by name or directory"
    )
    section.add_argument("--all", action="store_true", help="every cluster of the state store")
    section.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE|DIR|-",
        help="documents, or a cluster's directory",
    )
    section.add_argument("--stdin", action="store_true", help="one document from stdin")
    section.add_argument("--stdin-name", default="", metavar="PATH", help="the path in the store it is for")
    section.add_argument("--state", metavar="DIR|URL", help="the tree of a state store, or the URL of a mounted one")
    section.add_argument("--against", metavar="FILE|store", help="the old version: may it become this?")


def _add_rules(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("how to judge and what to print")
    section.add_argument(
        "--as", dest="kind", choices=KINDS, default=KINDS[0], help="what the documents are: stored, new, complete"
    )
    section.add_argument(
        "--strict",
        choices=("true", "false"),
        default="false",
        help="completed documents have all that completion fills in",
    )
    section.add_argument(
        "--kops-order", action="store_true", help="stop where kops stops: only its first stage that fails"
    )
    section.add_argument(
        "--cloud-checks", action="store_true", help="also whether machine types and images exist and suit"
    )
    section.add_argument("--strict-fields", action="store_true", help="unknown fields are errors")
    section.add_argument("--warnings-as-errors", action="store_true", help="warnings count for the exit status")
    section.add_argument(
        "--without", action="append", default=[], metavar="RULE", help="leave a rule out; --list-rules names them"
    )
    section.add_argument("--list-rules", action="store_true", help="print all rules and where kops has them")
    section.add_argument(
        "-o",
        "--output",
        choices=("text", "json", "github", "junit"),
        default="text",
        help="text has the line and a caret",
    )


@dataclass(frozen=True, slots=True)
class Source:
    """Files that belong together.

    Attributes:
        name: the cluster, or the file.
        files: name for messages → content.
        cluster: the cluster's path in the tree, "" when the files do not come from one.
    """

    name: str
    files: Mapping[str, bytes]
    cluster: str = ""


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.cli import findings
    from kopsfs.spec.field import RefusedError

    if parsed.list_rules:
        return _list_rules()
    if not (parsed.clusters or parsed.all or parsed.filename or parsed.stdin):
        program.complain("validate: name a cluster, or --all, or -f FILE; see kopsfs validate --help")
        return program.USAGE
    without = without_of(parsed)
    if without is None:
        return program.USAGE
    try:
        judge = _judge(parsed)
    except RefusedError as error:
        raise InputError(str(error)) from error
    checked = []
    for source in _sources(parsed):
        found = [_graded(entry, parsed) for entry in judge(source) if entry.finding.rule not in without]
        checked.append(findings.Checked(source.name, found))
    sys.stdout.write(findings.render(checked, parsed.output))
    entries = [entry for each in checked for entry in each.found]
    if entries and parsed.output == "text":
        program.complain(findings.summary(checked))
    return int(any(parsed.warnings_as_errors or findings.is_error(entry) for entry in entries))


# --- what to look at --------------------------------------------------------------------------------------------------


def _sources(parsed: argparse.Namespace) -> Iterator[Source]:
    """Everything the command line names.

    Raises:
        InputError: it names something that is not there.
    """
    from kopsfs.cli.inputs import locate
    from kopsfs.cli.trees import find_tree

    if parsed.stdin:
        name = parsed.stdin_name or "<stdin>"
        yield Source(name, {name: _stdin()})
    for name in parsed.filename:
        yield _file(name)
    if parsed.all:
        tree = find_tree(parsed.state)
        found = [(tree, cluster) for cluster in tree.clusters()]
    else:
        found = [locate(cluster, parsed.state) for cluster in parsed.clusters]
    for tree, cluster in progress(found, "validate", lambda each: each[1]):
        files = {f"{cluster}/{path}": data for path, data in tree.manifest(cluster).items()}
        yield Source(cluster, files, cluster)


def _stdin() -> bytes:
    from kopsfs.spec.composer import BYTES_MAX

    return sys.stdin.buffer.read(BYTES_MAX + 1)


def _file(name: str) -> Source:
    from kopsfs.cli.trees import Tree

    if name == "-":
        return Source("<stdin>", {"<stdin>": _stdin()})
    path = Path(name)
    if not path.is_dir():
        return Source(name, {name: outside.read_file(path)})
    if (path / "config").is_file():
        files = Tree(path.parent).manifest(path.name)
        return Source(name, {f"{name.rstrip('/')}/{below}": data for below, data in files.items()})
    documents = sorted(each for each in path.iterdir() if each.suffix in {".yaml", ".yml", ".json"} and each.is_file())
    if not documents:
        raise InputError(f"{path} is no cluster's directory and has no .yaml files")
    return Source(name, {str(each): outside.read_file(each) for each in documents})


def progress(sources: Sequence[T], verb: str, name_of: Callable[[T], str] = str) -> Iterator[T]:
    """Each of them; with a bar on stderr where that is a terminal and there are many."""
    if len(sources) < 2 or not sys.stderr.isatty():
        yield from sources
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:  # the extra `cli` is not installed
        yield from sources
        return
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(sources))
        for source in sources:
            bar.update(task, description=name_of(source))
            yield source
            bar.advance(task)


# --- how to judge it --------------------------------------------------------------------------------------------------


def _judge(parsed: argparse.Namespace) -> Callable[[Source], list[Found]]:
    """A function from files to findings, with the facts and options of the command line."""
    from kopsfs.spec.validation.files import judge_change, judge_files
    from kopsfs.spec.validation.stages import Judge

    judge = Judge(outside.load_facts(parsed), parsed.kind, parsed.strict == "true", parsed.cloud_checks)

    def judged(source: Source) -> list[Found]:
        placed = bool(source.cluster) or (parsed.stdin and bool(parsed.stdin_name))
        found = judge_files(judge, source.files, kops_order=parsed.kops_order, placed=placed)
        if parsed.against is not None and not parsed.kops_order:
            old_name, old, created = _old(parsed, source)
            found += judge_change(old, source.files, old_name=old_name, created=created)
        return found

    return judged


def _old(parsed: argparse.Namespace, source: Source) -> tuple[str, bytes, bool]:
    """The version to compare with: its name, its content, and whether the cluster has ever been applied."""
    from kopsfs.cli.trees import find_tree
    from kopsfs.spec.document import read

    if parsed.against != "store":
        return parsed.against, outside.read_file(Path(parsed.against)), True
    tree = find_tree(parsed.state)
    names = [each.name for data in source.files.values() for each in read(data) if each.kind == "Cluster"]
    cluster = source.cluster or next(iter(names), "")
    old = tree.read(cluster, "config") if cluster else None
    if old is None:
        raise InputError(f"{tree.root} has no cluster {cluster or '(without a name)'} to compare with")
    return f"{cluster}/config", old, tree.read(cluster, "kops-version.txt") is not None


def _graded(entry: Found, parsed: argparse.Namespace) -> Found:
    from kopsfs.spec.field import Severity

    if parsed.strict_fields and entry.finding.rule == "unknown-field":
        return replace(entry, finding=replace(entry.finding, severity=Severity.ERROR))
    return entry


# --- rules by name ----------------------------------------------------------------------------------------------------


def all_rules() -> Mapping[str, Rule]:
    """Every rule there is, of documents and of trees."""
    from kopsfs.spec.validation import files, rule, tree

    assert files, tree  # importing them is what enters their rules
    return rule.RULES


def without_of(parsed: argparse.Namespace) -> frozenset[str] | None:
    """The rules to leave out; None, and a complaint, where one is no rule."""
    wanted = frozenset(name for word in parsed.without for name in word.split(","))
    unknown = sorted(wanted - all_rules().keys()) if wanted else []
    if unknown:
        program.complain(f"no rule is called {', '.join(unknown)}; `kopsfs validate --list-rules` names them all")
        return None
    return wanted


def _list_rules() -> int:
    for name, rule in sorted(all_rules().items()):
        print(f"{name:32} {rule.source or 'kopsfs'}")
    return 0
