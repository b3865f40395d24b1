"""Can the cloud's client be made from this cluster: is there a region, a project, a zone that exists?

Source: kops upup/pkg/fi/cloudup/utils.go:BuildCloud, awsup/aws_utils.go:FindRegion, aws_cloud.go:ValidateZones,
hetzner/utils.go:FindRegion, scaleway/utils.go:ParseRegionFromZone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kopsfs.spec.field import Finding
from kopsfs.spec.validation.rule import failed, rules
from kopsfs.spec.validation.view import Cluster, text

HETZNER_REGIONS = {"fsn1": "eu-central", "nbg1": "eu-central", "hel1": "eu-central", "ash": "us-east", "hil": "us-west"}


@rules(
    "upup/pkg/fi/cloudup/utils.go:BuildCloud",
    "build-region",
    "build-project",
    "build-zone",
    "build-zones",
    "build-zone-unknown",
    "build-subnet",
)
def cloud_build(cluster: Cluster, known_zones: Sequence[str] | None = None) -> Iterator[Finding]:
    """The first thing in the way; `known_zones` are AWS's, None when they are not known."""
    match cluster.cloud:
        case "gce" | "azure" | "linode":
            if not any(text(subnet, "region") for subnet in cluster.subnets):
                yield failed(f"on {cluster.cloud} subnets say their region", "build-region")
            elif cluster.cloud == "gce" and not text(cluster.provider("gce"), "project"):
                yield failed("on GCE a cluster says its project (spec.project)", "build-project")
        case "aws":
            yield from _aws(cluster, known_zones)
        case "hetzner":
            yield from _hetzner(cluster)
        case "scaleway":
            zones = [text(subnet, "zone") for subnet in cluster.subnets]
            if len(set(zones[next((i for i, zone in enumerate(zones) if zone), 0) :])) > 1:
                yield failed("on Scaleway a cluster stays in one zone", "build-zones")
            elif not re.fullmatch("[a-z]{2}-[a-z]{3}", next(filter(None, zones), "").rstrip("-123")):
                yield failed(f"{zones} names no zone of Scaleway, such as fr-par-1", "build-zone")
        case "do":
            if not cluster.subnets:
                yield failed("on DigitalOcean the first subnet says the region", "build-subnet")
        case _:
            pass


def _aws(cluster: Cluster, known: Sequence[str] | None) -> Iterator[Finding]:
    region = ""
    for subnet in cluster.subnets:
        zone, name = text(subnet, "zone"), text(subnet, "name")
        if not zone and text(subnet, "id"):
            continue
        if len(zone) <= 2:
            yield failed(f"subnet {name} says neither a zone nor the id of a subnet that exists", "build-zone")
            return
        if region and zone[:-1] != region:
            yield failed(
                f"a cluster stays in one region, {region}; {zone} of subnet {name} is not in it", "build-zones"
            )
            return
        region = zone[:-1]
    if not region:
        yield failed("no subnet says its zone, so the region is not known", "build-region")
    for subnet in cluster.subnets:
        zone = text(subnet, "zone")
        if zone and known is not None and zone not in known:
            yield failed(f"there is no zone {zone}, only {', '.join(known)}", "build-zone-unknown")
            return


def _hetzner(cluster: Cluster) -> Iterator[Finding]:
    region = ""
    for subnet in cluster.subnets:
        zone = text(subnet, "zone")
        mine = HETZNER_REGIONS.get(zone)
        if mine is None:
            yield failed(f"{zone or '(none)'} is no zone of Hetzner: {', '.join(HETZNER_REGIONS)}", "build-zone")
            return
        if region and mine != region:
            yield failed(f"a cluster stays in one region, {region}; {zone} is in {mine}", "build-zones")
            return
        region = mine
