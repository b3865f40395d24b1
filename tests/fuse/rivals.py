"""What becomes of a file that two mounts edit at once?

Two programs, each on a mount of its own, read a file and write another version of it, again and again. `edit` lets them
run and gives a `Race`: which edits were accepted, which version each was made from, what the conflict areas hold and what
the store holds in the end. Versions are told apart by their bytes, so that no word of a driver or a server is believed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fuse.conftest import MakeMount
from tests.fuse.mounted import Mount, Remote

PATH = "c1/f"
EDITOR = """
import hashlib, os, random, sys
path, name, edits, seed, torn = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == 'torn'
choose = random.Random(seed)


def read():
    with open(path, 'rb') as f:
        first = f.read(4096)      # two reads, so that a version could change in between
        return first + f.read()


def whole(data):
    body, _, digest = data.rpartition(b'#')
    assert torn or hashlib.sha256(body).hexdigest().encode() == digest, ('a mixture', len(data))
    return hashlib.md5(data).hexdigest()


print('ready', flush=True)
sys.stdin.readline()
for edit in range(edits):
    base = whole(read())
    line = b'%s %d\\n' % (name.encode(), edit)
    # Longer than two pages, and its length moves across a page's end.
    body = line + choose.randbytes(choose.randrange(8000, 13000)).replace(b'#', b'.')
    data = body + b'#' + hashlib.sha256(body).hexdigest().encode()
    if edit % 2:
        temporary = '%s.%s' % (path, name)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    else:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, data)
    if edit % 2:
        os.rename(temporary, path)
    try:
        os.fsync(fd)
        accepted = 1
    except OSError as error:
        assert error.errno == 116, error
        accepted = 0
    os.close(fd)
    print(accepted, hashlib.md5(data).hexdigest(), base, flush=True)
"""


@dataclass(frozen=True)
class Edit:
    """One save, as its program saw it; versions by MD5."""

    mount: int
    accepted: bool
    version: str
    base: str
    """What the program had read before."""


@dataclass(frozen=True)
class Race:
    """What two mounts did to one file."""

    mounts: list[Mount]
    first: str
    edits: list[Edit]
    final: str

    @property
    def accepted(self) -> list[str]:
        """Versions that `fsync` said are stored."""
        return [edit.version for edit in self.edits if edit.accepted]

    @property
    def overwritten(self) -> int:
        """How many accepted versions went with nobody having read them: two were made from the same one."""
        made_from = Counter(edit.base for edit in self.edits if edit.accepted)
        return sum(count - 1 for count in made_from.values())

    def refused(self, mount: int) -> list[str]:
        return sorted(edit.version for edit in self.edits if edit.mount == mount and not edit.accepted)

    def kept(self, mount: int) -> list[str]:
        """Versions in the conflict area of a mount."""
        found = []
        for conflict in self.mounts[mount].conflicts():
            (both,) = self.mounts[mount].asked("conflicts", action="diff", id=conflict["id"])
            found.append(hashlib.md5(base64.b64decode(both["mine_b64"])).hexdigest())
        return sorted(found)

    @property
    def torn(self) -> int:
        """How many programs read what nobody was told is stored."""
        return sum(edit.base not in {self.first, *self.accepted} for edit in self.edits)

    def check(self) -> None:
        """Every edit is accounted for: it was stored when its program was told so, or is in the conflict area."""
        assert self.final in {self.first, *self.accepted}, "the store holds what nobody was told is stored"
        for number, mount in enumerate(self.mounts):
            assert self.kept(number) == self.refused(number), "the conflict area is not what lost its race"
            mount.healthy()
        assert len(self.accepted) > 1
        assert len(self.accepted) < len(self.edits), "no race was lost: the test shows nothing"

    def check_chain(self) -> None:
        """Each accepted version was made from the one before it, from the first to the one that is stored."""
        assert self.torn == 0, "somebody read what nobody was told is stored"
        after = {edit.base: edit.version for edit in self.edits if edit.accepted}
        assert self.overwritten == 0, "two accepted versions were made from the same one"
        at, steps = self.first, 0
        while at in after:
            at, steps = after[at], steps + 1
        assert (at, steps) == (self.final, len(self.accepted)), (
            "an accepted version is not among the ancestors of the last"
        )


@contextlib.contextmanager
def editor(mount: Mount, number: int, edits: int, *, torn: bool) -> Iterator[subprocess.Popen[str]]:
    """A program that is ready to edit, and begins when it is told to."""
    words = [str(mount / PATH), f"m{number}", str(edits), str(number), "torn" if torn else "whole"]
    command = [sys.executable, "-c", EDITOR, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def edit(remote: Remote, mounted: MakeMount, edits: int, *, torn: bool = False) -> Race:
    """Let two mounts edit one file, `edits` times together; `torn`: the store shows what is being written."""
    body = b"start" + random.Random(0).randbytes(9000).replace(b"#", b".")
    first = body + b"#" + hashlib.sha256(body).hexdigest().encode()
    remote.put(PATH, first)
    expected = (f"conflict key={PATH}",)
    # Without staleness an open has no last answer to fall back on, and fsync none at all: a busy server may take its time.
    options = ("--max-staleness=0", "--revalidate-budget=60", "--request-budget=60")
    mounts = [mounted(remote, *options, name=name, expect=expected) for name in ("one", "two")]
    made: list[Edit] = []
    half = edits // 2
    with editor(mounts[0], 0, half, torn=torn) as one, editor(mounts[1], 1, half, torn=torn) as two:
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("begin\n")
            process.stdin.flush()
        for number, process in enumerate((one, two)):
            said, trouble = process.communicate(timeout=120 + 3 * edits)
            assert process.returncode == 0, f"editor {number} ended with {process.returncode}: {trouble}"
            rows = [line.split() for line in said.splitlines()]
            made += [Edit(number, accepted == "1", version, base) for accepted, version, base in rows]
    assert len(made) == edits
    for mount in mounts:
        mount.flush()
    return Race(mounts, hashlib.md5(first).hexdigest(), made, hashlib.md5(remote.get(PATH)).hexdigest())
