"""Starts the gangs that are missing and stops those that are too many, whole ones."""

from __future__ import annotations

from collections.abc import Sequence

from serve_core.model.ids import gang_id, replica_id
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.actions import ReservePlacement
from serve_core.plan.follow import follow
from serve_core.plan.lifecycle import LIVE, Trigger
from serve_core.plan.placement import Shortage
from serve_core.plan.plan import Draft
from serve_core.plan.records import Bundle, GangRecord, MemberRecord
from serve_core.plan.rollout import Wanted

GANG_SIZE = 1
"""Members of a gang: not configurable yet."""

BLOCKED_RETRY_S = 5.0
"""Room that appears wakes the planner; this is for what it was not told of."""


def start_missing(draft: Draft, wanted: Sequence[Wanted]) -> None:
    """Creates gangs, as far as there is room, unless a failure is to be waited out first."""
    for want in wanted:
        for _ in range(want.least - len(draft.live(want.revision))):
            if draft.now < draft.deployment.retry_at:
                draft.wake_at(draft.deployment.retry_at)
                return
            if not _create(draft, want):
                draft.wake_at(draft.now + BLOCKED_RETRY_S)
                break


def stop_surplus(draft: Draft, wanted: Sequence[Wanted]) -> None:
    """Stops gangs that are too many, and those of revisions that are not wanted at all."""
    most = {want.revision: want.most for want in wanted}
    for revision in sorted({gang.revision for gang in draft.gangs.values() if gang.phase in LIVE}):
        live = draft.live(revision)
        surplus = len(live) - most.get(revision, 0)
        for gang in victims(draft, live)[: max(surplus, 0)]:
            follow(draft, draft.move(gang, Trigger.UNWANTED))


def victims(draft: Draft, live: Sequence[GangRecord]) -> list[GangRecord]:
    """Whom to stop first: those that are not ready, then those that hold the least, then the newest."""
    return sorted(
        live,
        key=lambda gang: (gang.phase is ReplicaPhase.READY, _held(draft, gang), -gang.created_at, gang.gang_id),
    )


def _held(draft: Draft, gang: GangRecord) -> int:
    return sum(draft.observed.replica(member.replica_id, epoch=member.epoch).load.held for member in gang.members)


def _create(draft: Draft, want: Wanted) -> bool:
    kept = draft.deployment.revision(want.revision)
    if kept is None:
        return False
    placed = draft.capacity.place(kept.spec.resources, size=GANG_SIZE)
    if isinstance(placed, Shortage):
        draft.shortages[want.revision] = placed
        return False
    gang = _new_gang(draft, want, placed)
    draft.save(gang)
    draft.reasons.append(f"{gang.gang_id} is created for revision {want.revision}")
    draft.actions.append(ReservePlacement(gang_id=gang.gang_id, key=gang.key, bundles=placed))
    return True


def _new_gang(draft: Draft, want: Wanted, bundles: tuple[Bundle, ...]) -> GangRecord:
    key, now = draft.deployment.key, draft.now
    new_id = gang_id(key, next(draft.ids))
    members = tuple(
        MemberRecord(
            replica_id=replica_id(new_id, rank),
            rank=rank,
            phase=ReplicaPhase.RESERVING,
            phase_since=now,
            bundle=bundle,
        )
        for rank, bundle in enumerate(bundles)
    )
    return GangRecord(
        gang_id=new_id,
        key=key,
        revision=want.revision,
        phase=ReplicaPhase.RESERVING,
        phase_since=now,
        created_at=now,
        members=members,
    )
