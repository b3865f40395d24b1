"""Where is a bucket, and how is it addressed?

Endpoint, region and style of one bucket, from the environment as kops reads it. A `Site` is immutable; a
driver that learns better (another region, new credentials, the server's clock) replaces it as a whole.

Source: kops `util/pkg/vfs/s3context.go` (getDetailsForBucket, getCustomS3Config, ResolverV2);
AWS "Amazon S3 endpoints and quotas".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from kopsfs.errors import ConfigError, TransientError
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Request

PRODUCT_UUID = Path("/sys/devices/virtual/dmi/id/product_uuid")
IMDS = "http://169.254.169.254"
IMDS_TIMEOUT_S: Final = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What sets one relative of S3 apart."""

    sse: bool = False
    """Encryption headers are sent at all; the others must not even see an empty one (kops #5519)."""
    region_label: int | None = None
    """Which label of the endpoint's host name is the region, where `S3_REGION` does not say."""


QUIRKS: Final = {
    "s3": Quirks(sse=True),
    "do": Quirks(region_label=0),
    "scw": Quirks(region_label=1),
    "hos": Quirks(region_label=0),
    "linode": Quirks(region_label=0),
}
"""By scheme. `nyc3.digitaloceanspaces.com`, `s3.fr-par.scw.cloud`, `fsn1.your-objectstorage.com`,
`us-east-1.linodeobjects.com`. None of them is sent a checksum trailer, so linode's quirk needs no row."""

_SUFFIXES: Final = (
    ("cn-", "amazonaws.com.cn"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
)
"""Partitions by the beginning of their regions' names. Source: botocore's endpoints.json."""


class Site(NamedTuple):
    """How the objects of one bucket are addressed."""

    origin: str
    """`https://host[:port]`."""
    host: str
    """As it stands in the `Host` header."""
    base: str
    """What stands before a key in the path: `/` or `/bucket/`."""
    region: str
    custom: bool
    """An endpoint somebody named, not AWS as it comes."""


def endpoint_variable(environ: Mapping[str, str]) -> str:
    """Which variable of the SDKs names another endpoint than AWS's; empty: none."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return ""
    return next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if environ.get(name)), "")


def custom_site(endpoint: str, bucket: str, region: str, origin: str = "S3_ENDPOINT") -> Site:
    """Address a bucket at a named endpoint, path style. An endpoint without a scheme is https (kops #17243)."""
    whole = endpoint if "://" in endpoint else f"https://{endpoint}"
    parts = urlsplit(whole)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1 or parts.query or parts.fragment:
        raise ConfigError(f"{origin}={endpoint}: not a URL of a server; write https://HOST[:PORT]")
    host = parts.netloc.rpartition("@")[2].lower()
    if port is not None and port == {"http": 80, "https": 443}[parts.scheme]:
        host = host.rpartition(":")[0]
    path = parts.path.rstrip("/")
    return Site(f"{parts.scheme}://{host}", host, f"{path}/{quote(bucket, safe='')}/", region, custom=True)


def aws_site(bucket: str, region: str, *, fips: bool = False) -> Site:
    """Address a bucket of AWS: dual stack as kops does, the bucket in the host name where TLS allows it."""
    suffix = next((suffix for start, suffix in _SUFFIXES if region.startswith(start)), "amazonaws.com")
    service = "s3-fips" if fips else "s3"
    stack = ".dualstack" if "amazonaws" in suffix else ""
    host = f"{service}{stack}.{region}.{suffix}"
    if _is_host_label(bucket):
        host = f"{bucket}.{host}"
        return Site(f"https://{host}", host, "/", region, custom=False)
    return Site(f"https://{host}", host, f"/{quote(bucket, safe='')}/", region, custom=False)


def region_of_endpoint(scheme: str, endpoint: str) -> str:
    """Read the region out of a relative's endpoint; empty where its name does not hold one."""
    label = QUIRKS[scheme].region_label
    host = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}").hostname or ""
    labels = host.split(".")
    if label is None or len(labels) < label + 3 or labels[-1].isdigit():
        return ""
    return labels[label]


def region_of_instance(options: Options) -> str:
    """Ask the machine's metadata service for the region, if this is EC2 at all; empty where it does not answer.

    100 ms per request, as kops has it; a product_uuid that cannot be read means "not EC2".
    Source: kops `s3context.go:isRunningOnEC2`, `getRegionFromMetadata`; AWS "IMDSv2".
    """
    try:
        uuid = PRODUCT_UUID.read_text().strip().lower()
    except OSError:
        return ""
    if not uuid.startswith("ec2"):
        return ""
    direct = options.direct()
    try:
        token = fetch(
            Request("PUT", f"{IMDS}/latest/api/token", ("X-aws-ec2-metadata-token-ttl-seconds: 60",)),
            direct,
            timeout_s=IMDS_TIMEOUT_S,
        )
        headers = (f"X-aws-ec2-metadata-token: {token.body.decode('ascii')}",) if token.status == 200 else ()
        url = f"{IMDS}/latest/meta-data/placement/region"
        answer = fetch(Request("GET", url, headers), direct, timeout_s=IMDS_TIMEOUT_S)
        return answer.body.decode("ascii").strip() if answer.status == 200 else ""
    except (TransientError, UnicodeDecodeError) as exc:
        log.info("no region from the metadata service: %s", exc)
        return ""


def _is_host_label(bucket: str) -> bool:
    """No dots (a wildcard certificate covers one label), no capitals, nothing a host name cannot hold."""
    return (
        bucket.isascii() and 3 <= len(bucket) <= 63 and bucket.replace("-", "").isalnum() and bucket == bucket.lower()
    )
