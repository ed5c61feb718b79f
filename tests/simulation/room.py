"""Whether a gang would fit on what is free, judged by the books of the nodes and without the planner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.model.spec import DeploymentSpec

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

MICRO = 1e-6


def free_cpus(cluster: Cluster) -> dict[NodeId, float]:
    """What is not placed on each node; below zero where more is placed than there is."""
    free = {offer.node_id: offer.total.cpus for offer in cluster.nodes.offers}
    for placement in cluster.backend.accounts.placements:
        for bundle in placement.bundles:
            free[bundle.node_id] -= bundle.resources.cpus
    return free


def has_room(cluster: Cluster, spec: DeploymentSpec) -> bool:
    """Whether one more gang of this description fits now."""
    return _fits(cluster, spec, free_cpus(cluster))


def is_possible(cluster: Cluster, spec: DeploymentSpec) -> bool:
    """Whether a gang of this description would fit if nothing else ran."""
    return _fits(cluster, spec, {offer.node_id: offer.total.cpus for offer in cluster.nodes.offers})


def _fits(cluster: Cluster, spec: DeploymentSpec, free: Mapping[NodeId, float]) -> bool:
    cpus, gang = spec.resources.cpus + sum(bundle.cpus for bundle in spec.bundles), spec.gang
    holds = [int((free[node_id] + MICRO) / cpus) for node_id in cluster.nodes.usable(spec.node_labels)]
    if gang.placement is Strategy.STRICT_PACK:
        return max(holds, default=0) >= gang.size
    if gang.placement is Strategy.STRICT_SPREAD:
        return sum(count > 0 for count in holds) >= gang.size
    return sum(max(count, 0) for count in holds) >= gang.size
