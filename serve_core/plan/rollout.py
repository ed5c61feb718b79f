"""How many gangs of which revision are to be started now, and which are to go.

Counted are replicas, and moved are whole gangs: one starts if all of its members may, and goes if none of them is needed. The
step is derived from what is, so a restarted controller goes on where it was. With ``n`` replicas wanted, as in Kubernetes:

* No more than ``n + max_surge`` are live, of all revisions together; those that drain do not count. The surge makes up whole
  gangs, and is never too little to move: see ``surge``.
* A gang is *available* once it is in rotation, every live router routes by a table that holds it, and that has been so for
  ``min_ready_s``. While nothing fails, no fewer than ``n - max_unavailable`` are: an old gang goes only if that many stay.
* If more are wanted than before, only the target grows, unless the change is held by an operator or a failure. Where there is
  no room for it, no more have to serve than before.
* The target gets replicas up to ``n``, as far as the surge allows. Where there is no room for one, nothing is given up for
  it beyond what ``max_unavailable`` allows.
* What is lost of the last good revision meanwhile is replaced, as far as it is needed for the least that must serve. That
  never starts what the next step would stop.
* Of those that go, the ones that are not ready go first, then those of revisions that were abandoned, then the least busy.
  What comes up of an abandoned revision, one that is neither the target nor the last good, goes at once.
* What runs on a node that is being drained is replaced like an old revision, whatever else is under way: see ``moving``.
* Held (paused, or failed and ``on_failure: hold``, or before the target's actors are there), the target gets no more and
  nothing that serves leaves.

A roll back is a change like any other, back to the last good revision. Gangs of the target that are to be replaced, after an
actor that they use lost its state, go as those of an old revision do.

An example, n = 2, one of surge, room for three: (old, new) = 2+0, 2+1, 1+1, 1+2, 0+2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from serve_core.model.ids import RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.diff import surge
from serve_core.plan.gate import is_open
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.moving import is_moving, is_overdue
from serve_core.plan.plan import Draft
from serve_core.plan.records import DeploymentRecord, GangRecord, replicas_in
from serve_core.plan.renewal import is_current
from serve_core.plan.whole import gangs_for


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a deployment must keep to: the most replicas that may be live, and the fewest that must serve.

    Attributes:
        most: How many the target may make it. The surge is widened only by older gangs that are there: no others have to
            make way for it.
        most_good: How many the last good revision may make it, while another takes its place. What serves until that is done
            may have to be replaced though nothing of it is left, and its whole gangs may be more than the target's surge.
        least: The fewest that must serve.
        kept: The fewest where there is no room for the target: no more than it had to serve before, which is less if more
            are wanted now. More would have to be of the revision that is to go, and take the room of those that are to come.
    """

    most: int
    most_good: int
    least: int
    kept: int

    @classmethod
    def of(
        cls,
        record: DeploymentRecord,
        gangs: Iterable[GangRecord] = (),
        *,
        coming: Collection[int] = (),
        moving: bool = False,
    ) -> Bounds:
        """By the target's policy.

        Args:
            record: What is wanted.
            gangs: Those that are there: older ones may be of other sizes.
            coming: Sizes of older gangs that are about to be started.
            moving: Whether some of those that are there are to be elsewhere.
        """
        count, spec = record.num_replicas, record.target_spec
        old_sizes = {gang.size for gang in gangs if gang.revision != record.target}.union(coming)
        most = most_good = _most(record, old_sizes)
        good = record.revision(record.last_good) if record.last_good is not None else None
        if good is not None and is_changing(record):
            size = good.spec.gang.size
            whole = gangs_for(count, size=size) * size
            # While the change is held, what is to be elsewhere is replaced by its like.
            beyond = surge(spec.rollout, count, size=size, old_sizes={size}) if moving and is_held(record) else 0
            most_good = max(_most(record, old_sizes | {size}), whole + beyond)
        least = max(count - spec.rollout.max_unavailable.rounded_down(count), 0)
        return cls(most, most_good, least, min(least, _served(record)))


@dataclass(frozen=True, slots=True)
class Missing:
    """Gangs of a revision to start."""

    revision: RevisionId
    count: int


def is_changing(record: DeploymentRecord) -> bool:
    """Whether something else than the target served last, and may serve still."""
    return record.last_good is not None and record.last_good != record.target


def is_held(record: DeploymentRecord) -> bool:
    """Whether a change of revision is to stay where it is: also as long as the target waits for its actors."""
    if record.terminal is not None:
        return True
    return is_changing(record) and (record.paused or not is_open(record, record.target))


