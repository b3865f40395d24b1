"""What if one of the daemon's fsyncs were not there?

Put before everything else on PYTHONPATH. With KOPSFS_TEST_SYNCS=FILE each fsync's place in the source is noted
there, once; with KOPSFS_TEST_NO_SYNC=PLACE that one does nothing. A place is `module.py:function`; SQLite's
own syncs are the places `state.db` and `cache.db`.
"""

# mypy: ignore-errors
import os
import sqlite3
import sys

_real = os.fsync
_connect = sqlite3.connect
_NOTES = os.environ.get("KOPSFS_TEST_SYNCS", "")
_WITHOUT = os.environ.get("KOPSFS_TEST_NO_SYNC", "")
_noted = set()


def _note(place):
    if _NOTES and place not in _noted:
        _noted.add(place)
        with open(_NOTES, "a", encoding="utf-8") as file:
            file.write(place + "\n")


def _fsync(fd):
    frame = sys._getframe(1)
    directory = frame.f_code.co_name == "sync_directory"
    if directory:
        frame = frame.f_back
    file = os.path.basename(frame.f_code.co_filename)
    place = f"{file}:{frame.f_code.co_name}{' of a directory' if directory else ''}"
    _note(place)
    if place != _WITHOUT:
        _real(fd)


class _Connection(sqlite3.Connection):
    place = ""

    def execute(self, sql, *parameters):
        if "synchronous" in sql.lower():
            _note(self.place)
            if self.place == _WITHOUT:
                sql = "PRAGMA synchronous = OFF"
        return super().execute(sql, *parameters)


def _connected(database, *arguments, **words):
    name = os.path.basename(os.fspath(database))
    kind = type("_Connection", (_Connection,), {"place": name})
    return _connect(database, *arguments, factory=kind, **words)


if _NOTES or _WITHOUT:
    os.fsync = _fsync
    sqlite3.connect = _connected
