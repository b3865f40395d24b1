"""How do the tests get a real OpenStack Swift with a real Keystone?

    with swift() as server:
        container = server.new_container()
        driver = open_driver(parse(f"swift://{container}"), Settings(environ=server.environment))

Swift's proxy, account, container and object server with one replica, and Keystone as a WSGI program with SQLite and
Fernet tokens, all from PyPI in a virtual environment of their own below `.work/`; memcached is Debian's. Swift has no
packaged way to run outside /etc and /srv, so every file it needs is written afresh below a scratch directory. About
25 s to start, 500 MB. The storage servers need user xattrs below the scratch directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.store.servers import free_ports, program, wait_for_answer
from tests.support import packages
from tests.support.sweeper import scratch

STORAGE = ("account", "container", "object")
KEYSTONE_WSGI = """
import sys
listen, sys.argv[1:] = sys.argv[1], []
import waitress
from keystone.server.wsgi import initialize_public_application
waitress.serve(initialize_public_application(), listen=listen, threads=4)
"""
"""Keystone reads the command line itself, so the address is taken off it first."""
RINGS = """
import sys
from swift.common.ring import RingBuilder
for path, port in zip(sys.argv[1::2], sys.argv[2::2]):
    ring = RingBuilder(4, 1, 0)
    ring.add_dev(dict(region=1, zone=1, ip="127.0.0.1", port=int(port), device="disk", weight=1.0))
    ring.rebalance()
    ring.get_ring().save(path)
