"""Is what an open itself does to a file kept, or refused, whatever it is opened for?"""

from __future__ import annotations

import errno
import os

import pytest

from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import Remote

pytestmark = pytest.mark.fuse


def test_an_open_for_reading_may_make_and_empty_files(remote: Remote, mounted: MakeMount) -> None:
    """As root does on any file system: open(2), O_TRUNC, and flock(1), which makes its lock file."""
    remote.put("c1/f", b"bytes")
    mount = mounted(remote, "--guard=off")
    os.close(os.open(mount / "c1/f", os.O_RDONLY | os.O_TRUNC))
    os.close(os.open(mount / "c1/lock", os.O_RDONLY | os.O_CREAT, 0o644))
    assert mount.flush() == 0
    assert (remote.get("c1/f"), remote.get("c1/lock")) == (b"", b"")
    assert (mount / "c1/f").read_bytes() == b""


def test_a_read_only_mount_empties_nothing(remote: Remote, mounted: MakeMount) -> None:
    remote.put("c1/f", b"bytes")
    mount = mounted(remote, "--ro")
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.close(os.open(mount / "c1/f", os.O_RDONLY | os.O_TRUNC))
    assert (mount / "c1/f").read_bytes() == b"bytes"
    assert (mount / "c1/f").stat().st_size == 5
