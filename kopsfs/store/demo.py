"""What does `memfs://demo` hold?

One small cluster as kops lays it out: what people edit, what nodes read, a keyset and a secret. Written
for this purpose; key and certificate were made for it and belong to nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Final

from kopsfs.store.driver import Key

CLUSTER: Final = "demo.example.com"

_CONFIG: Final = """\
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata:
  creationTimestamp: "2026-11-01T09:30:00Z"
  name: demo.example.com
spec:
  api:
    dns: {}
  authorization:
    rbac: {}
  channel: stable
  cloudProvider: aws
  configBase: s3://demo-state/demo.example.com
  dnsZone: Z0DEMO
  etcdClusters:
  - etcdMembers:
    - instanceGroup: control-plane-eu-central-1a
      name: a
    name: main
  - etcdMembers:
    - instanceGroup: control-plane-eu-central-1a
      name: a
    name: events
  iam:
    allowContainerRegistry: true
    legacy: false
  kubelet:
    anonymousAuth: false
  kubernetesApiAccess:
  - 198.51.100.0/24
  kubernetesVersion: 1.34.2
  networkCIDR: 172.20.0.0/16
  networking:
    calico: {}
  nonMasqueradeCIDR: 100.64.0.0/10
  sshAccess:
  - 198.51.100.0/24
  subnets:
  - cidr: 172.20.32.0/19
    name: eu-central-1a
    type: Public
    zone: eu-central-1a
  topology:
    dns:
      type: Public
"""

_COMPLETED: Final = """\
  assets: {}
  clusterDNSDomain: cluster.local
"""

_GROUP: Final = """\
apiVersion: kops.k8s.io/v1alpha2
kind: InstanceGroup
metadata:
  creationTimestamp: "2026-11-01T09:30:00Z"
  labels:
    kops.k8s.io/cluster: demo.example.com
  name: {name}
spec:
  image: ami-0123456789abcdef0
  machineType: {machine}
  maxSize: {size}
  minSize: {size}
  role: {role}
  subnets:
  - eu-central-1a
"""

_ADDONS: Final = """\
kind: Addons
metadata:
  name: bootstrap
spec:
  addons:
  - id: k8s-1.16
    manifest: kops-controller.addons.k8s.io/k8s-1.16.yaml
    name: kops-controller.addons.k8s.io
    selector:
      k8s-addon: kops-controller.addons.k8s.io
    version: 9.99.0
"""

_CONTROLLER: Final = """\
apiVersion: v1
kind: ConfigMap
metadata:
  labels:
    k8s-addon: kops-controller.addons.k8s.io
  name: kops-controller
  namespace: kube-system
data:
  config.yaml: |
    cloud: aws
    configBase: s3://demo-state/demo.example.com
"""

_POD: Final = """\
apiVersion: v1
kind: Pod
metadata:
  labels:
    k8s-app: etcd-manager-{name}
  name: etcd-manager-{name}
  namespace: kube-system
spec:
  containers:
  - image: registry.example.com/etcd-manager:1
    name: etcd-manager
  hostNetwork: true
"""

_KEYSET: Final = """\
apiVersion: kops.k8s.io/v1alpha2
kind: Keyset
metadata:
  name: {name}
spec:
  keys:
  - id: "7510384127946102834"
    privateMaterial: {private}
    publicMaterial: {public}
  primaryId: "7510384127946102834"
  type: Keypair
