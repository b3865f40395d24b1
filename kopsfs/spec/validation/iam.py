"""Are additional policies, external policies and service account permissions well-formed?

Source: kops pkg/apis/kops/validation/validation.go:validateAdditionalPolicy, validateExternalPolicies, validateSAExternalPermissions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kopsfs.spec.field import Finding, Path, duplicate, forbidden, invalid, required
from kopsfs.spec.validation.rule import one_of, rules
from kopsfs.spec.validation.values import arn_resource
from kopsfs.spec.validation.view import CONTROL_PLANE, ROLES, SPEC, Cluster, fields, flag, get, items, text

POLICY_ROLES = tuple("control-plane" if role == CONTROL_PLANE else role.lower() for role in ROLES)
EFFECTS = ("Allow", "Deny")


def policies(cluster: Cluster) -> Iterator[Finding]:
    """Policies by role of node."""
    path = SPEC.child("additionalPolicies")
    for role, policy in sorted(fields(cluster.spec, "additionalPolicies").items()):
        yield from additional_policy(role, policy, path)
    path = SPEC.child("externalPolicies")
    for role, arns in sorted(fields(cluster.spec, "externalPolicies").items()):
        yield from external_policies(role, arns, path)


@rules(
    "validation.go:validateAdditionalPolicy",
    "policy-role",
    "policy-json",
    "policy-effect-required",
    "policy-effect",
)
def additional_policy(role: str, policy: str, path: Path) -> Iterator[Finding]:
    """A JSON list of IAM statements."""
    yield from one_of(path, role, POLICY_ROLES, "policy-role")
    statements = _statements(policy)
    if statements is None:
        yield invalid(path.key(role), policy, "not a JSON list of IAM statements", rule="policy-json")
        return
    for index, statement in enumerate(statements):
        where = path.key(role).index(index).child("Effect")
        effect = next((value for name, value in statement.items() if name.lower() == "effect"), "")
        if not effect:
            yield required(where, "Allow or Deny", rule="policy-effect-required")
        else:
            yield from one_of(where, effect, EFFECTS, "policy-effect")


def _statements(policy: str) -> list[dict[str, Any]] | None:
    """The statements, None where Go's decoder would fail: a wrong type somewhere, or no JSON."""
    try:
        data = json.loads(policy)
    except (ValueError, RecursionError):
        return None
    if data is None:
        return []
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        return None
    types: dict[str, tuple[type, ...]] = {
        "effect": (str,), "action": (str, list), "resource": (str, list), "condition": (dict,), "principal": (dict,),
    }  # fmt: skip
    for entry in data:
        for name, value in entry.items():
            wanted = types.get(name.lower())
            if wanted is not None and value is not None and not isinstance(value, wanted):
                return None
            if isinstance(value, list) and not all(isinstance(word, str) for word in value) and wanted:
                return None
    return data


@rules("validation.go:validateExternalPolicies", "external-policy-role", "external-policy-arn")
def external_policies(role: str, arns: list[str], path: Path) -> Iterator[Finding]:
    yield from one_of(path, role, POLICY_ROLES, "external-policy-role")
    for arn in arns or ():
        if not (arn_resource(arn) or "").startswith("policy/"):
            detail = "expected the ARN of a policy, arn:aws:iam::123456789012:policy/NAME"
            yield invalid(path.child(role), arn, detail, rule="external-policy-arn")


def cluster_iam(cluster: Cluster) -> Iterator[Finding]:
    """What spec.iam and spec.karpenter say."""
    yield from iam_legacy(cluster)
    yield from service_accounts(cluster)
    yield from karpenter_iam(cluster)


@rules("validation.go:validateClusterSpec", "iam-legacy")
def iam_legacy(cluster: Cluster) -> Iterator[Finding]:
    if flag(cluster.spec, "iam", "legacy"):
        yield forbidden(SPEC.child("iam", "legacy"), "there are no legacy permissions any more")


@rules("validation.go:validateClusterSpec", "karpenter-iam")
def karpenter_iam(cluster: Cluster) -> Iterator[Finding]:
    if flag(cluster.spec, "karpenter", "enabled") and not flag(
        cluster.spec, "iam", "useServiceAccountExternalPermissions"
    ):
        detail = "Karpenter needs iam.useServiceAccountExternalPermissions"
        yield forbidden(SPEC.child("karpenter", "enabled"), detail)


@rules(
    "validation.go:validateSAExternalPermissions",
    "service-account-namespace",
    "service-account-name",
    "service-account-twice",
    "service-account-aws",
    "service-account-policy",
    "service-account-policies",
)
def service_accounts(cluster: Cluster) -> Iterator[Finding]:
    path = SPEC.child("iam", "serviceAccountExternalPermissions")
    seen: set[str] = set()
    for entry in items(cluster.spec, "iam", "serviceAccountExternalPermissions"):
        namespace, name = text(entry, "namespace"), text(entry, "name")
        key = f"{namespace}/{name}"
        where = path.key(key)
        if not namespace:
            yield required(where.child("namespace"), "the account's namespace", rule="service-account-namespace")
        if not name:
            yield required(where.child("name"), "the account's name", rule="service-account-name")
        if key in seen:
            yield duplicate(where, key, rule="service-account-twice")
        seen.add(key)
        aws = get(entry, "aws")
        if aws is None:
            yield required(where.child("aws"), "what the account may do on AWS", rule="service-account-aws")
            continue
        arns, inline = items(aws, "policyARNs"), text(aws, "inlinePolicy")
        if not arns and not inline:
            detail = "policyARNs or inlinePolicy"
            yield required(where.child("aws"), detail, rule="service-account-policy")
        if arns and inline:
            detail = "policyARNs and inlinePolicy exclude each other"
            yield forbidden(where.child("aws"), detail, rule="service-account-policies")
