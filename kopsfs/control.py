"""What is said over the control socket, on both sides?

One request, one line of JSON: `{"command": "status", …}`. The answer is a stream of lines: objects
as the command yields them, then one with `"done": true`, or with `"error"` (what a person reads) and
`"kind"` (the name of the class in errors.py). While a command is silent the daemon says
`{"alive": true}` every few seconds, so a client can tell a slow store from a stuck daemon.
The socket is 0600 and the peer's credentials are checked (SO_PEERCRED, unix(7)): root, or the owner.

The client's half imports no trio: `kopsfs status` must answer at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kopsfs import places
from kopsfs.errors import ConfigError, InputError, KopsfsError
from kopsfs.mounts import is_dead, mount_of

if TYPE_CHECKING:
    import trio

log = logging.getLogger(__name__)

Command = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]
"""The daemon's side of one command: arguments in, objects out; KopsfsError becomes an error line."""

LINE_BYTES_MAX: Final = 64 << 20
"""A status of a huge store fits; a client gone mad does not fill the memory."""

ALIVE_INTERVAL_S: Final = 3.0
ANSWER_BUDGET_S: Final = 15.0
"""A daemon that says nothing for so long is stuck; several times ALIVE_INTERVAL_S."""

_PEER: Final = struct.Struct("3i")


class RefusedError(KopsfsError):
    """The daemon answered with an error; `kind` names its class there."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class StuckError(KopsfsError):
    """A daemon is there and does not answer."""


# -- the daemon's side -----------------------------------------------------------------------------


async def serve(
    path: Path,
    commands: Mapping[str, Command],
    *,
    task_status: trio.TaskStatus[None] | None = None,
) -> None:
    """Answer requests on `path` until cancelled; then take the socket away.

    A command whose client goes away is cancelled: what has to go on belongs to a task of the daemon,
    and the command only watches it. A socket that nobody answers is replaced.

    Raises:
        ConfigError: another daemon answers there, or the directory belongs to somebody else.
    """
    import trio

    listener, identity = _listen(path)
    try:
        listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, lambda stream: _serve_client(stream, commands), [listening])
            if task_status is not None:
                task_status.started()
    finally:
        listener.close()
        _unlink_if(path, identity)


def _listen(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """Bind beside the path and rename over it: at no moment is there a socket of other rights, or none."""
    directory = path.parent
    try:
        directory.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise ConfigError(f"the directory of control sockets {directory} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"the directory of control sockets {directory} belongs to user {found.st_uid}")
    if _answers(path):
        raise ConfigError(f"another kopsfs already serves this store on this mount point (control socket {path})")
    for other in directory.glob(
        places.socket_pattern()
    ):  # what killed daemons left; one that starts listens before it shows
        if not _answers(other):
            other.unlink(missing_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    try:
        with _short(new) as address:
            before = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(before)
        listener.listen(16)
        made = new.stat()
        new.rename(path)
    except OSError as error:
        listener.close()
        new.unlink(missing_ok=True)
        raise ConfigError(f"the control socket {path} cannot be made: {error.strerror}") from error
    return listener, (made.st_dev, made.st_ino)


def _unlink_if(path: Path, identity: tuple[int, int]) -> None:
    """Take the socket away unless a successor has put its own there."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        if (found.st_dev, found.st_ino) == identity:
            path.unlink()


async def _serve_client(stream: trio.SocketStream, commands: Mapping[str, Command]) -> None:
    import trio

    async with stream:
        try:
            with trio.fail_after(ANSWER_BUDGET_S):
                request = await _read_request(stream)
            await _answer(stream, request, commands)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("control: the client went away")


async def _read_request(stream: trio.SocketStream) -> dict[str, Any]:
    """Read one line and check who sent it; gives `{"error": …}` for what is no request.

    The line is read even from a peer that is going to be refused: it hears why only if it could speak.
    """
    line = b""
    while not line.endswith(b"\n"):
        chunk = await stream.receive_some(65536)
        line += chunk
        if not chunk or len(line) > 1 << 20:
            return {"error": "no request"}
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    assert isinstance(raw, bytes)
    _pid, uid, _gid = _PEER.unpack(raw)
    if uid not in {0, os.geteuid()}:
        return {"error": f"user {uid} may not speak to this daemon"}
    try:
        request = json.loads(line)
    except ValueError:
        return {"error": "the request is no JSON"}
    return request if isinstance(request, dict) else {"error": "the request is no object"}


async def _answer(stream: trio.SocketStream, request: dict[str, Any], commands: Mapping[str, Command]) -> None:
    import trio

    name = request.pop("command", None)
    command = commands.get(name) if isinstance(name, str) else None
    if "error" in request or command is None:
        text = request.get("error") or f"unknown command {name!r}; this daemon knows {', '.join(sorted(commands))}"
        await _send(stream, {"error": text, "kind": "ConfigError"})
        return
    sending = trio.Lock()

    async def say(answer: dict[str, Any]) -> None:
        async with sending:
            await _send(stream, answer)

    async def show_life() -> None:
        while True:
            await trio.sleep(ALIVE_INTERVAL_S)
            await say({"alive": True})

    async def watch_client() -> None:
        while await stream.receive_some(4096):
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_life)
        nursery.start_soon(watch_client)
        last = await _run_command(command, request, say)
        with trio.move_on_after(1, shield=True):  # who asked for the end of the daemon still hears how it went
            await say(last)
        nursery.cancel_scope.cancel()


