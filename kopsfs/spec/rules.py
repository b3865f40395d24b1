"""How does a rule fill in a field, and how do rules, the author and repetition come together?

A `Rule` declares which fields it writes and where kops does the same. It works on a `Draft`, the only way to write: the draft
asserts that the field was declared, and records which rule wrote it and what the rule had read.

`converge` is kops's loop: copy, run every rule in kops's order, lay the author's values over the result as a JSON merge, until
nothing changes. So a rule may write over anything (the author still wins), and a value derived from an author's value follows one
round later.

Source: kops upup/pkg/fi/loader/options_loader.go:Build, util/pkg/reflectutils/walk.go:JSONMergeStruct (encoding/json into an
existing struct: lists of structs merge element by element, other lists are replaced, zero values that are no pointers are
not there).
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from kopsfs.spec import schema
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import Finding, Key, Kind, Path, RefusedError

ROUNDS_MAX = 10
AUTHOR = "author"


@dataclass(frozen=True, slots=True)
class Rule:
    """One piece of kops's knowledge.

    Attributes:
        name: its identity in messages and tests.
        writes: leaves it may write, by internal path; `[*]` stands for any list index or map key.
        source: the kops file and function that does the same.
        apply: reads and writes a draft.
    """

    name: str
    writes: tuple[str, ...]
    source: str
    apply: Callable[[Draft], None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Attributes:
        rule: the rule's name, or `author`.
        source: the kops file and function; "" for the author.
        inputs: internal paths and facts (`facts.aws.zones`) the rule had read before it wrote.
    """

    rule: str
    source: str = ""
    inputs: tuple[str, ...] = ()


@functools.cache
def steps(path: str) -> tuple[str | int, ...]:
    """The parts of a dotted path, once per path."""
    return Path.parse(path).parts


@functools.cache
def pattern(path: str) -> str:
    """A path with `[*]` for every index and key, as rules declare them."""
    return re.sub(r"\[[^]]*\]", "[*]", path)


@functools.cache
def _field(kind: str, generic: str) -> schema.FieldType:
    parts = tuple(Key("*") if part == "*" else part for part in steps(generic))
    known = schema.types(schema.INTERNAL).at(kind, Path(*parts))
    assert known is not None, f"{kind} has no field {generic}"
    return known


@functools.cache
def constants(
    name: str,
    source: str,
    below: str,
    values: tuple[tuple[str, Any], ...],
    when: Callable[[Draft], bool] | None = None,
) -> Rule:
    """A rule that gives fields below one struct fixed values unless they have one."""

    def apply(draft: Draft) -> None:
        if when is None or when(draft):
            for field_name, value in values:
                draft.default(f"{below}.{field_name}", value)

    return Rule(name, tuple(f"{below}.{field_name}" for field_name, _ in values), source, apply)


