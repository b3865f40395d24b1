"""What stands in an answer that is XML?

Error documents and listings, read by expat. What their words mean is said by each store's own `*_answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote
from xml.parsers import expat


def flat(document: bytes) -> dict[str, str]:
    """Give the text of each element of a small document by name, nested ones too, the last of a name; {}: no XML."""
    fields: dict[str, str] = {}
    pieces: list[str] = []

    def start(_name: str, _attributes: object) -> None:
        pieces.clear()

    def end(name: str) -> None:
        fields[name] = "".join(pieces)
        pieces.clear()

    try:
        _read(document, start, end, pieces.append)
    except expat.ExpatError:
        return {}
    return fields


class Listing(NamedTuple):
    """One page of a listing, as text."""

    rows: list[dict[str, str]]
    """The objects: text by the name of the element, however deep it stands."""
    groups: list[str]
    """What a delimiter has put together."""
    top: dict[str, str]
    """What is said of the page as a whole."""


def listing_of(document: bytes, root: str, *, row: str, group: str, member: str) -> Listing:
    """Read a listing whose elements come in any order. Raises ValueError or expat.ExpatError for anything else.

    `row` is the element of one object, `group` the one that holds groups, each in a `member`. What is marked with
    `Encoded="true"` (Azure: names that XML cannot hold) is decoded. CPU: about 1 us an element.
    """
    rows: list[dict[str, str]] = []
    groups: list[str] = []
    top: dict[str, str] = {}
    beside: dict[str, str] = {}
    fields = top
    frames = {row, group}
    pieces: list[str] = []
    encoded = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal fields, encoded
        pieces.clear()
        if name in frames:
            fields = {} if name == row else beside
        elif attributes:
            encoded = attributes.get("Encoded") == "true"

    def end(name: str) -> None:
        nonlocal fields, encoded
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        if encoded:
            text, encoded = unquote(text, errors="strict"), False
        if name in frames:
            if name == row:
                rows.append(fields)
            fields = top
        elif fields is not beside:
            fields[name] = text
        elif name == member:
            groups.append(text)

    _read(document, start, end, pieces.append)
    last = next(reversed(top), "")
    if last != root:
        raise ValueError(f"a <{last}> document")
    return Listing(rows, groups, top)


def _read(
    document: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.Parse(document, True)
