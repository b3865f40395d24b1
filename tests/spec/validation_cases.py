"""One case for every rule of kops's: what to change in a healthy cluster or group, and which rules then speak.

A case is (changes, rules): changes map a path of the internal form to a value, `GONE` takes it away; the rules named are all
that speak, no more. The healthy objects make none speak, which a test checks first.
"""

from __future__ import annotations

import copy
import re
from typing import Any

GONE: Any = object()

CLUSTER: dict[str, Any] = {
    "metadata": {"name": "c1.example.com"},
    "spec": {
        "kubernetesVersion": "1.36.3",
        "configStore": {"base": "s3://state/c1.example.com"},
        "cloudProvider": {"aws": {}},
        "iam": {"useServiceAccountExternalPermissions": True},
        "api": {},
        "networking": {
            "networkCIDR": "172.20.0.0/16",
            "nonMasqueradeCIDR": "100.64.0.0/10",
            "podCIDR": "100.96.0.0/11",
            "serviceClusterIPRange": "100.64.0.0/13",
            "topology": {"dns": "Public"},
            "cni": {},
            "subnets": [
                {"name": "a", "cidr": "172.20.32.0/19", "zone": "us-east-1a", "type": "Public"},
                {"name": "p", "cidr": "172.20.64.0/19", "zone": "us-east-1a", "type": "Private"},
            ],
        },
        "etcdClusters": [
            {"name": "main", "etcdMembers": [{"name": "a", "instanceGroup": "cp"}]},
            {"name": "events", "etcdMembers": [{"name": "a", "instanceGroup": "cp"}]},
        ],
    },
}
GROUP: dict[str, Any] = {"metadata": {"name": "nodes"}, "spec": {"role": "Node", "subnets": ["a"]}}
CONTROL_PLANE: dict[str, Any] = {"metadata": {"name": "cp"}, "spec": {"role": "ControlPlane", "subnets": ["a"]}}

NET, SUBNET = "spec.networking", "spec.networking.subnets[0]"
AWS, LB = "spec.cloudProvider.aws", "spec.api.loadBalancer"
CALICO, CILIUM = "spec.networking.calico", "spec.networking.cilium"
NETWORK_LB = {"class": "Network", "type": "Public"}
NO_CNI = {f"{NET}.cni": GONE}
IPV6 = {
    f"{NET}.nonMasqueradeCIDR": "::/0",
    f"{NET}.podCIDR": GONE,
    f"{NET}.serviceClusterIPRange": "fd00:5e4f:ce::/108",
}
OFF = {"spec.kubeProxy": {"enabled": False}}
ON = {"spec.kubeProxy": {"enabled": True}}


def cloud(name: str, **spec: Any) -> dict[str, Any]:
    """The healthy cluster on another cloud."""
    subnet: dict[str, Any] = {"name": "a", "type": "Private"}
    if name in {"azure", "do", "gce", "linode"}:
        subnet["region"] = "r1"
    if name == "azure":
        subnet["cidr"] = "172.20.32.0/19"
    changes = {"spec.cloudProvider": {name: spec}, f"{NET}.subnets": [subnet], f"{NET}.topology.dns": "None"}
    return changes if name == "azure" else changes | {f"{NET}.networkCIDR": GONE}


Cases = list[tuple[dict[str, Any], set[str]]]

API: Cases = [
    ({"spec.sshAccess": ["nonsense"]}, {"cidr"}),
    ({"spec.api.access": ["10.0.0.1/8"]}, {"cidr-host-bits"}),
    ({"spec.nodePortAccess": ["10.0.0.0/08", "pl-12"]}, set()),
    ({"spec.nodePortAccess": ["010.0.0.0/8"]}, {"cidr"}),
    (cloud("gce") | {"spec.sshAccess": ["pl-1"]}, {"prefix-list-aws"}),
    (cloud("gce") | {LB: {"class": "Network"}}, {"lb-class-aws"}),
    (cloud("gce") | {LB: {"securityGroupOverride": ""}}, {"lb-security-group-aws"}),
    (cloud("gce") | {LB: {"additionalSecurityGroups": []}}, {"lb-more-security-groups-aws"}),
    (cloud("gce") | {LB: {"sslCertificate": "x"}}, {"lb-certificate-aws"}),
    (cloud("gce") | {LB: {"sslPolicy": ""}}, {"lb-ssl-policy-aws"}),
    (cloud("gce") | {LB: {"crossZoneLoadBalancing": False}}, {"lb-cross-zone-aws"}),
    (cloud("gce") | {LB: {"accessLog": {}}}, {"lb-access-log-aws"}),
    ({LB: {"type": "Internal"}, f"{NET}.subnets[1].type": "Utility"}, {"lb-internal-private-subnet"}),
    ({LB: {"class": "Classic"}}, {"lb-classic"}),
    ({LB: {"class": "Gateway"}}, {"lb-class"}),
    ({LB: {"type": "Public"}, f"{NET}.topology.dns": "None"}, {"lb-dns-none"}),
    ({LB: {"securityGroupOverride": " "}}, {"lb-security-group"}),
    ({LB: {"additionalSecurityGroups": ["sg-1", "sg-1"]}}, {"security-group-twice"}),
    ({LB: {"additionalSecurityGroups": [" "]}}, {"security-group-empty"}),
    ({LB: {"additionalSecurityGroups": ["x"]}}, {"security-group"}),
    ({LB: {"class": "Network", "type": "Internal", "useForInternalAPI": True}}, {"lb-internal-api"}),
    ({LB: {"sslCertificate": "x"}}, {"lb-certificate-class"}),
    ({LB: {"sslCertificate": "x", "sslPolicy": "p"}}, {"lb-certificate-class", "lb-ssl-policy-class"}),
    ({LB: NETWORK_LB | {"sslPolicy": "p"}}, {"lb-ssl-policy-certificate"}),
    ({LB: NETWORK_LB | {"subnets": [{}]}}, {"lb-subnet-name"}),
    ({LB: NETWORK_LB | {"subnets": [{"name": "x"}]}}, {"lb-subnet-unknown"}),
    ({LB: NETWORK_LB | {"subnets": [{"name": "a", "allocationID": ""}]}}, {"lb-allocation-empty"}),
    (
        {LB: {"class": "Network", "type": "Internal", "subnets": [{"name": "a", "allocationID": "e"}]}},
        {"lb-allocation-public"},
    ),
    (
        {LB: {"class": "Network", "type": "Internal", "subnets": [{"name": "a", "privateIPv4Address": ""}]}},
        {"lb-address-empty", "lb-address"},
    ),
    (
        {LB: {"class": "Network", "type": "Internal", "subnets": [{"name": "a", "privateIPv4Address": "::1"}]}},
        {"lb-address"},
    ),
    (
        {LB: {"class": "Network", "type": "Internal", "subnets": [{"name": "a", "privateIPv4Address": "10.0.0.1"}]}},
        {"lb-address-outside"},
    ),
    ({LB: NETWORK_LB | {"subnets": [{"name": "a", "privateIPv4Address": "172.20.33.1"}]}}, {"lb-address-internal"}),
]

