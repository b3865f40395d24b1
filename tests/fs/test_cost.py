"""How many requests does it take?

Budgets, by verb, counted at the driver: they are the same each time. A budget that is not met is a bug like any other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.conftest import ExpectLog
from tests.support.lives import Life, Machine, run

DIRECTORIES = [
    "addons",
    "instancegroup",
    "igconfig/node",
    "igconfig/control-plane",
    "pki/private/ca",
    "secrets",
    "manifests",
]


def cluster(name: str, files: int = 84) -> dict[str, bytes]:
    """Keys of one cluster, secrets among them."""
    keys = [f"{name}/config", f"{name}/cluster-completed.spec"]
    keys += [f"{name}/{DIRECTORIES[n % len(DIRECTORIES)]}/file-{n:03}" for n in range(files - len(keys))]
    return {key: f"content of {key}".encode() for key in keys}


def budget(
    machine: Machine,
    body: Callable[[Life], Awaitable[None]],
    prepare: Callable[[Life], Awaitable[None]] | None = None,
    **settings: object,
) -> Counter[str]:
    """What `body` and all that follows from it cost."""
    counted: Counter[str] = Counter()

    async def main() -> None:
        async with machine.life(**settings) as life:
            if prepare is not None:
                await prepare(life)
                await trio.sleep(0.5)
            before = len(machine.requests()) if prepare is not None else 0
            await body(life)
            await trio.sleep(0.3)
            counted.update(verb for verb, _ in machine.requests()[before:])

    run(main)
    return counted


@pytest.fixture
def ten(tmp_path: Path) -> Machine:
    """840 keys, one page."""
    machine = Machine(tmp_path)
    for number in range(10):
        for key, data in cluster(f"c{number}.example.com").items():
            machine.put(key, data)
    return machine


async def look(life: Life) -> None:
    await life.ls()


async def find(life: Life, path: str = "") -> int:
    """`find`: every name, every stat."""
    count = 0
    for name in await life.ls(path):
        full = f"{path}/{name}" if path else name
        await life.stat(full)
        count += 1
        if (await life.walk(full)).is_dir:
            count += await find(life, full)
    return count


def test_a_cold_find_of_840_keys_is_one_listing(ten: Machine) -> None:
    async def body(life: Life) -> None:
        assert await find(life) > 840

    assert budget(ten, body) == {"list": 1}


@pytest.mark.parametrize("prefetch", ["none", "auto", "all"])
def test_reading_everything_is_one_get_per_file(ten: Machine, prefetch: str) -> None:
    async def body(life: Life) -> None:
        assert len(await life.files()) == 840
        content = life.parts.content
        assert (content.ahead_objects > 0) == (content.ahead_bytes > 0) == (prefetch != "none")

    cost = budget(ten, body, prefetch=prefetch)
    assert cost["get"] == 840
    assert set(cost) == {"list", "get"}


def test_readers_of_one_file_share_a_request(ten: Machine) -> None:
    ten.delay = lambda _verb, _key: (0.01, 0.01)

    async def body(life: Life) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(life.read, "c0.example.com/config")

    assert budget(ten, body, prepare=look) == {"get": 1}


def test_what_was_read_is_not_read_again(ten: Machine) -> None:
    async def warm(life: Life) -> None:
        await life.files()

    async def body(life: Life) -> None:
        await life.files()

    assert budget(ten, body, prepare=warm)["get"] == 0


def test_a_second_mount_answers_from_the_cache(ten: Machine, expect_log: ExpectLog) -> None:
    expect_log("store is down")

    async def body(life: Life) -> None:
        await life.files()

    budget(ten, body)
    before = len(ten.requests())
    ten.driver.outage = True

    async def main() -> None:
        async with ten.life() as life:
            assert await find(life) > 840
            shown = await life.files_of([k for k in ten.objects() if "/pki/private/" not in k and "/secrets/" not in k])
            assert len(shown) > 500
            await trio.sleep(5)

    run(main)
    assert {verb for verb, _ in ten.requests()[before:]} <= {"list"}


def test_a_directory_nobody_looked_into_survives_a_restart_without_the_store(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for number in range(1200):
        machine.put(f"c1/backups/etcd/{number:04}", b"x")
    machine.put("c1/config", b"kind: Cluster")

    async def main(listing: list[str]) -> None:
        async with machine.life() as life:
            listing += await life.ls("c1")
            await trio.sleep(1)

    first: list[str] = []
    run(lambda: main(first))
    machine.driver.outage = True
    again: list[str] = []
    run(lambda: main(again))
    assert sorted(first) == sorted(again) == ["backups", "config"]


async def temp_and_rename(life: Life) -> None:
    await life.save("c0.example.com/.config.swp", b"swap")
    await life.save("c0.example.com/new", b"edited")
    await life.rename("c0.example.com/new", "c0.example.com/config")
    await life.unlink("c0.example.com/.config.swp")


async def backup_and_create(life: Life) -> None:
    await life.rename("c0.example.com/config", "c0.example.com/config~")
    await life.save("c0.example.com/config", b"edited")
    await life.unlink("c0.example.com/config~")


async def truncate_and_write(life: Life) -> None:
    handle = await life.open("c0.example.com/config", os.O_WRONLY | os.O_TRUNC)
    await life.write(handle, b"edited")
    await life.close(handle)


async def unlink_and_create(life: Life) -> None:
    await life.unlink("c0.example.com/config")
    await life.save("c0.example.com/config", b"edited", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


@pytest.mark.parametrize("save", [temp_and_rename, backup_and_create, truncate_and_write, unlink_and_create])
def test_an_editors_save_is_one_put_and_nothing_else(ten: Machine, save: Callable[[Life], Awaitable[None]]) -> None:
    async def prepare(life: Life) -> None:
        await life.read("c0.example.com/config")

    assert budget(ten, save, prepare=prepare) == {"put": 1}
    assert ten.objects()["c0.example.com/config"] == b"edited"


def test_saves_in_a_row_are_one_put(ten: Machine) -> None:
    async def body(life: Life) -> None:
        for number in range(20):
            await life.save("c0.example.com/config", b"%d" % number)
            await trio.sleep(0.005)

    assert budget(ten, body, prepare=look) == {"put": 1}


def test_copying_a_cluster_is_a_put_per_file(ten: Machine) -> None:
    files = cluster("new.example.com")

    async def body(life: Life) -> None:
        made = set()
        for key, data in files.items():
            parts = key.split("/")
            for depth in range(1, len(parts)):
                directory = "/".join(parts[:depth])
                if directory not in made:
                    made.add(directory)
                    await life.mkdir(directory)
            await life.save(key, data)

    assert budget(ten, body, prepare=look, max_staleness_s=60.0, refresh_s=60.0) == {"put": 84}
    assert {k: d for k, d in ten.objects().items() if k.startswith("new.")} == files


def test_removing_a_cluster_is_a_delete_per_file(ten: Machine) -> None:
    async def body(life: Life) -> None:
        for key in cluster("c3.example.com"):
            await life.unlink(key)

    assert budget(ten, body, prepare=look, max_staleness_s=60.0, refresh_s=60.0) == {"delete": 84}


def test_moving_a_directory_is_a_get_a_put_and_a_delete_per_file(ten: Machine) -> None:
    async def body(life: Life) -> None:
        await life.rename("c3.example.com/addons", "c3.example.com/moved")

    files = sum(key.startswith("c3.example.com/addons/") for key in ten.objects())
    assert budget(ten, body, prepare=look) == {"get": files, "put": files, "delete": files}


def test_a_refresh_of_an_unchanged_store_is_one_listing(ten: Machine) -> None:
    async def body(life: Life) -> None:
        await trio.sleep(1.1)
        await life.ls("c4.example.com")
        await life.stat("c5.example.com/config")

    assert budget(ten, body, prepare=look) == {"list": 1}


def test_many_who_ask_at_once_share_a_listing(ten: Machine) -> None:
    ten.delay = lambda _verb, _key: (0.05, 0.05)

    async def body(life: Life) -> None:
        await trio.sleep(1.1)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(life.stat, f"c{number}.example.com/config")

    assert budget(ten, body, prepare=look) == {"list": 1}


def test_names_that_vanish_are_confirmed_one_by_one(ten: Machine) -> None:
    async def body(life: Life) -> None:
        for number in range(3):
            ten.delete(f"c{number}.example.com/config")
        await trio.sleep(1.1)
        assert "config" not in await life.ls("c0.example.com")

    assert budget(ten, body, prepare=look) == {"list": 1, "head": 3}


def test_nobody_asking_costs_two_listings_a_minute(ten: Machine) -> None:
    async def idle(life: Life) -> None:
        await look(life)
        await trio.sleep(120)

    async def body(_life: Life) -> None:
        await trio.sleep(600)

    cost = budget(ten, body, prepare=idle)
    assert set(cost) == {"list"}
    assert cost["list"] <= 21


def test_a_store_with_backups_costs_its_first_pages(tmp_path: Path) -> None:
    """3 clusters of 84 files and 3,000 backups: 2 listings of the root, 2 of each cluster (before and behind its backups)."""
    machine = Machine(tmp_path / "first")
    for number in range(3):
        name = f"c{number}.example.com"
        for key, data in cluster(name).items():
            machine.put(key, data)
        for backup in range(3000):
            machine.put(f"{name}/backups/etcd/main/{backup:04}/etcd.backup.gz", b"b")

    async def body(life: Life) -> None:
        assert len(await life.ls()) == 3
        assert "backups" in await life.ls("c0.example.com")

    assert budget(machine, body) == {"list": 8}

    async def backups(life: Life) -> None:
        assert await life.ls("c0.example.com/backups/etcd/main/0007") == ["etcd.backup.gz"]

    machine.directory = tmp_path / "second"
    cost = budget(machine, backups, prepare=body)
    assert set(cost) == {"list"}
    assert cost["list"] <= 6


@pytest.mark.parametrize("prefetch", ["auto", "none"])
def test_secrets_are_not_fetched_before_one_is_read(ten: Machine, prefetch: str) -> None:
    def private(keys: list[tuple[str, str]]) -> list[str]:
        return sorted(key for verb, key in keys if verb == "get" and ("/pki/private/" in key or "/secrets/" in key))

    async def main() -> None:
        async with ten.life(prefetch=prefetch) as life:
            await find(life)
            await life.read("c0.example.com/config")
            await trio.sleep(5)
            assert private(ten.requests()) == []
            await life.read("c0.example.com/secrets/file-005")
            await trio.sleep(5)
            beside = sorted(k for k in ten.objects() if k.startswith("c0.example.com/secrets/"))
            assert private(ten.requests()) == (beside if prefetch == "auto" else ["c0.example.com/secrets/file-005"])

    run(main)


def test_secrets_do_not_reach_the_disk(ten: Machine, tmp_path: Path) -> None:
    async def main() -> None:
        async with ten.life() as life:
            await life.files()

    run(main)
    kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"content of c0.example.com/config" in kept
    assert b"content of c0.example.com/secrets/" not in kept
    assert b"content of c0.example.com/pki/private/" not in kept
