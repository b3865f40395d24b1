"""Where on this machine do things lie?

State (must not be lost), cache (may be), and control sockets; each named so that a person can read
it and two stores, or two users, never share it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from kopsfs.errors import ConfigError
from kopsfs.mounts import Mount, mount_of, mounts


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:10]


def _readable(url: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", url).strip("-.")[:40] or "store"


def store_slug(url: str, uid: int) -> str:
    """Name the directory of one store and user."""
    return f"{_readable(url)}-{_digest(f'{url}{chr(0)}{uid}')}"


def socket_name(url: str, mountpoint: Path) -> str:
    """Name the control socket; either half of it is enough to find it."""
    return f"{_readable(url)}-{_digest(url)}-{_digest(str(mountpoint))}.sock"


def socket_pattern(*, url: str | None = None, mountpoint: Path | None = None) -> str:
    """Give the glob pattern for the sockets of a store, of a mount point, or of all."""
    return f"*-{_digest(url) if url else '*'}-{_digest(str(mountpoint)) if mountpoint else '*'}.sock"


def runtime_dir(environ: Mapping[str, str], uid: int) -> Path:
    """Give the directory of control sockets: /run/kopsfs for root, else below $XDG_RUNTIME_DIR."""
    if uid == 0:
        return Path("/run/kopsfs")
    base = environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/"):
        return Path(base) / "kopsfs"
    system = Path(f"/run/user/{uid}")
    return system / "kopsfs" if system.is_dir() else Path(f"/tmp/kopsfs-{uid}")  # noqa: S108 — checked to be ours


def store_directory(field: str, base: Path | None, url: str, environ: Mapping[str, str], home: Path, uid: int) -> Path:
    """Give the directory of one store and user below a base: what was asked for, systemd's, root's, or XDG's.

    Args:
        field: `state_dir` or `cache_dir`.
        base: `--state-dir` or `--cache-dir`, if given.
        url: the state store.
        environ: where STATE_DIRECTORY, CACHE_DIRECTORY (systemd.exec(5)) and XDG_*_HOME are looked up;
            platformdirs, which reads os.environ only, would miss what a caller passes in.
        home: the user's home directory.
        uid: the user.
    """
    state = field == "state_dir"
    systemd = environ.get("STATE_DIRECTORY" if state else "CACHE_DIRECTORY", "")
    xdg = environ.get("XDG_STATE_HOME" if state else "XDG_CACHE_HOME", "")
    if base is None:
        if systemd:
            base = Path(systemd.split(":")[0])
        elif uid == 0:
            base = Path("/var/lib/kopsfs" if state else "/var/cache/kopsfs")
        elif xdg.startswith("/"):
            base = Path(xdg) / "kopsfs"
        else:
            base = home / (".local/state" if state else ".cache") / "kopsfs"
    return Path(os.path.realpath(base)) / store_slug(url, uid)


def prepare_directory(directory: Path, what: str, uid: int, *, mountpoint: Path | None = None) -> None:
    """Make a private directory and everything above it, or say why it cannot be used.

    Args:
        directory: absolute, without links.
        what: how messages call it: `state directory`.
        uid: who must own it.
        mountpoint: where the mount is going to be; it must not swallow the directory.

    Raises:
        ConfigError: it lies in a mount of kopsfs, belongs to somebody else, or cannot be made.
    """
    around: Mount | None = mount_of(directory, mounts())
    if around is not None and around.ours:
        raise ConfigError(f"the {what} {directory} lies inside the kopsfs mount {around.mountpoint}; choose another")
    if mountpoint is not None and directory.is_relative_to(mountpoint):
        raise ConfigError(f"the {what} {directory} lies inside the mount point {mountpoint}; choose another")
    try:
        made = [above for above in (directory, *directory.parents) if not above.exists()]
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        for name in made:
            sync_directory(name.parent)
    except OSError as error:
        raise ConfigError(f"the {what} {directory} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"the {what} {directory} is no directory")
    if found.st_uid != uid:
        raise ConfigError(f"the {what} {directory} belongs to user {found.st_uid}, not to {uid}; choose another")
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def sync_directory(directory: Path) -> None:
    """Make the names in it survive a power cut: syncing a file does not promise its name (fsync(2)).

    Raises:
        OSError: it cannot be opened, or its disk fails.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
