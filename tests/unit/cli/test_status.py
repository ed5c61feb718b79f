"""What ``status``, ``events`` and ``rollout history`` print."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from serve_core.cli.events import event_line, event_text
from serve_core.cli.rollout import find, history_lines
from serve_core.cli.tables import actor_note, duration_text, render, replica_note
from serve_core.errors import DeploymentUnknownError
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, Gang, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import (
    ActorStatus,
    ClusterStatus,
    Condition,
    ConditionType,
    NodeStatus,
    ReplicaStatus,
    RolloutPhase,
    RolloutStatus,
    RouterStatus,
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


def row(text: str, part: str) -> list[str]:
    return next(line for line in text.splitlines() if part in line).split()


def test_members_of_a_gang_have_their_gang_rank_and_role() -> None:
    member = replace(
        READY, replica=replace(READY.replica, gang=Gang(gang_id=GangId("app.A.g"), rank=1, size=2, role="decode"))
    )
    alone = replace(READY, replica=replace(READY.replica, replica_id=ReplicaId("app.A.h-0")))
    text = shown(cluster(replace(DEPLOYMENT, replicas=(member, alone))))
    assert row(text, "REPLICA")[:4] == ["REPLICA", "GANG", "RANK", "PHASE"]
    assert row(text, "g-0")[:5] == ["app.A.g-0", "app.A.g", "1/2", "decode", "ready"]
    assert row(text, "h-0")[:4] == ["app.A.h-0", "-", "-", "ready"]
    assert "GANG" not in shown(cluster(replace(DEPLOYMENT, replicas=(alone,))))


def test_actors_have_their_incarnation_snapshot_and_why_they_ended() -> None:
    cache = ActorStatus(
        name="cache",
        revision=RevisionId("r1"),
        incarnation=3,
        replica=READY.replica,
        phase=ReplicaPhase.READY,
        pid=8,
        restarts=2,
        start_failures=1,
        failure=Failure(reason="REPLICA_DIED", message="it was\nkilled"),
        snapshot_time=90.0,
        snapshot_bytes=2048,
        snapshot_incarnation=2,
    )
    tree = ActorStatus(name="tree", revision=None, incarnation=0)
    text = shown(cluster(replace(DEPLOYMENT, actors=(cache, tree))))
    assert row(text, "/cache") == [
        *("app.A/cache", "ready", "r1", "3", "n", "8", "h:1", "2", "10s", "ago,", "2Ki,", "of", "2"),
        *("1", "failure", "in", "a", "row;", "REPLICA_DIED:", "it", "was", "killed"),
    ]
    assert row(text, "/tree") == ["app.A/tree", "-", "shared", "0", "-", "-", "-", "0", "-"]
    assert actor_note(tree) == ""
    assert "ACTOR" not in shown(cluster(DEPLOYMENT))


@pytest.mark.parametrize(
    ("draining", "deadline", "note"),
    [
        (False, None, ""),
        (True, None, "draining"),
        (True, 130.0, "draining, 30s left"),
        (True, 99.0, "draining, its time is over"),
    ],
)
def test_nodes_have_their_labels_and_whether_they_drain(draining: bool, deadline: float | None, note: str) -> None:
    node = NodeStatus(
        node_id=NodeId("node-7"),
        zone="",
        total=Resources(cpus=4.0, gpus=1.0),
        used=Resources(cpus=1.0),
        labels={"disk": "ssd", "a": ""},
        draining=draining,
        drain_deadline_time=deadline,
    )
    text = shown(replace(cluster(DEPLOYMENT), nodes=(node,)))
    assert " ".join(row(text, "node-7")) == f"node-7 - 1 CPU 4 CPUs, 1 GPU a= disk=ssd {note}".rstrip()


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


def test_routers_that_share_their_ports_are_told_together() -> None:
    routers = (
        RouterStatus(router_id=RouterId("r-1"), address="h:8000", http_address="h:8080", acknowledged_version=1),
        RouterStatus(router_id=RouterId("r-2"), address="h:8000", http_address="h:8080", acknowledged_version=0),
        RouterStatus(router_id=RouterId("mine"), address="", http_address="", acknowledged_version=1),
    )
    text = shown(replace(cluster(DEPLOYMENT), routers=routers))
    assert "routers: r-1 and r-2 (on table 0) at h:8000 and http://h:8080, mine at a caller\n" in text
