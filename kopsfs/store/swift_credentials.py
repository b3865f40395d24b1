"""Who are we in OpenStack, and where does its Swift live?

The variables and files are kops's: first `OS_*` (gophercloud's `AuthOptionsFromEnv`), and when one of
those is missing the file `OPENSTACK_CREDENTIAL_FILE` or `$HOME/.openstack/config`. What kops takes works
here; beyond that `OS_USER_DOMAIN_*` and `OS_PROJECT_DOMAIN_*`, which openrc files set and kops does not
read, stand in for `OS_DOMAIN_*`. Values may be in single quotes, as kops writes them for nodes.

Logging in is keystoneauth1's work, imported when the first token is needed.

Source: kops `util/pkg/vfs/swiftfs.go` and `util/pkg/vfs/openstackconfig`; gophercloud `openstack/auth_env.go`,
`auth_options.go`, `errors.go`.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kopsfs.errors import ConfigError, DeniedError, TransientError

LOGIN_TIMEOUT_S: Final = 10.0
_QUOTED: Final = ("'", '"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What Keystone is told. Empty: not given."""

    auth_url: str
    user: str = ""
    user_id: str = ""
    password: str = ""
    passcode: str = ""
    project: str = ""
    project_id: str = ""
    domain_id: str = ""
    domain: str = ""
    project_domain_id: str = ""
    project_domain: str = ""
    credential_id: str = ""
    credential: str = ""
    credential_secret: str = ""
    system: bool = False
    origin: str = "environment"
    """Where it was found, for `status`."""

    @property
    def named_by(self) -> str:
        """What named `auth_url`, for people."""
        variable = "OS_AUTH_URL" if self.origin == "environment" else f"identity in {self.origin}"
        return f"{variable}={self.auth_url}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which entry of the service catalogue is meant."""

    region: str = ""
    """Empty: any."""
    service_type: str = "object-store"
    service_name: str = ""
    interface: str = "public"


@dataclass(frozen=True, slots=True)
class Token:
    """The right to ask, for some time."""

    value: str
    storage_url: str
    expires: float | None
    """Unix time in seconds; None where Keystone does not say."""
    origin: str = "environment"
    """Where the login was found."""


class _MissingError(Exception):
    """What gophercloud says of the environment."""


def find(environ: Mapping[str, str]) -> Login:
    """Read the environment, else the file. Raises ConfigError with kops's words for both."""
    try:
        return _from_environment(environ)
    except _MissingError as error:
        missing = str(error)
    try:
        return _from_file(environ)
    except ConfigError as error:
        raise ConfigError(f"swift: {error}; from the environment: {missing}") from None


def find_endpoint(environ: Mapping[str, str]) -> Endpoint:
    """Read the region: variable, `[Global]`, `[Swift]`. Raises ConfigError as kops does where none is to be found."""
    if region := _value(environ, "OS_REGION_NAME"):
        return Endpoint(region=region)
    try:
        return Endpoint(region=_section(environ, "Global")["region"])
    except ConfigError:
        pass
    try:
        found = _section(environ, "Swift")
        if not found["region"]:
            raise ConfigError("missing region in section of Swift")
    except ConfigError as error:
        hint = "region not provided in OS_REGION_NAME or openstack config section GLOBAL"
        raise ConfigError(f"swift: {hint}; {error}") from None
    return Endpoint(
        region=found["region"],
        service_type=found["service_type"] or "object-store",
        service_name=found["service_name"],
        interface=found["availability"].removesuffix("URL") or "public",
    )


def insecure(environ: Mapping[str, str]) -> bool:
    """Whether certificates are not to be checked. Source: kops `swiftfs.go:GetInsecureSkipVerify`."""
    return environ.get("KOPS_OS_TLS_INSECURE_SKIP_VERIFY") in {"true", "1"}


# -- where it is written down ---------------------------------------------------------------------------


def _value(environ: Mapping[str, str], *names: str) -> str:
    """Give the first variable that is set, its quotes taken off: kops writes `OS_X='value'` for nodes."""
    for name in names:
        value = environ.get(name, "")
        if len(value) > 1 and value[0] == value[-1] == "'":
            value = value[1:-1]
        if value:
            return value
    return ""


