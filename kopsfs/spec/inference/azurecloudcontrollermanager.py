"""How is the Azure cloud controller manager run?"""

from kopsfs.spec.inference.cluster import cloud, uses
from kopsfs.spec.rules import Draft, Rule

_CCM = "spec.cloudControllerManager"
_IMAGES = "mcr.microsoft.com/oss/v2/kubernetes"
_VERSION = "v1.36.2"


def _flags(draft: Draft) -> None:
    """Azure's network drops packets to pods of plugins without an overlay unless there are routes."""
    if cloud(draft) != "azure":
        return
    draft.default(f"{_CCM}.image", f"{_IMAGES}/azure-cloud-controller-manager:{_VERSION}")
    draft.default(f"{_CCM}.azureNodeManagerImage", f"{_IMAGES}/azure-cloud-node-manager:{_VERSION}")
    draft.force(f"{_CCM}.leaderElection.leaderElect", value=True)
    draft.default(f"{_CCM}.logLevel", 2)
    draft.force(f"{_CCM}.configureCloudRoutes", uses(draft, "kubenet", "kindnet"))


RULES = (
    Rule(
        "azure-cloud-controller-manager",
        (
            f"{_CCM}.image",
            f"{_CCM}.azureNodeManagerImage",
            f"{_CCM}.leaderElection.leaderElect",
            f"{_CCM}.logLevel",
            f"{_CCM}.configureCloudRoutes",
        ),
        "pkg/model/components/azurecloudcontrollermanager.go:AzureCloudControllerManagerOptionsBuilder",
        _flags,
    ),
)
