"""The policies of a description: everything wrong with them is said, with its path."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from serve_core.model.actor import ActorOnFailure, ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.gang import LAUNCHER_VARIABLES, GangPolicy, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import RolloutPolicy
from serve_core.plan.validate import application_violations
from tests.unit.plan.world import a_spec, an_application


def wrong(**changes: object) -> dict[str, str]:
    prefix = "application.deployments[0]."
    violations = application_violations(an_application(a_spec(**changes)))
    return {violation.field.removeprefix(prefix): violation.description for violation in violations}


def test_the_defaults_are_valid() -> None:
    assert wrong(rollout=RolloutPolicy(), health=HealthPolicy()) == {}


@pytest.mark.parametrize(
    "policy",
    [
        RolloutPolicy(max_surge=Share(0), max_unavailable=Share(0)),
        RolloutPolicy(max_surge=Share(1000, percent=True), max_unavailable=Share(100, percent=True)),
        RolloutPolicy(max_surge=Share(10_000), max_unavailable=Share(10_000), pause_at=Share(1)),
        RolloutPolicy(pause_at=Share(100, percent=True), min_ready_s=1.0, progress_deadline_s=1.5),
    ],
)
def test_what_is_possible_is_accepted(policy: RolloutPolicy) -> None:
    assert wrong(rollout=policy) == {}


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (RolloutPolicy(max_surge=Share(1001, percent=True)), "max_surge"),
        (RolloutPolicy(max_surge=Share(10_001)), "max_surge"),
        (RolloutPolicy(max_unavailable=Share(101, percent=True)), "max_unavailable"),
        (RolloutPolicy(max_unavailable=Share(-1)), "max_unavailable"),
        (RolloutPolicy(pause_at=Share(0, percent=True)), "pause_at"),
        (RolloutPolicy(pause_at=Share(101, percent=True)), "pause_at"),
        (RolloutPolicy(min_ready_s=-1.0), "min_ready_s"),
        (RolloutPolicy(min_ready_s=math.inf, progress_deadline_s=math.inf), "min_ready_s"),
        (RolloutPolicy(progress_deadline_s=0.0), "progress_deadline_s"),
        (RolloutPolicy(min_ready_s=5.0, progress_deadline_s=5.0), "progress_deadline_s"),
        (RolloutPolicy(max_concurrent_starts=-1), "max_concurrent_starts"),
    ],
)
def test_what_is_not_possible_is_refused(policy: RolloutPolicy, field: str) -> None:
    assert f"rollout.{field}" in wrong(rollout=policy)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (HealthPolicy(heartbeat_period_s=0.0), "heartbeat_period_s"),
        (HealthPolicy(readiness_period_s=math.nan), "readiness_period_s"),
        (HealthPolicy(suspect_after_missed=0), "suspect_after_missed"),
        (HealthPolicy(suspect_after_missed=11), "suspect_after_missed"),
        (HealthPolicy(lost_after_missed=0), "lost_after_missed"),
    ],
)
def test_heartbeats_have_sound_limits(policy: HealthPolicy, field: str) -> None:
    assert f"health.{field}" in wrong(health=policy)


def test_everything_is_said_at_once() -> None:
    policy = RolloutPolicy(max_unavailable=Share(200, percent=True), min_ready_s=-1.0, progress_deadline_s=-2.0)
    assert wrong(rollout=policy, health=HealthPolicy(lost_after_missed=1)) == {
        "health.suspect_after_missed": "3 must not be above lost_after_missed = 1",
        "rollout.max_unavailable": "200% must be from 0 to 100%",
        "rollout.min_ready_s": "-1 must be at least 0 seconds",
        "rollout.progress_deadline_s": "-2 must be a time above 0 seconds, and above min_ready_s",
    }


CACHE = ActorSpec(name="cache", import_path="app:Cache")
FULL_GANG = GangPolicy(
    size=2, placement=Strategy.STRICT_SPREAD, start_deadline_s=1.0, max_restarts=0, roles=("prefill", "decode")
)
FULL_ACTOR = replace(
    CACHE, on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT, snapshot_interval_s=5.0, env={"RANK": "0"}, max_restarts=0
)


def test_gangs_and_actors_that_are_possible_are_accepted() -> None:
    assert wrong(gang=FULL_GANG, actors=(FULL_ACTOR, replace(CACHE, name="tree")), bundles=(Resources(cpus=1.0),)) == {}
    assert wrong(gang=FULL_GANG, num_replicas=0, node_labels={"zone.io/rack": "r-1", "spot": ""}) == {}
    assert wrong(env={"RANK": "0", "MASTER_ADDR": "elsewhere"}) == {}


def test_replicas_come_in_whole_gangs() -> None:
    assert wrong(gang=GangPolicy(size=4), num_replicas=7) == {
        "num_replicas": "7 is no multiple of gang.size = 4; the nearest are 4 and 8"
    }
    assert wrong(gang=GangPolicy(size=4), num_replicas=3) == {
        "num_replicas": "3 is no multiple of gang.size = 4; the nearest are 0 and 4"
    }


@pytest.mark.parametrize(
    ("gang", "field"),
    [
        (GangPolicy(size=0), "size"),
        (GangPolicy(size=10_001), "size"),
        (GangPolicy(size=2, roles=("one",)), "roles"),
        (GangPolicy(size=2, roles=("one", "")), "roles[1]"),
        (GangPolicy(size=2, max_restarts=-1), "max_restarts"),
        (GangPolicy(size=2, start_deadline_s=0.0), "start_deadline_s"),
        (GangPolicy(size=2, start_deadline_s=math.inf), "start_deadline_s"),
    ],
)
def test_gangs_that_are_not_possible_are_refused(gang: GangPolicy, field: str) -> None:
    assert f"gang.{field}" in wrong(gang=gang)


@pytest.mark.parametrize("variable", LAUNCHER_VARIABLES)
def test_members_of_a_gang_are_told_by_the_gang_where_they_are(variable: str) -> None:
    found = wrong(gang=GangPolicy(size=2), env={variable: "0"})
    assert found == {"env": f"{variable!r} cannot be set: the gang sets it"}


def test_variables_of_serve_core_are_its_own() -> None:
    found = wrong(env={"SERVE_CORE_RUN": "x"}, actors=(replace(CACHE, env={"SERVE_CORE_RUN": "x"}),))
    assert set(found) == {"env", "actors[0].env"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"node_labels": {"": "x"}}, "node_labels"),
        ({"node_labels": {"a b": "x"}}, "node_labels"),
        ({"node_labels": {"disk": "s s d"}}, "node_labels[disk]"),
        ({"node_labels": {"disk": "x" * 128}}, "node_labels[disk]"),
        ({"bundles": (Resources(),)}, "bundles[0]"),
        ({"bundles": (Resources(cpus=1.0), Resources(gpus=1.5))}, "bundles[1].gpus"),
        ({"bundles": (Resources(cpus=0.00001),)}, "bundles[0].cpus"),
        ({"bundles": (Resources(cpus=1.0),) * 101}, "bundles"),
    ],
)
def test_what_is_asked_of_nodes_can_be_counted(changes: dict[str, object], field: str) -> None:
    assert set(wrong(**changes)) == {field}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "9"}, "name"),
        ({"import_path": "app"}, "import_path"),
        ({"resources": Resources(gpus=1.5)}, "resources.gpus"),
        ({"env": {"": "x"}}, "env"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"health": HealthPolicy(period_s=0.0)}, "health.period_s"),
        ({"start_deadline_s": 0.0}, "start_deadline_s"),
        ({"max_restarts": -1}, "max_restarts"),
        ({"snapshot_interval_s": -1.0}, "snapshot_interval_s"),
        ({"snapshot_interval_s": math.nan}, "snapshot_interval_s"),
        ({"snapshot_interval_s": 5.0}, "snapshot_interval_s"),
        ({"snapshot_interval_s": 5.0, "on_failure": ActorOnFailure.RESTART_REPLICAS}, "snapshot_interval_s"),
    ],
)
def test_actors_that_are_not_possible_are_refused(change: dict[str, object], field: str) -> None:
    actor = replace(CACHE, **change)  # type: ignore[arg-type]
    assert set(wrong(actors=(CACHE, replace(actor, name=change.get("name", "other"))))) == {  # type: ignore[arg-type]
        f"actors[1].{field}"
    }


def test_names_of_actors_are_unique_and_few() -> None:
    assert wrong(actors=(CACHE, CACHE)) == {"actors[1].name": "'cache' is also the name of actors[0]"}
    assert "actors" in wrong(actors=tuple(replace(CACHE, name=f"c{number}") for number in range(101)))


def test_everything_wrong_is_said_at_once() -> None:
    found = wrong(
        num_replicas=3,
        gang=GangPolicy(size=2, roles=("one",), max_restarts=-1),
        node_labels={"": ""},
        bundles=(Resources(),),
        actors=(replace(CACHE, name="9", max_concurrency=0),),
    )
    assert set(found) == {
        "num_replicas",
        "gang.roles",
        "gang.max_restarts",
        "node_labels",
        "bundles[0]",
        "actors[0].name",
        "actors[0].max_concurrency",
    }


@pytest.mark.parametrize(
    ("policy", "num_replicas", "size", "expected"),
    [
        (AutoscalingPolicy(max_replicas=4), 1, 1, {}),
        (AutoscalingPolicy(min_replicas=0, max_replicas=4), 0, 1, {}),
        (AutoscalingPolicy(min_replicas=2, max_replicas=8), 4, 2, {}),
        (
            AutoscalingPolicy(min_replicas=3, max_replicas=8),
            4,
            2,
            {"autoscaling.min_replicas": "3 is no multiple of gang.size = 2; the nearest are 2 and 4"},
        ),
        (
            AutoscalingPolicy(min_replicas=4, max_replicas=10),
            4,
            4,
            {"autoscaling.max_replicas": "10 is no multiple of gang.size = 4; the nearest are 8 and 12"},
        ),
        (
            AutoscalingPolicy(min_replicas=4, max_replicas=2),
            4,
            1,
            {"autoscaling.max_replicas": "2 must not be below min_replicas = 4"},
        ),
        (
            AutoscalingPolicy(min_replicas=0, max_replicas=0),
            0,
            1,
            {"autoscaling.max_replicas": "0 must not be below 1"},
        ),
        (
            AutoscalingPolicy(max_replicas=10_001),
            1,
            1,
            {"autoscaling.max_replicas": "10001 must be from 0 to 10000"},
        ),
        (
            AutoscalingPolicy(min_replicas=2, max_replicas=4),
            1,
            1,
            {"num_replicas": "1 is not from autoscaling.min_replicas = 2 to max_replicas = 4"},
        ),
        (
            AutoscalingPolicy(max_replicas=4, target_ongoing_requests=math.nan, look_back_s=0.0),
            1,
            1,
            {
                "autoscaling.target_ongoing_requests": "nan must be a number above 0",
                "autoscaling.look_back_s": "0 must be a time above 0 seconds",
            },
        ),
        (
            AutoscalingPolicy(max_replicas=4, upscale_delay_s=-1.0, downscale_delay_s=math.inf),
            1,
            1,
            {
                "autoscaling.upscale_delay_s": "-1 must be at least 0 seconds",
                "autoscaling.downscale_delay_s": "inf must be at least 0 seconds",
            },
        ),
    ],
)
def test_bounds_go_through_the_rule_of_whole_gangs(
    policy: AutoscalingPolicy, num_replicas: int, size: int, expected: dict[str, str]
) -> None:
    assert wrong(autoscaling=policy, num_replicas=num_replicas, gang=GangPolicy(size=size)) == expected
