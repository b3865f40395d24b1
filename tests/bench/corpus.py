"""What do the benches read?  Three stores, the same bytes on every machine.

    clusters    10 clusters as kops lays them out: 84 files in 60 directories each, 16 MB in all
    flat        10,000 files of 4 KB in one directory
    backups     one such cluster with 1,000 backup objects beside it, 26 MB more
    fleet       10 such clusters with 1,000 small backup objects each: 11 pages of a listing

Contents are lines of text, made by a seeded generator; every file has exactly one line that starts
with `NEEDLE`, which is what `grep -r` looks for.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

NEEDLE = "checksum:"
CLUSTERS = 10
FILES_OF_A_CLUSTER = 84
DIRECTORIES_OF_A_CLUSTER = 60
FLAT_FILES = 10_000
FLAT_BYTES = 4096
BACKUPS = 1000
BACKUP_BYTES = 26_000

GROUPS = [
    *(f"control-plane-eu-central-1{zone}" for zone in "abc"),
    *(f"nodes-{name}" for name in "abcdefgh"),
    "bastions",
]
ADDONS = {
    "networking.cilium.io": 1_000_000,
    "aws-ebs-csi-driver.addons.k8s.io": 312_000,
    "cluster-autoscaler.addons.k8s.io": 147_000,
    "aws-cloud-controller.addons.k8s.io": 9_000,
    "aws-load-balancer-controller.addons.k8s.io": 6_500,
    "certmanager.io": 5_600,
    "coredns.addons.k8s.io": 4_800,
    "dns-controller.addons.k8s.io": 3_300,
    "external-dns.addons.k8s.io": 3_100,
    "kops-controller.addons.k8s.io": 4_200,
    "kubelet-api.rbac.addons.k8s.io": 900,
    "limit-range.addons.k8s.io": 420,
    "metrics-server.addons.k8s.io": 4_100,
    "node-termination-handler.aws": 8_200,
    "storage-aws.addons.k8s.io": 2_400,
}
KEYSETS = [
    "apiserver-aggregator-ca", "etcd-clients-ca", "etcd-manager-ca-events", "etcd-manager-ca-main", "etcd-peers-ca-events",
    "etcd-peers-ca-main", "kubernetes-ca", "service-account",
]  # fmt: skip
SECRETS = [
    "admin", "dockerconfig", "encryptionconfig", "kube", "kube-proxy", "kubelet", "system:controller_manager",
    "system:dns", "system:logging", "system:scheduler",
]  # fmt: skip
ROLES = {"control-plane": 3, "node": 17, "bastion": 1}
MANIFESTS = [f"etcd/{etcd}-control-plane-eu-central-1{zone}.yaml" for etcd in ("events", "main") for zone in "abc"]
MANIFESTS += ["static/kube-apiserver-healthcheck.yaml", "static/kube-scheduler.yaml"]


def text(seed: str, size: int) -> bytes:
    """Make `size` bytes of lines, the second of them the needle's."""
    source = random.Random(seed)
    head = f"# {seed}\n{NEEDLE} {source.getrandbits(64):016x}\n".encode()
    lines = [head]
    left = size - len(head)
    while left > 0:
        line = f"  - field{source.getrandbits(16)}: {source.getrandbits(200):050x}\n".encode()
        lines.append(line)
        left -= len(line)
    return b"".join(lines)[: max(size, len(head))]


def cluster(name: str) -> Iterator[tuple[str, int]]:
    """Yield (key, size) of one cluster's objects."""
    source = random.Random(name)
    for addon, size in ADDONS.items():
        yield f"{name}/addons/{addon}/k8s-1.19.yaml", size
    for role, count in ROLES.items():
        for number in range(count):  # 3 to 15 KB, small ones more often
            yield f"{name}/igconfig/{role}/{role}-{number}/nodeupconfig.yaml", int(3000 * 5 ** source.random() ** 2)
    for group in GROUPS:
        yield f"{name}/instancegroup/{group}", source.randint(600, 1_400)
    for keyset in KEYSETS:
        yield f"{name}/pki/private/{keyset}/keyset.yaml", 4_000
    for secret in SECRETS:
        yield f"{name}/secrets/{secret}", source.randint(60, 600)
    for manifest in MANIFESTS:
        yield f"{name}/manifests/{manifest}", source.randint(1_500, 4_500)
    yield f"{name}/config", 5_200
    yield f"{name}/cluster-completed.spec", 11_400
    yield f"{name}/kops-version.txt", 60
    yield f"{name}/addons/bootstrap-channel.yaml", 7_300
    yield f"{name}/pki/ssh/public/admin/c4a6ed9aa889b9e2c39cd663eb9c7157", 410
    for single in ("cluster.spec", "clusteraddons", "cni.spec", "lifecycle.json", "previous.spec"):
        yield f"{name}/{single}", source.randint(300, 3_000)


def clusters() -> Iterator[tuple[str, int]]:
    for number in range(CLUSTERS):
        yield from cluster(f"c{number}.example.com")


def flat() -> Iterator[tuple[str, int]]:
    for number in range(FLAT_FILES):
        yield f"f{number:05d}", FLAT_BYTES


def with_backups(name: str, backup_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield a cluster, and what etcd-manager leaves beside it: an hourly backup of two objects per etcd."""
    yield from cluster(name)
    for number in range(BACKUPS // 4):
        when = f"2026-11-{1 + number // 24:02d}T{number % 24:02d}:00:00Z"
        for etcd in ("events", "main"):
            yield f"{name}/backups/etcd/{etcd}/{when}-000001/_etcd_backup.meta", 250
            yield f"{name}/backups/etcd/{etcd}/{when}-000001/etcd.backup.gz", 2 * backup_bytes - 250


def backups() -> Iterator[tuple[str, int]]:
    yield from with_backups("b0.example.com", BACKUP_BYTES)


def fleet() -> Iterator[tuple[str, int]]:
    for number in range(CLUSTERS):
        yield from with_backups(f"c{number}.example.com", 250)


CORPORA: dict[str, Callable[[], Iterator[tuple[str, int]]]] = {
    "clusters": clusters,
    "flat": flat,
    "backups": backups,
    "fleet": fleet,
}


def make(name: str) -> dict[str, bytes]:
    """Make a whole corpus: key → bytes."""
    return {key: text(key, size) for key, size in CORPORA[name]()}


def write(objects: dict[str, bytes], folder: Path) -> None:
    """Write it as a directory tree, which holds nothing else then, to compare with and to copy from."""
    shutil.rmtree(folder, ignore_errors=True)
    for key, data in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
