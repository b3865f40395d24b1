"""What do the tests of k8s:// have in common: clients of one server, and a file of each kind kops has an object for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kopsfs.store.driver import Version
from kopsfs.store.k8s import open_driver
from kopsfs.store.url import Settings, parse
from tests.emulators.k8s import K8sServer
from tests.store.harness import DriverFace, kubeconfigs_read_here

C, NS = "c1.example.com", "c1-example-com"
CLUSTER = b"""# mine
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata:
  name: c1.example.com
  creationTimestamp: null
spec:
    channel: stable  # by hand
    kubernetesVersion: "1.30"
"""
GROUP = b"""{"kind": "InstanceGroup", "apiVersion": "kops.k8s.io/v1alpha2",
 "metadata": {"name": "nodes", "labels": {"kops.k8s.io/cluster": "c1.example.com"}}, "spec": {"minSize": 2}}"""
KEYSET = b"""apiVersion: kops.k8s.io/v1alpha2
kind: Keyset
spec:
  keys:
  - id: "7234567890123456789012345678"
    privateMaterial: a2V5
  primaryId: "7234567890123456789012345678"
  type: Keypair
"""
SSH_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here\n"
FINGERPRINT = hashlib.md5(base64.b64decode(SSH_KEY.split()[1])).hexdigest()
OTHER_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8eHRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEA you@there\n"
OTHER = hashlib.md5(base64.b64decode(OTHER_KEY.split()[1])).hexdigest()

FILES = {
    f"{C}/config": (CLUSTER, "clusters", C),
    f"{C}/instancegroup/nodes": (GROUP, "instancegroups", "nodes"),
    f"{C}/pki/private/kubernetes-ca/keyset.yaml": (KEYSET, "keysets", "kubernetes-ca"),
    f"{C}/secrets/kube": (b'{"Data":"c2VjcmV0"}\n', "keysets", "token-kube"),
    f"{C}/pki/ssh/public/admin/{FINGERPRINT}": (SSH_KEY, "sshcredentials", "admin"),
}
"""Key → bytes, and the object they are: kind and name."""


class Clients:
    """Opens clients of a server, each with a kubeconfig of its own, and closes them."""

    def __init__(self, server: K8sServer, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._opened: list[DriverFace] = []
        self._here = kubeconfigs_read_here()

    def __call__(self, url: str = "k8s://", *, page_size: int = 1000, **context: Any) -> DriverFace:
        config = self._server.kubeconfig(self._directory / f"config{len(self._opened)}", **context)
        settings = Settings(environ={"KUBECONFIG": str(config)}, page_size=page_size)
        self._opened.append(DriverFace(open_driver(parse(url), settings)))
        return self._opened[-1]

    def __enter__(self) -> Self:
        self._here.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for face in self._opened:
            face.close()
        self._here.__exit__(kind, error, at)


def listing(face: DriverFace, prefix: str = "") -> dict[str, Version]:
    """Every page: key → version, in order."""
    found: dict[str, Version] = {}
    token = None
    while True:
        page = face.page(prefix, token=token)
        found |= {info.key: info.version for info in page.objects}
        token = page.token
        if token is None:
            return found


def objects(server: K8sServer, plural: str, namespace: str = "") -> dict[str, Any]:
    """Copies: what another client has of them."""
    copied: dict[str, Any] = json.loads(json.dumps(server.items(plural, namespace)))
    return copied


def asked(server: K8sServer, since: int = 0) -> Counter[str]:
    """Requests by verb and kind, from a length of the log on."""
    return Counter(f"{each.verb} {each.resource.partition('.')[0]}" for each in server.log[since:])
