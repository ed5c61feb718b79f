from __future__ import annotations

from dataclasses import fields, replace

import pytest

from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.gang import GangPolicy, GangRoute, OnMemberFailure, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding, Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import RolloutPolicy
from serve_core.plan.revision import actor_version, config_version, revision_id
from tests.unit.plan.world import a_spec

CACHE = ActorSpec(name="cache", import_path="app:Cache")
RESTART: dict[str, object] = {
    "import_path": "app:other",
    "init_arguments": Payload(Encoding.JSON, b"[1]"),
    "resources": Resources(cpus=2.0),
    "env": {"A": "1"},
    "working_dir": "/srv",
    "interpreter": "/usr/bin/python3",
    "thread_count": 3,
    "gang": GangPolicy(size=2),
    "node_labels": {"disk": "ssd"},
    "bundles": (Resources(cpus=1.0),),
    "actors": (CACHE,),
}
OF_GANGS: dict[str, tuple[object, bool]] = {
    "size": (2, True),
    "placement": (Strategy.STRICT_PACK, True),
    "roles": (("only",), True),
    "on_member_failure": (OnMemberFailure.RESTART_REPLICA, False),
    "start_deadline_s": (9.0, False),
    "max_restarts": (3, False),
    "route": (GangRoute.LEADER, False),
    "abort_in_flight": (True, False),
}
OF_ACTORS: dict[str, object] = {
    "name": "tree",
    "import_path": "app:Tree",
    "init_arguments": Payload(Encoding.JSON, b"[1]"),
    "resources": Resources(cpus=1.0),
    "env": {"A": "1"},
    "max_concurrency": 1,
    "health": HealthPolicy(period_s=1.0),
    "start_deadline_s": 9.0,
    "max_restarts": 1,
    "on_failure": ActorOnFailure.RESTART_FROM_SNAPSHOT,
    "snapshot_interval_s": 5.0,
    "shared": ActorSharing.DEPLOYMENT,
}
IN_PLACE: dict[str, object] = {
    "user_config": Payload(Encoding.JSON, b"{}"),
    "max_ongoing_requests": 9,
    "slot_ttl_s": 3.0,
    "slot_ttl_max_s": 30.0,
    "graceful_shutdown_timeout_s": 7.0,
    "health": HealthPolicy(period_s=1.0),
    "metadata": {"k": "v"},
}
NOT_SENT: dict[str, object] = {
    "num_replicas": 9,
    "max_queued_requests": 3,
    "start_deadline_s": 9.0,
    "max_start_failures": 9,
    "rollout": RolloutPolicy(min_ready_s=1.0),
    "autoscaling": AutoscalingPolicy(max_replicas=4),
}


@pytest.mark.parametrize("name", RESTART)
def test_what_must_restart_makes_a_revision(name: str) -> None:
    changed = a_spec(**{name: RESTART[name]})
    assert revision_id(changed) != revision_id(a_spec())
    assert config_version(changed) == config_version(a_spec())


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_changes_in_place_makes_none(name: str) -> None:
    changed = a_spec(**{name: IN_PLACE[name]})
    assert revision_id(changed) == revision_id(a_spec())
    assert config_version(changed) != config_version(a_spec())


@pytest.mark.parametrize("name", NOT_SENT)
def test_what_replicas_need_not_know(name: str) -> None:
    changed = a_spec(**{name: NOT_SENT[name]})
    assert revision_id(changed) == revision_id(a_spec())
    assert config_version(changed) == config_version(a_spec())


def test_every_field_is_in_one_of_the_three_groups() -> None:
    assert set(RESTART) | set(IN_PLACE) | set(NOT_SENT) | {"name"} == set(type(a_spec()).__dataclass_fields__)


def test_the_order_of_variables_does_not_matter() -> None:
    assert revision_id(a_spec(env={"A": "1", "B": "2"})) == revision_id(a_spec(env={"B": "2", "A": "1"}))


def test_every_field_of_a_gang_follows_its_rule() -> None:
    assert set(OF_GANGS) == {field.name for field in fields(GangPolicy)}
    for name, (value, restarts) in OF_GANGS.items():
        changed = a_spec(gang=replace(GangPolicy(), **{name: value}))  # type: ignore[arg-type]
        assert (revision_id(changed) != revision_id(a_spec())) is restarts, name
        assert config_version(changed) == config_version(a_spec()), name


def test_every_field_of_an_actor_makes_a_revision_and_another_actor() -> None:
    assert set(OF_ACTORS) == {field.name for field in fields(ActorSpec)}
    spec = a_spec(actors=(CACHE,))
    for name, value in OF_ACTORS.items():
        actor = replace(CACHE, **{name: value})  # type: ignore[arg-type]
        assert revision_id(a_spec(actors=(actor,))) != revision_id(spec), name
        assert name == "name" or actor_version(spec, actor) != actor_version(spec, CACHE), name


def test_an_actor_is_another_one_only_with_what_it_runs() -> None:
    spec = a_spec(actors=(CACHE,))
    for name in ("import_path", "init_arguments", "resources", "thread_count", "gang"):
        assert actor_version(a_spec(**{name: RESTART[name]}), CACHE) == actor_version(spec, CACHE), name
    for name in ("env", "working_dir", "interpreter"):
        assert actor_version(a_spec(**{name: RESTART[name]}), CACHE) != actor_version(spec, CACHE), name
    own = replace(CACHE, env={"A": "0"})
    assert actor_version(a_spec(env={"A": "1"}), own) == actor_version(a_spec(env={"A": "2"}), own)


def test_the_order_of_actors_does_not_matter() -> None:
    tree = replace(CACHE, name="tree")
    assert revision_id(a_spec(actors=(CACHE, tree))) == revision_id(a_spec(actors=(tree, CACHE)))


def test_what_is_not_used_leaves_the_ids_of_earlier_versions() -> None:
    assert revision_id(a_spec()) == "f4177eb424ff"
