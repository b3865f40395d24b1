"""Can kops and the control planes use this keyset, and for how long?

A keyset without a key that is trusted makes kops end with a nil pointer, one whose certificate cannot be read stops it
with an error that names no file, and an expired CA takes the cluster down: all can be seen in the file. Private keys are
compared with their certificates and never quoted.

Source: kops upup/pkg/fi/clientset_castore.go:parseKeyset, FindPrimary; upup/pkg/fi/vfs_keystorereader.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from kopsfs.spec.document import Document
from kopsfs.spec.field import Finding, Path, Severity, forbidden, invalid, required
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.view import fields, get, items, text

KEYS: Final = Path("spec", "keys")
SOON: Final = timedelta(days=60)
"""So long before a certificate expires it is told; rotating a CA takes days."""


def keyset(document: Document, name: str, now: datetime) -> Iterator[Finding]:
    """Everything about one keyset, found under `name`."""
    yield from keyset_name(document, name)
    yield from trusted(document)
    for number, key in enumerate(items(document.data, "spec", "keys")):
        yield from material(document, fields(key), KEYS.index(number), now)


@rules("", "keyset-name")
def keyset_name(document: Document, name: str) -> Iterator[Finding]:
    if document.name not in {"", name}:
        position = document.position("metadata.name")
        detail = f"the directory is called {name}"
        yield invalid("metadata.name", document.name, detail, position=position, severity=Severity.WARNING)


def primary_of(document: Document) -> dict[str, Any] | None:
    """The key that signs: the named one, else the trusted one with the largest id."""
    keys = [fields(key) for key in items(document.data, "spec", "keys") if get(key, "distrustTimestamp") is None]
    numbered = [key for key in keys if text(key, "id").isdigit()]
    named = next((key for key in numbered if text(key, "id") == _primary_id(document)), None)
    return named or max(numbered, key=lambda key: int(text(key, "id")), default=None)


def _primary_id(document: Document) -> str:
    return text(document.data, "spec", "primaryId") or text(document.data, "spec", "primaryID")


@rules(
    "upup/pkg/fi/clientset_castore.go:FindPrimary",
    "keyset-empty",
    "keyset-distrusted",
    "keyset-primary",
    "keyset-private",
)
def trusted(document: Document) -> Iterator[Finding]:
    keys = items(document.data, "spec", "keys")
    position = document.position("spec.keys")
    primary = primary_of(document)
    if not keys:
        yield required(KEYS, "a keyset without keys makes kops crash", rule="keyset-empty", position=position)
    elif primary is None:
        detail = "every key is distrusted or has an id that is no number: kops crashes"
        yield forbidden(KEYS, detail, rule="keyset-distrusted", position=position)
    elif _primary_id(document) not in {"", text(primary, "id")}:
        detail = f"no trusted key has this id; kops takes {text(primary, 'id')}"
        position = document.position("spec.primaryId")
        yield invalid("spec.primaryId", _primary_id(document), detail, rule="keyset-primary", position=position)
    elif not text(primary, "privateMaterial"):
        where = KEYS.index([fields(key) for key in keys].index(primary))
        detail = "the primary key has no private part, so nothing can be signed with it"
        yield required(where.child("privateMaterial"), detail, rule="keyset-private", position=document.position(where))


@rules(
    "upup/pkg/fi/clientset_castore.go:parseKeyset",
    "key-certificate",
    "key-private",
    "key-pair",
    "certificate-expired",
    "certificate-expires",
)
def material(document: Document, key: dict[str, Any], path: Path, now: datetime) -> Iterator[Finding]:
    """One key: a certificate that can be read and is valid, and its own private key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    public, private = _decoded(key, "publicMaterial"), _decoded(key, "privateMaterial")
    certificate = secret = None
    if public != b"":
        where = path.child("publicMaterial")
        try:
            certificate = load_pem_x509_certificate(public or b"")
        except ValueError:
            position = document.position(where)
            yield Finding(*_bad(where, "a certificate"), rule="key-certificate", position=position)
    if private != b"":
        where = path.child("privateMaterial")
        try:
            secret = load_pem_private_key(private or b"", None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            position = document.position(where)
            yield Finding(*_bad(where, "a private key"), rule="key-private", position=position)
    if certificate is None:
        return
    if secret is not None and secret.public_key() != certificate.public_key():
        where = path.child("privateMaterial")
        detail = "is not the private key of the certificate"
        yield forbidden(where, detail, rule="key-pair", position=document.position(where))
    if get(key, "distrustTimestamp") is None:
        yield from _validity(certificate.not_valid_after_utc, path, now, document)


def _validity(end: datetime, path: Path, now: datetime, document: Document) -> Iterator[Finding]:
    where = path.child("publicMaterial")
    position = document.position(where)
    if end < now:
        yield forbidden(where, f"expired on {end:%Y-%m-%d}", rule="certificate-expired", position=position)
    elif end < now + SOON:
        detail = f"expires on {end:%Y-%m-%d}"
        yield forbidden(where, detail, rule="certificate-expires", position=position, severity=Severity.WARNING)


def _decoded(key: dict[str, Any], name: str) -> bytes | None:
    """The bytes of a key's part, b"" when absent, None when not base64."""
    try:
        return base64.b64decode("".join(text(key, name).split()), validate=True)
    except (ValueError, binascii.Error):
        return None


def _bad(where: Path, what: str) -> tuple[Any, str, str]:
    from kopsfs.spec.field import Kind

    return (
        Kind.INVALID,
        str(where),
        f"not {what} in PEM and base64; kops stops with an error that does not name the file",
    )
