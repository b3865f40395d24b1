"""How is Karpenter run, where it is mentioned?"""

from kopsfs.spec.rules import Draft, constants

_KARPENTER = "spec.karpenter"


def _mentioned(draft: Draft) -> bool:
    return draft.has(_KARPENTER)


RULES = (
    constants(
        "karpenter",
        "pkg/model/components/karpenter.go:KarpenterOptionsBuilder",
        _KARPENTER,
        (("image", "public.ecr.aws/karpenter/controller:1.13.0"), ("logFormat", "console"), ("logLevel", "debug")),
        _mentioned,
    ),
)
