"""Which store does a URL mean?

`Location` is what kops reads out of a URL, scheme by scheme, with kops's words for what it refuses;
`Settings` is what comes from elsewhere; `open_store` brings both to the driver, imported when it is
needed. Object stores' URLs are parsed as Go's `net/url` parses them, because that is what kops does:
the path percent-decoded once, query and fragment dropped, the port a part of the bucket.
"""

from __future__ import annotations

import ipaddress
import os
import pkgutil
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from kopsfs.errors import ConfigError
from kopsfs.store.driver import Driver, HttpDriver, Prefix
from kopsfs.store.store import Store, over


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a URL points."""

    scheme: str
    """`s3`, `do`, ...; `file` also for a bare path."""
    bucket: str
    """Bucket, container, context or memfs name, port kept; the directory of `file`; `account/container` of Azure."""
    key: str = ""
    """The URL's path as kops has it: one leading `/` trimmed, percent-decoded once."""
    url: str = ""
    """The URL without credentials, for people."""

    @property
    def prefix(self) -> Prefix:
        """What every key of this store begins with: `key` cleaned as kops's `Join` does, and a `/`.

        Source: Go `path.Join`; one leading `/` is kept (`s3://b//x` holds its objects under `/x/`).
        """
        clean = posixpath.normpath(self.key) if self.key else "."
        clean = "/" + clean.lstrip("/") if clean.startswith("/") else clean
        if clean in {".", "/"}:
            return Prefix("" if clean == "." else "/")
        return Prefix(clean + "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a driver needs besides the URL. Drivers read `environ`, never `os.environ`."""

    environ: Mapping[str, str] = field(default_factory=dict)
    sse: str = "auto"
    """`--sse`: auto (kops's rule), none, AES256, aws:kms or aws:kms:KEY."""
    acl: str = ""
    """Canned ACL for writes; empty: KOPS_STATE_S3_ACL."""
    keep_metadata: bool = False
    """Read an object's metadata first and write it back."""
    state_dir: Path | None = None
    """Where what was learnt about a store is remembered; None: nowhere."""
    connections_max: int = 128
    ca_file: str = ""
    """A bundle of certificates instead of the system's."""
    page_size: int = 1000
    """Keys a LIST asks for; tests make it small."""
    clock: Callable[[], float] = time.time
    """Unix time in s, by which requests are dated and credentials end; tests have one that jumps."""


class _Row(NamedTuple):
    """How the stores of one scheme are opened."""

    opens: str
    """`module:callable`, which takes a Location and Settings."""
    extra: str = ""
    """What brings its packages; empty: it needs none."""
    late: tuple[str, ...] = ()
    """Packages it imports with the first request only; that one is missing is to show before the mount."""


_S3: Final = _Row("kopsfs.store.s3:S3Driver", "s3")
_DRIVERS: Final = {
    "s3": _S3,
    "do": _S3,
    "scw": _S3,
    "hos": _S3,
    "linode": _S3,
    "gs": _Row("kopsfs.store.gcs:GcsDriver", "gs"),
    "swift": _Row("kopsfs.store.swift:SwiftDriver", "swift", ("keystoneauth1",)),
    "oss": _Row("kopsfs.store.oss:OssDriver", "oss", ("alibabacloud_oss_v2",)),
    "k8s": _Row("kopsfs.store.k8s:open_driver", "k8s", ("kubernetes", "urllib3")),
    "azureblob": _Row("kopsfs.store.azure:AzureDriver", "azure", ("pycurl",)),
    "file": _Row("kopsfs.store.file:open_driver"),
    "memfs": _Row("kopsfs.store.memory:open_driver"),
}

_INVALID: Final = {
    "s3": ("invalid s3 path: {}", "invalid s3 path: {}"),
    "do": ("invalid spaces path: {}", "invalid spaces path: {}"),
    "scw": ("invalid bucket path: {}", "invalid bucket path: {}"),
    "hos": ("invalid Hetzner Object Storage path: {}", "invalid Hetzner object storage path: {}"),
    "linode": ("invalid Linode object storage path: {}", "invalid Linode object storage path: {}"),
    "gs": ("invalid google cloud storage path: {}", "invalid google cloud storage path: {}"),
    "swift": ("invalid openstack cloud storage path: {}", "invalid swift path: {}"),
    "oss": ("invalid aliyun OSS path: {}", "invalid aliyun OSS path: {}"),
    "k8s": ("invalid kubernetes vfs path: {}", ""),
    "azureblob": (
        "failed to parse {}",
        "no storage account specified in {}; expected azureblob://<account>/<container>/<key>",
    ),
}
"""What kops says of a URL that does not parse, and of an empty bucket.

Source: `util/pkg/vfs/context.go`, build*Path; oss: the same in release-1.23. `k8s://` without a host is kops's
clientset in the current kubeconfig context, `cmd/kops/util/factory.go:KopsClient`.
"""

_NEED_ENDPOINT: Final = frozenset({"do", "scw", "hos", "linode"})


def parse(url: str, environ: Mapping[str, str] | None = None) -> Location:
    """Read a state store's URL or a bare path as kops does. Raises ConfigError with kops's words."""
    if "://" not in url:
        if not url:
            raise ConfigError("the state store is empty: give s3://BUCKET/PREFIX, a directory, or another URL")
        return Location(scheme="file", bucket=url, url=f"file://{url}")
    scheme, rest = url.split("://", 1)
    if scheme not in _DRIVERS:
        raise ConfigError(f"unknown / unhandled path type: {go_quote(url)}")
    if scheme == "file":
        if not rest:
            raise ConfigError(f"no directory in {go_quote(url)}: write file:///DIRECTORY")
        return Location(scheme=scheme, bucket=rest, url=url)
    if scheme == "memfs":
        name, _, key = rest.partition("/")
        if not name:
            raise ConfigError(f"no name in {go_quote(url)}: write memfs://NAME")
        return Location(scheme=scheme, bucket=name, key=key, url=url)
    return _parse_bucket(scheme, url, rest, environ or {})


def _parse_bucket(scheme: str, url: str, rest: str, environ: Mapping[str, str]) -> Location:
    if scheme in _NEED_ENDPOINT and not environ.get("S3_ENDPOINT"):
        raise ConfigError(f"required S3_ENDPOINT env var for path: {go_quote(url)}")
    account = environ.get("AZURE_STORAGE_ACCOUNT", "") if scheme == "azureblob" else ""
    # Both variables: the form of kops 1.20 to 1.34, where the URL begins with the container.
    old_form = bool(account and environ.get("AZURE_STORAGE_KEY")) and rest.partition("/")[0] != account
    if account and not old_form:
        raise ConfigError(
            "unset AZURE_STORAGE_ACCOUNT; the storage account belongs in the URL:  azureblob://<account>/<container>/<key>"
        )
    malformed, empty = _INVALID[scheme]
    parsed = _parse_context(rest) if scheme == "k8s" else _go_parse(url, rest)
    if parsed is None:
        raise ConfigError(malformed.format(go_quote(url)))
    host, path = parsed
    if not host and empty:
        raise ConfigError(empty.format(go_quote(url)))
    key = path.removeprefix("/")
    if old_form:
        host = f"{account}/{host}"
    elif scheme == "azureblob":
        container, _, key = key.partition("/")
        if not container:
            raise ConfigError(
                f"no container specified in {go_quote(url)}; expected azureblob://<account>/<container>/<key>"
            )
        host = f"{host}/{container}"
    if key.startswith("../") or key == ".." or posixpath.normpath(key or ".").startswith("../"):
        raise ConfigError(f"{go_quote(url)} leads out of the bucket")
    shown = rest.partition("/")[0] if scheme == "k8s" else host
    return Location(scheme=scheme, bucket=host, key=key, url=f"{scheme}://{shown}/{key}".removesuffix("/"))


def _parse_context(rest: str) -> tuple[str, str] | None:
    """Give (context, path): names of contexts hold what a host cannot (`admin@kubernetes`, an ARN as `arn%3A…%2Fname`).

    kops, by Go's url.Parse, takes what is before an `@` for a user and refuses most of the rest.
    """
    context, slash, path = rest.partition("#")[0].partition("?")[0].partition("/")
    if re.search(r"[\x00-\x1f\x7f]", rest) or _BAD_ESCAPE.search(rest):
        return None
    try:
        return _unescape(context), _unescape(slash + path)
    except UnicodeDecodeError:
        return None


# -- Go's net/url, as far as an authority and a path need it ---------------------------------------

_HOST: Final = re.compile(r"(?:[A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>\"]|%25|%[89A-Fa-f][0-9A-Fa-f]|[^\x00-\x7f])*")
_USERINFO: Final = re.compile(r"(?:[A-Za-z0-9\-._:~!$&'()*+,;=%@])*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _go_parse(url: str, rest: str) -> tuple[str, str] | None:
    """Give (host, decoded path), or None where Go's url.Parse refuses."""
    if re.search(r"[\x00-\x1f\x7f]", url):
        return None
    rest, _, fragment = rest.partition("#")
    if _BAD_ESCAPE.search(fragment):
        return None
    rest = rest.partition("?")[0]
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if at and (not _USERINFO.fullmatch(userinfo) or _BAD_ESCAPE.search(userinfo)):
        return None
    if not _HOST.fullmatch(host) or not _valid_port(host) or _BAD_ESCAPE.search(path):
        return None
    try:
        return _unescape(host), _unescape(slash + path)
    except UnicodeDecodeError:
        return None  # Go takes any bytes; no store's keys are other than UTF-8


def _valid_port(host: str) -> bool:
    if "[" in host:
        # Go 1.26: brackets hold an IPv6 address and nothing else; earlier ones let a bucket's name have them.
        match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]*)?", host)
        return match is not None and _is_ipv6(match[1])
    return ":" not in host or re.fullmatch(r"[0-9]*", host[host.rfind(":") + 1 :]) is not None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _unescape(text: str) -> str:
    def decode(match: re.Match[str]) -> bytes:
        return bytes.fromhex(match.group(1))

    out = bytearray()
    at = 0
    for match in re.finditer(r"%([0-9A-Fa-f]{2})", text):
        out += text[at : match.start()].encode() + decode(match)
        at = match.end()
    return (bytes(out) + text[at:].encode()).decode()


