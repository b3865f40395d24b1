"""What does a Kubernetes API server accept, and how does it say no?

Names, labels, annotations, Secrets and the structural schemas of custom resources; every refusal is a `Refused`
that carries what its `Status` says. Messages are of the form the real one has, as far as a client could look at them.

Source: Kubernetes "API conventions" (Types, Response status kind), "Object names and IDs", "Labels and selectors",
"Secrets", "Extend the Kubernetes API with CustomResourceDefinitions" (Specifying a structural schema, Field pruning,
Defaulting, Defaulting and nullable); `k8s.io/apimachinery` pkg/api/errors and pkg/api/validation.
"""

from __future__ import annotations

import base64
import binascii
import copy
import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

SECRET_BYTES_MAX = 1 << 20
ANNOTATION_BYTES_MAX = 256 << 10
NAME_MAX, LABEL_MAX, KEY_MAX = 253, 63, 253

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
DNS_LABEL = re.compile(_LABEL)
DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")


@dataclass(frozen=True)
class Cause:
    """One wrong field."""

    field: str
    reason: str
    message: str

    def row(self) -> Object:
        return {"reason": self.reason, "message": self.message, "field": self.field}


@dataclass(frozen=True)
class Resource:
    """One kind of object. A custom one has a schema."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    schema: Object | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def kind_name(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def details(self, name: str, **more: Any) -> Object:
        group = {"group": self.group} if self.group else {}
        return {**({"name": name} if name else {}), **group, "kind": self.plural, **more}


class Refused(Exception):
    """An answer that is an error; `text` instead of a `Status` where the real one sends that."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Object | None = None,
        *,
        headers: dict[str, str] | None = None,
        metadata: Object | None = None,
        text: bool = False,
    ) -> None:
        super().__init__(code, reason, message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.headers, self.metadata, self.text = headers or {}, metadata or {}, text

    def status(self) -> Object:
        said = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure"}
        said |= {"message": self.message}
        if self.reason:
            said["reason"] = self.reason
        if self.details:
            said["details"] = self.details
        return {**said, "code": self.code}


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def not_found(resource: Resource, name: str) -> Refused:
    return Refused(404, "NotFound", f'{resource.name} "{name}" not found', resource.details(name))


def conflict(resource: Resource, name: str, why: str) -> Refused:
    message = f'Operation cannot be fulfilled on {resource.name} "{name}": {why}'
    return Refused(409, "Conflict", message, resource.details(name))


def forbidden(resource: Resource, name: str, why: str, *causes: Object) -> Refused:
    quoted = f' "{name}"' if name else ""
    details = resource.details(name, **({"causes": list(causes)} if causes else {}))
    return Refused(403, "Forbidden", f"{resource.name}{quoted} is forbidden: {why}", details)


def invalid(resource: Resource, name: str, causes: list[Cause]) -> Refused:
    said = [f"{cause.field}: {cause.message}" for cause in causes]
    message = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    details = resource.details(name, causes=[cause.row() for cause in causes])
    details["kind"] = resource.kind
    return Refused(422, "Invalid", f'{resource.kind_name} "{name}" is invalid: {message}', details)


def wrong(where: str, value: Any, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else value
    return Cause(where, "FieldValueInvalid", f"Invalid value: {shown}: {why}")


def required(where: str, why: str = "") -> Cause:
    return Cause(where, "FieldValueRequired", f"Required value{': ' if why else ''}{why}")


def too_long(where: str, most: int, what: str = "bytes") -> Cause:
    return Cause(where, "FieldValueTooLong", f"Too long: may not be more than {most} {what}")


def not_allowed(where: str, why: str) -> Cause:
    return Cause(where, "FieldValueForbidden", f"Forbidden: {why}")


# -- metadata -------------------------------------------------------------------------------------------------


def name_causes(resource: Resource, name: str) -> Iterator[Cause]:
    form, most = (DNS_LABEL, LABEL_MAX) if resource.plural == "namespaces" else (DNS_SUBDOMAIN, NAME_MAX)
    if len(name) > most:
        yield wrong("metadata.name", name, f"must be no more than {most} characters")
    if not form.fullmatch(name):
        what = "label" if form is DNS_LABEL else "subdomain"
        yield wrong("metadata.name", name, f"a lowercase RFC 1123 {what} must consist of lower case alphanumerics")


def qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > NAME_MAX or not DNS_SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= LABEL_MAX and _QUALIFIED.fullmatch(name) is not None


def label_value(value: str) -> bool:
    return not value or (len(value) <= LABEL_MAX and _QUALIFIED.fullmatch(value) is not None)


def metadata_causes(resource: Resource, metadata: Object) -> Iterator[Cause]:
    yield from name_causes(resource, metadata["name"])
    for key, value in metadata.get("labels", {}).items():
        if not qualified(key):
            yield wrong("metadata.labels", key, "name part must consist of alphanumeric characters")
        if not label_value(value):
            yield wrong("metadata.labels", value, "a valid label must be an empty string or consist of alphanumerics")
    total = 0
    for key, value in metadata.get("annotations", {}).items():
        total += len(key.encode()) + len(value.encode())
        if not qualified(key.lower()):
            yield wrong("metadata.annotations", key, "name part must consist of alphanumeric characters")
    if total > ANNOTATION_BYTES_MAX:
        yield too_long("metadata.annotations", ANNOTATION_BYTES_MAX)


METADATA_KEPT = set(
    "name generateName namespace uid resourceVersion creationTimestamp deletionTimestamp "
    "deletionGracePeriodSeconds labels annotations ownerReferences finalizers".split()
)
METADATA_IGNORED = {"generation", "managedFields", "selfLink"}


def read_metadata(body: Object, unknown: list[str]) -> Object:
    """Give a copy of what the client may say about itself. Source: ObjectMeta."""
    given = body.get("metadata")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise bad_request("json: cannot unmarshal into Go struct field .metadata of type v1.ObjectMeta")
    for name in ("labels", "annotations"):
        rows = given.get(name) or {}
        if not isinstance(rows, dict) or not all(isinstance(value, str) for value in rows.values()):
            raise bad_request(f"json: cannot unmarshal into Go struct field ObjectMeta.metadata.{name} of type string")
    for name in ("name", "generateName", "namespace", "resourceVersion", "uid"):
        if not isinstance(given.get(name, ""), str):
            raise bad_request(f"json: cannot unmarshal into Go struct field ObjectMeta.metadata.{name} of type string")
    unknown += [f"metadata.{name}" for name in given if name not in METADATA_KEPT | METADATA_IGNORED]
    return copy.deepcopy({name: given[name] for name in given if name in METADATA_KEPT and given[name]})


# -- Secrets --------------------------------------------------------------------------------------------------

SECRET_FIELDS = {"apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable"}


def read_secret(body: Object) -> Object:
    """Source: "Secrets"; `stringData` is written into `data` and never read."""
    kept: Object = {}
    data: dict[str, str] = {}
    for key, value in (body.get("data") or {}).items():
        if not isinstance(value, str):
            raise bad_request("Secret in version 'v1' cannot be handled as a Secret: data is no string")
        try:
            data[key] = base64.b64encode(base64.b64decode(value, validate=True)).decode()
        except (binascii.Error, ValueError) as error:
            raise bad_request(
                'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0'
            ) from error
    for key, value in (body.get("stringData") or {}).items():
        data[key] = base64.b64encode(value.encode()).decode()
    if data:
        kept["data"] = data
    if body.get("immutable") is not None:
        kept["immutable"] = bool(body["immutable"])
    kept["type"] = body.get("type") or "Opaque"
    return kept


def secret_causes(secret: Object, old: Object | None) -> Iterator[Cause]:
    data = secret.get("data", {})
    for key in data:
        if len(key) > KEY_MAX or not _DATA_KEY.fullmatch(key) or key == "." or key.startswith(".."):
            yield wrong(f"data[{key}]", key, "a valid config key must consist of alphanumerics, '-', '_' or '.'")
    if sum(len(base64.b64decode(value)) for value in data.values()) > SECRET_BYTES_MAX:
        yield too_long("data", SECRET_BYTES_MAX)
    if old is None:
        return
    if secret["type"] != old["type"]:
        yield wrong("type", secret["type"], "field is immutable")
    if old.get("immutable"):
        if not secret.get("immutable"):
            yield not_allowed("immutable", "field is immutable when `immutable` is set")
        if data != old.get("data", {}):
            yield not_allowed("data", "field is immutable when `immutable` is set")


# -- custom resources -----------------------------------------------------------------------------------------

PRESERVE = "x-kubernetes-preserve-unknown-fields"
OPEN: Object = {"type": "object", PRESERVE: True}


def shaped(value: Any, schema: Object, unknown: list[str], where: str = "") -> Any:
    """Drop what the schema does not name (and say so), then nulls that may not be null, then put in defaults."""
    if isinstance(value, list):
        items = schema.get("items") or {PRESERVE: True}
        return [shaped(each, items, unknown, f"{where}[{number}]") for number, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
    dot, whole = (f"{where}." if where else ""), not where or schema.get("x-kubernetes-embedded-resource")
    kept: Object = {}
    for key, each in value.items():
        if whole and key in {"apiVersion", "kind", "metadata"}:
            kept[key] = each
        elif key in properties:
            if each is not None or properties[key].get("nullable"):
                kept[key] = shaped(each, properties[key], unknown, dot + key)
        elif isinstance(rest, dict):
            kept[key] = shaped(each, rest, unknown, dot + key)
        elif rest is True or schema.get(PRESERVE):
            kept[key] = each
        else:
            unknown.append(dot + key)
    for key, each in properties.items():
        if key not in kept and "default" in each:
            kept[key] = shaped(copy.deepcopy(each["default"]), each, unknown, dot + key)
    return kept


def schema_causes(value: Any, schema: Object, where: str = "") -> Iterator[Cause]:
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield of_type(where, value, "integer,string")
        return
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type")
    if kind and not _is(value, kind):
        yield of_type(where, value, kind)
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{each}"' for each in schema["enum"])
        message = f'Unsupported value: "{value}": supported values: {supported}'
        yield Cause(where, "FieldValueNotSupported", message)
    if isinstance(value, str):
        yield from _string_causes(value, schema, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            yield wrong(where, value, f"{where} in body should be greater than or equal to {schema['minimum']}")
        if value > schema.get("maximum", value):
            yield wrong(where, value, f"{where} in body should be less than or equal to {schema['maximum']}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from schema_causes(each, schema.get("items") or {}, f"{where}[{number}]")
    elif isinstance(value, dict):
        yield from _object_causes(value, schema, where)


def _object_causes(value: Object, schema: Object, where: str) -> Iterator[Cause]:
    dot = f"{where}." if where else ""
    for key in schema.get("required", ()):
        if key not in value:
            yield required(f"{dot}{key}")
    rest = schema.get("additionalProperties")
    for key, each in value.items():
        if key in schema.get("properties", {}):
            if not (not where and key == "metadata"):
                yield from schema_causes(each, schema["properties"][key], f"{dot}{key}")
        elif isinstance(rest, dict):
            yield from schema_causes(each, rest, f"{dot}{key}")


def _string_causes(value: str, schema: Object, where: str) -> Iterator[Cause]:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield wrong(where, value, f"{where} in body should match '{schema['pattern']}'")
    if len(value) < schema.get("minLength", 0):
        yield wrong(where, value, f"{where} in body should be at least {schema['minLength']} chars long")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield too_long(where, schema["maxLength"])
    form = schema.get("format")
    if (form == "byte" and not _is_base64(value)) or (form == "date-time" and not _is_time(value)):
        yield Cause(where, "FieldValueTypeInvalid", f"{where} in body must be of type {form}: {value!r}")


def of_type(where: str, value: Any, kind: str) -> Cause:
    """The real one shows the type it found, not the value."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    found = names.get(type(value), "null")
    message = f'Invalid value: "{found}": {where} in body must be of type {kind}: "{found}"'
    return Cause(where, "FieldValueTypeInvalid", message)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    kinds = {"string": str, "number": (int, float), "array": list, "object": dict, "boolean": bool}
    return isinstance(value, kinds[kind])


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _is_time(value: str) -> bool:
    try:
        dt.datetime.fromisoformat(value)
    except ValueError:
        return False
    return re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value) is not None


# -- selectors ------------------------------------------------------------------------------------------------

_SET = re.compile(r"([^\s!=,()]+)\s+(in|notin)\s+\(([^()]*)\)")


def label_selector(text: str) -> Any:
    """Source: "Labels and selectors": equality-based and set-based requirements, joined by commas."""
    tests: list[Any] = []
    for part in re.split(r",(?![^()]*\))", text) if text else []:
        part = part.strip()
        if found := _SET.fullmatch(part):
            key, word, values = found[1], found[2], {value.strip() for value in found[3].split(",")}
            tests.append((lambda labels, k=key, v=values, w=word: (labels.get(k) in v) == (w == "in")))
        elif "=" in part:
            key, _, value = part.partition("=")
            differs = key.endswith("!")
            key, value = key.rstrip("!").strip(), value.removeprefix("=").strip()
            if not qualified(key) or not label_value(value):
                raise bad_request(f"unable to parse requirement: {part}")
            tests.append(lambda labels, k=key, v=value, d=differs: (labels.get(k) == v) != d)
        else:
            absent, key = part.startswith("!"), part.lstrip("!").strip()
            if not qualified(key):
                raise bad_request(f"unable to parse requirement: {part}")
            tests.append(lambda labels, k=key, a=absent: (k in labels) != a)
    return lambda item: all(test(item["metadata"].get("labels", {})) for test in tests)


def field_selector(resource: Resource, text: str) -> Any:
    """Source: "Field selectors"; custom resources know the name and the namespace only."""
    known = {
        "metadata.name": lambda item: item["metadata"]["name"],
        "metadata.namespace": lambda item: item["metadata"].get("namespace", ""),
    }
    if resource.plural == "secrets":
        known["type"] = lambda item: item["type"]
    if resource.plural == "namespaces":
        known["status.phase"] = lambda item: item["status"]["phase"]
    tests: list[Any] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"([^!=]+)(!=|==?)(.*)", part)
        if found is None:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        if found[1] not in known:
            raise bad_request(f"field label not supported: {found[1]}")
        tests.append(lambda item, f=known[found[1]], v=found[3], d=found[2] == "!=": (f(item) == v) != d)
    return lambda item: all(test(item) for test in tests)
