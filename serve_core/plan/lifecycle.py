"""The life of a gang and of its members: every move there is, as one table.

A gang moves only by a trigger, only as the table says, and all of its members with it; but in STARTING a member may be
READY before its gang is. GONE is not persisted: the record is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    LOST = "a member has ended or is not heard of"
    DRAINED = "every member has finished and ended"
    BUDGET_OVER = "its drain's budget is over"
    FREED = "every process has ended and its placement is free"


TRANSITIONS: Mapping[ReplicaPhase, Mapping[Trigger, ReplicaPhase]] = {
    ReplicaPhase.RESERVING: {
        Trigger.PLACED: ReplicaPhase.STARTING,
        Trigger.REFUSED: ReplicaPhase.STOPPING,
        Trigger.UNWANTED: ReplicaPhase.STOPPING,
    },
    ReplicaPhase.STARTING: {
        Trigger.READY: ReplicaPhase.READY,
        Trigger.START_FAILED: ReplicaPhase.STOPPING,
        Trigger.UNWANTED: ReplicaPhase.STOPPING,
    },
    ReplicaPhase.READY: {
        Trigger.UNWANTED: ReplicaPhase.DRAINING,
        Trigger.ILL: ReplicaPhase.DRAINING,
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
    phase = TRANSITIONS[gang.phase].get(trigger)
    if phase is None:
        raise InvariantViolation(
            f"gang {gang.gang_id} is {gang.phase.name} and cannot move because {trigger.value}",
            story=(f"{gang.phase.name} since {gang.phase_since}", f"{trigger.name} at {now}"),
        )
    members = tuple(
        member if member.phase is phase else replace(member, phase=phase, phase_since=now) for member in gang.members
    )
    return replace(gang, phase=phase, phase_since=now, members=members, failure=failure or gang.failure)


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
