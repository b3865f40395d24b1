"""Is a URL read as kops reads it, and refused in kops's words?

The rows are those of kops's own functions, checked once against Go 1.26's `net/url` on 120,000 random
URLs (every accepted one the same, every refused one refused).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from kopsfs.errors import ConfigError
from kopsfs.store import Location, cloud_for, open_store, parse
from kopsfs.store.url import go_quote

ENDPOINT = {"S3_ENDPOINT": "https://nyc3.digitaloceanspaces.com"}


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/a/b", "b", "a/b"),
        ("s3://b//x", "b", "/x"),
        ("s3://b/a%20b", "b", "a b"),
        ("s3://b/a%2Fb", "b", "a/b"),
        ("s3://b/a%2520b", "b", "a%20b"),
        ("s3://b/a+b", "b", "a+b"),
        ("s3://b/a?x=1", "b", "a"),
        ("s3://b/a?x=1?y", "b", "a"),
        ("s3://b/a#f", "b", "a"),
        ("s3://b?x", "b", ""),
        ("s3://user:pw@b/k", "b", "k"),
        ("s3://user@b/k@l", "b", "k@l"),
        ("s3://b:9000/k", "b:9000", "k"),
        ("s3://b:/k", "b:", "k"),
        ("s3://Bucket/Key", "Bucket", "Key"),
        ("s3://b_1.x-y/k", "b_1.x-y", "k"),
        ("s3://b/caf%C3%A9/日本", "b", "café/日本"),
        ("s3://b/a b", "b", "a b"),
        ("gs://b/k", "b", "k"),
        ("swift://c/k", "c", "k"),
        ("oss://b/k", "b", "k"),
        ("k8s://context", "context", ""),
        ("k8s://", "", ""),
        ("k8s:///c1.example.com/pki", "", "c1.example.com/pki"),
        ("k8s://prod/c1.example.com/", "prod", "c1.example.com/"),
        ("k8s://admin@kubernetes/c1", "admin@kubernetes", "c1"),
        ("k8s://arn%3Aaws%3Aeks%3Aeu-1%3A1%3Acluster%2Fprod/c1", "arn:aws:eks:eu-1:1:cluster/prod", "c1"),
        ("k8s://ctx/a%20b?x#y", "ctx", "a b"),
        ("do://b/k", "b", "k"),
        ("scw://b/k", "b", "k"),
        ("hos://b/k", "b", "k"),
        ("linode://b/k", "b", "k"),
        ("azureblob://account/container", "account/container", ""),
        ("azureblob://account/container/a/b", "account/container", "a/b"),
        ("memfs://demo", "demo", ""),
        ("memfs://demo/a%20b?x", "demo", "a%20b?x"),
        ("file:///x", "/x", ""),
        ("file://x/y", "x/y", ""),
        ("file:///a%20b?x#y", "/a%20b?x#y", ""),
        ("/x/y", "/x/y", ""),
        ("x/y", "x/y", ""),
        ("s3:/b", "s3:/b", ""),
        ("file:/x", "file:/x", ""),
    ],
)
def test_a_url_is_read_as_kops_reads_it(url: str, bucket: str, key: str) -> None:
    location = parse(url, ENDPOINT)
    assert (location.bucket, location.key) == (bucket, key)
    assert location.scheme == (url.split("://")[0] if "://" in url else "file")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s3://b/%zz", 'invalid s3 path: "s3://b/%zz"'),
        ("s3://b%41/k", 'invalid s3 path: "s3://b%41/k"'),
        ("s3:///a", 'invalid s3 path: "s3:///a"'),
        ("s3://", 'invalid s3 path: "s3://"'),
        ("s3://b:x/k", 'invalid s3 path: "s3://b:x/k"'),
        ("s3://a b/k", 'invalid s3 path: "s3://a b/k"'),
        ("s3://b/k#%z", 'invalid s3 path: "s3://b/k#%z"'),
        ("s3://b/a\nb", 'invalid s3 path: "s3://b/a\\nb"'),
        ("S3://B/k", 'unknown / unhandled path type: "S3://B/k"'),
        ("ftp://b", 'unknown / unhandled path type: "ftp://b"'),
        ("https://s3.amazonaws.com/b/k", 'unknown / unhandled path type: "https://s3.amazonaws.com/b/k"'),
        ("://b", 'unknown / unhandled path type: "://b"'),
        ("do://", 'invalid spaces path: "do://"'),
        ("gs://", 'invalid google cloud storage path: "gs://"'),
        ("gs://b/%zz", 'invalid google cloud storage path: "gs://b/%zz"'),
        ("swift://", 'invalid swift path: "swift://"'),
        ("swift://b/%zz", 'invalid openstack cloud storage path: "swift://b/%zz"'),
        ("scw://", 'invalid bucket path: "scw://"'),
        ("hos://", 'invalid Hetzner object storage path: "hos://"'),
        ("hos://%", 'invalid Hetzner Object Storage path: "hos://%"'),
        ("linode://", 'invalid Linode object storage path: "linode://"'),
        ("k8s://%zz", 'invalid kubernetes vfs path: "k8s://%zz"'),
        (
            "azureblob://",
            'no storage account specified in "azureblob://"; expected azureblob://<account>/<container>/<key>',
        ),
        (
            "azureblob://account",
            'no container specified in "azureblob://account"; expected azureblob://<account>/<container>/<key>',
        ),
    ],
)
def test_a_url_is_refused_in_the_words_of_kops(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(url, ENDPOINT)
    assert str(error.value) == text


@pytest.mark.parametrize("scheme", ["do", "scw", "hos", "linode"])
def test_relatives_of_s3_need_an_endpoint(scheme: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f"{scheme}://b/k", {})
    assert str(error.value) == f'required S3_ENDPOINT env var for path: "{scheme}://b/k"'


def test_azure_wants_the_account_in_the_url_only() -> None:
    with pytest.raises(ConfigError, match=r"^unset AZURE_STORAGE_ACCOUNT; the storage account belongs in the URL"):
        parse("azureblob://account/container", {"AZURE_STORAGE_ACCOUNT": "account"})
    with pytest.raises(ConfigError, match=r"^unset AZURE_STORAGE_ACCOUNT"):
        parse("azureblob://account/container", {"AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_KEY": "k"})


def test_azure_urls_of_kops_1_34_begin_with_the_container() -> None:
    old = {"AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_KEY": "k"}
    location = parse("azureblob://container/a/b", old)
    assert (location.bucket, location.key) == ("account/container", "a/b")
    assert location == parse("azureblob://account/container/a/b", {})
    with pytest.raises(ConfigError, match="no storage account specified"):
        parse("azureblob:///a", old)


@pytest.mark.parametrize(
    "url", ["", "file://", "memfs://", "memfs:///k", "s3://b/../k", "s3://b/a/../../k", "s3://b/%FF"]
)
def test_what_means_no_store_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        parse(url)


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        *[("", ""), ("a", "a/"), ("a/", "a/"), ("a/b", "a/b/"), ("/x", "/x/"), ("/", "/"), ("a//b", "a/b/")],
        *[("a/./b", "a/b/"), ("a/../b", "b/"), (".", ""), ("//x", "/x/")],
    ],
)
def test_keys_begin_as_join_of_kops_lets_them_begin(key: str, prefix: str) -> None:
    assert Location(scheme="s3", bucket="b", key=key).prefix == prefix


def test_a_url_is_shown_without_credentials() -> None:
    assert parse("s3://AKIA:secret@b/k?token=secret").url == "s3://b/k"
    assert parse("s3://b/").url == "s3://b"


@pytest.mark.parametrize(
    ("url", "environ", "cloud"),
    [
        ("azureblob://a/c", {}, "azure"),
        ("do://b", {}, "digitalocean"),
        ("hos://b", {}, "hetzner"),
        ("gs://b", {}, "gce"),
        ("linode://b", {}, "linode"),
        ("scw://b", {}, "scaleway"),
        ("swift://b", {}, "openstack"),
        ("s3://b", {}, "aws"),
        ("s3://b", {"HCLOUD_TOKEN": ""}, "aws"),
        ("s3://b", {"HCLOUD_TOKEN": "x"}, "hetzner"),
        ("s3://b", {"LINODE_TOKEN": "x"}, "linode"),
        ("s3://b", {"LINODE_TOKEN": "x", "HCLOUD_TOKEN": "x"}, "hetzner"),
    ],
)
def test_the_cloud_is_guessed_as_kops_guesses_it(url: str, environ: dict[str, str], cloud: str) -> None:
    assert cloud_for(url, environ) == cloud


@pytest.mark.parametrize("url", ["file:///x", "/x", "memfs://x", "k8s://x", "oss://b", "S3://b"])
def test_no_cloud_is_guessed_where_kops_cannot(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        cloud_for(url, {})
    assert str(error.value) == f"cannot infer cloud provider from path: {go_quote(url)}"


def test_an_unknown_setting_is_a_bug_of_the_caller() -> None:
    with pytest.raises(TypeError):
        open_store("memfs://x", colour="blue")


@pytest.mark.parametrize(
    ("scheme", "package"),
    [("swift", "keystoneauth1"), ("oss", "alibabacloud_oss_v2"), ("k8s", "kubernetes"), ("k8s", "urllib3")],
)
def test_a_missing_package_is_named_before_the_mount(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kopsfs.store.url.find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(ConfigError) as error:
        open_store(f"{scheme}://state", environ={})
    assert str(error.value) == f"{scheme}:// needs {package}, which is not there: install kopsfs[{scheme}]"


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs"), ("azureblob", "azure")])
def test_a_driver_that_cannot_be_imported_names_what_is_missing(scheme: str, extra: str) -> None:
    program = f"""
import sys
sys.modules["pycurl"] = None
from kopsfs.store import open_store
open_store("{scheme}://account/state", environ={{}})
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    said = f"ConfigError: {scheme}:// needs pycurl, which is not there: install kopsfs[{extra}]"
    assert ended.stderr.splitlines()[-1].endswith(said)
