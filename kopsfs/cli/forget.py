"""How is a cached answer dropped?"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from kopsfs import control
from kopsfs.cli import arguments, program
from kopsfs.errors import InputError
from kopsfs.mounts import mount_of

_EPILOG = """\
examples:
  kopsfs forget /mnt/state/c1.example.com     ask the store again about everything below
  kopsfs forget /mnt/state

Only copies are dropped, never a change that is not uploaded yet.

exit status: 0 done; 2 usage; 66 not on a mount; 69 the daemon is gone
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `forget`."""
    parser = program.add_command(
        subparsers,
        "forget",
        "Drop what is cached of a path on a mount, contents and names; the store is asked again.",
        _EPILOG,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a path on a mount")
    arguments.add_json(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    for text in parsed.paths:
        path = Path(os.path.realpath(text))
        mount = mount_of(path)
        if mount is None or not mount.ours:
            raise InputError(f"{text} is not on a kopsfs mount")
        below = "" if path == mount.mountpoint else str(path.relative_to(mount.mountpoint))
        for answer in control.request(control.find(mount.mountpoint), "forget", path=below):
            if parsed.json:
                print(json.dumps(answer))
    return 0