CLOUDS: Cases = [
    ({f"{AWS}.nodeTerminationHandler": {}, "spec.karpenter": {"enabled": True}}, {"termination-karpenter"}),
    ({f"{AWS}.nodeTerminationHandler": {"enabled": True, "enableSpotInterruptionDraining": False}}, {"termination-spot"}),
    ({f"{AWS}.nodeTerminationHandler": {"enabled": True, "enableRebalanceMonitoring": True}}, {"termination-rebalance"}),
    (
        {
            f"{AWS}.nodeTerminationHandler": {
                "enabled": True, "enableSQSTerminationDraining": False, "enableRebalanceMonitoring": True,
            }
        },
        set(),
    ),
    ({f"{AWS}.loadBalancerController": {"enabled": True}}, {"lb-controller-cert-manager"}),
    ({f"{AWS}.podIdentityWebhook": {"enabled": True}}, {"pod-identity-cert-manager"}),
    ({f"{AWS}.podIdentityWebhook": {"enabled": True}, "spec.certManager": {"enabled": True}}, set()),
    ({f"{AWS}.warmPool": {"maxSize": -1}}, {"warm-pool-max-negative"}),
    ({f"{AWS}.warmPool": {"maxSize": 1, "minSize": 2}}, {"warm-pool-max-less"}),
    ({f"{AWS}.warmPool": {"maxSize": 1, "additionalImages": ["x"]}}, {"warm-pool-images"}),
    ({f"{AWS}.warmPool": {"minSize": -1}}, {"warm-pool-min-negative"}),
    ({f"{AWS}.ebsCSIDriver": {"Enabled": False}}, {"ebs-csi-driver"}),
    ({f"{AWS}.nlbSecurityGroupMode": "x"}, {"nlb-security-group-mode"}),
    (IPV6 | {f"{AWS}.useIPBasedNodeNames": True}, {"ip-node-names-ipv6"}),
    ({"spec.assets.fileRepository": "s3://b", f"{NET}.subnets": [{"name": "a", "cidr": "172.20.0.0/19", "type": "Private", "zone": "cn-north-1a"}]}, {"file-repository-partition"}),
    ({"spec.assets.fileRepository": "s3://b", f"{NET}.subnets": [{"name": "a", "cidr": "172.20.0.0/19", "type": "Private", "zone": "a_b-1a"}]}, {"file-repository-region"}),
    ({"spec.authentication.aws": {"identityMappings": [{"arn": "arn:aws:iam::1:role/x"}]}}, {"iam-authenticator-backend"}),
    ({"spec.authentication.aws": {"backendMode": "CRD", "identityMappings": [{"arn": "arn:aws:iam::1:group/x"}]}}, {"iam-authenticator-arn"}),
    ({"spec.cloudProvider": {}}, {"cloud-required", "topology-cloud"}),
    ({"spec.cloudProvider.openstack": {}, f"{SUBNET}.type": "Private"}, {"one-cloud"}),
    (cloud("gce") | {f"{SUBNET}.zone": "z"}, {"gce-subnet-zone"}),
    (cloud("linode") | {"metadata.name": "c" * 29 + ".com"}, {"linode-name-length"}),
    (cloud("azure") | {"spec.configStore.base": "azureblob://x"}, {"azure-store-url"}),
    (cloud("azure") | {"spec.configStore.secrets": "azureblob://a/b/c"}, {"azure-store-elsewhere"}),
    (
        cloud("azure") | {"spec.configStore.base": "azureblob://a/b/c", "spec.configStore.keypairs": "azureblob://x/b/c"},
        {"azure-store-account"},
    ),
    (cloud("azure") | {"spec.configStore.base": "azureblob://a/b/c", "spec.etcdClusters[0].backups.backupStore": "azureblob://x/"}, {"azure-store-url"}),
]  # fmt: skip

