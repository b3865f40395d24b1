"""What is told from outside: facts files, channels, and what `facts collect` asks.

AWS is asked through moto's server, Google Cloud and OpenStack through canned answers of their REST interfaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kopsfs.cli import collect
from kopsfs.spec import channel, versions
from kopsfs.spec.facts import Facts, from_data
from kopsfs.spec.field import Kind, RefusedError
from kopsfs.spec.inference.steps import FACTS_OF, ZONES
from kopsfs.spec.validation.values import version
from tests.spec import cases


@pytest.mark.parametrize("data", [[], {"ibm": {}}, {"aws": []}, None])
def test_a_facts_file_is_a_map_of_maps_by_cloud(data: Any) -> None:
    with pytest.raises(RefusedError):
        from_data(data, "facts.yaml")


def test_a_cloud_without_facts_is_known_to_have_none() -> None:
    assert from_data({"hetzner": None}) == {"hetzner": {}}


def test_a_missing_list_is_another_thing_than_an_empty_one() -> None:
    facts = Facts({"aws": {"vpcs": []}})
    assert facts.need("aws", "vpcs") == []
    with pytest.raises(RefusedError) as caught:
        facts.need("aws", "zones", why="x")
    assert caught.value.findings[0].kind is Kind.FACT


@pytest.mark.parametrize("cloud", ["azure", "scaleway"])
def test_clouds_without_a_collector_say_to_write_by_hand(cloud: str) -> None:
    with pytest.raises(RefusedError, match="by hand"):
        Facts().need(cloud, "vnets")


# --- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.34.0-alpha.1", "1.34.0-beta.1", "1.34.0-alpha.0"),
        (">=1.31.0 <1.33.0", "1.32.9", "1.33.0"),
        (">= 1.31.0 < 1.33.0", "1.31.0", "1.33.0"),
        ("<1.0.0 || >=2.0.0", "2.1.0", "1.5.0"),
        ("1.2.x", "1.2.9", "1.3.0"),
        (">1.2.x", "1.3.0", "1.2.9"),
        ("<=1.x", "1.9.9", "2.0.0"),
        ("!1.2.3", "1.2.4", "1.2.3"),
        ("1.2.3", "1.2.3", "1.2.3-alpha"),
    ],
)
def test_ranges_are_those_of_blang_semver(text: str, inside: str, outside: str) -> None:
    yes, no = version(inside), version(outside)
    assert yes is not None
    assert no is not None
    assert versions.in_range(text, yes) is True
    assert versions.in_range(text, no) is False


@pytest.mark.parametrize("text", ["", "latest", ">=1.2", "~1.2.3", ">=v1.2.3", "||"])
def test_what_is_no_range(text: str) -> None:
    one = version("1.2.3")
    assert one is not None
    assert versions.in_range(text, one) is None


OURS = channel.parse((cases.OWN / "channels" / "stable").read_bytes(), "stable")


@pytest.mark.parametrize(
    ("kops", "kubernetes"),
    [("1.37.0", "1.36.3"), ("1.34.0-beta.1", "1.34.10"), ("1.36.1", None), ("v1.35.0", "1.34.10"), ("dev", None)],
)
def test_a_channel_recommends_kubernetes_by_kops_version(kops: str, kubernetes: str | None) -> None:
    assert OURS.kubernetes(kops) == kubernetes


def test_a_channel_gives_the_first_image_that_fits() -> None:
    assert OURS.image("aws", "1.34.0-beta.1", "amd64") == "aws-new"
    assert OURS.image("aws", "1.33.9", "amd64") == "aws-old"
    assert OURS.image("aws", "1.33.9", "arm64") == "aws-arm"
    assert OURS.image("openstack", "1.33.9", "amd64") is None


@pytest.mark.parametrize("name", channel.SHIPPED)
def test_shipped_channels_carry_their_date_and_serve_every_cloud_with_images(name: str) -> None:
    found = channel.shipped(name)
    assert found is not None
    assert found.date
    assert found.kubernetes(versions.KOPS_VERSION)
    for cloud in ("aws", "gce", "azure"):
        assert found.image(cloud, "1.34.0", "amd64")
    for row in (*found.spec["kopsVersions"], *found.spec["kubernetesVersions"]):
        one = version("1.30.0")
        assert one is not None
        assert versions.in_range(row["range"], one) is not None, row


def test_what_is_no_channel_is_refused() -> None:
    for text in (b"kind: Cluster\nspec: {}\n", b"spec: []\n", b"[]", b"a: b: c"):
        with pytest.raises(RefusedError):
            channel.parse(text, "x")


@pytest.mark.parametrize(
    ("kubernetes", "etcd"),
    [
        ("1.33.9", "3.5.31"),
        ("1.34.0-alpha.1", "3.6.12"),
        ("1.36.0-rc.1", "3.6.12"),
        ("1.37.0-beta.0", "3.7.0"),
        ("1.99.0", "3.7.0"),
    ],
)
def test_pre_releases_count_as_their_release_and_the_newest_row_goes_on(kubernetes: str, etcd: str) -> None:
    assert versions.lookup(versions.ETCD, kubernetes) == etcd


# --- collecting -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def test_aws_is_asked_for_everything_inference_needs(moto: str) -> None:
    boto3 = pytest.importorskip("boto3")
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")

    def client(name: str) -> Any:
        return session.client(name, endpoint_url=moto)

    vpc = client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = client("ec2").create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone="eu-central-1a")["Subnet"]
    client("route53").create_hosted_zone(Name="example.com.", CallerReference="1")
    client("route53").create_hosted_zone(
        Name="inside.example.com.",
        CallerReference="2",
        VPC={"VPCRegion": "eu-central-1", "VPCId": vpc},
        HostedZoneConfig={"PrivateZone": True},
    )
    client("s3").create_bucket(Bucket="discovery", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    told: list[str] = []
    facts = collect.aws(session, "eu-central-1", told.append, endpoint=moto)["aws"]
    assert told == []
    assert facts["zones"] == ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    zones = {zone["name"]: zone for zone in facts["hosted_zones"]}
    assert zones["example.com"]["private"] is False
    assert zones["inside.example.com"]["vpcs"] == [vpc]
    found = next(each for each in facts["vpcs"] if each["id"] == vpc)
    assert found["cidr"] == "10.9.0.0/16"
    assert found["subnets"] == [{"id": subnet["SubnetId"], "zone": "eu-central-1a", "cidr": "10.9.1.0/24"}]
    assert facts["instance_type_architectures"]["m6g.xlarge"] == ["arm64"]
    assert facts["instance_type_architectures"]["t2.medium"] == ["amd64"]
    assert "g4dn.xlarge" in facts["instance_types_with_gpu"]
    assert facts["instance_type_zones"]["t3.medium"]
    assert facts["buckets"]["discovery"] == "eu-central-1"
    assert from_data({"aws": facts})


def test_a_refused_question_leaves_its_fact_out_and_is_told() -> None:
    boto3 = pytest.importorskip("boto3")
    config = pytest.importorskip("botocore.config").Config(retries={"max_attempts": 0}, connect_timeout=0.2)
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    session._session.set_default_client_config(config)
    told: list[str] = []
    facts = collect.aws(session, "eu-central-1", told.append, endpoint="http://127.0.0.1:1")
    assert facts == {"aws": {"region": "eu-central-1"}}
    assert [text.partition(" left out")[0] for text in told] == [
        "account_id", "zones", "hosted_zones", "vpcs", "machine types", "instance_type_zones", "buckets",
    ]  # fmt: skip


def test_google_cloud_is_read_page_by_page() -> None:
    link = "https://www.googleapis.com/compute/v1/projects/p/global/networks/n"
    answers = {
        ("global/networks", ""): {"items": [{"name": "n", "selfLink": link}], "nextPageToken": "2"},
        ("global/networks", "2"): {"items": [{"name": "empty", "selfLink": "x"}]},
        ("aggregated/subnetworks", ""): {
            "items": {
                "regions/a": {
                    "subnetworks": [
                        {
                            "network": link,
                            "ipCidrRange": "10.4.0.0/14",
                            "secondaryIpRanges": [{"ipCidrRange": "10.1.0.0/16"}],
                        }
                    ]
                },
                "regions/b": {"warning": {}},
            }
        },
        ("managedZones", ""): {"managedZones": [{"id": 7, "dnsName": "example.com."}]},
    }

    def get(url: str, query: dict[str, str]) -> dict[str, Any]:
        return next(
            answer
            for (end, token), answer in answers.items()
            if url.endswith(end) and query.get("pageToken", "") == token
        )

    told: list[str] = []
    assert collect.gce(get, "p", told.append)["gce"] == {
        "project": "p",
        "networks": [
            {"name": "n", "project": "p", "subnetworks_in_use": ["10.4.0.0/14", "10.1.0.0/16"]},
            {"name": "empty", "project": "p", "subnetworks_in_use": []},
        ],
        "managed_zones": [{"id": "7", "name": "example.com"}],
    }
    assert told == []


def test_openstack_without_dns_leaves_the_zones_out() -> None:
    answers = {
        "/v2.0/networks": {"networks": [{"id": "1", "name": "ext", "router:external": True}]},
        "/v2.0/subnets": {"subnets": [{"id": "2", "name": "s", "cidr": "10.0.0.0/24", "network_id": "1"}]},
        "/flavors/detail": {"flavors": [{"name": "small", "ram": 2048, "vcpus": 1, "disk": 5, "id": "9"}]},
        "/v2/images": {"images": [{"name": "b"}, {"name": "a"}, {"name": None}]},
    }

    def get(path: str, _service: str) -> dict[str, Any]:
        if path not in answers:
            raise OSError("no such service")
        return answers[path]

    told: list[str] = []
    facts = collect.openstack(get, told.append)["openstack"]
    assert facts["networks"] == [
        {"id": "1", "name": "ext", "external": True, "subnets": [{"id": "2", "name": "s", "cidr": "10.0.0.0/24"}]}
    ]
    assert facts["flavors"] == [{"name": "small", "ram": 2048, "vcpus": 1, "disk": 5}]
    assert facts["images"] == ["a", "b"]
    assert told == ["dns_zones left out: no such service"]


# --- the manual -------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


def test_every_fact_that_is_asked_for_is_in_the_manual() -> None:
    page = (ROOT / "packaging" / "man" / "kopsfs-facts.5").read_text()
    asked = set()
    for path in (ROOT / "kopsfs" / "spec").rglob("*.py"):
        asked |= set(re.findall(r'facts?\.?(?:get|need)?\(\s*"([a-z]+)",\s*"([a-z_]+)"', path.read_text()))
    assert len(asked) > 10
    for cloud, name in asked | {(cloud, name) for cloud, name in ZONES.items()}:
        heading = FACTS_OF.get(cloud, cloud)
        section = next(part for part in page.split(".Ss ")[1:] if heading in part.split("\n", 1)[0])
        assert re.search(rf"\b{name}\b", section), f"{cloud}.{name}"
