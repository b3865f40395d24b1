"""`kopsfs check`: a healthy tree on disk, and one planted fault at a time.

The method: the tree is written once, as kops would leave it, with keys made here; each fault changes files of a copy. Compared is
the whole list of rules that speak, so a fault that makes two rules speak fails, and so does one that is missed. The
command itself is run, on directories. Planted before it was believed: each rule of `tree.py` and `keysets.py`
(`python -m tests.spec.mutation`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from kopsfs.cli.program import main
from kopsfs.spec.validation.tree import node_config_hash
from tests.spec.test_validation_stages import CLUSTER, CONTROL_PLANE, GROUP, NODES

NAME = "c1.example.com"
OTHER = "c2.example.com"
URL = "s3://state"
CHANNEL = "kind: Addons\nmetadata:\n  name: bootstrap\nspec:\n  addons:\n  - manifest: dns/k8s-1.12.yaml\n    manifestHash: {}\n    name: dns\n"
MANIFEST = "apiVersion: v1\nkind: ConfigMap"
NOW = datetime.now(UTC)


@cache
def key(number: int, days: int = 3650) -> tuple[str, str]:
    """A certificate and its key in base64 of PEM, valid for so many days from now."""
    private = ed25519.Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ca-{number}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(number)
        .not_valid_before(NOW - timedelta(days=4000))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(private, None)
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert hashes is not None
    return base64.b64encode(public).decode(), base64.b64encode(secret).decode()


def keyset(name: str, *keys: dict[str, str], primary: str = "11") -> str:
    rows = "".join(
        "  - " + "\n    ".join(f"{field}: {json.dumps(value)}" for field, value in entry.items()) + "\n"
        for entry in keys
    )
    return (
        f"apiVersion: kops.k8s.io/v1alpha2\nkind: Keyset\nmetadata:\n  name: {name}\nspec:\n"
        f"  keys:{' []' if not keys else ''}\n{rows}  primaryId: {json.dumps(primary)}\n  type: Keypair\n"
    )


def pair(number: int, days: int = 3650) -> dict[str, str]:
    public, private = key(number, days)
    return {"id": str(number), "publicMaterial": public, "privateMaterial": private}


def ssh_key(text: bytes = b"some key") -> tuple[str, str]:
    blob = len(b"ssh-rsa").to_bytes(4, "big") + b"ssh-rsa" + text
    return hashlib.md5(blob, usedforsecurity=False).hexdigest(), f"ssh-rsa {base64.b64encode(blob).decode()} me\n"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state store of two clusters, the first one applied."""
    root = tmp_path_factory.mktemp("healthy")
    fingerprint, public = ssh_key()
    files = {
        "config": CLUSTER,
        "cluster-completed.spec": CLUSTER,
        "kops-version.txt": "1.34.0-beta.1",
        "instancegroup/cp": CONTROL_PLANE,
        "instancegroup/nodes": NODES,
        "clusteraddons/default": "",
        "igconfig/control-plane/cp/nodeupconfig.yaml": "a: b\n",
        "igconfig/node/nodes/nodeupconfig.yaml": "c: d\n",
        "igconfig/node/nodes/nodeupscript.sh": f"NodeupConfigHash: {node_config_hash(b'c: d' + bytes([10]))}\n",
        "addons/bootstrap-channel.yaml": CHANNEL.format(hashlib.sha256(MANIFEST.encode()).hexdigest()),
        "addons/dns/k8s-1.12.yaml": MANIFEST,
        "manifests/etcd/main-cp.yaml": "x",
        "pki/private/kubernetes-ca/keyset.yaml": keyset("kubernetes-ca", pair(11)),
        "pki/private/apiserver-aggregator-ca/keyset.yaml": keyset("apiserver-aggregator-ca", pair(11)),
        "pki/private/service-account/keyset.yaml": keyset("service-account", pair(11), pair(10)),
        f"pki/ssh/public/admin/{fingerprint}": public,
        "secrets/admin": '{"Data":"eA=="}',
        "secrets/system:dns": '{"Data":"eA=="}',
        ".well-known/openid-configuration": "{}",
        "openid/v1/jwks": "{}",
        "backups/etcd/main/control/etcd-cluster-spec": "{}",
    }
    for path, text in files.items():
        write(root / NAME / path, text)
    second = CLUSTER.replace(NAME, OTHER).replace("172.20.", "172.21.")
    write(root / OTHER / "config", second)
    for name, text in (("cp", CONTROL_PLANE), ("nodes", NODES)):
        write(root / OTHER / "instancegroup" / name, text.replace(NAME, OTHER))
    os.utime(root / NAME / "config", (1_000_000_000, 1_000_000_000))
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def fault(cluster: Path) -> None:
        text = (cluster / path).read_text()
        assert old in text, f"{path} has no {old}"
        (cluster / path).write_text(text.replace(old, new, 1))
        if path == "config":
            os.utime(cluster / path, (1_000_000_000, 1_000_000_000))

    return fault


