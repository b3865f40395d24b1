"""What clusters and instance groups say about nodes alike: hooks, files, sysctls, updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, forbidden, invalid, required
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.values import scaled
from kopsfs.spec.validation.view import SPEC, flag, get, items, text


@rules(
    "validation.go:validateHookSpec",
    "hook-content",
    "hook-raw-container",
    "hook-raw-manifest",
    "hook-raw-before",
    "hook-raw-requires",
    "hook-image",
)
def hook(entry: dict[str, Any], path: Path) -> Iterator[Finding]:
    """A unit or a container that runs on a node; a hook that is switched off may say anything."""
    if entry.get("enabled") is False:
        return
    container, manifest, raw = entry.get("execContainer"), text(entry, "manifest"), flag(entry, "useRawManifest")
    if container is None and not manifest:
        yield required(path, "a hook has a manifest or an execContainer", rule="hook-content")
    if container is not None and raw:
        yield forbidden(path, "useRawManifest is for a manifest, not for execContainer", rule="hook-raw-container")
    if raw and not manifest:
        yield required(path, "useRawManifest needs a manifest", rule="hook-raw-manifest")
    if raw and entry.get("before") is not None:
        yield forbidden(path, "before belongs into the raw manifest", rule="hook-raw-before")
    if raw and entry.get("requires") is not None:
        yield forbidden(path, "requires belongs into the raw manifest", rule="hook-raw-requires")
    if container is not None and not text(container, "image"):
        yield required(path.child("execContainer", "image"), "the container's image", rule="hook-image")


@rules("validation.go:validateFileAssetSpec", "file-asset-name", "file-asset-content")
def file_asset(entry: dict[str, Any], path: Path) -> Iterator[Finding]:
    if not text(entry, "name"):
        yield required(path.child("name"), "the file's name", rule="file-asset-name")
    if not text(entry, "content"):
        yield required(path.child("content"), "what the file holds", rule="file-asset-content")


@rules("validation.go:validateClusterSpec", "update-policy")
def update_policy(spec: dict[str, Any]) -> Iterator[Finding]:
    value = get(spec, "updatePolicy")
    if value is not None:
        yield from one_of(SPEC.child("updatePolicy"), value, ("automatic", "external"), "update-policy")


@rules("validation.go:validateClusterSpec", "sysctl-parameter")
def sysctls(spec: dict[str, Any]) -> Iterator[Finding]:
    for index, entry in enumerate(items(spec, "sysctlParameters")):
        if "=" not in entry:
            yield invalid(SPEC.child("sysctlParameters").index(index), entry, "expected NAME=VALUE")


@rules(
    "validation.go:validateRollingUpdate",
    "rolling-unavailable",
    "rolling-unavailable-negative",
    "rolling-surge",
    "rolling-surge-control-plane",
    "rolling-surge-negative",
    "rolling-nothing",
)
def rolling_update(data: dict[str, Any], path: Path, *, control_plane: bool) -> Iterator[Finding]:
    """How many nodes may be missing or surplus: numbers or percentages, not both zero."""
    expected = "expected a number or a percentage"
    unavailable: int | None = 1
    value = data.get("maxUnavailable")
    if value is not None:
        unavailable = scaled(value, 1, up=False)
        if unavailable is None:
            yield invalid(path.child("maxUnavailable"), value, expected, rule="rolling-unavailable")
        elif unavailable < 0:
            detail = "must not be negative"
            yield invalid(path.child("maxUnavailable"), value, detail, rule="rolling-unavailable-negative")
    value = data.get("maxSurge")
    if value is None:
        return
    surge = scaled(value, 1000, up=True)
    if surge is None:
        yield invalid(path.child("maxSurge"), value, expected, rule="rolling-surge")
    if control_plane and surge:
        detail = "control planes cannot surge"
        yield forbidden(path.child("maxSurge"), detail, rule="rolling-surge-control-plane")
    elif surge is not None and surge < 0:
        yield invalid(path.child("maxSurge"), value, "must not be negative", rule="rolling-surge-negative")
    if not unavailable and not surge:
        detail = "maxUnavailable and maxSurge cannot both be zero"
        yield forbidden(path.child("maxSurge"), detail, rule="rolling-nothing")
