"""Which API server, and as whom?

As kops (client-go) finds it: the kubeconfig files of `KUBECONFIG`, else `~/.kube/config`, in them the context that the URL
names, else the current one; where there is no kubeconfig at all, the account of the pod. The `kubernetes` client reads all
of that in a process of its own (`k8s_kubeconfig`): certificates, token files, exec plugins, OIDC. `Access` keeps what it
said, and asks again before a token ends and at once when the server refuses it; a token that lies in a file is read from
there every minute.

Source: client-go tools/clientcmd (loader.go, client_config.go DeferredLoadingClientConfig), rest/config.go
(InClusterConfig), transport/token_source.go (files once a minute); kops cmd/kops/util/factory.go.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import ipaddress
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from kopsfs.errors import ConfigError, DeniedError, KopsfsError, RefusedError, StoreError, TransientError
from kopsfs.store.outside import TIMEOUT_S, ask
from kopsfs.store.renewal import renew_at

log = logging.getLogger(__name__)

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
READER: Final = "kopsfs.store.k8s_kubeconfig"
PLUGIN_S: Final = 300.0
"""An exec plugin may wait for a person who logs in."""
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


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate or key: in a file, or as it stood in the kubeconfig."""

    path: str
    data: str = field(repr=False)

    @contextlib.contextmanager
    def file(self) -> Iterator[str]:
        """Give a name under which OpenSSL can read it, empty if there is none; data never reach a disk."""
        if not self.data:
            yield self.path
            return
        fd = os.memfd_create("kopsfs")
        try:
            os.write(fd, base64.b64decode(self.data))
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)


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
        """Find the context; takes most of a second. Asks no server and runs no plugin. Raises ConfigError."""
        self._environ = environ
        self._ca_file = ca_file
        self._clock = clock
        self._account = service_account
        self._files = _kubeconfigs(environ)
        self._changing = threading.Lock()
        self._now: Connection | None = None
        self._row: dict[str, Any] | None = None
        """What `_now` was made of."""
        self._written: tuple[object, dict[str, Any]] | None = None
        """The state of the kubeconfig, and what stands there; None: something has to be run, or nothing was read yet."""
        self._failure: tuple[float, KopsfsError] | None = None
        """How the last attempt ended, and when, by `time.monotonic()`."""
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
            self._find_context()

    def _find_context(self) -> None:
        self.user = "nobody"
        state = self._state()
        try:
            row = self._ask("context")
        except StoreError as error:
            raise ConfigError(error.detail) from error
        self.context, self.user, self.namespace = row["context"], row["user"], row["namespace"]
        if row["login"] is not None:
            self._written = (state, row["login"])

    def _state(self) -> tuple[object, ...]:
        return tuple(_stamp(str(path)) for path in self._files)

    def _ask(self, question: str) -> dict[str, Any]:
        words = [self.context, *map(str, self._files)] if self._files else [str(self._account)]
        what, timeout_s = f"user {self.user}" if self._files else self.user, PLUGIN_S
        if question == "context":
            what, timeout_s = "cannot read the kubeconfig", TIMEOUT_S
        return ask(READER, question, *words, environ=self._environ, what=what, extra="k8s", timeout_s=timeout_s)

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
        arrived = time.monotonic()
        if not self._changing.acquire(blocking=waits):
            assert now is not None
            return now
        try:
            if self._now is now:
                self._renew(arrived)
        finally:
            self._changing.release()
        assert self._now is not None
        return self._now

    def _renew(self, arrived: float) -> None:
        """Ask again, or read the token's file; what fails leaves the old ones in use as long as they are good."""
        try:
            if self._now is not None and self._row is not None and self._row["token_file"]:
                self._now = self._connection(self._row)
            else:
                self._load(arrived)
        except KopsfsError as error:
            self._not_before = self._clock() + RETRY_S
            if self._now is None or self._clock() >= self._now.ends:
                raise self._judged(error) from error
            log.info("credentials are not renewed, the old ones hold for now err=%s", error)

    def refused(self, used: Connection) -> bool:
        """The server does not take these any more: read again; say whether there are others now.

        Raises as `connection`.
        """
        arrived = time.monotonic()
        with self._changing:
            if self._now is used:
                try:
                    self._load(arrived)
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
        self._now, self._written, self._not_before = None, None, float("-inf")

    # -- reading -----------------------------------------------------------------------------------

    def _load(self, arrived: float) -> None:
        """Ask; who arrived while an attempt was under way that failed fails with it."""
        if self._failure is not None and self._failure[0] >= arrived:
            raise copy.copy(self._failure[1])
        state = self._state()
        try:
            if self._written is not None and self._written[0] == state:
                row = self._written[1]
            else:
                row = self._ask("login" if self._files else "account")
                self._written = None if row["ran"] else (state, row)
            self._now = self._connection(row)
        except KopsfsError as error:
            self._failure = (time.monotonic(), error)
            raise
        self._row = row

    def _connection(self, row: Mapping[str, Any]) -> Connection:
        url = row["url"]
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(
                f"context {self.context} has no server: `kubectl config set-cluster CLUSTER --server=URL`"
            )
        authority = Pem(self._ca_file, "") if self._ca_file else Pem(*row["authority"])
        pems = (authority, Pem(*row["certificate"]), Pem(*row["key"]))
        proxy = row["proxy"] or self._proxy(parts.scheme, parts.hostname)
        same = (url, *pems, *(_stamp(pem.path) for pem in pems), row["verify"], row["server_name"], proxy)
        if self._now is not None and self._now.same == same:
            tls = self._now.tls
        else:
            tls = _tls(*pems, verify=row["verify"]) if parts.scheme == "https" else None
        authorization = row["authorization"] if not row["token_file"] else _read_token(row["token_file"])
        if authorization.startswith("bearer "):
            authorization = "B" + authorization[1:]
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            # It would be a secret in the clear. Source: clientcmd/client_config.go ClientConfig, IsConfigTransportTLS
            authorization = ""
        now = self._clock()
        due = renew_at(row["ends"], now, MARGIN_S)
        if row["token_file"]:
            due = min(due, now + REREAD_S)
        ends = float("inf") if row["ends"] is None else row["ends"]
        return Connection(url, authorization, tls, row["server_name"], proxy, same, due, ends)

    def _proxy(self, scheme: str, host: str) -> str:
        environ = {name.lower(): value for name, value in self._environ.items()}
        if proxy_bypass_environment(host, {"no": environ.get("no_proxy", "")}):
            return ""
        return environ.get(f"{scheme}_proxy", "")


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text().strip()
    except OSError as error:
        raise RefusedError("open", "", str(error)) from error
    if not token:
        raise RefusedError("open", "", f"{path} is empty")
    return f"Bearer {token}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _kubeconfigs(environ: Mapping[str, str]) -> list[Path]:
    named = [Path(part).absolute() for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config"]


def _stamp(path: str) -> tuple[int, ...]:
    """Name the state of a file, so that another one differs."""
    try:
        stat = Path(path).stat() if path else None
    except OSError:
        return ()
    return (stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size) if stat else ()


def _tls(authority: Pem, certificate: Pem, key: Pem, *, verify: bool) -> ssl.SSLContext:
    try:
        with authority.file() as path:
            context = ssl.create_default_context(cafile=path or None)
    except (OSError, ssl.SSLError) as error:
        where = repr(authority.path) if authority.path else "the kubeconfig"
        raise ConfigError(f"cannot read certificates from {where}: correct certificate-authority") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate.path or certificate.data:
        try:
            with certificate.file() as path, key.file() as key_path:
                context.load_cert_chain(path, key_path or None)
        except (OSError, ssl.SSLError) as error:
            said = f"client certificate {certificate.path!r} and key {key.path!r}: {error}"
            raise RefusedError("open", "", said) from error
    return context
