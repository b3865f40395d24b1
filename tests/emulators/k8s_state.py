"""What does a Kubernetes API server keep, and what does it make of a request to read or change it?

`State` is etcd and the registry above it: one rising revision for everything, every state of every object since the
last compaction, so that a listing's pages are of one revision and a watch starts where a listing ended. A compare and
its swap happen under one lock (`changed`, which watches wait for).

Source: Kubernetes "API concepts" (Resource versions, Efficient detection of changes, Retrieving large results sets in
chunks, Dry-run), "API conventions" (Metadata, Concurrency control and consistency); `k8s.io/apiserver`
pkg/registry/rest (create.go, update.go, delete.go) and pkg/storage/etcd3.
"""

from __future__ import annotations

import base64
import copy
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.k8s_managed import managed
from tests.emulators.k8s_rules import (
    OPEN,
    SECRET_FIELDS,
    Cause,
    Object,
    Refused,
    Resource,
    bad_request,
    conflict,
    field_selector,
    forbidden,
    invalid,
    label_selector,
    metadata_causes,
    not_found,
    read_metadata,
    read_secret,
    required,
    schema_causes,
    secret_causes,
    shaped,
    wrong,
)

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",))
SECRETS = Resource("", "v1", "secrets", "Secret")
CRDS = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    short=("crd", "crds"),
)
KOPS = "kops.k8s.io"
APPROVED = "api-approved.kubernetes.io"
"""An annotation without which no definition of a group below k8s.io is taken; kops's own files lack it."""
STORED_MAX = 3 << 19
"""etcd's default limit of one request, bytes (1.5 MiB)."""
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def _definition(kind: str, spec: Object, short: str = "") -> Object:
    plural = kind.lower() + "s"
    schema = {"type": "object", "properties": {"metadata": {"type": "object"}, "spec": spec}}
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.kind,
        "metadata": {"name": f"{plural}.{KOPS}", "annotations": {APPROVED: "unapproved, for tests"}},
        "spec": {
            "group": KOPS,
            "names": {**names, **({"shortNames": [short]} if short else {})},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _strings(*names: str, form: str = "") -> Object:
    return {name: {"type": "string", **({"format": form} if form else {})} for name in names}


KOPS_CRDS = [
    _definition("Cluster", OPEN),
    _definition("InstanceGroup", OPEN, "ig"),
    _definition(
        "Keyset",
        {
            "type": "object",
            "properties": {
                **_strings("primaryId", "type"),
                "keys": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            **_strings("id"),
                            **_strings("privateMaterial", "publicMaterial", form="byte"),
                            **_strings("distrustTimestamp", form="date-time"),
                        },
                    },
                },
            },
        },
    ),
    _definition("SSHCredential", {"type": "object", "properties": _strings("publicKey")}),
]
"""Source: kops `k8s/crds/*.yaml`; the two large ones are open here, kops's own are put by `K8sServer.define`."""


@dataclass(frozen=True)
class Stored:
    item: Object
    revision: int
    encoded: bytes

    @property
    def place(self) -> tuple[str, str]:
        return (self.item["metadata"].get("namespace", ""), self.item["metadata"]["name"])


@dataclass(frozen=True)
class Event:
    revision: int
    resource: str
    old: Stored | None
    new: Stored | None


@dataclass
class How:
    """What a change says besides its body."""

    manager: str = "other"
    """Who changes; for `managedFields`."""
    dry: bool = False
    fields: str = "Warn"
    """What is done about fields nobody knows: `Ignore`, `Warn` or `Strict`."""
    unknown: list[str] = field(default_factory=list)
    """Out: these are such."""


@dataclass
class Query:
    """What a listing or a watch asks for."""

    resource: Resource
    namespace: str
    """Empty: all."""
    limit: int = 0
    token: str = ""
    version: str = ""
    match: str = ""
    labels: str = ""
    fields: str = ""
    wanted: Callable[[Object], bool] = field(init=False)

    def __post_init__(self) -> None:
        by_label, by_field = label_selector(self.labels), field_selector(self.resource, self.fields)

        def wanted(item: Object) -> bool:
            inside = not self.namespace or item["metadata"].get("namespace", "") == self.namespace
            return inside and by_label(item) and by_field(item)

        self.wanted = wanted


