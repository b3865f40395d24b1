"""Where may tests put what must not outlive them, and who tidies up after a run that is killed?

    with scratch("ceph") as directory:      # a directory of its own, swept
    with sweeps(session=process.pid):       # a program that was started in a session of its own
    with sweeps(tree=directory):            # a directory and what is mounted below
    with sweeps(mounts=directory):          # what is mounted below

A run that ends by itself (or by Ctrl-C) leaves the blocks and thereby takes its words back. One that ends by SIGKILL, by
SIGTERM or by pytest-timeout, which calls `os._exit`, cannot: it is survived by a small process that reads what it said
from a pipe, and when the kernel closes the pipe kills, unmounts and removes what is left. PR_SET_PDEATHSIG would not do: it
goes by the thread that started a program, spares the program's children, and knows no directories.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def sweeps(*, session: int = 0, tree: Path | None = None, mounts: Path | None = None) -> Iterator[None]:
    """If this process dies within the block, so does that session, with its children; the directory is cleared."""
    what = json.dumps({"session": session, "tree": str(tree or ""), "mounts": str(mounts or tree or "")})
    _tell(f"+{what}")
    try:
        yield
    finally:
        _tell(f"-{what}")


@contextlib.contextmanager
def scratch(name: str, *, in_memory: bool = False) -> Iterator[Path]:
    """A directory that ends with the block; `in_memory` where the machine has such a place, and room there."""
    shared = Path("/dev/shm")
    fits = in_memory and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 28
    directory = Path(tempfile.mkdtemp(prefix=f"kopsfs-{name}-", dir=shared if fits else None))
    try:
        with sweeps(tree=directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _tell(line: str) -> None:
    with _one_at_a_time:
        pipe = _sweeper().stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # whoever ended it sweeps himself
            pipe.write(f"{line}\n".encode())
            pipe.flush()


@functools.cache
def _sweeper() -> subprocess.Popen[bytes]:
    """Started when it is first needed; it ends with this process."""
    command = [sys.executable, "-S", __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, cwd="/")


def _sweep() -> None:
    left: list[str] = []
    for line in sys.stdin:
        act = left.append if line[0] == "+" else left.remove
        act(line[1:])
    rows = [json.loads(line) for line in left]
    for row in rows:
        if row["session"]:
            _kill(row["session"])
    for row in rows:
        if row["mounts"]:
            _unmount(row["mounts"])
        if row["tree"]:
            shutil.rmtree(row["tree"], ignore_errors=True)


def _kill(session: int) -> None:
    """Until its leader is gone, which writes no more then."""
    with contextlib.suppress(ProcessLookupError):
        leader = os.pidfd_open(session)
        os.killpg(session, signal.SIGKILL)
        select.select([leader], [], [], 10)
        os.close(leader)


def _unmount(directory: str) -> None:
    """Nothing of kopsfs is imported: it may be what the killed run was about to change."""
    fields = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mountpoint in reversed([each[4] for each in fields]):
        if mountpoint.startswith(f"{directory}/"):
            command = ["fusermount3", "-uzq", mountpoint]
            subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    _sweep()
