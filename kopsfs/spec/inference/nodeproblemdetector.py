"""How is the node problem detector run, where it is mentioned?"""

from kopsfs.spec.rules import Draft, constants

_NPD = "spec.nodeProblemDetector"


def _mentioned(draft: Draft) -> bool:
    return draft.has(_NPD)


RULES = (
    constants(
        "node-problem-detector",
        "pkg/model/components/nodeproblemdetector.go:NodeProblemDetectorOptionsBuilder",
        _NPD,
        (
            ("enabled", False),
            ("cpuRequest", "20m"),
            ("memoryRequest", "100Mi"),
            ("memoryLimit", "100Mi"),
            ("image", "registry.k8s.io/node-problem-detector/node-problem-detector:v0.8.18"),
        ),
        _mentioned,
    ),
)
