"""How is the AWS node termination handler run?  It is on unless Karpenter does its work."""

from kopsfs.spec.rules import Draft, constants

_SOURCE = "pkg/model/components/nodeterminationhandler.go:NodeTerminationHandlerOptionsBuilder"
_NTH = "spec.cloudProvider.aws.nodeTerminationHandler"


def _possible(draft: Draft) -> bool:
    return draft.has("spec.cloudProvider.aws") and draft.get("spec.karpenter.enabled") is not True


def _wanted(draft: Draft) -> bool:
    return _possible(draft) and draft.get(f"{_NTH}.enabled") is True


RULES = (
    constants("node-termination-handler", _SOURCE, _NTH, (("enabled", True),), _possible),
    constants(
        "node-termination-handler-constants",
        _SOURCE,
        _NTH,
        (
            ("deleteSQSMsgIfNodeNotFound", False),
            ("enableSpotInterruptionDraining", True),
            ("enableScheduledEventDraining", True),
            ("enableRebalanceMonitoring", False),
            ("enableRebalanceDraining", False),
            ("enableOutOfServiceTaint", False),
            ("prometheusEnable", False),
            ("excludeFromLoadBalancers", True),
            ("managedASGTag", "aws-node-termination-handler/managed"),
            ("podTerminationGracePeriod", -1),
            ("taintNode", False),
            ("cpuRequest", "50m"),
            ("memoryRequest", "64Mi"),
            ("version", "v1.25.5"),
        ),
        _wanted,
    ),
)
