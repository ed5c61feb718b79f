"""What a change of revision waits for, in one sentence, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from serve_core.model.replica import ReplicaPhase
from serve_core.plan.gate import awaited
from serve_core.plan.lifecycle import LIVE, STARTING
from serve_core.plan.moving import is_moving
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.record_parts import WaitRecord
from serve_core.plan.records import GangRecord, MemberRecord
from serve_core.plan.renewal import is_outdated
from serve_core.plan.rollout import is_acknowledged, is_available, is_changing, missing

NAMES_MAX = 3
"""Replicas or routers that are named; what is more is counted."""


def waiting_for(draft: Draft) -> str:
    """The first thing that holds the change up; empty if it is over, or held by an operator."""
    record = draft.deployment
    rollout = record.rollout
    if rollout is None or record.deleting or record.terminal is not None:
        return ""
    if rollout.finished_at:
        moving = next(_moves(draft), "") or next(_outdated(draft), "")
        # What makes up for a loss may need the room of what is lost, or of what was too much.
        ending = [
            one for one in in_order(draft.gangs.values()) if _is_old(draft, one) or (draft.shortages and _ends(one))
        ]
        return moving or (_until_gone(draft, ending[0]) if ending else "")
    if record.paused and is_changing(record):
        share = record.target_spec.rollout.pause_at
        return "an operator to resume it" + (f": pause_at = {share} was reached" if rollout.paused_by_share else "")
    return next(_reasons(draft), "")


def room_missing(draft: Draft) -> str:
    """What resources are missing; empty if none are, or if what this deployment itself lets go of may be enough."""
    short = [shortage.message for shortage in draft.shortages.values() if not shortage.turn]
    return "" if any(gang.phase >= ReplicaPhase.DRAINING for gang in draft.gangs.values()) else "; ".join(short)


def place_in_queue(draft: Draft) -> WaitRecord | None:
    """Since when the deployment waits for room that others hold, and for what; None if it does not.

    One that got a gang and wants more goes to the end, so that none gets all before the next gets any. A pause after a failure
    interrupts no wait. A revision that could have no room beside gangs of another waits for those, and is in nobody's way.
    """
    # Those of the target may be settled, and not here.
    old = [gang for gang in draft.gangs.values() if gang.phase in LIVE and gang.revision != draft.deployment.target]
    place = None if draft.created else draft.deployment.waiting
    asked = [
        one.request
        for one in draft.shortages.values()
        if one.feasible and not one.turn and one.request and draft.capacity.could_fit_beside(one.request, old)
    ]
    if asked:
        return WaitRecord(since=draft.now, request=asked[0]) if place is None else replace(place, request=asked[0])
    still = place is not None and not draft.shortages and any(step.count for step in missing(draft))
    return place if still else None


def _is_old(draft: Draft, gang: GangRecord) -> bool:
    return gang.revision != draft.deployment.target and gang.phase is not ReplicaPhase.GONE


def _ends(gang: GangRecord) -> bool:
    return ReplicaPhase.DRAINING <= gang.phase < ReplicaPhase.GONE


def _moves(draft: Draft) -> Iterator[str]:
    """What holds up those that are to be elsewhere."""
    moving = [gang for gang in in_order(draft.gangs.values()) if gang.phase in LIVE and is_moving(draft, gang)]
    for gang in moving[:1]:
        nodes = sorted({member.node_id for member in gang.members if member.node_id in draft.draining})
        why = next(_reasons(draft), "")
        yield f"what is on node {_names(nodes)} to be replaced elsewhere" + (f"; it waits for {why}" if why else "")


def _outdated(draft: Draft) -> Iterator[str]:
    """What holds up those that are to be replaced after an actor that they use lost its state."""
    if any(gang.phase in LIVE and is_outdated(draft.deployment, gang) for gang in draft.gangs.values()):
        why = next(_reasons(draft), "")
        yield "replicas from before an actor began anew to be replaced" + (f"; it waits for {why}" if why else "")


def _reasons(draft: Draft) -> Iterator[str]:
    """From the nearest to the goal to the farthest from it."""
    mine = draft.live(draft.deployment.target)
    for gang in mine:
        if gang.phase is ReplicaPhase.READY and not is_available(draft, gang):
            yield _until_available(draft, gang)
    coming = (member for gang in mine if gang.phase in STARTING for member in gang.members)
    starting = [member.replica_id for member in coming if member.phase is not ReplicaPhase.READY]
    if starting:
        yield f"replica {_names(starting)} to be ready"
    for gang in in_order(draft.gangs.values()):
        if _ends(gang):
            yield _until_gone(draft, gang)
    if draft.shortages:
        yield "room: " + "; ".join(shortage.message for shortage in draft.shortages.values())
    actors = awaited(draft.deployment, draft.deployment.target)
    if actors:
        yield f"actor {_names(actors)} to be ready"
    if draft.now < draft.deployment.retry_at:
        yield "the pause after a failure to be over"


def _until_available(draft: Draft, gang: GangRecord) -> str:
    if gang.out_of_rotation:
        return f"{gang.out_of_rotation}; it must be back in rotation"
    if not is_acknowledged(draft, gang):
        return _until_acknowledged(draft, gang.members)
    seconds = draft.deployment.target_spec.rollout.min_ready_s
    return f"replica {gang.members[0].replica_id} to be ready for min_ready_s = {seconds:g} s"


def _until_gone(draft: Draft, gang: GangRecord) -> str:
    if gang.phase is ReplicaPhase.DRAINING and any(one.replica_id in draft.table.awaited for one in gang.members):
        return _until_acknowledged(draft, gang.members)
    return f"replica {_names([member.replica_id for member in gang.members])} to finish and end"


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def _until_acknowledged(draft: Draft, members: tuple[MemberRecord, ...]) -> str:
    awaited = [draft.table.awaited[one.replica_id] for one in members if one.replica_id in draft.table.awaited]
    if not awaited:
        return f"replica {members[0].replica_id} to enter the routers' table"
    last = max(awaited, key=lambda one: one.version)
    return f"router {_names(last.routers)} to acknowledge table {last.version}"
