"""How are the facts had that inference may not guess?  `facts collect`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from kopsfs.cli import naming, program
from kopsfs.errors import ConfigError, InputError
from kopsfs.spec.facts import CLOUDS

_EPILOG = """\
examples:
  kopsfs facts collect --cloud aws > facts.yaml
  kopsfs facts collect --cloud aws --region eu-central-1 > facts.yaml
  kopsfs infer c1.example.com --facts facts.yaml

Credentials are found as the cloud's own tools find them; requests only read. A question that is
refused leaves its fact out and is named on stderr. What a facts file may hold, and what to write by
hand for the other clouds: kopsfs-facts(5).

exit status: 0 everything was answered; 1 something was left out; 2 usage; 66 no collector; 78 no credentials or region
"""

BY_HAND: Final = {
    "azure": "azure:\n  vnets: []              # id, cidr and subnets of networks given by networkID\n"
    "  storage_accounts: []   # name and id of the account in configBase, unless storageAccountID is set",
    "digitalocean": "digitalocean:\n  dns_zones: []          # domain names, unless dns.type is None",
    "scaleway": "scaleway:\n  dns_zones: []          # domain names, unless dns.type is None",
}


def register(subparsers: program.Subparsers) -> None:
    """Add `facts`."""
    parser = program.add_command(
        subparsers, "facts", "Ask a cloud what inference needs to know, and print it as a facts file.", _EPILOG
    )
    parser.add_argument("action", choices=("collect",), metavar="collect", help="ask the cloud")
    parser.add_argument("--cloud", choices=CLOUDS, required=True, help="which cloud")
    parser.add_argument("--region", metavar="NAME", help="the region (aws; default: as the AWS tools find it)")
    parser.add_argument("--project", metavar="NAME", help="the project (gce; default: as gcloud's credentials name it)")
    naming.add_output(parser, ("yaml", "json"))
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.spec import writer

    left_out: list[str] = []

    def tell(text: str) -> None:
        left_out.append(text)
        program.complain(text)

    collectors: dict[str, Callable[[argparse.Namespace, Callable[[str], None]], dict[str, Any]]] = {
        "aws": _aws,
        "gce": _gce,
        "openstack": _openstack,
        "hetzner": _nothing,
        "linode": _nothing,
    }
    collector = collectors.get(parsed.cloud)
    if collector is None:
        raise InputError(
            f"there is no collector for {parsed.cloud}; write a facts file by hand (kopsfs-facts(5)):\n{BY_HAND[parsed.cloud]}"
        )
    facts = collector(parsed, tell)
    sys.stdout.write(f"{json.dumps(facts, indent=1)}\n" if parsed.output == "json" else writer.to_yaml(facts))
    return 1 if left_out else 0


def _nothing(parsed: argparse.Namespace, _tell: Callable[[str], None]) -> dict[str, Any]:
    """Nothing is asked of this cloud."""
    return {parsed.cloud: {}}


def _aws(parsed: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    boto3 = _library("boto3", "s3")
    from kopsfs.cli import collect

    session = boto3.Session()
    region = parsed.region or session.region_name
    if not region:
        raise ConfigError("no AWS region: --region, AWS_REGION, or a profile that names one")
    return collect.aws(session, region, tell)


def _gce(parsed: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    auth = _library("google.auth", "gs")
    requests = _library("google.auth.transport.requests", "gs")
    from kopsfs.cli import collect

    try:
        credentials, project = auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform.read-only"])
    except auth.exceptions.DefaultCredentialsError as error:
        raise ConfigError(f"no Google Cloud credentials: {error}") from error
    project = parsed.project or project
    if not project:
        raise ConfigError("no Google Cloud project: --project, or GOOGLE_CLOUD_PROJECT")
    session = requests.AuthorizedSession(credentials)

    def get(url: str, query: dict[str, str]) -> dict[str, Any]:
        answer = session.get(url, params=query, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    return collect.gce(get, project, tell)


def _openstack(_parsed: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    loading = _library("keystoneauth1.loading", "swift")
    exceptions = _library("keystoneauth1.exceptions", "swift")
    from kopsfs.cli import collect

    parser = argparse.ArgumentParser()
    loading.register_auth_argparse_arguments(parser, [], default="password")
    loading.register_session_argparse_arguments(parser)
    options = parser.parse_args([])
    session = loading.load_session_from_argparse_arguments(
        options, auth=loading.load_auth_from_argparse_arguments(options)
    )

    def get(path: str, service: str) -> dict[str, Any]:
        try:
            answer = session.get(path, endpoint_filter={"service_type": service}, timeout=30)
        except exceptions.ClientException as error:
            raise OSError(str(error)) from error
        return dict(answer.json())

    return collect.openstack(get, tell)


def _library(name: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed; pip install kopsfs[{extra}]") from error
