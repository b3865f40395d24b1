"""Who are we, to Google?

Application Default Credentials in the order kops has them: the file that `GOOGLE_APPLICATION_CREDENTIALS`
names, gcloud's own file, the metadata server of the machine. A service account's key, gcloud's user file and
the metadata server need one request each, made here. What only the SDK knows how to follow (workload identity
federation, impersonation) is google-auth's business, in a process of its own (`outside.py`).

Source: kops `util/pkg/vfs/context.go:getGCSClient` (scope full_control); Go `golang.org/x/oauth2/google/default.go`
(order, and that `CLOUDSDK_CONFIG` is not consulted); RFC 7523; Google "Using OAuth 2.0 for Server to Server".
"""

from __future__ import annotations

import base64
import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from kopsfs.errors import ConfigError, DeniedError, TransientError
from kopsfs.store.curl import Options, fetch
from kopsfs.store.driver import Answer, Request
from kopsfs.store.outside import ask, one_line
from kopsfs.store.renewal import RENEW_BEFORE_S
from kopsfs.store.rest import retry_after

log = logging.getLogger(__name__)
Clock = Callable[[], float]

SCOPE: Final = "https://www.googleapis.com/auth/devstorage.full_control"
METADATA_RENEW_BEFORE_S: Final = 225.0
"""The metadata server gives new tokens in the last minutes of the old ones only; google-auth asks then, too."""
METADATA_TIMEOUT_S: Final = 3.0
SKEW_MIN_S: Final = 30.0
"""A smaller difference of clocks is not why a signed request is refused."""
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
METADATA_ADDRESS = "169.254.169.254"
PRODUCT_NAME = Path("/sys/class/dmi/id/product_name")
ADVICE: Final = (
    "set GOOGLE_APPLICATION_CREDENTIALS to a key file, run `gcloud auth application-default login`, "
    "or run where a service account is attached"
)
_FIELDS: Final = {
    "service_account": ("client_email", "private_key"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
}
"""What must stand in a file of a type that is read here."""
_FOLLOWED: Final = frozenset(
    {
        "external_account",
        "external_account_authorized_user",
        "impersonated_service_account",
        "gdch_service_account",
    }
)
"""Types of files that google-auth follows."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, where it comes from, and when it ends."""

    value: str
    """Empty: requests go out without one (an emulator)."""
    origin: str
    """For people: the kind and the file, or `metadata server`."""
    account: str = ""
    expires: float | None = None
    """Unix time in s by this machine's clock; None: never."""
    quota_project: str = ""
    """Who pays, where the file says so; goes out as `x-goog-user-project`, as Go's client does it."""
    renew_before_s: float = RENEW_BEFORE_S


@dataclass(frozen=True, slots=True)
class File:
    """A credentials file, read."""

    path: Path
    fields: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.fields.get("type", ""))


