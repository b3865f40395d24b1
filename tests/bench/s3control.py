"""How do tests look into the S3 server and make it misbehave?

JSON over HTTP at `/__control…`, on a port of its own, which still answers while the store is "down"
(the store's port answers it, too, but for `down`):

    GET    /__control                       counters, settings, faults
    POST   /__control   {"reset": true, "delay": 0.02, "faults": [{…}], "add_faults": [{…}], "clear_faults": true,
                         "down": true, "versioned": {"bucket": true}, "encryption": {"bucket": "AES256"},
                         "quirks": […], "buckets": [NAMES], "secrets": {"id": "secret"}, "verify_signature": true,
                         "drop_connections": true}
                                            all optional; answers what GET does, `reset` after reading
    GET    /__control/keys/BUCKET           {key: [etag, size, modified_s]}
    GET    /__control/writes/BUCKET[/KEY]   accepted PUTs and DELETEs in order, with their If-Match and the hash
    GET    /__control/log                   [unix time, verb, key or prefix, status] of every answer
    GET    /__control/object/BUCKET/KEY     its bytes
    PUT    /__control/object/BUCKET/KEY     write as another client (header X-Modified: unix seconds)
    DELETE /__control/object/BUCKET/KEY     delete as another client
    POST   /__control/load/BUCKET           many objects: (u32 key size, u32 data size, key, data)*
    POST   /__control/wipe/BUCKET           drop its objects and history

Nothing here is counted or delayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from tests.bench.s3http import Answer, Connection, Fault, Request
from tests.bench.s3objects import Bucket
from tests.bench.s3routes import S3

JSON_TYPE = b"Content-Type: application/json\r\n"
ANOTHER: dict[str, Any] = {"if_match": "", "if_none_match": "", "agent": "another client"}


class Door(Protocol):
    """The listening socket of the store's port."""

    @property
    def is_open(self) -> bool: ...

    def open(self) -> None:
        """Listen again."""
        ...

    def shut(self) -> None:
        """Stop listening, and drop every connection."""
        ...


