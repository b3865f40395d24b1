"""Is an additional object one kops would fight with?

Source: kops pkg/apis/kops/validation/additionalobjects.go:ValidateAdditionalObject.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, invalid
from kopsfs.spec.validation.rule import rules
from kopsfs.spec.validation.view import get

SCHEDULER_GROUP = "kubescheduler.config.k8s.io"


@rules(
    "additionalobjects.go:validateAdditionalObjectKubescheduler",
    "scheduler-kubeconfig",
    "scheduler-kubeconfig-type",
)
def additional_object(data: dict[str, Any], path: Path) -> Iterator[Finding]:
    group = str(data.get("apiVersion") or "").rpartition("/")[0]
    if data.get("kind") != "KubeSchedulerConfiguration" or group != SCHEDULER_GROUP:
        return
    where = path.child("clientConnection", "kubeconfig")
    connection = data.get("clientConnection")
    value = get(connection, "kubeconfig")
    if (connection is not None and not isinstance(connection, dict)) or not isinstance(value, str | None):
        yield invalid(where, value, "not a string", rule="scheduler-kubeconfig-type")
    elif value:
        yield invalid(where, value, "kops sets it itself", rule="scheduler-kubeconfig")
