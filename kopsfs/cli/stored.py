"""How are the files of a store read and written that is not mounted?

`Stored` is a `Workspace` over a `Store` in this process, without a file system, a cache or a journal: a cluster's
documents are one LIST and a GET each, side by side; of many clusters the next ones are fetched while one is worked on.
The store lives in a thread of its own with a trio loop; the command stays synchronous in the main thread, where Ctrl-C
arrives.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import trio

from kopsfs.cli.workspace import BELOW_CLUSTER, CHANGED, DEPTH_MAX, NO_BASES, WELL_KNOWN, is_document, no_cluster
from kopsfs.config import Config
from kopsfs.errors import ConflictError, InputError, NotFoundError, StoreError, TransientError
from kopsfs.spec import layout
from kopsfs.spec.composer import BYTES_MAX
from kopsfs.store import ABSENT, Expected, Key, ObjectInfo, Page, Prefix, Store, Version, open_store

T = TypeVar("T")

AHEAD: Final = 32
"""Clusters that are fetched while one is worked on."""
LISTINGS_MAX: Final = 10_000
"""Directories that are looked into for clusters: 5 cents at S3's prices."""
LISTINGS_AT_ONCE: Final = 64
CLOSE_BUDGET_S: Final = 5.0
LAST: Final = "\U0010ffff"
"""Behind every name a program makes up."""
SKIPPED: Final = f"backups/{LAST}"
"""What etcd-manager writes: most objects of a cluster, and none of them is read here."""


