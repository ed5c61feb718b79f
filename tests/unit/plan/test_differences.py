from __future__ import annotations

from dataclasses import replace

from serve_core.model.ids import NodeId
from serve_core.model.replica import Environment
from serve_core.model.resources import Resources
from serve_core.plan.differences import DIFFERENCES_MAX
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.world import World, a_spec

ENVIRONMENT = Environment(interpreter="/usr/bin/python3", python_version="3.12.1", packages={"numpy": "1.26.4"})


def _world(*environments: Environment | None) -> World:
    world = World(
        nodes=tuple(
            NodeObserved(node_id=NodeId(f"n{index}"), total=Resources(cpus=1.0)) for index, _ in enumerate(environments)
        )
    )
    world.deploy(a_spec(num_replicas=len(environments)))
    world.settle()
    members = sorted((gang.members[0] for gang in world.gangs()), key=lambda member: member.node_id)
    for member, environment in zip(members, environments, strict=True):
        world.processes[member.replica_id].environment = environment
        world.report(member.replica_id)
    return world


def test_the_same_everywhere() -> None:
    assert _world(ENVIRONMENT, ENVIRONMENT, None).status().environment_differences == ()


def test_which_package_on_which_node() -> None:
    other = replace(ENVIRONMENT, python_version="3.12.2", packages={"numpy": "2.0.0", "torch": "2.4"})
    world = _world(ENVIRONMENT, other, ENVIRONMENT)
    revision = world.record().target
    assert world.status().environment_differences == (
        f"revision {revision}: Python is 3.12.1 on n0 and n2, 3.12.2 on n1",
        f"revision {revision}: numpy is 1.26.4 on n0 and n2, 2.0.0 on n1",
        f"revision {revision}: torch is 2.4 on n1, missing on n0 and n2",
    )


def test_another_revision_may_differ() -> None:
    world = _world(ENVIRONMENT)
    world.nodes = (NodeObserved(node_id=NodeId("n0"), total=Resources(cpus=2.0)),)
    world.list_backend()
    world.add_router().stuck = True
    world.deploy(a_spec(num_replicas=1, import_path="app:v2"))
    world.settle()
    for replica_id, process in world.processes.items():
        if process.action.spec.import_path == "app:v2":
            process.environment = replace(ENVIRONMENT, interpreter="/other")
            world.report(replica_id)
    assert len(world.ready_ids()) == 2
    assert world.status().environment_differences == ()


def test_what_is_too_much_is_counted() -> None:
    one, other = (replace(ENVIRONMENT, packages={f"p{index}": version for index in range(99)}) for version in "12")
    differences = _world(one, other).status().environment_differences
    assert len(differences) == DIFFERENCES_MAX + 1
    assert differences[-1] == f"{99 - DIFFERENCES_MAX} more differ"
