"""Which etcd version runs?"""

from kopsfs.spec import versions
from kopsfs.spec.inference.cluster import KUBERNETES_VERSION
from kopsfs.spec.rules import Draft, Rule


def _version(draft: Draft) -> None:
    for number, _ in enumerate(draft.items("spec.etcdClusters")):
        draft.default(
            f"spec.etcdClusters[{number}].version",
            versions.lookup(versions.ETCD, draft.text(KUBERNETES_VERSION)),
        )


RULES = (
    Rule(
        "etcd-version",
        ("spec.etcdClusters[*].version",),
        "pkg/model/components/etcd.go:EtcdOptionsBuilder",
        _version,
    ),
)
