"""Is the state store found as kops finds it? The whole table: flag, variable, the two files.

Facts: kops cmd/kops/root.go (initConfig, Clientset) and viper's rules for flags, variables and keys.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kopsfs.config import STATE_STORE_REQUIRED, StateStore, load, state_store
from kopsfs.errors import ConfigError

ABSENT = None

FLAGS = {"flag unset": None, "flag set": "s3://flag", "flag empty": ""}
VARIABLES = {"env unset": None, "env set": "s3://env", "env empty": ""}
FILES: dict[str, tuple[str | None, str | None]] = {
    "no file": (None, None),
    "first": ("kops_state_store: s3://first\n", None),
    "second": (None, "kops_state_store: s3://second\n"),
    "both": ("kops_state_store: s3://first\n", "kops_state_store: s3://second\n"),
    "first without the key hides the second": ("other: x\n", "kops_state_store: s3://second\n"),
    "first empty hides the second": ("", "kops_state_store: s3://second\n"),
    "first broken hides the second": ("a: [\n", "kops_state_store: s3://second\n"),
}


def expected(flag: str | None, env: str | None, first: str | None, second: str | None) -> str | None:
    """kops's rule, written again from its description."""
    if flag is not None:
        return flag or None
    if env:
        return env
    text = first if first is not None else second
    return text.split(": ")[1].strip() if text and text.startswith("kops_state_store") else None


def write_files(home: Path, first: str | None, second: str | None) -> None:
    if first is not None:
        (home / ".kops.yaml").write_text(first)
    if second is not None:
        (home / ".kops").mkdir()
        (home / ".kops" / "config").write_text(second)


@pytest.mark.parametrize(("flag", "env", "files"), list(itertools.product(FLAGS, VARIABLES, FILES)))
def test_the_first_source_that_speaks_wins(flag: str, env: str, files: str, tmp_path: Path) -> None:
    write_files(tmp_path, *FILES[files])
    environ = {} if VARIABLES[env] is None else {"KOPS_STATE_STORE": VARIABLES[env]}
    wanted = expected(FLAGS[flag], VARIABLES[env], *FILES[files])
    if wanted is None:
        with pytest.raises(ConfigError) as caught:
            state_store(FLAGS[flag], environ, tmp_path, None)
        assert str(caught.value).endswith(STATE_STORE_REQUIRED)
    else:
        assert state_store(FLAGS[flag], environ, tmp_path, None).url == wanted


CONTENTS = {
    "plain": ("kops_state_store: s3://b", "s3://b"),
    "upper case": ("KOPS_STATE_STORE: s3://b", "s3://b"),
    "mixed case": ("Kops_State_Store: s3://b", "s3://b"),
    "JSON": ('{"kops_state_store": "s3://b"}', "s3://b"),
    "quoted": ("kops_state_store: 's3://b'", "s3://b"),
    "comment": ("# mine\nkops_state_store: s3://b # ours\n", "s3://b"),
    "one slash": ("kops_state_store: s3://b/", "s3://b"),
    "two slashes": ("kops_state_store: s3://b//", "s3://b/"),
    "null": ("kops_state_store:", None),
    "a list": ("kops_state_store: [s3://b]", None),
    "nested": ("a:\n  kops_state_store: s3://b", None),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_a_file_may_hold(name: str, tmp_path: Path) -> None:
    text, wanted = CONTENTS[name]
    write_files(tmp_path, text, None)
    if wanted is None:
        with pytest.raises(ConfigError):
            state_store(None, {}, tmp_path, None)
    else:
        assert state_store(None, {}, tmp_path, None) == StateStore(wanted, str(tmp_path / ".kops.yaml"))


@pytest.mark.parametrize("text", ["a: [", "\t- x", "just text", "- a\n- b", "a: 1\n b: 2", "\x00"])
def test_a_file_that_is_no_yaml_mapping_is_told(text: str, tmp_path: Path) -> None:
    write_files(tmp_path, text, None)
    with pytest.raises(ConfigError) as caught:
        state_store(None, {}, tmp_path, None)
    assert str(caught.value).startswith(f"{tmp_path}/.kops.yaml is not read: ")
    assert str(caught.value).endswith(STATE_STORE_REQUIRED)


def test_a_first_file_that_cannot_be_read_hides_the_second(tmp_path: Path) -> None:
    write_files(tmp_path, None, "kops_state_store: s3://second")
    (tmp_path / ".kops.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"is not read: .*Is a directory"):
        state_store(None, {}, tmp_path, None)


def test_kopss_words_are_exact() -> None:
    assert STATE_STORE_REQUIRED == (
        "State Store: Required value: Please set the --state flag or export KOPS_STATE_STORE.\n"
        "For example, a valid value follows the format s3://<bucket>.\n"
        "You can find the supported stores in https://kops.sigs.k8s.io/state."
    )


@pytest.mark.parametrize("source", ["flag", "env"])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [("s3://b/", "s3://b"), ("s3://b//", "s3://b/"), ("s3://b/p/", "s3://b/p"), ("/srv/state/", "/srv/state")],
)
def test_one_trailing_slash_is_trimmed(source: str, given: str, wanted: str, tmp_path: Path) -> None:
    flag = given if source == "flag" else None
    assert state_store(flag, {"KOPS_STATE_STORE": given}, tmp_path, None).url == wanted


def test_a_lone_slash_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        state_store("/", {}, tmp_path, None)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("s3://AKIA:secret@b/k", "s3://b/k"),
        ("gs://u@b", "gs://b"),
        ("s3://b/a@b", "s3://b/a@b"),
        ("k8s://admin@cluster", "k8s://admin@cluster"),
        ("k8s://", "k8s://"),
        ("k8s:///", "k8s://"),
        ("file:///srv/a@b", "file:///srv/a@b"),
    ],
)
def test_a_password_in_a_url_goes_no_further(given: str, wanted: str, tmp_path: Path) -> None:
    assert state_store(given, {}, tmp_path, None).url == wanted


def test_our_own_file_comes_before_kopss_files_and_after_the_environment(tmp_path: Path) -> None:
    write_files(tmp_path, "kops_state_store: s3://kops", None)
    own = StateStore("s3://own", "kopsfs.toml")
    assert state_store(None, {}, tmp_path, own).url == "s3://own"
    assert state_store(None, {"KOPS_STATE_STORE": "s3://env"}, tmp_path, own).url == "s3://env"


def test_a_named_file_and_the_environment_must_not_name_two_stores(tmp_path: Path) -> None:
    file = tmp_path / "prod.toml"
    file.write_text('state = "s3://prod"\n')
    environ = {"KOPS_STATE_STORE": "s3://staging", "HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"s3://prod.*KOPS_STATE_STORE.*s3://staging.*--state"):
        load({}, environ=environ, config_file=file)
    assert load({"state": "s3://prod"}, environ=environ, config_file=file).state == "s3://prod"
    assert load({}, environ=environ | {"KOPS_STATE_STORE": "s3://prod/"}, config_file=file).state == "s3://prod"
