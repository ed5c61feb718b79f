"""Where the world calls the planner: the one place that knows its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from serve_core.controller.world import World
from serve_core.model.ids import DeploymentKey
from serve_core.plan.plan import Plan, TableFacts
from serve_core.plan.policy import Policy
from serve_core.plan.records import GangRecord
from tests.simulation.cores import Cores
from tests.simulation.costs import Costs


def plan_deployment(
    cores: Cores,
    costs: Costs,
    key: DeploymentKey,
    *,
    world: World,
    facts: Callable[[Iterable[GangRecord]], TableFacts],
    ids: Iterator[str],
    unit_random: float,
    policy: Policy,
) -> Plan:
    """The plan for one deployment, as the controller's loop asks for it."""
    records = world.records
    gangs, settled = world.settled.split(records, key, world.observed, now=world.now())
    costs.planned(key, gangs)
    return cores.plan(
        records.deployments[key],
        gangs,
        world.observed,
        capacity=world.capacity_for(key),
        table=facts(gangs),
        now=world.now(),
        ids=ids,
        unit_random=unit_random,
        policy=policy,
        settled=settled,
        draining=records.nodes,
    )
