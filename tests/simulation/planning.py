"""Where the world calls the planner: the one place that knows its arguments."""

from __future__ import annotations

from collections.abc import Iterator

from serve_core.controller.world import World
from serve_core.model.ids import DeploymentKey
from serve_core.plan.plan import Plan, TableFacts
from serve_core.plan.policy import Policy
from tests.simulation.cores import Cores


def plan_deployment(
    cores: Cores,
    key: DeploymentKey,
    *,
    world: World,
    table: TableFacts,
    ids: Iterator[str],
    unit_random: float,
    policy: Policy,
) -> Plan:
    """The plan for one deployment, as the controller's loop asks for it."""
    records = world.records
    return cores.plan(
        records.deployments[key],
        records.gangs_of(key),
        world.observed,
        capacity=world.capacity.fork(),
        table=table,
        now=world.now(),
        ids=ids,
        unit_random=unit_random,
        policy=policy,
    )
