"""Where do tests get the programs of others that they need?

Debian's come by apt-get, PyPI's and npm's below `.work/`, when somebody asks for them; a registry that hiccups is asked
again. What cannot be installed fails the test that asked, with the installer's last words; nothing is skipped.

`python -m tests.support.packages` gets all of them. `make test` lets it run beside the first tests: whoever needs a
package that is being installed waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".work"
"""Git-ignored; what is not Debian's is kept here from run to run."""
TRIES = 3
BUDGET_S = 600.0
"""On a machine with 24 programs for two CPUs Swift took 7 minutes."""


def azurite() -> Path:
    return _npm("azurite", "3.37.0") / "azurite-blob"


def s3rver() -> Path:
    return _npm("s3rver", "3.7.1") / "s3rver"


def ceph() -> None:
    programs = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph")
    debian(programs, "ceph-mon", "ceph-osd", "radosgw", "ceph-common")


def swift() -> Path:
    """Swift and Keystone; gives the directory of their programs."""
    debian(["memcached"], "memcached")
    home = CACHE / "swift" / "venv"
    with _whole(home / ".is-here", alone="swift") as missing:
        if missing:
            install("a virtual environment", [sys.executable, "-m", "venv", "--clear", str(home)])
            packages = ("swift==2.38.*", "keystone==30.*", "keystonemiddleware", "waitress")
            install("swift and keystone", [str(home / "bin" / "pip"), "install", "-q", *packages])
    return home / "bin"


def moto() -> Path:
    """Among what is installed for the tests anyway."""
    return Path(sys.executable).with_name("moto_server")


def debian(programs: Sequence[str], *packages: str) -> None:
    """Have these programs; where one is missing, these packages are installed."""
    with _alone(packages[0]):
        if all(map(shutil.which, programs)):
            return
        _apt_get(*packages)


def _apt_get(*packages: str) -> None:
    with _alone("apt-get"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        patient = ("-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")
        install("package lists", ["apt-get", "update", "-q", *patient], quiet)
        command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *patient, *packages]
        install(" ".join(packages), command, quiet)


def _npm(package: str, version: str) -> Path:
    """Have a package of npm; gives the directory of its programs."""
    debian(["npm", "node"], "nodejs", "npm")
    home = CACHE / package
    with _whole(home / f".{package}-{version}-is-here", alone=package) as missing:
        if missing:
            quiet = ("--no-audit", "--no-fund", "--no-save", "--no-update-notifier")
            command = ["npm", "install", "--prefix", str(home), *quiet, f"{package}@{version}"]
            # The user's own cache may be anybody's, or nowhere.
            install(package, command, {"npm_config_cache": str(CACHE / "npm")})
    return home / "node_modules" / ".bin"


def install(what: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Install a package, in a few attempts; its failure is the test's."""
    for attempt in range(TRIES):
        time.sleep(attempt * 5)  # the registry's moment
        try:
            ended = subprocess.run(
                list(command),
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=BUDGET_S,
            )
            status, said = f"ends with {ended.returncode}", ended.stdout
        except subprocess.TimeoutExpired as error:
            status, said = f"does not end within {BUDGET_S:.0f} s", error.stdout or b""
            break
        if not ended.returncode:
            return
    tail = b"\n".join(said.splitlines()[-20:]).decode(errors="replace")
    pytest.fail(
        f"cannot install {what}, which this test needs: {' '.join(command)} {status}, attempt {attempt + 1}:\n{tail}"
    )


@contextlib.contextmanager
def _whole(done: Path, *, alone: str) -> Iterator[bool]:
    """Say whether it has to be installed: it is there when an install has come to its end, and a torn one is not."""
    with _alone(alone):
        missing = not done.exists()
        if missing:
            done.parent.mkdir(parents=True, exist_ok=True)
        yield missing
        done.touch()


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Wait for whoever else installs this, in whichever process."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Get everything, what tests ask for first at first; 1 if something could not be had."""
    missing = 0
    for get in (azurite, swift, s3rver, ceph):
        try:
            get()
        except pytest.fail.Exception as error:
            print(error, file=sys.stderr)
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
