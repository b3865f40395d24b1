"""What was asked for, and where was it said?

`Config` is the one table of options: each field that a person can set carries its `Option`, and from
that come the long option, the mount option (`_` for `-`), the key of the TOML file, the variable
`KOPSFS_…`, the man pages and the completions. Later sources win: default, file, environment,
`-o`, flag. Which state store is meant follows kops's own rules, in `state_store`.
Credentials are no settings: the SDKs find them, from `environ` and from where they always look.
"""

# ruff: noqa: RUF009 — option() declares a dataclass field, as dataclasses.field() does
from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from kopsfs import places
from kopsfs.errors import ConfigError
from kopsfs.option import GiB, Kind, MiB, Option, option, parse_value

SYSTEM_FILE: Final = Path("/etc/kopsfs/kopsfs.toml")

DEFAULT_WATCH: Final = ("manifests/**", "pki/**", "secrets/**")
"""What a node must not see late; patterns are relative to a cluster's directory."""

STATE_STORE_REQUIRED: Final = (
    "State Store: Required value: Please set the --state flag or export KOPS_STATE_STORE.\n"
    "For example, a valid value follows the format s3://<bucket>.\n"
    "You can find the supported stores in https://kops.sigs.k8s.io/state."
)
"""kops's words, cmd/kops/root.go:Clientset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything one mount was told. Built by `load`; each part of kopsfs reads, nothing writes."""

    # -- which store, and where it is shown
    state: str = option("store", "", "state store to mount, as kops takes it: s3://bucket/prefix", metavar="URL")
    mountpoint: Path = option("store", Path(), "empty directory to mount on", kind=Kind.PATH, metavar="DIR")
    sse: str = option(
        "store",
        "auto",
        "server-side encryption asked of s3: auto (AES256 unless the bucket has a default, as kops does), "
        "none, AES256, aws:kms or aws:kms:KEY",
        kind=Kind.SSE,
        metavar="RULE",
    )
    acl: str | None = option(
        "store",
        None,
        "canned ACL for every object written (s3 and its relatives)",
        metavar="ACL",
        also_env="KOPS_STATE_S3_ACL",
    )
    keep_metadata: bool = option("store", False, "read an object's metadata before replacing it, and write it back")
    ca_file: Path | None = option(
        "store",
        None,
        "certificates to trust over HTTPS instead of the system's",
        kind=Kind.PATH,
        metavar="FILE",
    )

    # -- what the kernel is told
    read_only: bool = option("mount", False, "refuse every change", name="ro")
    allow_other: bool = option("mount", False, "let other users in; permissions still decide what they see")
    uid: int | None = option("mount", None, "owner of all files (number or name)", kind=Kind.USER, metavar="USER")
    gid: int | None = option("mount", None, "group of all files (number or name)", kind=Kind.GROUP, metavar="GROUP")
    umask: int | None = option("mount", None, "permission bits to take away, octal", kind=Kind.OCTAL, metavar="MASK")

    # -- how old an answer may be
    max_staleness_s: float = option(
        "freshness",
        1.0,
        "an open, stat or listing shows everything that reached the store longer ago than this; 0: every open asks",
        kind=Kind.SECONDS,
        name="max-staleness",
        read_only_default=30.0,
    )
    refresh_s: float = option(
        "freshness",
        5.0,
        "how often directories somebody looks at are compared with the store, so that watchers hear of changes",
        kind=Kind.SECONDS,
        name="refresh",
        read_only_default=30.0,
        low=0.1,
    )
    watch: tuple[str, ...] = option(
        "freshness",
        (),
        "patterns whose refresh never slows down (repeatable)",
        kind=Kind.PATTERNS,
        metavar="PATTERN",
        read_only_default=DEFAULT_WATCH,
    )
    request_budget_s: float = option(
        "freshness",
        10.0,
        "longest any system call waits for the store",
        kind=Kind.SECONDS,
        name="request-budget",
        low=0.1,
    )
    revalidate_budget_s: float = option(
        "freshness",
        1.0,
        "longest an open of a cached file waits for the store before the last known version is served",
        kind=Kind.SECONDS,
        name="revalidate-budget",
        low=0.01,
    )

    # -- what is kept on this machine
    state_dir: Path = option(
        "cache",
        Path(),
        "where what the store does not have yet is kept; must not be lost",
        kind=Kind.PATH,
        metavar="DIR",
    )
    cache_dir: Path = option(
        "cache", Path(), "where copies are kept; may be deleted at any time", kind=Kind.PATH, metavar="DIR"
    )
    cache_size_bytes: int = option("cache", GiB, "disk for file contents", kind=Kind.BYTES, name="cache-size")
    memory_size_bytes: int = option("cache", 64 * MiB, "memory for file contents", kind=Kind.BYTES, name="memory-size")
    prefetch: Literal["auto", "all", "none"] = option(
        "cache",
        "auto",
        "fetch small files ahead: of directories looked at, of the whole store, or never",
        choices=("auto", "all", "none"),
    )
    prefetch_size_bytes: int = option(
        "cache", 64 * MiB, "most bytes fetched ahead", kind=Kind.BYTES, name="prefetch-size"
    )
    cache_secrets: Literal["memory", "disk"] = option(
        "cache",
        "memory",
        "where contents of private keys and secrets are kept; disk lets a node boot without the store",
        choices=("memory", "disk"),
    )

    # -- how changes reach the store
    write_mode: Literal["back", "through"] = option(
        "writing",
        "back",
        "when close() returns: safe on this disk (back), or in the store (through)",
        choices=("back", "through"),
    )
    fsync: Literal["store", "journal"] = option(
        "writing",
        "store",
        "what fsync() waits for: the store, or the journal on this disk",
        choices=("store", "journal"),
    )
    guard: Literal["off", "warn", "block"] = option(
        "writing",
        "warn",
        "empty files over cluster configuration are held unless off; block also holds what is no valid document",
        choices=("off", "warn", "block"),
    )
    on_conflict: str | None = option("writing", None, "command to run when an edit lost a race", metavar="CMD")
    delete_delay_s: float = option(
        "writing",
        10.0,
        "how long a file that was moved to a backup name waits for its new version before it is deleted",
        kind=Kind.SECONDS,
        name="delete-delay",
    )
    upload_delay_s: float = option(
        "writing",
        0.02,
        "how long an upload waits for a further save of the same file",
        kind=Kind.SECONDS,
        name="upload-delay",
    )
    drain_budget_s: float = option(
        "writing", 60.0, "how long an unmount waits for uploads", kind=Kind.SECONDS, name="drain-budget"
    )

    # -- how it runs
    foreground: bool = option("running", False, "stay in the foreground", short="-f")
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "running", "info", "least severe message that is logged", choices=("debug", "info", "warning", "error")
    )
    log_file: Path | None = option(
        "running",
        None,
        "file to log to, instead of stderr (foreground, systemd) or syslog",
        kind=Kind.PATH,
        metavar="FILE",
    )
    debug: bool = option("running", False, "log every request to the store; the same as --log-level=debug", short="-d")

    # -- not settable: derived, or handed through
    control_socket: Path = Path()
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """The environment the drivers look for credentials in; never printed."""
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """Where each field's value came from, in words, by field name."""
    warnings: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    """What a person should be told about how settings were read; the CLI prints them once."""

    @property
    def store_settings(self) -> dict[str, Any]:
        """What `open_store` takes of it, but for where the store's memory lies."""
        return {
            "environ": self.environ,
            "sse": self.sse,
            "acl": self.acl or "",
            "keep_metadata": self.keep_metadata,
            "ca_file": str(self.ca_file or ""),
        }


