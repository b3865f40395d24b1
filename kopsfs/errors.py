"""What can go wrong, as one closed tree.

A driver raises `StoreError` and its subclasses only; the file system raises those and `FsError`;
`fuse.py` has one table from these classes to errno, and the CLI one to exit statuses.
Exceptions carry data (`op`, `key`, `detail`); the sentence a person reads is made from them here,
in `__str__`, so that it is the same in the log, in `status` and on stderr.

    KopsfsError
    ├── ConfigError                 exit 78
    ├── InputError                  exit 66
    ├── StoreError(op, key, detail)
    │   ├── NotFoundError           ENOENT      the key is not there
    │   ├── ConflictError           ESTALE      the object is not at the expected version
    │   ├── DeniedError             EACCES      credentials, policy
    │   │   └── RefusedError        EACCES      credentials that the store does not take (any more)
    │   ├── InvalidKeyError         EINVAL      the store cannot hold such a key
    │   │   └── OccupiedError       EEXIST      what the key needs is another key's
    │   ├── TooLargeError           EFBIG
    │   ├── QuotaError              EDQUOT
    │   ├── UnsupportedError        EOPNOTSUPP  the store does not know this request or condition
    │   ├── CorruptError            EIO         bytes are not what their digest says
    │   ├── StoreGoneError          EIO         bucket, container or namespace is missing
    │   └── TransientError          EIO         try again: network, 5xx, throttling
    │       └── StoreDownError      ETIMEDOUT   the circuit breaker is open: not even tried
    ├── FsError                     what a system call answers
    │   ├── NoEntryError ENOENT · ExistsError EEXIST · NotDirectoryError ENOTDIR · IsDirectoryError EISDIR
    │   ├── NotEmptyError ENOTEMPTY · BadNameError EINVAL · EncodingError EILSEQ · NameTooLongError ENAMETOOLONG
    │   ├── StaleError ESTALE · CrossDeviceError EXDEV · ReadOnlyError EROFS · NotPermittedError EPERM
    │   ├── HeldError EINVAL · SpaceError ENOSPC · FileTooLargeError EFBIG · NoAttributeError ENODATA
    │   └── NotSupportedError EOPNOTSUPP · AccessError EACCES · TimedOutError ETIMEDOUT · DataError EIO
    └── JournalError                EIO; at start: exit 70
"""

from __future__ import annotations

from typing_extensions import override


class KopsfsError(Exception):
    """Everything kopsfs raises on purpose."""


class ConfigError(KopsfsError):
    """A setting that cannot be used; the message names it, where it came from and what to do."""


class InputError(KopsfsError):
    """A file or directory the user named is not there or is not what the command needs."""


class StoreError(KopsfsError):
    """A request to the store did not do what was asked.

    Attributes:
        op: the request: `head`, `get`, `put`, `delete`, `list`, `open`.
        key: the object's key relative to the mounted prefix, or the prefix of a listing.
        detail: what the store said, in one line, without credentials.
    """

    def __init__(self, op: str, key: str = "", detail: str = "") -> None:
        super().__init__(op, key, detail)
        self.op = op
        self.key = key
        self.detail = detail

    @override
    def __str__(self) -> str:
        what = f"{self.op} {self.key!r}" if self.key else self.op
        return f"{what}: {self.detail or type(self).__name__}"


class NotFoundError(StoreError):
    """The key does not exist."""


class ConflictError(StoreError):
    """The object is not at the expected version: somebody else wrote first."""


class DeniedError(StoreError):
    """Credentials are missing, wrong or expired, or do not allow this."""


class RefusedError(DeniedError):
    """The store does not take these credentials, whatever is asked: they have ended, or were never good."""


class InvalidKeyError(StoreError):
    """The store cannot hold an object of this key."""


class OccupiedError(InvalidKeyError):
    """The place where the store would keep this object is another key's; the detail names that."""


class TooLargeError(StoreError):
    """The object is larger than the store accepts."""


class QuotaError(StoreError):
    """The account's quota is used up."""


class UnsupportedError(StoreError):
    """The store does not know this request, or refuses this condition by name."""


class CorruptError(StoreError):
    """Bytes arrived that do not match their digest."""


class StoreGoneError(StoreError):
    """The bucket, container or namespace itself is missing."""


class TransientError(StoreError):
    """The network failed, or the store is overloaded; the request may or may not have acted."""

    def __init__(self, op: str, key: str = "", detail: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(op, key, detail)
        self.retry_after_s = retry_after_s


class StoreDownError(TransientError):
    """The store is known to be down and was not asked."""


class FsError(KopsfsError):
    """A system call's answer other than success; the message is for the log only."""


class NoEntryError(FsError):
    """No such name."""


class ExistsError(FsError):
    """The name exists."""


class NotDirectoryError(FsError):
    """A directory was needed."""


class IsDirectoryError(FsError):
    """Something other than a directory was needed."""


class NotEmptyError(FsError):
    """The directory has entries."""


class BadNameError(FsError):
    """No object can have this name."""


class EncodingError(BadNameError):
    """The name is not UTF-8, and keys are."""


class NameTooLongError(FsError):
    """The name or the whole key is longer than the store or the kernel takes."""


class StaleError(FsError):
    """The write lost a race; its bytes are in the conflict area."""


class CrossDeviceError(FsError):
    """This rename has to be done as copy and delete."""


class ReadOnlyError(FsError):
    """The mount or the credentials are read-only."""


class NotPermittedError(FsError):
    """kopsfs has no such thing: hard links, devices."""


class HeldError(FsError):
    """A guard holds the write back."""


class SpaceError(FsError):
    """The local disk is full."""


class FileTooLargeError(FsError):
    """Larger than any store takes."""


class NoAttributeError(FsError):
    """No such extended attribute."""


class NotSupportedError(FsError):
    """The operation does not exist here."""


class AccessError(FsError):
    """Not for this user."""


class TimedOutError(FsError):
    """The store did not answer within the request's budget."""


class DataError(FsError):
    """The bytes cannot be had: not cached, and the store does not give them."""


class JournalError(KopsfsError):
    """The journal cannot be read or written."""