class Draft:
    """A document while rules work on it.

    INVARIANT: every write was declared by the rule that is running.

    Attributes:
        data: the document in the internal form; rules read it through `get`, nothing else writes it.
        kind: `Cluster` or `InstanceGroup`.
        facts: what is known from outside.
        origins: for every path written so far, who wrote it last.
        cluster: for an instance group, the draft of its completed cluster.
    """

    def __init__(
        self,
        data: dict[str, Any],
        kind: str,
        facts: Facts,
        *,
        origins: dict[str, Origin] | None = None,
        cluster: Draft | None = None,
    ) -> None:
        self.data = data
        self.kind = kind
        self.facts = facts
        self.origins: dict[str, Origin] = {} if origins is None else origins
        self.cluster = cluster
        self._rule: Rule | None = None
        self._declared: frozenset[str] = frozenset()
        self._reads: dict[str, None] = {}

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """The value at a path, None when it is absent; remembered as an input of the running rule."""
        self._reads[path] = None
        return look(self.data, path)

    def text(self, path: str) -> str:
        """A string, "" when absent."""
        value = self.get(path)
        return value if isinstance(value, str) else ""

    def items(self, path: str) -> list[Any]:
        """A list, empty when absent."""
        value = self.get(path)
        return value if isinstance(value, list) else []

    def has(self, path: str) -> bool:
        """Is there something (also an empty struct)?"""
        return self.get(path) is not None

    def note(self, name: str) -> None:
        """Remember something as an input that was read elsewhere: of the cluster of a group."""
        self._reads[name] = None

    def fact(self, cloud: str, name: str, *, why: str = "", field: str = "") -> Any:
        """What a look-up outside would answer.

        Raises:
            RefusedError: it is not known.
        """
        self._reads[f"facts.{cloud}.{name}"] = None
        return self.facts.need(cloud, name, why=why, field=field)

    def flag(self, name: str) -> bool:
        """Is this feature flag of kops on?"""
        self._reads[f"facts.flags.{name}"] = None
        return name in self.facts.flags

    # --- writing ----------------------------------------------------------------------------------------------------

    def default(self, path: str, value: Any, *, blank: bool = False, inputs: Sequence[str] | None = None) -> bool:
        """Write unless there is a value; with `blank` an empty string is none. `inputs` as in `force`."""
        have = look(self.data, path)
        if have is None or (blank and have == "") or (not self._pointer(path) and schema.is_zero(have)):
            self.force(path, value, inputs=inputs)
            return True
        return False

    def force(self, path: str, value: Any, *, inputs: Sequence[str] | None = None) -> None:
        """Write whatever was there; a zero value of a field that is no pointer is the same as none.

        `inputs` says what this value was made of where that is less than everything the rule has read.
        """
        assert self._rule is not None, "only a rule writes"
        generic = pattern(path)
        leaf = f"{generic}[*]" if isinstance(value, list | dict) and value else generic
        assert leaf in self._declared, f"{self._rule.name} writes {leaf} undeclared"
        _field(self.kind, generic)
        if schema.is_zero(value) and value != {} and not self._pointer(path):
            self._put(path, None)
            return
        self._put(path, copy.copy(value))
        self._sign(path, inputs)

    def make(self, path: str) -> None:
        """Make sure that a struct is there, be it empty."""
        if look(self.data, path) is None:
            self.force(path, {})

    def drop(self, path: str) -> None:
        """Take a field away."""
        self._put(path, None)

    def _sign(self, path: str, inputs: Sequence[str] | None) -> None:
        assert self._rule is not None
        used = tuple(name for name in self._reads if name != path) if inputs is None else tuple(inputs)
        self.origins[path] = Origin(self._rule.name, self._rule.source, used)

    def _pointer(self, path: str) -> bool:
        """Is a zero value here a value?  In a map's entry it is."""
        return path.endswith("]") or _field(self.kind, pattern(path)).pointer

    def _put(self, path: str, value: Any) -> None:
        *above, last = steps(path)
        node: Any = self.data
        for part in above:
            if isinstance(part, int):
                node = node[part]
            elif value is None and part not in node:
                return
            else:
                node = node.setdefault(part, {})
        if value is None and isinstance(node, dict):
            node.pop(last, None)
        else:
            node[last] = value

    # --- running ----------------------------------------------------------------------------------------------------

    def fail(self, detail: str, *, field: str = "", value: Any = None) -> NoReturn:
        """End the step the way kops ends it: with an error that names no more than this."""
        assert self._rule is not None
        raise RefusedError(
            Finding(Kind.FAILED, field, detail, value, rule=self._rule.name, source=self._rule.source),
        )

    def run(self, rules: Iterable[Rule]) -> None:
        """Apply rules in their order."""
        for rule in rules:
            self._rule, self._declared, self._reads = rule, _declared(rule), {}
            rule.apply(self)
        self._rule = None


@functools.cache
def _declared(rule: Rule) -> frozenset[str]:
    return frozenset(rule.writes)


def look(data: Any, path: str) -> Any:
    """The value at a dotted path, None where any step is absent."""
    for part in steps(path):
        if isinstance(part, int):
            if not isinstance(data, list) or part >= len(data):
                return None
            data = data[part]
        elif isinstance(data, dict):
            data = data.get(part)
        else:
            return None
    return data


# --- the loop ---------------------------------------------------------------------------------------------------------


