"""Which deployments something matters to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase, ReplicaReport
from serve_core.plan.events import (
    AttachLost,
    AttachOpened,
    BackendListed,
    Event,
    Forgotten,
    HeartbeatSeen,
    NodesSeen,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
    ProcessExited,
    RouterAcknowledged,
)
from serve_core.plan.fold import fold
from serve_core.plan.observed import Observed
from serve_core.plan.policy import Policy
from serve_core.plan.touched import is_unowned, touched_by_event, touched_by_records
from tests.unit.controller.samples import gang, records

A, B = DeploymentKey("app", "a"), DeploymentKey("app", "b")
MINE, STRANGER = ReplicaId("app.a.1-0"), ReplicaId("x-0")
POLICY = Policy()
START = Observed(listening_since=0.0, listed_at=0.0)


def _event(kind: str) -> Event:
    failure = Failure(reason="NO_ROOM", message="")
    events: dict[str, Event] = {
        "exit": ProcessExited(replica_id=MINE, epoch=1, exit_code=0, now=1.0),
        "exit of an earlier epoch": ProcessExited(replica_id=MINE, epoch=0, exit_code=0, now=1.0),
        "exit of a stranger": ProcessExited(replica_id=STRANGER, epoch=1, exit_code=0, now=1.0),
        "lost": AttachLost(replica_id=MINE, epoch=1, now=1.0),
        "reserved": PlacementReserved(gang_id=GangId("app.b.1"), now=1.0),
        "refused": PlacementRefused(gang_id=GangId("app.b.1"), failure=failure, now=1.0),
        "freed": PlacementFreed(gang_id=GangId("app.b.1"), now=1.0),
        "freed by a stranger": PlacementFreed(gang_id=GangId("x"), now=1.0),
        "forgotten": Forgotten(gang_id=GangId("app.a.1"), replica_ids=(), now=1.0),
        "nodes": NodesSeen(nodes=(), now=1.0),
        "listed": BackendListed(now=1.0),
        "acknowledged": RouterAcknowledged(router_id=RouterId("r"), acknowledged=TableVersion("e", 1), now=1.0),
    }
    return events[kind]


@pytest.mark.parametrize(
    ("kind", "expected", "unowned"),
    [
        ("exit", {A}, False),
        ("exit of an earlier epoch", {A}, True),
        ("exit of a stranger", set(), True),
        ("lost", {A}, False),
        ("reserved", {B}, False),
        ("refused", {B}, False),
        ("freed", {B}, False),
        ("freed by a stranger", set(), True),
        ("forgotten", set(), False),
        ("nodes", {A, B}, False),
        ("listed", {A, B}, False),
        ("acknowledged", set(), False),
    ],
)
def test_an_event_touches_what_it_may_matter_to(kind: str, expected: set[DeploymentKey], *, unowned: bool) -> None:
    known = records("a", "b").indexed()
    assert set(touched_by_event(_event(kind), known, START, policy=POLICY)) == expected
    assert is_unowned(_event(kind), known) is unowned


def _beat(now: float, *, replica_id: ReplicaId = MINE, epoch: int = 1) -> HeartbeatSeen:
    return HeartbeatSeen(replica_id=replica_id, epoch=epoch, load=Load(), now=now)


def test_a_heartbeat_touches_nothing_unless_it_ends_a_suspicion() -> None:
    known = records("a", "b").indexed()
    ready = ReplicaReport(phase=ReplicaPhase.READY, address="h:1")
    opened = AttachOpened(replica_id=MINE, epoch=1, pid=1, report=ready, config="", now=100.0)
    seen = fold(START, opened)
    assert not touched_by_event(_beat(102.9), known, seen, policy=POLICY)
    assert touched_by_event(_beat(103.1), known, seen, policy=POLICY) == (A,)
    seen = fold(seen, _beat(103.1))
    assert not touched_by_event(_beat(104.1), known, seen, policy=POLICY)
    assert not touched_by_event(_beat(999.0, replica_id=STRANGER), known, seen, policy=POLICY)
    assert not touched_by_event(_beat(999.0, epoch=7), known, seen, policy=POLICY)


def test_records_touch_what_differs_in_them() -> None:
    before = records("a", "b").indexed()
    assert not list(touched_by_records(before, before))
    another = gang(before.deployments[B], "2")
    more = replace(before, gangs={**before.gangs, another.gang_id: another})
    assert set(touched_by_records(before, more)) == {B}
    assert set(touched_by_records(more, before)) == {B}
    scaled = {**before.deployments, A: replace(before.deployments[A], num_replicas=7)}
    assert set(touched_by_records(before, replace(before, deployments=scaled))) == {A}


def test_an_application_touches_its_deployments_only_by_what_they_share() -> None:
    before = records("a", "b").indexed()
    application = before.applications["app"]
    raised = replace(before, applications={"app": replace(application, generation=9)})
    assert not list(touched_by_records(before, raised))
    turned = replace(before, applications={"app": replace(application, ingress="b")})
    assert set(touched_by_records(before, turned)) == {A, B}
