"""What is the tree of nodes of this YAML, provided that nobody means harm?

libyaml's own composer recurses in C, so a document that is nested deeply enough crashes the process; and a few hundred bytes of
aliases can stand for billions of nodes. This one takes libyaml's events one by one, keeps its own stack, and counts: what
an alias stands for counts again. It builds nodes only; what a scalar means is decided in `document.py`.

Limits are far above everything kops writes (a cluster has a few hundred nodes, the largest addon some 25,000) and low
enough that refusing takes less than a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

BYTES_MAX: Final = 4 << 20
"""Kubernetes keeps no object of more than 1.5 MiB."""

NODES_MAX: Final = 50_000
"""Of one document."""

FILE_NODES_MAX: Final = 100_000
"""Of all documents of a file; an empty document counts as one."""

DEPTH_MAX: Final = 100

PLAIN: Final = "?"
"""The tag of a scalar without tag and quotes: what it means is not decided here."""

Node = yaml.nodes.Node


class _Events(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Only `get_event` of it is used."""


class LimitError(yaml.MarkedYAMLError):
    """The document is larger, deeper or more self-referring than it may be."""


def _limit(detail: str, event: Any) -> LimitError:
    return LimitError(None, None, detail, event.start_mark)


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come: its children so far, and how many nodes they stand for."""

    start: Any
    children: list[Node] = field(default_factory=list)
    weight: int = 1


def compose_all(text: str) -> Iterator[Node]:
    """The root node of each document; aliases are the anchored node itself.

    Raises:
        yaml.YAMLError: not YAML, or above a limit (`LimitError`).
    """
    events = _Events(text)
    total = 0
    try:
        while True:
            event = events.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                node, weight = _document(events)
                total += weight
                if total > FILE_NODES_MAX:
                    raise _limit(f"stands for more than {FILE_NODES_MAX} values", event)
                yield node
            elif event is None or isinstance(event, yaml.StreamEndEvent):
                return
    finally:
        events.dispose()


def _document(events: Any) -> tuple[Node, int]:
    """One document, up to its end, and how many nodes it stands for."""
    anchors: dict[str, tuple[Node, int] | None] = {}
    stack: list[_Open] = [_Open(None)]
    while True:
        event = events.get_event()
        if isinstance(event, yaml.DocumentEndEvent):
            return stack[0].children[0], stack[0].weight
        if isinstance(event, yaml.ScalarEvent):
            node, weight = _scalar(event), 1
        elif isinstance(event, yaml.AliasEvent):
            node, weight = _anchored(anchors, event)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            if len(stack) > DEPTH_MAX:
                raise _limit(f"nested more than {DEPTH_MAX} deep", event)
            if event.anchor:
                anchors[event.anchor] = None
            stack.append(_Open(event))
            continue
        else:
            done = stack.pop()
            event, node, weight = done.start, _collection(done, event.end_mark), done.weight
        above = stack[-1]
        above.children.append(node)
        above.weight += weight
        if above.weight > NODES_MAX:
            raise _limit(f"stands for more than {NODES_MAX} values", event)
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            anchors[event.anchor] = node, weight


def _scalar(event: Any) -> Node:
    tag = event.tag or (PLAIN if event.implicit[0] else "tag:yaml.org,2002:str")
    return yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark, event.style or None)


def _anchored(anchors: dict[str, tuple[Node, int] | None], event: Any) -> tuple[Node, int]:
    if event.anchor not in anchors:
        raise _limit(f"nothing is called &{event.anchor}", event)
    found = anchors[event.anchor]
    if found is None:
        raise _limit("an anchor contains itself", event)
    return found


def _collection(done: _Open, end: Any) -> Node:
    start, is_list = done.start, isinstance(done.start, yaml.SequenceStartEvent)
    if is_list:
        return yaml.SequenceNode(start.tag or "", done.children, start.start_mark, end)
    pairs = list(zip(done.children[::2], done.children[1::2], strict=True))
    return yaml.MappingNode(start.tag or "", pairs, start.start_mark, end)
