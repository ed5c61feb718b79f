"""What ``status``, ``events`` and ``rollout history`` print."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from serve_core.cli.events import event_line, event_text
from serve_core.cli.rollout import find, history_lines
from serve_core.cli.status import duration_text, render, replica_note
from serve_core.errors import DeploymentUnknownError
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, RevisionId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.status import (
    ClusterStatus,
    Condition,
    ConditionType,
    ReplicaStatus,
    RolloutPhase,
    RolloutStatus,
)
from serve_core.wire.events import encode_event
from tests.unit.cli.test_progress import DEPLOYMENT, REPLICA, cluster

READY = replace(REPLICA, phase=ReplicaPhase.READY, in_rotation=True, load=Load(2, 1, 5), restarts=3)
EVENT = Event(key=DeploymentKey("app", "A"), time=0.0, reason="RolloutStarted", message="r2 replaces\nr1", sequence=3)


def shown(status: ClusterStatus, *, now: float = 100.0) -> str:
    stream = io.StringIO()
    Console(file=stream, width=400).print(render(status, now=now))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.9, "0s"), (59, "59s"), (61, "1m1s"), (3600, "1h"), (90_061, "1d1h"), (864_000, "10d")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_each_replica_has_its_revision_node_load_age_and_restarts() -> None:
    row = next(line for line in shown(cluster(replace(DEPLOYMENT, replicas=(READY,)))).splitlines() if "g-0" in line)
    assert row.split() == ["app.A.g-0", "ready", "r1", "n", "7", "h:1", "2+1/5", "1m39s", "3"]


@pytest.mark.parametrize(
    ("one", "note"),
    [
        (READY, ""),
        (REPLICA, ""),
        (replace(READY, in_rotation=False), "out of rotation"),
        (replace(READY, in_rotation=False, suspicion="3 heartbeats were missed"), "3 heartbeats were missed"),
        (replace(READY, phase=ReplicaPhase.DRAINING, in_rotation=False, drain_remaining_s=12.4), "12 s left to drain"),
        (replace(REPLICA, failure=Failure(reason="X", message="two\nlines")), "X: two lines"),
    ],
)
def test_what_is_not_as_usual_with_a_replica_is_noted(one: ReplicaStatus, note: str) -> None:
    assert replica_note(one) == note


def test_conditions_say_since_when_and_why() -> None:
    condition = Condition(
        type=ConditionType.AVAILABLE, status=False, reason="NoReplicaReady", message="none", last_transition_time=40.0
    )
    row = next(
        line for line in shown(cluster(replace(DEPLOYMENT, conditions=(condition,)))).splitlines() if "Av" in line
    )
    assert row.split() == ["app.A", "Available", "no", "1m", "NoReplicaReady", "none"]


def test_a_rollout_under_way_and_differing_environments_are_noted() -> None:
    rollout = RolloutStatus(
        phase=RolloutPhase.WAITING,
        from_revision=RevisionId("r1"),
        to_revision=RevisionId("r2"),
        updated_available=0,
        waiting_for="room",
    )
    deployment = replace(DEPLOYMENT, rollout=rollout, environment_differences=("numpy differs on n",))
    text = shown(cluster(deployment))
    assert "app.A: rollout waiting: 0 of 1 replicas of revision r2 are available; waiting for room" in text
    assert "app.A: environments differ: numpy differs on n" in text
    done = replace(deployment, rollout=replace(rollout, phase=RolloutPhase.COMPLETE))
    assert "rollout" not in shown(cluster(done))


def test_no_applications() -> None:
    assert "no applications" in shown(replace(cluster(DEPLOYMENT), applications=()))


def test_an_event_is_one_line() -> None:
    line = event_line(EVENT)
    assert line.endswith("    app.A  RolloutStarted: r2 replaces r1")
    assert event_line(replace(EVENT, warning=True, subject="app.A.g")).endswith(
        "  ! app.A.g  RolloutStarted: r2 replaces r1"
    )
    assert event_line(replace(EVENT, key=DeploymentKey("app", ""))).endswith("  app  RolloutStarted: r2 replaces r1")


def test_an_event_as_json_is_one_object_on_one_line() -> None:
    text = event_text(encode_event(EVENT), "json")
    assert "\n" not in text
    value = json.loads(text)
    assert (value["sequence"], value["deployment"], value["warning"]) == ("3", "A", False)
    assert event_text(encode_event(EVENT), "yaml").startswith("---\nsequence: '3'\n")


def test_history_marks_what_each_revision_is() -> None:
    rollout = RolloutStatus(
        phase=RolloutPhase.ROLLED_BACK,
        from_revision=RevisionId("r1"),
        to_revision=RevisionId("r1"),
        updated_available=1,
        failed_revision=RevisionId("r2"),
    )
    deployment = replace(
        DEPLOYMENT,
        revisions=(RevisionId("r1"), RevisionId("r2"), RevisionId("r0")),
        last_good_revision=RevisionId("r1"),
        rollout=rollout,
    )
    assert history_lines(deployment) == ["r1  target, last good, 1 replica", "r2  failed", "r0"]


def test_a_deployment_is_found_or_said_to_be_unknown() -> None:
    status = cluster(DEPLOYMENT)
    assert find(status, DeploymentKey("app", "A")) == (status.applications[0], (DEPLOYMENT,))
    assert find(status, DeploymentKey("app", "")) == (status.applications[0], (DEPLOYMENT,))
    with pytest.raises(DeploymentUnknownError, match="no deployment 'B'; it has: A"):
        find(status, DeploymentKey("app", "B"))
    with pytest.raises(DeploymentUnknownError, match="no application 'other'"):
        find(status, DeploymentKey("other", "A"))