async def _run_command(
    command: Command, request: dict[str, Any], say: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Pass on what the command yields; give the line that ends the answer."""
    import trio

    answers = command(request)
    try:
        async for answer in answers:
            await say(answer)
    except KopsfsError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception as error:  # a mistake in one command must not take the mount along
        log.exception("control: a command failed")
        return {"error": f"a bug: {type(error).__name__}; the log has more", "kind": "bug"}
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            with trio.move_on_after(1, shield=True):
                await close()
    return {"done": True}


async def _send(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    await stream.send_all(json.dumps(answer, ensure_ascii=True).encode() + b"\n")


# -- the client's side -----------------------------------------------------------------------------


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give an address for a socket whose path is longer than the 107 bytes of sun_path (unix(7))."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _connect(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        with _short(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _answers(path: Path) -> bool:
    """Say whether somebody listens there."""
    try:
        _connect(path, 1.0).close()
    except (TimeoutError, PermissionError):
        return True
    except OSError:
        return False
    return True


def request(path: Path, command: str, /, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Ask the daemon at `path`; give what it yields, without the line that ends the answer.

    Raises:
        InputError: nobody listens there.
        RefusedError: the daemon answered with an error.
        StuckError: it is there, and silent for 15 s, or went away in the middle.
    """
    try:
        connection = _connect(path, ANSWER_BUDGET_S)
    except PermissionError:
        raise InputError(f"the mount behind {path} belongs to another user") from None
    except TimeoutError:
        raise StuckError(f"the daemon behind {path} does not take calls") from None
    except OSError:
        raise InputError(f"no daemon answers at {path}") from None
    with connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            while line := lines.readline(LINE_BYTES_MAX):
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise RefusedError(str(answer["error"]), str(answer.get("kind", "")))
                if answer.pop("done", False):
                    if answer:
                        yield answer
                    return
                if answer != {"alive": True}:
                    yield answer
        except TimeoutError:
            raise StuckError(f"the daemon behind {path} has said nothing for {ANSWER_BUDGET_S:g} s") from None
        except OSError as error:
            raise StuckError(f"the daemon behind {path} went away: {error.strerror}") from None
    raise StuckError(f"the daemon behind {path} went away before it had answered")


def gone(mountpoint: Path) -> str:
    """What a person is told of a mount whose daemon is gone."""
    return (
        f"the daemon of {mountpoint} is gone: `kopsfs umount {mountpoint}`, then mount again; "
        "what it had not uploaded is kept and sent then"
    )


def check_alive(path: Path) -> None:
    """Raise StuckError where a path lies on a mount of ours whose daemon is gone."""
    mount = mount_of(Path(os.path.realpath(path)))
    if mount is not None and mount.ours and is_dead(mount.mountpoint):
        raise StuckError(gone(mount.mountpoint))


def find(target: str | Path, environ: Mapping[str, str] | None = None, *, uid: int | None = None) -> Path:
    """Find the control socket of a mount: by its mount point, a path below it, or its store's URL.

    Raises:
        InputError: no daemon, or several mounts of that store.
        StuckError: the path lies on a mount whose daemon is gone.
    """
    found = sockets(target, environ, uid=uid)
    if not found:
        if "://" not in str(target):
            check_alive(Path(target))
        raise InputError(f"no kopsfs daemon serves {target}")
    if len(found) > 1:
        other = "mount point" if "://" in str(target) else "store"
        raise InputError(f"{target} is mounted {len(found)} times; name the {other}")
    return found[0]


def sockets(
    target: str | Path | None, environ: Mapping[str, str] | None = None, *, uid: int | None = None
) -> list[Path]:
    """List the sockets that answer, of a mount point (or a path below one), of a URL, or all of this user.

    A mount of root is found by its name, so that a user is told whose it is; listed it is not.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    directories = [places.runtime_dir(environ, uid)]
    if uid != 0 and target is not None:
        directories.append(places.runtime_dir(environ, 0))
    if target is None:
        patterns = [places.socket_pattern()]
    elif isinstance(target, str) and "://" in target:
        patterns = [places.socket_pattern(url=target.removesuffix("/"))]
    else:
        path = Path(os.path.realpath(target))
        patterns = [places.socket_pattern(mountpoint=each) for each in (path, *path.parents)]
    for pattern in patterns:
        found = [each for directory in directories for each in sorted(directory.glob(pattern))]
        alive = [each for each in found if _answers(each)]
        if alive:
            return alive
    return []
