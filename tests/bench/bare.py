"""How fast is our own store client alone, without a mount?  The floor under the rows of the table.

`python -m tests.bench.bare BUCKET KEYS` in the environment of a `Server` lists the bucket, gets every
object, and prints one JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import trio

from kopsfs.errors import StoreError
from kopsfs.store import Key, ObjectInfo, Prefix, open_store


async def _fetch_everything(bucket: str, expected: int) -> dict[str, float]:
    started = time.perf_counter()
    store = open_store(f"s3://{bucket}")
    keys: list[Key] = []
    token = None
    try:
        while True:
            page = await store.list_page(Prefix(""), token=token)
            keys += [info.key for info in page.objects]
            token = page.token
            if token is None:
                break
        listed = time.perf_counter()
        got: dict[Key, int] = {}

        def deliver(key: Key, info: ObjectInfo | None, data: bytes | None, error: StoreError | None) -> None:
            if error is not None:
                raise error
            assert data is not None
            got[key] = len(data)

        await store.get_many(keys, deliver)
        ended = time.perf_counter()
    finally:
        await store.aclose()
    if len(got) != expected:
        sys.exit(f"{len(got)} objects instead of {expected}")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "list_s": listed - started,
        "get_s": ended - listed,
        "total_s": ended - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1000,
    }


def main() -> None:
    print(json.dumps(trio.run(_fetch_everything, sys.argv[1], int(sys.argv[2]))))


if __name__ == "__main__":
    main()
