"""How many gangs of which revision are wanted now.

The step is derived from what is, so a restarted controller goes on where it was. With ``n`` wanted, from ``good`` (the last
revision that ran whole) to ``target``:

* ``target`` gets all of its ``n`` gangs beside the ``n`` of ``good``. Once they are all ready, and every live router routes by
  a table that holds them, ``target`` is the new ``good``, and nothing else is wanted.
* Where there is no room for all of them, ``good`` gives up one gang for each new one that is ready: never fewer than ``n``
  are ready, while nothing fails.
* Paused, ``target`` gets no more, and loses none.
* Given up, ``target`` gets none, and ``good`` its ``n`` again.

An example, n = 2, room for three: (good, target) = 2+0, 2+1, 1+1, 1+2, 0+2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_core.model.ids import RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord


@dataclass(frozen=True, slots=True)
class Wanted:
    """Gangs of a revision: started while there are fewer than ``least``, stopped while there are more than ``most``."""

    revision: RevisionId
    least: int
    most: int


def wanted(draft: Draft) -> Sequence[Wanted]:
    """What is wanted of each revision, the one that serves first. Completes a change that is done."""
    record = draft.deployment
    if record.deleting:
        return ()
    count, good, target = record.num_replicas, record.last_good, record.target
    ready = ready_gangs(draft, target)
    if good is None or good == target:
        if record.terminal is not None:
            return (Wanted(target, 0, min(count, len(ready))),)
        _note_whole(draft, ready)
        return (Wanted(target, count, count),)
    if record.terminal is not None:
        return (Wanted(good, count, count),)
    routed = [gang for gang in ready if is_acknowledged(draft, gang)]
    replaced = min(len(routed), count)
    if record.paused:
        return (Wanted(good, count - replaced, count), Wanted(target, 0, count))
    if len(ready) > len(routed) and draft.table.wake_at is not None:
        draft.wake_at(draft.table.wake_at)
    if replaced == count:
        _complete(draft)
        return (Wanted(target, count, count),)
    short_of_room = target in draft.shortages
    return (
        Wanted(good, count - replaced, count - replaced if short_of_room else count),
        Wanted(target, count, count),
    )


def ready_gangs(draft: Draft, revision: RevisionId) -> list[GangRecord]:
    """The gangs of a revision that take requests."""
    return [gang for gang in draft.live(revision) if gang.phase is ReplicaPhase.READY]


def is_acknowledged(draft: Draft, gang: GangRecord) -> bool:
    """Whether every live router routes to the whole gang."""
    return all(member.replica_id in draft.table.acknowledged for member in gang.members)


def _note_whole(draft: Draft, ready: list[GangRecord]) -> None:
    record = draft.deployment
    if len(ready) < record.num_replicas:
        return
    if record.last_good is None:
        _complete(draft)
    elif record.impaired:
        draft.deployment = replace(record, impaired=False)


def _complete(draft: Draft) -> None:
    record = draft.deployment
    draft.reasons.append(f"{record.key} runs revision {record.target} whole")
    draft.deployment = replace(record, last_good=record.target, impaired=False, start_failures=0)
