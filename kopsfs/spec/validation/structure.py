"""Is this file a document of kops at all: parsed, of the right kind, with fields that exist and have the right types?

Needs no other file and no facts, so it is what a mount can ask of every write: `guard`. kops drops fields it does not know
without a word, which makes a misspelled one the most expensive kind of typo; here it is a finding that names the field that
was probably meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from kopsfs.spec import schema
from kopsfs.spec.document import Document, read
from kopsfs.spec.field import Finding, Kind, Path, Position, RefusedError, Severity, required, unsupported
from kopsfs.spec.validation.places import KINDS, Place, Role, place
from kopsfs.spec.validation.rule import enter, rules

UNKNOWN_FIELDS_MAX: Final = 50
"""So many unknown fields of one document are told one by one."""

enter("kops pkg/apis/kops/*.go", ("type",))
enter("", ("unknown-field", "syntax"))


def structure(document: Document) -> Iterator[Finding]:
    """What is wrong with one document by itself; only types, versions and kinds are what kops refuses."""
    for finding in _structure(document):
        yield scrubbed(finding) if document.kind == "Keyset" else finding


def _structure(document: Document) -> Iterator[Finding]:
    yield from repeated_keys(document)
    yield from known_kind(document)
    if document.version and document.kind in schema.KINDS:
        found = schema.decode(document.data, document.kind, document.version).findings
        yield from fields(found, document)


@rules("", "repeated-key")
def repeated_keys(document: Document) -> Iterator[Finding]:
    for path, position in document.repeated_keys():
        yield Finding(Kind.DUPLICATE, str(path), "only the last one counts", position=position)


@rules("kops pkg/kopscodecs/codecs.go:Decode", "api-version", "kind")
def known_kind(document: Document) -> Iterator[Finding]:
    known = {"apiVersion": ("kops.k8s.io/v1alpha2", "kops.k8s.io/v1alpha3"), "kind": schema.KINDS}
    values = {"apiVersion": document.api_version, "kind": document.kind}
    if document.is_kops:
        good = {"apiVersion": bool(document.version), "kind": document.kind in schema.KINDS}
    else:  # an object of somebody else's API only has to say which
        good = {name: bool(value) for name, value in values.items()}
    for name, rule in (("apiVersion", "api-version"), ("kind", "kind")):
        if good[name]:
            continue
        position = document.position(name)
        if values[name]:
            yield unsupported(name, values[name], known[name], rule=rule, position=position)
        else:
            yield required(name, f"one of {', '.join(known[name])}", rule=rule, position=position)


def fields(found: Iterable[Finding], document: Document) -> Iterator[Finding]:
    """Findings of `schema.decode` with their places, unknown fields with the name that was probably meant."""
    unknown = 0
    for finding in found:
        if finding.rule == "unknown-field":
            unknown += 1
            if unknown > UNKNOWN_FIELDS_MAX:
                continue
            finding = replace(finding, detail=_drop(finding.field, document))
        elif finding.rule == "type":
            finding = as_written(finding, document)
        yield replace(finding, position=document.position(finding.field))
    if unknown > UNKNOWN_FIELDS_MAX:
        detail = f"{unknown - UNKNOWN_FIELDS_MAX} more unknown fields"
        yield Finding(Kind.UNSUPPORTED, "", detail, rule="unknown-field", severity=Severity.WARNING)


def as_written(finding: Finding, document: Document) -> Finding:
    """YAML made `1.30` a number and `n` a boolean before anybody looked: say what was written, and what to write."""
    text = document.written(finding.field)
    told, quotes, _ = finding.detail.partition("; put it in quotes")
    if text is None or not quotes or not isinstance(finding.value, bool | int | float):
        return finding
    return replace(finding, value=text, detail=f"{told}; quote it: '{text}'")


def _drop(field: str, document: Document) -> str:
    meant = nearest(field, document)
    return f"unknown field, kops drops it{f'; {meant}?' if meant else ''}"


def nearest(field: str, document: Document) -> str:
    """The known field closest in name to an unknown one, "" when there is none close."""
    path = Path.parse(field)
    table = schema.types(document.version)
    above = table.at(document.kind, path.parent)
    if above is None or above.type not in table or not path.parts:
        return ""
    wrong = str(path.parts[-1])
    known = [name for name, entry in table.fields(above.type).items() if not entry.hidden]
    same = next((name for name in known if name.lower() == wrong.lower()), "")
    if same:
        return same
    import difflib

    return next(iter(difflib.get_close_matches(wrong, known, n=1, cutoff=0.65)), "")


# --- one file of a store ----------------------------------------------------------------------------------------------


SECRETIVE: Final = frozenset({Role.KEYSET, Role.OLD_KEY, Role.SECRET})
"""Files whose content is in no message."""


def scrubbed(finding: Finding) -> Finding:
    """The finding without what stands in the file: no value, no line."""
    position = replace(finding.position, text="") if finding.position else None
    return replace(finding, value=None, position=position)


def file_findings(where: Place, data: bytes, source: str) -> Iterator[Finding]:
    """What is wrong with the bytes of a file of a cluster, told by its place and content alone."""
    for finding in _file_findings(where, data, source):
        yield scrubbed(finding) if where.role in SECRETIVE else finding


def _file_findings(where: Place, data: bytes, source: str) -> Iterator[Finding]:
    if where.role is Role.SECRET:
        yield from secret(data, source)
    if where.role not in KINDS and where.role is not Role.OBJECTS:
        return
    try:
        documents = read(data, source)
    except RefusedError as error:
        yield from (replace(finding, rule=finding.rule or "syntax", source="kopsfs") for finding in error.findings)
        return
    for document in documents:
        yield from structure(document)
    yield from belongs(where, documents, source)


@rules("", "kind-of-place", "one-object")
def belongs(where: Place, documents: Sequence[Document], source: str) -> Iterator[Finding]:
    """One object of the kind that belongs into this file?"""
    kind = KINDS.get(where.role)
    if kind is None:
        return
    if len(documents) != 1:
        detail = f"one {kind} belongs here, not {len(documents) or 'nothing'}"
        yield Finding(Kind.SYNTAX, "", detail, rule="one-object", position=Position(source, 1, 1))
        return
    document = documents[0]
    if document.kind != kind or not document.is_kops:
        has = f"{document.api_version or '(nothing)'} {document.kind or '(nothing)'}"
        detail = f"kops.k8s.io {kind} belongs here, not {has}"
        yield Finding(Kind.SYNTAX, "kind", detail, rule="kind-of-place", position=document.position("kind"))


@rules("", "json-secret")
def secret(data: bytes, source: str) -> Iterator[Finding]:
    """A secret is `{"Data": "<base64>"}`; kops reads anything else as an empty one, or not at all.

    Source: kops upup/pkg/fi/secrets/vfs_secretstore.go:loadSecret, fi.Secret.
    """
    import base64
    import binascii
    import json

    try:
        value = json.loads(data)
        good = isinstance(value, dict) and isinstance(value.get("Data"), str) and bool(value["Data"])
        if good:
            base64.b64decode(value["Data"], validate=True)
    except (ValueError, binascii.Error, RecursionError):
        good = False
    if not good:
        detail = 'a secret is {"Data": "…"} with base64 in it'
        yield Finding(Kind.SYNTAX, "", detail, rule="json-secret", position=Position(source, 1, 1))


def guard(path: str, data: bytes) -> list[Finding]:
    """What is wrong with a file that is about to be written, told by its path in the store and its bytes.

    Pure: opens nothing. Takes 1-4 ms for a cluster; nothing for files kops does not decode. An empty file has no findings:
    the mount has a guard of its own for that.

    Args:
        path: below the state store, `c1.example.com/instancegroup/nodes`.
        data: all of the file.
    """
    where = place(path)
    if not data.strip():
        return []
    return list(file_findings(where, data, path))
