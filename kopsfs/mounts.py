"""What is mounted where, is it alive, and how is it taken away?

Tables are read from /proc/self/mountinfo (proc(5)): no `stat`, so a dead FUSE mount neither blocks nor
fails there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kopsfs.errors import ConfigError, InputError

FILE_SYSTEM_TYPE: Final = "fuse.kopsfs"
"""The type our mounts carry: `fuse.` and the `subtype` mount option."""

_STATFS_BUDGET_S: Final = 3.0

MOUNTINFO: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    mountpoint: Path
    type: str
    source: str
    device: str
    """`major:minor`; the minor names the connection in /sys/fs/fuse/connections."""

    @property
    def ours(self) -> bool:
        """Say whether kopsfs serves it, or served it until it died."""
        return self.type == FILE_SYSTEM_TYPE


def _unescape(field: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(field))
    return os.fsdecode(raw)


def parse(mountinfo: str) -> list[Mount]:
    """Read the text of a mountinfo file; later lines lie over earlier ones."""
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) < 5 or len(after) < 2:
            continue
        mounts.append(Mount(Path(_unescape(before[4])), after[0], _unescape(after[1]), before[2]))
    return mounts


def mounts() -> list[Mount]:
    """Read the mounts of this mount namespace; empty where /proc is not there."""
    try:
        return parse(MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return []


def mount_at(mountpoint: Path, table: Sequence[Mount] | None = None) -> Mount | None:
    """Say what is mounted exactly there; the topmost where several lie over each other."""
    for mount in reversed(mounts() if table is None else table):
        if mount.mountpoint == mountpoint:
            return mount
    return None


def mount_of(path: Path, table: Sequence[Mount] | None = None) -> Mount | None:
    """Say which mount a path lies in: the deepest mount point above it, or at it.

    Compares names only; `path` is absolute and free of links as `os.path.realpath` gives it.
    """
    best: Mount | None = None
    for mount in mounts() if table is None else table:
        deeper = best is None or len(mount.mountpoint.parts) >= len(best.mountpoint.parts)
        if deeper and path.is_relative_to(mount.mountpoint):
            best = mount
    return best


def is_dead(mountpoint: Path) -> bool:
    """Say whether the daemon of a mount is gone (ENOTCONN).

    Asks by statfs, which the kernel always hands on; it answers a stat from what it remembers. A daemon
    that does not answer within 3 s is there, if not well.
    """
    errors: list[int | None] = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            errors.append(error.errno)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_STATFS_BUDGET_S)
    return errors == [errno.ENOTCONN]


def detach(mountpoint: Path, *, lazy: bool) -> str:
    """Take a mount away through fusermount3, or umount(8) as root.

    Returns:
        Empty, or what went wrong.
    """
    commands = []
    if shutil.which("fusermount3"):
        commands.append(["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)])
    if os.geteuid() == 0 and shutil.which("umount"):
        commands.append(["umount", "-i", *(["-l"] if lazy else []), "--", str(mountpoint)])
    trouble = "neither fusermount3 nor umount can be used here; install fuse3"
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return ""
        trouble = " ".join(done.stderr.split()) or f"{command[0]} failed"
    return trouble


def connection(mount: Mount) -> Path:
    """Give the directory of its controls in fusectl (Documentation/filesystems/fuse.rst)."""
    return Path("/sys/fs/fuse/connections") / mount.device.partition(":")[2]


def abort(mount: Mount) -> None:
    """End all requests of a mount whose daemon is stuck."""
    with contextlib.suppress(OSError):
        (connection(mount) / "abort").write_text("1", encoding="ascii")


def check_free(mountpoint: Path) -> None:
    """Raise InputError where FUSE has something mounted: it would lie below, and what is written there be out of sight."""
    found = mount_at(mountpoint)
    if found is not None and found.type.startswith("fuse"):
        what = "kopsfs" if found.ours else found.type
        raise InputError(f"{mountpoint} is mounted already ({what}, {found.source}); kopsfs umount {mountpoint}")


def clear_dead(mountpoint: Path) -> None:
    """Take away a mount of ours whose daemon is gone; to be called right before mounting there again.

    In between the directory below shows, empty: readers of a node's files must not see that for long.

    Raises:
        ConfigError: it cannot be taken away.
    """
    if is_dead(mountpoint):
        trouble = detach(mountpoint, lazy=True)
        if trouble or is_dead(mountpoint):
            raise ConfigError(f"{mountpoint} is a dead mount that cannot be cleared: {trouble}")
