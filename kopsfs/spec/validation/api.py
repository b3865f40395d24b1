"""Who may reach the API, and is its load balancer possible?

Source: kops pkg/apis/kops/validation/validation.go:validateClusterSpec.
"""

from __future__ import annotations

from collections.abc import Iterator

from kopsfs.spec.field import Finding, Path, forbidden, invalid
from kopsfs.spec.validation.rule import Removed, check_removed, enter, rules
from kopsfs.spec.validation.values import cidr
from kopsfs.spec.validation.view import SPEC, Cluster, fields, get, items, text

LOAD_BALANCER = SPEC.child("api", "loadBalancer")
_AWS = "is for AWS only"

AWS_ONLY = (
    Removed("lb-class-aws", "class", _AWS, pointer=False),
    Removed("lb-security-group-aws", "securityGroupOverride", _AWS),
    Removed("lb-more-security-groups-aws", "additionalSecurityGroups", _AWS),
    Removed("lb-certificate-aws", "sslCertificate", _AWS, pointer=False),
    Removed("lb-ssl-policy-aws", "sslPolicy", _AWS),
    Removed("lb-cross-zone-aws", "crossZoneLoadBalancing", _AWS),
    Removed("lb-access-log-aws", "accessLog", _AWS),
)
enter("validation.go:validateClusterSpec", [row.rule for row in AWS_ONLY])


@rules("validation.go:parseCIDR", "cidr", "cidr-host-bits")
def valid_cidr(path: Path, value: str) -> Iterator[Finding]:
    """A CIDR without bits outside its prefix."""
    parsed = cidr(value)
    if parsed is None:
        hint = ""
        if "/" not in value and cidr(f"{value}/32") is not None:
            hint = f"; {value}/{64 if ':' in value else 32}?"
        yield invalid(path, value, f"not a CIDR{hint}", rule="cidr")
    elif parsed[0] != parsed[1].network_address:
        yield invalid(path, value, f"has bits outside its prefix; {parsed[1]}?", rule="cidr-host-bits")


@rules("validation.go:validateClusterSpec", "prefix-list-aws")
def access_lists(cluster: Cluster) -> Iterator[Finding]:
    """CIDRs, or on AWS the ids of prefix lists."""
    lists = {
        "sshAccess": items(cluster.spec, "sshAccess"),
        "kubernetesAPIAccess": items(cluster.spec, "api", "access"),
        "nodePortAccess": items(cluster.spec, "nodePortAccess"),
    }
    for name, entries in lists.items():
        for index, entry in enumerate(entries):
            path = SPEC.child(name).index(index)
            if not entry.startswith("pl-"):
                yield from valid_cidr(path, entry)
            elif cluster.cloud != "aws":
                yield invalid(path, entry, "prefix lists are for AWS only")


@rules("validation.go:validateClusterSpec", "lb-internal-private-subnet")
def api_load_balancer(cluster: Cluster) -> Iterator[Finding]:
    balancer = get(cluster.spec, "api", "loadBalancer")
    if balancer is None:
        return
    if cluster.cloud != "aws":
        yield from check_removed(AWS_ONLY, fields(balancer), LOAD_BALANCER)
    if text(balancer, "type") == "Internal" and not any(
        text(subnet, "type") == "Private" for subnet in cluster.subnets
    ):
        yield forbidden(LOAD_BALANCER.child("type"), "an internal load balancer needs a subnet of type Private")
