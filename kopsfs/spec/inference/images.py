"""Under which name is a container image pulled?

Source: kops pkg/assets/builder.go:NormalizeImage, pkg/model/components/context.go:Image. Digests, which kops asks a registry for,
are not added: nothing here opens a socket.
"""

from __future__ import annotations

from kopsfs.spec.field import Finding, Kind, RefusedError
from kopsfs.spec.inference.cluster import KUBERNETES_VERSION
from kopsfs.spec.rules import Draft


def remap(draft: Draft, image: str) -> str:
    """An image's name behind spec.assets.containerProxy or containerRegistry."""
    proxy = draft.get("spec.assets.containerProxy")
    if proxy is not None:
        proxy = proxy.removesuffix("/")
        host, slash, rest = image.partition("/")
        if image.count("/") <= 1 and not any(char in host for char in ".:"):
            image = f"{proxy}/{image}"
        else:
            image = proxy + slash + rest
    registry = draft.get("spec.assets.containerRegistry")
    if registry is not None:
        image = image.removeprefix("registry.k8s.io/")
        if not image.startswith(f"{registry}/"):
            image = f"{registry}/{image.replace('/', '-')}"
    return image


def component(draft: Draft, name: str) -> str:
    """The image of one of Kubernetes's own components.

    Raises:
        RefusedError: the Kubernetes version is the URL of a build, whose tag only a download tells.
    """
    version = draft.text(KUBERNETES_VERSION)
    if version.startswith(("http:", "https:", "memfs:")):
        raise RefusedError(
            Finding(
                Kind.FACT,
                KUBERNETES_VERSION,
                f"the image tag of {name} is written in the build at {version}; give a released version to infer offline",
                version,
                rule=f"fact kubernetes.{name}",
            ),
        )
    return remap(draft, f"registry.k8s.io/{name}:v{version}")
