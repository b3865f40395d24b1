"""How are documents brought before the rules of documents?

What `validate` does with clusters of a state store, with files and with stdin; the network is asked for nothing but the
documents.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kopsfs.cli import findings, outside
from kopsfs.cli.program import UsageError
from kopsfs.cli.progress import track
from kopsfs.cli.trees import Trees, all_of
from kopsfs.cli.workspace import Directory, is_document
from kopsfs.errors import InputError
from kopsfs.spec.composer import BYTES_MAX
from kopsfs.spec.document import read
from kopsfs.spec.field import RefusedError, Severity
from kopsfs.spec.validation import files, rule, tree
from kopsfs.spec.validation.files import judge_change, judge_files
from kopsfs.spec.validation.manifest import Found
from kopsfs.spec.validation.rule import Rule
from kopsfs.spec.validation.stages import Judge


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


def run(parsed: argparse.Namespace) -> int:
    """Do what the arguments of `validate` say; the exit status."""
    if parsed.list_rules:
        return _list_rules(as_json=parsed.output == "json")
    without = without_of(parsed)
    checked = []
    with Trees(parsed.state, verbose=parsed.verbose) as trees:
        try:
            judge = _judge(parsed, trees)
        except RefusedError as error:
            raise InputError(str(error)) from error
        for source in _sources(parsed, trees):
            found = [_graded(entry, parsed) for entry in judge(source) if entry.finding.rule not in without]
            checked.append(findings.Checked(source.name, found))
    return findings.report(checked, parsed)


# --- what to look at --------------------------------------------------------------------------------------------------


def _sources(parsed: argparse.Namespace, trees: Trees) -> Iterator[Source]:
    """Everything the command line names.

    Raises:
        InputError, StoreError: it names something that is not there, or cannot be read.
    """
    if parsed.stdin:
        name = parsed.stdin_name or "<stdin>"
        yield Source(name, {name: _stdin()})
    for name in parsed.filename:
        yield _file(name)
    if parsed.all:
        whole = trees.find()
        found = [(whole, cluster) for cluster in all_of(whole)]
    else:
        found = [trees.locate(cluster) for cluster in parsed.clusters]
    for each in dict.fromkeys(its for its, _ in found):
        each.ahead([cluster for its, cluster in found if its is each], is_document)
    for its, cluster in track(found, "validate", lambda each: each[1]):
        yield Source(cluster, {f"{cluster}/{path}": data for path, data in its.manifest(cluster).items()}, cluster)


def _stdin() -> bytes:
    return sys.stdin.buffer.read(BYTES_MAX + 1)


def _file(name: str) -> Source:
    if name == "-":
        return Source("<stdin>", {"<stdin>": _stdin()})
    path = Path(name)
    if not path.is_dir():
        return Source(name, {name: outside.read_file(path)})
    if (path / "config").is_file():
        found = Directory(path.resolve().parent).manifest(path.resolve().name)
        return Source(name, {f"{name.rstrip('/')}/{below}": data for below, data in found.items()})
    documents = sorted(each for each in path.iterdir() if each.suffix in {".yaml", ".yml", ".json"} and each.is_file())
    if not documents:
        raise InputError(f"{path} is no cluster's directory and has no .yaml files")
    return Source(name, {str(each): outside.read_file(each) for each in documents})


# --- how to judge it --------------------------------------------------------------------------------------------------


def _judge(parsed: argparse.Namespace, trees: Trees) -> Callable[[Source], list[Found]]:
    """A function from files to findings, with the facts and options of the command line."""
    judge = Judge(outside.load_facts(parsed), parsed.kind, parsed.strict == "true", parsed.cloud_checks)

    def judged(source: Source) -> list[Found]:
        placed = bool(source.cluster) or (parsed.stdin and bool(parsed.stdin_name))
        found = judge_files(judge, source.files, kops_order=parsed.kops_order, placed=placed)
        if parsed.against is not None and not parsed.kops_order:
            old_name, old, created = _old(parsed, trees, source)
            found += judge_change(old, source.files, old_name=old_name, created=created)
        return found

    return judged


def _old(parsed: argparse.Namespace, trees: Trees, source: Source) -> tuple[str, bytes, bool]:
    """The version to compare with: its name, its content, and whether the cluster has ever been applied."""
    if parsed.against != "store":
        return parsed.against, outside.read_file(Path(parsed.against)), True
    store = trees.find()
    names = [each.name for data in source.files.values() for each in read(data) if each.kind == "Cluster"]
    cluster = source.cluster or next(iter(names), "")
    old = store.read(cluster, "config") if cluster else None
    if old is None:
        raise InputError(f"{store.name} has no cluster {cluster or '(without a name)'} to compare with")
    return f"{cluster}/config", old, store.read(cluster, "kops-version.txt") is not None


def _graded(entry: Found, parsed: argparse.Namespace) -> Found:
    if parsed.strict_fields and entry.finding.rule == "unknown-field":
        return replace(entry, finding=replace(entry.finding, severity=Severity.ERROR))
    return entry


# --- rules by name ----------------------------------------------------------------------------------------------------


def all_rules() -> Mapping[str, Rule]:
    """Every rule there is, of documents and of trees."""
    assert files, tree  # importing them is what enters their rules
    return rule.RULES


def without_of(parsed: argparse.Namespace) -> frozenset[str]:
    """The rules to leave out. Raises UsageError where one is no rule."""
    wanted = frozenset(name for word in parsed.without for name in word.split(","))
    unknown = sorted(wanted - all_rules().keys()) if wanted else []
    if unknown:
        raise UsageError(f"no rule is called {', '.join(unknown)}; `kopsfs validate --list-rules` names them all")
    return wanted


def _list_rules(*, as_json: bool) -> int:
    sources = {name: rule_.source or "kopsfs" for name, rule_ in sorted(all_rules().items())}
    if as_json:
        print(json.dumps(sources, indent=1))
    else:
        for name, source in sources.items():
            print(f"{name:32} {source}")
    return 0
