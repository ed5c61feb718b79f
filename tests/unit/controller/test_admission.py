"""Who may attach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.controller.admission import Refusal, Welcome, admit, may_go_on
from serve_core.model.actor import ActorAssignment
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.records import Records
from tests.unit.controller.samples import actor_gang, records

MINE = ReplicaId("app.a.1-0")


def test_a_recorded_member_is_welcome_as_what_it_is() -> None:
    known = records("a")
    admitted = admit(known, MINE, 1)
    assert isinstance(admitted, Welcome)
    record = next(iter(known.deployments.values()))
    assert admitted.spec == record.target_spec
    who = admitted.replica
    assert (who.replica_id, who.key, who.revision, who.epoch) == (MINE, record.key, record.target, 1)
    assert (who.gang.gang_id, who.gang.rank, who.gang.size) == ("app.a.1", 0, 1)
    assert (who.node_id, who.metadata) == ("node-0", {"who": "me"})


def test_an_actor_is_welcome_as_that_with_what_it_runs() -> None:
    known = records("a")
    record = next(iter(known.deployments.values()))
    life = actor_gang(record)
    admitted = admit(replace(known, gangs={life.gang_id: life}), ReplicaId("app.a.9-0"), 1)
    assert isinstance(admitted, Welcome)
    assert admitted.actor == ActorAssignment(name="cache", incarnation=2, restore=True)
    assert (admitted.spec.import_path, admitted.spec.max_ongoing_requests, admitted.spec.env) == (
        "m:C",
        100,
        {"A": "a"},
    )
    assert admitted.replica.metadata == {}


def test_an_epoch_that_was_replaced_is_refused() -> None:
    refused = admit(records("a"), MINE, 2)
    assert isinstance(refused, Refusal)
    assert "epoch 2" in refused.message


def test_a_stranger_is_refused_by_name() -> None:
    refused = admit(records("a"), ReplicaId("app.a.9-0"), 1)
    assert isinstance(refused, Refusal)
    assert "app.a.9-0" in refused.message


@pytest.mark.parametrize(
    ("phase", "goes_on"),
    [
        (ReplicaPhase.STARTING, True),
        (ReplicaPhase.READY, True),
        (ReplicaPhase.DRAINING, True),
        (ReplicaPhase.STOPPING, False),
        (ReplicaPhase.GONE, False),
    ],
)
def test_what_was_given_up_is_not_acknowledged(phase: ReplicaPhase, *, goes_on: bool) -> None:
    known = records("a")
    gangs = {gang_id: replace(gang, phase=phase) for gang_id, gang in known.gangs.items()}
    assert may_go_on(replace(known, gangs=gangs), MINE, 1) is goes_on


def test_neither_strangers_nor_earlier_starts_are_acknowledged() -> None:
    known = records("a")
    assert not may_go_on(known, MINE, 2)
    assert not may_go_on(known, ReplicaId("app.a.9-0"), 1)
    assert not may_go_on(Records(), MINE, 1)
