"""How does kops read an address, a CIDR, a version, a URL, an ARN, a duration?

Go's parsers and Python's differ at the edges, and the edges are what validation is about: Go takes `10.0.0.0/08` and refuses
`010.0.0.0/8` and netmasks; Python's URL parser takes nearly everything. Functions return None where Go returns an error.

Source: Go net.ParseCIDR, net.ParseIP, net/netip.ParsePrefix, net/url.Parse, time.ParseDuration; blang/semver v4;
apimachinery util/intstr, util/net, api/validate/content.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass

from kopsfs.spec import scalars

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_QUALIFIED = re.compile("(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
SUBDOMAIN_RULE = "lower case letters, digits, '-' and '.' only, letters or digits at both ends, at most 253 characters"
LABEL_RULE = "letters, digits, '-', '_' and '.' only, letters or digits at both ends, at most 63 characters"


def address(text: str) -> Address | None:
    """net.ParseIP."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def sloppy_address(text: str) -> Address | None:
    """ParseIPSloppy: leading zeros in an IPv4 address do not count.  Source: k8s.io/utils/net."""
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+){3}", text):
        text = ".".join(part.lstrip("0") or "0" for part in text.split("."))
    return address(text)


def is_ipv4(value: Address) -> bool:
    """IP.To4: also an IPv4 address written as IPv6."""
    return isinstance(value, ipaddress.IPv4Address) or value.ipv4_mapped is not None


def cidr(text: str) -> tuple[Address, Network] | None:
    """net.ParseCIDR: the address as written and its network."""
    host, slash, bits = text.partition("/")
    ip = address(host)
    if (
        not slash
        or ip is None
        or not (bits.isascii() and bits.isdigit())
        or len(bits) > 9
        or int(bits) > ip.max_prefixlen
    ):
        return None
    return ip, ipaddress.ip_network((ip, int(bits)), strict=False)


def network(text: str) -> Network | None:
    """The network of a CIDR, None when it is none."""
    parsed = cidr(text)
    return parsed[1] if parsed else None


def is_ipv6_cidr(text: str) -> bool:
    """Source: kops upup/pkg/fi/utils/net.go:IsIPv6CIDR."""
    parsed = cidr(text)
    return parsed is not None and not is_ipv4(parsed[0])


def is_prefix(text: str) -> bool:
    """netip.ParsePrefix: as a CIDR, but the length has no leading zero."""
    _, _, bits = text.partition("/")
    return cidr(text) is not None and (bits == "0" or not bits.startswith("0"))


def overlap(left: Network | None, right: Network | None) -> bool:
    """Source: kops pkg/util/subnet/subnet.go:Overlap."""
    return left is not None and right is not None and left.version == right.version and left.overlaps(right)


def belongs_to(parent: Network, child: Network) -> bool:
    """Source: kops pkg/util/subnet/subnet.go:BelongsTo."""
    return parent.version == child.version and child.subnet_of(parent)  # type: ignore[arg-type]


_PRIVATE = tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))


def is_private(value: Address) -> bool:
    """IP.IsPrivate: RFC 1918 and RFC 4193, which is less than Python calls private."""
    return any(value.version == net.version and value in net for net in _PRIVATE)


# --- versions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version; compares as blang/semver does (a pre-release is before its release)."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    def __lt__(self, other: Version) -> bool:
        mine, theirs = (self.major, self.minor, self.patch), (other.major, other.minor, other.patch)
        if mine != theirs:
            return mine < theirs
        if not self.pre or not other.pre:
            return bool(self.pre) and not other.pre
        return [_pre_key(part) for part in self.pre] < [_pre_key(part) for part in other.pre]


def _pre_key(part: str) -> tuple[bool, int, str]:
    return (False, int(part), "") if part.isdigit() else (True, 0, part)


_NUMBER = "(?:0|[1-9][0-9]*)"
_PRE = "(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE}(?:\.{_PRE})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)