KUBELET = "spec.kubelet"
COMPONENTS: Cases = [
    ({f"{KUBELET}.topologyManagerPolicy": "x"}, {"kubelet-topology-manager"}),
    ({f"{KUBELET}.logFormat": "x"}, {"kubelet-log-format"}),
    ({f"{KUBELET}.memorySwapBehavior": "x"}, {"kubelet-swap"}),
    ({f"{KUBELET}.configureCbr0": False}, {"kubelet-configure-cbr0"}),
    ({f"{KUBELET}.apiServers": "x"}, {"kubelet-api-servers"}),
    ({f"{KUBELET}.podInfraContainerImage": "x"}, {"kubelet-pod-infra-image"}),
    ({f"{KUBELET}.requireKubeconfig": True}, {"kubelet-require-kubeconfig"}),
    ({f"{KUBELET}.experimentalAllowedUnsafeSysctls": []}, {"kubelet-unsafe-sysctls"}),
    ({f"{KUBELET}.bootstrapKubeconfig": "x"}, {"kubelet-bootstrap"}),
    ({f"{KUBELET}.bootstrapKubeconfig": ""}, set()),
    ({f"{KUBELET}.enableCadvisorJsonEndpoints": True}, {"kubelet-cadvisor-json"}),
    ({f"{KUBELET}.cpuCFSQuotaPeriod": "1s"}, {"kubelet-cpu-cfs-period"}),
    ({f"{KUBELET}.networkPluginName": ""}, {"kubelet-network-plugin"}),
    ({f"{KUBELET}.networkPluginMTU": 1}, {"kubelet-network-plugin-mtu"}),
    ({"spec.controlPlaneKubelet.nonMasqueradeCIDR": ""}, {"kubelet-non-masquerade"}),
    ({f"{KUBELET}.shutdownGracePeriodCriticalPods": "1s"}, {"kubelet-shutdown-alone"}),
    ({KUBELET: {"shutdownGracePeriodCriticalPods": "2m0s", "shutdownGracePeriod": "1m0s"}}, {"kubelet-shutdown-longer"}),
    ({f"{KUBELET}.crashLoopBackOffMaxContainerRestartPeriod": "5m1s"}, {"kubelet-restart-period"}),
    ({f"{KUBELET}.crashLoopBackOffMaxContainerRestartPeriod": "5m0s"}, set()),
    (
        {"spec.kubeAPIServer.authenticationConfigFile": "f", "spec.authentication.oidc": {"groupsClaims": []},
         "spec.kubeAPIServer.serviceClusterIPRange": "100.64.0.0/13"},
        {"apiserver-authentication-file"},
    ),
    ({"spec.kubeAPIServer.enableBootstrapTokenAuth": True}, {"apiserver-bootstrap-tokens"}),
    ({"spec.kubeAPIServer.admissionControl": ["x"]}, {"apiserver-admission-control"}),
    (
        {"spec.kubeAPIServer": {"admissionControl": ["x"], "disableAdmissionPlugins": ["y"]}},
        {"apiserver-admission-control", "apiserver-admission-both"},
    ),
    ({"spec.kubeAPIServer.enableAdmissionPlugins": ["PodSecurityPolicy"]}, {"apiserver-pod-security-policy"}),
    ({"spec.kubeAPIServer.proxyClientCertFile": "x"}, {"apiserver-proxy-client"}),
    ({"spec.kubeAPIServer.serviceNodePortRange": "9-1"}, {"apiserver-node-port-range"}),
    ({"spec.kubeAPIServer.serviceNodePortRange": "30000+2767"}, set()),
    ({"spec.kubeAPIServer.serviceNodePortRange": "30000-65536"}, {"apiserver-node-port-range"}),
    ({"spec.kubeAPIServer.authorizationMode": "Webhook"}, {"apiserver-webhook-config"}),
    ({"spec.authorization.rbac": {}, "spec.kubeAPIServer.authorizationMode": "Node,RBAC,X"}, {"apiserver-authorization-mode"}),
    ({"spec.authorization.rbac": {}, "spec.kubeAPIServer.authorizationMode": "RBAC"}, {"apiserver-authorization-aws"}),
    ({"spec.kubeAPIServer.logFormat": "x"}, {"apiserver-log-format"}),
    ({"spec.kubeAPIServer.auditWebhookConfigFile": "/a/b"}, {"apiserver-audit-policy"}),
    ({"spec.kubeAPIServer": {"auditWebhookConfigFile": "/a/b", "auditPolicyFile": "/c/d"}}, {"apiserver-audit-directory"}),
    ({"spec.kubeAPIServer.serviceClusterIPRange": "10.0.0.0/8"}, {"apiserver-service-range"}),
    ({"spec.kubeControllerManager.experimentalClusterSigningDuration": "1h0m0s"}, {"kcm-signing-duration"}),
    ({"spec.kubeScheduler.usePolicyConfigMap": False}, {"scheduler-policy-config-map"}),
    ({"spec.kubeProxy.ipvsExcludeCIDRs": ["10.0.0.1/8", "x"]}, {"kube-proxy-exclude-cidr"}),
    ({"spec.kubeProxy.master": "x"}, {"kube-proxy-master"}),
    ({"spec.containerd.version": "x"}, {"containerd-version"}),
    ({"spec.containerd.version": "2.0.9"}, {"containerd-version-old"}),
    ({"spec.containerd": {"version": "2.1.0", "nri": {"enabled": True, "pluginRequestTimeout": "0s"}}}, {"nri-timeout"}),
    ({"spec.containerd": {"version": "v2.1.0", "nri": {"enabled": True}}}, {"nri-version", "nri-version-old"}),
    ({"spec.containerd": {"version": "1.6.9", "nri": {"enabled": True}}}, {"containerd-version-old", "nri-version-old"}),
    ({"spec.containerd.packages": {"urlAmd64": "http://[", "hashAmd64": "x"}}, {"package-url"}),
    ({"spec.containerd.packages": {"urlArm64": "http://x", "hashArm64": "x" * 65}}, {"package-hash"}),
    ({"spec.containerd.packages": {"urlAmd64": "http://x"}}, {"package-url-alone"}),
    ({"spec.containerd.packages": {"hashArm64": "x"}}, {"package-hash-alone"}),
    (cloud("gce") | {"spec.containerd.nvidiaGPU": {"enabled": True}}, {"nvidia-cloud"}),
    (cloud("openstack") | {"spec.containerd.nvidiaGPU": {"enabled": True}}, {"nvidia-openstack"}),
    ({"spec.containerd.gvisor": {}}, {"gvisor-cluster"}),
]  # fmt: skip

