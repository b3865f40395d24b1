"""What does an API server need before it can be a state store?  `k8s crds`."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from kopsfs.cli import naming, program

APPROVAL: Final = {"api-approved.kubernetes.io": "unapproved, kops's own group"}
"""Without it no definition of a group below k8s.io is taken. Source: apiextensions v1 types.go, KubeAPIApprovedAnnotation."""

_EPILOG = """\
examples:
  kopsfs k8s crds | kubectl apply -f -                  install them; needs the right to write customresourcedefinitions
  kopsfs k8s crds | kubectl diff -f -                   what that would change
  kopsfs mount k8s:// /mnt/state                        then mount the current context
  kopsfs mount k8s://prod/c1.example.com /mnt/c1        one cluster of the context prod

They take whatever a kops document says and check nothing. kops ships definitions with every field, in k8s/crds of its
sources; where those are installed, leave them: kopsfs works with either.

exit status: 0; 2 usage
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `k8s`."""
    parser = program.add_command(
        subparsers, "k8s", "Print the definitions of kops's resources that k8s:// needs, for kubectl apply.", _EPILOG
    )
    parser.add_argument("action", choices=("crds",), help="print the CustomResourceDefinitions")
    naming.add_output(parser, ("yaml", "json"))
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from kopsfs.spec import writer

    items = definitions()
    if parsed.output == "json":
        sys.stdout.write(writer.to_json([{"apiVersion": "v1", "kind": "List", "items": items}]))
    else:
        sys.stdout.write(writer.stream(items))
    return 0


def definitions() -> list[dict[str, Any]]:
    """Give the CustomResourceDefinitions of what k8s:// keeps as kops's own objects.

    Source: kops k8s/crds/*.yaml for names, scope and version.
    """
    from kopsfs.store.k8s_layout import DOCUMENTS

    short = {"InstanceGroup": ["ig"]}
    made = []
    for kind in DOCUMENTS:
        names: dict[str, Any] = {"kind": kind.kind, "listKind": f"{kind.kind}List", "plural": kind.plural}
        names |= {"singular": kind.kind.lower(), **({"shortNames": short[kind.kind]} if kind.kind in short else {})}
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": kind.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        spec = {"group": kind.group, "names": names, "scope": "Namespaced", "versions": [version]}
        head = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        made.append({**head, "metadata": {"name": kind.name, "annotations": APPROVAL}, "spec": spec})
    return made
