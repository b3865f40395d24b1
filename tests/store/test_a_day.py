"""Does a mount live through a day: tokens that end, an issuer that is away, a clock that is wrong?

Method: 24 hours on a clock that jumps, a request every minute. The whole driver is under test, and `Store` above it; what
stands for the store looks at the token and the date of each request and at nothing else, and what stands for the issuer
(STS, a metadata service, Keystone) hands out tokens that the store then knows. Both count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kopsfs.errors import DeniedError, TransientError
from kopsfs.store import azure_credentials, gcs_credentials, oss_credentials, s3_credentials
from kopsfs.store.driver import Answer, HttpDriver, Key, Request
from kopsfs.store.oss import OssDriver
from kopsfs.store.renewal import PAUSE_MAX_S
from kopsfs.store.store import Store, over
from kopsfs.store.swift import SwiftDriver
from kopsfs.store.swift_credentials import Token
from kopsfs.store.url import Settings, open_driver, parse
from tests.store.simulated import SimulatedEngine

K = Key("k")
START = 1_800_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SKEW_MAX_S = 900.0
"""A signature that is dated otherwise is refused, by AWS and by OSS."""


@dataclass
class World:
    """The true time, who hands out tokens, and the store that takes them."""

    life_s: float = HOUR
    renewed_s: float = DAY
    """New ones are handed out in the last so many seconds of the old ones, and before those the old ones."""
    wrong_s: float = 0.0
    """How far the machine's clock is ahead."""
    clock: trio.testing.MockClock = field(default_factory=lambda: trio.testing.MockClock(autojump_threshold=0))
    away: tuple[float, float] = (0.0, 0.0)
    """The issuer does not answer from, to."""
    asked: list[float] = field(default_factory=list)
    tokens: dict[str, float] = field(default_factory=dict)
    """Token → its end."""
    served: int = 0
    refused: int = 0

    def now(self) -> float:
        return START + self.clock.current_time()

    def machine(self) -> float:
        """The time as the machine has it."""
        return self.now() + self.wrong_s

    def issue(self) -> tuple[str, float]:
        """Hand out a token. Raises TransientError while the issuer is away."""
        now = self.now()
        self.asked.append(now)
        if self.away[0] <= now < self.away[1]:
            raise TransientError("open", detail="the issuer is away")
        name, ends = next(reversed(self.tokens.items()), ("", 0.0))
        if ends - now <= min(self.renewed_s, self.life_s / 2):
            name, ends = f"token-{len(self.tokens)}", float(round(now + self.life_s))
            self.tokens[name] = ends
        return name, ends

    def answer(self, request: Request) -> Answer:
        """What the store says. One refusal fits all: each driver looks at its own part of it."""
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in request.headers)}
        date = {"date": formatdate(self.now(), usegmt=True)}
        moment = headers.get("x-amz-date") or headers.get("x-oss-date")
        if moment and abs(_stamp(moment) - self.now()) > SKEW_MAX_S:
            return Answer(403, date, b"<Error><Code>RequestTimeTooSkewed</Code></Error>")
        names = ("x-amz-security-token", "x-oss-security-token", "x-auth-token", "authorization")
        token = next(headers[name] for name in names if name in headers).removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) <= self.now():
            self.refused += 1
            return self.refusal(request)
        self.served += 1
        if "/storage/v1/b/state/o/k?projection" in request.url:
            return Answer(200, date, b'{"name": "k", "generation": "1", "size": "3"}')
        told = {"etag": '"e"', "x-goog-generation": "1", "x-ms-version": "v", "content-length": "3"}
        return Answer(200, {**told, **date}, b"one")

    def refusal(self, request: Request) -> Answer:
        if "amazonaws" in request.url:
            return Answer(400, {}, b"<Error><Code>ExpiredToken</Code></Error>")
        if "aliyuncs" in request.url:
            return Answer(403, {}, b"<Error><Code>SecurityTokenExpired</Code></Error>")
        return Answer(401, {}, b"")


