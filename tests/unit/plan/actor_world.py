"""A deployment that has actors, in a world without processes."""

from __future__ import annotations

from serve_core.model.actor import ActorSpec
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.model.status import DeploymentState
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import GangRecord
from tests.unit.plan.world import World, a_spec, an_actor

HANGS, FAILS = "app:Hangs", "app:Fails"


def deployed(*actors: ActorSpec, **changes: object) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=64.0)),))
    world.behaviour = {HANGS: "hang", FAILS: "fail"}
    world.add_router()
    world.deploy(a_spec(actors=actors or (an_actor(),), **changes))
    return world


def serving(*actors: ActorSpec, **changes: object) -> World:
    world = deployed(*actors, **changes)
    world.settle()
    world.advance(100.0)
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    return world


def life_of(world: World, name: str = "cache") -> GangRecord:
    (gang,) = [gang for gang in world.lives(name) if gang.phase in LIVE]
    return gang


def second(*actors: ActorSpec, **changes: object) -> DeploymentSpec:
    return a_spec(import_path="app:v2", actors=actors or (an_actor(),), **changes)
