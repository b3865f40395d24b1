"""What does AWS allow a cluster, and its groups besides what it is asked for?

Groups are looked at here only by rules that need no answer from AWS; `cloudchecks.py` has the ones that do.

Source: kops pkg/apis/kops/validation/aws.go, validation.go:validateAWS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from kopsfs.spec.field import Finding, Path, duplicate, forbidden, invalid, not_found, required
from kopsfs.spec.validation.api import LOAD_BALANCER
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.values import address, arn_resource, is_ipv4, network
from kopsfs.spec.validation.view import SPEC, Cluster, fields, flag, get, items, number, text

AWS = SPEC.child("cloudProvider", "aws")
OTHER_DNS_SUFFIX = re.compile(r"(?:cn|us-iso[bf]?|eu-isoe|eusc-de)-\w+-\d+")
"""Regions outside amazonaws.com.  Source: aws-sdk-go-v2 internal/endpoints/awsrulesfn/partitions.go."""
_HOST_LABEL = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,62})")


# --- what AWS alone has -----------------------------------------------------------------------------------------------


def aws_provider(cluster: Cluster) -> Iterator[Finding]:
    """What stands below spec.cloudProvider.aws, whatever else does."""
    aws = fields(cluster.spec, "cloudProvider", "aws")
    if get(aws, "nodeTerminationHandler") is not None:
        yield from termination_handler(cluster, aws["nodeTerminationHandler"], AWS.child("nodeTerminationHandler"))
    yield from need_cert_manager(cluster, aws)
    if get(aws, "warmPool") is not None:
        yield from warm_pool(aws["warmPool"], AWS.child("warmPool"))


@rules(
    "validation.go:validateNodeTerminationHandler",
    "termination-karpenter",
    "termination-spot",
    "termination-rebalance",
)
def termination_handler(cluster: Cluster, data: dict[str, Any], path: Path) -> Iterator[Finding]:
    if data.get("enabled") is not False and flag(cluster.spec, "karpenter", "enabled"):
        yield forbidden(path, "Karpenter drains nodes itself", rule="termination-karpenter")
    if not flag(data, "enabled") or data.get("enableSQSTerminationDraining") is False:
        return
    if data.get("enableSpotInterruptionDraining") is False:
        where = path.child("enableSpotInterruptionDraining")
        yield forbidden(where, "always on where a queue (SQS) is used", rule="termination-spot")
    if flag(data, "enableRebalanceMonitoring") and not flag(data, "enableRebalanceDraining"):
        where = path.child("enableRebalanceMonitoring")
        detail = "where a queue (SQS) is used, a rebalance can only drain"
        yield forbidden(where, detail, rule="termination-rebalance")


@rules("validation.go:validateAWS", "lb-controller-cert-manager", "pod-identity-cert-manager")
def need_cert_manager(cluster: Cluster, aws: dict[str, Any]) -> Iterator[Finding]:
    if cluster.cert_manager:
        return
    if flag(aws, "loadBalancerController", "enabled"):
        path = AWS.child("awsLoadBalanceController")  # as kops spells it here
        yield forbidden(path, "the load balancer controller needs certManager", rule="lb-controller-cert-manager")
    if flag(aws, "podIdentityWebhook", "enabled"):
        path = AWS.child("podIdentityWebhook")
        yield forbidden(path, "the pod identity webhook needs certManager", rule="pod-identity-cert-manager")


@rules(
    "validation.go:validateWarmPool",
    "warm-pool-max-negative",
    "warm-pool-max-less",
    "warm-pool-images",
    "warm-pool-min-negative",
)
def warm_pool(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    """A cluster's warm pool; for a group's see `instancegroup.py`."""
    low, high = number(data, "minSize") or 0, number(data, "maxSize")
    if high is not None and high < 0:
        yield invalid(path.child("maxSize"), high, "must not be negative", rule="warm-pool-max-negative")
    elif high is not None and low > high:
        yield invalid(path.child("maxSize"), high, f"less than minSize {low}", rule="warm-pool-max-less")
    elif high is not None and items(data, "additionalImages"):
        detail = "belongs into the instance groups"
        yield forbidden(path.child("additionalImages"), detail, rule="warm-pool-images")
    if low < 0:
        yield invalid(path.child("minSize"), low, "must not be negative", rule="warm-pool-min-negative")


# --- clusters whose cloud is AWS --------------------------------------------------------------------------------------


def aws_cluster(cluster: Cluster) -> Iterator[Finding]:
    """Source: aws.go:awsValidateCluster."""
    balancer = get(cluster.spec, "api", "loadBalancer")
    if balancer is not None:
        yield from balancer_class(cluster, balancer)
        yield from balancer_security_groups(balancer)
        yield from balancer_settings(balancer)
        yield from balancer_subnets(cluster, balancer)
    yield from aws_settings(cluster)
    yield from file_repository_region(cluster)
    if get(cluster.spec, "authentication", "aws") is not None:
        yield from iam_authenticator(cluster.spec["authentication"]["aws"], SPEC.child("authentication", "aws"))


@rules("aws.go:awsValidateCluster", "lb-classic", "lb-class", "lb-dns-none")
def balancer_class(cluster: Cluster, balancer: dict[str, Any]) -> Iterator[Finding]:
    kind = text(balancer, "class")
    where = LOAD_BALANCER.child("class")
    if kind == "Classic":
        detail = "classic load balancers are gone since kops 1.37; kops 1.36 can migrate to Network"
        yield forbidden(where, detail, rule="lb-classic")
    elif cluster.strict or kind:
        yield from one_of(where, kind, ("Network",), "lb-class")
    if cluster.without_dns and kind != "Network":
        detail = "without DNS the load balancer has class Network"
        yield forbidden(LOAD_BALANCER.child("type"), detail, rule="lb-dns-none")


@rules("aws.go:awsValidateSecurityGroupOverride", "lb-security-group")
def balancer_security_groups(balancer: dict[str, Any]) -> Iterator[Finding]:
    override = get(balancer, "securityGroupOverride")
    if override is not None and not override.startswith("sg-"):
        yield invalid(LOAD_BALANCER.child("securityGroupOverride"), override, "expected sg-…")
    yield from security_groups(
        items(balancer, "additionalSecurityGroups"), LOAD_BALANCER.child("additionalSecurityGroups")
    )


@rules("aws.go:awsValidateAdditionalSecurityGroups", "security-group-twice", "security-group-empty", "security-group")
def security_groups(groups: Sequence[str], path: Path) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, group in enumerate(groups):
        where = path.index(index)
        if group in seen:
            yield duplicate(where, group, rule="security-group-twice")
        seen.add(group)
        if not group.strip():
            yield invalid(where, group, "must not be empty", rule="security-group-empty")
        elif not group.startswith("sg-"):
            yield invalid(where, group, "expected sg-…", rule="security-group")


@rules(
    "aws.go:awsValidateCluster",
    "lb-internal-api",
    "lb-certificate-class",
    "lb-ssl-policy-class",
    "lb-ssl-policy-certificate",
)
def balancer_settings(balancer: dict[str, Any]) -> Iterator[Finding]:
    is_network = text(balancer, "class") == "Network"
    if is_network and flag(balancer, "useForInternalAPI") and text(balancer, "type") == "Internal":
        detail = "an internal network load balancer cannot lead back to its own targets"
        yield forbidden(LOAD_BALANCER.child("useForInternalAPI"), detail, rule="lb-internal-api")
    certificate = text(balancer, "sslCertificate")
    if certificate and not is_network:
        detail = "a certificate needs class Network"
        yield forbidden(LOAD_BALANCER.child("sslCertificate"), detail, rule="lb-certificate-class")
    if get(balancer, "sslPolicy") is None:
        return
    if not is_network:
        yield forbidden(LOAD_BALANCER.child("sslPolicy"), "needs class Network", rule="lb-ssl-policy-class")
    if not certificate:
        yield forbidden(LOAD_BALANCER.child("sslPolicy"), "needs sslCertificate", rule="lb-ssl-policy-certificate")


@rules(
    "aws.go:awsValidateLoadBalancerSubnets",
    "lb-subnet-name",
    "lb-subnet-unknown",
    "lb-allocation-empty",
    "lb-allocation-public",
)
def balancer_subnets(cluster: Cluster, balancer: dict[str, Any]) -> Iterator[Finding]:
    known = {text(subnet, "name"): subnet for subnet in reversed(cluster.subnets)}
    internal_network = text(balancer, "class") == "Network" and text(balancer, "type") == "Internal"
    public_network = text(balancer, "class") == "Network" and text(balancer, "type") != "Internal"
    for index, subnet in enumerate(items(balancer, "subnets")):
        where = LOAD_BALANCER.child("subnets").index(index)
        name = text(subnet, "name")
        if not name:
            yield required(where.child("name"), "the subnet's name", rule="lb-subnet-name")
        elif name not in known:
            yield not_found(where.child("name"), name, "no such subnet in the cluster", rule="lb-subnet-unknown")
        if get(subnet, "privateIPv4Address") is not None:
            where_address = where.child("privateIPv4Address")
            value = text(subnet, "privateIPv4Address")
            yield from balancer_address(
                value, known.get(name) if name else None, where_address, allowed=internal_network
            )
        if get(subnet, "allocationID") is None:
            continue
        if not text(subnet, "allocationID"):
            yield required(where.child("allocationID"), "must not be empty", rule="lb-allocation-empty")
        if not public_network:
            detail = "for public network load balancers only"
            yield forbidden(where.child("allocationID"), detail, rule="lb-allocation-public")


@rules(
    "aws.go:awsValidateLoadBalancerSubnets",
    "lb-address-empty",
    "lb-address",
    "lb-address-outside",
    "lb-address-internal",
)
def balancer_address(value: str, subnet: dict[str, Any] | None, path: Path, *, allowed: bool) -> Iterator[Finding]:
    if not value:
        yield required(path, "must not be empty", rule="lb-address-empty")
    found = address(value)
    outer = network(text(subnet, "cidr")) if subnet else None
    if found is None or not is_ipv4(found):
        yield invalid(path, value, "not an IPv4 address", rule="lb-address")
    elif outer is not None and (found.version != outer.version or found not in outer):
        yield invalid(path, value, f"is not in the subnet's {outer}", rule="lb-address-outside")
    if not allowed:
        yield forbidden(path, "for internal network load balancers only", rule="lb-address-internal")


@rules("aws.go:awsValidateCluster", "ebs-csi-driver", "nlb-security-group-mode", "ip-node-names-ipv6")
def aws_settings(cluster: Cluster) -> Iterator[Finding]:
    aws = fields(cluster.spec, "cloudProvider", "aws")
    # not part of the JSON form, so it stands under its Go name
    if get(aws, "ebsCSIDriver", "Enabled") is False:
        yield forbidden(AWS.child("ebsCSIDriver", "enabled"), "cannot be switched off", rule="ebs-csi-driver")
    mode = get(aws, "nlbSecurityGroupMode")
    if mode is not None:
        yield from one_of(AWS.child("nlbSecurityGroupMode"), mode, ("Managed",), "nlb-security-group-mode")
    if flag(aws, "useIPBasedNodeNames") and cluster.ipv6_only:
        detail = "an IPv6 cluster has no names made of IPv4 addresses"
        yield forbidden(AWS.child("useIPBasedNodeNames"), detail, rule="ip-node-names-ipv6")


def region_of(cluster: Cluster) -> str | None:
    """The region all zones of the subnets lie in, None where they do not say one.

    Source: kops upup/pkg/fi/cloudup/awsup/aws_utils.go:FindRegion.
    """
    regions = set()
    for subnet in cluster.subnets:
        zone = text(subnet, "zone")
        if not zone and text(subnet, "id"):
            continue
        if len(zone) <= 2:
            return None
        regions.add(zone[:-1])
    return regions.pop() if len(regions) == 1 else None


@rules("aws.go:awsValidateS3FileRepositoryPartition", "file-repository-region", "file-repository-partition")
def file_repository_region(cluster: Cluster) -> Iterator[Finding]:
    repository = text(cluster.spec, "assets", "fileRepository")
    region = region_of(cluster)
    path = SPEC.child("assets", "fileRepository")
    if not repository.startswith("s3://") or region is None:
        return
    if _HOST_LABEL.fullmatch(region) is None:
        yield invalid(path, repository, f"{region} is no region", rule="file-repository-region")
    elif OTHER_DNS_SUFFIX.fullmatch(region):
        detail = f"nodes fetch s3:// from amazonaws.com, where {region} is not"
        yield forbidden(path, detail, rule="file-repository-partition")


@rules("aws.go:awsValidateIAMAuthenticator", "iam-authenticator-backend", "iam-authenticator-arn")
def iam_authenticator(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    mappings = items(data, "identityMappings")
    if mappings and "CRD" not in text(data, "backendMode"):
        yield forbidden(path.child("backendMode"), "identityMappings need CRD here", rule="iam-authenticator-backend")
    for index, mapping in enumerate(mappings):
        arn = text(mapping, "arn")
        if not (arn_resource(arn) or "").startswith(("role/", "user/")):
            where = path.child("identityMappings").index(index).child("arn")
            detail = "expected the ARN of a role or user, arn:aws:iam::123456789012:role/NAME"
            yield invalid(where, arn, detail, rule="iam-authenticator-arn")