def _stamp(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y%m%dT%H%M%SZ")) - time.timezone


# -- who hands out tokens, to whom -------------------------------------------------------------------


Opened = Callable[[World, Path, pytest.MonkeyPatch], HttpDriver]


def _open(world: World, url: str, environ: Mapping[str, str]) -> HttpDriver:
    driver = open_driver(parse(url, environ), Settings(environ=environ, clock=world.machine))
    assert isinstance(driver, HttpDriver)
    return driver


def s3(origin: str, **environ: str) -> Opened:
    """botocore's chain; that it is followed in all these ways is `test_s3_credentials.py`'s."""

    def opened(world: World, home: Path, patch: pytest.MonkeyPatch) -> HttpDriver:
        def ask(module: str, **_options: object) -> dict[str, object]:
            try:
                name, ends = world.issue()
            except TransientError as error:
                if origin != "iam-role":
                    raise
                raise DeniedError("open", detail="botocore takes a silent IMDS for none") from error
            return {"access_key": "A", "secret_key": "s", "token": name, "expires": ends, "origin": origin}

        patch.setattr(s3_credentials, "ask", ask)
        return _open(world, "s3://state", {"AWS_REGION": "r", "HOME": str(home), **environ})

    return opened


def azure(world: World, home: Path, patch: pytest.MonkeyPatch) -> HttpDriver:
    def ask(module: str, *_words: str, **_options: object) -> dict[str, object]:
        name, ends = world.issue()
        return {"token": name, "expires": ends}

    patch.setattr(azure_credentials, "ask", ask)
    return _open(world, "azureblob://account/state", {"HOME": str(home)})


def gs_machine(world: World, home: Path, patch: pytest.MonkeyPatch) -> HttpDriver:
    def fetch(request: Request, *_options: object, **_more: object) -> Answer:
        if request.url.endswith("/email"):
            return Answer(200, {}, b"a@p.iam.gserviceaccount.com")
        return _granted(world)

    patch.setattr(gcs_credentials, "fetch", fetch)
    return _open(world, "gs://state", {"HOME": str(home), "GCE_METADATA_HOST": "metadata"})


def gs_file(world: World, home: Path, patch: pytest.MonkeyPatch) -> HttpDriver:
    row = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (home / "file.json").write_text(json.dumps(row))
    patch.setattr(gcs_credentials, "fetch", lambda *_words, **_options: _granted(world))
    return _open(world, "gs://state", {"GOOGLE_APPLICATION_CREDENTIALS": str(home / "file.json")})


def _granted(world: World) -> Answer:
    name, ends = world.issue()
    body = json.dumps({"access_token": name, "expires_in": ends - world.now()}).encode()
    return Answer(200, {"metadata-flavor": "Google", "date": formatdate(world.now(), usegmt=True)}, body)


def swift(world: World, home: Path, patch: pytest.MonkeyPatch) -> HttpDriver:
    def log_in(*_words: object, **_options: object) -> Token:
        name, ends = world.issue()
        return Token(name, "https://swift.example.com/v1/a", ends)

    environ = {"OS_AUTH_URL": "https://k/v3", "OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_DOMAIN_NAME": "d"}
    settings = Settings(environ={**environ, "OS_REGION_NAME": "r"}, clock=world.machine)
    return SwiftDriver(parse("swift://state"), settings, log_in=log_in)


def oss(world: World, home: Path, patch: pytest.MonkeyPatch) -> HttpDriver:
    def fetch(request: Request, *_options: object, **_more: object) -> Answer:
        if request.method == "PUT":
            return Answer(200, {}, b"session")
        if request.url.endswith("security-credentials/"):
            return Answer(200, {}, b"role")
        name, ends = world.issue()
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
        row = {"AccessKeyId": "A", "AccessKeySecret": "s", "SecurityToken": name, "Expiration": end}
        return Answer(200, {}, json.dumps(row).encode())

    patch.setattr(oss_credentials, "fetch", fetch)
    return OssDriver(parse("oss://state"), Settings(environ={"OSS_REGION": "cn-hangzhou"}, clock=world.machine))


@dataclass(frozen=True)
class Source:
    opened: Opened
    renewals: tuple[int, int]
    """So many in a day, from, to."""
    life_s: float = HOUR
    renewed_s: float = DAY
    dated: bool = False
    """Requests are, so that the store's refusals correct the clock."""

    @property
    def spare_s(self) -> float:
        """How long before their end new ones are to be had at the least."""
        return min(self.renewed_s, 15 * MINUTE)


SOURCES = {
    "s3 assumed role": Source(s3("assume-role", AWS_PROFILE="role"), (31, 33), dated=True),
    "s3 web identity": Source(
        s3("assume-role-with-web-identity", AWS_WEB_IDENTITY_TOKEN_FILE="/token"), (31, 33), dated=True
    ),
    "s3 IMDS": Source(s3("iam-role"), (4, 16), 6 * HOUR, 5 * MINUTE, dated=True),
    "gs metadata": Source(gs_machine, (25, 27), HOUR, 4 * MINUTE),
    "gs file": Source(gs_file, (31, 33)),
    "azureblob": Source(azure, (31, 33)),
    "azureblob managed identity": Source(azure, (1, 4), DAY),
    "swift": Source(swift, (31, 33)),
    "oss": Source(oss, (4, 8), 6 * HOUR, 30 * MINUTE, dated=True),
}
"""AWS and GCE hand out new tokens in the last minutes of the old ones only, so that no outage of theirs can be long."""


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Source:
    return SOURCES[request.param]


Body = Callable[[Store, World], Awaitable[None]]


@pytest.fixture
def live(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Body], World]]:
    """Run `body(store, world)` on a mount of this source."""
    world = World(source.life_s, source.renewed_s)

    async def main(body: Body) -> None:
        driver = source.opened(world, tmp_path, monkeypatch)
        engine: Any = SimulatedEngine(world)  # type: ignore[arg-type]
        store = over(driver, url="test://", in_place=True, engine=lambda: engine, random_unit=lambda: 1.0)
        try:
            await body(store, world)
        finally:
            await store.aclose()

    def run(body: Body) -> World:
        trio.run(main, body, clock=world.clock)
        return world

    yield run