def _from_environment(environ: Mapping[str, str]) -> Login:
    def value(*names: str) -> str:
        return _value(environ, *names)

    domain_id, domain = value("OS_DOMAIN_ID"), value("OS_DOMAIN_NAME")
    user_domain = (domain_id, domain)
    project_domain = (domain_id, domain)
    if not (domain_id or domain):
        of_user = (value("OS_USER_DOMAIN_ID"), value("OS_USER_DOMAIN_NAME"))
        of_project = (value("OS_PROJECT_DOMAIN_ID"), value("OS_PROJECT_DOMAIN_NAME"))
        user_domain = of_user if any(of_user) else of_project
        project_domain = of_project if any(of_project) else of_user
    login = Login(
        auth_url=value("OS_AUTH_URL"),
        user=value("OS_USERNAME"),
        user_id=value("OS_USERID", "OS_USER_ID"),
        password=value("OS_PASSWORD"),
        passcode=value("OS_PASSCODE"),
        project=value("OS_PROJECT_NAME", "OS_TENANT_NAME"),
        project_id=value("OS_PROJECT_ID", "OS_TENANT_ID"),
        domain_id=user_domain[0],
        domain=user_domain[1],
        project_domain_id=project_domain[0],
        project_domain=project_domain[1],
        credential_id=value("OS_APPLICATION_CREDENTIAL_ID"),
        credential=value("OS_APPLICATION_CREDENTIAL_NAME"),
        credential_secret=value("OS_APPLICATION_CREDENTIAL_SECRET"),
        system=value("OS_SYSTEM_SCOPE") == "all",
    )
    _demand(login)
    return login


def _demand(login: Login) -> None:
    """Refuse what gophercloud refuses, in its order and words."""
    if not login.auth_url:
        raise _missing("OS_AUTH_URL")
    has_user = login.user or login.user_id
    if not has_user and not login.credential_id and not login.credential_secret:
        raise _missing("OS_USERID", "OS_USERNAME")
    by_credential = login.credential_id or login.credential
    if not login.password and not login.passcode and not by_credential:
        raise _missing("OS_PASSWORD")
    if by_credential and not login.credential_secret:
        raise _missing("OS_APPLICATION_CREDENTIAL_SECRET")
    has_domain = login.domain_id or login.domain
    if not has_domain and not login.project_id and login.project:
        raise _missing("OS_PROJECT_ID")
    if login.credential and not login.credential_id:
        if not has_user:
            raise _missing("OS_USERID", "OS_USERNAME")
        if not login.user_id and not has_domain:
            raise _missing("OS_DOMAIN_ID", "OS_DOMAIN_NAME")


def _missing(*names: str) -> _MissingError:
    if len(names) == 1:
        return _MissingError(f"Missing environment variable [{names[0]}]")
    return _MissingError(f"Missing one of the following environment variables [{', '.join(names)}]")


def _from_file(environ: Mapping[str, str]) -> Login:
    values = _section(environ, "Default")
    for name in ("identity", "password"):
        if not values[name]:
            raise ConfigError(f"missing {name} in section of Default")
    for one, other in (("user", "user_id"), ("domain_name", "domain_id"), ("tenant_name", "tenant_id")):
        if not values[one] and not values[other]:
            raise ConfigError(f"missing {one} and {other} in section of Default")
    return Login(
        auth_url=values["identity"],
        user=values["user"],
        user_id=values["user_id"],
        password=values["password"],
        project=values["tenant_name"],
        project_id=values["tenant_id"],
        domain_id=values["domain_id"],
        domain=values["domain_name"],
        project_domain_id=values["domain_id"],
        project_domain=values["domain_name"],
        origin=_filename(environ),
    )


class _Section(dict[str, str]):
    """Keys that are not there are empty, as in go-ini."""

    def __missing__(self, key: str) -> str:
        return ""


def _section(environ: Mapping[str, str], name: str) -> Mapping[str, str]:
    """Read one section of the file. Raises ConfigError with kops's words."""
    path = _filename(environ)
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, default_section="\0", inline_comment_prefixes=("#", ";"), allow_no_value=True
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of keys keep their case, as in go-ini
    try:
        # Go-ini lets keys stand before the first section.
        parser.read_string("[DEFAULT]\n" + Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"error loading config file: open {path}: {reason}") from None
    except (configparser.Error, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line - 1}" if line else type(error).__name__
        # Never the line itself: it may hold the password.
        raise ConfigError(f"error loading config file: {path}: not an ini file ({where})") from None
    if name not in parser:
        raise ConfigError(f'error getting section of {name}: section "{name}" does not exist')
    return _Section({key: _unquoted(value or "") for key, value in parser[name].items()})


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTED else value


def _filename(environ: Mapping[str, str]) -> str:
    if name := environ.get("OPENSTACK_CREDENTIAL_FILE"):
        return name
    home = environ.get("HOME", "")
    if not home:
        raise ConfigError("can not find home directory")
    return os.path.join(home, ".openstack", "config")  # noqa: PTH118  a string is what kops prints


# -- logging in -----------------------------------------------------------------------------------------


