"""Which writes are so likely a mistake that they wait for a person?

Design §7, *Guards*: an empty file over a cluster's configuration, keys or secrets is held (the shell
truncated it and the program then failed); what does not parse is for the document guard that the
daemon hands in. Bytes are never changed, and nothing is lost: a held write is in the journal.
"""

from __future__ import annotations

from collections.abc import Callable

DocumentGuard = Callable[[str, bytes], list[str]]
"""(path inside the store, bytes) → what is wrong with the document; empty if nothing is."""


def is_precious(key: str) -> bool:
    """Would an empty file here take a cluster down? `config`, `instancegroup/*`, `pki/**`, `secrets/**`."""
    parts = key.split("/")[1:]
    if not parts:
        return False
    return parts == ["config"] or (parts[0] == "instancegroup" and len(parts) == 2) or parts[0] in {"pki", "secrets"}


Review = Callable[[str, str, bytes], None]
"""(path, whole key, bytes): look at a document that was written, when there is time."""


def make_guard(
    level: str,
    prefix: str,
    findings: dict[str, list[str]],
    document_guard: DocumentGuard | None = None,
    review: Review | None = None,
) -> Callable[[str, bytes | None, int, int], str]:
    """The guard of a mount: (path, bytes if small, size, size in the store or -1) → why it is held, or empty.

    Under `block` a document is judged before it is owed; under `warn` afterwards, so that no save waits for it.
    What is wrong with one is kept in `findings` under its path until the next write of it.
    """

    def guard(path: str, data: bytes | None, size: int, in_store: int) -> str:
        findings.pop(path, None)
        if level == "off":
            return ""
        key = prefix + path
        if size == 0 and in_store > 0 and is_precious(key):
            return "an empty file over one that is not"
        if not data or not is_document(key):
            return ""
        if level == "block" and document_guard is not None:
            wrong = document_guard(key, data)
            if wrong:
                findings[path] = wrong
                return wrong[0]
        elif review is not None:
            review(path, key, data)
        return ""

    return guard


def is_document(key: str) -> bool:
    """Does kops decode the file? `config`, `cluster.spec`, `instancegroup/*`, keysets."""
    parts = key.split("/")[1:]
    return parts in (["config"], ["cluster-completed.spec"], ["cluster.spec"]) or (
        len(parts) >= 2 and (parts[0] in {"instancegroup", "secrets"} or parts[-1] == "keyset.yaml")
    )