SAID = "spec.serviceAccountIssuerDiscovery"
DNS: Cases = [
    ({SAID: {"discoveryStore": "s3://b", "discoveryService": {"url": "x"}}}, {"discovery-both"}),
    ({f"{SAID}.discoveryStore": "what://b"}, {"discovery-store"}),
    ({f"{SAID}.discoveryStore": "s3://a.b"}, {"discovery-store-dots"}),
    ({f"{SAID}.discoveryStore": "/a/b"}, {"discovery-store-kind"}),
    ({f"{SAID}.discoveryStore": "gs://a.b"}, set()),
    ({f"{SAID}.discoveryService": {}}, {"discovery-url"}),
    ({f"{SAID}.enableAWSOIDCProvider": True}, {"discovery-oidc-nowhere"}),
    ({"spec.kubeDNS.serverIP": "x"}, {"dns-server-ip"}),
    ({"spec.kubeDNS.serverIP": "10.0.0.10"}, {"dns-server-ip-inside"}),
    (
        {"spec.kubeDNS": {"serverIP": "100.64.0.10", "nodeLocalDNS": {"localIP": "169.254.20.10"}}, "spec.kubelet.clusterDNS": "1.1.1.1"},
        {"kubelet-cluster-dns"},
    ),
    ({"spec.kubeDNS": {"serverIP": "100.64.0.10", "provider": "KubeDNS", "nodeLocalDNS": {"enabled": True}}}, {"node-local-dns-provider"}),
    ({"spec.kubeDNS": {"serverIP": "100.64.0.10", "nodeLocalDNS": {"enabled": True, "localIP": "x"}}}, {"node-local-dns-ip"}),
    (
        {"spec.kubeDNS": {"serverIP": "100.64.0.10", "nodeLocalDNS": {"enabled": True, "localIP": "169.254.20.10"}},
         "spec.kubelet.clusterDNS": "100.64.0.10", "spec.kubeProxy.proxyMode": "ipvs"},
        {"node-local-dns-kubelet"},
    ),
    ({"spec.kubeDNS.upstreamNameservers": ["x"]}, {"dns-upstream"}),
    ({"spec.kubeDNS.stubDomains": {"d": []}}, {"dns-stub-empty"}),
    ({"spec.kubeDNS.stubDomains": {"d": ["x"]}}, {"dns-stub"}),
    ({f"{NET}.topology.dns": "Other"}, {"topology-dns", "topology-dns-of-cloud"}),
    (cloud("hetzner") | {f"{NET}.topology.dns": "Public"}, {"topology-dns-of-cloud"}),
    ({"metadata.name": "c1.k8s.local"}, {"topology-gossip"}),
    ({"spec.gossipConfig": {}}, {"gossip-config"}),
    ({"spec.dnsControllerGossipConfig": {}}, {"dns-controller-gossip-config"}),
    ({"spec.externalDNS.provider": "x"}, {"external-dns-provider"}),
    ({"spec.externalDNS.watchNamespace": "x"}, {"external-dns-namespace"}),
    ({"spec.externalDNS.provider": "external-dns", f"{NET}.topology.dns": "None"}, {"external-dns-topology"}),
]  # fmt: skip

ETCD: Cases = [
    ({"spec.etcdClusters": []}, {"etcd-required"}),
    ({"spec.etcdClusters[1].name": "x"}, {"etcd-name"}),
    ({"spec.etcdClusters[1].provider": "Legacy"}, {"etcd-provider"}),
    ({"spec.etcdClusters[1].etcdMembers": []}, {"etcd-members"}),
    ({"spec.etcdClusters[1].etcdMembers": [{"name": "a", "instanceGroup": "cp"}, {"name": "b", "instanceGroup": "cp"}]}, {"etcd-members-odd"}),
    ({"spec.etcdClusters[1].etcdMembers[0].name": GONE}, {"etcd-member-name"}),
    ({"spec.etcdClusters[1].etcdMembers[0].instanceGroup": ""}, {"etcd-member-group"}),
    ({"spec.etcdClusters[0].image": "x"}, {"etcd-image-version"}),
    ({"spec.etcdClusters[0].version": "3.5"}, {"etcd-version"}),
    ({"spec.etcdClusters[0].version": "2.2.1"}, {"etcd-version-major"}),
    ({"spec.etcdClusters[1].name": "main"}, {"etcd-twice"}),
    ({"spec.etcdClusters[1].version": "3.5.1"}, {"etcd-versions-differ"}),
]  # fmt: skip

