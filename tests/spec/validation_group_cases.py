"""One case for every rule about instance groups, clouds' answers and updates; see `validation_cases.py`."""

from __future__ import annotations

from typing import Any

from tests.spec.validation_cases import AWS, CLUSTER, GONE, NET, SUBNET, Cases, cloud

# (changes of the group, rules, changes of the cluster)
GROUPS: list[tuple[dict[str, Any], set[str], dict[str, Any]]] = [
    ({"spec.cloudLabels": {"Name": "x"}}, {"cloud-label-reserved"}, {}),
    ({"spec.cloudLabels": {"k8s.io/role/x": "x"}}, {"cloud-label-prefix"}, {}),
    ({"spec.cloudLabels": {"kops.k8s.io/instancegroup": "x"}}, {"cloud-label-group"}, {}),
    ({"spec.cloudLabels": {"kops.k8s.io/instancegroup": "nodes"}}, set(), {}),
    ({"spec.iam.profile": "x"}, {"instance-profile"}, {}),
    ({"spec.externalLoadBalancers": [{"loadBalancerName": "x", "targetGroupARN": "arn:a:b:c:d:targetgroup/x/y"}]}, {"external-lb-both"}, {}),
    ({"spec.externalLoadBalancers": [{"loadBalancerName": "x" * 33}]}, {"external-lb-name"}, {}),
    ({"spec.externalLoadBalancers": [{"targetGroupARN": "x"}]}, {"target-group-arn"}, {}),
    ({"spec.externalLoadBalancers": [{"targetGroupARN": "arn:a:b:c:d:x/y/z"}]}, {"target-group-kind"}, {}),
    ({"spec.externalLoadBalancers": [{"targetGroupARN": f"arn:a:b:c:d:targetgroup/{'y' * 33}/z"}]}, {"target-group-name"}, {}),
    ({"spec.role": "Bastion", "spec.warmPool": {}}, {"group-warm-pool-role"}, {}),
    ({"spec.maxPrice": "1"}, {"group-warm-pool-spot"}, {f"{AWS}.warmPool": {}}),
    ({"spec.warmPool.maxSize": -1}, {"group-warm-pool-max-negative"}, {}),
    ({"spec.warmPool": {"maxSize": 1, "minSize": 2}}, {"group-warm-pool-max-less"}, {}),
    ({"spec.warmPool.minSize": 2}, {"group-warm-pool-max-less"}, {f"{AWS}.warmPool.maxSize": 1}),
    ({"spec.warmPool.minSize": -1}, {"group-warm-pool-min-negative"}, {}),
    ({"spec.manager": "Karpenter"}, {"karpenter-cloud"}, cloud("gce")),
    ({"spec.manager": "Karpenter", "spec.role": "Bastion"}, {"karpenter-role"}, {}),
    ({"spec.manager": "Karpenter", "spec.maxSize": 0}, {"karpenter-max"}, {}),
    ({"spec.manager": "Karpenter", "spec.image": "https://x"}, {"karpenter-image"}, {}),
    ({"spec.manager": "Karpenter", "spec.image": "x/"}, {"karpenter-image"}, {}),
    ({"spec.manager": "Karpenter", "spec.image": "ssm:/x/y"}, set(), {}),
    ({"spec.manager": "Karpenter", "spec.image": "ssm:"}, {"karpenter-image-parameter"}, {}),
    ({"spec.manager": "Karpenter", "spec.minSize": 0}, {"karpenter-min"}, {}),
    ({"spec.manager": "Karpenter", "spec.minSize": 1}, {"karpenter-static-capacity"}, {"spec.karpenter.featureGates": "StaticCapacity=true,StaticCapacity=x"}),
    ({"spec.manager": "Karpenter", "spec.minSize": 1}, set(), {"spec.karpenter.featureGates": " StaticCapacity = TRUE"}),
    ({"metadata.name": ""}, {"group-name"}, {}),
    ({"spec.role": ""}, {"group-role-required"}, {}),
    ({"spec.role": "Etcd"}, {"group-role"}, {}),
    ({"spec.minSize": 2, "spec.maxSize": 1}, {"group-sizes-order"}, {}),
    ({"spec.tenancy": "x"}, {"group-tenancy"}, {}),
    ({"spec.role": "Bastion", "spec.containerd.gvisor.enabled": True}, {"group-gvisor"}, {}),
    ({"spec.rootVolume.iops": -1}, {"root-volume-iops"}, {}),
    ({"spec.rootVolume.throughput": -1}, {"root-volume-throughput"}, {}),
    ({"spec.additionalUserData": [{"content": "x", "type": "text/cloud-config"}]}, {"user-data-name"}, {}),
    ({"spec.additionalUserData": [{"name": "x", "type": "text/cloud-config"}]}, {"user-data-content"}, {}),
    ({"spec.additionalUserData": [{"name": "x", "content": "x"}]}, {"user-data-type"}, {}),
    ({"spec.volumes": [{"size": 1}]}, {"volume-device"}, {}),
    ({"spec.volumes": [{"device": "x"}]}, {"volume-size"}, {}),
    ({"spec.volumeMounts": [{"device": "x", "filesystem": "ext4"}]}, {"volume-mount-field"}, {}),
    ({"spec.volumeMounts": [{"device": "x", "filesystem": "x", "path": "/x"}]}, {"volume-mount-filesystem"}, {}),
    ({"spec.nodeLabels": {"a/b/c": "x"}}, {"node-label"}, {}),
    ({"spec.taints": ["a=b=c:d"]}, {"taint"}, {}),
    ({"spec.taints": ["a:b:c"]}, {"taint"}, {}),
    ({"spec.taints": ["a=b=c"]}, set(), {}),
    ({"spec.taints": ["a:b", "a:b"]}, {"taint-twice"}, {}),
    ({"spec.role": "APIServer"}, {"api-server-dns"}, {f"{NET}.topology.dns": "None"}),
    ({"spec.role": "APIServer"}, {"api-server-cloud"}, cloud("do")),
    ({"spec.role": "APIServer"}, set(), cloud("gce")),
    ({"spec.subnets": ["x"]}, {"group-subnet"}, {}),
    ({"spec.rootVolume.type": "x"}, {"root-volume-type"}, {}),
    ({"spec.rootVolume.type": "x"}, set(), cloud("gce")),
    ({"spec.rollingUpdate": {"maxSurge": 1}}, set(), {}),
    ({"spec.hooks": [{}]}, {"hook-content"}, {}),
    ({"spec.fileAssets": [{"content": "x"}]}, {"file-asset-name"}, {}),
    ({"spec.updatePolicy": "x"}, {"update-policy"}, {}),
    ({"spec.sysctlParameters": ["x"]}, {"sysctl-parameter"}, {}),
    ({"spec.containerd.version": "1.7.0"}, {"containerd-version-old"}, {}),
    ({"spec.containerd.nvidiaGPU.enabled": True}, set(), cloud("openstack")),
]  # fmt: skip

