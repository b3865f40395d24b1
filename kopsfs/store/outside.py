"""How is an SDK asked for credentials without being loaded into the daemon?

In a process of its own: its import neither stalls the mount nor stays in its memory, and it sees the environment of this
mount and no other. `ask(MODULE, …)` runs `MODULE.outside(…)` there and gives the row of JSON that it returns; errors
come through as they were raised. What the SDK starts in its turn (`credential_process`, `az`) ends with it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kopsfs.errors import ConfigError, DeniedError, RefusedError, TransientError

TIMEOUT_S: Final = 60.0


def ask(
    module: str, *words: str, environ: Mapping[str, str], what: str, extra: str, timeout_s: float | None = None
) -> dict[str, Any]:
    """Call `outside(*words)` of a module of ours in another process; up to 60 s or `timeout_s`, for most SDKs one.

    Raises TransientError, DeniedError, RefusedError, ConfigError; `what` says for people what cannot be had, `extra`
    brings the SDK.
    """
    timeout_s = timeout_s or TIMEOUT_S
    home = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [home, environ.get("PYTHONPATH", "")]))
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, module, *words],
            env={**environ, "PYTHONPATH": path},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise TransientError("open", detail=f"{what}: cannot start a process: {error}") from error
    with process:
        try:
            said, complaints = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            raise TransientError("open", detail=f"{what}: no answer after {timeout_s:.0f} s") from error
    try:
        row: dict[str, Any] = json.loads(said)
    except ValueError:
        lines = complaints.decode(errors="replace").strip().splitlines()
        kind = TransientError if process.returncode < 0 else DeniedError
        raise kind("open", detail=f"{what}: {lines[-1] if lines else f'ended with {process.returncode}'}") from None
    match row:
        case {"transient": text}:
            raise TransientError("open", detail=f"{what}: {text}")
        case {"config": text}:
            raise ConfigError(text)
        case {"refused": text}:
            raise RefusedError("open", detail=f"{what}: {text}")
        case {"denied": text}:
            raise DeniedError("open", detail=f"{what}: {text}")
        case {"missing": package}:
            raise DeniedError("open", detail=f"{what}: needs {package}, which is not there: install kopsfs[{extra}]")
        case _:
            return row


def one_line(error: BaseException) -> str:
    """An SDK's error for people."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _answer(module: str, *words: str) -> None:
    row: dict[str, Any]
    try:
        row = importlib.import_module(module).outside(*words)
    except ImportError as error:
        row = {"missing": error.name}
    except TransientError as error:
        row = {"transient": error.detail}
    except ConfigError as error:
        row = {"config": str(error)}
    except RefusedError as error:
        row = {"refused": error.detail}
    except DeniedError as error:
        row = {"denied": error.detail}
    print(json.dumps(row))  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    _answer(*sys.argv[1:])
