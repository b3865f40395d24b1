"""Can this directory be mounted on, and may this user mount?"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from kopsfs.errors import ConfigError, InputError
from kopsfs.mounts import check_free, is_dead, mount_at

FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")


def check_fuse(*, allow_other: bool) -> None:
    """Check that FUSE can be used.

    Raises:
        ConfigError: what is missing, and how it is had.
    """
    if not FUSE_DEVICE.exists():
        raise ConfigError(
            "/dev/fuse is not there: load the kernel module (modprobe fuse), or give the container the device"
        )
    if os.geteuid() == 0:
        return
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise ConfigError("/dev/fuse may not be opened by this user: make it 0666 (udev does), or mount as root")
    if not shutil.which("fusermount3"):
        raise ConfigError("fusermount3 is not installed, and only root can mount without it: apt install fuse3")
    if allow_other and not _user_allow_other():
        raise ConfigError(f"allow_other needs the line user_allow_other in {FUSE_CONF}, or root")


def _user_allow_other() -> bool:
    try:
        lines = FUSE_CONF.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return "user_allow_other" in (line.strip() for line in lines)


def check_mountpoint(mountpoint: Path) -> str:
    """Check that a store can be mounted there; the dead mount of a daemon of ours does not stand in the way.

    It is `mounts.clear_dead` that takes it away, at the last moment.

    Returns:
        Empty, or what the user should know.

    Raises:
        InputError: it is missing, no directory, not empty, or in use; what to do about it.
    """
    if is_dead(mountpoint):
        dead = mount_at(mountpoint)
        if dead is None or not dead.ours:
            raise InputError(f"{mountpoint} is a dead mount, not of kopsfs; fusermount3 -uz {mountpoint}")
        return f"the daemon of {mountpoint} is gone; its dead mount is replaced"
    check_free(mountpoint)
    try:
        mode = mountpoint.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise InputError(f"{mountpoint} is no directory")
        with os.scandir(mountpoint) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise InputError(f"{mountpoint} does not exist; mkdir -p {mountpoint}") from None
    except OSError as error:
        raise InputError(f"{mountpoint} cannot be mounted on: {error.strerror}") from None
    if os.geteuid() != 0 and not os.access(mountpoint, os.W_OK):  # Source: fusermount3 asks for it, check_perm
        raise InputError(f"{mountpoint} may not be written by this user, and so not mounted on; take one of your own")
    if first is not None:
        raise InputError(f"{mountpoint} is not empty (it has {first.name!r}); mount on an empty directory")
    return ""
