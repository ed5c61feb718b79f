"""Which deployments an event matters to."""

from __future__ import annotations

import pytest

from serve_core.controller.loop import fresh_ids, touched
from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId, RouterId
from serve_core.model.replica import Failure
from serve_core.plan.events import (
    BackendListed,
    Event,
    Forgotten,
    NodesSeen,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
    ProcessExited,
    RouterAcknowledged,
)
from tests.unit.controller.samples import records

A, B = DeploymentKey("app", "a"), DeploymentKey("app", "b")
WAITING = DeploymentKey("app", "waiting")


def _event(kind: str) -> Event:
    failure = Failure(reason="NO_ROOM", message="")
    events: dict[str, Event] = {
        "exit": ProcessExited(replica_id=ReplicaId("app.a.1-0"), epoch=1, exit_code=0, now=1.0),
        "exit of a stranger": ProcessExited(replica_id=ReplicaId("x-0"), epoch=1, exit_code=0, now=1.0),
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
    ("kind", "expected"),
    [
        ("exit", [A]),
        ("exit of a stranger", []),
        ("reserved", [B]),
        ("refused", [B]),
        ("freed", [B, WAITING]),
        ("freed by a stranger", [WAITING]),
        ("forgotten", []),
        ("nodes", [A, B]),
        ("listed", [A, B]),
        ("acknowledged", [A, B]),
    ],
)
def test_an_event_touches_what_it_may_matter_to(kind: str, expected: list[DeploymentKey]) -> None:
    assert touched(_event(kind), records("a", "b"), blocked={WAITING}) == expected


def test_ids_are_fresh_and_fit_for_names() -> None:
    ids = fresh_ids()
    drawn = [next(ids) for _ in range(100)]
    assert len(set(drawn)) == 100
    assert all(text.isalnum() for text in drawn)
