"""Does one open see one version, and does the store ever see half a file?

Method: readers stopped in the middle while another client replaces the object, and writers stopped in the
middle while everything that could upload has its chance; the server's history of PUTs is the witness.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import READY_S, Remote, S3Remote, until

pytestmark = pytest.mark.fuse

SIZES = {"shorter": 150_000, "much shorter": 10, "longer": 700_000, "the same": 400_000, "empty": 0}


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("how", SIZES)
def test_a_reader_half_way_keeps_its_version(how: str, remote: Remote, mounted: MakeMount) -> None:
    old, new = content(1, 400_000), content(2, SIZES[how])
    remote.put("c1/f", old)
    mount = mounted(remote, "--max-staleness=0.1", "--refresh=0.2")
    path = mount / "c1/f"
    with path.open("rb", buffering=0) as reader, path.open("rb") as mapped:
        first = reader.read(5000)
        assert first == old[:5000]
        window = mmap.mmap(mapped.fileno(), 0, prot=mmap.PROT_READ)
        remote.put("c1/f", new)
        until(lambda: path.stat().st_size == len(new) and path.read_bytes() == new, "the new version for a new open")
        rest = b"".join(iter(lambda: reader.read(60_000), b""))
        assert first + rest == old, "a reader saw two versions"
        assert bytes(window) == old, "a mapping saw two versions"
        window.close()
        assert os.fstat(reader.fileno()).st_size == len(old)
        with path.open("rb") as again:
            assert again.read() == new
            assert reader.seek(0) == 0
            assert b"".join(iter(lambda: reader.read(60_000), b"")) == old
    assert path.read_bytes() == new
    mount.healthy()


def test_a_large_object_replaced_while_it_streams(s3: S3Remote, mounted: MakeMount) -> None:
    """Above 4 MB bytes are served while they arrive: an open must end in one version or in an error."""
    old, new = content(1, 9_000_000), content(2, 9_000_000)
    s3.put("f", old)
    mount = mounted(s3, "--max-staleness=0.1", "--prefetch=none")
    seen = set()
    for number in range(6):
        with (mount / "f").open("rb", buffering=0) as reader:
            start = reader.read(100_000)
            s3.put("f", new if number % 2 == 0 else old)
            try:
                data = start + b"".join(iter(lambda: reader.read(1 << 20), b""))
            except OSError:
                continue
            assert data in (old, new), "a mixture"
            seen.add(data[:10])
    assert seen
    mount.healthy()


def test_every_version_in_a_row_is_whole(s3: S3Remote, mounted: MakeMount) -> None:
    """A writer elsewhere as fast as it can; readers here: each read is one of its versions."""
    versions = [content(n, 3000 + 997 * n) for n in range(30)]
    s3.put("f", versions[0])
    # There is no last answer to fall back on: a busy server may take its time.
    mount = mounted(s3, "--max-staleness=0", "--refresh=0.1", "--revalidate-budget=60", "--request-budget=60")
    known = {hashlib.md5(v).digest() for v in versions}
    for version in versions:
        s3.put("f", version)
        with (mount / "f").open("rb") as file:
            data = file.read()
        assert hashlib.md5(data).digest() in known
        assert data == version, "with --max-staleness=0 an open sees what was stored before it"


# --- half a file -----------------------------------------------------------------------------------------------------


def test_a_subshell_that_pauses_shows_no_half_file(s3: S3Remote, mounted: MakeMount, tmp_path: Path) -> None:
    s3.put("f", b"before\n")
    mount = mounted(s3)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # `cat` is a child with the same stdout: its end is a flush in the middle of the file.
    script = f"(echo header; cat {gate} >&2; echo body) > {mount / 'f'}"
    shell = subprocess.Popen(["bash", "-c", script])
    with gate.open("w"):
        time.sleep(0.5)  # many times --upload-delay
        assert s3.get("f") == b"before\n"
    assert shell.wait(60) == 0
    assert mount.flush() == 0
    assert s3.get("f") == b"header\nbody\n"
    assert [w["etag"] for w in s3.writes("f")] == [hashlib.md5(b"header\nbody\n").hexdigest()]


def test_a_long_copy_is_stored_once_and_whole(s3: S3Remote, mounted: MakeMount) -> None:
    data = content(3, 20_000_000)
    mount = mounted(s3)
    with (mount / "big").open("wb", buffering=0) as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
            os.close(os.dup(file.fileno()))  # a flush
    assert mount.flush() == 0
    assert [w["etag"] for w in s3.writes("big")] == [hashlib.md5(data).hexdigest()]


def test_twenty_saves_in_a_row_are_few_puts_and_the_last_is_stored(s3: S3Remote, mounted: MakeMount) -> None:
    mount = mounted(s3, "--upload-delay=1m")  # until `flush`
    for number in range(20):
        (mount / "f").write_text(f"{number}\n" * number)
    assert mount.flush() == 0
    assert s3.get("f") == b"19\n" * 19
    assert len(s3.writes("f")) == 1


def test_a_rename_to_a_backup_that_is_never_finished_does_not_lose_the_file(s3: S3Remote, mounted: MakeMount) -> None:
    """vim's save, killed with its machine between the rename and the new file."""
    s3.put("c1/f", b"precious\n")
    mount = mounted(s3, "--delete-delay=5m")
    assert (mount / "c1/f").read_bytes() == b"precious\n"
    (mount / "c1/f").rename(mount / "c1/f~")
    assert s3.get("c1/f") == b"precious\n"
    mount.kill()
    mount.start()
    assert (mount / "c1/f").read_bytes() == b"precious\n"
    assert mount.flush() == 0
    assert s3.keys() == ["c1/f"]
    assert s3.writes() == []


def test_an_fsync_is_not_forgotten_when_another_save_replaces_it(s3: S3Remote, mounted: MakeMount) -> None:
    """Two programs save one file; the one that waits in fsync must hear of the write that took its place."""
    s3.put("f", b"0")
    mount = mounted(s3, "--request-budget=60")
    s3.server.set(delay=0.5)
    (mount / "f").write_bytes(b"first")
    until(lambda: any(p["state"] == "uploading" for p in mount.asked("status")[0]["pending"]), "the upload to begin")
    script = (
        "import os, sys; f = open(sys.argv[1], 'wb', 0); f.write(b'second'); print(flush=True); os.fsync(f.fileno())"
    )
    command = [sys.executable, "-c", script, str(mount / "f")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as waiter:
        try:
            assert waiter.stdout is not None
            assert waiter.stdout.readline() == b"\n"
            (mount / "f").write_bytes(b"third")
            assert waiter.wait(READY_S) == 0
        finally:
            waiter.kill()
    assert mount.flush() == 0
