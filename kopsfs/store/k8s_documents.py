"""How is a document an object, and an object a document, to the byte?

`fit` makes of a file's bytes what kops's clientset stores: the document as it is, of a secret (`{"Data": ...}`) a Keyset of
type Secret, of a public key an SSHCredential. The bytes themselves go along in an annotation, with a digest of the object
as the server gave it back (pruned, defaulted). `content` gives those bytes as long as the digest holds; once somebody else
has changed the object, what he made of it, rendered the same way every time.

Bytes that are no such document raise `UnfitError`; what becomes of them decides `k8s.py`. YAML is read as kops reads it
(YAML 1.1 as go-yaml v2 has it: no dates, no `1:30`). Everything here is pure.

Source: kops pkg/kopscodecs/codecs.go; upup/pkg/fi/secrets.go (Secret), pkg/sshcredentials/fingerprint.go, pkg/pki/sshkey.go;
go-yaml v2 resolve.go; apimachinery pkg/api/validation (TotalAnnotationSizeLimitB).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import itertools
import json
import re
import secrets
import time
import zlib
from typing import Any, Final

import yaml

from kopsfs.store.k8s_layout import CLUSTERS, GROUP, KEY_NOTE, KEYSETS, SSH, Kind, Object, Place

CONTENT_NOTE: Final = "kopsfs.io/content"
PACKED_NOTE: Final = "kopsfs.io/content-gzip"
"""Annotations with the original bytes: as text, or gzip in base64."""
DIGEST_NOTE: Final = "kopsfs.io/spec-sha256"
UNFIT_NOTE: Final = "kopsfs.io/unfit"
"""Annotation: why the bytes are not what the object says."""
OURS: Final = frozenset({KEY_NOTE, CONTENT_NOTE, PACKED_NOTE, DIGEST_NOTE, UNFIT_NOTE})
_NOT_A_DOCUMENTS: Final = OURS | {"kubectl.kubernetes.io/last-applied-configuration"}
NOTES_BYTES_MAX: Final = 240 << 10
"""All annotations of an object may have 256 KiB; some are other people's."""
DEPTH_MAX: Final = 100
NODES_MAX: Final = 1_000_000
_TEXT_BYTES_MAX: Final = 64 << 10


class UnfitError(Exception):
    """These bytes are no document that the object at this path could be; says why in one line."""


# -- reading YAML ------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the class depends on libyaml
    """Scalars as go-yaml v2 resolves them."""


_BOOLEANS: Final = {
    word: value
    for value, words in {True: ("y", "yes", "on", "true"), False: ("n", "no", "off", "false")}.items()
    for low in words
    for word in (low, low.capitalize(), low.upper())
}
_INT: Final = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NO_NUMBER: Final = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
"""What YAML can say and JSON cannot."""


def _plain(_loader: Any, node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INT.match(text):
        digits = text.replace("_", "")
        sign, bare = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
        octal = len(bare) > 1 and bare[0] == "0" and bare[1].isdigit()
        return sign * int(bare, 8 if octal else 0)
    if _FLOAT.match(text):
        return float(text)
    if _NO_NUMBER.match(text):
        return float(text.lower().replace(".", ""))
    return text


_Loader.yaml_implicit_resolvers = {
    None: [("kopsfs:plain", re.compile(r"(?s).+"))],
    "<": [("tag:yaml.org,2002:merge", re.compile(r"<<\Z"))],
    **{char: [("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)\Z"))] for char in ("~", "n", "N", "")},
}
_Loader.add_constructor("tag:yaml.org,2002:merge", _plain)
_Loader.add_constructor("kopsfs:plain", _plain)