def file_of(environ: Mapping[str, str]) -> File | None:
    """Read the file of the chain; None where the metadata server is to be asked. Raises ConfigError. Cheap."""
    given = environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    path = Path(given) if given else _well_known(environ)
    named = f"GOOGLE_APPLICATION_CREDENTIALS={given}" if given else str(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        if not given and isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            return None
        raise ConfigError(f"{named}: {error.strerror}; name a readable key file or unset it") from error
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{named}: not JSON: make the key file again with gcloud") from error
    kind = fields.get("type", "") if isinstance(fields, dict) else ""
    if kind not in _FIELDS and kind not in _FOLLOWED:
        raise ConfigError(f"{named}: credentials of type {kind!r} are not known; {ADVICE}")
    missing = [name for name in _FIELDS.get(kind, ()) if not fields.get(name)]
    if missing:
        raise ConfigError(f"{named}: {' and '.join(missing)} missing: make the key file again with gcloud")
    return File(path, fields)


def _well_known(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises for a user without one
    return Path(home, ".config", "gcloud", "application_default_credentials.json")


def find(environ: Mapping[str, str], options: Options, clock: Clock = time.time) -> Token:
    """Get a token. Takes up to seconds; 1 request. Raises ConfigError, DeniedError, TransientError to try again."""
    file = file_of(environ)
    if file is None:
        return _of_machine(environ, options, clock)
    match file.kind:
        case "service_account":
            return _of_service_account(file, options, clock)
        case "authorized_user":
            return _of_user(file, options, clock)
        case _:
            return _ask_google_auth(file, environ)


# -- files -----------------------------------------------------------------------------------------


def _of_service_account(file: File, options: Options, clock: Clock) -> Token:
    """Exchange a signed assertion for a token; once more by the server's clock where ours is wrong."""
    uri = str(file.fields.get("token_uri") or TOKEN_URI)
    skew_s = 0.0
    while True:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": _assertion(file, uri, clock() + skew_s),
        }
        answer = _post(uri, form, options)
        difference_s = _skew_s(answer, clock)
        if answer.status not in {400, 401} or skew_s or abs(difference_s) < SKEW_MIN_S:
            break
        log.warning("the clock differs from Google's by %.0f s; signing by theirs: set this machine's", difference_s)
        skew_s = difference_s
    advice = f"make a new key for {file.fields['client_email']} in {file.path}, or set this machine's clock"
    return _token(answer, f"service account key {file.path}", file, advice, clock)


def _assertion(file: File, audience: str, moment: float) -> str:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    now = int(moment)
    head = {"alg": "RS256", "typ": "JWT", "kid": file.fields.get("private_key_id", "")}
    claims = {"iss": file.fields["client_email"], "scope": SCOPE, "aud": audience, "iat": now, "exp": now + 3600}
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
    try:
        key = serialization.load_pem_private_key(str(file.fields["private_key"]).encode(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file.path}: private_key is not a PEM key: make the key file again with gcloud") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError(f"{file.path}: private_key is not an RSA key: make the key file again with gcloud")
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _of_user(file: File, options: Options, clock: Clock) -> Token:
    fields = file.fields
    form = {"grant_type": "refresh_token", **{name: str(fields[name]) for name in _FIELDS["authorized_user"]}}
    answer = _post(str(fields.get("token_uri") or TOKEN_URI), form, options)
    advice = "run `gcloud auth application-default login`"
    return _token(answer, f"user credentials {file.path}", file, advice, clock)


def _post(uri: str, form: Mapping[str, str], options: Options) -> Answer:
    body = urlencode(form).encode()
    return fetch(Request("POST", uri, ("Content-Type: application/x-www-form-urlencoded",), body, len(body)), options)


def _token(answer: Answer, origin: str, file: File, advice: str, clock: Clock) -> Token:
    row = _row(answer)
    if answer.status == 200 and row.get("access_token"):
        account = str(file.fields.get("client_email") or file.fields.get("account") or "")
        project = str(file.fields.get("quota_project_id") or "")
        return Token(str(row["access_token"]), origin, account, clock() + _life_s(row), project)
    said = f"{answer.status} {row.get('error', '')} {row.get('error_description', '')}".strip()
    if answer.status in {408, 429} or answer.status >= 500 or answer.status < 400:
        raise TransientError("open", detail=f"no Google token: {said}", retry_after_s=retry_after(answer))
    raise DeniedError("open", detail=f"{origin}: {said}; {advice}")


def _row(answer: Answer) -> dict[str, Any]:
    try:
        row = json.loads(answer.body)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _life_s(row: Mapping[str, Any]) -> float:
    return float(row.get("expires_in", 3600))


def _skew_s(answer: Answer, clock: Clock) -> float:
    """How far the server's clock is ahead of ours; 0 where it does not say."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - clock()
    except ValueError:
        return 0.0


# -- the machine -----------------------------------------------------------------------------------


def _of_machine(environ: Mapping[str, str], options: Options, clock: Clock) -> Token:
    """Ask the metadata server; where there is none, there are no credentials at all."""
    given = environ.get("GCE_METADATA_HOST", "")
    direct = options.direct()
    url = f"http://{given or METADATA_ADDRESS}/computeMetadata/v1/instance/service-accounts/default"
    try:
        answer = _metadata(f"{url}/token?scopes={quote(SCOPE, safe='')}", direct)
    except TransientError as error:
        if given or _is_google():
            raise TransientError("open", detail=f"the metadata server does not answer: {error.detail}") from error
        raise DeniedError("open", detail=f"no Google credentials: {ADVICE}") from error
    row = _row(answer)
    if answer.status == 200 and answer.headers.get("metadata-flavor") == "Google" and row.get("access_token"):
        email = _metadata(f"{url}/email", direct)
        account = email.body.decode("ascii", "replace").strip() if email.status == 200 else ""
        ends = clock() + _life_s(row)
        return Token(str(row["access_token"]), "metadata server", account, ends, renew_before_s=METADATA_RENEW_BEFORE_S)
    if answer.status == 429 or answer.status >= 500:
        raise TransientError(
            "open", detail=f"the metadata server says {answer.status}", retry_after_s=retry_after(answer)
        )
    raise DeniedError(
        "open", detail=f"no Google credentials: the metadata server says {answer.status}, no service account? {ADVICE}"
    )


def _metadata(url: str, direct: Options) -> Answer:
    return fetch(Request("GET", url, ("Metadata-Flavor: Google",)), direct, timeout_s=METADATA_TIMEOUT_S)


def _is_google() -> bool:
    """Source: Go `cloud.google.com/go/compute/metadata:systemInfoSuggestsGCE`."""
    try:
        return PRODUCT_NAME.read_text().strip() in {"Google", "Google Compute Engine"}
    except OSError:
        return False


# -- what only google-auth follows -----------------------------------------------------------------


def _ask_google_auth(file: File, environ: Mapping[str, str]) -> Token:
    origin = f"{file.kind} {file.path}"
    row = ask(__name__, str(file.path), SCOPE, environ=environ, what=f"no Google token: {origin}", extra="gs")
    return Token(row["token"], origin, row["account"], row["expires"], row["quota_project"])


def outside(path: str, scope: str) -> dict[str, object]:
    """Let google-auth follow a credentials file, in a process of its own. Raises DeniedError, TransientError."""
    auth: Any = importlib.import_module("google.auth")
    wrong: Any = importlib.import_module("google.auth.exceptions")
    transport: Any = importlib.import_module("google.auth.transport.requests")
    try:
        # With scopes from the beginning it would look for the project's name, which nobody needs, by one request more.
        found, _project = auth.load_credentials_from_file(path)
        found = importlib.import_module("google.auth.credentials").with_scopes_if_required(found, [scope])
        found.refresh(transport.Request())
    except (wrong.GoogleAuthError, OSError, ValueError) as error:
        again = isinstance(error, wrong.TransportError) or getattr(error, "retryable", False)
        raise (TransientError if again else DeniedError)("open", detail=one_line(error)) from error
    return {
        "token": found.token,
        "expires": found.expiry.replace(tzinfo=UTC).timestamp() if found.expiry else None,
        "account": getattr(found, "service_account_email", None) or "",
        "quota_project": getattr(found, "quota_project_id", None) or "",
    }
