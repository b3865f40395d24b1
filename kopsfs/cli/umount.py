"""How does a mount end?

The daemon uploads what is left, says how much that is, and goes. Where no daemon answers, the mount
is taken away all the same: what was acknowledged lies in the journal, and the next mount of the same
store sends it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kopsfs import control
from kopsfs.cli import arguments, program
from kopsfs.cli.progress import Progress, count
from kopsfs.errors import InputError
from kopsfs.mounts import Mount, abort, detach, mount_at, mounts

_EPILOG = """\
examples:
  kopsfs umount /mnt/state
  kopsfs umount --lazy /mnt/state          at once, even while files are open; uploads go on in the background
  kopsfs umount s3://clusters.example.com  by store, where it is mounted once

exit status: 0 nothing is left to upload; 2 usage; 66 no such mount; 75 something is left over (it is kept, and sent by
the next mount), or the mount is in use
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `umount`."""
    parser = program.add_command(subparsers, "umount", "Upload what is left, then unmount.", _EPILOG)
    arguments.add_target(parser)
    parser.add_argument(
        "-l", "--lazy", action="store_true", help="detach at once, even while files are open; do not wait for uploads"
    )
    arguments.add_json(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    target = arguments.target_of(parsed)
    try:
        path = control.find(target) if target is not None else arguments.socket_of(parsed)
    except (InputError, control.StuckError):
        mount = None if target is None else _mount_named(target)
        if mount is None:
            raise
        return _take_away(mount)
    progress = Progress(as_json=parsed.json, verb="umount")
    try:
        answers = control.request(path, "umount", lazy=parsed.lazy)
        left = progress.follow(answers, until="detached" if parsed.lazy else None)
    except control.RefusedError as error:
        program.complain(f"{str(error).rstrip('.')}; close what uses it, or kopsfs umount --lazy")
        return program.LEFT_OVER
    except control.StuckError as error:
        mount = None if target is None else _mount_named(target)
        if mount is None:
            raise
        program.complain(f"{error}; its requests are aborted")
        abort(mount)
        return _take_away(mount)
    if parsed.lazy:
        return 0
    if left > progress.held:
        program.complain(
            f"{count(left - progress.held, 'change')} could not be uploaded; kept on this machine, "
            "and sent by the next mount of the store"
        )
    if progress.held:
        program.complain(f"{count(progress.held, 'write')} held until you decide; mount again, and kopsfs conflicts")
    if progress.conflicts:
        program.complain(
            f"{count(progress.conflicts, 'edit')} lost a race, and is kept; mount again, and kopsfs conflicts"
        )
    return program.LEFT_OVER if left else 0


def _mount_named(target: str) -> Mount | None:
    """Find a mount of ours in the mount table: by mount point, or by store if it is there once."""
    if "://" in target:
        found = [mount for mount in mounts() if mount.ours and mount.source == target.removesuffix("/")]
        return found[0] if len(found) == 1 else None
    mount = mount_at(Path(os.path.realpath(target)))
    return mount if mount is not None and mount.ours else None


def _take_away(mount: Mount) -> int:
    """Unmount where no daemon answers."""
    trouble = detach(mount.mountpoint, lazy=True)
    if trouble:
        raise InputError(f"{mount.mountpoint} cannot be unmounted: {trouble}")
    program.complain(
        f"no daemon answered for {mount.mountpoint}; unmounted. What it had not uploaded is kept, "
        "and sent by the next mount of the store"
    )
    return 0
