"""How is an API server asked, and what does its answer mean?

`Api` sends one request over a pool of connections and gives the JSON of the answer, or raises what it means in one line
that says what to set: the verb and resource to grant, the command that installs kops's definitions, the context to name.
Credentials are `k8s_credentials.Access`'s; a refused one is read again once. Nothing is retried here.

Source: Kubernetes "API concepts", "API conventions" (Response Status Kind, Error response), apimachinery
pkg/api/errors; "API priority and fairness" (429, Retry-After).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from kopsfs.errors import (
    ConflictError,
    DeniedError,
    InvalidKeyError,
    NotFoundError,
    QuotaError,
    RefusedError,
    StoreError,
    StoreGoneError,
    TooLargeError,
    TransientError,
)
from kopsfs.store.k8s_credentials import Access, Connection
from kopsfs.store.k8s_layout import GROUP, NAMESPACES, Kind, Object

CONNECT_S: Final = 5.0
READ_S: Final = 20.0
"""Between two pieces of an answer."""
INSTALL: Final = "kopsfs k8s crds | kubectl apply -f -"
MANAGER: Final = "kopsfs"
"""Who `managedFields` names as the author of what we write."""
_WORDS_MAX: Final = 300


class ExpiredError(TransientError):
    """410: the server has forgotten the version a listing or a watch stands on; begin anew."""


class InvalidObjectError(InvalidKeyError):
    """422: the server does not take such an object; `detail` says why."""


class NoNamespaceError(NotFoundError):
    """The namespace is not there."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `op` and `key` for errors, the rest for the server."""

    op: str
    key: str
    verb: str
    """As RBAC has it: get, list, watch, create, update, delete."""
    kind: Kind
    namespace: str = ""
    name: str = ""
    query: Mapping[str, str] | None = None
    body: Object | None = None
    accept: str = "application/json"


METHODS: Final = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "delete": "DELETE"}


