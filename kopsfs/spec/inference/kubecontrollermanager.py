"""How is kube-controller-manager run, and who gives nodes their pod addresses and routes?"""

from kopsfs.spec import scalars
from kopsfs.spec.inference import images
from kopsfs.spec.inference.cluster import cloud, ipv6_only, name, uses
from kopsfs.spec.rules import Draft, Rule
from kopsfs.spec.validation.values import is_ipv6_cidr, network

_SOURCE = "pkg/model/components/kubecontrollermanager.go:KubeControllerManagerOptionsBuilder"
_KCM = "spec.kubeControllerManager"
_SECOND_NS = 10**9


def _sync_period(draft: Draft) -> None:
    field = f"{_KCM}.attachDetachReconcileSyncPeriod"
    have = draft.get(field)
    period_ns = scalars.duration_ns(have) if have is not None else 0
    if period_ns == 0:
        draft.force(field, "1m0s")
    elif period_ns < _SECOND_NS:
        draft.fail("AttachDetachReconcileSyncPeriod cannot be set to less than 1 second", field=field, value=have)


def _flags(draft: Draft) -> None:
    draft.force(f"{_KCM}.clusterName", name(draft))
    draft.force(f"{_KCM}.cloudProvider", "external")
    draft.default(f"{_KCM}.logLevel", 2)
    draft.force(f"{_KCM}.image", images.component(draft, "kube-controller-manager"))
    draft.force(f"{_KCM}.leaderElection.leaderElect", value=True)
    draft.default(f"{_KCM}.useServiceAccountCredentials", value=True)


def _cidrs(draft: Draft) -> None:
    """With IPv6 only, kops-controller gives nodes their ranges."""
    elsewhere = ipv6_only(draft)
    draft.force(f"{_KCM}.allocateNodeCIDRs", not elsewhere)
    if not elsewhere:
        draft.default(f"{_KCM}.clusterCIDR", draft.text("spec.networking.podCIDR"))
    pods = draft.text(f"{_KCM}.clusterCIDR")
    if is_ipv6_cidr(pods):
        net = network(pods)
        assert net is not None
        draft.force(f"{_KCM}.nodeCIDRMaskSize", net.prefixlen + min((128 - net.prefixlen) // 2, 16))


def _routes(draft: Draft) -> None:
    """Kubenet alone has its routes made here; where the cloud aliases addresses, its own manager gives out ranges."""
    draft.force(f"{_KCM}.configureCloudRoutes", uses(draft, "kubenet"))
    if uses(draft, "kubenet"):
        return
    if uses(draft, "gcp") or (uses(draft, "kindnet") and cloud(draft) == "gce"):
        draft.force(f"{_KCM}.allocateNodeCIDRs", value=False)


def _controllers(draft: Draft) -> None:
    if not draft.items(f"{_KCM}.controllers") and ipv6_only(draft):
        draft.force(f"{_KCM}.controllers", ["*", "-nodeipam"])


RULES = (
    Rule("kcm-sync-period", (f"{_KCM}.attachDetachReconcileSyncPeriod",), _SOURCE, _sync_period),
    Rule(
        "kcm-flags",
        (
            f"{_KCM}.clusterName",
            f"{_KCM}.cloudProvider",
            f"{_KCM}.logLevel",
            f"{_KCM}.image",
            f"{_KCM}.leaderElection.leaderElect",
            f"{_KCM}.useServiceAccountCredentials",
        ),
        _SOURCE,
        _flags,
    ),
    Rule(
        "kcm-cidrs",
        (f"{_KCM}.allocateNodeCIDRs", f"{_KCM}.clusterCIDR", f"{_KCM}.nodeCIDRMaskSize"),
        _SOURCE,
        _cidrs,
    ),
    Rule("kcm-routes", (f"{_KCM}.configureCloudRoutes", f"{_KCM}.allocateNodeCIDRs"), _SOURCE, _routes),
    Rule("kcm-controllers", (f"{_KCM}.controllers[*]",), _SOURCE, _controllers),
)
