"""Which containerd runs the containers, and how?"""

from kopsfs.spec.inference import images
from kopsfs.spec.rules import Draft, Rule

_SOURCE = "pkg/model/components/containerd.go:ContainerdOptionsBuilder"
_CONTAINERD = "spec.containerd"

CONTAINERD_VERSION = "2.3.4"
RUNC_VERSION = "1.4.3"
SANDBOX_IMAGE = "registry.k8s.io/pause:3.10.1"
NVIDIA_DRIVER_PACKAGE = "nvidia-driver-535-server"
NVIDIA_PLUGIN_IMAGE = "nvcr.io/nvidia/k8s-device-plugin:v0.17.3"
GVISOR_PLATFORM = "systrap"


def _version(draft: Draft) -> None:
    """Who names a containerd version gets no runc version with it."""
    if draft.default(f"{_CONTAINERD}.version", CONTAINERD_VERSION, blank=True):
        draft.force(f"{_CONTAINERD}.runc.version", RUNC_VERSION)


def _log(draft: Draft) -> None:
    draft.force(f"{_CONTAINERD}.logLevel", "info")


def _sandbox(draft: Draft) -> None:
    draft.default(f"{_CONTAINERD}.sandboxImage", images.remap(draft, SANDBOX_IMAGE), blank=True)


def _nvidia(draft: Draft) -> None:
    if draft.get(f"{_CONTAINERD}.nvidiaGPU.enabled") is True:
        draft.default(f"{_CONTAINERD}.nvidiaGPU.package", NVIDIA_DRIVER_PACKAGE)
        draft.default(f"{_CONTAINERD}.nvidiaGPU.image", NVIDIA_PLUGIN_IMAGE)


def _gvisor(draft: Draft) -> None:
    if draft.get(f"{_CONTAINERD}.gvisor.enabled") is True:
        draft.default(f"{_CONTAINERD}.gvisor.platform", GVISOR_PLATFORM)


RULES = (
    Rule("containerd-version", (f"{_CONTAINERD}.version", f"{_CONTAINERD}.runc.version"), _SOURCE, _version),
    Rule("containerd-log-level", (f"{_CONTAINERD}.logLevel",), _SOURCE, _log),
    Rule("containerd-sandbox-image", (f"{_CONTAINERD}.sandboxImage",), _SOURCE, _sandbox),
    Rule("containerd-nvidia", (f"{_CONTAINERD}.nvidiaGPU.package", f"{_CONTAINERD}.nvidiaGPU.image"), _SOURCE, _nvidia),
    Rule("containerd-gvisor", (f"{_CONTAINERD}.gvisor.platform",), _SOURCE, _gvisor),
)
