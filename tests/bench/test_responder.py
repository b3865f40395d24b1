"""Does each responder speak so that our driver reads the corpus from it, whole and in pages?"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kopsfs.store import Key, Prefix
from kopsfs.store.store import over
from kopsfs.store.url import Settings, open_driver, parse
from tests.bench import corpus, responder
from tests.bench.figures import Sample
from tests.bench.stores import table


@pytest.mark.parametrize("name", responder.RESPONDERS)
@pytest.mark.parametrize("page_size", [1000, 100])
def test_the_corpus_is_read(name: str, page_size: int, tmp_path: Path) -> None:
    source = corpus.make("clusters")
    with responder.Running(name, delay_s=0.0) as server:
        location = parse(server.store_url(responder.BUCKET), server.environment)
        environ = {**server.environment, "HOME": str(tmp_path)}
        driver = open_driver(location, Settings(environ=environ, page_size=page_size))

        async def read() -> None:
            store = over(driver, url=location.url)
            try:
                listed, token = {}, None
                while True:
                    page = await store.list_page(Prefix(""), token=token)
                    listed |= {str(info.key): info.size for info in page.objects}
                    token = page.token
                    if token is None:
                        break
                assert listed == {key: len(data) for key, data in source.items()}
                top = await store.list_page(Prefix(""), delimiter=True)
                assert [str(group) for group in top.prefixes] == [f"c{n}.example.com/" for n in range(10)]
                _, data = await store.get(Key("c1.example.com/config"))
                assert data == source["c1.example.com/config"]
            finally:
                await store.aclose()

        trio.run(read)
        counted = server.requests()
        assert (counted["get"], counted["list"]) == (1, -(-len(source) // page_size) + 1)


def test_a_store_that_is_too_slow_or_asks_too_much_has_missed() -> None:
    def rows(gs_s: float | None, gets: int = 840) -> str:
        samples = [Sample("grep-840", "s3", 1.0, "", {"get": 840}), Sample("grep-840", "gs", gs_s, "", {"get": gets})]
        samples += [Sample(f, name, 1.0) for f in ("grep-840-total", "memory-840", "cpu-840") for name in ("s3", "gs")]
        return table(samples).splitlines()[-1]

    assert rows(1.4).endswith("| met |")
    assert rows(1.6).endswith("| MISSED |")
    assert rows(1.4, gets=841).endswith("| MISSED |")
    assert rows(None).endswith("| MISSED |")
