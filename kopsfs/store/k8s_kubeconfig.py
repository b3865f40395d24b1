"""What does a kubeconfig say?  Read by the `kubernetes` client, in a process of its own (`outside.py`).

The client knows what may stand there and merges several files; it reads certificates and token files, runs exec plugins and
renews tokens of OIDC. It takes 30 MB and half a second, so what it found goes back to the daemon as a row of plain data:

    context, user, namespace     which context was found (asked for the context)
    login                        the row below, if nothing had to be run for it; else null (asked for the context)
    url, proxy, server_name      of the server; verify: whether its certificate counts
    authorization                the header's value; token_file: where the token lies, if it may be replaced there
    authority, certificate, key  [path, ""] of a file, or ["", bytes in base64]
    ran                          whether a program was run for it, or a token renewed
    ends                         when all that ends, in Unix seconds; null: never, or nobody knows

Source: client-go tools/clientcmd (loader.go, client_config.go DeferredLoadingClientConfig).
"""

from __future__ import annotations

import base64
import importlib
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from kopsfs.errors import ConfigError, KopsfsError, RefusedError

Row = dict[str, Any]

_client: Any = importlib.import_module("kubernetes.client")  # its types are as good as none
_config: Any = importlib.import_module("kubernetes.config")
_kube_config: Any = importlib.import_module("kubernetes.config.kube_config")


def outside(question: str, name: str, *files: str) -> Row:
    """Answer `context NAME FILES…`, `login CONTEXT FILES…` or `account DIRECTORY`. Raises ConfigError, RefusedError."""
    try:
        match question:
            case "context":
                return _context(name, files)
            case "login":
                return _login(name, files)
            case _:
                return _account(Path(name))
    except (_config.ConfigException, OSError, ValueError) as error:
        raise RefusedError("open", detail=f"{os.pathsep.join(files) or name}: {_one_line(error)}") from error


def _context(name: str, files: Sequence[str]) -> Row:
    """Find a context; an empty name means the current one. Runs nothing."""
    origin = os.pathsep.join(files)
    config = _merged(files).config.value
    contexts = {str(each["name"]): each.value.get("context") or {} for each in config["contexts"]}
    name = name or config.get("current-context") or ""
    there = ", ".join(contexts) or "none"
    if not name:
        raise ConfigError(f"{origin} has no current context: write k8s://CONTEXT; there are: {there}")
    if name not in contexts and name.rpartition("@")[2] in contexts:
        name = name.rpartition("@")[2]  # as kops reads it: url.Parse takes what is before the @ for a user
    if name not in contexts:
        raise ConfigError(f"{origin} has no context {name}: write k8s://CONTEXT; there are: {there}")
    context = contexts[name]
    if str(context.get("cluster")) not in {str(each["name"]) for each in config["clusters"]}:
        raise ConfigError(f"context {name} of {origin} has no cluster: `kubectl config set-context {name}`")
    user = str(context.get("user") or "nobody")
    return {
        "context": name,
        "user": user,
        "namespace": str(context.get("namespace") or ""),
        "login": None
        if any(_runs(each) for each in config["users"] if str(each["name"]) == user)
        else _soon(name, files),
    }


def _runs(user: Any) -> bool:
    return bool({"exec", "auth-provider"} & set(user.value.get("user") or ()))


def _soon(name: str, files: Sequence[str]) -> Row | None:
    """What is wrong with it is for the first request to say."""
    try:
        return _login(name, files)
    except (_config.ConfigException, KopsfsError, OSError, ValueError):
        return None


def _merged(files: Sequence[str]) -> Any:
    origin = os.pathsep.join(files)
    paths = [path for path in files if Path(path).exists()]
    if not paths:
        raise ConfigError(f"no kubeconfig at {origin}: set KUBECONFIG, or make one with `kubectl config`")
    try:
        merger = _kube_config.KubeConfigMerger(os.pathsep.join(paths))
    except (_config.ConfigException, yaml.YAMLError, OSError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"cannot read the kubeconfig {origin}: {_one_line(error)}") from error
    if merger.config is None:
        raise ConfigError(f"the kubeconfig {origin} is empty: set KUBECONFIG to another")
    return merger


