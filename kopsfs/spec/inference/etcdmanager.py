"""Where does etcd-manager keep its backups, and how does it get its images?"""

from kopsfs.spec import versions
from kopsfs.spec.inference.cluster import at_least
from kopsfs.spec.rules import Draft, Rule

_SOURCE = "pkg/model/components/etcdmanager/options.go:EtcdManagerOptionsBuilder"


def _image_volume(draft: Draft) -> None:
    if at_least(draft, "1.32") and not at_least(draft, "1.36"):
        draft.default("spec.controlPlaneKubelet.featureGates[ImageVolume]", "true")


def _backup_store(draft: Draft) -> None:
    for number, etcd in enumerate(draft.items("spec.etcdClusters")):
        base = draft.text("spec.configStore.base")
        base = base if base.endswith("/") else base + "/"
        name = etcd.get("name", "").removeprefix("/")
        draft.default(f"spec.etcdClusters[{number}].backups.backupStore", f"{base}backups/etcd/{name}")
        version = draft.text(f"spec.etcdClusters[{number}].version")
        if not versions.etcd_is_bundled(version) and not draft.has(f"spec.etcdClusters[{number}].image"):
            draft.fail(
                f"etcd version {version!r} is not supported with etcd-manager: name a supported version "
                f"(up to {', '.join(versions.ETCD_BUNDLED)}), none, or also the image to run",
                field=f"spec.etcdClusters[{number}].version",
                value=version,
            )


RULES = (
    Rule("etcd-image-volume", ("spec.controlPlaneKubelet.featureGates[*]",), _SOURCE, _image_volume),
    Rule("etcd-backup-store", ("spec.etcdClusters[*].backups.backupStore",), _SOURCE, _backup_store),
)