IAM: Cases = [
    ({"spec.additionalPolicies": {"x": "[]"}}, {"policy-role"}),
    ({"spec.additionalPolicies": {"node": "x"}}, {"policy-json"}),
    ({"spec.additionalPolicies": {"node": '[{"Effect": 1}]'}}, {"policy-json"}),
    ({"spec.additionalPolicies": {"node": "[{}]"}}, {"policy-effect-required"}),
    ({"spec.additionalPolicies": {"control-plane": '[{"Effect": "x"}]'}}, {"policy-effect"}),
    ({"spec.externalPolicies": {"x": []}}, {"external-policy-role"}),
    ({"spec.externalPolicies": {"node": ["arn:aws:iam::1:role/x"]}}, {"external-policy-arn"}),
    ({"spec.iam.legacy": True}, {"iam-legacy"}),
    ({"spec.iam": {}, "spec.karpenter": {"enabled": True}}, {"karpenter-iam"}),
    ({"spec.iam.serviceAccountExternalPermissions": [{"name": "a", "aws": {"inlinePolicy": "x"}}]}, {"service-account-namespace"}),
    ({"spec.iam.serviceAccountExternalPermissions": [{"namespace": "a", "aws": {"inlinePolicy": "x"}}]}, {"service-account-name"}),
    ({"spec.iam.serviceAccountExternalPermissions": [{"namespace": "a", "name": "b", "aws": {"inlinePolicy": "x"}}] * 2}, {"service-account-twice"}),
    ({"spec.iam.serviceAccountExternalPermissions": [{"namespace": "a", "name": "b"}]}, {"service-account-aws"}),
    ({"spec.iam.serviceAccountExternalPermissions": [{"namespace": "a", "name": "b", "aws": {}}]}, {"service-account-policy"}),
    ({"spec.iam.serviceAccountExternalPermissions": [{"namespace": "a", "name": "b", "aws": {"inlinePolicy": "x", "policyARNs": ["y"]}}]}, {"service-account-policies"}),
]  # fmt: skip

