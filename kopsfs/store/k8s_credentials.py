"""Which API server, and as whom?

As kops (client-go) finds it: the kubeconfig files of `KUBECONFIG`, else `~/.kube/config`, in them the context that the URL
names, else the current one; where there is no kubeconfig at all, the account of the pod. The `kubernetes` client reads all
of that: certificates, token files, exec plugins, OIDC. `Access` keeps what it read, and reads again before a token ends,
every minute where a token lies in a file, and at once when the server refuses it.

Source: client-go tools/clientcmd (loader.go, client_config.go DeferredLoadingClientConfig), rest/config.go
(InClusterConfig), transport/token_source.go (files once a minute); kops cmd/kops/util/factory.go.
"""

from __future__ import annotations

import base64
import importlib
import ipaddress
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from kopsfs.errors import ConfigError, DeniedError, KopsfsError, RefusedError, TransientError
from kopsfs.store.renewal import renew_at

log = logging.getLogger(__name__)

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REREAD_S: Final = 60.0
"""A token in a file may be replaced at any time."""
MARGIN_S: Final = 60.0
"""A token is renewed this long before it ends."""
RETRY_S: Final = 10.0
"""Between two attempts to renew what still holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """How the server is reached at this moment."""

    url: str
    authorization: str
    """Empty: a client certificate, or nobody."""
    tls: ssl.SSLContext | None
    server_name: str
    proxy: str
    same: tuple[object, ...]
    """Equal for two whose connections can be kept."""
    renew_at: float
    ends: float


class Access:
    """What a URL's context means. Methods may be called from any thread and may block: exec plugins run in them."""

    def __init__(
        self,
        context: str,
        environ: Mapping[str, str],
        *,
        ca_file: str = "",
        clock: Callable[[], float] = time.time,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        """Find the context. Runs and asks nothing. Raises ConfigError."""
        self._environ = environ
        self._ca_file = ca_file
        self._clock = clock
        self._account = service_account
        self._files = _kubeconfigs(environ)
        self._changing = threading.Lock()
        self._now: Connection | None = None
        self._not_before = float("-inf")
        self.accepted = False
        """Whether the server has ever taken the credentials; set by `k8s_api.Api`."""
        self.context = context
        """Empty: the pod's own account."""
        self.namespace = ""
        """What the context, or the pod, has for the default; empty: none."""
        if not any(path.exists() for path in self._files) and not context and environ.get("KUBERNETES_SERVICE_HOST"):
            self._files = []
            self.user = "the pod's service account"
            if (service_account / "namespace").exists():
                self.namespace = (service_account / "namespace").read_text().strip()
        else:
            self._read_context()

    @property
    def origin(self) -> str:
        """Where the credentials come from, for people."""
        return ":".join(map(str, self._files)) or str(self._account)

    @property
    def server(self) -> str:
        """Where the server is; empty before the first request."""
        return self._now.url if self._now is not None else ""

    def connection(self) -> Connection:
        """Give what holds now; read again where it is due, by one thread while others go on with the old ones.

        Raises ConfigError; DeniedError, TransientError once credentials have been good.
        """
        now = self._now
        if now is not None and self._clock() < max(now.renew_at, self._not_before):
            return now
        waits = now is None or self._clock() >= now.ends
        if not self._changing.acquire(blocking=waits):
            assert now is not None
            return now
        try:
            if self._now is now:
                self._renew()
        finally:
            self._changing.release()
        assert self._now is not None
        return self._now

    def _renew(self) -> None:
        """Read again; what fails leaves the old ones in use as long as they are good."""
        try:
            self._now = self._load()
        except KopsfsError as error:
            self._not_before = self._clock() + RETRY_S
            if self._now is None or self._clock() >= self._now.ends:
                raise self._judged(error) from error
            log.info("credentials are not renewed, the old ones hold for now err=%s", error)

    def refused(self, used: Connection) -> bool:
        """The server does not take these any more: read again; say whether there are others now.

        Raises as `connection`.
        """
        with self._changing:
            if self._now is used:
                try:
                    self._now = self._load()
                except KopsfsError as error:
                    raise self._judged(error) from error
            assert self._now is not None
            return self._now.authorization != used.authorization or self._now.same != used.same

    def _judged(self, error: KopsfsError) -> KopsfsError:
        """Who has been let in before will be again: what cannot be renewed is no denial then."""
        if self.accepted and isinstance(error, DeniedError):
            return TransientError("open", "", error.detail, retry_after_s=1.0)
        return error

    def reload(self) -> None:
        """Read again before the next request."""
        self._now, self._not_before = None, float("-inf")

    # -- kubeconfig --------------------------------------------------------------------------------

    def _merged(self) -> Any:
        import yaml

        library = _library()

        paths = [str(path) for path in self._files if path.exists()]
        where = self.origin
        if not paths:
            raise ConfigError(f"no kubeconfig at {where}: set KUBECONFIG, or make one with `kubectl config`")
        try:
            merger = library.kube_config.KubeConfigMerger(os.pathsep.join(paths))
        except (library.ConfigException, yaml.YAMLError, OSError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"cannot read the kubeconfig {where}: {_one_line(error)}") from error
        if merger.config is None:
            raise ConfigError(f"the kubeconfig {where} is empty: set KUBECONFIG to another")
        return merger

    def _read_context(self) -> None:
        config = self._merged().config.value
        contexts = {str(each["name"]): each.value.get("context") or {} for each in config["contexts"]}
        name = self.context or config.get("current-context") or ""
        there = ", ".join(contexts) or "none"
        if not name:
            raise ConfigError(f"{self.origin} has no current context: write k8s://CONTEXT; there are: {there}")
        if name not in contexts and name.rpartition("@")[2] in contexts:
            name = name.rpartition("@")[2]  # as kops reads it: url.Parse takes what is before the @ for a user
        if name not in contexts:
            raise ConfigError(f"{self.origin} has no context {name}: write k8s://CONTEXT; there are: {there}")
        context = contexts[name]
        clusters = {str(each["name"]) for each in config["clusters"]}
        if str(context.get("cluster")) not in clusters:
            raise ConfigError(f"context {name} of {self.origin} has no cluster: `kubectl config set-context {name}`")
        self.context = name
        self.user = str(context.get("user") or "nobody")
        self.namespace = str(context.get("namespace") or "")

    # -- reading -----------------------------------------------------------------------------------

    def _load(self) -> Connection:
        configuration = _configuration()
        ends, rereads, proxy = float("inf"), True, ""
        try:
            if self._files:
                ends, rereads, proxy = self._load_context(configuration)
            else:
                self._load_account(configuration)
        except _library().ConfigException as error:
            raise RefusedError("open", "", f"{self.origin}: {_one_line(error)}") from error
        except OSError as error:
            raise RefusedError("open", "", f"{self.origin}: {error}") from error
        now = self._clock()
        due = renew_at(None if ends == float("inf") else ends, now, MARGIN_S)
        due = min(due, now + REREAD_S if rereads else float("inf"))
        return self._connection(configuration, proxy, due, ends)

    def _load_account(self, configuration: Any) -> None:
        _library().incluster_config.InClusterConfigLoader(
            str(self._account / "token"), str(self._account / "ca.crt"), try_refresh_token=False, environ=self._environ
        ).load_and_set(configuration)

    def _load_context(self, configuration: Any) -> tuple[float, bool, str]:
        """Set what the context says; give when its token ends, whether it lies in a file, and the proxy."""
        merger = self._merged()
        users = [each for each in merger.config["users"].value if each["name"] == self.user]
        user = users[0].value.get("user") or {} if users else {}
        context = merger.config["contexts"].get_with_name(self.context)["context"]
        cluster = merger.config["clusters"].get_with_name(context["cluster"])["cluster"]
        ends = float("inf")
        if "exec" in user and not {"auth-provider", "token", "tokenFile"} & set(user):
            ends = self._run_plugin(users[0].path, user, cluster)
        loader = _library().kube_config.KubeConfigLoader(
            config_dict=merger.config,
            active_context=self.context,
            config_base_path=None,
            config_persister=merger.save_changes if "auth-provider" in user else None,
        )
        loader.load_and_set(configuration)
        if (expiry := getattr(loader, "expiry", None)) is not None:
            ends = expiry.timestamp()
        return ends, "tokenFile" in user, str(cluster.value.get("proxy-url") or "")

    def _run_plugin(self, file: str, user: dict[str, Any], cluster: Any) -> float:
        """Run an exec plugin and put what it says in the place of its entry; give when that ends."""
        library = _library()
        plugin = user["exec"]
        command = plugin.get("command", "")
        try:
            entry = library.kube_config.ConfigNode("exec", plugin, file)
            provider = library.exec_provider.ExecProvider(entry, str(Path(file).resolve().parent), cluster)
            said = provider.run() or {}
        except FileNotFoundError as error:
            hint = " ".join(str(plugin.get("installHint") or f"install {command}, or set PATH").split())
            detail = f"user {self.user}: the exec plugin {command} is not there: {hint}"
            raise RefusedError("open", "", detail) from error
        except (library.ConfigException, OSError, AttributeError) as error:
            detail = f"user {self.user}: the exec plugin {command} fails: {_one_line(error)}"
            raise RefusedError("open", "", detail) from error
        del user["exec"]
        if "token" in said:
            user["token"] = said["token"]
        for name, there in (("client-certificate-data", "clientCertificateData"), ("client-key-data", "clientKeyData")):
            if there in said:
                user[name] = base64.b64encode(said[there].encode()).decode()
        if not {"token", "client-certificate-data"} & set(user):
            detail = f"user {self.user}: the exec plugin {command} gives neither a token nor a certificate"
            raise RefusedError("open", "", detail)
        ends = said.get("expirationTimestamp")
        return datetime.fromisoformat(str(ends)).timestamp() if ends else float("inf")

    def _connection(self, configuration: Any, proxy: str, due: float, ends: float) -> Connection:
        url = str(configuration.host or "").rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(
                f"context {self.context} has no server: `kubectl config set-cluster CLUSTER --server=URL`"
            )
        authority = self._ca_file or configuration.ssl_ca_cert or ""
        certificate, key = configuration.cert_file or "", configuration.key_file or ""
        verify = configuration.verify_ssl is not False
        proxy = proxy or self._proxy(parts.scheme, parts.hostname)
        same = (url, authority, *map(_stamp, (authority, certificate, key)), verify, proxy)
        if self._now is not None and self._now.same == same:
            tls = self._now.tls
        else:
            tls = _tls(authority, certificate, key, verify=verify) if parts.scheme == "https" else None
        authorization = str((configuration.api_key or {}).get("BearerToken") or "").strip()
        if authorization.startswith("bearer "):
            authorization = "B" + authorization[1:]
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            authorization = (
                ""  # a secret in the clear. Source: clientcmd/client_config.go ClientConfig, IsConfigTransportTLS
            )
        name = str(configuration.tls_server_name or "")
        return Connection(url, authorization, tls, name, proxy, same, due, ends)

    def _proxy(self, scheme: str, host: str) -> str:
        environ = {name.lower(): value for name, value in self._environ.items()}
        if proxy_bypass_environment(host, {"no": environ.get("no_proxy", "")}):
            return ""
        return environ.get(f"{scheme}_proxy", "")


def _library() -> Any:
    """Import the client's configuration half, which takes half a second: its types are as good as none."""
    importlib.import_module("kubernetes.config.incluster_config")
    importlib.import_module("kubernetes.config.exec_provider")
    importlib.import_module("kubernetes.config.kube_config")
    return importlib.import_module("kubernetes.config")


def _configuration() -> Any:
    return importlib.import_module("kubernetes.client").Configuration()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _kubeconfigs(environ: Mapping[str, str]) -> list[Path]:
    named = [Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config"]


def _stamp(path: str) -> tuple[int, int]:
    try:
        stat = Path(path).stat() if path else None
    except OSError:
        return 0, 0
    return (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)


def _tls(authority: str, certificate: str, key: str, *, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot read certificates from {authority!r}: correct certificate-authority") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise RefusedError("open", "", f"client certificate {certificate!r} and key {key!r}: {error}") from error
    return context


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
