"""Which figures does this commit reach?  `python -m tests.bench` measures, compares and prints a table.

Rows run one after the other, peers alternating within a row, on an S3 server of our own that answers
every request after `--delay` seconds. Samples and table go to `.work/bench/`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.bench import corpus, report, stores
from tests.bench.figures import Sample
from tests.bench.peers import PEERS, BenchError, Peer
from tests.bench.rows import ONLY, ROWS, Bench
from tests.bench.s3server import Server
from tests.bench.stores import STORES

ROOT = Path(__file__).resolve().parents[2]
SLOW_S = 20.0
"""A peer whose row took longer is measured once."""


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default=",".join([*ROWS, "bare"]), help="of: %(default)s")
    parser.add_argument("--peers", default=",".join(PEERS), help="of: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of each row and peer; medians count (default %(default)s)")
    parser.add_argument(
        "--delay", type=float, default=0.02, metavar="SECONDS", help="of every request (default %(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=500, metavar="SECONDS", help="longest cold read of a peer (default %(default)s)"
    )
    parser.add_argument(
        "--stores", default="", help=f"instead: every store beside s3; `all`, or of: {','.join(STORES)}"
    )
    parser.add_argument("--quick", action="store_true", help="one run, kopsfs alone unless --peers, short waits")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".work" / "bench", help="on a real disk: fsync is measured"
    )
    options = parser.parse_args(argv)
    options.rows, options.peers = options.rows.split(","), options.peers.split(",")
    options.stores = list(STORES) if options.stores == "all" else [name for name in options.stores.split(",") if name]
    if options.quick:
        options.runs = 1
        if options.peers == list(PEERS):
            options.peers = ["kopsfs", "kopsfs-all"]
    for name, known in (("rows", [*ROWS, "bare"]), ("peers", list(PEERS)), ("stores", list(STORES))):
        unknown = set(getattr(options, name)) - set(known)
        if unknown:
            parser.error(f"--{name}: {', '.join(sorted(unknown))} not among {', '.join(known)}")
    return options


def _measure(bench: Bench, row: str, peer: Peer, run: int) -> list[Sample]:
    """Run one row for one peer; what goes wrong becomes a sample without a value."""
    started = time.perf_counter()
    try:
        samples = ROWS[row](bench, peer)
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        if not isinstance(error, BenchError):
            traceback.print_exc()
        samples = [Sample(row, peer.name, None, f"{type(error).__name__}: {error}")]
        log = bench.folder / "run" / peer.name / "log"
        if log.exists():
            kept = bench.folder / f"failed-{row}-{run}-{peer.name}.log"
            kept.write_bytes(log.read_bytes())
            print(f"  its log: {kept}", file=sys.stderr)
    finally:
        bench.server.set(down=False, clear_faults=True)
    for sample in samples:
        sample.run = run
        if sample.value is None:
            print(f"  {peer.name} {sample.figure}: {sample.note}", file=sys.stderr, flush=True)
    print(f"{row} {run} {peer.name}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return samples


def _bare(bench: Bench, runs: int) -> list[Sample]:
    """Measure our own store client without a mount, each run in a process of its own."""
    samples = []
    for name, figure in (("clusters", "grep-840"), ("flat", "grep-10k")):
        bench.server.wipe(name)
        bench.server.load(name, bench.source(name))
        for run in range(runs):
            bench.server.reset()
            argv = [sys.executable, "-m", "tests.bench.bare", name, str(len(bench.source(name)))]
            done = subprocess.run(
                argv, cwd=ROOT, env=os.environ | bench.server.environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                samples.append(Sample(figure, "bare", None, done.stderr.strip()[-200:]))
                continue
            found = json.loads(done.stdout)
            note = f"LIST {found['list_s']:.2f} s, GETs {found['get_s']:.2f} s, {found['cpu_s']:.2f} s CPU with imports"
            samples.append(Sample(figure, "bare", found["total_s"], note, bench.server.requests(), run))
            samples.append(Sample("memory-" + figure.partition("-")[2], "bare", found["memory_mb"], "", {}, run))
    return samples


def _machine(options: argparse.Namespace) -> dict[str, str | int | float]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count() or 0,
        "load": os.getloadavg()[0],
        "delay_s": options.delay,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _present(names: list[str]) -> list[Peer]:
    """Choose the peers that can run here, and say of the others why not."""
    present = []
    for name in names:
        why = PEERS[name].missing()
        if why:
            print(f"not measured: {name}: {why}", file=sys.stderr)
        else:
            present.append(PEERS[name])
    return present


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts are cleaned up
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another bench runs in {folder}; wait for it, or give --folder", file=sys.stderr)
            return 75
        return _run_stores(options, folder) if options.stores else _run(options, folder)


def _run_stores(options: argparse.Namespace, folder: Path) -> int:
    machine = _machine(options)
    samples = stores.measure(options.stores, options.runs, options.delay, folder)
    name = time.strftime("stores-%Y%m%d-%H%M%S")
    text = f"# kopsfs on each store\n\n{_about(machine)}\n\n{stores.table(samples)}\n"
    _keep(folder / name, text, machine, samples)
    print(text)
    return 1 if "MISSED" in text else 0


def _run(options: argparse.Namespace, folder: Path) -> int:
    peers = _present(options.peers)
    machine = _machine(options)
    name = time.strftime("%Y%m%d-%H%M%S")
    samples: list[Sample] = []
    slow: set[tuple[str, str]] = set()
    with Server(delay_s=options.delay, buckets=corpus.CORPORA) as server:
        bench = Bench(server, folder, peer_budget_s=options.budget)
        if options.quick:
            bench.remote_s, bench.idle_s, bench.settle_s = 8.0, 20.0, 10.0
        for row in [row for row in ROWS if row in options.rows]:
            runs = 1 if row in {"idle", "remote"} else options.runs
            for run in range(runs):
                for peer in peers:
                    if (row, peer.name) in slow or row not in ONLY.get(peer.name, {row}):
                        continue
                    started = time.perf_counter()
                    samples += _measure(bench, row, peer, run)
                    _write(samples, machine, folder, name)
                    if time.perf_counter() - started > SLOW_S and not peer.name.startswith("kopsfs"):
                        slow.add((row, peer.name))
        if "bare" in options.rows:
            samples += _bare(bench, options.runs)
    print(_write(samples, machine, folder, name))
    print(f"\nRaw samples: {folder / name}.json", file=sys.stderr)
    return 1 if any(sample.value is None and sample.peer.startswith("kopsfs") for sample in samples) else 0


def _write(samples: list[Sample], machine: dict[str, str | int | float], folder: Path, name: str) -> str:
    """Write samples and table as far as they go, so that an interrupted bench has not been for nothing."""
    labels = {name: peer.label for name, peer in PEERS.items()} | {"bare": "bare client, no mount"}
    text = _text(samples, machine, labels)
    _keep(folder / name, text, machine, samples)
    return text


def _keep(path: Path, text: str, machine: dict[str, str | int | float], samples: list[Sample]) -> None:
    raw = {"machine": machine, "samples": [sample.as_json() for sample in samples]}
    path.with_suffix(".json").write_text(json.dumps(raw, indent=1))
    path.with_suffix(".md").write_text(text)


def _about(machine: dict[str, str | int | float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items()) + ". Medians (least–most)."


def _text(samples: list[Sample], machine: dict[str, str | int | float], labels: dict[str, str]) -> str:
    return "\n\n".join(
        [
            "# kopsfs and its peers",
            _about(machine),
            report.table(samples, list(labels), labels),
            "## Requests",
            report.requests(samples, labels),
            "## Notes",
            report.notes(samples, labels),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