METADATA: Cases = [
    ({"metadata.name": GONE}, {"metadata-name-required", "cluster-name-required"}),
    ({"metadata.name": "A.b"}, {"metadata-name", "cluster-name-dns"}),
    ({"metadata.name": "c1"}, {"cluster-name-qualified"}),
    ({"metadata.name": "c1", "metadata.annotations": {"kops.kubernetes.io/management": "imported"}}, set()),
    ({"metadata.generateName": "_"}, {"metadata-generate-name"}),
    ({"metadata.generateName": "a-"}, set()),
    ({"metadata.namespace": "x"}, {"metadata-namespace"}),
    ({"metadata.generation": -1}, {"metadata-generation"}),
    ({"metadata.labels": {"a/b/c": "x"}}, {"metadata-label-key"}),
    ({"metadata.labels": {"a": "-"}}, {"metadata-label-value"}),
    ({"metadata.annotations": {"": "x"}}, {"metadata-annotation-key"}),
    ({"metadata.annotations": {"a": "x" * (256 * 1024)}}, {"metadata-annotations-size"}),
    ({"metadata.finalizers": ["-"]}, {"metadata-finalizer"}),
    ({"metadata.finalizers": ["foregroundDeletion", "orphan"]}, {"metadata-finalizers-conflict"}),
    ({"metadata.ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "b"}]}, {"metadata-owner"}),
    ({"metadata.ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "b", "uid": "c", "controller": True}] * 2}, {"metadata-controllers"}),
]  # fmt: skip

CNI: Cases = [
    ({f"{CALICO}.{field}": "x"} | NO_CNI, {rule})
    for field, rule in {
        "bpfExternalServiceMode": "calico-bpf-service-mode",
        "bpfLogLevel": "calico-bpf-log-level",
        "chainInsertMode": "calico-chain-insert",
        "encapsulationMode": "calico-encapsulation",
        "ipipMode": "calico-ipip-mode",
        "vxlanMode": "calico-vxlan-mode",
        "iptablesBackend": "calico-iptables-backend",
        "awsSrcDstCheck": "calico-source-check",
        "ipv4AutoDetectionMethod": "calico-detection",
    }.items()
]
CNI += [
    ({f"{CILIUM}.{field}": "x"} | NO_CNI, {rule})
    for field, rule in {
        "enablePolicy": "cilium-policy",
        "tunnel": "cilium-tunnel",
        "monitorAggregation": "cilium-monitor",
        "identityAllocationMode": "cilium-identity",
        "bpfLBAlgorithm": "cilium-lb-algorithm",
        "ipam": "cilium-ipam",
        "version": "cilium-version-v",
    }.items()
]
CNI += [
    (NO_CNI | {f"{CILIUM}": {"encryptionType": "x", "enableEncryption": True}}, {"cilium-encryption"}),
    (NO_CNI | {f"{NET}.weave": {}}, {"plugin-gone"}),
    (NO_CNI | {f"{NET}.canal": {}}, {"plugin-gone"}),
    (NO_CNI | {f"{NET}.classic": {}}, {"plugin-classic"}),
    (IPV6 | NO_CNI | {f"{NET}.kubenet": {}}, {"plugin-ipv6"}),
    (cloud("gce") | NO_CNI | {f"{NET}.amazonVPC": {}}, {"plugin-amazon-vpc"}),
    (NO_CNI | {f"{NET}.gcp": {}}, {"plugin-gce"}),
    (NO_CNI | ON | {f"{NET}.kubeRouter": {}}, {"kube-router-kube-proxy"}),
    (NO_CNI | OFF | {f"{NET}.kubeRouter": {}}, set()),
    ({f"{NET}.kubenet": {}}, {"one-plugin"}),
    (NO_CNI | {f"{NET}.flannel": {}}, {"flannel-backend-required"}),
    (NO_CNI | {f"{NET}.flannel": {"backend": "x"}}, {"flannel-backend"}),
    (NO_CNI | {f"{NET}.kindnet.masquerade": {"enabled": True, "nonMasqueradeCIDRs": ["", "x"]}}, {"kindnet-cidr"}),
    (IPV6 | NO_CNI | {f"{CALICO}.awsSrcDstCheck": "Enable"}, {"calico-source-check-ipv6"}),
    (IPV6 | NO_CNI | {f"{CALICO}.encapsulationMode": "vxlan"}, {"calico-encapsulation-ipv6"}),
    (NO_CNI | {f"{CALICO}.encapsulationMode": "none"}, {"calico-encapsulation-ipv4"}),
    (cloud("azure") | NO_CNI | {f"{CALICO}.encapsulationMode": "ipip"}, {"calico-encapsulation-azure"}),
    (NO_CNI | {CALICO: {"encapsulationMode": "vxlan", "ipipMode": "Always"}}, {"calico-mode-of-encapsulation"}),
    (NO_CNI | ON | {f"{CALICO}.bpfEnabled": True}, {"calico-bpf-kube-proxy"}),
    (NO_CNI | {f"{CALICO}.typhaReplicas": -1}, {"calico-typha"}),
    (IPV6 | NO_CNI | {f"{CALICO}.wireguardEnabled": True}, {"calico-wireguard-ipv6"}),
    (NO_CNI | {f"{CALICO}.ipv4AutoDetectionMethod": "can-reach=::1"}, {"calico-detection-address"}),
    (NO_CNI | {f"{CALICO}.ipv4AutoDetectionMethod": "can-reach=010.0.0.1"}, set()),
    (NO_CNI | {f"{CALICO}.ipv6AutoDetectionMethod": "can-reach=1.1.1.1"}, {"calico-detection-address"}),
    (NO_CNI | {f"{CALICO}.ipv4AutoDetectionMethod": "interface="}, {"calico-detection-interface"}),
    (NO_CNI | {f"{CALICO}.ipv4AutoDetectionMethod": "skip-interface=eth0, ("}, {"calico-detection-regexp"}),
    (NO_CNI | {CILIUM: {"ingress": {"enabled": True, "defaultLoadBalancerMode": "x"}}}, {"cilium-ingress-mode"}),
    (NO_CNI | {f"{CILIUM}.version": "vx"}, {"cilium-version", "cilium-version-known"}),
    (NO_CNI | {f"{CILIUM}.version": "v1.17.0"}, {"cilium-version-known"}),
    (NO_CNI | {CILIUM: {"version": "v1.18.0", "hubble": {"enabled": True}}}, {"cilium-hubble"}),
    (NO_CNI | ON | {f"{CILIUM}.enableNodePort": True}, {"cilium-node-port-kube-proxy"}),
    (NO_CNI | {f"{CILIUM}.bpfLBSockHostNSOnly": True}, {"cilium-host-ns-only"}),
    (IPV6 | NO_CNI | {f"{CILIUM}.enableEncryption": True}, {"cilium-encryption-ipv6"}),
    (NO_CNI | {f"{CILIUM}.encryptionType": "ipsec"}, {"cilium-encryption-off"}),
    (NO_CNI | {CILIUM: {"enableL7Proxy": True, "installIptablesRules": False}}, {"cilium-l7-proxy"}),
    (NO_CNI | {f"{CILIUM}.identityAllocationMode": "kvstore"}, {"cilium-kvstore-etcd"}),
    (NO_CNI | {f"{CILIUM}.etcdManaged": True}, {"cilium-etcd-cluster"}),
    (cloud("gce") | NO_CNI | {f"{CILIUM}.ipam": "eni"}, {"cilium-eni-aws"}),
    (IPV6 | NO_CNI | {f"{CILIUM}.ipam": "eni"}, {"cilium-eni-ipv6"}),
]

NETWORK: Cases = [
    ({f"{NET}.subnets": []}, {"subnets-required"}),
    ({f"{SUBNET}.name": ""}, {"subnet-name"}),
    ({f"{SUBNET}.cidr": "10.0.0.0/19"}, {"subnet-in-network"}),
    ({f"{NET}.networkCIDR": "0.0.0.0/0", f"{NET}.amazonVPC": {}, f"{SUBNET}.cidr": "100.96.0.0/19"} | NO_CNI, set()),
    ({f"{NET}.networkCIDR": "0.0.0.0/0", f"{SUBNET}.cidr": "100.96.0.0/19"}, {"subnet-pods-overlap", "non-masquerade-overlap"}),
    ({f"{NET}.networkCIDR": "0.0.0.0/0", f"{SUBNET}.cidr": "100.64.0.0/19"}, {"subnet-services-overlap", "non-masquerade-overlap"}),
    ({f"{SUBNET}.ipv6CIDR": "/64"}, {"subnet-ipv6-notation"}),
    ({f"{SUBNET}.ipv6CIDR": "/129#1"}, {"subnet-ipv6-size"}),
    ({f"{SUBNET}.ipv6CIDR": "10.0.0.0/8"}, {"subnet-ipv6"}),
    (IPV6 | {f"{SUBNET}.ipv6CIDR": "fd00:5e4f:ce::/64"}, {"subnet-ipv6-services-overlap"}),
    ({f"{NET}.subnets[1].egress": "x"}, {"subnet-egress"}),
    ({f"{SUBNET}.egress": "nat-1"}, {"subnet-egress-public"}),
    ({f"{SUBNET}.egress": "nat-1", f"{SUBNET}.ipv6CIDR": "/64#1"}, set()),
    ({f"{SUBNET}.type": ""}, {"subnet-type"}),
    ({f"{SUBNET}.type": "DualStack"}, {"subnet-dual-stack"}),
    (cloud("openstack") | {f"{SUBNET}.type": "Public"}, {"subnet-openstack-public"}),
    ({f"{NET}.subnets[1].name": "a"}, {"subnet-name-twice"}),
    ({f"{NET}.subnets[1].id": "subnet-1"}, {"subnet-ids-mixed"}),
    (cloud("gce") | {f"{SUBNET}.region": ""}, {"subnet-region"}),
    (cloud("gce") | {f"{NET}.subnets": [{"name": n, "region": n, "type": "Private"} for n in "ab"]}, {"subnet-regions"}),
    (cloud("gce") | {f"{SUBNET}.ipv6CIDR": "/64#0"}, {"subnet-ipv6-aws"}),
    ({f"{NET}.subnets[1]": {"name": "p", "cidr": "172.20.64.0/19", "id": "s", "type": "Private", "additionalRoutes": []}, f"{SUBNET}.id": "t"}, {"routes-shared-subnet"}),
    ({f"{SUBNET}.additionalRoutes": []}, {"routes-private-subnet"}),
    ({f"{NET}.subnets[1].additionalRoutes": [{"cidr": "10.0.0.0/8", "target": "x"}]}, {"route-target"}),
    ({f"{NET}.subnets[1].additionalRoutes": [{"cidr": "172.20.1.0/24", "target": "pcx-1"}]}, {"route-peering-inside"}),
    ({f"{NET}.subnets[1].additionalRoutes": [{"cidr": "10.0.0.0/8", "target": "tgw-1"}] * 2}, {"route-twice"}),
    ({f"{NET}.subnets[1].additionalRoutes": [{"cidr": "172.20.0.0/16", "target": "tgw-1"}]}, {"route-twice"}),
    ({f"{NET}.networkCIDR": GONE}, {"network-cidr-required"}),
    (cloud("gce") | {f"{NET}.networkCIDR": "10.0.0.0/8"}, {"network-cidr-forbidden"}),
    (cloud("do") | {f"{NET}.networkCIDR": "8.8.0.0/16"}, {"network-cidr-private"}),
    (cloud("linode") | {f"{NET}.networkCIDR": "10.1.0.0/16", f"{NET}.networkID": "x"}, {"network-cidr-and-id"}),
    (cloud("hetzner") | {f"{NET}.additionalNetworkCIDRs": ["10.1.0.0/16"]}, {"additional-cidrs-forbidden"}),
    ({f"{NET}.additionalNetworkCIDRs": ["10.1.0.0/16"], f"{SUBNET}.cidr": "10.1.0.0/24"}, set()),
    ({f"{NET}.additionalNetworkCIDRs": ["x"]}, {"cidr"}),
    ({f"{NET}.nonMasqueradeCIDR": GONE}, {"non-masquerade-required"}),
    (IPV6 | {f"{NET}.nonMasqueradeCIDR": "fd00::/8"}, {"non-masquerade-ipv6"}),
    ({f"{NET}.networkCIDR": "100.0.0.0/8", f"{NET}.subnets": [{"name": "a", "cidr": "100.1.0.0/19", "type": "Private", "zone": "us-east-1a"}]}, {"non-masquerade-overlap"}),
    ({f"{NET}.podCIDR": "10.0.0.0/8"}, {"pod-cidr-inside"}),
    ({"spec.kubernetesVersion": GONE}, {"kubernetes-version-required"}),
    ({"spec.kubernetesVersion": "x", "spec.etcdClusters": []}, {"kubernetes-version"}),
    ({"spec.kubernetesVersion": "https://x/release/v1.36.0/"}, set()),
    ({"spec.kubeControllerManager.clusterCIDR": "x"}, {"cluster-cidr"}),
    ({"spec.kubeControllerManager.clusterCIDR": "10.0.0.0/8"}, {"cluster-cidr-inside"}),
    ({"spec.kubelet.cloudProvider": "gce"}, {"component-cloud-provider"}),
    ({"spec.kubeAPIServer.cloudProvider": "gce"}, set()),
    ({"spec.kubeAPIServer.cloudProvider": "gce", "spec.kubernetesVersion": "1.33.0-alpha.2"}, {"component-cloud-provider"}),
]  # fmt: skip

OTHER: Cases = [
    ({"spec.nodeAuthorization": {}}, {"node-authorization"}),
    ({"spec.clusterAutoscaler.expander": "x"}, {"autoscaler-expander"}),
    ({"spec.clusterAutoscaler.expander": "price"}, {"autoscaler-price"}),
    (cloud("openstack") | {"spec.clusterAutoscaler": {}}, {"autoscaler-openstack"}),
    ({"spec.metricsServer.enabled": True}, {"metrics-server-cert-manager"}),
    ({"spec.metricsServer": {"enabled": True, "insecure": True}}, set()),
    ({"spec.snapshotController.enabled": True}, {"snapshot-cert-manager"}),
    ({"spec.addons": [{"manifest": "file:///x"}]}, {"addon-manifest-file"}),
    ({"spec.iam": {}, "spec.certManager": {"enabled": True, "hostedZoneIDs": ["x"]}}, {"cert-manager-zones"}),
    ({"spec.hooks": [{}]}, {"hook-content"}),
    ({"spec.hooks": [{"enabled": False}]}, set()),
    ({"spec.hooks": [{"execContainer": {"image": "x"}, "useRawManifest": True, "manifest": "m"}]}, {"hook-raw-container"}),
    ({"spec.hooks": [{"execContainer": {"image": "x"}, "useRawManifest": True}]}, {"hook-raw-container", "hook-raw-manifest"}),
    ({"spec.hooks": [{"manifest": "m", "useRawManifest": True, "before": []}]}, {"hook-raw-before"}),
    ({"spec.hooks": [{"manifest": "m", "useRawManifest": True, "requires": []}]}, {"hook-raw-requires"}),
    ({"spec.hooks": [{"execContainer": {}}]}, {"hook-image"}),
    ({"spec.fileAssets": [{"content": "x"}]}, {"file-asset-name"}),
    ({"spec.fileAssets": [{"name": "x"}]}, {"file-asset-content"}),
    ({"spec.updatePolicy": "x"}, {"update-policy"}),
    ({"spec.sysctlParameters": ["x"]}, {"sysctl-parameter"}),
    ({"spec.rollingUpdate": {"maxUnavailable": "x"}}, {"rolling-unavailable"}),
    ({"spec.rollingUpdate": {"maxUnavailable": -1}}, {"rolling-unavailable-negative"}),
    ({"spec.rollingUpdate": {"maxSurge": "x"}}, {"rolling-surge"}),
    ({"spec.rollingUpdate": {"maxSurge": "-5%"}}, {"rolling-surge-negative"}),
    ({"spec.rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}, {"rolling-nothing"}),
    ({"spec.ContainerRuntime": "x"}, {"container-runtime"}),
    ({"spec.ContainerRuntime": "docker"}, {"container-runtime-docker"}),
    ({"spec.Docker": {}}, {"docker"}),
    ({"spec.assets": {"containerProxy": "x", "containerRegistry": "y"}}, {"assets-proxy-and-registry"}),
    ({"spec.assets.fileRepository": "http://a b"}, {"file-repository"}),
    ({"spec.assets.fileRepository": "ftp://x"}, {"file-repository-scheme"}),
    ({"spec.assets.fileRepository": "gs://x"}, {"file-repository-cloud"}),
    (cloud("azure") | {"spec.assets.fileRepository": "azureblob://x"}, {"file-repository-container"}),
    ({"spec.assets.fileRepository": "https://"}, {"file-repository-host"}),
    (cloud("openstack", blockStorage={"createStorageClass": True}) | {"spec.cloudConfig.manageStorageClasses": False}, {"storage-classes-disagree"}),
]  # fmt: skip

STRICT: Cases = [
    ({f"{SUBNET}.cidr": ""}, {"subnet-cidr-required"}),
    ({f"{NET}.podCIDR": GONE}, {"pod-cidr-required"}),
    ({f"{NET}.serviceClusterIPRange": GONE}, {"service-range-required", "apiserver-service-range"}),
    ({"spec.kubeDNS": GONE}, {"completed-component"}),
]
COMPLETED = {
    "spec.kubelet": {"cloudProvider": "external"},
    "spec.controlPlaneKubelet": {"cloudProvider": "external"},
    "spec.kubeControllerManager": {"cloudProvider": "external"},
    "spec.kubeDNS": {},
    "spec.kubeScheduler": {},
    "spec.kubeProxy": {},
    "spec.kubeAPIServer": {"cloudProvider": "external", "serviceClusterIPRange": "100.64.0.0/13"},
}
"""What makes the healthy cluster a completed one."""


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of an object with some fields set or taken away."""
    data = copy.deepcopy(base)
    for path, value in changes.items():
        *above, last = re.findall(r"[^.\[\]]+", path)
        here: Any = data
        for part in above:
            here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
        if value is GONE:
            here.pop(last, None)
        elif isinstance(here, list):
            here[int(last)] = copy.deepcopy(value)
        else:
            here[last] = copy.deepcopy(value)
    return data