def _table() -> tuple[Option, ...]:
    found = []
    for field in dataclasses.fields(Config):
        if "option" in field.metadata:
            made: Option = field.metadata["option"]
            found.append(dataclasses.replace(made, field=field.name, name=made.name or field.name.replace("_", "-")))
    return tuple(found)


OPTIONS: Final[tuple[Option, ...]] = _table()
"""The table, in the order of `Config`."""

_BY_KEY: Final[Mapping[str, Option]] = {each.key: each for each in OPTIONS}


def find_option(key: str, origin: str) -> Option:
    """Find an option by mount option or TOML key; `-` counts as `_`. Raises ConfigError with the nearest name."""
    found = _BY_KEY.get(key.replace("-", "_"))
    if found is None:
        near = difflib.get_close_matches(key.replace("-", "_"), _BY_KEY, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; see kopsfs.conf(5)"
        raise ConfigError(f"{origin}: unknown option {key!r}{hint}")
    return found


# -- which state store -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateStore:
    """The answer of `state_store`."""

    url: str
    origin: str
    warnings: tuple[str, ...] = ()


def _kops_file(home: Path) -> tuple[StateStore | None, tuple[str, ...]]:
    """Read `kops_state_store` from the first of kops's files that exists; the other one is never read."""
    import yaml

    for path in (home / ".kops.yaml", home / ".kops" / "config"):
        try:
            path.stat()
        except OSError:
            continue  # absent, or not to be looked at: kops goes on, too
        try:
            text = path.read_bytes()
            document = yaml.safe_load(text)
            if document is not None and not isinstance(document, dict):
                raise yaml.YAMLError("not a mapping")
        except (OSError, yaml.YAMLError) as error:
            why = " ".join(str(error).split())
            return None, (f"{path} is not read: {why}",)
        for key, value in (document or {}).items():
            if str(key).lower() == "kops_state_store" and isinstance(value, str | int | float):
                return StateStore(str(value), f"{path}"), ()
        return None, ()
    return None, ()


def state_store(flag: str | None, environ: Mapping[str, str], home: Path, own_file: StateStore | None) -> StateStore:
    """Find the state store as kops does: flag, KOPS_STATE_STORE, file; then trim one trailing slash.

    A flag that was given wins even when it is empty; an empty variable counts as unset; of kops's
    files only the first that exists is read (cmd/kops/root.go:initConfig and Clientset, viper).
    `own_file` is `state` of kopsfs's own file, which comes before kops's files and after the environment.

    Raises:
        ConfigError: nothing was found; in kops's words.
    """
    warnings: tuple[str, ...] = ()
    found: StateStore | None
    if flag is not None:
        found = StateStore(flag, "--state")
    elif environ.get("KOPSFS_STATE"):
        found = StateStore(environ["KOPSFS_STATE"], "KOPSFS_STATE")
    elif environ.get("KOPS_STATE_STORE"):
        found = StateStore(environ["KOPS_STATE_STORE"], "KOPS_STATE_STORE")
    elif own_file is not None and own_file.url:
        found = own_file
    else:
        found, warnings = _kops_file(home)
    url = found.url if found else ""
    if url != "k8s://":  # kops trims that, too, and then does not know it
        url = url.removesuffix("/")
    if found is None or not url:
        raise ConfigError("\n".join((*warnings, STATE_STORE_REQUIRED)))
    return StateStore(_absolute(_without_userinfo(url)), found.origin, warnings)


def _without_userinfo(url: str) -> str:
    """Drop `user:password@` before the bucket, as kops does; a Kubernetes context may contain `@`."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme in {"k8s", "file", "memfs"}:
        return url
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _absolute(url: str) -> str:
    """Name a directory by its whole path: the daemon works in `/`, and what it keeps is named after the URL."""
    path = url.removeprefix("file://")
    if path.startswith("/") or "://" in path:
        return url
    return f"{url.removesuffix(path)}{os.path.realpath(path)}"


# -- reading the sources ---------------------------------------------------------------------------

_Found = dict[str, tuple[Any, str]]
"""Option key → (parsed value, origin)."""


def config_files(named: Path | None, environ: Mapping[str, str], home: Path) -> list[Path]:
    """Give the TOML files to read, later ones win: the named one alone, else the system's and the user's."""
    if named is None and environ.get("KOPSFS_CONFIG"):
        named = Path(environ["KOPSFS_CONFIG"])
    if named is not None:
        return [named]
    base = environ.get("XDG_CONFIG_HOME", "")
    user = Path(base) if base.startswith("/") else home / ".config"
    return [path for path in (SYSTEM_FILE, user / "kopsfs" / "kopsfs.toml") if path.exists()]


def _read_file(path: Path, found: _Found) -> None:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for key, raw in document.items():
        option_ = find_option(key, str(path))
        found[option_.key] = (parse_value(option_, raw, str(path)), str(path))


def _read_environment(environ: Mapping[str, str], found: _Found) -> list[str]:
    known = {each.env: each for each in OPTIONS}
    for each in OPTIONS:
        if each.also_env and environ.get(each.also_env, "").strip():
            found[each.key] = (parse_value(each, environ[each.also_env].strip(), each.also_env), each.also_env)
    warnings = []
    for name in sorted(environ):
        if name in known and environ[name]:
            found[known[name].key] = (parse_value(known[name], environ[name], name), name)
        elif name.startswith("KOPSFS_") and name not in known and name != "KOPSFS_CONFIG":
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                warnings.append(f"the variable {name} is no setting; did you mean {near[0]}?")
    return warnings


def split_mount_options(text: str) -> list[tuple[str, str | None]]:
    r"""Split what stands behind `-o` at commas; `\,` is a comma in a value."""
    pairs: list[tuple[str, str | None]] = []
    for item in re.split(r"(?<!\\),", text):
        if item:
            key, equals, value = item.replace("\\,", ",").partition("=")
            pairs.append((key, value if equals else None))
    return pairs


def _read_mount_options(pairs: Sequence[tuple[str, str | None]], found: _Found) -> None:
    for key, value in pairs:
        if key == "rw" and value is None:
            found["ro"] = (False, "-o rw")
            continue
        option_ = find_option(key, "-o")
        origin = f"-o {key}"
        if value is None and option_.kind is not Kind.BOOL:
            raise ConfigError(f"{origin}: a value is missing; write {key}={option_.metavar}")
        parsed = parse_value(option_, True if value is None else value, origin)
        before = found.get(option_.key)
        if option_.kind is Kind.PATTERNS and before is not None and before[1] == origin:
            parsed = before[0] + parsed
        found[option_.key] = (parsed, origin)


def load(
    flags: Mapping[str, Any],
    mount_options: Sequence[tuple[str, str | None]] = (),
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
    *,
    config_file: Path | None = None,
    uid: int | None = None,
    require_store: bool = True,
) -> Config:
    """Put the sources together: default < file < environment < `-o` < flag.

    Args:
        flags: option key (`cache_size`) → text (list of texts, True or False) as it stood on the
            command line; keys that were not given are absent or None.
        mount_options: the pairs behind `-o`, as `split_mount_options` gives them.
        environ: os.environ unless told otherwise.
        home: the directory of `~/.kops.yaml`; `$HOME` unless told otherwise.
        config_file: the argument of `--config`.
        uid: whose directories are used; the effective user unless told otherwise.
        require_store: False: without a state store, `state` and what is named after it stay empty.

    Raises:
        ConfigError: unknown key, a value that cannot be read, or no state store.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or "/") if home is None else home
    uid = os.geteuid() if uid is None else uid
    found: _Found = {}
    for path in config_files(config_file, environ, home):
        _read_file(path, found)
    own_file = StateStore(*found["state"]) if "state" in found else None
    named = config_file is not None or bool(environ.get("KOPSFS_CONFIG"))
    warnings = _read_environment(environ, found)
    _read_mount_options(mount_options, found)
    for key, raw in flags.items():
        if raw is not None:
            option_ = find_option(key, "command line")
            found[option_.key] = (parse_value(option_, raw, option_.flag), option_.flag)
    told = found.get("state", ("", ""))
    flag = told[0] if told[1].startswith("-") else None
    try:
        store = state_store(flag, environ, home, own_file)
    except ConfigError:
        if require_store:
            raise
        store = StateStore("", "nobody said")
    if named and own_file and store.origin in {"KOPS_STATE_STORE", "KOPSFS_STATE"}:
        mine = _absolute(_without_userinfo(own_file.url.removesuffix("/")))
        if mine != store.url:
            raise ConfigError(
                f"{own_file.origin} says state = {mine}, and {store.origin} says {store.url}: "
                f"unset {store.origin}, or say which with --state"
            )
    found["state"] = (store.url, store.origin if flag is None else told[1])
    return _build(found, environ, home, uid, (*warnings, *store.warnings))


