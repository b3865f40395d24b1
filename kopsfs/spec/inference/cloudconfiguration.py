"""Does kops manage the storage classes?"""

from kopsfs.spec.rules import Draft, Rule


def _storage_classes(draft: Draft) -> None:
    chosen = draft.get("spec.cloudProvider.openstack.blockStorage.createStorageClass")
    draft.default("spec.cloudConfig.manageStorageClasses", chosen is not False)


RULES = (
    Rule(
        "manage-storage-classes",
        ("spec.cloudConfig.manageStorageClasses",),
        "pkg/model/components/cloudconfiguration.go:CloudConfigurationOptionsBuilder",
        _storage_classes,
    ),
)
