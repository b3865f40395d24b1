"""How is each figure measured?  A row mounts one peer, does one thing, compares, and gives samples.

Cold means: caches of the peer's own that are new, a mount that is new, so no page of it is in the
kernel. Every row compares what it read or wrote with the source; a difference is an error of the row,
not a figure. Walls are `time.perf_counter`; "until the store has it" is the server's own time stamp of
the last accepted write, so that polling for it costs no accuracy.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import corpus
from tests.bench.figures import Sample
from tests.bench.peers import BenchError, Mount, Peer
from tests.bench.s3server import Server

SAVES = 20
OFFLINE_BUDGET_S = 20.0
KILL_BUDGET_S = 5.0
COPIED = "c0.example.com"
EDITED = "c1.example.com"
CONFIG_AND_GROUPS = ["config", *(f"instancegroup/{group}" for group in corpus.GROUPS)]


@dataclass(slots=True)
class Bench:
    """What rows share: the server, the sources on disk, and how patient to be."""

    server: Server
    folder: Path
    peer_budget_s: float = 500.0
    """After this a cold read is stopped, and its figure is a lower bound."""
    remote_s: float = 24.0
    idle_s: float = 60.0
    settle_s: float = 30.0
    sources: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def source(self, name: str) -> dict[str, bytes]:
        """Make a corpus once, on disk for programs to compare with, in memory for the server."""
        if name not in self.sources:
            self.sources[name] = corpus.make(name)
            corpus.write(self.sources[name], self.source_folder(name))
        return self.sources[name]

    def source_folder(self, name: str) -> Path:
        return self.folder / "source" / name

    @contextmanager
    def mounted(self, peer: Peer, name: str, *, keep: bool = False) -> Iterator[Mount]:
        """Mount a bucket that holds just the corpus; counters start at the mount command."""
        if not keep:
            self.server.wipe(name)
            self.server.load(name, self.source(name))
        self.server.reset()
        with peer.mounted(self.server, name, self.folder / "run" / peer.name, keep=keep) as mount:
            yield mount

    def opener(self) -> Path:
        """Compile the C client once."""
        source = Path(__file__).with_name("opener.c")
        binary = self.folder / "opener"
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)], check=True)
        return binary


def lines(argv: list[str], folder: Path, budget_s: float) -> tuple[list[str], float, bool]:
    """Run a program in a folder: (sorted lines, seconds, ended by itself?)."""
    started = time.perf_counter()
    child = subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
    )
    try:
        out, err = child.communicate(timeout=budget_s)
        ended = True
    except subprocess.TimeoutExpired:
        child.terminate()
        ended = False
        try:
            out, err = child.communicate(timeout=KILL_BUDGET_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{argv[0]} hangs, and not even a signal ends it") from None
    finally:
        child.kill()
    seconds = time.perf_counter() - started
    if ended and child.returncode:
        raise BenchError(f"{argv[0]}: exit {child.returncode}: {err.decode(errors='replace')[-200:]}")
    return sorted(out.decode("utf-8", "surrogateescape").splitlines()), seconds, ended


def same(found: list[str], expected: list[str], what: str) -> None:
    if found != expected:
        missing = sorted(set(expected) - set(found))[:3]
        more = sorted(set(found) - set(expected))[:3]
        raise BenchError(f"{what}: {len(found)} lines instead of {len(expected)}; missing {missing}, too many {more}")


def _verify_bytes(mount: Mount, objects: dict[str, bytes]) -> None:
    for key, data in objects.items():
        if (mount.path / key).read_bytes() != data:
            raise BenchError(f"{key}: not the bytes of the source")


GREP = ["grep", "-r", corpus.NEEDLE, "."]


def _cold_grep(bench: Bench, peer: Peer, mount: Mount, name: str, figure: str) -> list[Sample]:
    """Grep, compare, and read counters and memory."""
    expected, _, _ = lines(GREP, bench.source_folder(name), 60)
    found, seconds, ended = lines(GREP, mount.path, bench.peer_budget_s)
    total = time.perf_counter() - mount.started_s
    requests = bench.server.requests()
    short = figure.partition("-")[2]
    note = ""
    if ended:
        same(found, expected, "grep -r")
    else:
        note = f"stopped after {len(found)} of {len(expected)} files"
    return [
        Sample(figure, peer.name, seconds, note, requests),
        Sample(f"{figure}-total", peer.name, total, note),
        Sample(f"memory-{short}", peer.name, mount.memory_mb(), note),
    ]


def read(bench: Bench, peer: Peer) -> list[Sample]:
    """840 files: cold grep, its requests and memory; then warm grep, open+read+close and stat."""
    with bench.mounted(peer, "clusters") as mount:
        samples = _cold_grep(bench, peer, mount, "clusters", "grep-840")
        samples.append(Sample("cpu-840", peer.name, mount.cpu_s()))
        requests, note = samples[0].requests, samples[0].note
        for verb in ("get", "head", "list"):
            samples.append(Sample(f"grep-840-{verb}s", peer.name, requests.get(verb, 0), note))
        expected, _, _ = lines(GREP, bench.source_folder("clusters"), 60)
        seconds = 0.0
        for _ in range(3):
            bench.server.reset()
            found, seconds, ended = lines(GREP, mount.path, bench.peer_budget_s)
            if ended:
                same(found, expected, "warm grep -r")
            samples.append(Sample("warm-grep", peer.name, seconds, "" if ended else "stopped", bench.server.requests()))
            if seconds > 5:
                break
        if seconds < 5:
            _verify_bytes(mount, bench.source("clusters"))
        files = [str(mount.path / COPIED / "instancegroup" / group) for group in corpus.GROUPS[:5]]
        samples += _blocks(bench, peer, "warm-open", "open", 4000, files)
        samples += _blocks(bench, peer, "warm-stat", "stat", 4000, files)
    return samples


def _blocks(bench: Bench, peer: Peer, figure: str, what: str, rounds: int, files: list[str]) -> list[Sample]:
    """Median over blocks of 100 operations, in microseconds."""
    bench.server.reset()
    printed, _, ended = lines([str(bench.opener()), what, str(rounds), *files], bench.folder, 60)
    if not printed:
        return [Sample(figure, peer.name, None, "not 100 operations in 60 s")]
    values = sorted(int(line) / 1000 for line in printed)
    note = f"best block {values[0]:.1f}, mean {statistics.fmean(values):.1f}"
    if not ended:
        note += f", ended after {100 * len(values)} operations"
    return [Sample(figure, peer.name, statistics.median(values), note, bench.server.requests())]


def flat(bench: Bench, peer: Peer) -> list[Sample]:
    """10,000 files: cold grep and memory."""
    with bench.mounted(peer, "flat") as mount:
        return _cold_grep(bench, peer, mount, "flat", "grep-10k")


def walk(bench: Bench, peer: Peer) -> list[Sample]:
    """Cold `find` and cold `ls -lR`, a mount each."""
    samples = []
    folder = bench.source_folder("clusters")
    bench.source("clusters")
    for figure, argv in (("find", ["find", "."]), ("ls-lR", ["ls", "-lR"])):
        expected, _, _ = lines(argv, folder, 60)
        with bench.mounted(peer, "clusters") as mount:
            found, seconds, ended = lines(argv, mount.path, bench.peer_budget_s)
            if ended:
                same(_comparable(found), _comparable(expected), figure)
            samples.append(Sample(figure, peer.name, seconds, "" if ended else "stopped", bench.server.requests()))
    return samples


def _comparable(lines: list[str]) -> list[str]:
    """Keep of `ls -l` what a store can know: for files size and name, for directories the name."""
    kept = []
    for line in lines:
        fields = line.split(None, 8)
        if len(fields) == 9 and line[0] == "-":
            kept.append(f"{fields[4]} {fields[8]}")
        elif len(fields) == 9 and line[0] == "d":
            kept.append(f"d {fields[8]}")
        elif not line.startswith("total "):
            kept.append(line)
    return sorted(kept)


def cat(bench: Bench, peer: Peer) -> list[Sample]:
    """Cold `cat` of one cluster's config and its 12 groups."""
    names = [f"{EDITED}/{name}" for name in CONFIG_AND_GROUPS]
    with bench.mounted(peer, "clusters") as mount:
        started = time.perf_counter()
        done = subprocess.run(["cat", *names], cwd=mount.path, capture_output=True, check=True)
        seconds = time.perf_counter() - started
        if done.stdout != b"".join(bench.source("clusters")[name] for name in names):
            raise BenchError("cat: not the bytes of the source")
        return [Sample("cat", peer.name, seconds, "", bench.server.requests())]