"""
UPDATER = """
import sys
from swift.common import utils
utils.set_swift_dir(sys.argv[1])
from swift.obj.updater import main
sys.argv[1:] = [sys.argv[1] + "/updater.conf", "once"]
main()
"""


@dataclass(frozen=True)
class SwiftServer:
    """A running Swift, and the names by which to log in to its Keystone."""

    keystone: str
    """With `/v3`."""
    storage: str
    """Of the project that `environment` logs in to."""
    user_id: str
    project_id: str
    credential_id: str
    credential_secret: str
    token_seconds: int
    update: Callable[[], None]
    """Let listings catch up with objects that a stopped container server missed."""
    container_server: Callable[[bool], None]
    """Stop (False) or start (True) the server of listings."""

    @property
    def environment(self) -> dict[str, str]:
        """A user's openrc for kops."""
        return {
            "OS_AUTH_URL": self.keystone,
            "OS_REGION_NAME": "RegionOne",
            "OS_USERNAME": "kops",
            "OS_PASSWORD": "kops-secret",
            "OS_PROJECT_NAME": "kops",
            "OS_DOMAIN_NAME": "Default",
        }

    @property
    def stranger(self) -> dict[str, str]:
        """A user without a role in anybody else's project."""
        return {**self.environment, "OS_USERNAME": "other", "OS_PASSWORD": "other-secret", "OS_PROJECT_NAME": "other"}

    def token(self) -> str:
        """A token of its own for the tests' client."""
        return _login(self.keystone, "kops", "kops-secret", "kops")

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Do something as another client; `path` begins with a container and is quoted already."""
        request = urllib.request.Request(
            f"{self.storage}/{path}", body if method in {"PUT", "POST"} else None, method=method
        )
        for name, value in {"X-Auth-Token": self.token(), **(headers or {})}.items():
            request.add_header(name, value)
        return _exchange(request)

    def new_container(self) -> str:
        """An empty container of its own for a test."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        status, _, body = self.call("PUT", name)
        assert status == 201, body
        return name

    def put(self, container: str, key: str, data: bytes, **headers: str) -> None:
        """Store an object as another client."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, body = self.call("PUT", f"{container}/{quote(key)}", data, named)
        assert status == 201, body


def _exchange(request: urllib.request.Request) -> tuple[int, dict[str, str], bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def _login(keystone: str, user: str, password: str, project: str) -> str:
    identity = {"methods": ["password"], "password": {"user": {"name": user, "password": password}}}
    identity["password"]["user"]["domain"] = {"id": "default"}  # type: ignore[index]
    auth = {"identity": identity, "scope": {"project": {"name": project, "domain": {"id": "default"}}}}
    request = urllib.request.Request(f"{keystone}/auth/tokens", json.dumps({"auth": auth}).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    status, headers, body = _exchange(request)
    assert status == 201, body
    return {name.lower(): value for name, value in headers.items()}["x-subject-token"]


# -- what they read -----------------------------------------------------------------------------------


def _ini(path: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items()), ""]
    path.write_text("\n".join(lines))


def _write_keystone(home: Path, token_seconds: int) -> None:
    _ini(
        home / "etc" / "keystone.conf",
        {
            "DEFAULT": {"log_file": home / "log" / "keystone-server.log"},
            "database": {"connection": f"sqlite:///{home}/keystone.db"},
            "fernet_tokens": {"key_repository": home / "fernet"},
            "credential": {"key_repository": home / "credential"},
            # keystonemiddleware logs in anew for every validation where tokens live under two minutes.
            "identity": {"password_hash_rounds": 4},
            # Without the second line an expired token lives on for two days in services that ask for it.
            "token": {"provider": "fernet", "expiration": token_seconds, "allow_expired_window": 0},
        },
    )


def _write_swift(home: Path, ports: Mapping[str, int]) -> None:
    etc = home / "etc"
    keystone = f"http://127.0.0.1:{ports['keystone']}/v3"
    _ini(etc / "swift.conf", {"swift-hash": {"swift_hash_path_suffix": secrets.token_hex(8)}})
    shared = {
        "bind_ip": "127.0.0.1",
        "workers": 0,
        "swift_dir": etc,
        "devices": home / "node",
        "mount_check": "false",
        "user": _user(),
        # Swift's half a second, 1, 3 and 10 s are for machines that have nothing else to do: an object server that is
        # not told in time answers before the listing shows the object, and a proxy leaves such a server out.
        "conn_timeout": 30,
        "node_timeout": 60,
        "container_update_timeout": 60,
        "error_suppression_limit": 1_000_000,
        # There is no syslog: with an address of its own and `-v` the servers log to stderr.
        "log_udp_host": "127.0.0.1",
        "log_udp_port": 9,
        "log_level": "WARNING",
    }
    for kind in STORAGE:
        sections = {
            "DEFAULT": {**shared, "bind_port": ports[kind]},
            "pipeline:main": {"pipeline": f"{kind}-server"},
            f"app:{kind}-server": {"use": f"egg:swift#{kind}"},
        }
        _ini(etc / f"{kind}.conf", sections)
        if kind == "object":
            _ini(etc / "updater.conf", {**sections, "object-updater": {}})
    filters: dict[str, dict[str, object]] = {
        name: {"use": f"egg:swift#{name}"}
        for name in ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "dlo", "symlink")
    }
    filters["cache"] = {"use": "egg:swift#memcache", "memcache_servers": f"127.0.0.1:{ports['memcached']}"}
    filters["slo"] = {"use": "egg:swift#slo", "min_segment_size": 1}
    filters["versioned_writes"] = {"use": "egg:swift#versioned_writes", "allow_object_versioning": "true"}
    filters["keystoneauth"] = {
        "use": "egg:swift#keystoneauth",
        "reseller_prefix": "KEY",
        "operator_roles": "admin, member",
    }
    filters["authtoken"] = {
        "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory",
        "www_authenticate_uri": keystone,
        "auth_url": keystone,
        "auth_type": "password",
        "username": "admin",
        "password": "admin-secret",
        "project_name": "admin",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "interface": "public",
        "delay_auth_decision": "true",
        "service_token_roles_required": "true",
        "cache": "swift.cache",
    }
    order = (
        "catch_errors gatekeeper healthcheck cache listing_formats bulk authtoken keystoneauth"
        " copy slo dlo versioned_writes symlink proxy-server"
    )
    _ini(
        etc / "proxy.conf",
        {
            "DEFAULT": {**shared, "bind_port": ports["proxy"]},
            "pipeline:main": {"pipeline": order},
            "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": "true"},
            **{f"filter:{name}": values for name, values in filters.items()},
        },
    )


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


# -- starting -----------------------------------------------------------------------------------------


class _Servers:
    """The programs, each with its log."""

    def __init__(self, at: Path, home: Path, ports: Mapping[str, int], programs: contextlib.ExitStack) -> None:
        self.bin = at
        self.home = home
        self._ports = ports
        self._programs = programs
        self._container: contextlib.ExitStack | None = None

    def log(self, name: str) -> Path:
        return self.home / "log" / f"{name}.log"

    def do(self, name: str, *command: str) -> None:
        """Run a program to its end."""
        with self.log(name).open("ab") as output:
            ended = subprocess.run([self.bin / command[0], *command[1:]], stdout=output, stderr=output, check=False)
        if ended.returncode:
            tail = "\n".join(self.log(name).read_text(errors="replace").splitlines()[-20:])
            pytest.fail(f"{' '.join(command)} ended with {ended.returncode}:\n{tail}")

    def start(self, name: str, *command: str) -> None:
        env = {"OS_KEYSTONE_CONFIG_DIR": str(self.home / "etc")}
        self._programs.enter_context(program(list(command), self.log(name), env))

    def swift(self, kind: str) -> list[str]:
        return [str(self.bin / f"swift-{kind}-server"), str(self.home / "etc" / f"{kind}.conf"), "-v"]

    def container_server(self, run: bool) -> None:
        if not run and self._container is not None:
            self._container.close()
            self._container = None
        elif run and self._container is None:
            self._container = contextlib.ExitStack()
            self._container.enter_context(program(self.swift("container"), self.log("swift-container")))
            self.wait_for("container")

    def wait_for(self, kind: str) -> None:
        """The proxy remembers for a minute that a server did not answer."""
        wait_for_answer(f"http://127.0.0.1:{self._ports[kind]}/", None, self.log(f"swift-{kind}"))

    def update(self) -> None:
        self.do("updater", "python", "-c", UPDATER, str(self.home / "etc"))


@contextlib.contextmanager
def swift(token_seconds: int = 3600) -> Iterator[SwiftServer]:
    """Swift 2.38 and Keystone 30. Creation under `If-None-Match: *` is not atomic there; `If-Match` is ignored."""
    at = packages.swift()
    names = ("keystone", "memcached", "proxy", *STORAGE)
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with scratch("swift") as home, contextlib.ExitStack() as programs:
        for name in ("etc", "log", "fernet", "credential", "node/disk"):
            (home / name).mkdir(parents=True, mode=0o700)
        _write_keystone(home, token_seconds)
        _write_swift(home, ports)
        servers = _Servers(at, home, ports, programs)
        rings = (word for kind in STORAGE for word in (str(home / "etc" / f"{kind}.ring.gz"), str(ports[kind])))
        servers.do("rings", "python", "-c", RINGS, *rings)
        programs.callback(servers.container_server, False)
        memcached = ["-l", "127.0.0.1", "-p", str(ports["memcached"]), "-U", "0", "-u", _user(), "-m", "32"]
        servers.start("memcached", "memcached", *memcached)
        for kind in ("account", "object", "proxy"):
            servers.start(f"swift-{kind}", *servers.swift(kind))
        base = _bootstrap(servers, ports)  # while those start
        servers.start("keystone", str(servers.bin / "python"), "-c", KEYSTONE_WSGI, f"127.0.0.1:{ports['keystone']}")
        servers.container_server(True)
        for kind in ("account", "object"):
            servers.wait_for(kind)
        wait_for_answer(base, None, servers.log("keystone"))
        proxy = f"http://127.0.0.1:{ports['proxy']}"
        wait_for_answer(f"{proxy}/healthcheck", None, servers.log("swift-proxy"))
        yield _populate(base, proxy, token_seconds, servers)


def _bootstrap(servers: _Servers, ports: Mapping[str, int]) -> str:
    """Make Keystone's keys and database; give its URL."""
    base = f"http://127.0.0.1:{ports['keystone']}/v3"
    manage = ("keystone-manage", "--config-file", str(servers.home / "etc" / "keystone.conf"))
    for kind in ("fernet", "credential"):
        for number in "01":  # what `fernet_setup` and `credential_setup` do, some seconds each
            (servers.home / kind / number).write_bytes(urlsafe_b64encode(secrets.token_bytes(32)))
            (servers.home / kind / number).chmod(0o600)
    servers.do("setup", *manage, "db_sync")
    urls = (word for kind in ("public", "internal") for word in (f"--bootstrap-{kind}-url", base))
    region = ("--bootstrap-region-id", "RegionOne")
    servers.do("setup", *manage, "bootstrap", "--bootstrap-password", "admin-secret", *region, *urls)
    return base


