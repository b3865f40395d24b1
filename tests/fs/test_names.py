"""Is a name what the design says: stored or local, secret or not, showable or unreachable?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kopsfs.errors import BadNameError, EncodingError, NameTooLongError
from kopsfs.fs import names

DROPPINGS = [
    "config~", "~", "#config#", "##", "4913", ".config.swp", ".#config", ".goutputstream-ABC123",
    ".nodes.aB3xYz", ".nfs000000000001", ".git", ".DS_Store", "._config", ".\n", "multi\nline~",
]  # fmt: skip
"""vim, emacs, gedit, rsync, NFS, git, macOS."""

REAL = [
    "config", "nodes-us-east-1a", "4914", "04913", "#config", "config#", "a~b", "keyset.yaml", "tmp1234567",
    "sedabcdef", ".well-known", "bootstrap-channel.yaml", "k8s-1.16",
]  # fmt: skip


@pytest.mark.parametrize("name", DROPPINGS)
def test_an_editors_dropping_stays_local(name: str) -> None:
    assert names.stays_local(name, exclusive=False)
    assert names.stays_local(name, exclusive=True)


@pytest.mark.parametrize("name", REAL)
def test_any_other_name_is_stored(name: str) -> None:
    assert not names.stays_local(name, exclusive=False)


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("sedAbC123", True), ("sedabcde", False), ("sedabcdefg", False), ("xsedabcdef", False),
        ("tmp123456", True), ("tmp12345", False), ("tmpabcdef", False), ("tmp4067293501", True),
    ],
)  # fmt: skip
def test_sed_and_kops_are_known_by_name_and_exclusive_creation(name: str, local: bool) -> None:
    assert names.stays_local(name, exclusive=True) is local
    assert not names.stays_local(name, exclusive=False)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("a", ("a",)),
        ("a/b", ("a", "b")),
        ("a/", ("a",)),
        ("a/b/", ("a", "b")),
        ("/a", None),
        ("a//b", None),
        ("a//", None),
        ("/", None),
        ("", None),
        ("a/./b", None),
        ("a/..", None),
        ("..", None),
        ("a\0b", None),
        ("...", ("...",)),
        ("a b/ü%2F:+", ("a b", "ü%2F:+")),
        ("x" * 255, ("x" * 255,)),
        ("x" * 256, None),
        ("ü" * 127, ("ü" * 127,)),
        ("ü" * 128, None),
        ("d/" + "x" * 256 + "/f", None),
    ],
)
def test_a_key_is_split_or_unreachable(key: str, parts: tuple[str, ...] | None) -> None:
    assert names.components(key) == parts


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_what_can_be_shown_comes_back_as_the_same_key(parts: list[str]) -> None:
    shown = names.components("/".join(parts))
    impossible = any(part in {".", ".."} or len(part.encode()) > 255 for part in parts)
    assert shown == (None if impossible else tuple(parts))


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("c/pki/private/kubernetes-ca/keyset.yaml", True),
        ("c/pki/private", True),
        ("c/pki/issued/ca/keyset.yaml", False),
        ("c/pki", False),
        ("c/private/x", False),
        ("private/x", False),
        ("c/secrets/admin", True),
        ("c/secrets", True),
        ("secrets/x", True),
        ("c/backups/etcd/main/2026/etcd.backup.gz", True),
        ("deep/er/c/pki/private/x", True),
        ("c/secretsx/y", False),
        ("c/pki/privatex", False),
    ],
)
def test_a_secret_is_known_at_any_depth(key: str, secret: bool) -> None:
    assert names.is_secret(key) is secret
    assert names.default_mode(key, directory=False) == (0o600 if secret else 0o644)
    assert names.default_mode(key, directory=True) == (0o700 if secret else 0o755)


def test_the_kernels_bytes_become_text_or_an_error() -> None:
    assert names.from_kernel("ü".encode()) == "ü"
    assert names.from_kernel(b"x" * 255) == "x" * 255
    with pytest.raises(NameTooLongError):
        names.from_kernel(b"x" * 256)
    with pytest.raises(EncodingError):
        names.from_kernel(b"\xff")


def test_a_key_the_store_cannot_hold_is_refused_when_it_is_made() -> None:
    names.check_key("b" * 1000, "a" * 24, 1024)
    with pytest.raises(NameTooLongError):
        names.check_key("b" * 1000, "a" * 25, 1024)
    with pytest.raises(BadNameError):
        names.check_key("a\0b", "", 1024)


def test_versions_of_one_second_have_their_own_mtime() -> None:
    second = 1_700_000_000_000_000_000
    times = {names.mtime_ns(second + 5, str(version)) for version in range(1000)}
    assert len(times) == 1000
    assert all(second <= time < second + 1_000_000_000 for time in times)
    assert names.mtime_ns(second, "v") == names.mtime_ns(second, "v")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("c/pki", True), ("c/pki/private", True), ("c/pki/ssh/public/admin", True), ("c", False), ("pki", False), ("c/x", False), ("c/pki/x", False)],
)  # fmt: skip
def test_a_clusters_layout_is_expected_below_its_directory(path: str, expected: bool) -> None:
    assert names.is_expected_directory(path) is expected