def go_quote(text: str) -> str:
    """Quote as Go's `%q` does, for messages that are compared with kops's."""
    special = {
        '"': '\\"',
        "\\": "\\\\",
        "\n": "\\n",
        "\t": "\\t",
        "\r": "\\r",
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\v": "\\v",
    }
    parts = []
    for char in text:
        if char in special:
            parts.append(special[char])
        elif char == " " or char.isprintable():
            parts.append(char)
        elif ord(char) < 0x80:
            parts.append(f"\\x{ord(char):02x}")
        elif ord(char) < 0x10000:
            parts.append(f"\\u{ord(char):04x}")
        else:
            parts.append(f"\\U{ord(char):08x}")
    return f'"{"".join(parts)}"'


# -- opening ---------------------------------------------------------------------------------------


def open_store(url: str, **settings: Any) -> Store:
    """Open the store of a URL; `settings` are the fields of `Settings`, `environ` defaults to the process's.

    Sends no request: credentials and reachability show at the first one. Raises ConfigError.
    """
    settings.setdefault("environ", os.environ)
    given = Settings(**settings)
    location = parse(url, given.environ)
    driver = open_driver(location, given)
    return over(
        driver,
        url=location.url,
        prefix=location.prefix,
        state_dir=given.state_dir,
        keep_metadata=given.keep_metadata,
        connections_max=given.connections_max,
        environ=given.environ,
        ca_file=given.ca_file,
    )