async def served_until(store: Store, world: World, end: float) -> None:
    """Ask once a minute; each is answered, well within a system call's budget."""
    while world.now() < START + end:
        with trio.fail_after(20):
            assert (await store.get(K))[1] == b"one"
        await trio.sleep(MINUTE)


# -- the days ----------------------------------------------------------------------------------------


def test_a_quiet_day(live: Callable[[Body], World], source: Source) -> None:
    world = live(lambda store, world: served_until(store, world, DAY))
    assert world.served == DAY / MINUTE
    assert world.refused == 0
    assert source.renewals[0] <= len(world.asked) <= source.renewals[1]


def test_ten_minutes_without_an_issuer(live: Callable[[Body], World], source: Source) -> None:
    """At the worst time: when tokens are to be renewed."""

    async def body(store: Store, world: World) -> None:
        await served_until(store, world, 2 * HOUR)
        begin = max(world.tokens.values()) - source.spare_s - MINUTE
        world.away = (begin, begin + min(10 * MINUTE, source.spare_s))
        await trio.sleep(max(0.0, begin - world.now() - MINUTE))
        await served_until(store, world, world.away[1] - START + HOUR)

    world = live(body)
    assert world.refused == 0
    vain = [moment for moment in world.asked if world.away[0] <= moment < world.away[1]]
    # With a request a minute nobody asks oftener than that; that it is not seldomer shows that it is tried again.
    assert 2 <= len(vain) <= (world.away[1] - world.away[0]) / MINUTE + 1


def test_an_issuer_that_is_away_until_tokens_have_ended(
    live: Callable[[Body], World], source: Source, expect_log: Callable[[str], None]
) -> None:
    expect_log("store is down")

    async def body(store: Store, world: World) -> None:
        await served_until(store, world, HOUR)
        world.away = (world.now(), max(world.tokens.values()) + 2 * HOUR)
        failed = 0
        while world.now() < world.away[1]:
            try:
                with trio.fail_after(20):
                    await store.get(K)
            except (TransientError, trio.TooSlowError):
                failed += 1
            await trio.sleep(MINUTE)
        assert 2 * HOUR / MINUTE - 25 <= failed <= 2 * HOUR / MINUTE, "what is still good is used to its end"
        await trio.sleep(MINUTE)
        await served_until(store, world, world.now() - START + 3 * HOUR)

    world = live(body)
    vain = sum(world.away[0] <= moment < world.away[1] for moment in world.asked)
    assert vain <= (2 * HOUR + 15 * MINUTE) / PAUSE_MAX_S + source.life_s / HOUR + 20
    assert world.refused <= 2


@pytest.mark.parametrize("wrong_s", [-2 * HOUR, 2 * HOUR, 10 * HOUR])
def test_a_clock_that_is_set_wrong(live: Callable[[Body], World], source: Source, wrong_s: float) -> None:
    """Signatures and the ends of tokens are by the server's clock."""

    async def body(store: Store, world: World) -> None:
        await served_until(store, world, HOUR)
        world.wrong_s = wrong_s
        await served_until(store, world, 7 * HOUR)

    world = live(body)
    assert world.served == 7 * HOUR / MINUTE
    if source.dated:
        assert world.refused <= 1, "what was held when the clock was set"
        assert len(world.asked) <= 7 * HOUR / (45 * MINUTE) + 2
    else:
        assert world.refused <= 7, "at most one an hour, and it costs no answer"
        assert len(world.asked) <= 7 * 4, "nobody knows when they end: every quarter of an hour is often enough"


def test_a_machine_that_slept(live: Callable[[Body], World], source: Source) -> None:
    """Nobody asks for half a day; the next request is answered at once, with new credentials."""

    async def body(store: Store, world: World) -> None:
        await served_until(store, world, HOUR)
        await trio.sleep(DAY)
        await served_until(store, world, world.now() - START + HOUR)

    world = live(body)
    assert world.refused <= 1