"""

_CERTIFICATE = (
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJTRENCNzZBREFnRUNBZ2hvT2o2U21QV1lNakFLQmdncWhrak9QUVFEQWpB"
    "WU1SWXdGQVlEVlFRRERBMXIKZFdKbGNtNWxkR1Z6TFdOaE1CNFhEVEkyTVRFd01UQXdNREF3TUZvWERUTTJNVEV3TVRBd01EQXdN"
    "Rm93R0RFVwpNQlFHQTFVRUF3d05hM1ZpWlhKdVpYUmxjeTFqWVRCWk1CTUdCeXFHU000OUFnRUdDQ3FHU000OUF3RUhBMElBCkJF"
    "QWpCZkMwZzNld3BNdE9ZVEJrUnk0T1BmbFZRUmRRRFRnZGpkZVZSYmhvZ0FmTk5Ta3oyMmZnNFI2cWs1akIKL0ZTc1Nta2FpQzU5"
    "K0NSbkxBS0Mzb3lqSXpBaE1BOEdBMVVkRXdFQi93UUZNQU1CQWY4d0RnWURWUjBQQVFILwpCQVFEQWdFR01Bb0dDQ3FHU000OUJB"
    "TUNBMGdBTUVVQ0lRRHAyZ2ZHZzlYR2ppRW1RRi9FR1dZUmlqZXo4b0Z6CnA3SDZTd0xkcFBtaWJnSWdBajdFSmZGUzJ4Z0JzVVhD"
    "ZzZuQitZU20zMGJlMHZZYUVneDRwZ2hHMFlnPQotLS0tLUVORCBDRVJUSUZJQ0FURS0tLS0tCg=="
)

_KEY = (
    "LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0tCk1IY0NBUUVFSUdtYWNMbWNla3BRZUhycmcybXlBd3hVcjVud0hReHNwZUZ3"
    "MGwzR0JDY2xvQW9HQ0NxR1NNNDkKQXdFSG9VUURRZ0FFUUNNRjhMU0RkN0NreTA1aE1HUkhMZzQ5K1ZWQkYxQU5PQjJOMTVWRnVH"
    "aUFCODAxS1RQYgpaK0RoSHFxVG1NSDhWS3hLYVJxSUxuMzRKR2NzQW9MZWpBPT0KLS0tLS1FTkQgRUMgUFJJVkFURSBLRVktLS0t"
    "LQo="
)


def objects() -> Iterator[tuple[Key, bytes]]:
    """Give every key with its bytes."""
    for name, text in _texts().items():
        yield Key(f"{CLUSTER}/{name}"), text.encode()


def _texts() -> dict[str, str]:
    control_plane, nodes = "control-plane-eu-central-1a", "nodes-eu-central-1a"
    token = base64.b64encode(b"0123456789abcdefghijklmnopqrstuv").decode()
    texts = {
        "config": _CONFIG,
        "cluster-completed.spec": _CONFIG.replace("  authorization:\n", _COMPLETED + "  authorization:\n"),
        "kops-version.txt": "1.34.0",
        f"instancegroup/{control_plane}": _GROUP.format(name=control_plane, machine="t3.medium", size=1, role="Master"),
        f"instancegroup/{nodes}": _GROUP.format(name=nodes, machine="t3.medium", size=2, role="Node"),
        f"igconfig/control-plane/{control_plane}/nodeupconfig.yaml": "InstanceGroupRole: ControlPlane\n",
        f"igconfig/node/{nodes}/nodeupconfig.yaml": "InstanceGroupRole: Node\n",
        "addons/bootstrap-channel.yaml": _ADDONS,
        "addons/kops-controller.addons.k8s.io/k8s-1.16.yaml": _CONTROLLER,
        "clusteraddons/default": "",
    }
    for name in ("kubernetes-ca", "apiserver-aggregator-ca", "service-account"):
        texts[f"pki/private/{name}/keyset.yaml"] = _KEYSET.format(name=name, private=_KEY, public=_CERTIFICATE)
    for name in ("main", "events"):
        texts[f"manifests/etcd/{name}-{control_plane}.yaml"] = _POD.format(name=name)
        texts[f"backups/etcd/{name}/control/etcd-cluster-spec"] = '{"memberCount":1,"etcdVersion":"3.5.21"}'
        texts[f"backups/etcd/{name}/control/etcd-cluster-created"] = "1762000000000000000\n"
    for name in ("admin", "kube", "system:dns"):
        texts[f"secrets/{name}"] = json.dumps({"Data": token}) + "\n"
    return texts
