"""Who opens everything, who runs when, and how does it end?

The daemon joins what must not know each other: store, file system, kernel, control socket, guard.
One task tree:

    run
    └── services ........... outlive requests
        ├── refresh, uploads, content fetchers, control socket, signals, watchdog
        └── the kernel's requests (pyfuse3.main), whose end begins the drain

A crash leaves the mount point answering ENOTCONN on purpose, never an empty directory; the journal
makes stopping safe at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from kopsfs import control, fuse
from kopsfs.commands import Commands
from kopsfs.config import Config
from kopsfs.echo import Echo
from kopsfs.errors import ConfigError, DeniedError, KopsfsError, StoreError, TransientError
from kopsfs.fs.assembly import Options, assemble
from kopsfs.fs.cache import Cache
from kopsfs.fs.filesystem import Filesystem
from kopsfs.fs.guard import make_guard
from kopsfs.fs.journal import Conflict, Journal
from kopsfs.fs.parts import Parts
from kopsfs.mounts import check_free, clear_dead, detach
from kopsfs.store import Store, open_store, parse
from kopsfs.systemd import notify, watchdog_interval_s

log = logging.getLogger(__name__)

EX_OK: Final = 0
EX_LEFT: Final = 75
"""Something is left over; sysexits.h EX_TEMPFAIL."""
HANDOVER_S: Final = 10.0
LEAVE_S: Final = 10.0
"""After SIGTERM: how long who still uses the mount (a shell in it, a container with a copy of it) has to leave."""


def run(config: Config, ready: Callable[[str], None]) -> int:
    """Mount and serve until unmounted; `ready` is called when the root directory answers, with what a person should know.

    Returns the exit status. Raises KopsfsError where it cannot be mounted.
    """
    lock = _lock_state(config)
    try:
        return trio.run(_Daemon(config, ready).main)
    except BaseExceptionGroup as group:
        cause = _cause(group)
        if not isinstance(cause, KopsfsError | KeyboardInterrupt):
            log.exception("a bug stops the daemon; the journal has what was acknowledged")
        raise cause from group
    finally:
        os.close(lock)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception a person should read about: ours before others, the first of its kind."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        exc = stack.pop(0)
        if isinstance(exc, BaseExceptionGroup):
            stack = [*exc.exceptions, *stack]
        else:
            leaves.append(exc)
    return next((e for e in leaves if isinstance(e, KopsfsError)), leaves[0])


def _lock_state(config: Config) -> int:
    """Only one daemon may owe what is in a state directory. Raises ConfigError."""
    fd = os.open(config.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + HANDOVER_S
    asked = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, socket = os.pread(fd, 4096, 0).decode(errors="replace").partition(" ")
            if not asked:
                asked = True
                if not _ask_to_hand_over(Path(socket)):
                    os.close(fd)
                    raise ConfigError(
                        f"{config.state_dir} is in use by the mount of process {pid}; "
                        "give a second mount of this store its own --state-dir and --cache-dir"
                    ) from None
            if time.monotonic() > deadline:
                os.close(fd)
                raise ConfigError(f"process {pid} still uploads what {config.state_dir} holds; try again") from None
            time.sleep(0.05)
        else:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {config.control_socket}".encode(), 0)
            return fd


def _ask_to_hand_over(socket: Path) -> bool:
    """A predecessor that is unmounted and still drains stops, and leaves the rest to us."""
    try:
        for answer in control.request(socket, "handover"):
            if answer.get("handover"):
                return True
    except (KopsfsError, ValueError) as exc:  # nobody there, a refusal, or no JSON
        log.debug("handover refused: %s", exc)
    return False


class _Daemon:
    """One mount's life."""

    def __init__(self, config: Config, ready: Callable[[str], None]) -> None:
        self.config = config
        self.ready = ready
        self.notifier = fuse.Notifier()
        self.draining = trio.Event()
        self.drained = trio.Event()
        self.findings: dict[str, list[str]] = {}
        self._to_review, self._reviews = trio.open_memory_channel[tuple[str, str, bytes]](1000)
        self.stop_drain = trio.CancelScope()
        self.mounted = False
        self.detached = False
        """Out of sight, but served for those who are still in it."""
        self.leaving = trio.Event()
        self.announced = False
        """Somebody may rely on the mount: from here on it is not taken away because of a bug."""

    async def main(self) -> int:
        config = self.config
        store = open_store(config.state, state_dir=config.state_dir, **config.store_settings)
        journal = Journal(config.state_dir)
        journal.load()
        cache = Cache(config.cache_dir, config.cache_size_bytes)
        cache.open()
        try:
            async with trio.open_nursery() as services:
                self.parts = self._build(store, journal, cache, services)
                self.fs = Filesystem(self.parts)
                status = await self._serve(services)
                services.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.parts.committer.stop()
                with trio.move_on_after(5):
                    await store.aclose()
            cache.close()
        return status

    def _build(self, store: Store, journal: Journal, cache: Cache, services: trio.Nursery) -> Parts:
        config = self.config
        prefix = parse(config.state, config.environ).prefix
        options = Options(
            prefix=prefix,
            max_staleness_s=config.max_staleness_s,
            refresh_s=config.refresh_s,
            revalidate_budget_s=config.revalidate_budget_s,
            request_budget_s=config.request_budget_s,
            watch=config.watch,
            prefetch=config.prefetch,
            prefetch_size_bytes=config.prefetch_size_bytes,
            memory_size_bytes=config.memory_size_bytes,
            secrets_on_disk=config.cache_secrets == "disk",
            upload_delay_s=config.upload_delay_s,
            delete_delay_s=config.delete_delay_s,
            uid=os.geteuid() if config.uid is None else config.uid,
            gid=os.getegid() if config.gid is None else config.gid,
            umask=config.umask or 0,
            read_only=config.read_only,
            write_through=config.write_mode == "through",
            fsync_journal=config.fsync == "journal",
        )
        guard = make_guard(config.guard, prefix, self.findings, _document_guard, self._review_soon)
        parts = assemble(store, journal, cache, options, guard=guard, findings=self.findings, services=services)
        parts.refresh.kernel = self.notifier
        if config.on_conflict:
            parts.writeback.on_conflict = self._tell_conflict
        return parts

    async def _serve(self, services: trio.Nursery) -> int:
        config = self.config
        replayed = self.fs.restore()
        warm = "" in self.parts.refresh.scopes
        first = trio.Event()
        failure: list[StoreError] = []
        services.start_soon(self._first_listing, first, failure)
        self.echo = Echo(self.parts.tree, config.mountpoint, self.notifier.forget_entry)
        self.notifier.on_change = self.echo.announce
        self.operations = fuse.Operations(self.fs, self.echo, request_budget_s=config.request_budget_s)
        self._mount()
        try:
            services.start_soon(self._signals)
            if not warm:
                with trio.move_on_after(config.request_budget_s) as timer:
                    await first.wait()
                if failure:
                    raise failure[0]
                if timer.cancelled_caught:
                    raise TransientError("mount", config.state, self._last_error())
            self.notifier.start()
            commands = Commands(self.fs, config, self.operations, self)
            await services.start(control.serve, config.control_socket, commands.table())
            services.start_soon(self.parts.refresh.run)
            self.parts.store.watch(self.parts.refresh.hint)
            services.start_soon(self.echo.run)
            services.start_soon(self._review)
            services.start_soon(self._watchdog)
            services.start_soon(self._leave)
            log.info(
                "mounted store=%s mountpoint=%s keys=%d replayed=%d",
                config.state, config.mountpoint, len(self.parts.tree.stored), replayed,
            )  # fmt: skip
            note = ""
            if not warm and not self.parts.tree.stored:
                note = f"nothing is stored below {config.state}: is the prefix right?"
                log.info("%s", note)
            services.start_soon(trio.to_thread.run_sync, fuse.raise_limits, config.mountpoint)
            gc.freeze()  # what was loaded lives as long as the mount: no collection need look at it
            gc.set_threshold(20_000, 20, 50)
            notify("READY=1")
            self.ready(note)
            self.announced = True
            await fuse.serve(self.operations)
        except BaseException:
            # Semantics: a daemon that dies leaves ENOTCONN, never an empty directory (promise 5).
            self._close_mount(unmount=not self.announced)
            raise
        # What is detached already must not take away what somebody has mounted there since.
        self._close_mount(unmount=not self.detached)
        status = await self._drain()
        self.drained.set()
        with trio.move_on_after(1):
            await commands.idle.wait()  # whoever asked for the unmount is told how it ended
        return status

    def _mount(self) -> None:
        config = self.config
        clear_dead(config.mountpoint)
        check_free(config.mountpoint)  # again: another mount may have begun when this one did
        try:
            fuse.mount(self.operations, config.mountpoint, source=config.state, allow_other=config.allow_other)
        except RuntimeError as error:  # libfuse has said why on stderr
            raise ConfigError(
                f"{config.mountpoint} cannot be mounted on ({error}): see above why; "
                "in a container it takes the capability SYS_ADMIN"
            ) from error
        self.mounted = True

    def _last_error(self) -> str:
        return self.parts.store.health.last_error or "no answer"

    async def _first_listing(self, done: trio.Event, failure: list[StoreError]) -> None:
        try:
            await self.parts.refresh.first_listing()
        except StoreError as exc:
            failure.append(exc)
            exc.op, exc.key = "mount", self.config.state  # who reads this has not asked for a listing
            if isinstance(exc, DeniedError) and not exc.detail:
                exc.detail = "access denied"
        finally:
            done.set()

    def _close_mount(self, *, unmount: bool) -> None:
        if self.mounted:
            self.mounted = False
            self.notifier.stop()
            import pyfuse3

            with contextlib.suppress(RuntimeError):
                pyfuse3.close(unmount=unmount)

    # --- ending -------------------------------------------------------------------------------------------------------------

    async def unmount(self, *, lazy: bool) -> str:
        """Take the mount away; the error text, empty when it worked."""
        self.echo.stop()
        problem = await trio.to_thread.run_sync(partial(detach, self.config.mountpoint, lazy=lazy))
        self.detached = not problem
        return problem

    async def _leave(self) -> None:
        """After SIGTERM: who stays too long finds the mount gone (ENOTCONN). After `umount --lazy` they may stay."""
        await self.leaving.wait()
        await trio.sleep(min(LEAVE_S, self.config.drain_budget_s))
        if self.mounted:
            log.info("the mount is still in use: it ends all the same")
            fuse.stop()

    async def _drain(self) -> int:
        """Settle what is owed, within the budget; what is left stays in the journal."""
        self.draining.set()
        writeback = self.parts.writeback
        writeback.expedite_all(unfinished=True)
        with self.stop_drain:
            with trio.move_on_after(self.config.drain_budget_s):
                await writeback.drained()
        left = len(self.parts.journal)
        notify("STOPPING=1")
        log.info("unmounted store=%s left=%d", self.config.state, left)
        return EX_LEFT if left else EX_OK

    def hand_over(self) -> bool:
        """A successor wants the journal: stop draining, and serving, if the mount is gone already."""
        if not (self.draining.is_set() or self.detached):
            return False
        self.stop_drain.cancel()
        if self.mounted:
            fuse.stop()
        return True

    async def _signals(self) -> None:
        with trio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
        ) as received:
            async for number in received:
                if number in {signal.SIGTERM, signal.SIGINT}:
                    if not self.announced:
                        raise KeyboardInterrupt  # nobody waits for the store any more
                    log.info("signal=%s: unmounting", signal.Signals(number).name)
                    self.parts.writeback.expedite_all()
                    await self.unmount(lazy=True)
                    self.leaving.set()
                elif number == signal.SIGHUP:
                    self.parts.store.reload_credentials()
                    self.parts.writeback.release_denied()
                    self.parts.refresh.distrust()
                elif number == signal.SIGUSR1:
                    self._dump()
                else:
                    root = logging.getLogger("kopsfs")
                    root.setLevel(logging.INFO if root.level == logging.DEBUG else logging.DEBUG)

    def _dump(self) -> None:
        """Self-check, counters and tasks to the log."""
        try:
            self.parts.tree.check()
            self.parts.journal.check()
            log.info("self-check passed: %d inodes, %d intents", len(self.parts.tree.inodes), len(self.parts.journal))
        except AssertionError:
            log.exception("self-check failed")
        log.info("requests=%s health=%s", dict(self.parts.store.requests), self.parts.store.health)
        root = trio.lowlevel.current_root_task()
        if root is not None:
            for task in _tasks(root):
                log.info("task %s", task)

    def _review_soon(self, path: str, key: str, data: bytes) -> None:
        """A document was written: look at it when there is time; beyond a thousand waiting, not at all."""
        with contextlib.suppress(trio.WouldBlock):
            self._to_review.send_nowait((path, key, data))

    async def _review(self) -> None:
        """Service: say what is wrong with documents written here, off the event loop."""
        async for path, key, data in self._reviews:
            wrong = await trio.to_thread.run_sync(_document_guard, key, data)
            if wrong:
                self.findings[path] = wrong
                log.warning("finding %s", wrong[0])

    async def _watchdog(self) -> None:
        """Tell systemd that requests are answered, as long as the self-check holds."""
        interval = watchdog_interval_s()
        if interval is None:
            return
        while True:
            notify("WATCHDOG=1")
            await trio.sleep(interval)

    async def _tell_conflict(self, conflict: Conflict) -> None:
        """Run --on-conflict with what a script wants to know."""
        environment = {
            **os.environ,
            "KOPSFS_PATH": conflict.path,
            "KOPSFS_CONFLICT": str(conflict.id),
            "KOPSFS_MOUNTPOINT": str(self.config.mountpoint),
            "KOPSFS_STORE": self.config.state,
        }
        assert self.config.on_conflict is not None
        with trio.move_on_after(60):
            done = await trio.run_process(
                ["/bin/sh", "-c", self.config.on_conflict],
                check=False,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
            )
            if done.returncode:
                log.warning("--on-conflict ended with status %d", done.returncode)


def _document_guard(key: str, data: bytes) -> list[str]:
    """What kops could not read in a document of this key; the daemon lends it to the file system."""
    from kopsfs.spec.validation.structure import guard

    return [str(finding) for finding in guard(key, data) if finding.severity == "error"]


def _tasks(root: trio.lowlevel.Task) -> list[str]:
    found = []
    stack = [root]
    while stack:
        task = stack.pop()
        found.append(task.name)
        for nursery in task.child_nurseries:
            stack.extend(nursery.child_tasks)
    return found


__all__ = ["run"]
