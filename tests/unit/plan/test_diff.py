"""What a deploy would do: field by field, with what restarts, what it needs and whether there is room."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial

import pytest

from serve_core.model.actor import ActorSharing, ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.model.gang import GangPolicy, GangRoute, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import GangId, NodeId, ReplicaId
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, RolloutPolicy
from serve_core.plan.deploy import apply_change, delete, deploy
from serve_core.plan.diff import deployment_plans, surge
from serve_core.plan.fieldchanges import HIDDEN, TEXT_MAX, field_changes
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity
from serve_core.plan.records import Bundle, GangRecord, MemberRecord, Records
from serve_core.plan.revision import revision_id
from tests.unit.plan.world import KEY, a_spec, an_application


def node(cpus: float) -> NodeObserved:
    return NodeObserved(node_id=NodeId("node-0"), total=Resources(cpus=cpus))


def plans(
    records: Records, *wanted: DeploymentSpec, cpus: float = 100.0, nodes: tuple[NodeObserved, ...] | None = None
) -> dict[str, DeploymentPlan]:
    capacity = Capacity((node(cpus),) if nodes is None else nodes, records.gangs.values())
    return {plan.deployment: plan for plan in deployment_plans(records, an_application(*wanted), capacity=capacity)}


def recorded(*wanted: DeploymentSpec) -> Records:
    records = Records()
    return apply_change(records, deploy(records, an_application(*wanted), now=1.0))


def running(spec: DeploymentSpec) -> Records:
    """The records once everything of ``spec`` is ready."""
    records = recorded(spec)
    return replace(records, gangs={gang.gang_id: gang for gang in map(partial(a_gang, spec), range(spec.num_replicas))})


def a_gang(spec: DeploymentSpec, number: int) -> GangRecord:
    member = MemberRecord(
        replica_id=ReplicaId(f"app.main.{number}-0"),
        rank=0,
        phase=ReplicaPhase.READY,
        phase_since=1.0,
        bundle=Bundle(node_id=NodeId("node-0"), resources=spec.resources),
    )
    return GangRecord(
        gang_id=GangId(f"app.main.{number}"),
        key=KEY,
        revision=revision_id(spec),
        phase=ReplicaPhase.READY,
        phase_since=1.0,
        created_at=1.0,
        members=(member,),
    )


def changes(**changed: object) -> list[FieldChange]:
    return list(field_changes(a_spec(), a_spec(**changed)))


def test_the_same_again_is_unchanged_and_needs_nothing() -> None:
    plan = plans(running(a_spec()), a_spec())["main"]
    revision = revision_id(a_spec())
    assert plan == DeploymentPlan(
        deployment="main", effect=DeployEffect.UNCHANGED, old_revision=revision, new_revision=revision
    )


def test_a_new_deployment_needs_all_of_its_replicas() -> None:
    plan = plans(Records(), a_spec(num_replicas=3, resources=Resources(cpus=0.1, gpus=0.0)))["main"]
    assert plan.effect is DeployEffect.CREATE
    assert (plan.old_revision, plan.changes) == (None, ())
    assert (plan.surge_replicas, plan.needs) == (3, Resources(cpus=0.3))
    assert (plan.fits, plan.missing) == (True, "")


def test_what_is_being_removed_is_created_anew() -> None:
    records = recorded(a_spec())
    records = apply_change(records, delete(records, "app"))
    assert plans(records, a_spec())["main"].effect is DeployEffect.CREATE


def test_what_is_not_named_is_deleted() -> None:
    records = recorded(a_spec(), a_spec(name="other"))
    plan = plans(records, a_spec())["other"]
    assert (plan.effect, plan.new_revision, plan.surge_replicas) == (DeployEffect.DELETE, None, 0)
    assert plan.old_revision == records.deployments[KEY].target


def test_a_change_of_what_must_restart_is_a_rollout_with_its_surge() -> None:
    wanted = a_spec(import_path="app:v2", resources=Resources(cpus=2.0), max_ongoing_requests=9)
    plan = plans(running(a_spec()), wanted)["main"]
    assert plan.effect is DeployEffect.ROLLOUT
    assert (plan.old_revision, plan.new_revision) == (revision_id(a_spec()), revision_id(wanted))
    assert plan.changes == (
        FieldChange(field="import_path", old_value="app:v1", new_value="app:v2", restarts=True),
        FieldChange(field="resources.cpus", old_value="1", new_value="2", restarts=True),
        FieldChange(field="max_ongoing_requests", old_value="5", new_value="9", restarts=False),
    )
    assert (plan.surge_replicas, plan.needs) == (1, Resources(cpus=2.0))


@pytest.mark.parametrize(
    ("old", "new", "policy", "expected"),
    [
        (4, 4, RolloutPolicy(), 1),
        (5, 5, RolloutPolicy(), 2),
        (4, 4, RolloutPolicy(max_surge=Share(100, percent=True)), 4),
        (4, 4, RolloutPolicy(max_surge=Share(9)), 4),
        (4, 4, RolloutPolicy(max_surge=Share(0), max_unavailable=Share(1)), 0),
        (4, 4, RolloutPolicy(max_surge=Share(0), max_unavailable=Share(0)), 1),
        (4, 4, RolloutPolicy(max_surge=Share(0), max_unavailable=Share(10, percent=True)), 1),
        (2, 6, RolloutPolicy(max_surge=Share(1)), 5),
        (6, 2, RolloutPolicy(max_surge=Share(1)), 0),
        (4, 0, RolloutPolicy(), 0),
    ],
)
def test_the_surge_rounds_as_kubernetes_does_and_counts_from_what_runs(
    old: int, new: int, policy: RolloutPolicy, expected: int
) -> None:
    records = running(a_spec(num_replicas=old))
    wanted = a_spec(num_replicas=new, import_path="app:v2", rollout=policy)
    assert plans(records, wanted)["main"].surge_replicas == expected


def test_a_surge_is_none_where_nothing_is_wanted() -> None:
    assert surge(RolloutPolicy(), 0) == 0
    assert surge(RolloutPolicy(max_surge=Share(0)), 0) == 0


def test_more_replicas_alone_restart_nothing_and_need_the_difference() -> None:
    plan = plans(running(a_spec()), a_spec(num_replicas=5))["main"]
    assert plan.effect is DeployEffect.RECONFIGURE
    assert plan.changes == (FieldChange(field="num_replicas", old_value="2", new_value="5", restarts=False),)
    assert plan.surge_replicas == 3


def test_what_does_not_fit_is_said() -> None:
    wanted = a_spec(import_path="app:v2", rollout=RolloutPolicy(max_surge=Share(2)))
    plan = plans(running(a_spec()), wanted, cpus=3.5)["main"]
    assert (plan.surge_replicas, plan.fits) == (2, False)
    assert plan.missing == "there is room for 1 of 2 replicas: node-0 lacks 1 CPUs (0.5 free)"
    assert plans(Records(), a_spec(), nodes=())["main"].missing.endswith("there is no node")


def nodes_of_two(count: int) -> tuple[NodeObserved, ...]:
    return tuple(NodeObserved(node_id=NodeId(f"node-{n}"), total=Resources(cpus=2.0)) for n in range(count))


def test_gangs_are_counted_and_placed_whole() -> None:
    gang = GangPolicy(size=2, placement=Strategy.STRICT_SPREAD)
    wanted = a_spec(num_replicas=4, gang=gang, bundles=(Resources(cpus=0.5),))
    plan = plans(Records(), wanted, nodes=nodes_of_two(2))["main"]
    assert (plan.surge_replicas, plan.gang_size, plan.needs) == (4, 2, Resources(cpus=6.0))
    assert (plan.fits, plan.missing.partition(":")[0]) == (False, "there is room for 1 of 2 gangs of 2")
    assert plans(Records(), wanted, nodes=nodes_of_two(4))["main"].fits


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4)])
def test_another_size_of_gangs_is_another_revision(before: int, after: int) -> None:
    old = a_spec(num_replicas=4, gang=GangPolicy(size=before))
    wanted = a_spec(num_replicas=4, gang=GangPolicy(size=after))
    plan = plans(recorded(old), wanted)["main"]
    assert plan.effect is DeployEffect.ROLLOUT
    assert (plan.old_revision, plan.new_revision) == (revision_id(old), revision_id(wanted))
    assert plan.changes == (FieldChange(field="gang.size", old_value=str(before), new_value=str(after), restarts=True),)
    assert plan.surge_replicas % after == 0


def test_actors_need_room_before_the_replicas() -> None:
    cache = replace(CACHE, resources=Resources(cpus=1.5))
    wanted = a_spec(actors=(cache,))
    plan = plans(Records(), wanted)["main"]
    assert (plan.actors, plan.needs, plan.fits) == (("cache",), Resources(cpus=3.5), True)
    assert plans(Records(), wanted, cpus=1.0)["main"].missing.startswith("there is no room for actor cache: ")
    assert plans(Records(), wanted, cpus=2.5)["main"].missing.startswith("there is room for 1 of 2 replicas: ")


def test_only_actors_that_change_or_are_of_one_revision_start() -> None:
    own, shared = CACHE, replace(CACHE, name="tree", shared=ActorSharing.DEPLOYMENT)
    before = a_spec(actors=(own, shared))
    found = plans(recorded(before), replace(before, import_path="app:v2"))["main"]
    assert found.actors == ("cache",)
    larger = replace(shared, import_path="app:Larger")
    assert plans(recorded(before), replace(before, actors=(own, larger)))["main"].actors == ("cache", "tree")
    assert plans(recorded(before), replace(before, max_ongoing_requests=9))["main"].actors == ()
    assert plans(recorded(before), before)["main"].actors == ()


def test_deployments_of_one_application_share_the_room() -> None:
    found = plans(Records(), a_spec(), a_spec(name="other"), cpus=3.0)
    assert (found["main"].fits, found["other"].fits) == (True, False)


def test_what_was_given_up_is_tried_anew() -> None:
    records = recorded(a_spec())
    given_up = replace(records.deployments[KEY], terminal=Failure(reason="CONSTRUCTOR_FAILED", message="no"))
    records = replace(records, deployments={KEY: given_up})
    plan = plans(records, a_spec())["main"]
    assert (plan.effect, plan.old_revision) == (DeployEffect.ROLLOUT, plan.new_revision)


RESTARTS = {
    "import_path",
    "init_arguments",
    "resources",
    "env",
    "working_dir",
    "interpreter",
    "thread_count",
    "gang",
    "node_labels",
    "bundles",
    "actors",
}
CACHE = ActorSpec(name="cache", import_path="app:Cache")


def test_every_field_is_compared_and_restarts_by_the_rule_of_revisions() -> None:
    payload = Payload(Encoding.JSON, b"1")
    other: dict[str, object] = {
        "import_path": "app:v2",
        "init_arguments": payload,
        "resources": Resources(cpus=3.0),
        "env": {"A": "1"},
        "health": HealthPolicy(lost_after_missed=20),
        "user_config": payload,
        "metadata": {"k": "v"},
        "rollout": RolloutPolicy(max_surge=Share(1)),
        "working_dir": "/srv",
        "interpreter": "/usr/bin/python3",
        "gang": GangPolicy(size=2),
        "node_labels": {"disk": "ssd"},
        "bundles": (Resources(custom={"x": 1.0}),),
        "actors": (CACHE,),
        "autoscaling": AutoscalingPolicy(max_replicas=4),
    }
    names = {field.name for field in fields(DeploymentSpec)} - {"name"}
    for name in names - set(other):
        other[name] = getattr(a_spec(), name) + 1
    for name in names:
        found = changes(**{name: other[name]})
        assert found
        for change in found:
            assert change.field.startswith(name)
            assert change.restarts is (name in RESTARTS), name


def test_paths_lead_into_what_holds_several_values() -> None:
    changed = changes(
        health=HealthPolicy(heartbeat_period_s=0.5),
        rollout=RolloutPolicy(max_surge=Share(1), pause_at=Share(25, percent=True)),
        metadata={"model": "large"},
        resources=Resources(cpus=1.0, custom={"disk": 2.0}),
    )
    assert {change.field: (change.old_value, change.new_value) for change in changed} == {
        "resources.custom[disk]": ("", "2"),
        "health.heartbeat_period_s": ("1", "0.5"),
        "metadata[model]": ("", "large"),
        "rollout.max_surge": ("25%", "1"),
        "rollout.pause_at": ("", "25%"),
    }


def test_fields_of_a_gang_are_compared_one_by_one() -> None:
    gang = GangPolicy(size=2, route=GangRoute.LEADER, roles=("a", "b"), start_deadline_s=9.0)
    assert changes(gang=gang) == [
        FieldChange(field="gang.size", old_value="1", new_value="2", restarts=True),
        FieldChange(field="gang.start_deadline_s", old_value="", new_value="9", restarts=False),
        FieldChange(field="gang.route", old_value="ALL", new_value="LEADER", restarts=False),
        FieldChange(field="gang.roles", old_value="", new_value="a, b", restarts=True),
    ]


def test_actors_are_compared_by_name() -> None:
    tree = replace(CACHE, name="tree", env={"TOKEN": "secret"})
    slower = replace(CACHE, start_deadline_s=90.0)
    new = (replace(tree, env={"TOKEN": "other"}), slower)
    assert field_changes(a_spec(actors=(CACHE, tree)), a_spec(actors=new)) == (
        FieldChange(field="actors", old_value="cache, tree", new_value="tree, cache", restarts=False),
        FieldChange(field="actors[cache].start_deadline_s", old_value="60", new_value="90", restarts=True),
        FieldChange(field="actors[tree].env[TOKEN]", old_value=HIDDEN, new_value=HIDDEN, restarts=True),
    )
    assert field_changes(a_spec(actors=(CACHE, tree)), a_spec(actors=(tree, CACHE))) == (
        FieldChange(field="actors", old_value="cache, tree", new_value="tree, cache", restarts=False),
    )
    assert field_changes(a_spec(actors=(CACHE,)), a_spec()) == (
        FieldChange(field="actors", old_value="cache", new_value="", restarts=True),
    )


def test_environment_variables_are_named_but_not_shown() -> None:
    old, new = a_spec(env={"TOKEN": "secret", "GONE": "x"}), a_spec(env={"TOKEN": "hidden", "NEW": "y"})
    assert field_changes(old, new) == (
        FieldChange(field="env[TOKEN]", old_value=HIDDEN, new_value=HIDDEN, restarts=True),
        FieldChange(field="env[GONE]", old_value=HIDDEN, new_value="", restarts=True),
        FieldChange(field="env[NEW]", old_value="", new_value=HIDDEN, restarts=True),
    )


def test_payloads_of_one_size_differ_all_the_same() -> None:
    old, new = (a_spec(user_config=Payload(Encoding.JSON, data)) for data in (b"1", b"2"))
    size = "(json, 1 bytes)"
    assert field_changes(old, new) == (
        FieldChange(field="user_config", old_value=size, new_value=size, restarts=False),
    )
    (shown,) = field_changes(old, new, payload_text=lambda payload: payload.data.decode())
    assert (shown.old_value, shown.new_value) == ("1", "2")


def test_long_values_are_shortened_to_one_line() -> None:
    (change,) = changes(working_dir="/a\n" + "b" * 100)
    assert change.new_value == ("/a " + "b" * 100)[: TEXT_MAX - 1] + "…"