def log_in(login: Login, endpoint: Endpoint, *, verify: bool | str) -> Token:
    """Get a token and the storage URL. Blocks. Cost: 1 request to Keystone.

    `verify`: True, False or a bundle of certificates. Raises DeniedError, TransientError, and ConfigError where the
    catalogue has no such service, or an answer shows that the URL is not Keystone's.
    """
    from keystoneauth1 import exceptions, session

    if verify is False:
        import urllib3

        # The user's decision needs no reminder per request; `status` shows it.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    asking = session.Session(verify=verify, timeout=LOGIN_TIMEOUT_S, user_agent="kopsfs")
    try:
        access = _plugin(login).get_access(asking)
    except exceptions.SSLError as error:
        hint = "name its certificate with --ca-file or OS_CACERT, or set KOPS_OS_TLS_INSECURE_SKIP_VERIFY=true"
        raise ConfigError(f"swift: {login.auth_url}: its certificate cannot be verified; {hint}") from error
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise DeniedError("open", "", f"Keystone refuses the login: {_one_line(error)}; {_look_at(login)}") from error
    except (exceptions.NotFound, exceptions.BadRequest, exceptions.DiscoveryFailure) as error:
        hint = f"{login.auth_url} does not answer as Keystone v3 does: {_one_line(error)}"
        raise ConfigError(f"swift: {hint}; set OS_AUTH_URL") from error
    except exceptions.ClientException as error:
        raise TransientError("open", "", f"Keystone at {login.named_by}: {_one_line(error)}") from error
    try:
        # kops takes any service of this type, of this name if one is given.
        url = access.service_catalog.url_for(
            service_type=endpoint.service_type,
            service_name=endpoint.service_name or None,
            region_name=endpoint.region or None,
            interface=endpoint.interface,
        )
    except exceptions.CatalogException as error:
        raise ConfigError(_no_endpoint(login, endpoint, access)) from error
    expires = None if access.expires is None else access.expires.timestamp()
    return Token(str(access.auth_token), url.rstrip("/"), expires, login.origin)


def _plugin(login: Login) -> Any:
    """Give keystoneauth's plugin for this way of logging in. Source: gophercloud `ToTokenV3CreateMap`."""
    from keystoneauth1.identity import v2, v3

    base = login.auth_url.rstrip("/")
    if base.endswith("/v2.0"):
        who: dict[str, Any] = {"user_id": login.user_id} if login.user_id else {"username": login.user}
        where: dict[str, Any] = (
            {"tenant_id": login.project_id} if login.project_id else {"tenant_name": login.project or None}
        )
        return v2.Password(base, password=login.password, **who, **where)
    url = base if base.endswith("/v3") else f"{base}/v3"
    # An id says all; a name beside it would only have to agree.
    user: dict[str, Any]
    user = {"user_id": login.user_id} if login.user_id else {"username": login.user, **_domain("user_domain", login)}
    if login.credential_id:
        return v3.ApplicationCredential(
            url,
            application_credential_id=login.credential_id,
            application_credential_secret=login.credential_secret,
        )
    if login.credential:
        return v3.ApplicationCredential(
            url,
            application_credential_name=login.credential,
            application_credential_secret=login.credential_secret,
            **user,
        )
    methods: list[Any] = []
    if login.password:
        methods.append(v3.PasswordMethod(password=login.password, **user))
    if login.passcode:
        methods.append(v3.TOTPMethod(passcode=login.passcode, **user))
    return v3.Auth(url, methods, **_scope(login))


def _scope(login: Login) -> dict[str, Any]:
    if login.system:
        return {"system_scope": "all"}
    if login.project_id:
        return {"project_id": login.project_id}
    if login.project:
        return {"project_name": login.project, **_domain("project_domain", login)}
    return {}  # unscoped: Keystone takes the user's default project


def _domain(what: str, login: Login) -> dict[str, str]:
    of_project = what == "project_domain"
    by_id = login.project_domain_id if of_project else login.domain_id
    name = login.project_domain if of_project else login.domain
    return {f"{what}_id": by_id} if by_id else {f"{what}_name": name} if name else {}


def _look_at(login: Login) -> str:
    if login.origin != "environment":
        return f"look at user, password, domain and tenant in {login.origin}"
    if login.credential_id or login.credential:
        return "look at OS_APPLICATION_CREDENTIAL_ID, _NAME and _SECRET"
    return "look at OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME and OS_DOMAIN_NAME"


def _no_endpoint(login: Login, endpoint: Endpoint, access: Any) -> str:
    """Say which regions there are instead."""
    entries: Sequence[Any] = access.service_catalog.get_endpoints_data(service_type=endpoint.service_type).get(
        endpoint.service_type, []
    )
    regions = sorted({str(entry.region_name) for entry in entries if entry.region_name})
    if not regions:
        return f"swift: {login.auth_url}: this login's catalogue has no {endpoint.service_type}: set OS_PROJECT_NAME"
    return (
        f"swift: no {endpoint.interface} endpoint of {endpoint.service_type} in region {endpoint.region!r}:"
        f" set OS_REGION_NAME to one of {', '.join(regions)}"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
