"""How is the cluster autoscaler run, where it is wanted?"""

from kopsfs.spec import versions
from kopsfs.spec.inference.cluster import KUBERNETES_VERSION
from kopsfs.spec.rules import Draft, Rule, constants

_SOURCE = "pkg/model/components/clusterautoscaler.go:ClusterAutoscalerOptionsBuilder"
_CAS = "spec.clusterAutoscaler"


def _wanted(draft: Draft) -> bool:
    return draft.get(f"{_CAS}.enabled") is True


def _image(draft: Draft) -> None:
    if _wanted(draft):
        release = versions.release(draft.text(KUBERNETES_VERSION))
        minor = release.minor if release else -1
        tag = versions.CLUSTER_AUTOSCALER.get(minor, versions.CLUSTER_AUTOSCALER_OTHER)
        draft.default(f"{_CAS}.image", f"registry.k8s.io/autoscaling/cluster-autoscaler:{tag}")


def _priorities(draft: Draft) -> None:
    if _wanted(draft) and draft.text(f"{_CAS}.expander") == "priority":
        draft.force(f"{_CAS}.createPriorityExpanderConfig", value=True)


RULES = (
    Rule("cluster-autoscaler-image", (f"{_CAS}.image",), _SOURCE, _image),
    constants(
        "cluster-autoscaler-constants",
        _SOURCE,
        _CAS,
        (
            ("expander", "random"),
            ("ignoreDaemonSetsUtilization", False),
            ("scaleDownUtilizationThreshold", "0.5"),
            ("skipNodesWithCustomControllerPods", True),
            ("skipNodesWithLocalStorage", True),
            ("skipNodesWithSystemPods", True),
            ("balanceSimilarNodeGroups", False),
            ("emitPerNodegroupMetrics", False),
            ("awsUseStaticInstanceList", False),
            ("newPodScaleUpDelay", "0s"),
            ("scaleDownDelayAfterAdd", "10m0s"),
            ("scaleDownUnneededTime", "10m0s"),
            ("scaleDownUnreadyTime", "20m0s"),
            ("maxNodeProvisionTime", "15m0s"),
        ),
        _wanted,
    ),
    Rule("cluster-autoscaler-priorities", (f"{_CAS}.createPriorityExpanderConfig",), _SOURCE, _priorities),
)
