"""How do the parts of one store's file system come together?

The daemon mounts what this makes; the tests and the CLI use it without a kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from kopsfs.fs.cache import Cache
from kopsfs.fs.committer import Committer
from kopsfs.fs.content import Content
from kopsfs.fs.journal import Journal
from kopsfs.fs.parts import Parts
from kopsfs.fs.refresh import Refresh
from kopsfs.fs.seen import Seen
from kopsfs.fs.spool import SpoolDirectory
from kopsfs.fs.tree import Tree
from kopsfs.fs.writeback import Writeback
from kopsfs.store import Store

SIZE_MAX = 1 << 40
"""Largest file in bytes, where the store itself would take more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the file system was told; the names are those of `config.Config` and mean the same."""

    prefix: str = ""
    """The mounted prefix, for what is decided by the whole key."""
    max_staleness_s: float = 1.0
    refresh_s: float = 5.0
    revalidate_budget_s: float = 1.0
    request_budget_s: float = 10.0
    watch: tuple[str, ...] = ()
    prefetch: str = "auto"
    prefetch_size_bytes: int = 64 << 20
    memory_size_bytes: int = 64 << 20
    secrets_on_disk: bool = False
    upload_delay_s: float = 0.02
    delete_delay_s: float = 10.0
    uid: int = 0
    gid: int = 0
    umask: int = 0
    read_only: bool = False
    write_through: bool = False
    fsync_journal: bool = False


def assemble(
    store: Store,
    journal: Journal,
    cache: Cache,
    options: Options,
    *,
    guard: Callable[[str, bytes | None, int, int], str],
    findings: dict[str, list[str]],
    services: trio.Nursery,
    committer: Committer | None = None,
    spool_directory: SpoolDirectory | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> Parts:
    """Join the parts; journal and cache are loaded. Starts the committer; sends no request."""
    tree = Tree(prefix=options.prefix, now_ns=now_ns, attributes=journal.attributes)
    committer = committer or Committer(journal)
    committer.start()
    content = Content(
        store,
        cache,
        memory_size_bytes=options.memory_size_bytes,
        secrets_on_disk=options.secrets_on_disk,
        prefix=options.prefix,
        nursery=services,
        request_budget_s=options.request_budget_s,
    )
    refresh = _refresh(tree, store, content, cache, options, services)
    content.on_newer = refresh.learn
    seen = Seen()
    writeback = Writeback(
        tree,
        store,
        content,
        journal,
        committer,
        refresh,
        seen,
        upload_delay_s=options.upload_delay_s,
        nursery=services,
    )
    return Parts(
        store=store,
        tree=tree,
        journal=journal,
        committer=committer,
        content=content,
        refresh=refresh,
        writeback=writeback,
        seen=seen,
        spool_directory=spool_directory or SpoolDirectory(journal.spool_path),
        guard=guard,
        findings=findings,
        uid=options.uid,
        gid=options.gid,
        umask=options.umask,
        read_only=options.read_only,
        write_through=options.write_through,
        fsync_journal=options.fsync_journal,
        delete_delay_s=options.delete_delay_s,
        size_max=min(store.capabilities.object_size_max, SIZE_MAX),
    )


def _refresh(
    tree: Tree, store: Store, content: Content, cache: Cache, options: Options, services: trio.Nursery
) -> Refresh:
    return Refresh(
        tree,
        store,
        content,
        cache,
        max_staleness_s=options.max_staleness_s,
        refresh_s=options.refresh_s,
        revalidate_budget_s=options.revalidate_budget_s,
        request_budget_s=options.request_budget_s,
        watch=options.watch,
        prefetch=options.prefetch,
        prefetch_size_bytes=options.prefetch_size_bytes,
        nursery=services,
    )
