"""Is the table of packaging/doc/semantics.md what the drivers say of themselves?

Every scheme has its row, and its first four columns are the driver's `Capabilities`; a row whose name goes on behind the
scheme is a driver opened with that variable. The names that `make test-store` takes are the same schemes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from kopsfs.store.url import _DRIVERS, Settings, open_driver, parse
from tests.conftest import STORES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "packaging" / "doc" / "semantics.md"
CUSTOM = {"S3_ENDPOINT": "http://127.0.0.1:9", "S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "secret"}
ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "s3": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"},
    "s3 with S3_ENDPOINT": CUSTOM,
    **dict.fromkeys(("do", "scw", "hos", "linode"), CUSTOM),
    "gs with STORAGE_EMULATOR_HOST": {"STORAGE_EMULATOR_HOST": "127.0.0.1:9"},
    "azureblob": {"AZURE_STORAGE_KEY": "a2V5"},
    "swift": {
        "OS_AUTH_URL": "http://127.0.0.1:9/v3",
        "OS_USERNAME": "u",
        "OS_PASSWORD": "p",
        "OS_PROJECT_ID": "i",
        "OS_REGION_NAME": "r",
        "OS_DOMAIN_NAME": "Default",
    },
    "oss": {"OSS_REGION": "oss-cn-hangzhou", "ALIYUN_ACCESS_KEY_ID": "id", "ALIYUN_ACCESS_KEY_SECRET": "secret"},
}
URLS = {"azureblob": "azureblob://account/container", "k8s": "k8s://"}
TABLE = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").partition("\n## Store by store\n")[2].splitlines()
    if line.startswith("| `")
]


def test_every_scheme_has_a_row() -> None:
    assert {row[0].partition(" ")[0] for row in TABLE} == set(_DRIVERS)
    assert all(len(row) == 7 and all(row) for row in TABLE)


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_row_says_what_its_driver_says(row: list[str], tmp_path: Path) -> None:
    name, *said = row[:5]
    scheme = name.partition(" ")[0]
    config = tmp_path / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    environ = {"HOME": str(tmp_path), "KUBECONFIG": str(config), **ENVIRONMENTS.get(name, {})}
    url = URLS.get(scheme, f"{scheme}://bucket") if scheme != "file" else f"file://{tmp_path}"
    driver = open_driver(parse(url, environ), Settings(environ=environ))
    can = driver.capabilities
    assert said == [can.create_only, can.replace_if, can.delete_if, can.change_feed]
    driver.close()


def test_make_test_store_knows_every_scheme() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^STORES_KNOWN := (.*)$", text, re.MULTILINE)
    assert found is not None
    assert set(found[1].split()) == set(STORES) == set(_DRIVERS)
