"""How does a change in the store fire the inotify watchers of this machine?

The kernel tells watchers of what is done *through* the mount, never of invalidations (fuse-peers.md
§5.6). So a helper process re-enacts each remote change: it creates, opens for writing, or unlinks
the name, and the daemon answers those requests as if they did something. Each re-enactment is a
*ticket*: one at a time, valid for one operation on one inode or name, refused when the tree no
longer agrees. It makes no intent, moves no time, and never follows our own uploads, because those
are no changes of the tree (`Tree.apply`).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from kopsfs.fs.inode import Change, Ino, Inode
from kopsfs.fs.tree import Tree
from kopsfs.mounts import mount_at

log = logging.getLogger(__name__)

HANDLE: Final = 1 << 62
"""The handle of every open of the helper."""
QUEUE_MAX: Final = 5_000
"""Changes waiting to be re-enacted; beyond that names are only invalidated, and the log says so."""
ENACT_S_MAX: Final = 5.0
_HELPER: Final = Path(__file__).with_name("echo_helper.py")


@dataclass(slots=True, eq=False)
class Ticket:
    """Leave to re-enact one change."""

    kind: str
    parent: Inode
    name: str
    inode: Inode
    used: bool = False


class Echo:
    """Re-enacts what others did."""

    def __init__(self, tree: Tree, mountpoint: Path, forget_entry: Callable[[Inode, str], None]) -> None:
        self.tree = tree
        self._forget_entry = forget_entry
        self.pid = -1
        """The helper's process id, by which its requests are known."""
        self.enacted = 0
        self._mountpoint = mountpoint
        self._send, self._receive = trio.open_memory_channel[Change](QUEUE_MAX)
        self._ticket: Ticket | None = None
        self._ghosts: dict[tuple[int, str], Inode] = {}
        """What is gone from the tree and not yet from the kernel, by parent and name: the helper's way to it."""
        self._process: trio.Process | None = None
        self._lines = b""
        self._serial = 0
        self._overflowed = False

    # --- what the adapter asks -------------------------------------------------------------------------------------

    def announce(self, changes: Sequence[Change]) -> None:
        """Queue what somebody may be watching: names in directories the kernel knows."""
        for change in changes:
            if change.parent.lookups == 0:
                continue
            try:
                if change.kind == "delete":
                    self._ghosts[change.parent.ino, change.name] = change.inode
                self._send.send_nowait(change)
            except trio.WouldBlock:
                if not self._overflowed:
                    log.info("more than %d remote changes at once: inotify hears of the first ones only", QUEUE_MAX)
                self._overflowed = True
                if change.kind == "delete":
                    self._give_up(change)
        self._overflowed = False

    def about(self, parent: int, name: str) -> Ticket | None:
        """The ticket for this name, if the helper holds one that the tree still agrees with."""
        ticket = self._ticket
        if ticket is None or ticket.used or ticket.parent.ino != parent or ticket.name != name:
            return None
        return ticket if self._agrees(ticket) else None

    def ghost(self, parent: int, name: str) -> Inode | None:
        """What had this name until another client removed it, for the helper alone."""
        directory = self.tree.inodes.get(Ino(parent))
        if directory is not None and name in (directory.children or {}):
            return None  # somebody made the name anew
        return self._ghosts.get((parent, name))

    def about_inode(self, ino: int) -> Ticket | None:
        """The ticket for this file."""
        ticket = self._ticket
        if ticket is None or ticket.kind == "delete" or ticket.inode.ino != ino:
            return None
        return ticket if self._agrees(ticket) else None

    def _agrees(self, ticket: Ticket) -> bool:
        present = (ticket.parent.children or {}).get(ticket.name)
        if ticket.kind == "delete":
            return present is None and self._ghosts.get((ticket.parent.ino, ticket.name)) is ticket.inode
        return self.tree.linked(ticket.parent) and present is ticket.inode

    def _give_up(self, change: Change) -> None:
        """Nobody will be told, but the kernel must not go on believing in the name."""
        self._ghosts.pop((change.parent.ino, change.name), None)
        self._forget_entry(change.parent, change.name)

    # --- the service -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Re-enact one change after the other, until cancelled."""
        try:
            async for change in self._receive:
                await self._enact(change)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the helper: it must not keep the mount busy."""
        if self._process is not None:
            self._process.kill()
            self._process = None
            self.pid = -1

    async def _enact(self, change: Change) -> None:
        ticket = Ticket(change.kind, change.parent, change.name, change.inode)
        if not self._agrees(ticket) or change.parent.lookups == 0:
            if change.kind == "delete":
                self._give_up(change)
            return
        order = {"kind": change.kind, "path": change.path, "dir": change.inode.is_dir}
        self._ticket = ticket
        try:
            with trio.move_on_after(ENACT_S_MAX) as timer:
                await self._order(order)
                self.enacted += 1
            if timer.cancelled_caught:
                self.stop()
        except (OSError, trio.BrokenResourceError, ValueError) as exc:
            log.debug("echo of %s failed: %s", order, exc)
            self.stop()
        finally:
            self._ticket = None
            if change.kind == "delete":
                self._ghosts.pop((change.parent.ino, change.name), None)
                if not ticket.used:
                    self._forget_entry(change.parent, change.name)

    async def _order(self, order: dict[str, Any]) -> None:
        process = self._process or await self._spawn()
        assert process.stdin is not None
        assert process.stdout is not None
        self._serial += 1
        await process.stdin.send_all(json.dumps({"id": self._serial, **order}).encode() + b"\n")
        while b"\n" not in self._lines:
            data = await process.stdout.receive_some(4096)
            if not data:
                raise BrokenPipeError("the echo helper ended")
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        answer = json.loads(line)
        if answer["error"]:
            log.debug("echo of %s: %s", order, answer["error"])

    async def _spawn(self) -> trio.Process:
        self._lines = b""
        # The device number comes from mountinfo: asking the mount from here would wait for ourselves.
        device = _device_of(self._mountpoint)
        self._process = process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", str(_HELPER), str(self._mountpoint), str(device)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        self.pid = process.pid
        return process


def _device_of(mountpoint: Path) -> int:
    """st_dev of a mount, without a request to it. Raises OSError."""
    found = mount_at(mountpoint)
    if found is None:
        raise FileNotFoundError(mountpoint)
    major, _, minor = found.device.partition(":")
    return os.makedev(int(major), int(minor))
