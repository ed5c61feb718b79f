"""What all phases of a gang ask of its members."""

from __future__ import annotations

from collections.abc import Sequence

from serve_core.model.replica import Gang, Replica
from serve_core.plan.actions import ReservePlacement
from serve_core.plan.classify import Judgement, judge
from serve_core.plan.observed import PlacementState, ProcessState, ReplicaObserved
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord, MemberRecord

Judgements = Sequence[tuple[MemberRecord, Judgement]]


def identity(
    gang: GangRecord,
    member: MemberRecord,
    *,
    metadata: dict[str, str],
    role: str = "",
    address: str = "",
    zone: str = "",
) -> Replica:
    """Who a member is, and where, as far as that is known."""
    return Replica(
        replica_id=member.replica_id,
        key=gang.key,
        revision=gang.revision,
        epoch=member.epoch,
        address=address,
        node_id=member.node_id,
        zone=zone,
        gang=Gang(gang_id=gang.gang_id, rank=member.rank, size=gang.size, epoch=gang.epoch, role=role),
        metadata=metadata,
    )


def seen_of(draft: Draft, member: MemberRecord) -> ReplicaObserved:
    """What was seen of this start of a member."""
    return draft.observed.replica(member.replica_id, epoch=member.epoch)


def judgements(draft: Draft, gang: GangRecord) -> Judgements:
    """What each member's process is, by rank."""
    spec = draft.spec(gang)
    return [
        (member, judge(member, spec, draft.observed, now=draft.now, policy=draft.policy)) for member in gang.members
    ]


def earlier(draft: Draft, member: MemberRecord) -> ReplicaObserved | None:
    """The process of an earlier start of a member, if it may run still."""
    seen = draft.observed.replicas.get(member.replica_id)
    return seen if seen is not None and seen.epoch < member.epoch and seen.process is not ProcessState.EXITED else None


def has_ended(draft: Draft, member: MemberRecord) -> bool:
    """Whether a member's process has ended, or was never seen though all that runs was listed."""
    return seen_of(draft, member).process is ProcessState.EXITED


def hold_placement(draft: Draft, gang: GangRecord) -> PlacementState:
    """Asks for the reservation until the backend has answered: a new one must be told of what lives, too."""
    state = draft.observed.placement(gang.gang_id).state
    if state in (PlacementState.UNKNOWN, PlacementState.FREED):
        draft.actions.append(ReservePlacement(gang_id=gang.gang_id, key=gang.key, bundles=gang.bundles))
    return state