def converge(draft: Draft, rules: Sequence[Rule]) -> int:
    """Run the rules under the author's values until nothing changes; returns the number of rounds.

    What the draft holds at the start counts as the author's. The draft's data and origins are those of the result.

    Raises:
        RefusedError: the rules still change something after ten rounds; names the fields.
    """
    author, signed = merged({}, draft.data, draft.kind), dict(draft.origins)
    current, draft.origins = author, {}
    previous = current
    for number in range(ROUNDS_MAX + 1):
        draft.data = merged({}, current, draft.kind)
        draft.run(rules)
        draft.data = merged(draft.data, author, draft.kind)
        if draft.data == current:
            draft.data = current
            _credit(draft, author, signed)
            return number + 1
        previous, current = current, draft.data
    before = dict(leaves(previous, draft.kind))
    restless = sorted(name for name, value in leaves(current, draft.kind) if before.get(name) != value)
    raise RefusedError(
        Finding(
            Kind.FAILED,
            restless[0] if restless else "",
            f"options did not converge after {ROUNDS_MAX} rounds; still changing: {', '.join(restless[:5]) or 'nothing visible'}",
            rule="converge",
            source="upup/pkg/fi/loader/options_loader.go:Build",
        ),
    )


def _credit(draft: Draft, author: dict[str, Any], signed: Mapping[str, Origin]) -> None:
    """What the author (or a step before the loop) gave stays theirs, whatever a rule wrote before it was laid over."""
    given = dict(leaves(author, draft.kind))
    for name, _ in leaves(draft.data, draft.kind):
        if name in given:
            origin = nearest(signed, name)
            if origin is None:
                draft.origins[name] = Origin(AUTHOR)
            else:
                draft.origins[name] = origin


def nearest(origins: Mapping[str, Origin], name: str) -> Origin | None:
    """Who wrote this leaf: the entry for it or for the nearest field above."""
    while name:
        if name in origins:
            return origins[name]
        cut = max(name.rfind("."), name.rfind("["))
        name = name[: max(cut, 0)]
    return None


def leaves(data: dict[str, Any], kind: str, version: str = schema.INTERNAL) -> Iterator[tuple[str, Any]]:
    """Every leaf of an object with its path; an empty map or list is a leaf. Keys of maps stand in brackets."""
    return _leaves(data, kind, "", schema.types(version))


def _leaves(value: Any, kind: str, path: str, table: schema.Types) -> Iterator[tuple[str, Any]]:
    inner = schema.element(kind)
    if isinstance(value, dict) and value:
        fields = table.fields(kind) if kind in table else {}
        for name, item in value.items():
            if inner is not None:
                yield from _leaves(item, inner, f"{path}[{name}]", table)
            else:
                below = fields[name].type if name in fields else ""
                yield from _leaves(item, below, f"{path}.{name}" if path else name, table)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, inner or "", f"{path}[{number}]", table)
    else:
        yield path, value


def merged(below: dict[str, Any], above: dict[str, Any], kind: str) -> dict[str, Any]:
    """A JSON merge of one object over another, as Go's encoder and decoder make it."""
    return _struct(below, above, kind, schema.types(schema.INTERNAL))


def _struct(below: dict[str, Any], above: dict[str, Any], kind: str, table: schema.Types) -> dict[str, Any]:
    out = {
        name: value
        for name, value in below.items()
        if name in table.fields(kind) and not table.fields(kind)[name].hidden
    }
    for name, known in table.fields(kind).items():
        if known.hidden:
            continue
        value = above.get(name)
        if value is None:
            if known.always and not known.pointer and known.type not in table:
                out.pop(name, None)
        elif known.type in table:
            out[name] = _struct(out.get(name) or {}, value, known.type, table)
        elif known.pointer or not schema.is_zero(value):
            out[name] = _value(out.get(name), value, known.type, table)
        elif known.always:
            out.pop(name, None)
    return out


def _value(below: Any, above: Any, kind: str, table: schema.Types) -> Any:
    inner = schema.element(kind)
    if inner is None:
        return above
    if kind.startswith("map<"):
        fresh = {key: _value(None, item, inner, table) for key, item in above.items()}
        return {**below, **fresh} if isinstance(below, dict) else fresh
    if inner in table:
        old = below if isinstance(below, list) else []
        return [_struct(old[i] if i < len(old) else {}, item, inner, table) for i, item in enumerate(above)]
    return copy.deepcopy(above)
