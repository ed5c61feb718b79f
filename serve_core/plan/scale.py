"""Starts the gangs that are missing and stops those that are too many, whole ones."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.ids import RevisionId
from serve_core.plan.actions import ReservePlacement
from serve_core.plan.create import new_gang
from serve_core.plan.follow import follow
from serve_core.plan.lifecycle import STARTING, Trigger
from serve_core.plan.placement import GangRequest, MemberPlacement, Shortage
from serve_core.plan.plan import Draft
from serve_core.plan.record_parts import VacantPlace
from serve_core.plan.records import GangRecord, replicas_in
from serve_core.plan.rollout import leaving, missing

BLOCKED_RETRY_S = 5.0
"""Room that appears wakes the planner; this is for what it was not told of."""


def start_missing(draft: Draft) -> None:
    """Creates gangs, as far as there is room and a turn, unless a failure is to be waited out first."""
    for step in missing(draft):
        for _ in range(step.count):
            record = draft.deployment
            retry_at = record.retry_at if step.revision == record.target else record.good_retry_at
            if draft.now < retry_at:
                draft.wake_at(retry_at)
                break
            if not _may_start(draft, step.revision):
                return  # The end of a start is an event of this deployment.
            if not _create(draft, step.revision):
                draft.wake_at(draft.now + BLOCKED_RETRY_S)
                break


def stop_surplus(draft: Draft) -> bool:
    """Stops gangs that are too many, and those of revisions that are not wanted any more. Returns whether there were."""
    chosen = leaving(draft)
    for gang in chosen:
        follow(draft, draft.move(gang, Trigger.DISMISSED if gang.is_repaired else Trigger.UNWANTED))
    return bool(chosen)


def _may_start(draft: Draft, revision: RevisionId) -> bool:
    """Whether one more gang may start beside those that do. One alone always may, though it be larger than the limit."""
    limit = draft.deployment.target_spec.rollout.max_concurrent_starts
    kept = draft.deployment.revision(revision)
    starting = replicas_in(gang for gang in draft.gangs.values() if gang.phase in STARTING)
    return kept is None or not limit or not starting or starting + kept.spec.gang.size <= limit


def _create(draft: Draft, revision: RevisionId) -> bool:
    kept = draft.deployment.revision(revision)
    if kept is None:
        return False
    starts_per_node = draft.policy.max_concurrent_starts_per_node
    placed = draft.capacity.place(GangRequest.of(kept.spec), starts_per_node=starts_per_node)
    if isinstance(placed, Shortage):
        draft.shortages[revision] = placed
        return False
    gang = _new_gang(draft, revision, placed)
    draft.save(gang)
    draft.created += 1
    draft.reasons.append(f"{gang.gang_id} is created for revision {revision}")
    draft.actions.append(ReservePlacement(gang_id=gang.gang_id, key=gang.key, bundles=gang.bundles))
    return True


def _new_gang(draft: Draft, revision: RevisionId, placed: tuple[MemberPlacement, ...]) -> GangRecord:
    """Takes the place of a gang that failed, if one is open: the one in which the most were lost."""
    places = sorted(draft.deployment.vacant_places)
    place = places.pop() if places and revision == draft.deployment.target else VacantPlace(0, 0)
    draft.deployment = replace(draft.deployment, vacant_places=tuple(places))
    gang = new_gang(draft, revision, placed, restarts=place.restarts)
    return replace(gang, restarts_in_a_row=place.in_a_row)