class Api:
    """One server, asked from any thread."""

    def __init__(self, access: Access, *, connections_max: int = 32) -> None:
        self._access = access
        self._connections_max = connections_max
        self._changing = threading.Lock()
        self._pool: Any = None
        self._same: tuple[object, ...] = ()

    def ask(self, ask: Ask) -> Object:
        """Send a request; give the answer's JSON. Raises StoreError's kinds. Cost: 1 request."""
        with self._answer(ask, read_s=READ_S) as answer:
            try:
                text = str(answer.read(decode_content=True), "utf-8")  # the bytes are gone before the text is read
                said = json.loads(text)
            except Exception as error:
                raise self._trouble(ask, error) from error
        if not isinstance(said, dict):
            raise TransientError(ask.op, ask.key, "the answer is no object of Kubernetes")
        return said

    def lines(self, ask: Ask, *, read_s: float, opened: Any) -> Iterator[Object]:
        """Give what a watch says, as it comes. `opened` is given the answer: to close it ends the watch."""
        with self._answer(ask, read_s=read_s) as answer:
            opened(answer)
            rest = b""
            try:
                for piece in answer.stream(1 << 16, decode_content=True):
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        if line.strip():
                            yield json.loads(line)
            except (OSError, ValueError) as error:
                raise self._trouble(ask, error) from error
            except Exception as error:
                if type(error).__module__.split(".")[0] != "urllib3":
                    raise
                raise self._trouble(ask, error) from error

    def close(self) -> None:
        """Let go of idle connections."""
        with self._changing:
            if self._pool is not None:
                self._pool.clear()

    # -- sending -----------------------------------------------------------------------------------

    def _answer(self, ask: Ask, *, read_s: float) -> Any:
        """Send; give an answer of 2xx with its body unread."""
        connection = self._access.connection()
        answer = self._send(ask, connection, read_s)
        if answer.status == 401:
            self._drain(answer)
            if self._access.refused(connection):
                connection = self._access.connection()
                answer = self._send(ask, connection, read_s)
        if answer.status not in {401, 403}:
            self._access.accepted = True
        if not 200 <= answer.status < 300:
            body = self._drain(answer)
            raise self._failure(ask, answer.status, answer.headers, body)
        return answer

    def _send(self, ask: Ask, connection: Connection, read_s: float) -> Any:
        import urllib3

        # Not packed: a server spends more on gzip than most networks do on the rest (kubectl --disable-compression).
        headers = {"Accept": ask.accept, "Accept-Encoding": "identity", "User-Agent": "kopsfs"}
        if connection.authorization:
            headers["Authorization"] = connection.authorization
        body = None
        if ask.body is not None:
            body = json.dumps(ask.body, separators=(",", ":"), ensure_ascii=False).encode()
            headers["Content-Type"] = "application/json"
        query = dict(ask.query or {})
        if ask.verb in {"create", "update"}:
            query["fieldManager"] = MANAGER
        url = connection.url + ask.kind.path(ask.namespace, ask.name)
        if query:
            from urllib.parse import urlencode

            url += "?" + urlencode(query)
        try:
            return self._connections(connection).request(
                METHODS[ask.verb],
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(ask, error) from error

    def _connections(self, connection: Connection) -> Any:
        import urllib3

        with self._changing:
            if self._pool is None or self._same != connection.same:
                given: dict[str, Any] = {"maxsize": self._connections_max, "num_pools": 4}
                if connection.tls is not None:
                    given["ssl_context"] = connection.tls
                    if not connection.tls.check_hostname:
                        given["cert_reqs"] = "CERT_NONE"
                        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
                    if connection.server_name:
                        given |= {"server_hostname": connection.server_name, "assert_hostname": connection.server_name}
                if connection.proxy:
                    self._pool = urllib3.ProxyManager(connection.proxy, **given)
                else:
                    self._pool = urllib3.PoolManager(**given)
                self._same = connection.same
            return self._pool

    @staticmethod
    def _drain(answer: Any) -> bytes:
        try:
            return bytes(answer.read(decode_content=True))
        except Exception:  # noqa: BLE001  the status counts, whatever becomes of the words
            return b""
        finally:
            answer.release_conn()

    # -- what an answer means ----------------------------------------------------------------------

    def _trouble(self, ask: Ask, error: BaseException) -> StoreError:
        """What a connection that failed means."""
        if isinstance(error, StoreError):
            return error
        text = " ".join(str(error).split())
        where = self._access.context or "the pod's account"
        text = re.sub(r"<[^>]*object at 0x[0-9a-f]+>:? ?|\(?HTTPS?Connection(?:Pool)?\([^)]*\):? ?", "", text)[
            :_WORDS_MAX
        ]
        if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
            return TransientError(
                ask.op, ask.key, f"{text}; correct certificate-authority of context {where}, or set --ca-file"
            )
        if "WRONG_VERSION_NUMBER" in text or "RemoteDisconnected" in text or "record layer" in text:
            text += "; is it https:// or http:// in the kubeconfig's server?"
        elif "refused" in text or "resolve" in text or "Name or service" in text:
            text += f"; is the server of context {where} right?"
        return TransientError(ask.op, ask.key, text or type(error).__name__)

    def _failure(self, ask: Ask, status: int, headers: Mapping[str, str], body: bytes) -> StoreError:
        said = _status(body)
        words = " ".join(str(said.get("message") or body[:_WORDS_MAX].decode(errors="replace")).split())[:_WORDS_MAX]
        reason = str(said.get("reason") or "")
        details = said.get("details") or {}
        op, key = ask.op, ask.key
        match status:
            case 401:
                return RefusedError(op, key, self._unknown(words))
            case 403:
                return self._forbidden(ask, words, details)
            case 404:
                return self._missing(ask, words, details)
            case 409:
                return ConflictError(op, key, "exists" if reason == "AlreadyExists" else words)
            case 410:
                return ExpiredError(op, key, words)
            case 413:
                return TooLargeError(op, key, words or "larger than the API server takes")
            case 422:
                return InvalidObjectError(op, key, words)
            case _ if "request is too large" in words:
                return TooLargeError(op, key, f"{words}: larger than etcd takes")
            case 408 | 425 | 429:
                return TransientError(op, key, f"{status} {words}", retry_after_s=_retry_after(headers, details))
            case _ if status >= 500:
                return TransientError(op, key, f"{status} {words}", retry_after_s=_retry_after(headers, details))
            case _ if status < 400:
                where = headers.get("Location", "")
                return TransientError(op, key, f"{status} {where}: the kubeconfig's server is no API server")
            case _ if not said:
                return StoreError(op, key, f"{status} {words}; is it https:// or http:// in the kubeconfig's server?")
            case _:
                return StoreError(op, key, f"{status} {words}")

    def _unknown(self, words: str) -> str:
        access = self._access
        return (
            f"{words or 'Unauthorized'}: the API server does not know the credentials of {access.user} in {access.origin}"
            ": log in again, or name another context, k8s://CONTEXT"
        )

    def _forbidden(self, ask: Ask, words: str, details: Object) -> StoreError:
        if any(cause.get("reason") == "NamespaceTerminating" for cause in details.get("causes") or ()):
            return TransientError(ask.op, ask.key, f"namespace {ask.namespace} is being deleted")
        if "exceeded quota" in words:
            return QuotaError(ask.op, ask.key, words)
        where = f"in namespace {ask.namespace}" if ask.namespace else "in all namespaces"
        who = re.search(r'User "([^"]*)"', words)
        user = who[1] if who else self._access.user
        if ask.kind is NAMESPACES:
            where = "of the cluster"
        if user == "system:anonymous":
            return RefusedError(ask.op, ask.key, self._unknown("403 anonymous"))
        return DeniedError(
            ask.op, ask.key, f"{user} may not {ask.verb} {ask.kind.name} {where}: grant that verb by RBAC"
        )

    @staticmethod
    def _missing(ask: Ask, words: str, details: Object) -> StoreError:
        if (
            ask.name
            and details.get("name") == ask.name
            and details.get("kind") in {ask.kind.plural, None, ask.kind.kind}
        ):
            return NotFoundError(ask.op, ask.key, "no such object")
        if details.get("kind") == NAMESPACES.plural:
            return NoNamespaceError(ask.op, ask.key, f"namespace {ask.namespace} is missing")
        if ask.kind.group == GROUP:
            what = f"the API server does not know {ask.kind.name}/{ask.kind.version}"
            return StoreGoneError(ask.op, ask.key, f"{what}: {INSTALL}")
        return StoreGoneError(ask.op, ask.key, f"404 {words}: the kubeconfig's server is no API server")


def _status(body: bytes) -> Object:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and said.get("kind") == "Status" else {}


def _retry_after(headers: Mapping[str, str], details: Object) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After") or details.get("retryAfterSeconds") or 0))
    except (TypeError, ValueError):
        return 0.0


def condemned(op: str, key: str, error: InvalidObjectError) -> NoReturn:
    """An object that should have been valid was refused: by its name, its size, or a rule of this cluster."""
    if "Too long" in error.detail:
        raise TooLargeError(op, key, error.detail) from error
    raise InvalidKeyError(op, key, error.detail) from error
