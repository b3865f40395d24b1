"""Which Kubernetes version and which images does a kops channel recommend?

A channel is a YAML file that kops fetches; here it is given. The ones shipped in the package (`tables/channel-*.json`) are
facts of the date they carry.

Source: kops pkg/apis/kops/channel.go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

from kopsfs.spec.document import read_one
from kopsfs.spec.field import Finding, Kind, RefusedError
from kopsfs.spec.validation.values import kubernetes_version, tolerant_version
from kopsfs.spec.versions import in_range

DEFAULT: Final = "stable"
NONE: Final = "none"
BASE_URL: Final = "https://raw.githubusercontent.com/kubernetes/kops/master/channels/"
SHIPPED: Final = ("stable", "alpha")


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel's content.

    Attributes:
        name: as in spec.channel.
        spec: `images`, `kopsVersions`, `kubernetesVersions`, `packages`.
        date: the day it was copied, "" when it is what the user gave.
        source: file or URL, for messages.
    """

    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    source: str = ""

    def kubernetes(self, kops_version: str) -> str | None:
        """The Kubernetes version a kops version gives to new clusters.  Source: RecommendedKubernetesVersion."""
        row = self.kops_row(kops_version)
        recommended = kubernetes_version(row.get("kubernetesVersion") or "") if row else None
        if recommended is None:
            return None
        pre = f"-{'.'.join(recommended.pre)}" if recommended.pre else ""
        return f"{recommended.major}.{recommended.minor}.{recommended.patch}{pre}"

    def kops_row(self, kops_version: str) -> dict[str, Any] | None:
        """The first row whose range holds this kops version.  Source: FindKopsVersionSpec."""
        mine = tolerant_version(kops_version)
        if mine is None:
            return None
        for row in self.spec.get("kopsVersions") or ():
            if not row.get("range") or in_range(row["range"], mine):
                return dict(row)
        return None

    def image(self, cloud: str, kubernetes: str, architecture: str) -> str | None:
        """The first image for this cloud, Kubernetes version and architecture.  Source: Channel.FindImage."""
        mine = kubernetes_version(kubernetes)
        for image in self.spec.get("images") or ():
            if image.get("providerID") != cloud:
                continue
            if image.get("architectureID") and image["architectureID"] != architecture:
                continue
            if image.get("kubernetesVersion") and (mine is None or not in_range(image["kubernetesVersion"], mine)):
                continue
            return str(image.get("name") or "")
        return None


def parse(text: str | bytes, name: str, source: str = "") -> Channel:
    """A channel from its file.

    Raises:
        RefusedError: not YAML, or not a channel.
    """
    document = read_one(text, source or name)
    spec = document.data.get("spec")
    if document.kind not in {"", "Channel"} or not isinstance(spec, dict):
        raise RefusedError(Finding(Kind.SYNTAX, "spec", f"{source or name} is no kops channel"))
    return Channel(name, spec, "", source)


def shipped(name: str) -> Channel | None:
    """The channel of this name in the package, None when there is none."""
    if name not in SHIPPED:
        return None
    text = resources.files("kopsfs.spec").joinpath("tables", f"channel-{name}.json").read_text("utf-8")
    data = json.loads(text)
    return Channel(name, data["spec"], data["date"], "shipped with kopsfs")
