"""An S3-like server as a table of habits, and the engine and driver to ask it with.

`Habits` says what the server does with each condition; `Server` keeps objects and a log of what it was asked
and answered; `SimulatedEngine` answers in the trio thread and loses replies when told to. No sockets, no
signatures: what is under test is what `Store` sends and what it concludes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

import trio

from kopsfs.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    RefusedError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from kopsfs.store.driver import (
    ABSENT,
    ANY,
    Answer,
    Capabilities,
    Expected,
    Form,
    Key,
    ObjectInfo,
    Page,
    Prefix,
    Request,
    Version,
)
from kopsfs.store.lanes import Lane

Habit = Literal["keeps", "ignores", "refuses", "501", "400", "403", "409 once"]


@dataclass
class Habits:
    """What a server does with a condition. `refuses`: always 412."""

    create_only: Habit = "keeps"
    quoted: Habit = "keeps"
    unquoted: Habit = "keeps"
    delete: Habit | None = None
    """None: as `quoted` and `unquoted` say."""
    missing: int = 412
    """The status of If-Match on a key that is not there: moto says 404."""
    versioned: bool | None = None


AWS = Habits()
MOTO = Habits(missing=404)
CEPH = Habits(quoted="refuses", delete="ignores")
CEPH_VERSIONED = Habits(create_only="ignores", quoted="refuses", unquoted="refuses", delete="ignores", versioned=True)
S3RVER = Habits(create_only="ignores", quoted="ignores", unquoted="ignores")
OLD = Habits(create_only="501", quoted="501", unquoted="501")
STRICT = Habits(create_only="400", quoted="400", unquoted="400")


@dataclass
class Server:
    habits: Habits
    objects: dict[str, bytes] = field(default_factory=dict)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    """(verb, condition as sent, status)."""
    before: Callable[[str, str], None] | None = None
    """Called before each request: another client's move."""
    stored: Callable[[str], None] | None = None
    """Called with the key when a PUT has acted and before it is answered."""
    _said_409: bool = False

    def answer(self, request: Request) -> Answer:
        if self.before is not None:
            self.before(request.method, request.url)
        condition = next((line for line in request.headers if line.startswith("If-")), "")
        answer = self._answer(request, condition)
        self.log.append((request.method, condition, answer.status))
        return answer

    def _answer(self, request: Request, condition: str) -> Answer:
        key, method = request.url, request.method
        if method in {"PUT", "DELETE"} and condition and (refusal := self._judge(method, key, condition)):
            return Answer(refusal, {}, b"")
        if method == "PUT":
            body = request.body if isinstance(request.body, bytes) else request.body.read(request.body_size)  # type: ignore[union-attr]
            self.objects[key] = body
            if self.stored is not None:
                self.stored(key)
            versioned = {"x-amz-version-id": "v"} if self.habits.versioned else {}
            return Answer(200, {"etag": _etag(body), **versioned}, b"")
        if method == "DELETE":
            self.objects.pop(key, None)
            return Answer(204, {}, b"")
        data = self.objects.get(key)
        if data is None:
            return Answer(404, {}, b"")
        return Answer(200, {"etag": _etag(data), "content-length": str(len(data))}, data if method == "GET" else b"")

    def _judge(self, method: str, key: str, condition: str) -> int:
        name, _, tag = condition.partition(": ")
        if name == "If-None-Match":
            habit, holds, status = self.habits.create_only, key not in self.objects, 412
        else:
            form = "quoted" if tag.startswith('"') else "unquoted"
            habit = self.habits.delete if method == "DELETE" and self.habits.delete else getattr(self.habits, form)
            holds = key in self.objects and _etag(self.objects[key]) == tag.strip('"')
            status = 412 if key in self.objects else self.habits.missing
        match habit:
            case "keeps":
                return 0 if holds else status
            case "ignores":
                return 0
            case "refuses":
                return 412
            case "409 once":
                said, self._said_409 = self._said_409, True
                return (0 if holds else status) if said else 409
            case _:
                return int(habit)


