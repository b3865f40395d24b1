"""Can a person read what status says? Whole texts, compared line by line."""

from __future__ import annotations

from typing import Any

import pytest

from kopsfs.cli.conflicts import difference
from kopsfs.cli.progress import age, count, size
from kopsfs.cli.status import describe, health_status

NOW = 1_800_000_000.0

STATUS: dict[str, Any] = {
    "store": "s3://clusters.example.com",
    "mountpoint": "/mnt/state",
    "pid": 4711,
    "version": "0.1.0",
    "mode": "rw",
    "health": "ok",
    "fresh_as_of": NOW - 0.4,
    "stale_since": None,
    "last_error": "",
    "pending": [],
    "conflicts": 0,
    "held": 0,
    "local_only": [],
    "unreachable_keys": [],
    "requests": {"get": 840, "list": 12, "put": 3, "head": 0},
    "cost_usd": 0.00042,
    "cache": {"objects": 840, "bytes": 16 << 20},
    "memory_bytes": 3 << 20,
    "prefetch": {"mode": "auto", "objects": 700, "bytes": 14 << 20},
    "capabilities": {"create_only": "atomic", "replace_if": "atomic", "delete_if": "check-then-put"},
    "files": 840,
    "directories": 1,
}


def text(rows_max: int = 10, **changes: Any) -> list[str]:
    return list(describe(STATUS | changes, now=NOW, rows_max=rows_max))


def test_all_is_well() -> None:
    assert text() == [
        "s3://clusters.example.com on /mnt/state",
        "  mount        read-write, pid 4711, kopsfs 0.1.0",
        "  store        ok, as of 0.4 s ago",
        "  to upload    nothing; the store has everything",
        "  tree         840 files in 1 directory",
        "  cache        840 objects, 16.0 MiB on disk",
        "  memory       3.0 MiB",
        "  prefetch     700 objects, 14.0 MiB before they were asked for",
        "  requests     855 since the mount (get 840, list 12, put 3); about $0.0004",
        "  conditions   create atomic, replace atomic, delete check-then-put",
    ]


def test_it_is_said_where_nothing_is_fetched_ahead() -> None:
    assert "  prefetch     off" in text(prefetch={"mode": "none", "objects": 0, "bytes": 0})
    assert not any("prefetch" in line for line in text(prefetch={"mode": "auto", "objects": 0, "bytes": 0}))


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ("poll", "found by listing the store again"),
        ("inotify", "told by inotify, and found by listing"),
        ("watch", "told by the store, and found by listing"),
        ("in process", "told at once"),
    ],
)
def test_a_store_says_where_it_is_how_changes_are_heard_of_and_what_requests_cost(feed: str, said: str) -> None:
    capabilities = STATUS["capabilities"] | {"change_feed": feed, "price_per_1000": {"get": 0.0004, "put": 0.005}}
    about = {"endpoint": "https://s3.example.com", "region": "eu-central-1", "credentials": "instance role"}
    lines = text(capabilities=capabilities, describe=about)
    assert lines[2] == "  at           https://s3.example.com, region eu-central-1, credentials instance role"
    assert lines[-2:] == [f"  changes      {said}", "  prices       get $0.0004, put $0.005 per 1,000"]
    assert not any("prices" in line for line in text(capabilities={"change_feed": feed}, describe={"kind": "file"}))


def test_the_store_is_down_and_much_is_waiting() -> None:
    pending = [
        {"path": "c1/config", "op": "put", "since": NOW - 75, "state": "uploading", "reason": ""},
        {"path": "c1/instancegroup/nodes", "op": "delete", "since": NOW - 3, "state": "held", "reason": "empty file"},
        {"path": "c1/x", "op": "put", "since": NOW - 3, "state": "waiting", "reason": ""},
    ]
    lines = text(
        rows_max=2,
        health="down",
        stale_since=NOW - 130,
        last_error="503 SlowDown",
        pending=pending,
        pending_total=30,
        held=1,
        conflicts=2,
    )
    assert lines[2:10] == [
        "  store        DOWN for 2 min; the last known state is shown, saves are kept and sent later",
        "               last error: 503 SlowDown",
        "  to upload    30 changes, the oldest 1 min old",
        "                 put    c1/config               uploading",
        "                 delete c1/instancegroup/nodes  held: empty file",
        "                 and 28 more",
        "  held         1 write waiting for a decision; kopsfs conflicts /mnt/state",
        "  conflicts    2 edits lost a race; kopsfs conflicts /mnt/state",
    ]


def test_what_is_only_here_and_what_cannot_be_shown() -> None:
    lines = text(mode="ro", read_only_reason="no permission to write", local_only=["c1/.a"], unreachable_keys=["a//b"])
    assert lines[1] == "  mount        read-only (no permission to write), pid 4711, kopsfs 0.1.0"
    assert lines[3:7] == [
        "  local only   1 file not in the store, nor going there",
        "                 c1/.a",
        "  unreachable  1 object no file system can name; kept as they are",
        "                 a//b",
    ]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"health": "stale"}, 0),
        ({"health": "down"}, 69),
        ({"conflicts": 1}, 1),
        ({"held": 1, "health": "down"}, 1),
        ({"health": "unhealthy", "conflicts": 1}, 70),
    ],
)
def test_the_exit_status_is_the_worst_news(changes: dict[str, Any], status: int) -> None:
    assert health_status(STATUS | changes) == status


def test_amounts_read_well() -> None:
    assert [count(n, "entry") for n in (0, 1, 2, 1204)] == ["0 entries", "1 entry", "2 entries", "1,204 entries"]
    assert [size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 TiB"]
    assert [age(s) for s in (-1, 0.44, 12.3, 61, 3600, 7500, 4e5)] == [
        "0.0 s", "0.4 s", "12 s", "1 min", "1 h", "2 h 5 min", "4 days",
    ]  # fmt: skip


def b64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def test_a_conflict_is_shown_as_a_diff() -> None:
    both = {"path": "c/config", "mine_b64": b64(b"a\nmine"), "theirs_b64": b64(b"a\ntheirs\n")}
    assert difference(both) == (
        "--- c/config (store)\n+++ c/config (yours)\n@@ -1,2 +1,2 @@\n a\n-theirs\n+mine\n\\ No newline at end of file\n"
    )
    assert difference(both | {"theirs_b64": b64(b"a\nmine")}) == "c/config: both sides are the same 6 bytes\n"
    assert difference(both | {"mine_b64": b64(b"\xff\x00")}) == (
        "c/config: not text; 9 bytes in the store, 2 bytes yours\n"
    )
    assert difference(both | {"theirs_b64": None}).startswith("c/config: not in the store any more, or")
