"""The policies of a description: everything wrong with them is said, with its path."""

from __future__ import annotations

import math

import pytest

from serve_core.model.health import HealthPolicy
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
