"""What does a Kubernetes API server answer?

`K8sServer` is a small, strict one: namespaces, Secrets, custom resources and their definitions (kops's four are there),
with discovery, authentication, rights, paging and watches. It refuses what the real one refuses, and compares and swaps
under one lock.

    with K8sServer() as server:
        config = server.kubeconfig(tmp_path / "config")       # user "admin", who may do anything
        server.add_user("reader", only("get list watch", "secrets"))
        server.faults.append(Fault("list", 503, resource="secrets", skip=1))
        server.log                                            # what was asked

`python -m tests.emulators.k8s --kubeconfig FILE --delay 0.02` runs it by itself.

Not here: protobuf, YAML bodies, server-side apply, JSON patches, deletion of collections, subresources, aggregated
discovery (clients fall back) and OpenAPI; kinds but the four above.

Source: Kubernetes "API concepts", "API conventions", "Authenticating", "Using RBAC authorization", "API priority and
fairness"; the requests of the Python client, client-go and kubectl as recorded. What a real kube-apiserver answered is in
`kube-apiserver.json`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import http.server
import json
import ssl
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.emulators.k8s_http import Asked, Fault, Handler, Watch
from tests.emulators.k8s_rules import Object, Refused, Resource, forbidden
from tests.emulators.k8s_state import CRDS, KOPS_CRDS, NAMESPACES, How, Query, State
from tests.support.certificates import for_localhost, server_context

ADMIN_TOKEN = "admin-token"

Rights = Callable[[str, str, str], bool]
"""(verb, resource as `clusters.kops.k8s.io`, namespace or "") → may."""


def anything(verb: str, resource: str, namespace: str) -> bool:
    return True


def only(verbs: str, resources: str, *namespaces: str) -> Rights:
    """Rights as a Role gives them; no namespaces: all, as a ClusterRole."""
    return lambda verb, resource, namespace: (
        verb in verbs.split() and resource in resources.split() and (not namespaces or namespace in namespaces)
    )


def all_but(verbs: str, resources: str) -> Rights:
    denied = only(verbs, resources)
    return lambda verb, resource, namespace: not denied(verb, resource, namespace)


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """With socketserver's 5 a burst of connections waits a second for its second SYN."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not shake hands is no news; anything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class K8sServer:
    """Listens on 127.0.0.1 until its block ends. With a directory for `tls`, over HTTPS, its certificate in there."""

    def __init__(self, *, tls: Path | None = None, crds: bool = True, port: int = 0) -> None:
        self.clock: Callable[[], float] = time.time
        self.state = State(lambda: self.clock())
        self.users: dict[str, Rights] = {"admin": anything}
        self.tokens: dict[str, tuple[str, float]] = {ADMIN_TOKEN: ("admin", float("inf"))}
        """Token → (user, when it ends)."""
        self.anonymous = True
        """Who has no token is `system:anonymous` and gets 403; else 401."""
        self.faults: list[Fault] = []
        self.latency_s = 0.0
        self.page_max = 0
        """No page of a listing is longer, whatever was asked; 0: as asked."""
        self.bookmark_every_s = 60.0
        self.watch_max_s = 3600.0
        """No watch is open for longer, whatever was asked."""
        self.requests: Counter[str] = Counter()
        """By verb; `watch`es and discovery (`other`), too."""
        self.log: list[Asked] = []
        self.before: Callable[[str, str, str, str], None] | None = None
        """Another client, at the worst moment: called (verb, resource, namespace, name) before a request acts."""
        self.watches: list[Watch] = []
        self.certificate: Path | None = None
        self.key: Path | None = None
        self._throttled, self._retry_after = 0, 1
        self._stopped = False
        handler = type("ApiHandler", (Handler,), {"api": self})
        self._http = _Listener(("127.0.0.1", port), handler)
        if tls is not None:
            self.certificate, self.key = for_localhost(tls)
            context = server_context(self.certificate, self.key)
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self.certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        for definition in KOPS_CRDS if crds else ():
            self.define(definition)

    @property
    def url(self) -> str:
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self.state.changed:
            self._stopped = True
            self.state.changed.notify_all()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    # -- what an administrator, or another client, does -------------------------------------------------------

    def add_user(self, name: str, rights: Rights = anything) -> str:
        """Give a token of a user that does not end."""
        self.users[name] = rights
        return self.issue(name, float("inf"))

    def issue(self, user: str = "admin", lifetime_s: float = 3600.0) -> str:
        token = f"{user}-{uuid.uuid4().hex[:12]}"
        self.tokens[token] = (user, self.clock() + lifetime_s)
        return token

    def define(self, definition: Object) -> None:
        """Put a CustomResourceDefinition in, or another in its place."""
        definition = copy.deepcopy(definition)
        with self.state.changed:
            try:
                old = self.state.get(CRDS, "", definition["metadata"]["name"])
            except Refused:
                self.state.create(CRDS, "", definition, How())
            else:
                definition["metadata"]["resourceVersion"] = old.item["metadata"]["resourceVersion"]
                self.state.update(CRDS, "", definition["metadata"]["name"], definition, How())

    def undefine(self, plural: str) -> None:
        """Remove kops's definition of a kind, and with it the objects."""
        self.state.delete(CRDS, "", f"{plural}.kops.k8s.io", {})

    def put(self, plural: str, namespace: str, item: Object) -> Object:
        """Create or replace as another client does; give the object. The namespace is made."""
        resource = next(each for each in self.state.resources() if each.plural == plural)
        item = copy.deepcopy(item)
        with self.state.changed:
            with contextlib.suppress(Refused):
                self.state.create(NAMESPACES, "", {"metadata": {"name": namespace}}, How())
            item.setdefault("kind", resource.kind)
            try:
                old = self.state.get(resource, namespace, item["metadata"]["name"])
            except Refused:
                return self.state.create(resource, namespace, item, How()).item
            item["metadata"] = {**item["metadata"], "resourceVersion": old.item["metadata"]["resourceVersion"]}
            return self.state.update(resource, namespace, item["metadata"]["name"], item, How()).item

    def items(self, plural: str, namespace: str = "") -> dict[str, Object]:
        """The objects of a kind by name, in one namespace or all."""
        resource = next(each for each in self.state.resources() if each.plural == plural)
        shown, _ = self.state.page(Query(resource, namespace))
        return {stored.item["metadata"]["name"]: stored.item for stored in shown}

    def remove(self, plural: str, namespace: str, name: str) -> None:
        resource = next(each for each in self.state.resources() if each.plural == plural)
        self.state.delete(resource, namespace, name, {})

    def throttle(self, times: int, retry_after_s: int = 1) -> None:
        """Answer the next requests with 429 and Retry-After."""
        self._throttled, self._retry_after = times, retry_after_s

    def compact(self) -> None:
        """Old versions are gone: listings go on with 410, new watches of old versions too."""
        self.state.compact()

    def end_watches(self, how: str = "end") -> None:
        """`end`, `cut` or `expire` every open watch."""
        with self.state.changed:
            for watch in self.watches:
                watch.over = how
            self.state.changed.notify_all()

    def bookmark(self) -> None:
        """Send a bookmark to every watch that wants them."""
        with self.state.changed:
            for watch in self.watches:
                watch.bookmark = True
            self.state.changed.notify_all()

    # -- how a client finds it ------------------------------------------------------------------------------------

    def kubeconfig(
        self,
        path: Path,
        *,
        context: str = "emulator",
        token: str | None = ADMIN_TOKEN,
        namespace: str = "",
        url: str = "",
        ca: Path | None = None,
        trusted: bool = True,
        **user: Any,
    ) -> Path:
        """Write, or add to, a kubeconfig; the last context written is the current one.

        `user` is what else the user's entry has: `tokenFile`, `exec`, `client-certificate`, `client-key`. Without
        `trusted` the certificate of the server is not in it.
        """
        config: Object = json.loads(path.read_text()) if path.exists() else {}
        cluster: Object = {"server": url or self.url}
        ca = ca or self.certificate
        if ca is not None and trusted:
            cluster["certificate-authority-data"] = base64.b64encode(ca.read_bytes()).decode()
        entries: dict[str, Object] = {
            "cluster": cluster,
            "user": {**({"token": token} if token and not user else {}), **user},
            "context": {"cluster": context, "user": context, **({"namespace": namespace} if namespace else {})},
        }
        for kind, entry in entries.items():
            rows = [row for row in config.get(f"{kind}s", ()) if row["name"] != context]
            config[f"{kind}s"] = [*rows, {"name": context, kind: entry}]
        config |= {"apiVersion": "v1", "kind": "Config", "current-context": context}
        path.write_text(json.dumps(config, indent=1))
        return path

    def in_cluster(self, directory: Path, token: str = ADMIN_TOKEN, namespace: str = "default") -> dict[str, str]:
        """Write what a pod finds of its service account; give its variables. Needs `tls`."""
        assert self.certificate is not None, "a pod speaks HTTPS"
        (directory / "token").write_text(token)
        (directory / "namespace").write_text(namespace)
        (directory / "ca.crt").write_bytes(self.certificate.read_bytes())
        host, port = self._http.server_address[:2]
        return {"KUBERNETES_SERVICE_HOST": str(host), "KUBERNETES_SERVICE_PORT": str(port)}

    # -- for the handler --------------------------------------------------------------------------------------

    def who(self, authorization: str, certificate: Any) -> str:
        """Source: "Authenticating": a bad token is 401 even where anonymous requests are allowed."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer":
            user, end = self.tokens.get(token.strip(), ("", 0.0))
            if user and self.clock() < end:
                return user
            raise Refused(401, "Unauthorized", "Unauthorized")
        for row in (certificate or {}).get("subject", ()):
            for name, value in row:
                if name == "commonName":
                    return str(value)
        if not self.anonymous:
            raise Refused(401, "Unauthorized", "Unauthorized")
        return "system:anonymous"

    def allow(self, user: str, verb: str, resource: Resource, namespace: str, name: str) -> None:
        within = name if resource.plural == "namespaces" else namespace
        if not self.users.get(user, lambda *asked: False)(verb, resource.name, within):
            where = f'in the namespace "{within}"' if within else "at the cluster scope"
            why = f'User "{user}" cannot {verb} resource "{resource.plural}" in API group "{resource.group}" {where}'
            raise forbidden(resource, name, why)

    def fault(self, verb: str, resource: str) -> Fault | None:
        with self.state.changed:
            if self._throttled:
                self._throttled -= 1
                after = {"Retry-After": str(self._retry_after)}
                return Fault(verb, 429, "", "Too many requests, please try again later.", headers=after, text=True)
            for fault in self.faults:
                if fault.verb in {verb, "*"} and fault.resource in {"", resource}:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    if not fault.times:
                        self.faults.remove(fault)
                    return fault
        return None

    @property
    def stopped(self) -> bool:
        return self._stopped


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the emulated API server until interrupted.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="written, its user may do anything")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--plain", action="store_true", help="no TLS; kubectl and kops then send no token")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        serve(given, None if given.plain else Path(directory))


def serve(given: argparse.Namespace, tls: Path | None) -> None:
    with K8sServer(tls=tls, port=given.port) as server:
        server.latency_s = given.delay
        server.kubeconfig(given.kubeconfig)
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
