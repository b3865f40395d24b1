"""Which persistent-disk CSI driver runs on GCE?"""

from kopsfs.spec.rules import Draft, constants


def _on_gce(draft: Draft) -> bool:
    return draft.has("spec.cloudProvider.gce")


RULES = (
    constants(
        "gcp-pd-csi-driver",
        "pkg/model/components/gcppdcsidriver.go:GCPPDCSIDriverOptionsBuilder",
        "spec.cloudProvider.gce.pdCSIDriver",
        (("enabled", True), ("defaultStorageClassName", "balanced-csi"), ("version", "v1.22.1")),
        _on_gce,
    ),
)