def _login(name: str, files: Sequence[str]) -> Row:
    merger = _merged(files)
    context = merger.config["contexts"].get_with_name(name)["context"]
    cluster = merger.config["clusters"].get_with_name(context["cluster"])["cluster"]
    users = [each for each in merger.config["users"].value if each["name"] == context.safe_get("user")]
    user = (users[0].value.get("user") or {}) if users else {}
    ran, ends = bool(users) and _runs(users[0]), None
    if "exec" in user and not {"auth-provider", "token", "tokenFile"} & set(user):
        ends = _run_plugin(users[0].path, user, cluster)
    found = _client.Configuration()
    with tempfile.TemporaryDirectory(prefix="kopsfs-") as unpacked:
        loader = _kube_config.KubeConfigLoader(
            config_dict=merger.config,
            active_context=name,
            config_base_path=None,
            config_persister=merger.save_changes if "auth-provider" in user else None,
            temp_file_path=unpacked,
        )
        loader.load_and_set(found)
        row = _row(found, unpacked)
    if (expiry := getattr(loader, "expiry", None)) is not None:
        ends = expiry.timestamp()
    if "tokenFile" in user and not {"token", "auth-provider"} & set(user):
        row["token_file"] = str(Path(users[0].path).absolute().parent / user["tokenFile"])
    return row | {"ran": ran, "ends": ends, "proxy": str(cluster.value.get("proxy-url") or "")}


def _run_plugin(file: str, user: Row, cluster: Any) -> float | None:
    """Run an exec plugin and put what it says in the place of its entry; give when that ends."""
    plugin = user["exec"]
    command = plugin.get("command", "")
    try:
        entry = _kube_config.ConfigNode("exec", plugin, file)
        provider = _kube_config.ExecProvider(entry, str(Path(file).resolve().parent), cluster)
        said = provider.run() or {}
    except FileNotFoundError as error:
        hint = " ".join(str(plugin.get("installHint") or f"install {command}, or set PATH").split())
        raise RefusedError("open", detail=f"the exec plugin {command} is not there: {hint}") from error
    except (_config.ConfigException, OSError, AttributeError) as error:
        raise RefusedError("open", detail=f"the exec plugin {command} fails: {_one_line(error)}") from error
    del user["exec"]
    if "token" in said:
        user["token"] = said["token"]
    for name, there in (("client-certificate-data", "clientCertificateData"), ("client-key-data", "clientKeyData")):
        if there in said:
            user[name] = base64.b64encode(said[there].encode()).decode()
    if not {"token", "client-certificate-data"} & set(user):
        raise RefusedError("open", detail=f"the exec plugin {command} gives neither a token nor a certificate")
    ends = said.get("expirationTimestamp")
    return datetime.fromisoformat(str(ends)).timestamp() if ends else None


def _account(directory: Path) -> Row:
    """Read the pod's own account."""
    found, token = _client.Configuration(), str(directory / "token")
    _config.incluster_config.InClusterConfigLoader(
        token, str(directory / "ca.crt"), try_refresh_token=False
    ).load_and_set(found)
    return {**_row(found, ""), "ran": False, "ends": None, "proxy": "", "token_file": token}


def _row(found: Any, unpacked: str) -> Row:
    """Give what the client found; what it has unpacked into files of its own goes along."""

    def bytes_of(path: str | None) -> list[str]:
        if path and unpacked and Path(path).is_relative_to(unpacked):
            return ["", base64.b64encode(Path(path).read_bytes()).decode()]
        return [path or "", ""]

    return {
        "url": str(found.host or "").rstrip("/"),
        "server_name": str(found.tls_server_name or ""),
        "verify": found.verify_ssl is not False,
        "authority": bytes_of(found.ssl_ca_cert),
        "certificate": bytes_of(found.cert_file),
        "key": bytes_of(found.key_file),
        "authorization": str((found.api_key or {}).get("BearerToken") or "").strip(),
        "token_file": "",
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
