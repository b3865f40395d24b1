"""Who are we, to S3?

A key pair in the environment or in the shared credentials file is taken without any SDK. Everything else
(SSO, web identity, ECS, IMDS, assumed roles, `credential_process`) is botocore's business; it runs in a
process of its own (`python -m kopsfs.store.s3_credentials`), so that its import neither stalls the mount
nor stays in its memory, and so that it sees the environment of this mount and no other.

Source: kops `util/pkg/vfs/s3context.go`; the order of the default chain is the one AWS SDKs share.
"""

from __future__ import annotations

import configparser
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from kopsfs.errors import ConfigError, DeniedError, TransientError
from kopsfs.store.sigv4 import Credentials

log = logging.getLogger(__name__)

HELPER_TIMEOUT_S: Final = 60.0
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
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() would not see `environ`
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
    """Run this module as a program in the mount's environment."""
    variables = {**environ, "PYTHONPATH": os.pathsep.join(filter(None, [_home(), environ.get("PYTHONPATH", "")]))}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "kopsfs.store.s3_credentials"],
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise TransientError("open", detail=f"no AWS credentials after {HELPER_TIMEOUT_S:.0f} s") from exc
    except OSError as exc:
        raise TransientError("open", detail=f"cannot look for AWS credentials: {exc}") from exc
    try:
        row = json.loads(ended.stdout)
    except ValueError:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        raise DeniedError(
            "open", detail=f"cannot look for AWS credentials: {lines[-1] if lines else 'no answer'}"
        ) from None
    if error := row.get("Error"):
        if row.get("Again"):
            raise TransientError("open", detail=error)
        raise DeniedError("open", detail=error)
    expires = datetime.fromisoformat(row["Expiration"]).timestamp() if row["Expiration"] else None
    pair = Credentials(row["AccessKeyId"], row["SecretAccessKey"], row["SessionToken"] or "")
    return Found(pair, row["Origin"], expires)


def _home() -> str:
    """The directory that holds the package."""
    return str(Path(__file__).parent.parent.parent)


def _main() -> None:
    """Follow botocore's chain and print what it finds as JSON."""
    try:
        import botocore.exceptions
        import botocore.session
    except ImportError:
        print(json.dumps({"Error": "these AWS credentials need boto3: install kopsfs[s3]"}))  # noqa: T201
        return
    row: dict[str, object]
    try:
        found = botocore.session.Session().get_credentials()
        if found is None:
            row = {
                "Error": "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
                "or run where a role is attached"
            }
        else:
            frozen = found.get_frozen_credentials()
            expiry = getattr(found, "_expiry_time", None)
            row = {
                "AccessKeyId": frozen.access_key,
                "SecretAccessKey": frozen.secret_key,
                "SessionToken": frozen.token,
                "Expiration": expiry.isoformat() if expiry else None,
                "Origin": found.method,
            }
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.MetadataRetrievalError) as exc:
        row = {"Error": f"{type(exc).__name__}: {exc}", "Again": True}
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError, ValueError) as exc:
        row = {"Error": f"{type(exc).__name__}: {exc}"}
    print(json.dumps(row))  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    _main()
