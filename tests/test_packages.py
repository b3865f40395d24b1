"""Is a package installed once and whole, whoever asks for it at the same time?"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import packages


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "CACHE", tmp_path)
    monkeypatch.setattr(packages, "debian", lambda *_: None)
    return tmp_path


def test_who_comes_second_waits_and_installs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of a file is one of its descriptor: threads are as good as processes."""
    asked: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def install(what: str, command: Sequence[str], env: object = None) -> None:
        asked.append(what)
        begun.set()
        go_on.wait()

    monkeypatch.setattr(packages, "install", install)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(packages.s3rver)
        begun.wait()
        others = [pool.submit(packages.s3rver) for _ in range(3)]
        assert not any(other.done() for other in others)
        go_on.set()
        assert {each.result(60) for each in (first, *others)} == {packages.s3rver()}
    assert asked == ["s3rver"]


def test_what_broke_off_is_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(packages, "install", lambda *_: pytest.fail("no network"))
        for _ in range(2):
            with pytest.raises(pytest.fail.Exception, match="no network"):
                packages.s3rver()
    asked: list[str] = []
    monkeypatch.setattr(packages, "install", lambda what, *_: asked.append(what))
    packages.s3rver()
    packages.s3rver()
    assert asked == ["s3rver"]


def test_an_install_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.time, "sleep", lambda _: None)
    with pytest.raises(pytest.fail.Exception, match=r"cannot install it, .* ends with 1, attempt 3:\nno such package"):
        packages.install("it", [sys.executable, "-c", "raise SystemExit('no such package')"])