def put(path: str, text: str) -> Callable[[Path], None]:
    return lambda cluster: write(cluster / path, text)


def instead_of_config(text: str) -> Callable[[Path], None]:
    def fault(cluster: Path) -> None:
        write(cluster / "config", text)
        os.utime(cluster / "config", (1_000_000_000, 1_000_000_000))

    return fault


def away(path: str) -> Callable[[Path], None]:
    return lambda cluster: (cluster / path).unlink()


def touch_config(cluster: Path) -> None:
    os.utime(cluster / "config")


def three_zones(cluster: Path) -> None:
    """Three subnets and control planes, two of them in one zone."""
    text = (cluster / "config").read_text()
    subnet = text[text.index("  - cidr:") : text.index("  topology:")]
    subnets = "".join(
        subnet.replace("172.20.32", f"172.20.{32 * (n + 1)}")
        .replace("name: a", f"name: {name}")
        .replace("1a", f"1{name}")
        for n, name in enumerate("abc")
    )
    members = "".join(f"    - instanceGroup: {group}\n      name: {group}\n" for group in ("cp", "cp2", "cp3"))
    text = text.replace(subnet, subnets).replace(
        "    - instanceGroup: cp\n      name: a\n    name: main", f"{members}    name: main"
    )
    (cluster / "config").write_text(text)
    touch = (1_000_000_000, 1_000_000_000)
    os.utime(cluster / "config", touch)
    for group in ("cp2", "cp3"):
        group_text = GROUP.format(name=group, role="Master")
        write(cluster / "instancegroup" / group, group_text.replace("- a\n", "- b\n") if group == "cp3" else group_text)
        write(cluster / f"igconfig/control-plane/{group}/nodeupconfig.yaml", "a: b\n")


CA = "pki/private/kubernetes-ca/keyset.yaml"
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "the cluster is called otherwise": (edit("config", f"name: {NAME}", "name: x.example.com"), "name-of-directory"),
    "the completed spec is another cluster's": (edit("cluster-completed.spec", f"name: {NAME}", f"name: {OTHER}"), "completed-name"),
    "configBase points elsewhere": (edit("config", "s3://state/", "s3://old-state/"), "config-base"),
    "a group is called otherwise than its file": (edit("instancegroup/nodes", "name: nodes", "name: workers"), "group-name-of-file"),
    "a group has no label": (edit("instancegroup/nodes", f"    kops.k8s.io/cluster: {NAME}", "    a: b"), "group-label"),
    "a group is labelled for another cluster": (edit("instancegroup/nodes", f"kops.k8s.io/cluster: {NAME}", f"kops.k8s.io/cluster: {OTHER}"), "group-label"),
    "an etcd member is on no group": (edit("config", "instanceGroup: cp", "instanceGroup: cpp"), "etcd-group-missing"),
    "one zone has the majority of etcd": (three_zones, "etcd-zone-majority"),
    "an empty keyset": (put(CA, keyset("kubernetes-ca")), "keyset-empty"),
    "every key is distrusted": (put(CA, keyset("kubernetes-ca", pair(11) | {"distrustTimestamp": "2026-01-01T00:00:00Z"})), "keyset-distrusted"),
    "ids that are no numbers": (put(CA, keyset("kubernetes-ca", pair(11) | {"id": "x"})), "keyset-distrusted"),
    "a primary key that is not there": (edit(CA, 'primaryId: "11"', 'primaryId: "12"'), "keyset-primary"),
    "a primary key without private part": (put(CA, keyset("kubernetes-ca", {"id": "11", "publicMaterial": key(11)[0]})), "keyset-private"),
    "a certificate that cannot be read": (put(CA, keyset("kubernetes-ca", pair(11) | {"publicMaterial": "eA=="})), "key-certificate"),
    "a private key that cannot be read": (put(CA, keyset("kubernetes-ca", pair(11) | {"privateMaterial": "?"})), "key-private"),
    "a private key of another certificate": (put(CA, keyset("kubernetes-ca", pair(11) | {"privateMaterial": key(10)[1]})), "key-pair"),
    "an expired CA": (put(CA, keyset("kubernetes-ca", pair(11, -1))), "certificate-expired"),
    "a CA that expires soon": (put(CA, keyset("kubernetes-ca", pair(11, 20))), "certificate-expires"),
    "a keyset of another name": (edit(CA, "name: kubernetes-ca", "name: ca"), "keyset-name"),
    "a keyset that is gone": (away("pki/private/service-account/keyset.yaml"), "keyset-missing"),
    "a keyset that is no YAML": (put(CA, "a: ["), "syntax"),
    "a secret that is not its JSON": (put("secrets/admin", "hunter2"), "json-secret"),
    "a secret that is not base64": (put("secrets/admin", '{"Data":"?"}'), "json-secret"),
    "a node configuration that was edited": (put("igconfig/node/nodes/nodeupconfig.yaml", "c: d"), "node-config-hash"),
    "a node configuration of no group": (put("igconfig/node/old/nodeupconfig.yaml", "x"), "node-config-orphan"),
    "a group without node configuration": (away("igconfig/control-plane/cp/nodeupconfig.yaml"), "node-config-missing"),
    "a file kops does not know": (put("notes.txt", "x"), "stray-file"),
    "a directory kops does not know": (put("charts/x/values.yaml", "x"), "stray-file"),
    "a repository of git": (put(".git/objects/ab/cd", "x"), "stray-file"),
    "vim's swap file": (put("instancegroup/.nodes.swp", "x"), "leftover"),
    "an editor's backup": (put("config~", "x"), "leftover"),
    "a file nothing reads": (put("pki/private/kubernetes-ca/notes", "x"), "out-of-place"),
    "a completed spec older than the configuration": (touch_config, "completed-old"),
    "a completed spec that is gone": (away("cluster-completed.spec"), "completed-missing"),
    "a version that is none": (put("kops-version.txt", "latest"), "kops-version"),
    "an addon's manifest that is gone": (away("addons/dns/k8s-1.12.yaml"), "addon-missing"),
    "an addon's manifest that was edited": (put("addons/dns/k8s-1.12.yaml", f"{MANIFEST}\ndata: {{}}"), "addon-hash"),
    "an SSH key that is none": (put(f"pki/ssh/public/admin/{ssh_key()[0]}", "x"), "ssh-key"),
    "an SSH key under another's name": (put(f"pki/ssh/public/admin/{'0' * 32}", ssh_key()[1]), "ssh-key-name"),
    "a network of another cluster": (edit("config", "172.20.0.0/16", "172.16.0.0/12"), "network-overlap"),
    "a group in the place of the cluster's configuration": (instead_of_config(NODES), "kind-of-place"),
    "two objects in one file": (put("instancegroup/nodes", f"{NODES}---\n{NODES}"), "one-object"),
    "an empty group": (put("instancegroup/nodes", ""), "one-object"),
    "a field kops drops": (edit("instancegroup/nodes", "  image:", "  imagee:"), "unknown-field"),
}  # fmt: skip

