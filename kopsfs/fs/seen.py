"""Which version does a process know, so that its save cannot overwrite one it has never read?

An editor opens a file, closes it, and much later saves by creating a new file and renaming it over
the old name. Nothing in those calls says what the edit was based on, so kopsfs remembers which
process read which version (design §5, *base*). A version made through this mount counts as seen by
every process here: among themselves they overwrite as on any local disk.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final

from kopsfs.store.driver import Expected, Version

PATHS_MAX: Final = 20_000
READERS_MAX: Final = 32
"""Of one path, from which on those that have ended are forgotten."""
LIVE_READERS_MAX: Final = 512
"""Of one path, from which on the one that read first is forgotten though it runs."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Seen:
    """What each process has read, bounded.

    The kernel names the *thread* that asks (fs/fuse/dev.c, fuse_get_req: pid_nr of current), so who is
    one process with it is found in /proc when a write needs to know, never on the way of a read.
    """

    def __init__(self) -> None:
        self._serial = 0
        self._read: OrderedDict[str, dict[int, tuple[int, Version, float]]] = OrderedDict()
        self._made: OrderedDict[str, tuple[int, Expected]] = OrderedDict()

    def read(self, path: str, thread: int, version: Version) -> None:
        """The thread opened this version for reading."""
        if thread == 0:
            return  # a process outside our PID namespace has no number here
        readers = self._read.get(path)
        if readers is None:
            readers = self._read[path] = {}
            if len(self._read) > PATHS_MAX:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(path)
        self._serial += 1
        readers.pop(thread, None)
        readers[thread] = (self._serial, version, time.clock_gettime(time.CLOCK_BOOTTIME))
        if len(readers) > READERS_MAX and not len(readers) % READERS_MAX:
            # A file that is polled by short-lived programs: none of them pushes out the editor that still has it.
            for ended in [t for t in readers if not Path(f"/proc/{t}").exists()]:
                del readers[ended]
        if len(readers) > LIVE_READERS_MAX:
            del readers[next(iter(readers))]

    def made(self, path: str, state: Expected) -> None:
        """This mount made the store hold this: a version, or ABSENT after a deletion."""
        self._serial += 1
        self._made.pop(path, None)
        self._made[path] = (self._serial, state)
        if len(self._made) > PATHS_MAX:
            self._made.popitem(last=False)

    def base(self, path: str, thread: int, current: Expected) -> Expected:
        """What a write of this thread's process is based on; `current` where it has read nothing."""
        readers = self._read.get(path)
        if not readers or thread == 0:
            return current
        newest = max(self._of_process(readers, thread), default=None)
        if newest is None:
            return current
        made = self._made.get(path)
        if made is not None and made[0] > newest[0]:
            return made[1]
        return newest[1]

    def _of_process(self, readers: dict[int, tuple[int, Version, float]], thread: int) -> list[tuple[int, Version]]:
        process = _process_of(thread)
        threads = {thread, process, *_threads_of(process)}
        if threads.isdisjoint(readers):
            return []
        began = _began(process)
        return [(serial, version) for t, (serial, version, at) in readers.items() if t in threads and at >= began]


def _process_of(thread: int) -> int:
    """The thread group (proc(5), /proc/pid/status, Tgid); the thread itself if it is gone."""
    try:
        with Path(f"/proc/{thread}/status").open(encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line[5:])
    except OSError:
        pass
    return thread


def _threads_of(process: int) -> list[int]:
    try:
        return [int(task.name) for task in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return []


def _began(process: int) -> float:
    """When the process started, on CLOCK_BOOTTIME in seconds (proc(5), field 22); PIDs are used again."""
    try:
        with Path(f"/proc/{process}/stat").open(encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[19]) / _TICKS
    except (OSError, IndexError, ValueError):
        return 0.0
