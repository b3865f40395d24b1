"""What is a state store?

The contract between kopsfs and one kind of store: a flat map from keys to bytes, where each state
of an object has an opaque *version* and every write says which version it *expects* to replace.
There are two ways to fulfil it. A `Driver` blocks and is run in threads. An `HttpDriver` prepares
requests and parses answers, both pure functions, and is run by the engine in `http.py`.
`Store` (store.py) makes both look the same and owns what is common: the mounted prefix, retries,
limits, the circuit breaker, conditions a store has not proven, counters.

There is no copy, no rename, no multipart and no `**kwargs`: nothing above needs them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Literal, NewType, Protocol, runtime_checkable

Key = NewType("Key", str)
"""The name of an object, `/`-separated by habit only; never starts at a root, any Unicode text."""

Prefix = NewType("Prefix", str)
"""The name of a group of keys: empty, or ending in `/`."""
NO_PREFIX: Final = Prefix("")

Version = NewType("Version", str)
"""Opaque name of one state of one object (an ETag, a generation). Compared for equality only."""


class Expectation(enum.Enum):
    """What a write may expect besides a version."""

    ABSENT = "absent"
    """The key must not exist."""
    ANY = "any"
    """Whatever is there is replaced."""


ABSENT: Final = Expectation.ABSENT
ANY: Final = Expectation.ANY

Expected = Version | Expectation
"""What a write demands of the key before it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one state of an object, without its bytes."""

    key: Key
    version: Version
    size: int
    """In bytes."""
    mtime_ns: int
    """The store's last-modified time, Unix time in ns; most stores know whole seconds only."""
    md5: str | None = None
    """Hex digest of the bytes where the store gives one that can be trusted; else None."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a listing, in the order of the keys' UTF-8 bytes."""

    objects: Sequence[ObjectInfo]
    prefixes: Sequence[Prefix]
    """With a delimiter: the groups below the listed prefix, each ending in `/`."""
    token: str | None
    """Where the listing continues; None on the last page."""
    doubtful: frozenset[Key] = frozenset()
    """Keys of `objects` whose state the listing may have wrong (Swift); `Store` asks each by HEAD."""


Guarantee = Literal["atomic", "compared", "check-then-put", "unproven"]
"""How well a store keeps a condition of a write.

`atomic`: it promises so. `compared`: it has been seen to refuse, so it compares; atomicity is hoped
for. `check-then-put`: it ignores or rejects the condition, so `Store` asks first, and a window stays
open. `unproven`: not known yet; `conditions.py` finds out with real writes.
"""


Form = Literal["quoted", "unquoted"]
"""How a version is written in `If-Match`: quoted as RFC 9110 has it, or bare as Ceph 16 wants it (measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do, as data; `kopsfs status` prints it."""

    create_only: Guarantee
    replace_if: Guarantee
    delete_if: Guarantee
    forbids_most: bool = False
    """Where `create_only` is check-then-put: it understands ABSENT and refuses by it, but may let several pass at once."""
    change_feed: Literal["poll", "inotify", "watch", "in process"] = "poll"
    object_size_max: int = 5 << 30
    key_bytes_max: int = 1024
    list_delimiter: bool = True
    """Listings can be cut at `/`."""
    list_start_after: bool = True
    """Listings can start behind a given key."""
    write_interval_s: float = 0.0
    """The store accepts about one write per key in this time (gs: 1 s)."""
    concurrency_max: int = 128
    """Requests in flight."""
    price_per_1000: dict[str, float] = field(default_factory=dict)
    """US dollars per 1000 requests by verb (`get`, `head`, `put`, `delete`, `list`), for `status`."""


class Driver(Protocol):
    """One open connection to one bucket, container, namespace or directory.

    Methods block, may be called from several threads at once, take whole keys (the mounted prefix
    included) and raise `StoreError` and its subclasses only. A method that raised `TransientError`
    may or may not have acted. Retries of the SDK are off. Times are bounded by the driver's socket
    timeouts; who waits is bounded by `Store`.
    """

    capabilities: Capabilities

    def head(self, key: Key, /) -> ObjectInfo:
        """Say what is there. Raises NotFoundError. Cost: 1 request."""
        ...

    def get(self, key: Key, into: BinaryIO, /) -> ObjectInfo:
        """Write the object's bytes to `into` (seekable, at 0, truncated by the driver when it starts over).

        The ObjectInfo is of exactly the bytes delivered. Raises NotFoundError. Cost: 1 request.
        """
        ...

    def put(self, key: Key, data: BinaryIO, size: int, /, *, expected: Expected) -> ObjectInfo:
        """Store `size` bytes read from `data` under `key`. Raises ConflictError. Cost: 1 request."""
        ...

    def delete(self, key: Key, /, *, expected: Expected) -> None:
        """Remove the object; a key that is not there is no error with ANY, a conflict with a version. Cost: 1."""
        ...

    def list_page(self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None) -> Page:
        """Give one page of the keys below `prefix`; with `delimiter` only the direct ones and groups. Cost: 1."""
        ...

    def describe(self) -> dict[str, object]:
        """For `status`: endpoint, region, bucket, whatever a person wants to know; never a credential."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True)
class Tls:
    """What a store's own variables say of certificates; an `HttpDriver` may have it as `tls`."""

    verify: bool = True
    ca_file: str = ""
    """A bundle of certificates, unless `--ca-file` names another."""


