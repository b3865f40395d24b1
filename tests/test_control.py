"""Is the protocol of the control socket kept by both sides? A real socket, the daemon's side in a thread."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kopsfs import control, places
from kopsfs.errors import ConfigError, HeldError, InputError
from tests.conftest import ExpectLog

Answers = AsyncIterator[dict[str, Any]]


class Daemon:
    """The commands, and what happened to them."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.waiting = threading.Event()

    async def status(self, request: dict[str, Any]) -> Answers:
        yield {"health": "ok", "given": request}

    async def flush(self, request: dict[str, Any]) -> Answers:
        for left in (2, 1, 0):
            await trio.sleep(0)
            yield {"left": left, "bytes": left * 10}

    async def nothing(self, request: dict[str, Any]) -> Answers:
        return
        yield {}

    async def held(self, request: dict[str, Any]) -> Answers:
        raise HeldError("c1/config is empty")
        yield {}

    async def broken(self, request: dict[str, Any]) -> Answers:
        yield {"first": 1}
        raise ZeroDivisionError

    async def forever(self, request: dict[str, Any]) -> Answers:
        try:
            self.waiting.set()
            await trio.sleep_forever()
            yield {}
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def large(self, request: dict[str, Any]) -> Answers:
        yield {"text": "ä\n" * 1_000_000}

    def commands(self) -> dict[str, control.Command]:
        return {
            name: getattr(self, name) for name in ("status", "flush", "nothing", "held", "broken", "forever", "large")
        }


@contextmanager
def serving(path: Path, daemon: Daemon) -> Iterator[None]:
    ready = threading.Event()
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []
    trouble: list[BaseException] = []

    async def main() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: control.serve(path, daemon.commands(), task_status=task_status))
                ready.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # handed to the test below
            trouble.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    try:
        if trouble:
            raise trouble[0]
        yield
    finally:
        if not trouble:
            token[0].run_sync_soon(scope.cancel)
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "d.sock"


def test_an_answer_is_a_stream_of_objects(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon):
        assert list(control.request(path, "status", a=1)) == [{"health": "ok", "given": {"a": 1}}]
        assert [answer["left"] for answer in control.request(path, "flush")] == [2, 1, 0]
        assert list(control.request(path, "nothing")) == []
        assert list(control.request(path, "large")) == [{"text": "ä\n" * 1_000_000}]


def test_the_socket_is_the_owners_and_goes_with_the_daemon(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert list(path.parent.iterdir()) == []


def test_an_error_of_the_daemon_keeps_its_class(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon), pytest.raises(control.RefusedError, match="c1/config is empty") as caught:
        list(control.request(path, "held"))
    assert caught.value.kind == "HeldError"


def test_an_unknown_command_is_answered(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon), pytest.raises(control.RefusedError, match=r"unknown command 'bogus'.*flush"):
        list(control.request(path, "bogus"))


def test_a_bug_in_a_command_is_logged_and_ends_nothing_else(path: Path, daemon: Daemon, expect_log: ExpectLog) -> None:
    expect_log("control: a command failed")
    with serving(path, daemon):
        with pytest.raises(control.RefusedError, match="a bug: ZeroDivisionError"):
            list(control.request(path, "broken"))
        assert list(control.request(path, "nothing")) == []


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b"\xff\n", b"\n", b'{"command": 1}\n', b'{"command": "no"}\n'])
def test_what_is_no_request_is_refused(line: bytes, path: Path, daemon: Daemon) -> None:
    with serving(path, daemon), socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(line)
        assert "error" in json.loads(raw.makefile().readline())


