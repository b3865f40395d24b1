"""What holds for every test: warnings are errors, nothing is logged unasked, nothing stays mounted.

* A log record of WARNING or above on a `kopsfs` logger fails the test unless `expect_log(pattern)`
  announced it; a pattern that nothing matched fails it, too.
* The settings of the person who runs the tests are out of reach.
* `slow` tests run when they are asked for (`-m slow`). `fuse` tests need /dev/fuse; where it is missing they
  are skipped and say so, and fail when CI is set.
* A test that hangs ends the run after TIMEOUT_S, with the stack of every thread: nobody waits for a stuck mount.
* Hypothesis tries the same examples each time. With KOPSFS_TEST_EXAMPLES=N (`make soak`) it tries N others.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kopsfs.mounts import mounts
from tests.support.serving import (  # noqa: F401 - fixtures of every folder, so that a server runs once
    azurite,
    bench,
    ceph,
    gs,
    k8s,
    moto,
    oss_server,
    s3rver,
    start_server,
    swift,
)
from tests.support.sweeper import sweeps

EXAMPLES = os.environ.get("KOPSFS_TEST_EXAMPLES", "")
settings.register_profile(
    "kopsfs",
    deadline=None,
    derandomize=not EXAMPLES,
    max_examples=int(EXAMPLES or 100),
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kopsfs")

TIMEOUT_S = {"slow": 7200, "real": 1500, "": 7200 if EXAMPLES else 300}
"""By mark, the first that fits. The first test that needs a real server waits for its package, too."""
ExpectLog = Callable[[str], None]


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.texts.append(f"{record.levelname} {record.name}: {text}")


@pytest.fixture(autouse=True)
def expect_log() -> Iterator[ExpectLog]:
    """Announce a WARNING or ERROR that the test provokes: `expect_log("conflict key=.*config")`."""
    logger = logging.getLogger("kopsfs")
    records = _Records()
    patterns: list[str] = []
    logger.addHandler(records)
    try:
        yield patterns.append
    finally:
        logger.removeHandler(records)
    unasked = [text for text in records.texts if not any(re.search(pattern, text) for pattern in patterns)]
    unseen = [pattern for pattern in patterns if not any(re.search(pattern, text) for text in records.texts)]
    assert not unasked, "logged, but not expected:\n" + "\n".join(unasked)
    assert not unseen, f"expected, but not logged: {unseen}"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("KOPS_", "KOPSFS_")) and not name.startswith(("KOPSFS_UPDATE_", "KOPSFS_TEST_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def _nothing_stays_mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base = tmp_path_factory.getbasetemp().resolve()
    with sweeps(mounts=base):
        yield
    left = [mount.mountpoint for mount in mounts() if mount.mountpoint.is_relative_to(base)]
    for mountpoint in reversed(left):
        subprocess.run(["fusermount3", "-uz", str(mountpoint)], check=False, stdin=subprocess.DEVNULL)
    assert not left, f"tests left mounts behind: {left}"


def _fuse_trouble() -> str:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse cannot be used: {error.strerror}"
    return ""


STORES = {
    "s3": {"s3", "sigv4"},
    "do": {"do"},
    "scw": {"scw"},
    "hos": {"hos"},
    "linode": {"linode"},
    "gs": {"gs", "gcs"},
    "azureblob": {"azureblob", "azure"},
    "swift": {"swift"},
    "oss": {"oss"},
    "k8s": {"k8s"},
    "file": {"file"},
    "memfs": {"memfs", "memory", "faults", "model", "shared"},  # the models of tests/fs run on memory
}
"""Scheme → words; a test is the store's if one of them stands in the name of its file or in the brackets of its id.
The tests of the driver that S3 shares with its relatives are S3's; the relatives have what differs from it."""
FOLDERS = ("store", "fuse", "fs", "emulators")
"""Where the tests of stores are; elsewhere `do` and `file` mean other things."""


def words_of(nodeid: str) -> set[str]:
    """What a test of a store says of itself: the words of its file's name, and of what it is run with."""
    path, _, case = nodeid.partition("::")
    if not path.startswith(tuple(f"tests/{folder}/" for folder in FOLDERS)):
        return set()
    return {*re.split(r"\W|_", Path(path).stem), *re.split(r"\W|_", case.partition("[")[2])}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store",
        metavar="|".join(STORES),
        help="only the tests of this store, by the name of their file or id; slow ones too",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    store = config.getoption("--store")
    if store:
        if store not in STORES:
            raise pytest.UsageError(f"--store={store}: no such store; there are {' '.join(STORES)}")
        chosen = [item for item in items if STORES[store] & words_of(item.nodeid)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    elif "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        if slow and not any(str(item.path) in " ".join(config.args) for item in slow):
            config.hook.pytest_deselected(items=slow)
            items[:] = [item for item in items if item not in slow]
    trouble = _fuse_trouble()
    for item in items:
        item.add_marker(pytest.mark.timeout(next(s for mark, s in TIMEOUT_S.items() if _has(item, mark))))
        if trouble and item.get_closest_marker("fuse"):
            if os.environ.get("CI"):
                raise pytest.UsageError(f"{item.nodeid}: {trouble}")
            item.add_marker(pytest.mark.skip(reason=trouble))


Counted = Callable[[str], None]


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """How a test says what it counted and does not judge: such lines come at the end of a run."""
    return lambda text: record_property("counted", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [
        f"{report.nodeid.partition('::')[2]}: {text}"
        for report in terminalreporter.stats.get("passed", [])
        for name, text in report.user_properties
        if name == "counted"
    ]
    if told:
        terminalreporter.section("counted")
    for line in told:
        terminalreporter.line(line)


def _has(item: pytest.Item, mark: str) -> bool:
    return not mark or item.get_closest_marker(mark) is not None


@pytest.fixture
def corpus() -> Path:
    """The conformance corpora that are kept beside the project; skips where they are not."""
    path = Path(__file__).resolve().parents[2] / "shared" / "conformance"
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    return path