class State:
    """Everything the server keeps; methods raise `Refused`. Hold `changed` for more than one of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.changed = threading.Condition(threading.RLock())
        self.revision = 1
        self.compacted = 0
        self.events: list[Event] = []
        self.namespaces_linger = False
        """A deleted namespace stays Terminating (as where no controller runs), else it and its content go at once."""
        self._items: dict[str, dict[tuple[str, str], Stored]] = {}
        self._custom: dict[tuple[str, str], Resource] = {}
        for name in ("default", "kube-system"):
            self.create(NAMESPACES, "", {"metadata": {"name": name}}, How("kube-apiserver"))

    # -- kinds ------------------------------------------------------------------------------------------------

    def resources(self) -> list[Resource]:
        return [NAMESPACES, SECRETS, CRDS, *self._custom.values()]

    def resource(self, group: str, version: str, plural: str) -> Resource | None:
        for each in self.resources():
            if (each.group, each.version, each.plural) == (group, version, plural):
                return each
        return None

    def _read_definitions(self) -> None:
        self._custom = {}
        for stored in self._items.get(CRDS.name, {}).values():
            spec = stored.item["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    schema = version.get("schema", {}).get("openAPIV3Schema", OPEN)
                    names, namespaced = spec["names"], spec["scope"] == "Namespaced"
                    short = tuple(names.get("shortNames", ()))
                    made = Resource(
                        spec["group"], version["name"], names["plural"], names["kind"], namespaced, short, schema
                    )
                    self._custom[made.name, made.version] = made

    # -- reading ----------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str, name: str) -> Stored:
        with self.changed:
            stored = self._items.get(resource.name, {}).get((namespace, name))
        if stored is None:
            raise not_found(resource, name)
        return stored

    def at(self, resource: Resource, revision: int) -> list[Stored]:
        """The objects of a kind as they were, in etcd's order: by the bytes of `namespace/name`."""
        items = dict(self._items.get(resource.name, {}))
        for event in reversed(self.events):
            if event.revision <= revision:
                break
            if event.resource == resource.name:
                if event.old is not None:
                    items[event.old.place] = event.old
                elif event.new is not None:
                    del items[event.new.place]
        return [items[place] for place in sorted(items, key="/".join)]

    def page(self, query: Query) -> tuple[list[Stored], Object]:
        """Give a page and the list's metadata."""
        with self.changed:
            revision, start = self._from(query)
            found = [stored for stored in self.at(query.resource, revision) if "/".join(stored.place) >= start]
        found = [stored for stored in found if query.wanted(stored.item)]
        metadata: Object = {"resourceVersion": str(revision)}
        if query.resource.schema is not None:
            metadata["continue"] = ""  # the real one says so of custom resources, and of these only
        shown = found[: query.limit] if query.limit else found
        if len(shown) < len(found):
            metadata["continue"] = _token(revision, "/".join(shown[-1].place) + "\0")
            if not query.labels and not query.fields:
                metadata["remainingItemCount"] = len(found) - len(shown)
        return shown, metadata

    def _from(self, query: Query) -> tuple[int, str]:
        """Which revision, and from which place on."""
        if query.match and not query.version:
            raise invalid_options("resourceVersionMatch", "is forbidden unless resourceVersion is provided")
        if query.match not in {"", "Exact", "NotOlderThan"}:
            raise invalid_options(
                "resourceVersionMatch", "supported values: Exact, NotOlderThan", "FieldValueNotSupported"
            )
        if query.match == "Exact" and query.version == "0":
            raise invalid_options("resourceVersionMatch", "Exact is forbidden for resourceVersion 0")
        if query.token:
            if query.match:
                raise invalid_options("resourceVersionMatch", "is forbidden when continue is provided")
            if query.version not in {"", "0"}:
                raise bad_request("specifying resource version is not allowed when using continue")
            return self._from_token(query.token)
        version = self.number(query.version)
        if version > self.revision:
            raise self._too_large(version)
        if query.match == "Exact":
            if version < self.compacted:
                raise expired(f"The provided resource version is too old: {version}")
            return version, ""
        return self.revision, ""

    def _from_token(self, token: str) -> tuple[int, str]:
        try:
            said = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            revision, start = said["rv"], said["start"]
        except (ValueError, KeyError, TypeError) as error:
            raise bad_request("continue key is not valid: the token cannot be read") from error
        if revision < 0:
            return self.revision, start
        if revision < self.compacted:
            raise expired("The provided continue parameter is too old", {"continue": _token(-1, start)})
        return revision, start

    def _too_large(self, version: int) -> Refused:
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        message = f"Timeout: Too large resource version: {version}, current: {self.revision}"
        return Refused(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})

    @staticmethod
    def number(version: str) -> int:
        if version and not version.isdecimal():
            raise bad_request(f'Invalid value: "{version}": must be a number')
        return int(version or 0)

    # -- changing ---------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, body: Object, how: How) -> Stored:
        item = self._read(resource, namespace, body, how)
        metadata = item["metadata"]
        if "name" not in metadata and "generateName" in metadata:
            metadata["name"] = metadata["generateName"] + "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        name = metadata.get("name", "")
        with self.changed:
            self._admit(resource, namespace, name)
            if not name:
                raise invalid(resource, "", [required("metadata.name", "name or generateName is required")])
            if metadata.pop("resourceVersion", ""):
                raise Refused(500, "", "resourceVersion should not be set on objects to be created")
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = self._now()
            if resource.schema is not None or resource is CRDS:
                metadata["generation"] = 1
            self._check(resource, item, None)
            if (namespace, name) in self._items.get(resource.name, {}):
                message = f'{resource.name} "{name}" already exists'
                raise Refused(409, "AlreadyExists", message, resource.details(name))
            return self._commit(resource, None, item, how)

    def update(self, resource: Resource, namespace: str, name: str, body: Object, how: How) -> Stored:
        item = self._read(resource, namespace, body, how)
        given = item["metadata"].get("name", "")
        if given != name:
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        with self.changed:
            old = self.get(resource, namespace, name)
            self._compare(resource, old, item["metadata"])
            return self._replace(resource, old, item, how)

    def patch(self, resource: Resource, namespace: str, name: str, patch: Object, how: How) -> Stored:
        """Apply a merge patch (RFC 7396)."""
        with self.changed:
            old = self.get(resource, namespace, name)
            item = self._read(resource, namespace, merged(old.item, patch), how)
            if item["metadata"].get("name") != name:
                raise bad_request("the name of the object does not match the name on the URL")
            self._compare(resource, old, item["metadata"])
            return self._replace(resource, old, item, how)

    def delete(
        self, resource: Resource, namespace: str, name: str, options: Object, *, dry: bool = False
    ) -> tuple[Stored, bool]:
        """Give the last state, and whether it is gone (else finalizers hold it)."""
        wanted = options.get("preconditions") or {}
        with self.changed:
            old = self.get(resource, namespace, name)
            for where, precondition in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
                has = old.item["metadata"][where]
                if wanted.get(where) not in {None, has}:
                    why = f"{precondition} in precondition: {wanted[where]}, {precondition} in object meta: {has}"
                    refused = conflict(resource, name, f"Precondition failed: {why}")
                    refused.details = resource.details(name) | {"kind": resource.kind}
                    raise refused
            if resource is NAMESPACES:
                return self._delete_namespace(old, dry=dry)
            if old.item["metadata"].get("finalizers"):
                return self._doom(resource, old, dry=dry), False
            if resource is CRDS and not dry:
                self._empty(old.item["spec"]["names"]["plural"] + "." + old.item["spec"]["group"])
            self._commit(resource, old, None, How(dry=dry))
            return old, True

    def _delete_namespace(self, old: Stored, *, dry: bool) -> tuple[Stored, bool]:
        name = old.item["metadata"]["name"]
        if name in {"default", "kube-system", "kube-public"}:
            raise forbidden(NAMESPACES, name, "this namespace may not be deleted")
        doomed = self._doom(NAMESPACES, old, dry=dry)
        if not self.namespaces_linger and not dry:
            for kind in list(self._items):
                self._empty(kind, name)
            self._commit(NAMESPACES, doomed, None, How())
        return doomed, False

    def _empty(self, kind: str, namespace: str = "") -> None:
        for stored in list(self._items.get(kind, {}).values()):
            if not namespace or stored.place[0] == namespace:
                self._commit(next(each for each in self.resources() if each.name == kind), stored, None, How())

    def _doom(self, resource: Resource, old: Stored, *, dry: bool) -> Stored:
        if old.item["metadata"].get("deletionTimestamp"):
            return old
        item = copy.deepcopy(old.item)
        item["metadata"] |= {"deletionTimestamp": self._now(), "deletionGracePeriodSeconds": 0}
        if resource is NAMESPACES:
            item["status"]["phase"] = "Terminating"
            del item["metadata"]["deletionGracePeriodSeconds"]
        return self._commit(resource, old, item, How(dry=dry))

    # -- the steps of a change ----------------------------------------------------------------------------------

    def _read(self, resource: Resource, namespace: str, body: Object, how: How) -> Object:
        """Give what is kept of what was sent."""
        version, kind = body.get("apiVersion"), body.get("kind")
        if resource.schema is not None and not kind:
            raise bad_request("Object 'Kind' is missing in the request")
        if resource.schema is not None and version == resource.api_version and kind != resource.kind:
            other = Resource(resource.group, resource.version, resource.plural, kind)
            name = (body.get("metadata") or {}).get("name", "")
            raise invalid(other, name, [wrong("kind", kind, f"must be {resource.kind}")])
        if version not in {None, "", resource.api_version} or kind not in {None, "", resource.kind}:
            raise bad_request(
                f"the API version in the data ({version}, {kind}) does not match the expected API version "
                f"({resource.api_version}, {resource.kind})"
            )
        metadata = read_metadata(body, how.unknown)
        if metadata.setdefault("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if not namespace:
            del metadata["namespace"]
        head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        if resource is NAMESPACES:
            metadata["labels"] = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata.get("name", "")}
            return {**head, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        if resource is SECRETS:
            how.unknown += sorted(body.keys() - SECRET_FIELDS)
            made = {**head, **read_secret(body)}
        elif resource.schema is not None:
            made = {**shaped(copy.deepcopy(body), resource.schema, how.unknown), **head}
        else:
            made = {**body, **head}
        if how.unknown and how.fields == "Strict":
            told = ", ".join(f'unknown field "{name}"' for name in how.unknown)
            what = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
            raise bad_request(f"{what}: strict decoding error: {told}")
        return made

    def _admit(self, resource: Resource, namespace: str, name: str) -> None:
        """Source: admission plugin NamespaceLifecycle."""
        if not namespace:
            return
        home = self.get(NAMESPACES, "", namespace)
        if home.item["metadata"].get("deletionTimestamp"):
            message = f"namespace {namespace} is being terminated"
            cause = {"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(resource, name, why, cause)

    @staticmethod
    def _check(resource: Resource, item: Object, old: Object | None) -> None:
        causes: list[Cause] = list(metadata_causes(resource, item["metadata"]))
        if resource is SECRETS:
            causes += secret_causes(item, old)
        elif resource.schema is not None:
            causes += schema_causes(item, resource.schema)
        elif resource is CRDS:
            spec = item["spec"]
            if item["metadata"]["name"] != f"{spec['names']['plural']}.{spec['group']}":
                causes.append(wrong("metadata.name", item["metadata"]["name"], "must be spec.names.plural.spec.group"))
            approval = item["metadata"].get("annotations", {}).get(APPROVED, "")
            if spec["group"].endswith((".k8s.io", ".kubernetes.io")) and not approval.startswith(
                ("https:", "unapproved")
            ):
                causes.append(required(f"metadata.annotations[{APPROVED}]", "protected groups must have approval"))
        if causes:
            raise invalid(resource, item["metadata"]["name"], causes)

    @staticmethod
    def _compare(resource: Resource, old: Stored, metadata: Object) -> None:
        name, has = metadata["name"], old.item["metadata"]
        version = metadata.get("resourceVersion", "")
        if not version and (resource.schema is not None or resource is CRDS):
            named = Resource(resource.group, resource.version, resource.plural, resource.plural)
            raise invalid(named, name, [wrong("metadata.resourceVersion", 0, "must be specified for an update")])
        if metadata.get("uid", has["uid"]) != has["uid"]:
            why = f"UID in precondition: {metadata['uid']}, UID in object meta: {has['uid']}"
            raise conflict(resource, name, f"Precondition failed: {why}")
        if version and version != has["resourceVersion"]:
            raise conflict(resource, name, MODIFIED)

    def _replace(self, resource: Resource, old: Stored, item: Object, how: How) -> Stored:
        has, metadata = old.item["metadata"], item["metadata"]
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            metadata.pop(name, None)
            if name in has:
                metadata[name] = has[name]
        if "status" in old.item and resource in {NAMESPACES, CRDS}:
            item["status"] = old.item["status"]
        self._check(resource, item, old.item)
        metadata["resourceVersion"], metadata["managedFields"] = has["resourceVersion"], has["managedFields"]
        if item == old.item:
            return old
        content = [{name: part for name, part in each.items() if name != "metadata"} for each in (item, old.item)]
        if "generation" in has and content[0] != content[1]:
            metadata["generation"] = has["generation"] + 1
        if has.get("deletionTimestamp") and not metadata.get("finalizers") and resource is not NAMESPACES:
            self._commit(resource, old, None, how)
            return Stored(item, old.revision, _encoded(item))
        return self._commit(resource, old, item, how)

    def _commit(self, resource: Resource, old: Stored | None, item: Object | None, how: How) -> Stored:
        revision = self.revision + (not how.dry)
        whole = item if item is not None else copy.deepcopy(old.item if old else {})
        metadata = whole["metadata"]
        if not how.dry or old is not None:
            metadata["resourceVersion"] = str(revision)
        if item is not None:
            metadata["managedFields"] = managed(old.item if old else None, item, how.manager, self._now())
            if resource is CRDS:
                yes = {"status": "True", "reason": "", "lastTransitionTime": metadata["creationTimestamp"]}
                kinds = ("NamesAccepted", "Established")
                whole["status"] = {"conditions": [{"type": kind, **yes} for kind in kinds]}
        encoded = _encoded(whole)
        if len(encoded) > STORED_MAX:
            raise Refused(500, "", "etcdserver: request is too large")
        stored = Stored(whole, revision, encoded)
        if how.dry:
            return stored
        self.revision = revision
        place = self._items.setdefault(resource.name, {})
        if item is None:
            del place[stored.place]
        else:
            place[stored.place] = stored
        if resource is CRDS:
            self._read_definitions()
        self.events.append(Event(revision, resource.name, old, stored if item is not None else None))
        self.changed.notify_all()
        return stored

    def _now(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock()))

    def compact(self) -> None:
        """Forget all but the present, as etcd's compaction (5 minutes by default) does."""
        with self.changed:
            self.compacted = self.revision


def _encoded(item: Object) -> bytes:
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made


def expired(message: str, metadata: Object | None = None) -> Refused:
    return Refused(410, "Expired", message, metadata=metadata)


def invalid_options(where: str, why: str, reason: str = "FieldValueForbidden", kind: str = "ListOptions") -> Refused:
    return invalid(Resource("meta.k8s.io", "v1", kind, kind), "", [Cause(where, reason, f"{where} {why}")])


def _token(revision: int, start: str) -> str:
    said = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def news(query: Query, events: list[Event]) -> Iterator[Object]:
    """What a watch says of changes: what comes into or leaves a selection is ADDED or DELETED."""
    for event in events:
        if event.resource != query.resource.name:
            continue
        before = event.old is not None and query.wanted(event.old.item)
        after = event.new is not None and query.wanted(event.new.item)
        if after and event.new is not None:
            yield {"type": "MODIFIED" if before else "ADDED", "object": event.new.item}
        elif before and event.old is not None:
            gone = copy.deepcopy(event.old.item)
            gone["metadata"]["resourceVersion"] = str(event.revision)
            yield {"type": "DELETED", "object": gone}
