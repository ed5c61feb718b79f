"""Who waits for room: since when, for what, and what others are offered meanwhile."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.gang import GangPolicy, Strategy
from serve_core.model.ids import DeploymentKey, NodeId, RevisionId
from serve_core.model.placement import GangRequest
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity, MemberPlacement, Shortage, Waiters
from serve_core.plan.record_parts import WaitRecord
from serve_core.plan.records import DeploymentRecord
from tests.unit.plan.world import KEY, World, a_spec, an_actor

NODES = tuple(NodeObserved(node_id=NodeId(name), total=Resources(cpus=4.0, gpus=4.0)) for name in ("n0", "n1"))
OTHER = DeploymentKey("app", "other")
ONE = GangRequest(resources=Resources(gpus=1.0))


def _waiting(name: str, since: float, request: GangRequest) -> DeploymentRecord:
    return DeploymentRecord(
        key=DeploymentKey("app", name),
        generation=1,
        target=RevisionId("r"),
        num_replicas=1,
        revisions=(),
        waiting=WaitRecord(since=since, request=request),
    )


def _node_of(placed: tuple[MemberPlacement, ...] | Shortage) -> str:
    assert not isinstance(placed, Shortage), placed.message
    return placed[0].bundle.node_id


def test_others_are_offered_what_those_that_wait_longer_do_not_need() -> None:
    capacity = Capacity(NODES, ())
    capacity.place(replace(ONE, resources=Resources(gpus=3.0)))  # On n0: so n1 is nearer to four.
    whole = replace(ONE, size=4, strategy=Strategy.STRICT_PACK)
    waiters = Waiters([_waiting("big", 1.0, whole), _waiting("also", 2.0, ONE)])
    youngest = waiters.capacity_for(DeploymentKey("app", "new"), capacity)
    behind = youngest.place(ONE)
    assert isinstance(behind, Shortage)
    assert behind == Shortage("what is free is held for who has waited longer: app.big, app.also", feasible=True)
    assert behind.request == ONE
    assert _node_of(waiters.capacity_for(DeploymentKey("app", "also"), capacity).place(ONE)) == "n0"
    assert _node_of(waiters.capacity_for(DeploymentKey("app", "big"), capacity).place(whole)) == "n1"
    cpus = replace(ONE, resources=Resources(cpus=4.0))
    assert _node_of(youngest.place(cpus)) in ("n0", "n1"), "what nobody waits for is free for all"


def test_a_claim_goes_with_the_wait() -> None:
    capacity = Capacity(NODES[:1], ())
    record = _waiting("big", 1.0, replace(ONE, size=4))
    waiters = Waiters([record])
    assert isinstance(waiters.capacity_for(None, capacity).place(ONE), Shortage)
    waiters.changed(record, later := replace(record, waiting=WaitRecord(since=5.0, request=replace(ONE, size=3))))
    assert _node_of(waiters.capacity_for(None, capacity).place(ONE)) == "n0"
    waiters.changed(later, None)
    assert _node_of(waiters.capacity_for(None, capacity).place(replace(ONE, size=4))) == "n0"


def test_claims_follow_what_becomes_free() -> None:
    capacity = Capacity(NODES[:1], ())
    waiters = Waiters([_waiting("big", 1.0, replace(ONE, size=5, strategy=Strategy.SPREAD))])
    assert _node_of(waiters.capacity_for(None, capacity).place(ONE)) == "n0", (
        "it can never be placed: it claims nothing"
    )
    wider = Capacity(NODES, ())
    for _ in range(3):
        assert _node_of(waiters.capacity_for(None, wider).place(ONE))
        wider.place(ONE)
    assert isinstance(waiters.capacity_for(None, wider).place(ONE), Shortage)


def test_those_that_wait_longest_come_first() -> None:
    keys = [DeploymentKey("app", name) for name in ("a", "b", "c", "d")]
    waiters = Waiters([_waiting("c", 1.0, ONE), _waiting("a", 2.0, ONE), _waiting("b", 1.0, ONE)])
    assert [key.deployment for key in waiters.in_order(keys)] == ["b", "c", "a", "d"]


def test_a_deployment_waits_from_its_first_shortage_until_it_is_placed() -> None:
    world = World(nodes=NODES[:1])
    world.deploy(a_spec(name="main", num_replicas=3), a_spec(name="other", num_replicas=4))
    world.settle()
    assert world.record().waiting is None
    waiting = world.record(OTHER).waiting
    assert waiting is not None
    assert waiting.request == GangRequest(resources=Resources(cpus=1.0))
    since = waiting.since
    world.run(20.0)
    assert world.record(OTHER).waiting == WaitRecord(since=since, request=waiting.request)
    world.deploy(a_spec(name="main", num_replicas=0), a_spec(name="other", num_replicas=4))
    world.run(20.0)
    assert world.record(OTHER).waiting is None
    assert len(world.gangs(key=OTHER)) == 4


def test_one_that_was_placed_and_wants_more_goes_to_the_end() -> None:
    world = World(nodes=NODES[:1])
    world.deploy(a_spec(name="main", num_replicas=4), a_spec(name="other", num_replicas=3))
    world.settle()
    first = world.record(OTHER).waiting
    assert first is not None
    world.advance(5.0)
    world.deploy(a_spec(name="main", num_replicas=3), a_spec(name="other", num_replicas=3))
    world.settle()
    second = world.record(OTHER).waiting
    assert second is not None
    assert len(world.gangs(key=OTHER)) == 1
    assert second.since > first.since


def test_what_can_never_be_placed_does_not_wait_in_line() -> None:
    world = World(nodes=NODES[:1])
    world.deploy(a_spec(name="main", num_replicas=4, gang=GangPolicy(size=2, placement=Strategy.STRICT_SPREAD)))
    world.settle()
    assert world.record().waiting is None
    assert any("on distinct nodes, 1 has one" in one.message for one in world.status().conditions)


def test_an_update_that_only_its_own_old_replica_holds_up_is_in_nobodys_way() -> None:
    world = World(nodes=NODES[:1])
    update = a_spec(num_replicas=1, resources=Resources(cpus=3.0))
    world.deploy(update)
    world.settle()
    world.deploy(replace(update, import_path="app:v2"))
    world.settle()
    rollout = world.record().rollout
    assert rollout is not None
    assert "n0 lacks 3 CPUs (1 free)" in rollout.waiting_for
    assert world.record().waiting is None
    world.advance(1.0)
    world.deploy(replace(update, import_path="app:v2"), a_spec(name="other", num_replicas=1))
    world.settle()
    assert len(world.gangs(key=OTHER)) == 1


def test_a_wait_ends_with_what_was_wanted() -> None:
    world = World(nodes=NODES[:1])
    world.deploy(a_spec(name="main", num_replicas=3), a_spec(name="other", num_replicas=4))
    world.settle()
    assert world.record(OTHER).waiting is not None
    world.deploy(a_spec(name="main", num_replicas=3), a_spec(name="other", num_replicas=1))
    world.settle()
    assert world.record(OTHER).waiting is None


def test_a_later_deployment_does_not_take_what_comes_free_before_an_older_one_has_it() -> None:
    world = World(nodes=NODES[:1])
    world.deploy(a_spec(num_replicas=3))
    world.settle()
    gang = a_spec(name="other", num_replicas=2, gang=GangPolicy(size=2))
    world.deploy(a_spec(num_replicas=3), gang)
    world.settle()
    world.advance(1.0)
    late = a_spec(name="late", num_replicas=1)
    world.deploy(a_spec(num_replicas=3), gang, late)
    world.run(10.0)
    assert not world.gangs(key=DeploymentKey("app", "late")), "one CPU is free, and held for the gang"
    assert "held for who has waited longer: app.other" in str(world.status(DeploymentKey("app", "late")).conditions)
    world.deploy(a_spec(num_replicas=1), gang, late)
    world.run(20.0)
    assert world.gangs(key=OTHER)
    assert world.gangs(key=DeploymentKey("app", "late"))
    assert world.record(KEY).waiting is None


def test_an_actor_takes_its_turn_behind_one_that_waits_longer() -> None:
    world = World(nodes=NODES[:1])
    pair = a_spec(name="other", num_replicas=2, resources=Resources(cpus=1.2), gang=GangPolicy(size=2))
    world.deploy(a_spec(name="main", num_replicas=1), a_spec(name="third", num_replicas=1))
    world.settle()
    world.deploy(a_spec(name="main", num_replicas=1), a_spec(name="third", num_replicas=1), pair)
    world.settle()
    world.advance(1.0)
    changed = a_spec(name="main", num_replicas=1, actors=(an_actor(resources=Resources(cpus=0.5)),))
    world.deploy(changed, a_spec(name="third", num_replicas=1), pair)
    world.run(20.0)
    assert "actor cache: what is free is held for who has waited longer: app.other" in world.status().message
    assert not world.actor_gangs()
    world.deploy(changed, a_spec(name="third", num_replicas=0), pair)
    world.run(20.0)
    assert len(world.gangs(key=OTHER)) == 1
    assert len(world.lives("cache")) == 1