def is_stopped(record: DeploymentRecord) -> bool:
    """Whether an operator or a failure holds it. Then what is wanted more is not waited for: what serves grows."""
    by_itself = record.rollout is not None and record.rollout.paused_by_share
    return record.terminal is not None or (record.paused and not by_itself)


def is_available(draft: Draft, gang: GangRecord) -> bool:
    """Whether a gang counts. Wakes the planner when time alone makes it so."""
    return gang.serves and is_acknowledged(draft, gang) and _has_served(draft, gang)


def _has_served(draft: Draft, gang: GangRecord) -> bool:
    """Whether it has been in rotation for ``min_ready_s``."""
    if not gang.in_rotation_since:
        return False
    counts_at = gang.in_rotation_since + draft.deployment.target_spec.rollout.min_ready_s
    if draft.now < counts_at:
        draft.wake_at(counts_at)
        return False
    return True


def is_acknowledged(draft: Draft, gang: GangRecord) -> bool:
    """Whether every live router routes to the whole gang."""
    if all(member.replica_id in draft.table.acknowledged for member in gang.members):
        return True
    if draft.table.wake_at is not None:
        draft.wake_at(draft.table.wake_at)
    return False


def available(draft: Draft, gangs: Sequence[GangRecord]) -> list[GangRecord]:
    """Those that count."""
    return [gang for gang in gangs if is_available(draft, gang)]


def live(draft: Draft) -> list[GangRecord]:
    """The gangs of every revision that serve or are to serve."""
    return [gang for gang in draft.gangs.values() if gang.phase in LIVE]


