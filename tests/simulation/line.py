"""Whether what is free is for a deployment: it may be kept for another one that waits longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_core.model.spec import DeploymentSpec
from serve_core.plan.records import DeploymentRecord
from tests.simulation.room import has_room

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


def may_take_room(cluster: Cluster, record: DeploymentRecord, spec: DeploymentSpec) -> bool:
    """Whether one more gang of this description, of a replica or of an actor, fits now, and has to wait for no other."""
    return has_room(cluster, spec) and not _comes_after(cluster, record)


def next_spec(record: DeploymentRecord) -> DeploymentSpec:
    """What a deployment that is not whole has to start."""
    good = record.revision(record.last_good) if record.terminal is not None and record.last_good is not None else None
    return good.spec if good is not None else record.target_spec


def _comes_after(cluster: Cluster, record: DeploymentRecord) -> bool:
    """Whether what is free may be kept for one that has waited longer, and for which it is not enough yet."""
    return any(
        # Of those that began to wait together, the first by name comes first.
        other.waiting_since > 0
        and (other.waiting_since, other.key) < (record.waiting_since, record.key)
        and not has_room(cluster, next_spec(other))
        for other in cluster.store.records.deployments.values()
    )
