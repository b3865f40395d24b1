"""Who are we, to Azure Blob Storage, and where is the account?

An account key (`AZURE_STORAGE_KEY`, or `AZURE_STORAGE_CONNECTION_STRING` where it is of the account in the URL) is
taken as it stands, and requests are signed with it. Everything else is DefaultAzureCredential, which is azure-identity's
business, in a process of its own (`outside.py`).

Source: kops `util/pkg/vfs/azureclient.go:newAzureClient` (DefaultAzureCredential, endpoint), release-1.34 of the same
(AZURE_STORAGE_KEY); Microsoft "Authorize with Shared Key", "Configure Azure Storage connection strings".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from kopsfs.errors import ConfigError, DeniedError, TransientError
from kopsfs.store.outside import ask, one_line

log = logging.getLogger(__name__)

SCOPE: Final = "https://storage.azure.com/.default"
ADVICE: Final = (
    "set AZURE_STORAGE_KEY, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, run `az login`, "
    "or run where a managed identity is attached"
)
_CLOUDS: Final = {
    "": "core.windows.net",
    "azurecloud": "core.windows.net",
    "azurepubliccloud": "core.windows.net",
    "azureusgovernment": "core.usgovcloudapi.net",
    "azureusgovernmentcloud": "core.usgovcloudapi.net",
    "azurechinacloud": "core.chinacloudapi.cn",
}
"""`AZURE_ENVIRONMENT`, which kops hands to its nodes, in lower case → suffix. Source: Azure "Compare global Azure and …"."""
_AUTHORITIES: Final = {
    "core.usgovcloudapi.net": "login.microsoftonline.us",
    "core.chinacloudapi.cn": "login.chinacloudapi.cn",
}
_DEVELOPMENT: Final = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""What `UseDevelopmentStorage=true` stands for: Azurite's published account. Source: Azurite's README."""


class Site(NamedTuple):
    """Where an account's containers are."""

    origin: str
    path: str
    """Before the container, `/` at its end."""
    suffix: str
    named_by: str
    """What named it, for people."""


@dataclass(frozen=True, slots=True)
class Found:
    """A key, or a token."""

    origin: str
    """For people: `AZURE_STORAGE_KEY`, `DefaultAzureCredential`."""
    key: bytes = b""
    token: str = ""
    expires: float | None = None
    """Unix time in s; None: never."""


