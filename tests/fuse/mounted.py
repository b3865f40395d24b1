"""How do tests get a real mount of a real store, and what do they ask of it?

    remote = S3Remote(server, "bucket")             # or FileRemote(directory): another client's view of the store
    with Mount(remote, tmp_path) as mount:          # the daemon is a child process, in the foreground
        (mount / "a").write_text("x")
        assert mount.flush() == 0
        assert remote.get("a") == b"x"

A mount is ready when the daemon says so on NOTIFY_SOCKET; nothing sleeps. When a `Mount` ends, its log
must hold no traceback, no bug and no WARNING that the test did not announce by `expect`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from kopsfs.mounts import mount_at
from tests.bench.s3server import Server
from tests.support.packages import debian

READY_S = 120.0
"""Until a daemon is up, or down: minutes mean that it never will be."""
SLACK_S = 15.0
"""What a machine with more work than CPUs adds to a promise of seconds. A test whose promise is broken takes longer still:
for ever, or a budget it has set to a minute."""
PACKAGES = {"runuser": "util-linux", "fusermount3": "fuse3"}
"""Of Debian, where they are called otherwise than the program."""
ROOT = Path(__file__).resolve().parents[2]


class Remote(Protocol):
    """A store, as another client of it sees it."""

    url: str

    @property
    def environment(self) -> Mapping[str, str]: ...

    def put(self, key: str, data: bytes) -> object: ...
    def get(self, key: str) -> bytes: ...
    def delete(self, key: str) -> None: ...
    def keys(self) -> list[str]: ...


class S3Remote:
    """A bucket of the tests' own S3 server."""

    def __init__(self, server: Server, bucket: str, prefix: str = "") -> None:
        self.server = server
        self.bucket = bucket
        self.prefix = prefix
        self.url = f"s3://{bucket}/{prefix}".removesuffix("/")

    @property
    def environment(self) -> Mapping[str, str]:
        return self.server.environment

    def put(self, key: str, data: bytes) -> object:
        return self.server.put(self.bucket, self.prefix + key, data)

    def get(self, key: str) -> bytes:
        return self.server.get(self.bucket, self.prefix + key)

    def delete(self, key: str) -> None:
        self.server.delete(self.bucket, self.prefix + key)

    def keys(self) -> list[str]:
        return [k[len(self.prefix) :] for k in self.server.keys(self.bucket) if k.startswith(self.prefix)]

    def writes(self, key: str = "") -> list[dict[str, Any]]:
        """What the server accepted from kopsfs, in order."""
        rows = self.server.writes(self.bucket, self.prefix + key if key else "")
        return [row for row in rows if row["agent"] != "another client"]