def open_driver(location: Location, settings: Settings) -> Driver | HttpDriver:
    """Import the driver of a scheme and open it. Raises ConfigError."""
    row = _DRIVERS[location.scheme]
    try:
        for package in row.late:
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
        opened = pkgutil.resolve_name(row.opens)(location, settings)
    except ImportError as error:
        if not row.extra:
            raise
        raise ConfigError(
            f"{location.scheme}:// needs {error.name or 'a package'}, which is not there: install kopsfs[{row.extra}]"
        ) from error
    return cast("Driver | HttpDriver", opened)


_CLOUDS: Final = {
    "azureblob": "azure",
    "do": "digitalocean",
    "gs": "gce",
    "hos": "hetzner",
    "linode": "linode",
    "scw": "scaleway",
    "swift": "openstack",
}


def cloud_for(url: str, environ: Mapping[str, str]) -> str:
    """Guess the cloud provider from a state store's URL. Raises ConfigError where kops cannot guess either.

    Source: kops `pkg/clouds/supported.go:GuessCloudForPath`.
    """
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if scheme == "s3":
        if environ.get("HCLOUD_TOKEN"):
            return "hetzner"
        return "linode" if environ.get("LINODE_TOKEN") else "aws"
    if scheme not in _CLOUDS:
        raise ConfigError(f"cannot infer cloud provider from path: {go_quote(url)}")
    return _CLOUDS[scheme]
