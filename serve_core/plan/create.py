"""Makes the records of a new gang."""

from __future__ import annotations

from collections.abc import Sequence

from serve_core.model.ids import RevisionId, gang_id, replica_id
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.placement import MemberPlacement
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord, MemberRecord


def new_gang(draft: Draft, revision: RevisionId, placed: Sequence[MemberPlacement], *, restarts: int) -> GangRecord:
    """A gang that waits for its placement. It is not saved yet."""
    key, now = draft.deployment.key, draft.now
    new_id = gang_id(key, next(draft.ids))
    members = tuple(
        MemberRecord(
            replica_id=replica_id(new_id, rank),
            rank=rank,
            phase=ReplicaPhase.RESERVING,
            phase_since=now,
            bundle=place.bundle,
            child_bundles=place.child_bundles,
        )
        for rank, place in enumerate(placed)
    )
    return GangRecord(
        gang_id=new_id,
        key=key,
        revision=revision,
        phase=ReplicaPhase.RESERVING,
        phase_since=now,
        created_at=now,
        members=members,
        restarts=restarts,
    )