def start(bench: Bench, peer: Peer) -> list[Sample]:
    """From the mount command to the end of the first `ls`; again with a warm cache and no store."""
    expected = sorted(os.listdir(bench.source_folder("clusters"))) if bench.source("clusters") else []
    with bench.mounted(peer, "clusters") as mount:
        found, _, _ = lines(["ls"], mount.path, 60)
        samples = [Sample("first-ls", peer.name, time.perf_counter() - mount.started_s, "", bench.server.requests())]
        same(found, expected, "ls")
        lines(["find", "."], mount.path, bench.peer_budget_s)
    bench.server.down()
    try:
        with bench.mounted(peer, "clusters", keep=True) as mount:
            found, _, ended = lines(["ls"], mount.path, OFFLINE_BUDGET_S)
            seconds = time.perf_counter() - mount.started_s
            if not ended:
                raise BenchError(f"ls is not back after {OFFLINE_BUDGET_S:.0f} s")
            same(found, expected, "ls")
            samples.append(Sample("offline-ls", peer.name, seconds))
    except (BenchError, OSError) as error:
        samples.append(Sample("offline-ls", peer.name, None, f"cannot: {str(error).splitlines()[-1][:120]}"))
    finally:
        bench.server.up()
    return samples


def _save(path: Path, data: bytes) -> float:
    """Save as editors do: a temporary file beside it, written, closed, renamed over it. Gives seconds."""
    target, temporary = os.fspath(path), f"{path.parent}/sed{os.urandom(3).hex()}"
    started = time.perf_counter()
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.write(fd, data)
    os.close(fd)
    os.rename(temporary, target)
    return time.perf_counter() - started


