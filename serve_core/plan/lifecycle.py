"""The life of a gang and of its members: every move there is, as one table.

A gang moves only by a trigger, only as the table says, and all of its members with it; but in STARTING a member may be
READY before its gang is, or still, while others are started again. GONE is not persisted: the record is deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import StrEnum

from serve_core.errors import InvariantViolation
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.plan.records import GangRecord


class Trigger(StrEnum):
    """Why a gang moves."""

    PLACED = "its placement is held"
    REFUSED = "its placement was refused"
    READY = "every member is ready"
    START_FAILED = "a member failed to start"
    UNWANTED = "it is not wanted any more"
    ILL = "a member is ill or leaves by itself"
    LOST = "its members have ended or are not heard of, or are not to finish"
    BROKEN = "a member has ended or is not heard of, and the others finish"
    REPLACED = "a member is started again, and the others stay"
    DISMISSED = "it is not wanted any more, and those that stayed finish"
    DRAINED = "every member that can has finished and ended"
    BUDGET_OVER = "its drain's budget is over"
    FREED = "every process has ended and its placement is free"


TRANSITIONS: Mapping[ReplicaPhase, Mapping[Trigger, ReplicaPhase]] = {
    ReplicaPhase.RESERVING: {
        Trigger.PLACED: ReplicaPhase.STARTING,
        Trigger.REFUSED: ReplicaPhase.STOPPING,
        Trigger.LOST: ReplicaPhase.STOPPING,
        Trigger.UNWANTED: ReplicaPhase.STOPPING,
    },
    ReplicaPhase.STARTING: {
        Trigger.READY: ReplicaPhase.READY,
        Trigger.START_FAILED: ReplicaPhase.STOPPING,
        Trigger.LOST: ReplicaPhase.STOPPING,
        Trigger.UNWANTED: ReplicaPhase.STOPPING,
        Trigger.BROKEN: ReplicaPhase.DRAINING,
        Trigger.DISMISSED: ReplicaPhase.DRAINING,
    },
    ReplicaPhase.READY: {
        Trigger.REPLACED: ReplicaPhase.STARTING,
        Trigger.UNWANTED: ReplicaPhase.DRAINING,
        Trigger.ILL: ReplicaPhase.DRAINING,
        Trigger.BROKEN: ReplicaPhase.DRAINING,
        Trigger.LOST: ReplicaPhase.STOPPING,
    },
    ReplicaPhase.DRAINING: {
        Trigger.DRAINED: ReplicaPhase.STOPPING,
        Trigger.BUDGET_OVER: ReplicaPhase.STOPPING,
    },
    ReplicaPhase.STOPPING: {Trigger.FREED: ReplicaPhase.GONE},
    ReplicaPhase.GONE: {},
}
"""Where each trigger leads from each phase; what is not here cannot happen."""

LIVE = frozenset({ReplicaPhase.RESERVING, ReplicaPhase.STARTING, ReplicaPhase.READY})
"""Phases of a gang that serves or is to serve."""

STARTING = frozenset({ReplicaPhase.RESERVING, ReplicaPhase.STARTING})
"""Phases of a gang that comes up."""


def move(gang: GangRecord, trigger: Trigger, *, now: float, failure: Failure | None = None) -> GangRecord:
    """The gang after ``trigger``, with its members.

    Raises:
        InvariantViolation: There is no such move.
    """
    phase = _destination(gang, trigger, now=now)
    members = tuple(
        member if member.phase is phase else replace(member, phase=phase, phase_since=now) for member in gang.members
    )
    return replace(
        gang,
        phase=phase,
        phase_since=now,
        members=members,
        failure=failure or gang.failure,
        repaired=None if phase is ReplicaPhase.READY else gang.repaired,
    )


def repair(
    gang: GangRecord, replica_ids: Collection[ReplicaId], *, now: float, failure: Failure, in_a_row: int
) -> GangRecord:
    """The gang in its next epoch, in which these members are started again while the others stay as they are.

    Args:
        gang: A gang that is ready.
        replica_ids: Who failed.
        now: Seconds since the Unix epoch.
        failure: Why.
        in_a_row: The restarts in its place without a calm time between, this one among them.

    Raises:
        InvariantViolation: The gang is not ready.
    """
    phase = _destination(gang, Trigger.REPLACED, now=now)
    members = tuple(
        replace(member, epoch=member.epoch + 1, phase=phase, phase_since=now, endpoint=None)
        if member.replica_id in replica_ids
        else member
        for member in gang.members
    )
    return replace(
        gang,
        phase=phase,
        phase_since=now,
        epoch=gang.epoch + 1,
        members=members,
        repaired=failure,
        in_rotation_since=0.0,
        out_of_rotation="",
        restarts=gang.restarts + 1,
        restarts_in_a_row=in_a_row,
    )


def _destination(gang: GangRecord, trigger: Trigger, *, now: float) -> ReplicaPhase:
    phase = TRANSITIONS[gang.phase].get(trigger)
    if phase is None:
        raise InvariantViolation(
            f"gang {gang.gang_id} is {gang.phase.name} and cannot move because {trigger.value}",
            story=(f"{gang.phase.name} since {gang.phase_since}", f"{trigger.name} at {now}"),
        )
    return phase


def member_ready(gang: GangRecord, replica_id: ReplicaId, *, now: float) -> GangRecord:
    """The gang, one of whose members is ready before the others.

    Raises:
        InvariantViolation: The gang is not starting.
    """
    if gang.phase is not ReplicaPhase.STARTING:
        raise InvariantViolation(f"member {replica_id} cannot become ready: gang {gang.gang_id} is {gang.phase.name}")
    members = tuple(
        replace(member, phase=ReplicaPhase.READY, phase_since=now)
        if member.replica_id == replica_id and member.phase is not ReplicaPhase.READY
        else member
        for member in gang.members
    )
    return replace(gang, members=members)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> RESERVING"]
    lines += [
        f"    {source.name} --> {destination.name}: {trigger.value}"
        for source, row in TRANSITIONS.items()
        for trigger, destination in row.items()
    ]
    lines.append("    GONE --> [*]")
    return "\n".join(lines) + "\n"
