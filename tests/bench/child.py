"""How does a bench or a test run one of our servers as a process of its own?

    class Server(Child): ...        # super().__init__("tests.bench.s3server", "--delay", "0.02")
    with Server() as server: ...

The module prints one line of JSON when it listens, and ends with its standard input: closed by `stop`, or by the kernel when
whoever started it dies.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A module of ours as a program; `ready` is what it said."""

    def __init__(self, module: str, *words: str) -> None:
        self.argv = [sys.executable, "-m", module, *words]
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}

    def start(self) -> Self:
        self.process = subprocess.Popen(self.argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.argv[2]} ended with {self.process.wait()}")
        self.ready = json.loads(line)
        return self

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    @property
    def url(self) -> str:
        """The endpoint, `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"