def _populate(base: str, proxy: str, token_seconds: int, servers: _Servers) -> SwiftServer:
    """Two projects with a user each, the service catalogue, an application credential."""

    tokens: dict[str, tuple[str, float]] = {}
    """Of each user, with when the next one is due."""

    def token(who: str) -> str:
        if who not in tokens or time.monotonic() > tokens[who][1]:
            tokens[who] = (_login(base, who, f"{who}-secret", who), time.monotonic() + token_seconds / 10)
        return tokens[who][0]

    def ask(method: str, path: str, fields: Mapping[str, Any] | None = None, who: str = "admin") -> Any:
        body = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(f"{base}/{path}", body, method=method)
        request.add_header("X-Auth-Token", token(who))
        request.add_header("Content-Type", "application/json")
        status, _, answer = _exchange(request)
        assert status < 300, answer
        return json.loads(answer) if answer else None

    def create(kind: str, **fields: object) -> str:
        return str(ask("POST", f"{kind}s", {kind: fields})[kind]["id"])

    role = ask("GET", "roles?name=member")["roles"][0]["id"]
    made = {}
    for name in ("kops", "other"):
        project = create("project", name=name, domain_id="default")
        user = create("user", name=name, password=f"{name}-secret", domain_id="default")
        ask("PUT", f"projects/{project}/users/{user}/roles/{role}")
        made[name] = (project, user)
    service = create("service", type="object-store", name="swift")
    for interface in ("public", "internal"):
        url = f"{proxy}/v1/KEY_%(project_id)s"
        create("endpoint", service_id=service, interface=interface, region_id="RegionOne", url=url)
    project, user = made["kops"]
    fields = {"application_credential": {"name": "kopsfs"}}
    credential = ask("POST", f"users/{user}/application_credentials", fields, "kops")["application_credential"]
    return SwiftServer(
        keystone=base,
        storage=f"{proxy}/v1/KEY_{project}",
        user_id=user,
        project_id=project,
        credential_id=credential["id"],
        credential_secret=credential["secret"],
        token_seconds=token_seconds,
        update=servers.update,
        container_server=servers.container_server,
    )