class FileRemote:
    """A directory, written to by another program."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.url = f"file://{directory}"

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    def put(self, key: str, data: bytes) -> object:
        target = self.directory / key
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(data)
        return temporary.replace(target)

    def get(self, key: str) -> bytes:
        try:
            return (self.directory / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def delete(self, key: str) -> None:
        (self.directory / key).unlink()

    def keys(self) -> list[str]:
        found = [p for p in self.directory.rglob("*") if p.is_file()]
        return sorted(str(p.relative_to(self.directory)) for p in found)


class Mount:
    """One daemon, its mount point, state and cache."""

    def __init__(
        self,
        remote: Remote,
        directory: Path,
        *options: str,
        name: str = "m",
        state_dir: Path | None = None,
        environ: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.remote = remote
        self.path = directory / f"{name}-mnt"
        self.path.mkdir(exist_ok=True)
        self.state_dir = state_dir or directory / f"{name}-state"
        self.cache_dir = directory / f"{name}-cache"
        self.options = list(options)
        self.log_path = directory / f"{name}.log"
        self.before = list(before)
        """Words before the command: `runuser -u nobody --`."""
        self.python = python
        self.process: subprocess.Popen[bytes] | None = None
        self.expected: list[str] = []
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KOPS", "AWS_", "S3_"))}
        self.environ = clean | {"HOME": str(directory), "PYTHONPATH": str(ROOT)} | dict(remote.environment)
        self.environ |= dict(environ or {})
        self._notify = directory / f"{name}.notify"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def expect(self, *patterns: str) -> Self:
        """Announce WARNINGs and ERRORs of the daemon."""
        self.expected += patterns
        return self

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def command(self) -> list[str]:
        places = [f"--state-dir={self.state_dir}", f"--cache-dir={self.cache_dir}"]
        mount = ["mount", "-f", *places, *self.options, self.remote.url, str(self.path)]
        return [*self.before, self.python, "-m", "kopsfs", *mount]

    def start(self) -> Self:
        """Mount, and return when the daemon is ready."""
        assert self.process is None
        self._notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.log_path.open("ab") as log:
            manager.bind(str(self._notify))
            self._notify.chmod(0o777)
            environ = self.environ | {"NOTIFY_SOCKET": str(self._notify)}
            self.process = subprocess.Popen(
                self.command, env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            end = os.pidfd_open(self.process.pid)
            try:
                deadline = time.monotonic() + READY_S
                while True:
                    ready, _, _ = select.select([manager.fileno(), end], [], [], max(0.0, deadline - time.monotonic()))
                    if manager.fileno() in ready and b"READY=1" in manager.recv(4096):
                        return self
                    if not ready or end in ready:
                        raise AssertionError(f"the daemon did not become ready:\n{self.log}")
            finally:
                os.close(end)

    def kill(self) -> None:
        """Take the daemon's life; the mount point answers ENOTCONN."""
        process = self._running()
        process.kill()
        process.wait()
        self.process = None

    def detach(self) -> None:
        """Clear the mount point."""
        if mount_at(self.path) is not None:
            subprocess.run(["fusermount3", "-uz", str(self.path)], check=False, stdin=subprocess.DEVNULL)

    def umount(self, *words: str) -> int:
        """`kopsfs umount`; the daemon's exit status must be the same. Gives it."""
        process = self._running()
        done = self.run("umount", *words, str(self.path))
        status = process.wait(READY_S)
        self.process = None
        if not words:
            assert done.returncode == status, (done, status, self.log)
        return status

    def terminate(self) -> int:
        """Tell it to end, as systemd does. Gives the daemon's exit status."""
        process, self.process = self._running(), None
        process.terminate()
        return process.wait(READY_S)

    def stop(self) -> None:
        """End it whatever state it is in, and look at its log."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.detach()
                raise AssertionError(f"the daemon did not end within {READY_S} s of SIGTERM:\n{self.log}") from None
            finally:
                self.detach()
        self.detach()

    def check_log(self) -> None:
        """No traceback, no bug, no WARNING that was not announced."""
        text = self.log
        assert "Traceback" not in text, text
        for line in text.splitlines():
            if re.search(r" (WARNING|ERROR|CRITICAL) ", line):
                assert any(re.search(pattern, line) for pattern in self.expected), line

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if exc is not None:
                print(f"--- log of {self.path} ---\n{self.log}")
        if exc is None:
            self.check_log()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- the program -----------------------------------------------------------------------------------------------

    def run(self, *words: str, budget_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run `kopsfs WORDS`."""
        return subprocess.run(
            [*self.before, self.python, "-m", "kopsfs", *words],
            env=self.environ,
            cwd="/",
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=budget_s,
            check=False,
        )

    def flush(self) -> int:
        """`kopsfs flush`; its exit status."""
        return self.run("flush", str(self.path)).returncode

    def status(self) -> dict[str, Any]:
        """`kopsfs status --json`."""
        found: dict[str, Any] = json.loads(self.run("status", "--json", str(self.path)).stdout)
        return found

    def conflicts(self) -> list[dict[str, Any]]:
        """`kopsfs conflicts --json`."""
        return [json.loads(line) for line in self.run("conflicts", "--json", str(self.path)).stdout.splitlines()]

    def asked(self, command: str, /, **arguments: Any) -> list[dict[str, Any]]:
        """Ask the control socket in this process: as `kopsfs` does, but without starting a program."""
        from kopsfs import control

        return list(control.request(control.find(str(self.path)), command, **arguments))

    def healthy(self) -> None:
        """Tree and journal hold their invariants, and no request met a bug."""
        self.asked("dump")
        (status,) = self.asked("status")
        assert status["health"] != "unhealthy", self.log


def until(holds: Callable[[], object], what: str = "", budget_s: float = 90.0) -> None:
    """Wait for something nobody announces; fails after the budget, which is for a machine that is busy."""
    deadline = time.monotonic() + budget_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {budget_s} s: {what or holds}"
        time.sleep(0.01)


@contextlib.contextmanager
def within(budget_s: float, what: str = "it") -> Iterator[None]:
    """Fails if the block takes longer than its budget and SLACK_S."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= budget_s + SLACK_S, f"{what} took {took:.2f} s, promised are {budget_s} s"


def freeze(process: int) -> None:
    """SIGSTOP."""
    os.kill(process, signal.SIGSTOP)


def needs(*programs: str) -> None:
    """The programs this test is about; one that is missing is installed, and fails the test where it cannot be."""
    debian(programs, *(PACKAGES.get(program, program) for program in programs))
