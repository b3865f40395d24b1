"""What would these documents be when kops has completed them, and what stops it?

A thin layer over `spec.inference`: what refuses there becomes findings here. The documents are taken as they lie in a store,
so nothing is assigned first that kops would have assigned before storing them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from kopsfs.spec.conversion import Object
from kopsfs.spec.facts import Facts
from kopsfs.spec.field import RefusedError
from kopsfs.spec.validation.manifest import Found
from kopsfs.spec.validation.spelling import located


def assign(cluster: Object, facts: Facts) -> tuple[Object, list[Found]]:
    """The cluster as `kops create -f` would store it, or as it was with what stops that.

    Source: kops cmd/kops/create.go:RunCreate, upup/pkg/fi/cloudup/defaults.go:PerformAssignments.
    """
    from kopsfs.spec.inference.pipeline import assigned, stored

    try:
        draft = assigned(cluster, facts)
        stored(draft)
    except RefusedError as error:
        return cluster, [located(finding, cluster, "populate", "cluster") for finding in error.findings]
    return Object(draft.data, "Cluster", cluster.document), []


class Completion:
    """One cluster and its groups on the way to being complete.

    Attributes:
        completed: the cluster; as it was until `populate` has run.
        completed_groups: the groups likewise, until `populate_groups` has run.
    """

    def __init__(self, cluster: Object, groups: Sequence[Object], facts: Facts) -> None:
        self.completed = cluster
        self.completed_groups = list(groups)
        self._facts = facts
        self._draft: Any = None

    def populate(self) -> Iterator[Found]:
        """Complete the cluster; what stops that is found, else nothing."""
        from kopsfs.spec.inference.pipeline import populate_cluster
        from kopsfs.spec.rules import Draft

        draft = Draft(copy.deepcopy(self.completed.data), "Cluster", self._facts)
        try:
            populate_cluster(draft, [group.data for group in self.completed_groups])
        except RefusedError as error:
            for finding in error.findings:
                yield located(finding, self.completed, "populate", "cluster")
            return
        self._draft = draft
        self.completed = Object(draft.data, "Cluster", self.completed.document)

    def populate_groups(self) -> Iterator[Found]:
        """Complete each group, up to the first that cannot be."""
        from kopsfs.spec.inference.pipeline import populate_group

        assert self._draft is not None, "the cluster comes first"
        for number, group in enumerate(self.completed_groups):
            try:
                done = populate_group(group.data, self._draft, self._facts)
            except RefusedError as error:
                for finding in error.findings:
                    yield located(finding, group, "populate-ig", f"ig/{group.name}")
                return
            self.completed_groups[number] = Object(done.data, "InstanceGroup", group.document)