BESIDES = {
    # what a file says is gone with it, and that is seen elsewhere
    "a group in the place of the cluster's configuration": set(),
    "two objects in one file": {"node-config-orphan"},
    "an empty group": {"node-config-orphan"},
}
"""Consequences of a fault that are findings of their own."""


def run(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[int, list[str]]:
    status = main(["check", "--state", str(root), "--url", URL, "-o", "json", *arguments])
    data = json.loads(capsys.readouterr().out)
    return status, [entry["rule"] for entry in (*data["errors"], *data["warnings"])]


def test_a_healthy_tree_has_no_findings(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, healthy, "--all") == (0, [])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_once(
    fault: str, healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "tree"
    shutil.copytree(healthy, root)
    plant, rule = FAULTS[fault]
    plant(root / NAME)
    status, found = run(capsys, root, NAME, "--warnings-as-errors")
    assert status == 1
    assert set(found) - {rule} == BESIDES.get(fault, set())
    assert found.count(rule) == 1


def test_at_least_thirty_faults_are_planted() -> None:
    assert len(FAULTS) >= 30


def test_a_hash_that_was_told_to_nodes_is_compared(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = node_config_hash(b"a: b\n")
    assert run(capsys, healthy, NAME, "--hash", f"cp={good}") == (0, [])
    assert run(capsys, healthy, NAME, "--hash", "cp=eA==") == (1, ["node-config-hash"])
    assert main(["check", "--state", str(healthy), NAME, "--hash"]) == 0
    assert f"{good}  {NAME} cp\n" in capsys.readouterr().out


def test_a_rule_can_be_left_out(healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(healthy, tmp_path / "tree")
    put("notes.txt", "x")(tmp_path / "tree" / NAME)
    assert run(capsys, tmp_path / "tree", NAME, "--without", "stray-file") == (0, [])
    assert main(["check", "--state", str(tmp_path / "tree"), NAME, "--without", "no-such-rule"]) == 2


def test_a_cluster_that_is_not_there_is_no_input(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--state", str(healthy), "c9.example.com"]) == 66
    assert main(["check", "--state", str(healthy)]) == 2
    assert "no cluster c9.example.com" in capsys.readouterr().err


def test_private_keys_are_never_quoted(healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(healthy, tmp_path / "tree")
    secret = key(10)[1]
    put(CA, keyset("kubernetes-ca", pair(11) | {"privateMaterial": secret}))(tmp_path / "tree" / NAME)
    broken = f"a:\n\tprivateMaterial: {secret}"
    put("pki/private/service-account/keyset.yaml", broken)(tmp_path / "tree" / NAME)
    put("secrets/admin", "hunter2")(tmp_path / "tree" / NAME)
    for output in ("text", "json", "github", "junit"):
        main(["check", "--state", str(tmp_path / "tree"), NAME, "-o", output])
        shown = capsys.readouterr().out
        assert "key-pair" in shown or "privateMaterial" in shown
        assert secret[:40] not in shown
        assert "hunter2" not in shown
