from __future__ import annotations

import pytest

from serve_core.errors import InvariantViolation
from serve_core.model.ids import GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan.lifecycle import LIVE, TRANSITIONS, Trigger, diagram, member_ready, move
from serve_core.plan.records import Bundle, GangRecord, MemberRecord
from tests.unit.plan.world import KEY


def _gang(phase: ReplicaPhase, *, size: int = 2) -> GangRecord:
    bundle = Bundle(node_id=NodeId("n"), resources=Resources())
    return GangRecord(
        gang_id=GangId("g"),
        key=KEY,
        revision=RevisionId("r"),
        phase=phase,
        phase_since=1.0,
        created_at=1.0,
        members=tuple(
            MemberRecord(replica_id=ReplicaId(f"g-{rank}"), rank=rank, phase=phase, phase_since=1.0, bundle=bundle)
            for rank in range(size)
        ),
    )


@pytest.mark.parametrize(
    ("phase", "trigger", "destination"),
    [(phase, trigger, to) for phase, row in TRANSITIONS.items() for trigger, to in row.items()],
)
def test_a_gang_moves_with_all_its_members(phase: ReplicaPhase, trigger: Trigger, destination: ReplicaPhase) -> None:
    moved = move(_gang(phase), trigger, now=5.0)
    assert (moved.phase, moved.phase_since) == (destination, 5.0)
    assert {(member.phase, member.phase_since) for member in moved.members} == {(destination, 5.0)}


@pytest.mark.parametrize(
    ("phase", "trigger"),
    [(phase, trigger) for phase in ReplicaPhase for trigger in Trigger if trigger not in TRANSITIONS[phase]],
)
def test_there_is_no_other_move(phase: ReplicaPhase, trigger: Trigger) -> None:
    with pytest.raises(InvariantViolation) as caught:
        move(_gang(phase), trigger, now=5.0)
    assert phase.name in str(caught.value)
    assert trigger.name in caught.value.story[1]


def test_every_phase_leads_to_the_end() -> None:
    reached = {ReplicaPhase.GONE}
    for _ in ReplicaPhase:
        reached |= {phase for phase, row in TRANSITIONS.items() if reached & set(row.values())}
    assert reached == set(ReplicaPhase)
    assert ReplicaPhase.DRAINING not in LIVE


def test_a_failure_stays_with_its_gang() -> None:
    failure = Failure(reason="X", message="x")
    failed = move(_gang(ReplicaPhase.STARTING), Trigger.START_FAILED, now=2.0, failure=failure)
    assert move(failed, Trigger.FREED, now=3.0).failure == failure


def test_a_member_may_be_ready_before_its_gang() -> None:
    first = member_ready(_gang(ReplicaPhase.STARTING), ReplicaId("g-1"), now=3.0)
    assert [member.phase.name for member in first.members] == ["STARTING", "READY"]
    assert member_ready(first, ReplicaId("g-1"), now=4.0) == first
    ready = move(first, Trigger.READY, now=5.0)
    assert [member.phase_since for member in ready.members] == [5.0, 3.0]
    with pytest.raises(InvariantViolation):
        member_ready(ready, ReplicaId("g-0"), now=6.0)


def test_the_diagram_draws_every_move() -> None:
    drawn = diagram()
    assert drawn.startswith("stateDiagram-v2\n    [*] --> RESERVING\n")
    assert drawn.count("-->") == sum(len(row) for row in TRANSITIONS.values()) + 2
    assert "    READY --> DRAINING: it is not wanted any more\n" in drawn