@dataclass(slots=True)
class _Cluster:
    """What is known of a cluster's files.

    Attributes:
        infos: path below the cluster → what a LIST said.
        whole: all files but backups are in it, else those that documents may lie among.
        data: path → version and bytes.
    """

    infos: dict[str, ObjectInfo]
    whole: bool
    data: dict[str, tuple[Version, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class _Job:
    """A cluster on its way."""

    done: trio.Event = field(default_factory=trio.Event)
    cluster: _Cluster | None = None
    error: Exception | None = None


class _Loop:
    """A trio loop in a thread."""

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self._at_end = at_end
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="store", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        try:
            async with trio.open_nursery() as self.nursery:
                self._token = trio.lowlevel.current_trio_token()
                self._ready.set()
                await trio.sleep_forever()
        finally:
            with trio.move_on_after(CLOSE_BUDGET_S / 2, shield=True):
                await self._at_end()

    def call(self, act: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run it there, wait here."""
        return trio.from_thread.run(act, *arguments, trio_token=self._token)

    def close(self) -> None:
        if self._thread.is_alive():
            self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
            self._thread.join(CLOSE_BUDGET_S)


class Stored:
    """A state store that this process asks itself; every method may raise StoreError.

    Cost: 1 LIST for a store of up to 1,000 objects, however many of its clusters are read; of a larger one 1 LIST a
    cluster (2 for `whole`, where a page ends in its backups), and to find its clusters 2 more and 1 per 1,000 of them.
    1 GET a file that is read, none for an empty one.
    """

    def __init__(self, config: Config) -> None:
        logger = logging.getLogger("kopsfs")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # what goes wrong is told once, as the command's error
        self.name = config.state
        self._budget_s = config.request_budget_s
        self._store: Store = open_store(
            config.state,
            state_dir=config.state_dir if config.state_dir.is_dir() else None,
            **config.store_settings,
        )
        self._limit = trio.CapacityLimiter(LISTINGS_AT_ONCE)
        self._loop = _Loop(self._store.aclose)
        self._names: list[str] | None = None
        self._known: dict[str, _Cluster] = {}
        """Clusters that were listed while they were looked for; of their bytes, `config`."""
        self._jobs: dict[str, _Job] = {}
        self._order: dict[str, int] = {}
        self._queue: Sequence[str] = ()
        self._wanted: Callable[[str], bool] = is_document
        self._whole = False
        self._listings = 0

    def close(self) -> None:
        self._loop.close()

    def cost(self) -> str:
        requests = {verb: number for verb, number in sorted(self._store.requests.items()) if number}
        prices = self._store.capabilities.price_per_1000
        cost_usd = sum(prices.get(verb, 0.0) * number / 1000 for verb, number in requests.items())
        words = ", ".join(f"{verb} {number:,}" for verb, number in requests.items())
        return f"{self.name} was asked {words or 'nothing'}" + (f"; about ${cost_usd:.6f}" if cost_usd else "")

    def _call(self, act: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        try:
            return self._loop.call(act, *arguments)
        except StoreError as error:
            if not error.key.startswith(self.name):
                error.key = f"{self.name}/{error.key}".removesuffix("/")
            raise

    async def _within(self, op: str, key: str, act: Callable[[], Awaitable[T]]) -> T:
        """Within the budget of a request. Raises TransientError."""
        with trio.move_on_after(self._budget_s):
            return await act()
        raise self._late(op, key)

    def _late(self, op: str, key: str) -> TransientError:
        error = self._store.health.last_error or f"no answer within {self._budget_s:g} s"
        return TransientError(op, key, error + ("; it may have acted all the same" if op in {"put", "delete"} else ""))

    # -- which clusters ---------------------------------------------------------------------------

    def store_url(self) -> str:
        return "" if self.name.startswith(NO_BASES) else self.name

    def clusters(self) -> list[str]:
        """Their names.

        Raises:
            InputError: there are too many directories to look into.
        """
        if self._names is None:
            self._names = self._call(self._find)
        return self._names

    async def _find(self) -> list[str]:
        page = await self._page("")
        if page.token is None:
            infos = {str(info.key): info for info in page.objects}
            names = _clusters_among(infos)
            for name in names:
                below = {path[len(name) + 1 :]: info for path, info in infos.items() if path.startswith(f"{name}/")}
                self._known[name] = _Cluster(
                    {path: info for path, info in below.items() if not path.startswith("backups/")}, whole=True
                )
            return names
        found: list[str] = []
        await self._descend("", 0, found)
        return sorted(found)

    async def _descend(self, folder: str, depth: int, found: list[str]) -> None:
        """Look for clusters among the directories of one; inside of one, only as far as its documents go."""
        names: list[str] = []
        token: str | None = None
        is_cluster = False
        while True:
            page = await self._page(folder, delimiter=True, token=token)
            names += [prefix[len(folder) :].removesuffix("/") for prefix in page.prefixes]
            is_cluster = is_cluster or any(info.key == f"{folder}{layout.CONFIG}" for info in page.objects)
            token = page.token
            if token is None:
                break

        whole = self._whole

        async def look(name: str) -> None:
            path = f"{folder}{name}"
            listed = await (self._list_whole if whole else self._list_documents)(path)
            if layout.CONFIG in listed:
                kept = {
                    below: info for below, info in listed.items() if whole or "/" not in below or is_document(below)
                }
                self._known[path] = _Cluster(kept, whole)
                found.extend(f"{path}/{below}".removesuffix("/") for below in ("", *_clusters_among(listed)))
            elif depth + 1 < DEPTH_MAX:
                await self._descend(f"{path}/", depth + 1, found)

        await self._each(
            look, [name for name in names if not (name.startswith(".") or (is_cluster and name in BELOW_CLUSTER))]
        )

    async def _each(self, act: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
        """All of them side by side; the first error ends it."""
        errors: list[Exception] = []

        async def one(name: str) -> None:
            try:
                await act(name)
            except (StoreError, InputError) as error:
                errors.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, name)
        if errors:
            raise errors[0]

    # -- listing ----------------------------------------------------------------------------------

    async def _page(
        self, folder: str, *, delimiter: bool = False, token: str | None = None, start_after: str | None = None
    ) -> Page:
        """One LIST. Raises InputError when it is one too many."""
        self._listings += 1
        if self._listings > LISTINGS_MAX:
            raise InputError(
                f"more than {LISTINGS_MAX:,} directories in {self.name}; "
                "name the cluster, or a prefix that holds clusters only"
            )
        async with self._limit:
            return await self._within(
                "list",
                folder,
                lambda: self._store.list_page(
                    Prefix(folder), delimiter=delimiter, token=token, start_after=start_after
                ),
            )

    async def _list_documents(self, name: str) -> dict[str, ObjectInfo]:
        """What lies behind the backups of a cluster, as far as documents may. Cost: 1 LIST a page, mostly 1."""
        skip = self._store.capabilities.list_start_after
        return await self._collect(name, SKIPPED if skip else None, layout.KOPS_VERSION)

    async def _list_whole(self, name: str) -> dict[str, ObjectInfo]:
        """Everything but its backups, which are skipped as soon as one shows. Cost: 1 LIST a page, 1 more to skip."""
        return await self._collect(name, None, LAST)

    async def _collect(self, name: str, after: str | None, until: str) -> dict[str, ObjectInfo]:
        """The files of a cluster between two names."""
        folder = f"{name}/"
        found: dict[str, ObjectInfo] = {}
        token: str | None = None
        while True:
            page = await self._page(folder, token=token, start_after=None if after is None else folder + after)
            paths = {info.key[len(folder) :]: info for info in page.objects}
            found |= {path: info for path, info in paths.items() if path and not path.startswith("backups/")}
            last = next(reversed(paths), "")
            token, after = page.token, None
            if token is None or last > until:
                return found
            if last.startswith("backups/") and self._store.capabilities.list_start_after:
                token, after = None, SKIPPED

    # -- fetching ---------------------------------------------------------------------------------

    def ahead(self, clusters: Sequence[str], wanted: Callable[[str], bool], *, whole: bool = False) -> None:
        self._jobs = {}
        self._queue = clusters
        self._order = {name: number for number, name in enumerate(clusters)}
        self._wanted = wanted
        self._whole = whole

    def _cluster(self, name: str) -> _Cluster:
        return self._call(self._arrived, name)

    async def _arrived(self, name: str) -> _Cluster:
        """Wait for a cluster; those before it in the queue are done with, those behind it are on their way."""
        at = self._order.get(name)
        for each in (name,) if at is None else self._queue[at : at + AHEAD]:
            if each not in self._jobs:
                self._jobs[each] = _Job()
                self._loop.nursery.start_soon(self._load, each, self._jobs[each])
        if at is not None:
            for each in [each for each in self._jobs if self._order.get(each, at) < at]:
                del self._jobs[each]
        job = self._jobs[name]
        await job.done.wait()
        if job.error is not None:
            raise job.error
        assert job.cluster is not None
        return job.cluster

    async def _load(self, name: str, job: _Job) -> None:
        try:
            known = self._known.get(name, _Cluster({}, whole=False))
            if name in self._known and (known.whole or not self._whole):
                cluster = _Cluster(dict(known.infos), known.whole, dict(known.data))
            else:
                listing = self._list_whole if self._whole else self._list_documents
                cluster = _Cluster(await listing(name), self._whole, dict(known.data))
            if layout.CONFIG in cluster.infos:
                await self._fetch(name, cluster, [path for path in cluster.infos if self._wanted(path)])
            known.data.update({path: cluster.data[path] for path in (layout.CONFIG,) if path in cluster.data})
            job.cluster = cluster
        except Exception as error:  # noqa: BLE001 - it is raised where the cluster is waited for
            job.error = error
        finally:
            job.done.set()

    async def _fetch(self, name: str, cluster: _Cluster, paths: list[str]) -> None:
        """Have their bytes; one that went away is taken out. Cost: 1 GET each that is new and not empty."""
        keys: dict[Key, str] = {}
        for path in paths:
            info = cluster.infos[path]
            if path in cluster.data:
                continue
            if info.size > BYTES_MAX:
                raise InputError(f"{self.name}/{name}/{path}: {info.size:,} bytes; no document is that large")
            if info.size:
                keys[Key(f"{name}/{path}")] = path
            else:
                cluster.data[path] = (info.version, b"")
        errors: list[StoreError] = []

        def deliver(key: Key, info: ObjectInfo | None, data: bytes | None, error: StoreError | None) -> None:
            scope.deadline = trio.current_time() + self._budget_s
            if info is not None and data is not None:
                cluster.data[keys[key]] = (info.version, data)
            elif isinstance(error, NotFoundError):
                cluster.infos.pop(keys[key], None)
            elif error is not None:
                errors.append(error)
                scope.cancel()

        with trio.CancelScope(deadline=trio.current_time() + self._budget_s) as scope:
            await self._store.get_many(list(keys), deliver)
        if errors:
            raise errors[0]
        if scope.cancelled_caught:
            raise self._late("get", next(iter(keys)))

    # -- the files of a cluster -------------------------------------------------------------------

    def files(self, cluster: str) -> Iterator[str]:
        infos = self._call(self._all_of, cluster)
        others = {path.removesuffix(f"/{layout.CONFIG}") for path in infos if path.endswith(f"/{layout.CONFIG}")}
        seen = set()
        for path in infos:
            parts = path.split("/")
            for number, part in enumerate(parts[:-1], 1):
                folder = "/".join(parts[:number])
                if part.startswith(".") and part != WELL_KNOWN:
                    path = f"{folder}/"
                    break
                if folder in others:
                    path = ""
                    break
            if path and path not in seen:
                seen.add(path)
                yield path

    async def _all_of(self, name: str) -> list[str]:
        cluster = await self._arrived(name)
        if not cluster.whole:
            cluster.infos, cluster.whole = await self._list_whole(name), True
        return list(cluster.infos)

    def modified(self, cluster: str, path: str) -> float:
        info = self._cluster(cluster).infos.get(path)
        return info.mtime_ns / 1e9 if info is not None else 0.0

    def read(self, cluster: str, path: str) -> bytes | None:
        return self._call(self._read, cluster, path)

    async def _read(self, name: str, path: str) -> bytes | None:
        cluster = await self._arrived(name)
        if path in cluster.infos:
            await self._fetch(name, cluster, [path])
        return cluster.data[path][1] if path in cluster.data else None

    def manifest(self, cluster: str) -> dict[str, bytes]:
        return self._call(self._manifest, cluster)

    async def _manifest(self, name: str) -> dict[str, bytes]:
        cluster = await self._arrived(name)
        paths = [path for path in cluster.infos if is_document(path)]
        await self._fetch(name, cluster, paths)
        found = {path: cluster.data[path][1] for path in paths if path in cluster.data}
        config = found.pop(layout.CONFIG, None)
        if config is None:
            page = await self._page("", delimiter=True)
            names = [prefix.removesuffix("/") for prefix in page.prefixes if not prefix.startswith(".")]
            raise InputError(no_cluster(name, self.name, names))
        objects = found.pop(layout.ADDONS, b"")
        return {layout.CONFIG: config, **found, **({layout.ADDONS: objects} if objects else {})}

    def changed(self, cluster: str, manifest: Mapping[str, bytes]) -> str:  # noqa: ARG002 - versions tell
        """Told by versions. Cost: 1 LIST."""
        return self._call(self._changed, cluster)

    async def _changed(self, name: str) -> str:
        cluster = await self._arrived(name)
        now = {path: info.version for path, info in (await self._list_documents(name)).items() if is_document(path)}
        then = {path: version for path, (version, _) in cluster.data.items() if is_document(path)}
        return next((path for path in {**then, **now} if then.get(path) != now.get(path)), "")

    # -- writing ----------------------------------------------------------------------------------

    def write(self, cluster: str, path: str, data: bytes, *, expected: bytes | None) -> None:
        """Cost: 1 PUT, and what `Store.put` says."""
        self._call(self._write, cluster, path, data, expected)

    async def _write(self, name: str, path: str, data: bytes, expected: bytes | None) -> None:
        cluster = await self._arrived(name)
        key = Key(f"{name}/{path}")
        base = await self._base(name, cluster, path, expected)
        try:
            info = await self._within("put", key, lambda: self._store.put(key, data, len(data), expected=base))
        except ConflictError as error:
            raise ConflictError("put", key, CHANGED) from error
        cluster.infos[path] = info
        cluster.data[path] = (info.version, data)

    def remove(self, cluster: str, path: str, *, expected: bytes) -> None:
        """Cost: 1 DELETE, and what `Store.delete` says."""
        self._call(self._remove, cluster, path, expected)

    async def _remove(self, name: str, path: str, expected: bytes) -> None:
        cluster = await self._arrived(name)
        key = Key(f"{name}/{path}")
        base = await self._base(name, cluster, path, expected)
        await self._within("delete", key, lambda: self._store.delete(key, expected=base))
        del cluster.infos[path], cluster.data[path]

    async def _base(self, name: str, cluster: _Cluster, path: str, expected: bytes | None) -> Expected:
        """The version that holds the expected bytes."""
        if expected is None:
            return ABSENT
        await self._read(name, path)
        version, data = cluster.data.get(path, (Version(""), None))
        if data != expected:
            raise ConflictError("put", f"{name}/{path}", CHANGED)
        return version


def _clusters_among(paths: Collection[str]) -> list[str]:
    """Directories with a `config` among the paths of files; nothing below a directory of a cluster is one."""
    folders = {path.removesuffix(f"/{layout.CONFIG}") for path in paths if path.endswith(f"/{layout.CONFIG}")}
    root = {""} if layout.CONFIG in paths else set()
    found = []
    for folder in sorted(folders):
        parts = folder.split("/")
        above = [("/".join(parts[:number]), parts[number]) for number in range(len(parts))]
        hidden = any(part.startswith(".") or not part for part in parts)
        inside = any(parent in folders | root and part in BELOW_CLUSTER for parent, part in above)
        if len(parts) <= DEPTH_MAX and not hidden and not inside:
            found.append(folder)
    return found