def parse(data: bytes) -> Object:
    """Read one YAML or JSON document that is a map. Raises UnfitError."""
    try:
        text = data.decode()
        found = _as_json(text) or _as_yaml(text)
    except UnicodeDecodeError as error:
        raise UnfitError("not UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise UnfitError(f"not YAML: {' '.join(str(error).split())[:200]}") from error
    if len(found) != 1 or not isinstance(found[0], dict):
        raise UnfitError("empty" if not found else "not one map")
    _demand_shallow(found[0])
    try:
        plain: Object = json.loads(json.dumps(found[0], allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise UnfitError(f"not what JSON can say: {error}") from error
    return plain


def _as_json(text: str) -> list[Any]:
    """JSON is read as that where it is, because it escapes what YAML does not."""
    if text.lstrip()[:1] != "{":
        return []
    try:
        return [json.loads(text)]
    except ValueError:
        return []


def _as_yaml(text: str) -> list[Any]:
    """Libyaml's composer recurses in C, and aliases multiply: a small file could end the process."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) > DEPTH_MAX:
                raise UnfitError(f"nested more than {DEPTH_MAX} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        elif isinstance(event, yaml.NodeEvent):
            anchor = None if isinstance(event, yaml.AliasEvent) else event.anchor
            size = sizes.get(event.anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
        else:
            continue
        if anchor:
            sizes[anchor] = size
        above, sum_ = open_[-1]
        open_[-1] = (above, sum_ + size)
        if sum_ + size > NODES_MAX:
            raise UnfitError(f"more than {NODES_MAX} values")
    return list(yaml.load_all(text, _Loader))


def _demand_shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner for each in level if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]  # fmt: skip
        if not level:
            return
    raise UnfitError(f"nested more than {DEPTH_MAX} deep")


# -- rendering ---------------------------------------------------------------------------------------------


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # the class depends on libyaml
    """Strings are quoted unless no reader could take them for anything else."""


_SIMPLE: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./@=,+-]*\Z")
_WORDS: Final = frozenset(_BOOLEANS) | {"null", "Null", "NULL"}


def _string(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text.rstrip("\n") else '"'
    if _SIMPLE.match(text) and text not in _WORDS:
        style = ""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)
_Dumper.ignore_aliases = lambda _self, _data: True


def render(kind: Kind, item: Object) -> bytes:
    """Give what an object says as a file, the same bytes for the same object."""
    if kind is SSH:
        return str((item.get("spec") or {}).get("publicKey", "")).encode()
    if kind is KEYSETS and (item.get("spec") or {}).get("type") == "Secret":
        material = _primary(item["spec"]).get("privateMaterial") or ""
        return json.dumps({"Data": material}, separators=(",", ":")).encode()
    document = _document(item)
    document["metadata"] = {"creationTimestamp": item["metadata"].get("creationTimestamp"), **document["metadata"]}
    text: str = yaml.dump(document, Dumper=_Dumper, allow_unicode=True, width=1 << 30, default_flow_style=False)
    return text.encode()


def _primary(spec: Object) -> Object:
    """Source: clientset_castore.go, FindPrimary."""
    best: Object = {}
    for key in spec.get("keys") or ():
        if key.get("distrustTimestamp") or not re.fullmatch(r"[-+]?[0-9]+", str(key.get("id", ""))):
            continue
        if key["id"] == spec.get("primaryId"):
            return dict(key)
        if not best or int(key["id"]) > int(best["id"]):
            best = key
    return best


def _document(item: Object) -> Object:
    """What of an object is its document: not what the server or kopsfs keeps beside it."""
    metadata = item["metadata"]
    kept: Object = {"name": metadata["name"]}
    if labels := metadata.get("labels"):
        kept["labels"] = labels
    notes = {name: text for name, text in (metadata.get("annotations") or {}).items() if name not in _NOT_A_DOCUMENTS}
    if notes:
        kept["annotations"] = notes
    return {**{name: part for name, part in item.items() if name != "metadata"}, "metadata": kept}


def digest(item: Object) -> str:
    """Name what an object says; changes when anybody changes its document."""
    text = json.dumps(_document(item), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


# -- from bytes to objects ---------------------------------------------------------------------------------


def fit(place: Place, data: bytes) -> Object:
    """Make the object of a document, without its notes. Raises UnfitError."""
    kind = place.kind
    assert kind is not None
    if kind is SSH:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise UnfitError("not UTF-8") from error
        if fingerprint(text) != place.last:
            raise UnfitError("not the public key of this fingerprint")
        return _made(place, {"publicKey": text.strip()})
    if place.is_token:
        return _made(place, {"type": "Secret", "keys": [{"id": _serial(), "privateMaterial": _token(data)}]})
    document = parse(data)
    if document.get("apiVersion") != f"{GROUP}/{kind.version}" or document.get("kind") != kind.kind:
        raise UnfitError(f"not a {kind.kind} of {GROUP}/{kind.version}")
    metadata = document.get("metadata") or {}
    if not isinstance(metadata, dict) or metadata.get("name", place.name if kind is KEYSETS else None) != place.name:
        raise UnfitError(f"its metadata.name is not {place.name}")
    for part in ("labels", "annotations"):
        rows = metadata.get(part) or {}
        if not isinstance(rows, dict) or not all(isinstance(value, str) for value in rows.values()):
            raise UnfitError(f"metadata.{part} holds what is no string")
    spec = document.get("spec")
    if not isinstance(spec, dict) or (kind is KEYSETS and spec.get("type", "Keypair") != "Keypair"):
        raise UnfitError("no spec" if kind is not KEYSETS else "not of type Keypair")
    if kind is CLUSTERS and isinstance(spec.get("iam"), dict):
        spec = {**spec, "iam": {"legacy": False, **spec["iam"]}}  # kops always sends it, and its definition wants it
    notes = {name: text for name, text in (metadata.get("annotations") or {}).items() if name not in _NOT_A_DOCUMENTS}
    made = _made(place, spec)
    made["metadata"] |= {"labels": metadata.get("labels") or {}, "annotations": notes}
    return {**document, **made}


def _made(place: Place, spec: Object) -> Object:
    assert place.kind is not None
    metadata: Object = {"name": place.name, "namespace": place.namespace, "labels": {}, "annotations": {}}
    return {"apiVersion": place.kind.api_version, "kind": place.kind.kind, "metadata": metadata, "spec": spec}


def _token(data: bytes) -> str:
    try:
        said = json.loads(data)
        return base64.b64encode(base64.b64decode(said["Data"], validate=True)).decode()
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise UnfitError('not a secret as kops stores it: {"Data": "BASE64"}') from error


def _serial() -> str:
    """Source: pkg/pki/certificate.go, BuildPKISerial: the time, and 32 random bits."""
    return str(time.time_ns() << 32 | secrets.randbits(32))


def fingerprint(text: str) -> str:
    """Give the name of a public key's file: MD5 of the key, hex without colons; empty where it is none."""
    for line in text.splitlines():
        words = line.split()
        for kind, blob in itertools.pairwise(words):
            try:
                key = base64.b64decode(blob, validate=True)
            except (binascii.Error, ValueError):
                continue
            if key[4 : 4 + int.from_bytes(key[:4], "big")] == kind.encode() and kind:
                return hashlib.md5(key, usedforsecurity=False).hexdigest()
    return ""


# -- the bytes beside the object ---------------------------------------------------------------------------


def noted(item: Object, key: str, data: bytes, *, unfit: str = "") -> Object:
    """Give the object with the bytes in its notes. Raises UnfitError where they do not fit into those."""
    notes = {name: text for name, text in (item["metadata"].get("annotations") or {}).items() if name not in OURS}
    ours = {KEY_NOTE: key, DIGEST_NOTE: digest(item), **_packed(data), **({UNFIT_NOTE: unfit} if unfit else {})}
    if sum(len(name) + len(text.encode()) for name, text in {**notes, **ours}.items()) > NOTES_BYTES_MAX:
        raise UnfitError(f"{len(data)} bytes; beside an object 240 KiB can be kept, packed")
    return {**item, "metadata": {**item["metadata"], "annotations": {**notes, **ours}}}


def _packed(data: bytes) -> dict[str, str]:
    if len(data) <= _TEXT_BYTES_MAX:
        try:
            return {CONTENT_NOTE: data.decode()}
        except UnicodeDecodeError:
            pass
    return {PACKED_NOTE: base64.b64encode(gzip.compress(data, mtime=0)).decode()}


def redigested(item: Object) -> Object | None:
    """Give the object with the digest of what the server has made of it; None: it is right already."""
    notes = item["metadata"].get("annotations") or {}
    if notes.get(DIGEST_NOTE) == digest(item):
        return None
    return {**item, "metadata": {**item["metadata"], "annotations": {**notes, DIGEST_NOTE: digest(item)}}}


def content(kind: Kind, item: Object) -> bytes:
    """Give the file that an object is."""
    notes = item["metadata"].get("annotations") or {}
    if DIGEST_NOTE in notes and notes[DIGEST_NOTE] == digest(item):
        if CONTENT_NOTE in notes:
            return str(notes[CONTENT_NOTE]).encode()
        try:
            return gzip.decompress(base64.b64decode(notes.get(PACKED_NOTE, ""), validate=True))
        except (OSError, EOFError, zlib.error, binascii.Error, ValueError):
            pass  # somebody else's hand: what the object says counts
    return render(kind, item)
