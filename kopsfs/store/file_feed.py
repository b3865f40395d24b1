"""What changes in a directory, as the kernel tells it?

`Feed` follows every directory below a root with inotify and names the keys that were written, replaced
or removed, by whom ever; a prefix where everything below it may have changed, and the empty one when the
queue overflowed. What happens between a new directory's birth and its watch is found by looking into it
once. Changes made on another machine of a network file system are never told; `sees` says where that is so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from kopsfs.mounts import mounts
from kopsfs.store.driver import Key

log = logging.getLogger(__name__)

BLIND: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "gfs2", "ocfs2", "lustre"}
)
"""File systems that other machines change without this kernel's knowing. Source: inotify(7), Limitations and caveats."""


def sees(root: Path) -> bool:
    """Whether inotify tells all that happens below a directory, and is there to be asked."""
    if find_spec("inotify_simple") is None:
        return False
    real = Path(os.path.realpath(root))
    kind = ""
    for mount in mounts():
        if real.is_relative_to(mount.mountpoint):
            kind = mount.type  # the last of several mounts on one place is the one seen
    return kind not in BLIND and not kind.startswith("fuse")


class Feed:
    """A thread that reads inotify's queue from now until `stop`."""

    def __init__(self, root: Path, changed: Callable[[Key], None], *, is_ours: Callable[[str], bool]) -> None:
        from inotify_simple import INotify, flags

        self._root = root
        self._changed = changed
        self._is_ours = is_ours
        self._flags = flags
        self._mask = (
            flags.CLOSE_WRITE
            | flags.CREATE
            | flags.DELETE
            | flags.MOVED_FROM
            | flags.MOVED_TO
            | flags.ONLYDIR
            | flags.DONT_FOLLOW
            | flags.EXCL_UNLINK
        )
        self._inotify = INotify()
        self._directories: dict[int, str] = {}
        """Watch descriptor → the directory's keys' beginning, empty or ending in `/`."""
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._follow("", tell=False)
        self._thread = threading.Thread(target=self._run, name="kopsfs-inotify", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; may be called twice."""
        if self._stop_write < 0:
            return
        os.close(self._stop_write)
        self._stop_write = -1
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _follow(self, prefix: str, *, tell: bool) -> None:
        """Watch a directory and those below it; with `tell`, name the files that are there already."""
        path = Path(self._root, prefix)
        try:
            self._directories[self._inotify.add_watch(path, self._mask)] = prefix
            entries = list(os.scandir(path))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        except OSError as error:
            log.warning("changes below a directory are found by polling only path=%s err=%s", path, error)
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self._follow(f"{prefix}{entry.name}/", tell=tell)
            elif tell:
                self._tell(prefix, entry.name)

    def _tell(self, prefix: str, name: str) -> None:
        if not self._is_ours(name):
            with contextlib.suppress(UnicodeEncodeError):
                key = prefix + name
                key.encode()
                self._changed(Key(key))

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._inotify.fileno(), select.POLLIN)
        poller.register(self._stop_read, select.POLLHUP)
        try:
            while all(file != self._stop_read for file, _ in poller.poll()):
                for event in self._inotify.read(timeout=0):
                    self._heard(event.wd, event.mask, event.name)
        finally:
            self._inotify.close()
            os.close(self._stop_read)

    def _heard(self, watch: int, mask: int, name: str) -> None:
        flags = self._flags
        if mask & flags.Q_OVERFLOW:
            log.info("inotify lost events root=%s", self._root)
            self._changed(Key(""))
        elif mask & flags.IGNORED:
            self._directories.pop(watch, None)
        elif (prefix := self._directories.get(watch)) is None:
            return
        elif not mask & flags.ISDIR:
            if not mask & flags.CREATE:
                self._tell(prefix, name)
        elif mask & (flags.CREATE | flags.MOVED_TO):
            self._follow(f"{prefix}{name}/", tell=True)
        elif mask & flags.MOVED_FROM:
            self._moved_away(f"{prefix}{name}/")

    def _moved_away(self, gone: str) -> None:
        """Forget watches below a directory that was renamed; its own files are named where it arrives."""
        for watch, prefix in list(self._directories.items()):
            if prefix.startswith(gone):
                del self._directories[watch]
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(watch)
        self._changed(Key(gone))
