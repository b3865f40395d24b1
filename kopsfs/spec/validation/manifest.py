"""Which objects do these documents hold, and what is already wrong with them?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from kopsfs.spec import conversion, schema
from kopsfs.spec.conversion import Object
from kopsfs.spec.document import Document
from kopsfs.spec.field import Finding, RefusedError
from kopsfs.spec.validation.rule import RULES, enter
from kopsfs.spec.validation.structure import fields, structure

enter("pkg/apis/kops/v1alpha2/conversion.go", ("decode", "decode-cloud"))


@dataclass(frozen=True, slots=True)
class Found:
    """A finding, the object it is about and the stage that made it.

    Attributes:
        object: `cluster`, `ig/NAME`, or "" where no object could be made.
        spelled: the field as the author's file spells it, "" where that is how the finding spells it too.
    """

    finding: Finding
    stage: str
    object: str = ""
    spelled: str = ""


@dataclass(slots=True)
class Manifest:
    """The objects of some documents.

    Attributes:
        broken: why kops could not decode a document, by document.
        structure: what is wrong with single documents, also where kops would not mind.
        mended: objects of broken documents without the fields that are of a wrong type, for finding out what else is wrong.
    """

    clusters: list[Object] = field(default_factory=list)
    groups: list[Object] = field(default_factory=list)
    others: list[Document] = field(default_factory=list)
    broken: list[list[Found]] = field(default_factory=list)
    structure: list[Found] = field(default_factory=list)
    mended: list[Object] = field(default_factory=list)


def load(documents: Iterable[Document]) -> Manifest:
    """Decode documents; those that cannot be decoded are in `broken`."""
    manifest = Manifest()
    for document in documents:
        name = "cluster" if document.kind == "Cluster" else f"ig/{document.name}"
        if not document.is_kops or document.kind not in {"Cluster", "InstanceGroup"}:
            manifest.others.append(document)
            name = f"{document.kind or 'object'}/{document.name}"
        manifest.structure += [Found(finding, "structure", name) for finding in structure(document)]
        if manifest.others and manifest.others[-1] is document:
            continue
        try:
            decoded = conversion.decode(document)
        except RefusedError as error:
            manifest.broken.append(
                [Found(_named(finding), "decode", name) for finding in fields(error.findings, document)]
            )
            manifest.mended += mend(document)
            continue
        (manifest.clusters if decoded.kind == "Cluster" else manifest.groups).append(decoded)
    return manifest


def _named(finding: Finding) -> Finding:
    """Decoding does not know the names of rules."""
    rule = finding.rule or {"apiVersion": "api-version", "kind": "kind"}.get(finding.field, "decode")
    return replace(finding, rule=rule, source=finding.source or RULES[rule].source)


def mend(document: Document) -> list[Object]:
    """The object without what is of a wrong type, or nothing where that does not help."""
    if not document.version or document.kind not in schema.KINDS:
        return []
    data = _without_gaps(schema.decode(document.data, document.kind, document.version).data)
    if document.kind == "Cluster":
        conversion.apply_defaults(data, document.version)
    try:
        internal = conversion.to_internal(data, document.kind, document.version)
    except RefusedError:
        return []
    return [Object(internal, document.kind, document)]


def _without_gaps(data: Any) -> Any:
    """Lists and maps in which something was of a wrong type are left out as a whole: indices would shift."""
    if isinstance(data, dict):
        whole = {name: _without_gaps(value) for name, value in data.items()}
        return {name: value for name, value in whole.items() if value is not None}
    if isinstance(data, list):
        values = [_without_gaps(value) for value in data]
        return None if any(value is None for value in values) else values
    return data
