"""What does a cloud answer to the questions inference has?

One function per cloud, from a client of that cloud to the content of a facts file. A question that is refused leaves
its fact out and is told; nothing is guessed in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from kopsfs.spec.inference.machines import AWS_BASTION_CANDIDATES, AWS_CANDIDATES

ARCHITECTURES: Final = {"x86_64": "amd64", "arm64": "arm64"}

Get = Callable[..., dict[str, Any]]
Tell = Callable[[str], None]


def aws(session: Any, region: str, tell: Tell, *, endpoint: str | None = None) -> dict[str, Any]:
    """Facts of an AWS account in one region; about ten requests, more where answers are paged.

    Attributes: `session` is a boto3 session, `endpoint` replaces AWS's (a test server).
    """
    from botocore.exceptions import BotoCoreError, ClientError

    def client(service: str) -> Any:
        return session.client(service, region_name=region, endpoint_url=endpoint)

    facts: dict[str, Any] = {"region": region}
    questions: dict[str, Callable[[], Any]] = {
        "account_id": lambda: client("sts").get_caller_identity()["Account"],
        "zones": lambda: _aws_zones(client("ec2")),
        "hosted_zones": lambda: _aws_hosted_zones(client("route53")),
        "vpcs": lambda: _aws_vpcs(client("ec2")),
        "machine types": lambda: _aws_machine_types(client("ec2")),
        "instance_type_zones": lambda: _aws_type_zones(client("ec2")),
        "buckets": lambda: _aws_buckets(client("s3")),
    }
    for name, question in questions.items():
        try:
            answer = question()
        except (BotoCoreError, ClientError) as error:
            tell(f"{name} left out: {error}")
            continue
        facts |= answer if name == "machine types" else {name: answer}
    return {"aws": facts}


def _pages(client: Any, operation: str, key: str, **arguments: Any) -> Iterable[dict[str, Any]]:
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page[key]


def _aws_zones(ec2: Any) -> list[str]:
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    return sorted(zone["ZoneName"] for zone in zones if zone["ZoneType"] == "availability-zone")


def _aws_hosted_zones(route53: Any) -> list[dict[str, Any]]:
    zones = []
    for zone in _pages(route53, "list_hosted_zones", "HostedZones"):
        found = {
            "id": zone["Id"].removeprefix("/hostedzone/"),
            "name": zone["Name"].removesuffix("."),
            "private": zone["Config"]["PrivateZone"],
        }
        if found["private"]:
            found["vpcs"] = [vpc["VPCId"] for vpc in route53.get_hosted_zone(Id=zone["Id"])["VPCs"]]
        zones.append(found)
    return zones


def _aws_vpcs(ec2: Any) -> list[dict[str, Any]]:
    subnets: dict[str, list[dict[str, Any]]] = {}
    for subnet in _pages(ec2, "describe_subnets", "Subnets"):
        own = {"id": subnet["SubnetId"], "zone": subnet["AvailabilityZone"], "cidr": subnet.get("CidrBlock", "")}
        subnets.setdefault(subnet["VpcId"], []).append(own)
    return [
        {"id": vpc["VpcId"], "cidr": vpc["CidrBlock"], "subnets": subnets.get(vpc["VpcId"], [])}
        for vpc in _pages(ec2, "describe_vpcs", "Vpcs")
    ]


def _aws_machine_types(ec2: Any) -> dict[str, Any]:
    architectures, gpus = {}, []
    for kind in _pages(ec2, "describe_instance_types", "InstanceTypes"):
        name = kind["InstanceType"]
        offered = (kind.get("ProcessorInfo") or {}).get("SupportedArchitectures") or ()
        architectures[name] = [ARCHITECTURES[each] for each in offered if each in ARCHITECTURES]
        if kind.get("GpuInfo"):
            gpus.append(name)
    return {"instance_type_architectures": architectures, "instance_types_with_gpu": sorted(gpus)}


def _aws_type_zones(ec2: Any) -> dict[str, list[str]]:
    """Where the machine types are offered that kops would take by default."""
    zones: dict[str, list[str]] = {}
    wanted = [{"Name": "instance-type", "Values": [*AWS_CANDIDATES, *AWS_BASTION_CANDIDATES]}]
    offers = _pages(
        ec2,
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=wanted,
    )
    for offer in offers:
        zones.setdefault(offer["InstanceType"], []).append(offer["Location"])
    return {name: sorted(places) for name, places in zones.items()}


def _aws_buckets(s3: Any) -> dict[str, str]:
    """Bucket → region, for the URL of a discovery store."""
    buckets = {}
    for bucket in s3.list_buckets()["Buckets"]:
        region = bucket.get("BucketRegion")
        if not region:
            region = s3.get_bucket_location(Bucket=bucket["Name"])["LocationConstraint"] or "us-east-1"
        buckets[bucket["Name"]] = region
    return buckets


def gce(get: Get, project: str, tell: Tell) -> dict[str, Any]:
    """Facts of a Google Cloud project; `get` answers a URL (and query) with JSON, or raises OSError."""
    compute = f"https://compute.googleapis.com/compute/v1/projects/{project}"
    facts: dict[str, Any] = {"project": project}

    def networks() -> list[dict[str, Any]]:
        used: dict[str, list[str]] = {}
        for place in _listed(get, f"{compute}/aggregated/subnetworks", "items"):
            for subnet in place.get("subnetworks", ()):
                ranges = [subnet["ipCidrRange"], *(own["ipCidrRange"] for own in subnet.get("secondaryIpRanges", ()))]
                used.setdefault(subnet["network"], []).extend(ranges)
        return [
            {"name": network["name"], "project": project, "subnetworks_in_use": used.get(network["selfLink"], [])}
            for network in _listed(get, f"{compute}/global/networks", "items")
        ]

    def zones() -> list[dict[str, Any]]:
        url = f"https://dns.googleapis.com/dns/v1/projects/{project}/managedZones"
        listed = _listed(get, url, "managedZones")
        return [{"id": str(zone["id"]), "name": zone["dnsName"].removesuffix(".")} for zone in listed]

    _ask(facts, {"networks": networks, "managed_zones": zones}, tell)
    return {"gce": facts}


def openstack(get: Get, tell: Tell) -> dict[str, Any]:
    """Facts of an OpenStack project; `get(path, service)` answers with JSON, or raises OSError."""
    facts: dict[str, Any] = {}

    def networks() -> list[dict[str, Any]]:
        subnets: dict[str, list[dict[str, Any]]] = {}
        for subnet in get("/v2.0/subnets", "network")["subnets"]:
            own = {"id": subnet["id"], "name": subnet["name"], "cidr": subnet["cidr"]}
            subnets.setdefault(subnet["network_id"], []).append(own)
        return [
            {
                "id": network["id"],
                "name": network["name"],
                "external": bool(network.get("router:external")),
                "subnets": subnets.get(network["id"], []),
            }
            for network in get("/v2.0/networks", "network")["networks"]
        ]

    def flavors() -> list[dict[str, Any]]:
        listed = get("/flavors/detail", "compute")["flavors"]
        return [{name: flavor[name] for name in ("name", "ram", "vcpus", "disk")} for flavor in listed]

    def images() -> list[str]:
        return sorted(image["name"] for image in get("/v2/images", "image")["images"] if image.get("name"))

    def zones() -> list[dict[str, str]]:
        listed = get("/v2/zones", "dns")["zones"]
        return [{"id": zone["id"], "name": zone["name"].removesuffix(".")} for zone in listed]

    _ask(facts, {"networks": networks, "flavors": flavors, "images": images, "dns_zones": zones}, tell)
    return {"openstack": facts}


def _ask(facts: dict[str, Any], questions: dict[str, Callable[[], Any]], tell: Tell) -> None:
    for name, question in questions.items():
        try:
            facts[name] = question()
        except (OSError, KeyError) as error:
            tell(f"{name} left out: {error}")


def _listed(get: Get, url: str, key: str) -> Iterable[dict[str, Any]]:
    """All items of a paged answer; a map of items counts as its values."""
    token = ""
    while True:
        page = get(url, {"pageToken": token} if token else {})
        items = page.get(key) or ()
        yield from items.values() if isinstance(items, dict) else items
        token = page.get("nextPageToken", "")
        if not token:
            return
