"""Is the network plugin one kops still has?"""

from kopsfs.spec.rules import Draft, Rule


def _classic(draft: Draft) -> None:
    draft.make("spec.kubelet")
    if draft.has("spec.networking.classic"):
        draft.fail("classic networking not supported", field="spec.networking.classic")


RULES = (
    Rule(
        "networking-not-classic",
        ("spec.kubelet",),
        "pkg/model/components/networking.go:NetworkingOptionsBuilder",
        _classic,
    ),
)
