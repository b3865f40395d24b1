"""Who are we, to S3?

A key pair in the environment or in the shared credentials file is taken without any SDK. Everything else
(SSO, web identity, ECS, IMDS, assumed roles, `credential_process`) is botocore's business, in a process of its own
(`outside.py`).

Source: kops `util/pkg/vfs/s3context.go`; the order of the default chain is the one AWS SDKs share.
"""

from __future__ import annotations

import configparser
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kopsfs.errors import ConfigError, DeniedError, TransientError
from kopsfs.store.outside import ask, one_line
from kopsfs.store.sigv4 import Credentials

log = logging.getLogger(__name__)

_INDIRECT: Final = frozenset(
    {
        "role_arn",
        "source_profile",
        "credential_source",
        "credential_process",
        "sso_session",
        "sso_start_url",
        "sso_account_id",
        "web_identity_token_file",
        "login_session",
    }
)
"""Settings of a profile that only the SDK knows how to follow."""
DEFAULT_REGION: Final = "us-east-1"
INSTANCE: Final = "iam-role"
"""Botocore's word for the metadata service of EC2."""


@dataclass(frozen=True, slots=True)
class Found:
    """Credentials, where they come from, and when they end."""

    credentials: Credentials
    origin: str
    """For people: `environment`, `profile NAME of FILE`, `S3_ACCESS_KEY_ID`, botocore's word for its provider."""
    expires: float | None = None
    """Unix time in s; None: as far as anyone knows, never."""


def custom(environ: Mapping[str, str]) -> Found:
    """Credentials for `S3_ENDPOINT`; nothing else is consulted. Raises ConfigError with kops's words."""
    access_key, secret_key = environ.get("S3_ACCESS_KEY_ID", ""), environ.get("S3_SECRET_ACCESS_KEY", "")
    if not access_key:
        raise ConfigError("S3_ACCESS_KEY_ID cannot be empty when S3_ENDPOINT is not empty")
    if not secret_key:
        raise ConfigError("S3_SECRET_ACCESS_KEY cannot be empty when S3_ENDPOINT is not empty")
    return Found(Credentials(access_key, secret_key), "S3_ACCESS_KEY_ID")


def find(environ: Mapping[str, str]) -> Found:
    """Go through AWS's chain. May take seconds. Raises DeniedError if there is nothing, TransientError to try again."""
    return key_pair(environ) or _ask_botocore(environ)


def key_pair(environ: Mapping[str, str]) -> Found | None:
    """A key pair that stands written down somewhere; None where the chain has to be followed. Cheap."""
    access_key = environ.get("AWS_ACCESS_KEY_ID") or environ.get("AWS_ACCESS_KEY", "")
    secret_key = environ.get("AWS_SECRET_ACCESS_KEY") or environ.get("AWS_SECRET_KEY", "")
    if access_key and secret_key:
        return Found(Credentials(access_key, secret_key, environ.get("AWS_SESSION_TOKEN", "")), "environment")
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return None
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    shared = _file(environ, "AWS_SHARED_CREDENTIALS_FILE", "credentials")
    config = _file(environ, "AWS_CONFIG_FILE", "config")
    rows = [(shared, _section(shared, profile))]
    rows.append((config, _section(config, "default" if profile == "default" else f"profile {profile}")))
    if any(_INDIRECT & row.keys() for _, row in rows):
        return None
    for path, row in rows:
        if row.get("aws_access_key_id") and row.get("aws_secret_access_key"):
            pair = Credentials(row["aws_access_key_id"], row["aws_secret_access_key"], row.get("aws_session_token", ""))
            return Found(pair, f"profile {profile} of {path}")
    return None


def _file(environ: Mapping[str, str], variable: str, name: str) -> Path:
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises for a user without one
    given = environ.get(variable)
    if not given:
        return Path(home, ".aws", name)
    return Path(home + given[1:] if given.startswith("~/") else given)


def _section(path: Path, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(default_section="\x00none")
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError:
        return {}
    except (configparser.Error, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {str(exc).splitlines()[0]}") from exc
    return dict(parser.items(name)) if parser.has_section(name) else {}


def _ask_botocore(environ: Mapping[str, str]) -> Found:
    # Botocore reads another variable than Go's SDK, and so kops.
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION", "")
    environ = {**environ, "AWS_DEFAULT_REGION": region} if region else environ
    row = ask(__name__, environ=environ, what="no AWS credentials", extra="s3")
    return Found(Credentials(row["access_key"], row["secret_key"], row["token"] or ""), row["origin"], row["expires"])


def outside() -> dict[str, object]:
    """Follow botocore's chain, in a process of its own. Raises DeniedError, TransientError to try again."""
    import botocore.exceptions as wrong
    import botocore.session

    try:
        session = botocore.session.Session()
        if session.get_config_variable("region") is None:
            session.set_config_variable("region", DEFAULT_REGION)
        found = session.get_credentials()
        if found is None:
            raise DeniedError(
                "open",
                detail="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is attached",
            )
        frozen = found.get_frozen_credentials()
    except (wrong.HTTPClientError, wrong.MetadataRetrievalError) as error:
        raise TransientError("open", detail=one_line(error)) from error
    except (wrong.BotoCoreError, wrong.ClientError, OSError, ValueError) as error:
        raise DeniedError("open", detail=one_line(error)) from error
    ends = getattr(found, "_expiry_time", None)
    return {
        "access_key": frozen.access_key,
        "secret_key": frozen.secret_key,
        "token": frozen.token,
        "expires": ends.timestamp() if ends else None,
        "origin": found.method,
    }
