"""Has the store everything?"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from kopsfs import config, control
from kopsfs.cli import arguments, program
from kopsfs.cli.progress import Progress, count
from kopsfs.errors import InputError
from kopsfs.option import parse_seconds

_EPILOG = """\
examples:
  kopsfs flush /mnt/state
  kopsfs flush && kops update cluster      nothing that was saved here is missing there
  kopsfs flush s3://clusters.example.com   what an earlier mount left over, even when nothing is mounted now

exit status: 0 the store has everything; 1 edits that lost a race are open; 2 usage; 66 no such mount; 69 store
or daemon unreachable; 75 something is left over, and `kopsfs status` or `conflicts` says why; 78 a TIME that is none
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `flush`."""
    parser = program.add_command(
        subparsers, "flush", "Wait until everything that was saved on a mount is in the store.", _EPILOG
    )
    arguments.add_target(parser)
    parser.add_argument("--timeout", metavar="TIME", help="give up after this time, exit 75: 500ms, 5s, 1m")
    arguments.add_json(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    progress = Progress(as_json=parsed.json, verb="flush")
    budget_s = None if parsed.timeout is None else parse_seconds(parsed.timeout, "--timeout")
    try:
        path = arguments.socket_of(parsed)
    except InputError:
        left_over = _left_over(parsed)
        if left_over is None:
            raise
        return _flush_unmounted(left_over, progress, budget_s)
    return _flush(path, progress, budget_s)


def _flush(path: Path, progress: Progress, budget_s: float | None) -> int:
    left = progress.follow(control.request(path, "flush"), budget_s=budget_s)
    if left:
        program.complain(f"{count(left, 'change')} not in the store; kopsfs status says why")
    if progress.held:
        program.complain(f"{count(progress.held, 'write')} held until you decide; kopsfs conflicts")
    if progress.conflicts:
        program.complain(f"{count(progress.conflicts, 'edit')} lost a race, and the store has others; kopsfs conflicts")
    return program.LEFT_OVER if left or progress.held else int(progress.conflicts > 0)


def _left_over(parsed: argparse.Namespace) -> config.Config | None:
    """Find what an earlier mount of the store kept, where nothing serves it now; None where there is nothing."""
    target = arguments.target_of(parsed)
    if target is not None and "://" not in target:
        return None
    file = Path(parsed.config) if parsed.config else None
    loaded = config.load({} if target is None else {"state": target}, config_file=file, require_store=False)
    return loaded if loaded.state and loaded.state_dir.is_dir() else None


def _flush_unmounted(loaded: config.Config, progress: Progress, budget_s: float | None) -> int:
    """Mount the store where nobody looks, flush, and unmount: replaying a journal is what a mount does."""
    from kopsfs.cli.mount import mount

    with tempfile.TemporaryDirectory(prefix="kopsfs-flush-") as directory:
        hidden = Path(directory) / "m"
        hidden.mkdir()
        hidden_config = config.load(
            {"state": loaded.state, "mountpoint": str(hidden), "prefetch": "none", "foreground": False}
            | {"state_dir": str(loaded.state_dir.parent), "cache_dir": str(loaded.cache_dir.parent)}
        )
        status = mount(dataclasses.replace(hidden_config, read_only=False))
        if status:
            return status
        path = control.find(hidden)
        try:
            status = _flush(path, progress, budget_s)
        finally:
            for _ in control.request(path, "umount"):
                pass
    return status