def _etag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class SimulatedEngine:
    """Answers from a `Server`; loses the replies whose numbers (from 1, of writes) are in `lost` or `unsent`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lost: set[int] = set()
        self.unsent: set[int] = set()
        self.writes = 0
        self.lanes: list[tuple[str, Lane]] = []
        """What was sent in which lane."""
        self._cancelled: set[int] = set()
        self._tickets = 0

    def submit(
        self,
        request: Request,
        *,
        done: Callable[[Answer | StoreError], None],
        lane: Lane = Lane.AHEAD,
        into: BinaryIO | None = None,
        progress: Callable[[int], None] | None = None,
        started: Callable[[Answer], None] | None = None,
    ) -> int:
        self._tickets += 1
        ticket = self._tickets
        self.lanes.append((request.method, lane))
        result: Answer | StoreError
        if request.method in {"PUT", "DELETE"}:
            self.writes += 1
        write = self.writes if request.method in {"PUT", "DELETE"} else 0
        if write in self.unsent and write:
            result = TransientError(request.method.lower(), detail="connection refused")
        else:
            result = self.server.answer(request)
            if write and write in self.lost:
                result = TransientError(request.method.lower(), detail="connection reset")
        if isinstance(result, Answer) and into is not None and result.status == 200:
            into.seek(0)
            into.truncate()
            into.write(result.body)
            result = Answer(result.status, result.headers, b"")

        def deliver() -> None:
            if ticket not in self._cancelled:
                done(result)

        trio.lowlevel.current_trio_token().run_sync_soon(deliver)
        return ticket

    def cancel(self, ticket: int, *, unsent_only: bool = False) -> bool:
        if unsent_only:
            return False
        self._cancelled.add(ticket)
        return True

    def close(self) -> None:
        pass


UNPROVEN = Capabilities(create_only="unproven", replace_if="unproven", delete_if="unproven")


class SimulatedDriver:
    """Prepares and parses for a `Server`; credentials that expire, when `expired` says so."""

    def __init__(self, capabilities: Capabilities = UNPROVEN, *, md5: bool = True) -> None:
        self.capabilities = capabilities
        self.md5 = md5
        self.warmed = 0
        self.refreshed: list[bool] = []
        self.warm_up_errors: list[Exception] = []
        self.signing = object()
        self.expired = False
        self.due = False
        self.admits_expiry = False

    def refresh_due(self) -> bool:
        return self.due

    def warm_up(self, *, writes: bool = True) -> None:
        self.warmed += 1
        if self.warm_up_errors:
            raise self.warm_up_errors.pop(0)

    def refresh_credentials(self, *, force: bool = False) -> None:
        self.refreshed.append(force)
        self.due = self.expired = False
        self.signing = object()

    def describe(self) -> dict[str, object]:
        return {"endpoint": "http://s3.test", "bucket": "state"}

    def close(self) -> None:
        pass

    def versioned(self, answer: Answer, /) -> bool | None:
        return "x-amz-version-id" in answer.headers

    def prepare_head(self, key: Key, /) -> Request:
        return Request("HEAD", key)

    def prepare_get(self, key: Key, /) -> Request:
        return Request("GET", key)

    def prepare_put(
        self, key: Key, body: bytes | BinaryIO, size: int, /, *, expected: Expected, form: Form = "quoted"
    ) -> Request:
        return Request("PUT", key, _headers(expected, form), body, size)

    def prepare_delete(self, key: Key, /, *, expected: Expected, form: Form = "quoted") -> Request:
        return Request("DELETE", key, _headers(expected, form))

    def prepare_list(self, prefix: Prefix, /, **_: object) -> Request:
        return Request("GET", prefix)

    def parse_head(self, key: Key, answer: Answer, /) -> ObjectInfo:
        self._check("head", key, answer)
        return self._info(key, int(answer.headers["content-length"]), answer)

    def parse_get(self, key: Key, answer: Answer, /) -> ObjectInfo:
        self._check("get", key, answer)
        return self._info(key, int(answer.headers["content-length"]), answer)

    def parse_put(self, key: Key, size: int, answer: Answer, /) -> ObjectInfo:
        self._check("put", key, answer)
        return self._info(key, size, answer)

    def parse_delete(self, key: Key, answer: Answer, /) -> None:
        self._check("delete", key, answer)

    def parse_list(self, prefix: Prefix, answer: Answer, /) -> Page:
        return Page([], [], None)

    def _info(self, key: Key, size: int, answer: Answer) -> ObjectInfo:
        etag = answer.headers["etag"]
        return ObjectInfo(key, Version(etag), size, 0, etag if self.md5 else None)

    def _check(self, op: str, key: Key, answer: Answer) -> None:
        if self.expired and self.admits_expiry:
            raise RefusedError(op, key, "ExpiredToken")
        if self.expired:
            raise DeniedError(op, key, "InvalidAccessKeyId")
        errors = {412: ConflictError, 404: NotFoundError, 501: UnsupportedError, 400: UnsupportedError}
        errors |= {403: DeniedError, 409: TransientError}
        if answer.status in errors:
            raise errors[answer.status](op, key, str(answer.status))


def _headers(expected: Expected, form: Form) -> tuple[str, ...]:
    if expected is ANY:
        return ()
    if expected is ABSENT:
        return ("If-None-Match: *",)
    return (f'If-Match: "{expected}"' if form == "quoted" else f"If-Match: {expected}",)
