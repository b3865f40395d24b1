"""How fast is each kind of store, beside s3://?  The table of `python -m tests.bench --stores all`.

A cold `grep -r` of 840 files through a mount, the same bytes from a server of the same make that answers every request
after the same delay. s3:// is measured in every round, before the others, so that a ratio is of one machine in one
moment. What a store may cost at most, as a multiple of s3://, are the limits of issue 5.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trio

from kopsfs.store import ABSENT, Key, open_store
from tests.bench import corpus, responder
from tests.bench.figures import Sample
from tests.bench.peers import PEERS, BenchError, Found
from tests.bench.report import number
from tests.bench.rows import GREP, lines, same
from tests.bench.s3server import Server
from tests.emulators.k8s import K8sServer


class Counting(Found):
    """A server that tells what it was asked."""

    def requests(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of store."""

    running: Callable[[float], AbstractContextManager[Counting]]
    """A server with the corpus, for so long a delay in seconds."""
    limit: float
    """Its time as a multiple of s3's, at most."""
    gets: int = 840
    """GETs for 840 files, at most."""


@contextmanager
def _s3(delay_s: float) -> Iterator[Server]:
    with Server(delay_s=delay_s, buckets=[responder.BUCKET]) as server:
        server.load(responder.BUCKET, corpus.make("clusters"))
        server.reset()
        yield server


class _K8s:
    """An emulated API server in this process, and who asks it."""

    def __init__(self, server: K8sServer, kubeconfig: Path) -> None:
        self._server = server
        self.url = server.url
        self.environment = {"KUBECONFIG": str(kubeconfig)}

    def store_url(self, bucket: str) -> str:
        del bucket
        return "k8s://"

    def requests(self) -> dict[str, int]:
        """Give requests by verb since the last time; those that only say what kinds there are count as `other`."""
        counted = dict(self._server.requests)
        self._server.requests.clear()
        return counted


@contextmanager
def _k8s(delay_s: float) -> Iterator[_K8s]:
    """Nothing but the driver knows how a file lies in an API server, so it writes them."""
    with tempfile.TemporaryDirectory() as directory, K8sServer() as server:
        found = _K8s(server, server.kubeconfig(Path(directory) / "config"))
        trio.run(_put_all, found, corpus.make("clusters"))
        server.latency_s = delay_s
        yield found


async def _put_all(server: _K8s, objects: dict[str, bytes]) -> None:
    store = open_store(server.store_url(""), environ=server.environment)
    try:
        names = list(objects)

        async def put(share: list[str]) -> None:
            for name in share:
                await store.put(Key(name), objects[name], len(objects[name]), expected=ABSENT)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(put, names[number::8])
    finally:
        await store.aclose()


def _responder(name: str) -> Callable[[float], AbstractContextManager[Counting]]:
    return lambda delay_s: responder.Running(name, delay_s=delay_s)


STORES = {
    "s3": Kind(_s3, 1.0),
    "gs": Kind(_responder("gs"), 1.5),
    "azureblob": Kind(_responder("azureblob"), 1.5),
    "swift": Kind(_responder("swift"), 2.0),
    "oss": Kind(_responder("oss"), 2.0),
    "k8s": Kind(_k8s, 3.0, gets=0),
}


def measure(names: list[str], runs: int, delay_s: float, folder: Path) -> list[Sample]:
    """Grep each store `runs` times; the first is always s3."""
    source = folder / "source" / "clusters"
    corpus.write(corpus.make("clusters"), source)
    expected, _, _ = lines(GREP, source, 60)
    samples = []
    for run in range(runs):
        for name in ["s3", *(name for name in names if name != "s3")]:
            try:
                found = _grep(name, delay_s, folder, expected)
            except (BenchError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                found = [Sample("grep-840", name, None, f"{type(error).__name__}: {error}")]
            for sample in found:
                sample.run = run
            samples += found
    return samples


def _grep(name: str, delay_s: float, folder: Path, expected: list[str]) -> list[Sample]:
    peer = PEERS["kopsfs"]
    with STORES[name].running(delay_s) as server:
        server.requests()
        with peer.mounted(server, responder.BUCKET, folder / "run" / f"store-{name}") as mount:
            found, seconds, ended = lines(GREP, mount.path, 120)
            total = time.perf_counter() - mount.started_s
            if not ended:
                raise BenchError("grep -r was not done after 120 s")
            same(found, expected, "grep -r")
            return [
                Sample("grep-840", name, seconds, "", server.requests()),
                Sample("grep-840-total", name, total),
                Sample("memory-840", name, mount.memory_mb()),
                Sample("cpu-840", name, mount.cpu_s()),
            ]


def table(samples: list[Sample]) -> str:
    """One line a store."""
    rows = [
        "| store | cold `grep -r`, 840 files, s | × s3 | limit | requests | with the mount command, s | memory, MB | CPU, s | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = _values(samples, "grep-840", "s3")
    for name in dict.fromkeys(sample.peer for sample in samples):
        walls = _values(samples, "grep-840", name)
        if not walls or not base:
            why = next((sample.note for sample in samples if sample.value is None and sample.peer == name), "no s3")
            rows.append(f"| {name} | no: {why.replace('|', '/')[:120]} | | | | | | | MISSED |")
            continue
        kind, ratio = STORES[name], median(walls) / median(base)
        counted = next(sample.requests for sample in samples if sample.peer == name and sample.figure == "grep-840")
        asked = ", ".join(f"{count} {verb.upper()}" for verb, count in sorted(counted.items()))
        met = ratio <= kind.limit and counted.get("get", 0) <= kind.gets
        others = [number(median(_values(samples, figure, name))) for figure in OTHERS]
        cells = [name, f"{median(walls):.2f} ({min(walls):.2f}–{max(walls):.2f})", f"{ratio:.2f}", number(kind.limit)]
        rows.append(f"| {' | '.join([*cells, asked, *others])} | {'met' if met else 'MISSED'} |")
    return "\n".join(rows)


OTHERS = ("grep-840-total", "memory-840", "cpu-840")


def _values(samples: list[Sample], figure: str, name: str) -> list[float]:
    return [s.value for s in samples if s.figure == figure and s.peer == name and s.value is not None]
