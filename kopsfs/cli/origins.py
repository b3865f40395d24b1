"""How is a value's origin written: for a person in a sentence or a line, for a program as data?"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from kopsfs.cli import inputs, outside
from kopsfs.cli.trees import Trees
from kopsfs.errors import InputError
from kopsfs.spec.explain import Explained
from kopsfs.spec.field import RefusedError
from kopsfs.spec.infer import infer


def run(parsed: argparse.Namespace) -> int:
    """Do what the arguments of `explain` say; the exit status."""
    if parsed.filename and parsed.path is None:
        parsed.subject, parsed.path = None, parsed.subject
    try:
        with Trees(parsed.state, verbose=parsed.verbose) as trees:
            subject = inputs.subject_of(parsed, trees)
        found = infer(subject.documents, outside.load_facts(parsed)).explain(parsed.group)
    except RefusedError as error:
        return inputs.complain_about(error.findings)
    if parsed.path:
        found = [leaf for leaf in found if is_at(leaf, parsed.path)]
        if not found:
            raise InputError(f"nothing at {parsed.path} in the completed {'group' if parsed.group else 'cluster'}")
    chosen = [leaf for leaf in found if leaf.inferred or not parsed.inferred]
    if parsed.output == "json":
        json.dump([plain(leaf) for leaf in chosen], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for leaf in chosen:
            print(sentence(leaf) if parsed.path or not parsed.inferred else line(leaf))
    return 0


def is_at(leaf: Explained, path: str) -> bool:
    """Is the leaf this field or below it?  In either spelling; `.key` and `[key]` of a map are the same."""
    wanted = _flat(path)
    return any(have == wanted or have.startswith(f"{wanted}.") for have in (_flat(leaf.path), _flat(leaf.internal)))


def _flat(path: str) -> str:
    return path.replace("[", ".").replace("]", "").strip(".")


def value_text(value: Any) -> str:
    """A value on one line."""
    return json.dumps(value, ensure_ascii=False)


def line(leaf: Explained) -> str:
    """One line: field, value, rule, source."""
    return f"{leaf.path} = {value_text(leaf.value)}  [{leaf.origin.rule}] {leaf.origin.source}".rstrip()


def sentence(leaf: Explained) -> str:
    """A few lines: who, from what, and where kops does it."""
    lines = [f"{leaf.path} = {value_text(leaf.value)}"]
    if not leaf.inferred:
        lines.append(f"  author  {leaf.position or 'wrote it'}")
        return "\n".join(lines)
    lines += [f"  rule    {leaf.origin.rule}", f"  kops    {leaf.origin.source}"]
    if leaf.inputs:
        lines.append(f"  from    {', '.join(leaf.inputs)}")
    return "\n".join(lines)


def plain(leaf: Explained) -> dict[str, Any]:
    """A leaf for programs."""
    return {
        "path": leaf.path,
        "value": leaf.value,
        "by": leaf.origin.rule,
        "source": leaf.origin.source,
        "inputs": list(leaf.inputs),
        "internal": leaf.internal,
        "position": str(leaf.position) if leaf.position else None,
    }
