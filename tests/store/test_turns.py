"""Does a key that the store chokes on keep anybody else from writing while conditions are learnt?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from kopsfs.errors import TransientError
from kopsfs.store import ABSENT, Key, Store, Version
from tests.store.jumping import memory, run
from tests.support.faulty import FaultyDriver

BAD, GOOD = Key("bad"), Key("good")


@contextlib.contextmanager
def chokes_on_bad(driver: FaultyDriver, op: str) -> Iterator[None]:
    whole = getattr(driver, op)

    def choke(key: Key, *arguments: object, **more: object) -> object:
        if key == BAD:
            raise TransientError(op, key, "500")
        return whole(key, *arguments, **more)

    setattr(driver, op, choke)
    yield
    setattr(driver, op, whole)


@pytest.mark.parametrize("op", ["put", "delete"])
def test_a_write_that_teaches_and_gets_no_answer_lets_others_teach(op: str) -> None:
    driver = memory()
    driver.capabilities = replace(
        driver.capabilities, create_only="unproven", replace_if="unproven", delete_if="unproven"
    )

    async def write(store: Store, key: Key, base: Version) -> None:
        if op == "put":
            await store.put(key, b"new", 3, expected=base)
        else:
            await store.delete(key, expected=base)

    async def body(store: Store, driver: FaultyDriver) -> None:
        old = {key: (await store.put(key, b"old", 3, expected=ABSENT)).version for key in (BAD, GOOD)}
        async with trio.open_nursery() as nursery:
            with chokes_on_bad(driver, op):
                nursery.start_soon(write, store, BAD, old[BAD])
                await trio.sleep(1)
                with trio.fail_after(60):
                    await write(store, GOOD, old[GOOD])
        # The store is well again, and so the other has been written, too.
        if op == "put":
            assert [(await store.get(key))[1] for key in old] == [b"new", b"new"]
        else:
            assert not (await store.list_page(store._prefix)).objects

    run(body, driver)
