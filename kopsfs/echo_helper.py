"""Which system calls make inotify tell of a change that happened in the store?

Run as a process of its own (`python -I -S echo_helper.py MOUNTPOINT DEVICE`), so that the daemon can
answer the requests it causes. Reads one JSON object a line, re-enacts it through the mount, answers
one line. It never touches anything but the file system of the given device: after an unmount the
same path is another directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    mountpoint, device = sys.argv[1], int(sys.argv[2])
    for line in sys.stdin:
        order = json.loads(line)
        error = ""
        try:
            _enact(mountpoint, device, order)
        except OSError as exc:
            error = str(exc)
        sys.stdout.write(json.dumps({"id": order["id"], "error": error}) + "\n")
        sys.stdout.flush()


def _enact(mountpoint: str, device: int, order: dict[str, Any]) -> None:
    root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # O_PATH: an open nobody hears of
    try:
        if os.fstat(root).st_dev != device:
            raise OSError("not mounted any more")
        path = order["path"]
        if order["kind"] == "delete":
            (os.rmdir if order["dir"] else os.unlink)(path, dir_fd=root)
        elif order["dir"]:
            os.mkdir(path, 0o755, dir_fd=root)
        else:
            _write(root, path, create=order["kind"] == "create")
    finally:
        os.close(root)


def _write(root: int, path: str, *, create: bool) -> None:
    """IN_CREATE or IN_MODIFY, then IN_CLOSE_WRITE; no byte is written.

    While a truncation is under way the kernel takes over no other size (fs/fuse/dir.c, FUSE_I_SIZE_UNSTABLE): a reader
    beside it would read the present version up to the end of the one before. So the present size is asked for first;
    it stays, because what is open is not changed in place.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    fd = os.open(path, flags, 0o644, dir_fd=root)
    try:
        if not create:
            size = os.fstat(fd).st_size
            with contextlib.suppress(PermissionError):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