def _build(found: _Found, environ: Mapping[str, str], home: Path, uid: int, warnings: tuple[str, ...]) -> Config:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    read_only = bool(found.get("ro", (False, ""))[0])
    for each in OPTIONS:
        if each.key in found:
            values[each.field], origins[each.field] = found[each.key]
        elif read_only and each.read_only_default is not None:
            values[each.field], origins[each.field] = each.read_only_default, "default of read-only mounts"
        else:
            origins[each.field] = "default"
    if values.get("debug"):
        values["log_level"], origins["log_level"] = "debug", origins["debug"]
    if "mountpoint" in values:
        values["mountpoint"] = Path(os.path.realpath(values["mountpoint"]))
    for field in ("ca_file", "log_file"):
        if field in values:
            values[field] = values[field].absolute()  # the daemon works in /; a link may be turned to another file
    for field, override in (("state_dir", "STATE_DIRECTORY"), ("cache_dir", "CACHE_DIRECTORY")):
        if field not in values and environ.get(override):
            origins[field] = override
        values[field] = places.store_directory(field, values.get(field), values["state"], environ, home, uid)
    return Config(
        **values,
        control_socket=places.runtime_dir(environ, uid)
        / places.socket_name(values["state"], values.get("mountpoint", Path())),
        environ=MappingProxyType(dict(environ)),
        origins=MappingProxyType(origins),
        warnings=warnings,
    )