class Control:
    """The control requests over one `S3`."""

    def __init__(self, s3: S3, door: Door) -> None:
        self.s3 = s3
        self.door = door

    def answer(self, request: Request) -> Answer:
        path = unquote_to_bytes(request.raw_path)
        what, _, rest = path.removeprefix(b"/__control").removeprefix(b"/").partition(b"/")
        name, _, key = rest.partition(b"/")
        try:
            handler = self.HANDLERS[request.method, what.decode()]
            return handler(self, request, name.decode(), key)
        except (KeyError, ValueError, TypeError) as error:
            return _json({"error": f"{type(error).__name__}: {error}"}, status=400)

    def bucket(self, name: str) -> Bucket:
        return self.s3.buckets.setdefault(name, Bucket(name))

    def state(self) -> dict[str, Any]:
        s3 = self.s3
        return {
            "requests": dict(s3.requests),
            "statuses": {str(status): count for status, count in s3.statuses.items()},
            "bytes_in": s3.bytes_in,
            "bytes_out": s3.bytes_out,
            "connections": len(s3.connections),
            "delay": s3.delay_s,
            "down": not self.door.is_open,
            "faults": [fault.as_json() for fault in s3.faults],
            "quirks": sorted(s3.quirks),
            "verify_signature": s3.verify_signature,
            "buckets": {name: len(bucket.objects) for name, bucket in s3.buckets.items()},
        }

    def get_state(self, request: Request, name: str, key: bytes) -> Answer:
        return _json(self.state())

    def change(self, request: Request, name: str, key: bytes) -> Answer:
        wanted = json.loads(bytes(request.body) or b"{}")
        before = self.state()
        for setting, value in wanted.items():
            self.SETTINGS[setting](self, value)
        after = self.state()
        if wanted.get("reset"):
            after |= {name: before[name] for name in ("requests", "statuses", "bytes_in", "bytes_out")}
        return _json(after)

    def reset(self, value: Any) -> None:
        if value:
            self.s3.reset_counters()

    def set_delay(self, value: Any) -> None:
        self.s3.delay_s = float(value)

    def set_faults(self, value: Any) -> None:
        self.s3.faults = [Fault(**fault) for fault in value]

    def add_faults(self, value: Any) -> None:
        self.s3.faults += [Fault(**fault) for fault in value]

    def clear_faults(self, value: Any) -> None:
        """Hanging connections are dropped: their requests would never be answered."""
        if value:
            self.s3.faults = []

    def drop_connections(self, value: Any) -> None:
        for connection in list(self.s3.connections):
            connection.abort()

    def set_down(self, value: Any) -> None:
        if value and self.door.is_open:
            self.door.shut()
        elif not value and not self.door.is_open:
            self.door.open()

    def set_versioned(self, value: Any) -> None:
        for name, on in value.items():
            self.bucket(name).versioned = bool(on)

    def set_encryption(self, value: Any) -> None:
        for name, algorithm in value.items():
            self.bucket(name).encryption = str(algorithm)

    def set_quirks(self, value: Any) -> None:
        self.s3.quirks = set(value)

    def make_buckets(self, value: Any) -> None:
        for name in value:
            self.bucket(name)

    def set_secrets(self, value: Any) -> None:
        self.s3.secrets = dict(value)

    def set_verify(self, value: Any) -> None:
        self.s3.verify_signature = bool(value)

    SETTINGS: dict[str, Callable[[Control, Any], None]] = {
        "reset": reset,
        "delay": set_delay,
        "faults": set_faults,
        "add_faults": add_faults,
        "clear_faults": clear_faults,
        "drop_connections": drop_connections,
        "down": set_down,
        "versioned": set_versioned,
        "encryption": set_encryption,
        "quirks": set_quirks,
        "buckets": make_buckets,
        "secrets": set_secrets,
        "verify_signature": set_verify,
    }

    def keys(self, request: Request, name: str, key: bytes) -> Answer:
        bucket = self.bucket(name)
        objects = ((k, bucket.objects[k]) for k in bucket.sorted_keys())
        return _json({_text(k): [found.etag, len(found.data), found.modified_s] for k, found in objects})

    def writes(self, request: Request, name: str, key: bytes) -> Answer:
        text = _text(key)
        return _json([row for row in self.bucket(name).writes if not key or row["key"] == text])

    def get_log(self, request: Request, name: str, key: bytes) -> Answer:
        return _json(list(self.s3.log))

    def get_object(self, request: Request, name: str, key: bytes) -> Answer:
        found = self.bucket(name).objects.get(key)
        if found is None:
            return _json({"error": "not there"}, status=404)
        return Answer(200, found.headers(), found.data)

    def put_object(self, request: Request, name: str, key: bytes) -> Answer:
        given = request.headers.get(b"x-modified")
        made = self.bucket(name).put(
            key, bytes(request.body), {}, modified_s=float(given) if given else None, **ANOTHER
        )
        return _json({"etag": made.etag, "modified_s": made.modified_s})

    def delete_object(self, request: Request, name: str, key: bytes) -> Answer:
        found = self.bucket(name).delete(key, **ANOTHER)
        return _json({"etag": found.etag if found else None})

    def load(self, request: Request, name: str, key: bytes) -> Answer:
        bucket, body, at, count = self.bucket(name), bytes(request.body), 0, 0
        while at < len(body):
            key_size = int.from_bytes(body[at : at + 4], "big")
            data_size = int.from_bytes(body[at + 4 : at + 8], "big")
            middle = at + 8 + key_size
            bucket.put(body[at + 8 : middle], body[middle : middle + data_size], {}, **ANOTHER)
            at = middle + data_size
            count += 1
        bucket.writes.clear()
        return _json({"loaded": count})

    def wipe(self, request: Request, name: str, key: bytes) -> Answer:
        self.s3.buckets[name] = Bucket(name)
        return _json({})

    HANDLERS: dict[tuple[str, str], Callable[[Control, Request, str, bytes], Answer]] = {
        ("GET", ""): get_state,
        ("POST", ""): change,
        ("GET", "keys"): keys,
        ("GET", "writes"): writes,
        ("GET", "log"): get_log,
        ("GET", "object"): get_object,
        ("PUT", "object"): put_object,
        ("DELETE", "object"): delete_object,
        ("POST", "load"): load,
        ("POST", "wipe"): wipe,
    }


class ControlPort:
    """What a connection of the control port sees as its handler."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.delay_s = 0.0
        self.faults: list[Fault] = []
        self.connections: set[Connection] = set()
        self.bytes_in = 0
        self.bytes_out = 0

    def classify(self, request: Request) -> None:
        request.verb = "control"

    def answer(self, request: Request) -> Answer:
        return self.control.answer(request)

    def error(self, request: Request, status: int, code: str) -> Answer:
        return _json({"error": code}, status=status)

    def empty_listing(self, request: Request) -> Answer:
        return _json({})


def _json(value: object, *, status: int = 200) -> Answer:
    return Answer(status, JSON_TYPE, json.dumps(value).encode())


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