def connection_of(account: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Read AZURE_STORAGE_CONNECTION_STRING, names in lower case; {} where it is of another account. Raises ConfigError."""
    text = environ.get("AZURE_STORAGE_CONNECTION_STRING", "").strip()
    parts = dict(_part(part) for part in text.split(";") if part.strip())
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        parts = dict(_part(part) for part in _DEVELOPMENT.split(";"))
    if text and parts.get("accountname", account) != account:
        log.info("AZURE_STORAGE_CONNECTION_STRING is of account %s, not of %s", parts["accountname"], account)
        return {}
    return parts


def _part(part: str) -> tuple[str, str]:
    name, equals, value = part.strip().partition("=")
    if not equals:
        raise ConfigError("AZURE_STORAGE_CONNECTION_STRING: write NAME=VALUE;NAME=VALUE…, as the portal shows it")
    return name.lower(), value


def site_of(account: str, environ: Mapping[str, str]) -> Site:
    """Find the blob endpoint of an account. Raises ConfigError."""
    parts = connection_of(account, environ)
    cloud = environ.get("AZURE_ENVIRONMENT", "")
    suffix = parts.get("endpointsuffix") or _CLOUDS.get(cloud.lower(), "")
    named_by = "the account in the URL" + (" and AZURE_ENVIRONMENT" if cloud else "")
    named_by = "AZURE_STORAGE_CONNECTION_STRING" if parts else named_by
    if not suffix:
        raise ConfigError(f"AZURE_ENVIRONMENT={cloud}: write AzureCloud, AzureUSGovernment or AzureChinaCloud")
    scheme = parts.get("defaultendpointsprotocol", "https")
    endpoint = parts.get("blobendpoint") or f"{scheme}://{account}.blob.{suffix}"
    try:
        split = urlsplit(endpoint)
        if split.scheme in {"http", "https"} and split.hostname and split.port != 0:
            return Site(f"{split.scheme}://{split.netloc}", split.path.rstrip("/") + "/", suffix, named_by)
    except ValueError:
        pass
    raise ConfigError(f"AZURE_STORAGE_CONNECTION_STRING: BlobEndpoint={endpoint}: write https://HOST")


def key_of(account: str, environ: Mapping[str, str]) -> Found | None:
    """Take an account key that stands written down; None where DefaultAzureCredential is to be asked. Raises ConfigError."""
    given = connection_of(account, environ).get("accountkey", "")
    origin = "AZURE_STORAGE_CONNECTION_STRING" if given else "AZURE_STORAGE_KEY"
    given = given or environ.get("AZURE_STORAGE_KEY", "").strip()
    if not given:
        return None
    try:
        return Found(origin, base64.b64decode(given, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{origin}: the account key is not base64: copy it whole from the portal") from error


def find(account: str, environ: Mapping[str, str]) -> Found:
    """Get a key or a token. May take seconds. Raises ConfigError, DeniedError, TransientError to try again."""
    return key_of(account, environ) or _ask_azure_identity(environ, site_of(account, environ).suffix)


# -- Shared Key ------------------------------------------------------------------------------------


class Signer:
    """Signs requests with an account's key. The date is made once a second."""

    def __init__(self, account: str, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._account = account
        self._mac = hmac.new(key, digestmod=hashlib.sha256)
        self._clock = clock
        self._second = 0
        self._date = ""

    def date(self) -> str:
        """Now, as `x-ms-date` wants it."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
        return self._date

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        own: Sequence[tuple[str, str]],
        *,
        length: int = 0,
        md5: str = "",
        condition: tuple[str, str] = ("", ""),
    ) -> str:
        """Give the `Authorization` header's value.

        `path` is percent-encoded as it is sent, `query` lines are `name:value` decoded and sorted, `own` the
        `x-ms-` headers sorted. Source: Microsoft "Authorize with Shared Key", version 2015-02-21 and later.
        """
        match, none_match = condition
        text = (
            f"{method}\n\n\n{length or ''}\n{md5}\n\n\n\n{match}\n{none_match}\n\n\n"
            f"{''.join([f'{name}:{value}' + chr(10) for name, value in own])}/{self._account}{path}{query}"
        )
        mac = self._mac.copy()
        mac.update(text.encode())
        return f"SharedKey {self._account}:{base64.b64encode(mac.digest()).decode()}"


# -- DefaultAzureCredential ------------------------------------------------------------------------


def _ask_azure_identity(environ: Mapping[str, str], suffix: str) -> Found:
    variables = dict(environ)
    if suffix in _AUTHORITIES:
        variables.setdefault("AZURE_AUTHORITY_HOST", _AUTHORITIES[suffix])
    try:
        row = ask(__name__, SCOPE, environ=variables, what="no Azure credentials", extra="azure")
    except DeniedError as error:
        raise DeniedError("open", detail=f"{error.detail}; {_half(environ)}{ADVICE}") from error
    return Found("DefaultAzureCredential", token=row["token"], expires=row["expires"])


def _half(environ: Mapping[str, str]) -> str:
    """Name what is missing of a service principal that is there in part."""
    if not environ.get("AZURE_CLIENT_ID") or environ.get("AZURE_FEDERATED_TOKEN_FILE"):
        return ""
    secrets = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH")
    missing = [] if environ.get("AZURE_TENANT_ID") else ["AZURE_TENANT_ID"]
    if not any(environ.get(name) for name in secrets):
        missing.append(secrets[0])
    return f"AZURE_CLIENT_ID is set, {' and '.join(missing)} not; " if missing else ""


def outside(scope: str) -> dict[str, object]:
    """Let azure-identity follow its chain, in a process of its own. Raises DeniedError, TransientError."""
    identity: Any = importlib.import_module("azure.identity")
    wrong: Any = importlib.import_module("azure.core.exceptions")
    try:
        # What Go's DefaultAzureCredential, and so kops, asks: environment, workload and managed identity, the CLIs.
        chain = identity.DefaultAzureCredential(
            exclude_shared_token_cache_credential=True,
            exclude_visual_studio_code_credential=True,
            exclude_powershell_credential=True,
            exclude_broker_credential=True,
        )
        found = chain.get_token(scope)
    except wrong.ClientAuthenticationError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        refused = [line for line in lines if "AADSTS" in line or "invalid_" in line]
        raise DeniedError("open", detail=(refused or lines or [type(error).__name__])[0][:300]) from error
    except wrong.AzureError as error:
        raise TransientError("open", detail=one_line(error)) from error
    except (OSError, ValueError) as error:
        raise DeniedError("open", detail=one_line(error)) from error
    return {"token": found.token, "expires": float(found.expires_on)}