def _wait_stored(
    bench: Bench, bucket: str, wanted: dict[str, bytes | None], since_s: float, budget_s: float = 60.0
) -> float:
    """Wait until the store holds (or, for None, lacks) all of it; seconds from `since_s` to the last accepted write."""
    tags = {key: None if data is None else hashlib.md5(data).hexdigest() for key, data in wanted.items()}
    deadline = time.monotonic() + budget_s
    while True:
        there = {key: etag for key, (etag, _, _) in bench.server.keys(bucket).items()}
        wrong = [key for key, tag in tags.items() if there.get(key) != tag]
        if not wrong:
            break
        if time.monotonic() > deadline:
            raise BenchError(f"not in the store after {budget_s:.0f} s: {len(wrong)} of {len(tags)}, first {wrong[0]}")
        time.sleep(0.05)
    return max(float(row["time"]) for row in bench.server.writes(bucket) if row["key"] in tags) - since_s


def _settled(bench: Bench, quiet_s: float = 1.0) -> None:
    """Wait until no write was asked for during `quiet_s`: what belongs to the row has been sent."""
    last = -1
    while True:
        now = sum(count for verb, count in bench.server.requests().items() if verb not in {"get", "list"})
        if now == last:
            return
        last = now
        time.sleep(quiet_s)