def missing(draft: Draft) -> Sequence[Missing]:
    """What is to be started, the revision that serves first."""
    record = draft.deployment
    if record.deleting:
        return ()
    everything = live(draft)
    there = replicas_in(everything) + draft.settled.replicas
    moving = any(is_moving(draft, gang) for gang in everything)
    bounds = Bounds.of(record, everything, moving=moving)
    steps: list[Missing] = []
    good = record.revision(record.last_good) if record.last_good is not None else None
    if good is not None and is_changing(record):
        counting = [
            gang
            for gang in everything
            if (gang.revision == good.revision or _stands_in(draft, gang))
            and not (is_held(record) and is_moving(draft, gang))
        ]
        size = good.spec.gang.size
        needed = _needed(record, bounds, replicas_in(counting), size=size)
        count = min(needed, max(bounds.most_good - there, 0) // size)
        steps.append(Missing(good.revision, count))
        if count:
            there += count * size
            bounds = Bounds.of(record, everything, coming=(size,), moving=moving)
    if not is_held(record) and is_open(record, record.target):
        size = record.target_spec.gang.size
        fresh = replicas_in(gang for gang in everything if _is_fresh(draft, gang)) + draft.settled.replicas
        count = min(max(_limit(record) - fresh, 0), max(bounds.most - there, 0)) // size
        steps.append(Missing(record.target, count))
    return steps


def leaving(draft: Draft) -> list[GangRecord]:
    """What is to be stopped now."""
    record = draft.deployment
    everything = live(draft)
    if record.deleting:
        return everything
    mine = [gang for gang in everything if _is_fresh(draft, gang)]
    surplus = replicas_in(mine) + draft.settled.replicas - record.wanted
    chosen = _as_many_as(surplus, victims(draft, mine))
    gone = {gang.gang_id for gang in chosen}
    chosen += [gang for gang in everything if gang.gang_id not in gone and _goes_at_once(draft, gang)]
    gone = {gang.gang_id for gang in chosen}
    return chosen + _spare(draft, [gang for gang in everything if gang.gang_id not in gone])


def victims(draft: Draft, gangs: Sequence[GangRecord]) -> list[GangRecord]:
    """Whom to stop first: those that take no requests, then those that are to be elsewhere, then those of revisions that were
    abandoned, then those that hold the least, then the newest.
    """
    kept = (draft.deployment.last_good, draft.deployment.target)
    return sorted(
        gangs,
        key=lambda gang: (
            gang.phase is ReplicaPhase.READY,
            gang.serves,
            not is_moving(draft, gang),
            gang.revision in kept,
            _held(draft, gang),
            -gang.created_at,
            gang.gang_id,
        ),
    )


def _is_fresh(draft: Draft, gang: GangRecord) -> bool:
    """Whether it is as it is to be, and where it may stay."""
    return is_current(draft.deployment, gang) and not is_moving(draft, gang)


def _goes_at_once(draft: Draft, gang: GangRecord) -> bool:
    """Whether it is not waited for: it comes up in vain, or its time is over."""
    if is_moving(draft, gang) and (gang.phase is not ReplicaPhase.READY or is_overdue(draft, gang)):
        return True
    record = draft.deployment
    if gang.phase is ReplicaPhase.READY:
        return False
    if record.terminal is not None:
        return gang.revision == record.target
    return gang.revision not in (record.last_good, record.target)


def _most(record: DeploymentRecord, old_sizes: Collection[int]) -> int:
    """How many replicas may be live, if gangs of these sizes are to go."""
    return record.wanted + surge(
        record.target_spec.rollout, record.num_replicas, size=record.target_spec.gang.size, old_sizes=old_sizes
    )


def _served(record: DeploymentRecord) -> int:
    """How many replicas had to serve before the change that is under way, of those that are wanted now."""
    rollout = record.rollout
    if rollout is None or rollout.finished_at or rollout.served is None:
        return record.num_replicas
    return min(record.num_replicas, rollout.served)


def _needed(record: DeploymentRecord, bounds: Bounds, replicas: int, *, size: int) -> int:
    """Gangs of the last good revision to start beside so many replicas. Less than one is left to the target, if that comes."""
    if is_held(record):
        kept = record.num_replicas if is_stopped(record) else _served(record)
        return gangs_for(max(kept - replicas, 0), size=size)
    return max(bounds.kept - replicas, 0) // size


def _as_many_as(replicas: int, gangs: Iterable[GangRecord]) -> list[GangRecord]:
    """The first of these gangs that have no more than so many replicas together."""
    chosen: list[GangRecord] = []
    for gang in gangs:
        if gang.size > replicas:
            break
        replicas -= gang.size
        chosen.append(gang)
    return chosen


def _stands_in(draft: Draft, gang: GangRecord) -> bool:
    """Whether a gang of another revision makes up for a missing one of the last good.

    That a router has yet to acknowledge it is no reason to start another. What is left of an abandoned revision counts as the
    last good ones do, in rotation or not: it goes only when enough others are available.
    """
    if gang.revision != draft.deployment.target:
        return gang.phase is ReplicaPhase.READY
    return gang.serves and _has_served(draft, gang)


def _limit(record: DeploymentRecord) -> int:
    """How many replicas the target may have for now: all, or the share at which the change pauses by itself, but for those
    that were given up."""
    rollout = record.rollout
    pauses = rollout is not None and not rollout.pause_passed and is_changing(record)
    return (pause_at(record) if pauses else record.wanted) - record.given_up * record.target_spec.gang.size


def pause_at(record: DeploymentRecord) -> int:
    """With how many replicas of the target, in whole gangs, the change pauses by itself; all if it does not."""
    share, size = record.target_spec.rollout.pause_at, record.target_spec.gang.size
    if share is None:
        return record.wanted
    return min(gangs_for(share.rounded_up(record.num_replicas), size=size) * size, record.wanted)


def _spare(draft: Draft, staying: Sequence[GangRecord]) -> list[GangRecord]:
    """The gangs of other revisions, and those that are to be replaced, that the least that must serve needs no more."""
    record = draft.deployment
    bounds = Bounds.of(record, staying, moving=any(is_moving(draft, gang) for gang in staying))
    old = [gang for gang in staying if not _is_fresh(draft, gang)]
    if not old:
        return []
    new_available = replicas_in(available(draft, [gang for gang in staying if _is_fresh(draft, gang)]))
    least = bounds.kept if record.target in draft.shortages else bounds.least
    spare = replicas_in(old) + new_available - least
    # A change that is held keeps everything but what is too much where it may stay.
    coming = replicas_in(staying) - replicas_in(old)
    kept = min(record.num_replicas + coming, bounds.most_good) if is_held(record) else 0
    spare_held = replicas_in(gang for gang in staying if not is_moving(draft, gang)) - kept
    old_available = available(draft, old)
    spare_available = replicas_in(old_available) + new_available - least
    counting = {gang.gang_id for gang in old_available}
    chosen: list[GangRecord] = []
    for gang in victims(draft, old) if spare > 0 else ():
        stays = not is_moving(draft, gang)
        if gang.size > spare or (stays and gang.size > spare_held):
            continue
        if gang.gang_id in counting:
            if gang.size > spare_available:
                continue
            spare_available -= gang.size
        spare -= gang.size
        spare_held -= gang.size * stays
        chosen.append(gang)
    return chosen


def _held(draft: Draft, gang: GangRecord) -> int:
    return sum(draft.observed.replica(member.replica_id, epoch=member.epoch).load.held for member in gang.members)
