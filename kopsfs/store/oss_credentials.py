"""Who are we at Alibaba Cloud, and in which region?

As kops until 1.23: `ALIYUN_ACCESS_KEY_ID` and `_SECRET`, else the RAM role of the ECS instance, whose STS
token kops never renewed and we do; `OSS_REGION`, with or without `oss-`, else the instance's region. The
instance's metadata service is asked with a session token where it gives one ("security hardening mode").

Source: kops release-1.20 `util/pkg/vfs/osscontext.go`; Alibaba Cloud "Instance metadata",
"Use instance RAM roles".
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from kopsfs.errors import ConfigError, TransientError
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Request

METADATA: Final = "http://100.100.100.200"
"""The metadata service of every ECS instance."""
METADATA_TIMEOUT_S: Final = 2.0
_REGION: Final = re.compile(r"[a-z0-9-]{2,40}")


@dataclass(frozen=True, slots=True)
class Found:
    """A key pair and where it came from."""

    key_id: str
    secret: str
    token: str = ""
    """Of STS; empty for a key pair that does not end."""
    expires: float | None = None
    """Unix time in s; None: never."""
    origin: str = "environment"


def from_environment(environ: Mapping[str, str]) -> Found | None:
    """Read the key pair; None: the instance's role is meant. Raises ConfigError with kops's words for half of it."""
    key_id = environ.get("ALIYUN_ACCESS_KEY_ID", "")
    if not key_id:
        return None
    secret = environ.get("ALIYUN_ACCESS_KEY_SECRET", "")
    if not secret:
        raise ConfigError("error building aliyun oss client: ALIYUN_ACCESS_KEY_SECRET cannot be empty")
    return Found(key_id, secret)


def region_given(environ: Mapping[str, str]) -> str:
    """Read `OSS_REGION` as the SDK wants it, `cn-hangzhou`; empty: the instance's is meant. Raises ConfigError."""
    given = environ.get("OSS_REGION", "")
    region = given.strip().removesuffix(".aliyuncs.com").removesuffix("-internal").removeprefix("oss-")
    if given and not _REGION.fullmatch(region):
        raise ConfigError(f"OSS_REGION={given!r} is no region: write it like oss-cn-hangzhou")
    return region


class Instance:
    """The metadata service of the ECS instance we run on. All methods block."""

    def __init__(self, options: Options, base: str = METADATA) -> None:
        self._options = options
        self._base = base

    def region(self) -> str:
        """Give the instance's region. Cost: 2 requests."""
        status, text = self._ask("region-id")
        if status != 200 or not _REGION.fullmatch(text):
            raise self._failure(status, "can't get region-id from ECS metadata", "set OSS_REGION")
        return text

    def credentials(self, now: float) -> Found:
        """Give what the instance's role is allowed to use for some hours. Cost: 3 requests."""
        hint = "set ALIYUN_ACCESS_KEY_ID and ALIYUN_ACCESS_KEY_SECRET, or give the instance a RAM role"
        status, text = self._ask("ram/security-credentials/")
        role = text.split("\n", 1)[0].strip()
        if status != 200 or not role:
            raise self._failure(status, f"Can't find role from ECS metadata: {status or text}", hint)
        status, text = self._ask(f"ram/security-credentials/{quote(role, safe='')}")
        if status != 200:
            raise self._failure(status, f"Can't get role token: {status or text}", hint)
        try:
            told: dict[str, Any] = json.loads(text)
            expires = calendar.timegm(time.strptime(told["Expiration"], "%Y-%m-%dT%H:%M:%SZ"))
            found = Found(
                told["AccessKeyId"],
                told["AccessKeySecret"],
                told["SecurityToken"],
                expires,
                f"role {role} of this instance",
            )
        except (ValueError, KeyError, TypeError) as error:
            # Never the text: it may hold the secret.
            raise TransientError("open", "", f"Can't get role token: {type(error).__name__} in its answer") from error
        if expires <= now:
            raise TransientError("open", "", f"Can't get role token: the one of role {role} has expired")
        return found

    def _ask(self, path: str) -> tuple[int, str]:
        """Ask one thing; status 0 where nobody answers."""
        try:
            ttl = ["X-aliyun-ecs-metadata-token-ttl-seconds: 60"]
            answer = self._fetch(Request("PUT", f"{self._base}/latest/api/token", ttl, b"", 0))
            session = answer.body.decode().strip() if answer.status == 200 else ""
            headers = [f"X-aliyun-ecs-metadata-token: {session}"] if session else []
            answer = self._fetch(Request("GET", f"{self._base}/latest/meta-data/{path}", headers))
        except TransientError as error:
            return 0, error.detail
        return answer.status, answer.body.decode(errors="replace").strip()

    def _fetch(self, request: Request) -> Any:
        return fetch(request, self._options, timeout_s=METADATA_TIMEOUT_S)

    def _failure(self, status: int, text: str, hint: str) -> ConfigError | TransientError:
        """A service that says no means it; one that does not answer may yet (a node that boots)."""
        text = f"error building aliyun oss client: {text}: {hint}"
        return ConfigError(text) if 400 <= status < 500 else TransientError("open", "", text)