def _learn(bench: Bench, peer: Peer, mount: Mount) -> Sample:
    """Replace, create and delete one object: what that costs beyond three requests is learning."""
    key = f"{EDITED}/kops-version.txt"
    (mount.path / key).read_bytes()
    _settled(bench)
    bench.server.reset()
    now = time.time()
    _save(mount.path / key, b"1.0\n")
    _wait_stored(bench, mount.job.bucket, {key: b"1.0\n"}, now)
    made = f"{EDITED}/instancegroup/learnt"
    (mount.path / made).write_bytes(b"x\n")
    _wait_stored(bench, mount.job.bucket, {made: b"x\n"}, now)
    (mount.path / made).unlink()
    _wait_stored(bench, mount.job.bucket, {made: None}, now)
    _settled(bench)
    requests = bench.server.requests()
    extra = sum(count for verb, count in requests.items() if verb not in {"list", "get", "other"}) - 3
    return Sample("learning", peer.name, extra, "beyond one replacement, one creation and one deletion", requests)


def _without_reads_of_others(requests: dict[str, int]) -> int:
    """Count what a write costs: everything but LISTs, which refreshes may send at any moment."""
    return sum(count for verb, count in requests.items() if verb != "list")


def save(bench: Bench, peer: Peer) -> list[Sample]:
    """Save 20 files that were read before, one after the other; then wait for the store."""
    with bench.mounted(peer, "clusters") as mount:
        keys = [f"{EDITED}/instancegroup/{group}" for group in corpus.GROUPS]
        keys += [f"{EDITED}/igconfig/node/node-{number}/nodeupconfig.yaml" for number in range(SAVES - len(keys))]
        wanted: dict[str, bytes | None] = {}
        contents = {}
        for key in keys:
            contents[key] = (mount.path / key).read_bytes() + b"# edited\n"
            wanted[key] = contents[key]
        samples = [_learn(bench, peer, mount)] if peer.name.startswith("kopsfs") else []
        bench.server.reset()
        now = time.time()
        walls = [_save(mount.path / key, data) * 1000 for key, data in contents.items()]
        stored = _wait_stored(bench, mount.job.bucket, wanted, now)
        _settled(bench)
        requests = bench.server.requests()
        samples += [
            Sample("save", peer.name, statistics.median(walls), f"{len(keys)} saves", requests),
            Sample("save-worst", peer.name, max(walls)),
            Sample("save-stored", peer.name, stored),
            Sample("save-requests", peer.name, _without_reads_of_others(requests), "LISTs not counted", requests),
        ]
        for key, data in contents.items():
            if (mount.path / key).read_bytes() != data:
                raise BenchError(f"{key}: reads not as it was saved")
        _nothing_extra(bench, mount, set(bench.source("clusters")))
        return samples


def _nothing_extra(bench: Bench, mount: Mount, allowed: set[str]) -> None:
    extra = [key for key in bench.server.keys(mount.job.bucket) if key not in allowed and not key.endswith("/")]
    if extra:
        raise BenchError(f"the store holds what nobody wrote: {extra[:3]}")


def copy(bench: Bench, peer: Peer) -> list[Sample]:
    """`cp -r` of one cluster into the mount, then `rm -r` of it; each until the store agrees."""
    objects = bench.source("clusters")
    cluster = {key.partition("/")[2]: data for key, data in objects.items() if key.startswith(COPIED + "/")}
    wanted: dict[str, bytes | None] = {f"new.example.com/{name}": data for name, data in cluster.items()}
    with bench.mounted(peer, "clusters") as mount:
        os.listdir(mount.path)
        if peer.name.startswith("kopsfs"):
            _learn(bench, peer, mount)
        samples = []
        source = str(bench.source_folder("clusters") / COPIED)
        for figure, argv, goal in (
            ("cp", ["cp", "-r", source, "new.example.com"], wanted),
            ("rm", ["rm", "-r", "new.example.com"], dict.fromkeys(wanted)),
        ):
            bench.server.reset()
            now = time.time()
            _, seconds, ended = lines(argv, mount.path, bench.peer_budget_s)
            if not ended:
                raise BenchError(f"{figure} was not done after {seconds:.0f} s")
            stored = _wait_stored(bench, mount.job.bucket, goal, now)
            _settled(bench)
            requests = bench.server.requests()
            samples += [
                Sample(figure, peer.name, seconds, "", requests),
                Sample(f"{figure}-{'stored' if figure == 'cp' else 'gone'}", peer.name, stored),
                Sample(
                    f"{figure}-requests", peer.name, _without_reads_of_others(requests), "LISTs not counted", requests
                ),
            ]
        return samples


