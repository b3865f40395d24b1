"""Do all sources say the same thing in the same way, and does each value know where it came from?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kopsfs import config
from kopsfs.config import OPTIONS, Config, find_option, load, split_mount_options
from kopsfs.errors import ConfigError
from kopsfs.option import Kind, Option

SAMPLES: dict[str, tuple[str, Any]] = {
    "state": ("s3://b", "s3://b"),
    "mountpoint": ("/mnt/x", Path("/mnt/x")),
    "sse": ("aws:kms:key", "aws:kms:key"),
    "acl": ("bucket-owner-full-control", "bucket-owner-full-control"),
    "keep_metadata": ("true", True),
    "ca_file": ("/etc/ssl/ca.pem", Path("/etc/ssl/ca.pem")),
    "ro": ("true", True),
    "allow_other": ("yes", True),
    "uid": ("1000", 1000),
    "gid": ("root", 0),
    "umask": ("077", 0o77),
    "max_staleness": ("500ms", 0.5),
    "refresh": ("1m", 60.0),
    "watch": ("manifests/**", ("manifests/**",)),
    "request_budget": ("5", 5.0),
    "revalidate_budget": ("2s", 2.0),
    "state_dir": ("/var/tmp/s", None),
    "cache_dir": ("/var/tmp/c", None),
    "cache_size": ("2G", 2 << 30),
    "memory_size": ("1048576", 1 << 20),
    "prefetch": ("all", "all"),
    "prefetch_size": ("1.5M", 3 << 19),
    "cache_secrets": ("disk", "disk"),
    "write_mode": ("through", "through"),
    "fsync": ("journal", "journal"),
    "guard": ("block", "block"),
    "on_conflict": ("notify-send kopsfs", "notify-send kopsfs"),
    "delete_delay": ("1h", 3600.0),
    "upload_delay": ("0", 0.0),
    "drain_budget": ("2m", 120.0),
    "foreground": ("on", True),
    "log_level": ("warning", "warning"),
    "log_file": ("/var/log/kopsfs", Path("/var/log/kopsfs")),
    "debug": ("1", True),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "system.toml")
    return tmp_path


def by_key(option: Option) -> str:
    return option.key


def value_in(loaded: Config, option: Option) -> Any:
    return getattr(loaded, option.field)


def test_every_option_has_a_sample() -> None:
    assert list(SAMPLES) == [option.key for option in OPTIONS]


@pytest.mark.parametrize("source", ["flag", "-o", "environment", "file"])
@pytest.mark.parametrize("option", OPTIONS, ids=by_key)
def test_every_source_sets_every_option(option: Option, source: str, home: Path) -> None:
    text, wanted = SAMPLES[option.key]
    flags: dict[str, Any] = {} if option.key == "state" else {"state": "s3://b"}
    environ = {"HOME": str(home)}
    pairs: list[tuple[str, str | None]] = []
    file = home / "k.toml"
    file.write_text("")
    if source == "flag":
        flags[option.key] = text
        origin = option.flag
    elif source == "-o":
        pairs = [(option.key, text)]
        origin = f"-o {option.key}"
    elif source == "environment":
        environ[option.env] = text
        origin = option.env
    else:
        file.write_text(f'{option.key} = "{text}"\n')
        origin = str(file)
    loaded = load(flags, pairs, environ, config_file=file)
    if wanted is None:
        assert value_in(loaded, option).parent == Path(text)
    else:
        assert value_in(loaded, option) == wanted
    assert loaded.origins[option.field] == origin


def test_later_sources_win(home: Path) -> None:
    (home / "system.toml").write_text("cache_size = 1\nmemory_size = 1\nprefetch_size = 1\n")
    (home / ".config" / "kopsfs").mkdir(parents=True)
    (home / ".config" / "kopsfs" / "kopsfs.toml").write_text("cache_size = 2\nmemory_size = 2\n")
    environ = {"HOME": str(home), "KOPSFS_CACHE_SIZE": "3"}
    state = {"state": "s3://b"}
    loaded = load(state, (), environ)
    assert (loaded.cache_size_bytes, loaded.memory_size_bytes, loaded.prefetch_size_bytes) == (3, 2, 1)
    assert load(state, [("cache_size", "4")], environ).cache_size_bytes == 4
    assert load(state | {"cache_size": "5"}, [("cache_size", "4")], environ).cache_size_bytes == 5


def test_a_named_file_is_the_only_file(home: Path) -> None:
    (home / "system.toml").write_text("cache_size = 1\n")
    (home / "mine.toml").write_text("memory_size = 2\n")
    loaded = load({"state": "s3://b"}, (), {"HOME": str(home)}, config_file=home / "mine.toml")
    assert (loaded.cache_size_bytes, loaded.memory_size_bytes) == (1 << 30, 2)
    same = load({"state": "s3://b"}, (), {"HOME": str(home), "KOPSFS_CONFIG": str(home / "mine.toml")})
    assert same.memory_size_bytes == 2


def test_a_toml_file_takes_its_own_types(home: Path) -> None:
    file = home / "k.toml"
    file.write_text(
        'state = "s3://b"\nro = true\ncache-size = 1024\nmax_staleness = 0.25\nwatch = ["a/**", "b"]\nuid = 7\n'
    )
    loaded = load({}, (), {"HOME": str(home)}, config_file=file)
    assert (loaded.read_only, loaded.cache_size_bytes, loaded.max_staleness_s) == (True, 1024, 0.25)
    assert (loaded.watch, loaded.uid) == (("a/**", "b"), 7)


def test_read_only_mounts_have_defaults_of_their_own(home: Path) -> None:
    environ = {"HOME": str(home)}
    rw, ro = load({"state": "s3://b"}, (), environ), load({"state": "s3://b"}, [("ro", None)], environ)
    assert (rw.max_staleness_s, rw.refresh_s, rw.watch) == (1.0, 5.0, ())
    assert (ro.max_staleness_s, ro.refresh_s, ro.watch) == (30.0, 30.0, ("manifests/**", "pki/**", "secrets/**"))
    assert ro.origins["refresh_s"] == "default of read-only mounts"
    told = load({"state": "s3://b", "max_staleness": "0", "watch": [""]}, [("ro", None)], environ)
    assert (told.max_staleness_s, told.watch) == (0.0, ())


BAD = [
    ("cache_size", "3x"),
    ("cache_size", "-1"),
    ("cache_size", ""),
    ("cache_size", "1GB"),
    ("cache_size", "１G"),
    ("max_staleness", "soon"),
    ("max_staleness", "-1s"),
    ("max_staleness", "nan"),
    ("max_staleness", "inf"),
    ("max_staleness", "1 fortnight"),
    ("refresh", "0"),
    ("request_budget", "0"),
    ("umask", "8"),
    ("umask", "7777"),
    ("uid", "-1"),
    ("uid", "nobody-of-that-name"),
    ("gid", "1.5"),
    ("ro", "perhaps"),
    ("prefetch", "some"),
    ("sse", "aws:kms:"),
    ("sse", "aes256"),
    ("write_mode", "Back"),
    ("mountpoint", ""),
]


@pytest.mark.parametrize(("key", "text"), BAD)
def test_what_cannot_be_read_is_an_error_that_names_source_and_option(key: str, text: str, home: Path) -> None:
    option = find_option(key, "")
    state = {"state": "s3://b"}
    with pytest.raises(ConfigError) as caught:
        load(state, [(key, text)], {"HOME": str(home)})
    assert str(caught.value).startswith(f"-o {key}: ")
    assert str(caught.value).count(key) == 1, "said once"
    with pytest.raises(ConfigError) as caught:
        load(state | {key: text}, (), {"HOME": str(home)})
    assert str(caught.value).startswith(option.flag)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["cache_size = true", "umask = 77", "ro = 2", "mountpoint = 1", "watch = [1]"])
def test_toml_of_the_wrong_type_is_an_error(text: str, home: Path) -> None:
    file = home / "k.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load({"state": "s3://b"}, (), {"HOME": str(home)}, config_file=file)
    assert str(caught.value).startswith(f"{file}: {text.split()[0]}: ")


@pytest.mark.parametrize(
    ("key", "nearest"), [("cachesize", "cache_size"), ("max-stalenes", "max_staleness"), ("allow_othr", "allow_other")]
)
def test_an_unknown_key_is_an_error_with_the_nearest_name(key: str, nearest: str, home: Path) -> None:
    file = home / "k.toml"
    file.write_text(f"{key} = 1\n")
    with pytest.raises(ConfigError, match=f"k.toml: unknown option '{key}'; did you mean {nearest}\\?"):
        load({"state": "s3://b"}, (), {"HOME": str(home)}, config_file=file)
    with pytest.raises(ConfigError, match=f"-o: unknown option '{key}'; did you mean {nearest}\\?"):
        load({"state": "s3://b"}, [(key, None)], {"HOME": str(home)})


def test_a_section_in_the_file_is_an_unknown_key(home: Path) -> None:
    file = home / "k.toml"
    file.write_text("[cache]\nsize = 1\n")
    with pytest.raises(ConfigError, match="unknown option 'cache'"):
        load({"state": "s3://b"}, (), {"HOME": str(home)}, config_file=file)


def test_a_mistyped_variable_is_told(home: Path) -> None:
    environ = {"HOME": str(home), "KOPSFS_CACHE_SISE": "1", "KOPSFS_TEST_STORE": "x"}
    assert load({"state": "s3://b"}, (), environ).warnings == (
        "the variable KOPSFS_CACHE_SISE is no setting; did you mean KOPSFS_CACHE_SIZE?",
    )


@pytest.mark.parametrize("content", [None, b"a = \xff", b"a = ", b"= 1"])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, home: Path) -> None:
    file = home / "k.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"k\.toml"):
        load({"state": "s3://b"}, (), {"HOME": str(home)}, config_file=file)


def test_mount_options_are_split_at_commas() -> None:
    assert split_mount_options(r"ro,,on_conflict=a\,b,watch=x,watch=y=z") == [
        ("ro", None),
        ("on_conflict", "a,b"),
        ("watch", "x"),
        ("watch", "y=z"),
    ]


def test_a_mount_option_may_be_repeated_where_it_is_a_list(home: Path) -> None:
    pairs = split_mount_options("watch=a,watch=b,cache_size=1,cache_size=2")
    loaded = load({"state": "s3://b"}, pairs, {"HOME": str(home)})
    assert (loaded.watch, loaded.cache_size_bytes) == (("a", "b"), 2)


def test_a_mount_option_without_its_value_is_an_error(home: Path) -> None:
    with pytest.raises(ConfigError, match="-o cache_size: a value is missing; write cache_size=SIZE"):
        load({"state": "s3://b"}, [("cache_size", None)], {"HOME": str(home)})


def test_kopss_acl_variable_is_taken_and_ours_comes_first(home: Path) -> None:
    environ = {"HOME": str(home), "KOPS_STATE_S3_ACL": " private "}
    loaded = load({"state": "s3://b"}, (), environ)
    assert (loaded.acl, loaded.origins["acl"]) == ("private", "KOPS_STATE_S3_ACL")
    assert load({"state": "s3://b"}, (), environ | {"KOPSFS_ACL": "public-read"}).acl == "public-read"
    assert load({"state": "s3://b"}, (), environ | {"KOPS_STATE_S3_ACL": "  "}).acl is None


def test_credentials_are_not_printed(home: Path) -> None:
    loaded = load({"state": "s3://b"}, (), {"HOME": str(home), "S3_SECRET_ACCESS_KEY": "hunter2"})
    assert loaded.environ["S3_SECRET_ACCESS_KEY"] == "hunter2"
    assert "hunter2" not in repr(loaded)


def test_a_config_does_not_change(home: Path) -> None:
    loaded = load({"state": "s3://b"}, (), {"HOME": str(home)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.state = "s3://c"  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded.environ["HOME"] = "/"  # type: ignore[index]


def test_no_number_in_the_table_lacks_its_unit() -> None:
    for option in OPTIONS:
        if option.kind is Kind.BYTES:
            assert option.field.endswith("_bytes")
        if option.kind is Kind.SECONDS:
            assert option.field.endswith("_s")
