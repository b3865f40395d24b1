"""What was promised to programs that wrote, and was it kept?

`python -m tests.fuse.load DIRECTORY SEED` writes, saves, appends, moves and deletes in a few threads until a
call fails, and says on stdout before each operation what it is about to do and after it that it returned:

    begin THREAD {"name": "digest", "other": null}      what the names will hold; null: nothing
    end THREAD

`Promises` reads that. Whatever happens to the daemon, the names of a thread must hold all of what the last
operation that returned made of them, or all of what the one after it was about to make. A deletion that returned
is promised only when a later operation of its thread has returned, as on any file system without fsync(directory).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

THREADS = 4
NAMES = 6
AT_WORK = 8
"""Operations that returned: the load has begun in earnest."""
State = dict[str, str | None]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


class Writer:
    """One thread's operations on names of its own."""

    def __init__(self, directory: Path, number: int, seed: int) -> None:
        self.directory = directory
        self.number = number
        self.choose = random.Random(f"{seed} {number}")
        self.held: dict[str, bytes] = {}
        self.serial = 0

    def run(self) -> None:
        try:
            while True:
                self.choose.choice([self.put, self.put, self.save, self.save, self.append, self.move, self.delete])()
        except OSError:
            return  # the daemon is gone

    def say(self, **names: bytes | None) -> None:
        states = {name: None if data is None else digest(data) for name, data in names.items()}
        os.write(1, f"begin {self.number} {json.dumps(states)}\n".encode())

    def did(self) -> None:
        os.write(1, f"end {self.number}\n".encode())

    def any_name(self) -> str:
        return f"w{self.number}-{self.choose.randrange(NAMES)}"

    def bytes(self) -> bytes:
        """Mostly small; some over 64 KB, which are files in the spool."""
        size = self.choose.choice([0, 10, 700, 5000, 5000, 40_000, 66_000, 200_000])
        self.serial += 1
        return f"{self.number} {self.serial}\n".encode() + self.choose.randbytes(size)

    def put(self) -> None:
        name, data = self.any_name(), self.bytes()
        self.say(**{name: data})
        fd = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for start in range(0, len(data), 50_000):
                os.write(fd, data[start : start + 50_000])
        finally:
            os.close(fd)
        self.did()
        self.held[name] = data

    def save(self) -> None:
        name, data = self.any_name(), self.bytes()
        self.say(**{name: data})
        temporary = self.directory / f"tmp{self.choose.randrange(10**9, 10**10)}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        temporary.rename(self.directory / name)
        self.did()
        self.held[name] = data

    def append(self) -> None:
        name = self.any_name()
        if name not in self.held:
            return
        data = self.held[name] + b"and more\n"
        self.say(**{name: data})
        with (self.directory / name).open("ab", buffering=0) as file:
            file.write(b"and more\n")
        self.did()
        self.held[name] = data

    def move(self) -> None:
        name, other = self.any_name(), self.any_name()
        if name not in self.held or name == other:
            return
        data = self.held[name]
        self.say(**{name: None, other: data})
        (self.directory / name).rename(self.directory / other)
        self.did()
        del self.held[name]
        self.held[other] = data

    def delete(self) -> None:
        name = self.any_name()
        if name not in self.held or self.choose.random() < 0.5:
            return
        self.say(**{name: None})
        (self.directory / name).unlink()
        self.did()
        del self.held[name]


class Promises:
    """What the names must hold, as far as programs were told."""

    def __init__(self) -> None:
        self.state: State = {}
        self.doubt: dict[int, list[State]] = {}
        """By thread: what it had begun and nothing promises yet, in order."""
        self.operations = 0
        self.history: list[tuple[int, State]] = []
        self._said: IO[bytes] | None = None

    def load(self, directory: Path, seed: int) -> subprocess.Popen[bytes]:
        """Have something written below a directory, and return when the load is at work.

        It ends by itself when the daemon does not answer any more.
        """
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-m", "tests.fuse.load", str(directory), str(seed)]
        self._said = tempfile.TemporaryFile()  # a pipe could be full before anybody reads it
        load = subprocess.Popen(command, cwd=root, stdout=self._said, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while self._lines().count(b"end ") < AT_WORK:
            assert load.poll() is None, f"the load ended with {load.returncode} before it had begun"
            assert time.monotonic() < deadline, "the load does not get to work"
            time.sleep(0.01)
        return load

    def _lines(self) -> bytes:
        assert self._said is not None
        return os.pread(self._said.fileno(), 1 << 26, 0)

    def heard(self, load: subprocess.Popen[bytes]) -> None:
        """Take over what a load that ends or has ended said."""
        load.wait(120)
        said = self._lines()
        assert self._said is not None
        self._said.close()
        for line in said.decode().splitlines():
            word, number, *rest = line.split(" ", 2)
            if word == "begin":
                self.doubt.setdefault(int(number), []).append(json.loads(rest[0]))
                self.history.append((self.operations, self.doubt[int(number)][-1]))
            else:
                self.operations += 1
                if any(self.doubt[int(number)][-1].values()):
                    for step in self.doubt.pop(int(number)):
                        self.state |= step

    def check(self, found: Mapping[str, bytes]) -> None:
        """Compare with what is there; what was in doubt is then known."""
        there = {name: digest(data) for name, data in found.items()}
        for number, steps in self.doubt.items():
            names = {n for n in {*self.state, *(n for s in steps for n in s)} if n.startswith(f"w{number}-")}
            now = {n: there.get(n) for n in names}
            possible = [{n: self.state.get(n) for n in names}]
            for step in steps:
                possible.append(possible[-1] | step)
            if now not in possible:
                wrong = {n: now[n] for n in names if now[n] != possible[-1][n] or any(n in s for s in steps)}
                raise AssertionError(f"thread {number}: not before, in or after {steps}: {self.explain(wrong)}")
            self.state |= now
        self.doubt.clear()
        missing = {n: d for n, d in self.state.items() if there.get(n) != d}
        assert not missing, f"promised, but not there: {self.explain({n: there.get(n) for n in missing})}"
        extra = set(there) - {n for n, d in self.state.items() if d is not None}
        assert not extra, f"nobody stored {extra}"

    def explain(self, found: State) -> str:
        """When was each name to hold what it holds?"""
        lines = []
        for name, value in found.items():
            moments = [f"{at}:{'this' if s[name] == value else s[name]}" for at, s in self.history if name in s]
            lines.append(f"{name} holds {value}, after {' '.join(moments[-8:])} of {self.operations}")
        return "\n".join(lines)


def main() -> None:
    directory, seed = Path(sys.argv[1]), int(sys.argv[2])
    threads = [threading.Thread(target=Writer(directory, number, seed).run) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