def test_a_command_whose_client_goes_away_is_cancelled(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.sendall(b'{"command": "forever"}\n')
            assert daemon.waiting.wait(60)
        assert daemon.cancelled.wait(60)
        assert list(control.request(path, "nothing")) == []


def test_a_silent_command_shows_signs_of_life(path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ALIVE_INTERVAL_S", 0.01)
    with serving(path, daemon), socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(b'{"command": "forever"}\n')
        lines = raw.makefile()
        assert [json.loads(lines.readline()) for _ in range(3)] == [{"alive": True}] * 3


def test_a_stuck_daemon_is_told_from_a_slow_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_BUDGET_S", 0.05)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(control.StuckError, match="has said nothing"):
            list(control.request(path, "status"))


def test_nobody_listens(path: Path, daemon: Daemon) -> None:
    with pytest.raises(InputError, match="no daemon answers"):
        list(control.request(path, "status"))


def test_a_socket_nobody_answers_is_replaced(path: Path, daemon: Daemon) -> None:
    path.parent.mkdir()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with serving(path, daemon):
        assert list(control.request(path, "nothing")) == []


def test_what_killed_daemons_left_is_swept_and_the_living_stay(path: Path, daemon: Daemon) -> None:
    living, killed = (path.with_name(places.socket_name(url, Path("/m"))) for url in ("s3://living", "s3://killed"))
    with serving(living, Daemon()):
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(killed))
        dead.close()
        with serving(path, daemon):
            assert sorted(path.parent.iterdir()) == sorted([living, path])
            assert list(control.request(living, "nothing")) == []


def test_a_second_daemon_is_refused_and_takes_nothing_away(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon):
        with pytest.raises(BaseExceptionGroup) as caught, serving(path, Daemon()):
            pass
        assert caught.group_contains(ConfigError, match="another kopsfs already serves")
        assert list(control.request(path, "nothing")) == []


def test_a_predecessor_that_ends_leaves_the_successors_socket(path: Path, daemon: Daemon) -> None:
    with serving(path, daemon):
        path.unlink()
        with serving(path, Daemon()):
            successor = path.stat().st_ino
            listener, identity = control._listen(path.with_name("other.sock"))
            control._unlink_if(path, identity)
            listener.close()
            assert path.stat().st_ino == successor


def test_a_path_longer_than_a_socket_address(tmp_path: Path, daemon: Daemon) -> None:
    path = tmp_path / ("d" * 120) / f"{'n' * 60}.sock"
    with serving(path, daemon):
        assert list(control.request(path, "nothing")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_may_not_speak(daemon: Daemon) -> None:
    program = (
        "import json, os, socket, sys; os.setresuid(65534, 65534, 65534); s = socket.socket(socket.AF_UNIX)\n"
        's.connect(sys.argv[1]); s.sendall(b\'{"command": "status"}\\n\'); print(s.makefile().readline())'
    )
    with tempfile.TemporaryDirectory() as directory, serving(Path(directory) / "d.sock", daemon):
        path = Path(directory) / "d.sock"
        Path(directory).chmod(0o755)
        path.chmod(0o666)  # so that the check of credentials is what refuses
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "user 65534 may not speak" in json.loads(done.stdout)["error"]


def test_a_mount_is_found_by_mountpoint_by_a_path_below_and_by_url(tmp_path: Path, daemon: Daemon) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "xdg")}
    mountpoint = tmp_path / "mnt"
    (mountpoint / "c1").mkdir(parents=True)
    path = places.runtime_dir(environ, 1000) / places.socket_name("s3://b/p", mountpoint)

    def find(target: str | Path) -> Path:
        return control.find(target, environ, uid=1000)

    with pytest.raises(InputError, match="no kopsfs daemon serves"):
        find(mountpoint)
    with serving(path, daemon):
        assert find(mountpoint) == find(mountpoint / "c1") == find("s3://b/p") == find("s3://b/p/") == path
        with pytest.raises(InputError):
            find("s3://b")
        with pytest.raises(InputError):
            find(tmp_path)
        second = path.with_name(places.socket_name("s3://b/p", tmp_path / "mnt2"))
        with serving(second, Daemon()):
            with pytest.raises(InputError, match="mounted 2 times"):
                find("s3://b/p")
            assert find(mountpoint) == path
            assert sorted(control.sockets(None, environ, uid=1000)) == sorted([path, second])