CONTROL_PLANES: Cases = [
    ({"spec.subnets": []}, {"control-plane-subnets"}),
    ({"spec.maxSize": 2}, {"control-plane-size"}),
    ({"spec.minSize": 2}, {"control-plane-size"}),
    ({"spec.rollingUpdate": {"maxSurge": 1}}, {"rolling-surge-control-plane"}),
    ({"metadata.name": "other"}, {"control-plane-in-etcd"}),
]

SETTINGS: Cases = [
    ({"spec.additionalSecurityGroups": ["x"]}, {"security-group"}),
    ({"spec.spotDurationInMinutes": 55}, {"spot-duration"}),
    ({"spec.instanceInterruptionBehavior": "x"}, {"spot-interruption"}),
    ({"spec.maxInstanceLifetime": "1h0m0s"}, {"instance-lifetime"}),
    ({"spec.maxInstanceLifetime": "0s"}, set()),
    ({"spec.cpuCredits": "x"}, {"cpu-credits"}),
    ({"spec.instanceMetadata.httpTokens": "x"}, {"metadata-tokens"}),
    ({"spec.instanceMetadata.httpPutResponseHopLimit": 65}, {"metadata-hops"}),
    ({"spec.mixedInstancesPolicy.onDemandBase": -1}, {"on-demand-base-negative"}),
    ({"spec.mixedInstancesPolicy.onDemandBase": 2, "spec.maxSize": 1}, {"on-demand-base-max"}),
    ({"spec.mixedInstancesPolicy.onDemandAboveBase": -1}, {"on-demand-above-negative"}),
    ({"spec.mixedInstancesPolicy.onDemandAboveBase": 101}, {"on-demand-above-percent"}),
    ({"spec.mixedInstancesPolicy.spotAllocationStrategy": "x"}, {"spot-strategy"}),
]