def remote(bench: Bench, peer: Peer) -> list[Sample]:
    """Another client writes while a program opens and reads one file 20 times a second."""
    samples = []
    for name, key in (
        ("clusters", f"{EDITED}/instancegroup/bastions"),
        ("backups", "b0.example.com/instancegroup/bastions"),
        ("fleet", f"{EDITED}/instancegroup/bastions"),
        ("flat", "f05000"),
    ):
        with bench.mounted(peer, name) as mount:
            os.listdir(mount.path)
            (mount.path / key).read_bytes()
            samples += _watch(bench, peer, mount, name, key)
    return samples


def _watch(bench: Bench, peer: Peer, mount: Mount, name: str, key: str) -> list[Sample]:
    path = mount.path / key
    base = bench.source(name)[key]
    period_s, changes = 3.7, max(2, int(bench.remote_s / 3.7))
    time.sleep(3.0)  # the first reads and their prefetch are over: the steady state is what is measured
    bench.server.reset()
    began = time.monotonic()
    seen: list[float] = []
    written_s, current, number = 0.0, base, 0
    while time.monotonic() - began < period_s * (changes + 1):
        if number < changes and time.monotonic() - began >= period_s * (number + 1):
            number += 1
            current = base + b"# change %d\n" % number * number
            bench.server.put(name, key, current)
            written_s = time.monotonic()
        if path.read_bytes() == current and written_s:
            seen.append(time.monotonic() - written_s)
            written_s = 0.0
        time.sleep(0.05)
    requests = bench.server.requests()
    rate = (sum(requests.values()) - requests.get("get", 0)) * 60 / (time.monotonic() - began)
    note = f"{len(seen)} of {changes} changes seen within {period_s} s"
    whole = len(seen) == changes
    return [
        Sample(f"remote-{name}", peer.name, statistics.median(seen) if whole else None, note, requests),
        Sample(f"remote-{name}-worst", peer.name, max(seen) if whole else None, note),
        Sample(f"remote-{name}-rate", peer.name, rate, note, requests),
    ]


def idle(bench: Bench, peer: Peer) -> list[Sample]:
    """Look at everything once, wait, then count what is sent while nobody asks."""
    with bench.mounted(peer, "clusters") as mount:
        lines(["find", "."], mount.path, bench.peer_budget_s)
        time.sleep(bench.settle_s)
        bench.server.reset()
        time.sleep(bench.idle_s)
        requests = bench.server.requests()
    scale = 60 / bench.idle_s
    note = f"{bench.idle_s:.0f} s counted, {bench.settle_s:.0f} s after the last access"
    return [
        Sample("idle", peer.name, sum(requests.values()) * scale, note, requests),
        Sample("idle-lists", peer.name, requests.get("list", 0) * scale, note),
    ]


ROWS: dict[str, Callable[[Bench, Peer], list[Sample]]] = {
    "read": read,
    "flat": flat,
    "walk": walk,
    "cat": cat,
    "start": start,
    "save": save,
    "copy": copy,
    "remote": remote,
    "idle": idle,
}
ONLY: dict[str, set[str]] = {"kopsfs-all": {"read", "flat"}}
"""Peers that are measured in some rows only: elsewhere they are the same as another."""
