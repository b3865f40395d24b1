"""How does a mount start?

Settings, checks, directories; then the daemon, here (`--foreground`) or in the background. In the
background the command returns when the root directory answers, with the daemon's error if it does
not. The fork happens before trio, an SDK or a thread exists.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kopsfs import log, places
from kopsfs.cli import arguments, program
from kopsfs.cli.mountpoint import check_fuse, check_mountpoint
from kopsfs.config import Config
from kopsfs.errors import ConfigError, KopsfsError

_EPILOG = """\
examples:
  kopsfs mount s3://clusters.example.com /mnt/state
  kopsfs mount /mnt/state                      the store kops would use ($KOPS_STATE_STORE, ~/.kops.yaml …)
  kopsfs mount --ro --allow-other --cache-secrets=disk s3://clusters.example.com /mnt/state     on a node
  kopsfs mount --config /etc/kopsfs/prod.toml  everything in a file; keys are long options with _ for -

The mount point must be an empty directory. A size is 64M or 1G, a time 500ms, 5s or 1m.
Every long option is also a variable: --max-staleness is KOPSFS_MAX_STALENESS.

exit status: 0 mounted; 2 usage; 66 mount point missing, not empty or in use; 69 store unreachable; 75 something is left over
(--foreground); 77 denied; 78 configuration
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `mount`."""
    parser = program.add_command(
        subparsers, "mount", "Mount a kops state store as a local directory. Returns when `ls` answers.", _EPILOG
    )
    parser.add_argument("places", nargs="*", metavar="[STORE] MOUNTPOINT", help="store URL, and empty directory")
    arguments.add_options(parser, without={"mountpoint"})
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    if len(parsed.places) > 2:
        raise program.UsageError(f"too many arguments: {' '.join(parsed.places)}; kopsfs mount [STORE] MOUNTPOINT")
    *store, mountpoint = parsed.places or [None]
    if mountpoint is not None and "://" in mountpoint and not Path(mountpoint).exists():
        store, mountpoint = [mountpoint], None
    if store and parsed.option_state is not None:
        raise program.UsageError(f"two stores: {store[0]} and --state {parsed.option_state}")
    more: dict[str, Any] = {"mountpoint": mountpoint, "state": store[0] if store else None}
    return mount(arguments.load_config(parsed, **more))


def mount(config: Config) -> int:
    """Mount as `config` says; the whole command after the arguments were read.

    Raises:
        KopsfsError: it cannot be mounted.
    """
    if config.mountpoint == Path():
        raise ConfigError("no mount point was given; kopsfs mount [STORE] MOUNTPOINT")
    check_fuse(allow_other=config.allow_other)
    note = check_mountpoint(config.mountpoint)
    if note:
        program.complain(note)
    if config.foreground:
        _prepare(config)
        _set_up_log(config, daemon=False)
        return _serve(config, lambda _note: None)
    return _in_background(config)


def _prepare(config: Config) -> None:
    """Make the directories, once the URL is one: a mistyped one leaves none behind.

    Raises:
        ConfigError: it is none, is a directory that would show itself, or directories cannot be made.
    """
    from kopsfs.store import parse

    store = parse(config.state, config.environ)
    if store.scheme == "file" and config.mountpoint.is_relative_to(os.path.realpath(store.bucket)):
        raise ConfigError(f"{config.mountpoint} lies inside the store {store.bucket}; mount it elsewhere")
    for directory, what in ((config.state_dir, "state directory"), (config.cache_dir, "cache directory")):
        places.prepare_directory(directory, what, os.geteuid(), mountpoint=config.mountpoint)


def _serve(config: Config, ready: Callable[[str], None]) -> int:
    from kopsfs import daemon

    return daemon.run(config, ready)


def _set_up_log(config: Config, *, daemon: bool) -> None:
    """Log to stderr; a daemon to syslog, or where there is none to a small file in the state directory."""
    file, bytes_max = config.log_file, 0
    if daemon and file is None and not log.SYSLOG.exists():
        file, bytes_max = config.state_dir / "log", 1 << 20
    try:
        log.set_up(config.log_level, file=file, file_bytes_max=bytes_max, daemon=daemon)
    except OSError as error:
        raise ConfigError(f"the log file {file} cannot be opened: {error.strerror}") from error


def _in_background(config: Config) -> int:
    """Fork; the parent waits for one message: what to print, if anything, and the exit status where it is an error."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = program.BUG
        try:
            status = _be_daemon(config, writing)
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        try:
            message = pipe.readline()
        except KeyboardInterrupt:
            os.kill(child, signal.SIGINT)  # it has left the terminal, and would go on
            os.waitpid(child, 0)
            raise
    if not message:
        _pid, how = os.waitpid(child, 0)
        program.complain(f"the daemon died while mounting (status {os.waitstatus_to_exitcode(how)})")
        return program.BUG
    answer = json.loads(message)
    if answer["said"]:
        program.complain(answer["said"])
    return int(answer.get("status", 0))


def _be_daemon(config: Config, writing: int) -> int:
    """Leave the terminal, mount, and tell the parent once; stderr stays until then, for fusermount3's words."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    told = False

    def tell(message: dict[str, Any]) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writing, json.dumps(message).encode() + b"\n")
            os.close(writing)

    def ready(note: str) -> None:
        tell({"said": note})
        os.dup2(null, 2)

    try:
        _prepare(config)
        _set_up_log(config, daemon=True)
        status = _serve(config, ready)
    except KopsfsError as error:
        status = program.exit_status(error)
        tell({"said": str(error), "status": status})
    except Exception as error:  # noqa: BLE001 — the parent is waiting for a word
        status = program.BUG
        tell({"said": f"a bug: {type(error).__name__}: {error}; --foreground --debug shows more", "status": status})
    tell({"said": "the daemon ended before the root directory answered", "status": status or program.BUG})
    return status