FACTS = {
    "aws": {
        "images": [{"id": "ami-1", "name": "images/x", "architecture": "x86_64"}, {"id": "ami-2", "name": "images/y", "architecture": "arm64"}],
        "instance_type_architectures": {"m5.large": ["amd64"], "m6g.large": ["arm64"], "g4.large": ["amd64"]},
        "instance_types_with_gpu": ["g4.large"],
        "invalid_instance_types": ["no.such"],
        "zones": ["us-east-1a"],
    }
}  # fmt: skip
RESOURCES: Cases = [
    ({"spec.machineType": "m5.large", "spec.image": "ubuntu/images/x"}, set()),
    ({"spec.machineType": "m5.large", "spec.image": "ami-unlisted"}, set()),
    ({"spec.machineType": "m5.large", "spec.image": "ubuntu/images/z"}, {"image"}),
    ({"spec.machineType": "no.such", "spec.image": "ami-1"}, {"machine-type"}),
    ({"spec.machineType": "m6g.large", "spec.image": "ami-1"}, {"machine-type-architecture"}),
    ({"spec.machineType": "m6g.large", "spec.image": "ami-2"}, set()),
    ({"spec.machineType": "m5.large", "spec.image": "ami-1", "spec.mixedInstancesPolicy.instances": ["no.such"]}, {"machine-type", "mixed-machine-type"}),
    ({"spec.machineType": "m5.large", "spec.image": "ami-1", "spec.mixedInstancesPolicy.instances": ["g4.large"]}, {"mixed-gpu"}),
]  # fmt: skip

BUILDS: Cases = [
    (cloud("gce"), {"build-project"}),
    (cloud("gce", project="p"), set()),
    (cloud("linode") | {f"{SUBNET}.region": GONE}, {"build-region"}),
    ({f"{SUBNET}.zone": GONE}, {"build-zone"}),
    ({f"{SUBNET}.zone": "us-west-1a"}, {"build-zones"}),
    ({f"{SUBNET}.zone": "us-east-1x"}, {"build-zone-unknown"}),
    ({f"{NET}.subnets": [{"name": "a", "id": "subnet-1"}]}, {"build-region"}),
    (cloud("do") | {f"{NET}.subnets": []}, {"build-subnet"}),
    (cloud("hetzner") | {f"{SUBNET}.zone": "x"}, {"build-zone"}),
    (cloud("hetzner") | {f"{NET}.subnets": [{"zone": "fsn1"}, {"zone": "ash"}]}, {"build-zones"}),
    (cloud("scaleway") | {f"{SUBNET}.zone": "fr-par-1"}, set()),
    (cloud("scaleway") | {f"{SUBNET}.zone": "nowhere"}, {"build-zone"}),
    (cloud("scaleway") | {f"{NET}.subnets": [{"zone": "fr-par-1"}, {"zone": "fr-par-2"}]}, {"build-zones"}),
]

UPDATES: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    ({}, {"spec.etcdClusters": [CLUSTER["spec"]["etcdClusters"][0]]}, {"etcd-removed"}),
    ({}, {"spec.etcdClusters[0].image": "x", "spec.etcdClusters[0].version": "3.5.1"}, {"etcd-image-changed", "etcd-version-of-image"}),
    ({"spec.etcdClusters[0].image": "x"}, {}, {"etcd-image-changed"}),
    ({"spec.etcdClusters[0].image": "x"}, {"spec.etcdClusters[0].image": "x", "spec.etcdClusters[0].version": "3.5.1"}, {"etcd-version-of-image"}),
    ({}, {"spec.etcdClusters[1].etcdMembers[0].instanceGroup": "x"}, {"etcd-member-moved"}),
    ({}, {"spec.cloudLabels": {"Name": "x"}}, {"cloud-label-reserved"}),
]  # fmt: skip
