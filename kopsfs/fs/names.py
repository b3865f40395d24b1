"""Which name stands for which key, which names stay on this machine, and with which mode?

Everything here is pure. A *path* is a key relative to the mounted prefix: components joined by `/`.
Keys no file system can show (empty components, `.` and `..`, NUL, components over 255 bytes) are
*unreachable*: they are counted and named in `status`, never changed and never hidden silently.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from kopsfs.errors import BadNameError, EncodingError, NameTooLongError

NAME_BYTES_MAX: Final = 255
"""Linux's NAME_MAX (include/uapi/linux/limits.h)."""

SHADOW_SUFFIX: Final = ".__file__"
"""Where `a` and `a/b` are both keys, the directory has the name and the object is shown as `a.__file__`."""

EXPECTED_DIRECTORIES: Final = frozenset(
    {
        "addons",
        "clusteraddons",
        "igconfig",
        "instancegroup",
        "manifests",
        "pki",
        "pki/private",
        "pki/ssh",
        "pki/ssh/public",
        "pki/ssh/public/admin",
        "secrets",
    }
)
"""Directories a cluster has in kops's eyes even when empty (kops vfsclientset; kops-state-store.md §6 row 13)."""

_LOCAL = re.compile(
    r"""
      .*~                    # vim, emacs, nano, sed -i.~ : backups
    | \#.*\#                 # emacs: auto-save
    | 4913                   # vim: is this directory writable?
    | \.(?!well-known$).*    # swap files, locks, .goutputstream-*, rsync's .name.XXXXXX, .nfs*, .git
    """,
    re.VERBOSE | re.DOTALL,
)
_LOCAL_IF_EXCLUSIVE = re.compile(r"sed[A-Za-z0-9]{6}|tmp[0-9]{6,}")
"""GNU sed -i (sed/execute.c, `sedXXXXXX`) and kops (util/pkg/vfs/fs.go, os.CreateTemp(dir, "tmp"))."""

_SECRET_PARENTS: Final = (("pki", "private"), ("secrets",), ("backups",))


def from_kernel(name: bytes) -> str:
    """Turn a name the kernel sent into text. Raises EncodingError, NameTooLongError."""
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLongError(name)
    try:
        return name.decode()
    except UnicodeDecodeError as exc:
        raise EncodingError(name) from exc


def check_key(path: str, prefix: str, key_bytes_max: int) -> None:
    """Refuse what the store could not hold. Raises NameTooLongError, BadNameError."""
    if "\0" in path:
        raise BadNameError(path)
    if len((prefix + path).encode()) > key_bytes_max:
        raise NameTooLongError(path)


def stays_local(name: str, *, exclusive: bool) -> bool:
    """Is a new file of this name an editor's dropping that must not reach the store?

    Semantics: design §7; `exclusive` is O_EXCL of the creation.
    """
    return bool(_LOCAL.fullmatch(name)) or (exclusive and bool(_LOCAL_IF_EXCLUSIVE.fullmatch(name)))


def components(key: str) -> tuple[str, ...] | None:
    """Split a key into names a file system can show; None if it is unreachable.

    A trailing `/` (a directory marker some consoles make) gives the directory's components.
    """
    parts = key.removesuffix("/").split("/")
    for part in parts:
        if part in {"", ".", ".."} or "\0" in part:
            return None
        if len(part) > 63 and len(part.encode()) > NAME_BYTES_MAX:
            return None
    return tuple(parts)


def is_secret(key: str) -> bool:
    """Do the bytes (or, of a directory, the names) at this whole key belong to root or the mounter only?

    Matched at any depth of the whole key, the mounted prefix included: promise 9 of the design.
    """
    parts = key.split("/")
    for number, part in enumerate(parts):
        if part in {"secrets", "backups"}:
            return True
        if part == "private" and number and parts[number - 1] == "pki":
            return True
    return False


def default_mode(key: str, *, directory: bool) -> int:
    """The permission bits of what the store holds, where nobody has said otherwise here."""
    if is_secret(key):
        return 0o700 if directory else 0o600
    return 0o755 if directory else 0o644


def is_expected_directory(path: str) -> bool:
    """Is this directory part of every cluster's layout, so that it exists even when empty?"""
    _, _, rest = path.partition("/")
    return rest in EXPECTED_DIRECTORIES


def mtime_ns(mtime_s_ns: int, version: str) -> int:
    """Make a time that differs for each version from a store's whole seconds.

    The kernel drops cached pages when mtime or size change (AUTO_INVAL_DATA, fs/fuse/inode.c), so
    two versions of one size within one second must not have one mtime.
    """
    return mtime_s_ns // 1_000_000_000 * 1_000_000_000 + zlib.crc32(version.encode()) % 1_000_000_000
