"""Where do log lines go, and how do they look?

One line per event to stderr, with journald's `<N>` priorities where stderr is the journal; after
the daemon has left its terminal to syslog, or to the file that was asked for. `kopsfs` loggers only:
what SDKs log at DEBUG contains credentials.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Final

from typing_extensions import override

_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
SYSLOG: Final = Path("/dev/log")


class LineFormatter(logging.Formatter):
    """One event, one line; a traceback follows with the same priority on each of its lines."""

    def __init__(self, *, journal: bool, clock: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s" if clock else "%(message)s")
        self.default_msec_format = "%s.%03d"
        self._journal = journal

    @override
    def format(self, record: logging.LogRecord) -> str:
        message, *traceback = super().format(record).split("\n")
        lines = [message, *traceback] if record.exc_info else ["\\n".join((message, *traceback))]
        if not self._journal:
            return "\n".join(lines)
        number = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{number}>{line}" for line in lines)


def _stderr_is_journal() -> bool:
    """Compare stderr with JOURNAL_STREAM (systemd.exec(5)): the variable is inherited, the stream may not be."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def set_up(level: str, *, file: Path | None = None, file_bytes_max: int = 0, daemon: bool = False) -> None:
    """Send kopsfs's log where it belongs; replaces what an earlier call set up.

    Args:
        level: debug, info, warning or error.
        file: where to, instead of stderr or syslog; logrotate(8) may move it away at any time.
        file_bytes_max: where nobody rotates: start over at this size, keeping one older file; 0: no limit.
        daemon: stderr is no place to write to; without `file` syslog is.

    Raises:
        OSError: the file cannot be opened.
    """
    root = logging.getLogger("kopsfs")
    handler: logging.Handler
    if file is not None:
        if file_bytes_max:
            handler = logging.handlers.RotatingFileHandler(
                file, maxBytes=file_bytes_max, backupCount=1, encoding="utf-8", errors="backslashreplace"
            )
        else:
            handler = logging.handlers.WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(LineFormatter(journal=False, clock=True))
    elif daemon:
        syslog = logging.handlers.SysLogHandler(str(SYSLOG), facility="daemon")
        syslog.ident = f"kopsfs[{os.getpid()}]: "
        handler = syslog
        handler.setFormatter(LineFormatter(journal=False, clock=False))
    else:
        handler = logging.StreamHandler(sys.stderr)
        journal = _stderr_is_journal()
        handler.setFormatter(LineFormatter(journal=journal, clock=not journal))
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
    logging.raiseExceptions = False
