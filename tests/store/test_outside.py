"""Does a process of its own answer for an SDK, and what is said when it does not?

Method: modules of the test's own, found through the mount's `PYTHONPATH`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from kopsfs.errors import ConfigError, DeniedError, RefusedError, StoreError, TransientError
from kopsfs.store import outside


def asked(tmp_path: Path, body: str, *words: str, **environ: str) -> dict[str, Any]:
    """Ask a module whose `outside` has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (tmp_path / "wanted.py").write_text(f"import os, sys, time\ndef outside(*words):\n{lines}\n")
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), **environ}
    return outside.ask("wanted", *words, environ=environ, what="no token", extra="cloud")


def test_it_sees_the_mounts_environment_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "not for it")
    body = "return {'words': words, 'mine': os.environ.get('MINE'), 'ours': os.environ.get('OURS')}"
    assert asked(tmp_path, body, "one", "two", MINE="x") == {"words": ["one", "two"], "mine": "x", "ours": None}
    assert "wanted" not in sys.modules


def test_what_it_writes_beside_its_answer_is_not_read(tmp_path: Path) -> None:
    assert asked(tmp_path, "sys.stderr.write('deprecated' * 100_000)\nreturn {'token': 't'}") == {"token": "t"}


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (
            "from kopsfs.errors import DeniedError\nraise DeniedError('open', detail='revoked')",
            DeniedError,
            "no token: revoked",
        ),
        (
            "from kopsfs.errors import TransientError\nraise TransientError('open', detail='503')",
            TransientError,
            "no token: 503",
        ),
        (
            "from kopsfs.errors import RefusedError\nraise RefusedError('open', detail='expired')",
            RefusedError,
            "no token: expired",
        ),
        (
            "import sdk_that_is_not_there",
            DeniedError,
            "no token: needs sdk_that_is_not_there, which is not there: install kopsfs[cloud]",
        ),
        ("raise RuntimeError('a bug of the SDK')", DeniedError, "no token: RuntimeError: a bug of the SDK"),
        ("sys.exit(3)", DeniedError, "no token: ended with 3"),
        ("os.kill(os.getpid(), 9)", TransientError, "no token: ended with -9"),
    ],
)
def test_an_error_comes_through_as_it_was_raised(tmp_path: Path, body: str, kind: type[StoreError], text: str) -> None:
    with pytest.raises(StoreError) as error:
        asked(tmp_path, body)
    assert (type(error.value), error.value.detail) == (kind, text)


def test_a_setting_that_is_wrong_is_said_as_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no such profile: set AWS_PROFILE$"):
        asked(tmp_path, "from kopsfs.errors import ConfigError\nraise ConfigError('no such profile: set AWS_PROFILE')")


def test_a_process_that_cannot_be_started_is_no_denial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(TransientError, match=r"no token: cannot start a process: .*No such file"):
        asked(tmp_path, "return {}")


def test_one_that_hangs_is_ended_with_all_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `credential_process` or `az` may, which hold the pipes open."""
    started = tmp_path / "started"
    body = f"""
import pathlib, subprocess
child = subprocess.Popen(["sleep", "1000"])
pathlib.Path({str(started)!r} + ".new").write_text(str(child.pid))
os.rename({str(started)!r} + ".new", {str(started)!r})
time.sleep(1000)
"""
    seconds = 1.0
    while not started.exists():  # a loaded machine takes its time to get there
        seconds *= 2
        assert seconds < 300
        monkeypatch.setattr(outside, "TIMEOUT_S", seconds)
        with pytest.raises(TransientError, match=f"no token: no answer after {seconds:.0f} s"):
            asked(tmp_path, body)
    child = Path(f"/proc/{started.read_text()}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while child.read_text().split()[2] != "Z":
            os.sched_yield()


def test_an_sdks_error_is_one_line() -> None:
    assert outside.one_line(ValueError("two\n  lines " + "x" * 1000)) == "ValueError: two lines " + "x" * 278
