"""What is wrong with these files of one cluster?

From bytes to findings: what both the command line and tests call. Pure; who has the files decides where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kopsfs.spec.document import Document, read
from kopsfs.spec.field import RefusedError
from kopsfs.spec.validation.manifest import Found, load
from kopsfs.spec.validation.places import place
from kopsfs.spec.validation.spelling import located
from kopsfs.spec.validation.stages import Judge
from kopsfs.spec.validation.structure import SECRETIVE, belongs, scrubbed
from kopsfs.spec.validation.update import validate_update
from kopsfs.spec.validation.view import Cluster, items, text


def judge_files(
    judge: Judge, files: Mapping[str, bytes], *, kops_order: bool = False, placed: bool = False
) -> list[Found]:
    """Everything wrong with the documents of some files.

    Args:
        judge: how strictly, and what is known.
        files: name for messages, or path in the store, by content.
        kops_order: only kops's first stage that fails.
        placed: the names are paths in a store, so each file has to hold what belongs there.
    """
    documents, found = _read(files, placed=placed)
    manifest = load(documents)
    if kops_order:
        return found or judge.kops_order(manifest)
    return found + judge.everything(manifest, complete=not found)


def judge_change(
    old: bytes, files: Mapping[str, bytes], *, old_name: str = "old", created: bool = False
) -> list[Found]:
    """What of these files a stored cluster may not become.

    Args:
        old: the stored `config`.
        files: what is to be stored.
        old_name: for messages.
        created: the cluster runs, so its etcd clusters exist.
    """
    before, found = _read({old_name: old}, placed=False)
    after, _ = _read(files, placed=False)
    olds, news = load(before).clusters, load(after).clusters
    if len(olds) != 1 or len(news) != 1:
        return found
    view = Cluster(olds[0].data)
    names = frozenset(text(etcd, "name") for etcd in items(view.spec, "etcdClusters")) if created else frozenset()
    changes = validate_update(view, Cluster(news[0].data), created=names)
    return found + [located(finding, news[0], "update", "cluster") for finding in changes]


def _read(files: Mapping[str, bytes], *, placed: bool) -> tuple[list[Document], list[Found]]:
    documents: list[Document] = []
    found: list[Found] = []
    for name, data in files.items():
        try:
            here = read(data, name)
        except RefusedError as error:
            named = [replace(each, rule=each.rule or "syntax") for each in error.findings]
            hidden = place(name).role in SECRETIVE
            found += [Found(scrubbed(each) if hidden else each, "decode") for each in named]
            continue
        documents += here
        if placed:
            found += [Found(each, "structure") for each in belongs(place(name), here, name)]
    return documents, found
