from __future__ import annotations

from serve_core.model.gang import GangRoster
from serve_core.model.ids import GangId, NodeId, ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan import actions as act
from serve_core.plan.members import identity
from serve_core.plan.records import Bundle
from tests.unit.plan.world import KEY, World, a_spec

G, R, N = GangId("g"), ReplicaId("g-0"), NodeId("n")


def test_every_action_is_named_by_what_it_does_to_what() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    (gang,) = world.gangs(ReplicaPhase.READY)
    bundle = Bundle(node_id=N, resources=Resources())
    start = act.StartProcess(
        gang_id=G, replica=identity(gang, gang.members[0], metadata={}), spec=a_spec(), bundle=bundle, bundle_index=0
    )
    assert (start.replica_id, start.epoch) == (gang.members[0].replica_id, 1)
    actions: list[act.Action] = [
        act.ReservePlacement(gang_id=G, key=KEY, bundles=(bundle,)),
        start,
        act.SendReconfigure(gang_id=G, replica_id=R, epoch=2, spec=a_spec(), config="c"),
        act.SendDrain(gang_id=G, replica_id=R, epoch=2, budget_s=1.0),
        act.SendDrain(gang_id=G, replica_id=R, epoch=2, budget_s=1.0, hold=True),
        act.SendRoster(gang_id=G, replica_id=R, epoch=2, roster=GangRoster(gang_id=G, epoch=3, members=())),
        act.KillProcess(gang_id=G, replica_id=R, epoch=2, node_id=N),
        act.FreePlacement(gang_id=G),
        act.Disown(gang_id=G, replica_id=R, epoch=2, message="x"),
    ]
    assert [action.action_id for action in actions] == [
        "reserve:g",
        f"start:{start.replica_id}:1",
        "reconfigure:g-0:2:c",
        "drain:g-0:2",
        "hold:g-0:2",
        "roster:g-0:2:3",
        "kill:g-0:2",
        "free:g",
        "disown:g-0:2",
    ]