def version(text: str) -> Version | None:
    """semver.Parse: exactly three numbers, no `v`."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    major, minor, patch, pre = match.groups()
    numbers = int(major), int(minor), int(patch)
    return Version(*numbers, tuple(pre.split(".")) if pre else ()) if max(numbers) < 1 << 64 else None


def tolerant_version(text: str) -> Version | None:
    """semver.ParseTolerant: a `v`, blanks around, leading zeros and missing numbers are forgiven."""
    parts = text.strip().removeprefix("v").split(".", 2)
    for index, part in enumerate(parts):
        if len(part) > 1:
            bare = part.lstrip("0")
            parts[index] = bare if bare[:1].isdigit() else "0" + bare
    if len(parts) < 3:
        if "+" in parts[-1] or "-" in parts[-1]:
            return None
        parts += ["0"] * (3 - len(parts))
    return version(".".join(parts))


def kubernetes_version(text: str) -> Version | None:
    """A version, or the minor version in the URL of a build.  Source: kops pkg/apis/kops/util/versions.go."""
    parsed = tolerant_version(text)
    if parsed is None and (match := re.search(r"/v1\.([0-9]+)\.", text)):
        return Version(1, int(match[1]), 0)
    return parsed


# --- URLs and ARNs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL the rules look at; `host` is without user, with port."""

    scheme: str
    host: str
    path: str


_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_HOST_CHARS = re.compile(r"(?:[^\x00-\x20\x7f\"<>^`{}|\\#?/%@\[\]:]|%25|%[89A-Fa-f][0-9A-Fa-f])*")


def url(text: str) -> Url | None:
    """net/url.Parse."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        return None
    rest, _, fragment = text.partition("#")
    if _BAD_ESCAPE.search(fragment):
        return None
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", rest)
    if rest.startswith(":"):
        return None
    scheme = match[1].lower() if match else ""
    rest = rest[match.end() :] if match else rest
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        if scheme:
            return Url(scheme, "", "")
        return None if ":" in rest.partition("/")[0] or _BAD_ESCAPE.search(rest) else Url("", "", rest)
    host = ""
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
        host = host.rpartition("@")[2]
        if not _is_host(host):
            return None
    return None if _BAD_ESCAPE.search(rest) else Url(scheme, host, rest)


def _is_host(host: str) -> bool:
    if host.startswith("["):
        inner, bracket, port = host[1:].rpartition("]")
        return bool(bracket) and bool(inner) and re.fullmatch("(?::[0-9]*)?", port) is not None
    name, colon, port = host.rpartition(":")
    if not colon:
        name, port = host, ""
    return bool(re.fullmatch("[0-9]*", port)) and _HOST_CHARS.fullmatch(name) is not None


def arn_resource(text: str) -> str | None:
    """The resource of an ARN, its sixth part.  Source: aws-sdk-go-v2 aws/arn.Parse."""
    parts = text.split(":", 5)
    return parts[5] if len(parts) == 6 and parts[0] == "arn" else None


# --- numbers ----------------------------------------------------------------------------------------------------------


def duration_ns(text: str) -> int | None:
    """A Go duration in nanoseconds."""
    try:
        return scalars.duration_ns(text)
    except ValueError:
        return None


def scaled(value: object, total: int, *, up: bool) -> int | None:
    """A number, or a percentage of `total`, rounded up or down.  Source: intstr.GetScaledValueFromIntOrPercent."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not re.fullmatch("[+-]?[0-9]+%", value):
        return None
    share = int(value[:-1]) * total
    return math.ceil(share / 100) if up else math.floor(share / 100)


def is_port_range(text: str) -> bool:
    """`low-high`, `low+size` or a port.  Source: apimachinery util/net/port_range.go:Set."""
    value = text.strip()
    if not value:
        return True
    if re.fullmatch("[0-9]+", value):
        low = high = int(value)
    elif match := re.fullmatch("([0-9]+)-([0-9]+)", value):
        low, high = int(match[1]), int(match[2])
    elif match := re.fullmatch(r"([0-9]+)\+([0-9]+)", value):
        low, high = int(match[1]), int(match[1]) + int(match[2])
    else:
        return False
    return low <= high <= 65535


# --- names ------------------------------------------------------------------------------------------------------------


def is_subdomain(text: str) -> bool:
    """A DNS-1123 subdomain."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """A qualified name: `name` or `prefix/name`."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_subdomain(prefix):
        return False
    return 0 < len(name) <= 63 and _QUALIFIED.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """What a label may be set to."""
    return not text or (len(text) <= 63 and _QUALIFIED.fullmatch(text) is not None)


_NOT_RE2 = re.compile(r"\(\?(?:=|!|<=|<!|>|\()|\\[1-9]|(?<!\\)[*+?}]\+")


def is_regexp(text: str) -> bool:
    """Would Go's regexp compile it?  Python's dialect knows more: look-around, references and possessive repeats."""
    if _NOT_RE2.search(text):
        return False
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