Method = Literal["GET", "HEAD", "PUT", "DELETE", "POST"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, ready to be sent: signed, its path percent-encoded byte for byte."""

    method: Method
    url: str
    headers: Sequence[str] = ()
    """Whole lines, `Name: value`; the engine adds none that change the meaning."""
    body: bytes | BinaryIO | None = None
    body_size: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whole. Headers are lower-case; a repeated one keeps its last value."""

    status: int
    headers: dict[str, str]
    body: bytes


@runtime_checkable
class HttpDriver(Protocol):
    """A store that is spoken to over HTTP on the hot path; run by the engine in `http.py`.

    `prepare_*` sign with the credentials of this moment and never touch the network; `parse_*` turn
    an answer into a value or raise `StoreError`. Both are pure but for the clock and are cheap: a
    small GET costs 50-85 us of client CPU, all included. What is rare (region, bucket encryption,
    credential refresh) is done in `warm_up` and `refresh_credentials`, which block and run in a thread,
    one at a time.

    A driver may also have `tls`, and `named_by`: what named the store's address, for the message when it cannot be reached.
    """

    capabilities: Capabilities
    signing: object
    """What requests are signed with at this moment: another object once that has changed. See `renewal.py`."""

    def warm_up(self, *, writes: bool = True) -> None:
        """Find out what the first request needs: credentials, region; with `writes` also default encryption.

        Blocks, perhaps for seconds. Reading needs `writes=False` only; a PUT needs the other once before it.
        """
        ...

    def refresh_due(self) -> bool:
        """Do credentials end soon (`renewal.renew_at`)? Asked before every request; a comparison of two floats.

        An answer that calls them ended is a RefusedError; what follows from it is not the driver's business.
        """
        ...

    def refresh_credentials(self, *, force: bool = False) -> None:
        """Renew credentials that end soon (or all, with `force`). May block; cheap when nothing is due.

        What fails leaves the old ones in use. Raises DeniedError, TransientError, ConfigError.
        """
        ...

    def prepare_head(self, key: Key, /) -> Request: ...

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo: ...

    def prepare_get(self, key: Key, /) -> Request: ...

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo: ...

    def prepare_put(
        self, key: Key, body: bytes | BinaryIO, size: int, /, *, expected: Expected, form: Form = "quoted"
    ) -> Request:
        """`expected` becomes a condition always (ANY: none); whether the store honours it is `Store`'s worry.

        A version need not be one this store made: `Store` sends a wrong one on purpose while it learns.
        """
        ...

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        """Read the answer to a PUT.

        412: ConflictError; 409 of a condition: TransientError, ask again; 404 NoSuchKey: NotFoundError;
        501, and a 400 that names the condition: UnsupportedError; 403: DeniedError.
        """
        ...

    def versioned(self, answer: Answer, /) -> bool | None:
        """Whether this answer to a PUT comes from a bucket that keeps old versions (`x-amz-version-id`); None: cannot say."""
        ...

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request: ...

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        """Raises NotFoundError where the store tells that there was nothing; who deletes with ANY does not mind."""
        ...

    def prepare_list(
        self, prefix: Prefix, /, *, delimiter: bool, token: str | None, start_after: str | None
    ) -> Request: ...

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page: ...

    def describe(self) -> dict[str, object]:
        """For `status`: endpoint, region, bucket, whatever a person wants to know; never a credential.

        `endpoint` and `bucket` also name what has been learnt about conditions (`conditions.py`).
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Checking(Protocol):
    """An `HttpDriver` that compares the bytes of a large object with what its store says of them."""

    def new_digest(self) -> Any:
        """What takes in the bytes while they arrive, as hashlib's digests do."""
        ...

    def check_digest(self, key: Key, answer: Answer, digest: Any, /) -> None:
        """Look at it in the end. Raises CorruptError, or TransientError to have them sent again."""
        ...
