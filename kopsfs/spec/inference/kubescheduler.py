"""How is kube-scheduler run?"""

from kopsfs.spec.inference import images
from kopsfs.spec.rules import Draft, Rule

_SCHEDULER = "spec.kubeScheduler"


def _flags(draft: Draft) -> None:
    draft.default(f"{_SCHEDULER}.logLevel", 2)
    if not draft.text(f"{_SCHEDULER}.image"):
        draft.force(f"{_SCHEDULER}.image", images.component(draft, "kube-scheduler"))
    if not draft.has(f"{_SCHEDULER}.leaderElection"):
        draft.force(f"{_SCHEDULER}.leaderElection.leaderElect", value=True)


RULES = (
    Rule(
        "scheduler-flags",
        (f"{_SCHEDULER}.logLevel", f"{_SCHEDULER}.image", f"{_SCHEDULER}.leaderElection.leaderElect"),
        "pkg/model/components/kubescheduler.go:KubeSchedulerOptionsBuilder",
        _flags,
    ),
)
