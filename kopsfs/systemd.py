"""What does systemd want to hear?

The datagrams of sd_notify(3), without libsystemd.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1`, `STATUS=…`, `WATCHDOG=1`, `STOPPING=1` (lines may be combined with newlines).

    Never raises: a service manager that does not listen must not stop a mount.

    Returns:
        Whether there was somebody to tell.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send(state.encode())
    except OSError:
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Say how often `WATCHDOG=1` is due: half of WATCHDOG_USEC (sd_watchdog_enabled(3)); None without a watchdog."""
    try:
        usec = int(os.environ.get("WATCHDOG_USEC", "0"))
        meant = int(os.environ.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return usec / 2e6 if usec > 0 and meant == os.getpid() else None
