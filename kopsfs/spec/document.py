"""What did the author write, and where?

Reads YAML and JSON the way kops does, into plain dicts, lists, strings, numbers and booleans. Every document keeps
its YAML nodes, so that a finding can say line and column; nothing is decoded or defaulted here (`conversion.py` does), so
unknown fields are still there.

kops reads YAML 1.1 as go-yaml v2 understands it, which is not what PyYAML understands: `y`, `n` and their capitals are booleans,
`1:30` and dates are strings, `0o17` and `0x1f` are numbers, `1_000` too. Documents of one file are separated by a line
`---`.

Source: kops util/pkg/text/text.go:SplitContentToSections, pkg/kopscodecs/codecs.go:Decode; go-yaml v2 resolve.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from kopsfs.spec import composer
from kopsfs.spec.field import Finding, Kind, Path, Position, RefusedError

GROUP = "kops.k8s.io"
OLD_GROUP = "kops"
VERSIONS = ("v1alpha2", "v1alpha3")

Node = yaml.nodes.Node

_BOOLEANS = {
    word: value
    for value, words in {True: ("y", "yes", "on", "true"), False: ("n", "no", "off", "false")}.items()
    for low in words
    for word in (low, low.capitalize(), low.upper())
}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?(?:0[bB][01_]+|0[oO]?[0-7_]+|0[xX][0-9a-fA-F_]+|[1-9][0-9_]*|0)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOATS = {
    sign + word: number
    for sign, number in {"": float("inf"), "+": float("inf"), "-": float("-inf")}.items()
    for word in (".inf", ".Inf", ".INF")
} | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))


@dataclass(slots=True)
class Document:
    """One object of a file as its author wrote it.

    Attributes:
        data: plain values; maps keep the author's order.
        source: the file's name, for messages.
        text: the whole file, for showing a line.
    """

    data: dict[str, Any]
    source: str = ""
    text: str = field(default="", repr=False)
    _node: Node | None = field(default=None, repr=False)
    _lines: list[str] | None = field(default=None, repr=False)
    _steps: dict[int, dict[str, tuple[Any, Node]]] = field(default_factory=dict, repr=False)

    @property
    def api_version(self) -> str:
        """`kops.k8s.io/v1alpha2`, or what else stands there; "" when nothing does."""
        value = self.data.get("apiVersion")
        return value if isinstance(value, str) else ""

    @property
    def version(self) -> str:
        """`v1alpha2` or `v1alpha3` of kops's group, also of the old one; "" for everything else."""
        group, _, version = self.api_version.rpartition("/")
        return version if group in {GROUP, OLD_GROUP} and version in VERSIONS else ""

    @property
    def kind(self) -> str:
        value = self.data.get("kind")
        return value if isinstance(value, str) else ""

    @property
    def name(self) -> str:
        meta = self.data.get("metadata")
        value = meta.get("name") if isinstance(meta, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def is_kops(self) -> bool:
        """Is it of kops's API group (else it is an additional object, kept as it is)?"""
        return self.api_version.rpartition("/")[0] in {GROUP, OLD_GROUP}

    def position(self, path: Path | str = "") -> Position | None:
        """Where `path` (in the document's own spelling) stands, or the nearest field above it that does."""
        if self._node is None:
            return None
        mark = self._node.start_mark
        node: Node | None = self._node
        for part in (Path.parse(path) if isinstance(path, str) else path).parts:
            step = self._step(node, part)
            if step is None:
                break
            mark, node = step
        return self._at(mark)

    def written(self, path: Path | str) -> str | None:
        """The scalar at `path` as its author typed it (`1.30`, `n`), None where there is none."""
        node: Node | None = self._node
        for part in (Path.parse(path) if isinstance(path, str) else path).parts:
            step = self._step(node, part)
            if step is None:
                return None
            node = step[1]
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def repeated_keys(self) -> Iterator[tuple[Path, Position]]:
        """Keys that stand twice in one map: kops takes the last one, and nobody means that."""
        pending: list[tuple[Path, Node | None]] = [(Path(), self._node)]
        done: set[int] = set()
        while pending:
            path, node = pending.pop()
            if id(node) in done:
                continue
            done.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                pending += [(path.index(number), item) for number, item in enumerate(node.value)]
            elif isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for key, value in node.value:
                    if key.value in seen and key.value != "<<":
                        yield path.child(key.value), self._at(key.start_mark)
                    seen.add(key.value)
                    pending.append((path.child(key.value), value))

    def _step(self, node: Node | None, part: str | int) -> tuple[Any, Node] | None:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            return node.value[part].start_mark, node.value[part]
        if isinstance(node, yaml.MappingNode):
            steps = self._steps.get(id(node))
            if steps is None:
                steps = self._steps[id(node)] = {key.value: (key.start_mark, value) for key, value in node.value}
            return steps.get(str(part))
        return None

    def _at(self, mark: Any) -> Position:
        if self._lines is None:
            self._lines = self.text.splitlines()
        text = self._lines[mark.line] if mark.line < len(self._lines) else ""
        return Position(self.source, mark.line + 1, mark.column + 1, text)


def read(text: str | bytes, source: str = "<input>") -> list[Document]:
    """The objects of a file, in its order; empty documents are left out.

    Raises:
        RefusedError: not UTF-8, not YAML (with line, column and the line itself), or a document that is no map.
    """
    return list(_documents(_decoded(text, source), source))


def read_one(text: str | bytes, source: str = "<input>") -> Document:
    """The only object of a file.

    Raises:
        RefusedError: as `read`, or the file has none or several.
    """
    documents = read(text, source)
    if len(documents) != 1:
        raise RefusedError(Finding(Kind.SYNTAX, "", f"{source} has {len(documents)} documents, expected one"))
    return documents[0]


def _decoded(text: str | bytes, source: str) -> str:
    if len(text) > composer.BYTES_MAX:
        megabytes = composer.BYTES_MAX >> 20
        raise RefusedError(
            Finding(Kind.SYNTAX, "", f"larger than {megabytes} MiB", position=Position(source, 1, 1), rule="syntax"),
        )
    if isinstance(text, bytes):
        raw = text
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
            raise RefusedError(
                Finding(Kind.SYNTAX, "", "not UTF-8", position=Position(source, line, column)),
            ) from error
    return text.replace("\r\n", "\n")


def _documents(text: str, source: str) -> Iterator[Document]:
    try:
        for node in composer.compose_all(text):
            if isinstance(node, yaml.ScalarNode) and _scalar(node) is None:
                continue
            data = _value(node, source, text)
            if not isinstance(data, dict):
                raise RefusedError(
                    Finding(Kind.SYNTAX, "", "a document has to be a map", position=_at(node.start_mark, source, text)),
                )
            yield Document(data, source, text, node)
    except yaml.YAMLError as error:
        raise RefusedError(_syntax_finding(error, source, text)) from error


def _at(mark: Any, source: str, text: str) -> Position:
    lines = text.splitlines()
    return Position(source, mark.line + 1, mark.column + 1, lines[mark.line] if mark.line < len(lines) else "")


def _syntax_finding(error: yaml.YAMLError, source: str, text: str) -> Finding:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n", 1)[0]
    context = getattr(error, "context", None)
    detail = f"{context}: {problem}" if context else str(problem)
    return Finding(Kind.SYNTAX, "", detail, position=_at(mark, source, text) if mark else Position(source, 1, 1))


def _value(node: Node, source: str, text: str) -> Any:
    """Plain data of a node. A later key of the same name wins, as in go-yaml; `<<` merges."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, source, text) for item in node.value]
    data: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.tag == composer.PLAIN:
            for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(item, yaml.MappingNode):
                    raise RefusedError(
                        Finding(Kind.SYNTAX, "", "<< takes maps", position=_at(item.start_mark, source, text)),
                    )
                for name, inherited in _value(item, source, text).items():
                    merged.setdefault(name, inherited)
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise RefusedError(
                Finding(Kind.SYNTAX, "", "a key has to be a scalar", position=_at(key.start_mark, source, text)),
            )
        data[_key(key)] = _value(value, source, text)
    return merged | data if merged else data


def _key(node: yaml.ScalarNode) -> str:
    """A map's key as JSON has it: booleans and numbers become their text.  Source: sigs.k8s.io/yaml convertToJSONableObject."""
    value = _scalar(node)
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.tag == composer.PLAIN:
        return plain(text)
    if node.tag in {
        "tag:yaml.org,2002:int",
        "tag:yaml.org,2002:float",
        "tag:yaml.org,2002:bool",
        "tag:yaml.org,2002:null",
    }:
        return plain(text)
    return text


def plain(text: str) -> Any:
    """What an unquoted scalar means to kops: None, a bool, an int, a float or the string itself."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    first = text[0]
    if first.isdigit() or first in "+-.":
        return _number(text)
    return text


def _number(text: str) -> Any:
    if text in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[text]
    bare = text.replace("_", "")
    if _INTEGER.match(text) and bare.strip("+-"):
        number = _integer(bare)
        if number is not None and -(1 << 63) <= number < 1 << 64:
            return number
    if _FLOAT.match(bare):
        return float(bare)
    return text


def _integer(text: str) -> int | None:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    try:
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            return sign * int(digits, 8)
        return sign * int(digits, 0)
    except ValueError:
        return None


def is_plain_string(text: str) -> bool:
    """Would this string, written without quotes, be read as the same string (resolution only, not syntax)?"""
    return isinstance(plain(text), str)


def to_json(data: Any) -> str:
    """One line of JSON with sorted keys, as kops compares objects."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
