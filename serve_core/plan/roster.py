"""Who is in a gang, once every member listens: told to each of them, who then make what they only can together."""

from __future__ import annotations

from collections import Counter

from serve_core.model.gang import GangMember, GangPolicy, GangRoster
from serve_core.model.ids import NodeId
from serve_core.plan.actions import SendRoster
from serve_core.plan.members import seen_of
from serve_core.plan.observed import Observed
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord, MemberRecord


def roster(gang: GangRecord, policy: GangPolicy, observed: Observed) -> GangRoster | None:
    """The roster of a gang's epoch, by what its members say of themselves; None before each has said where it listens, and
    the leader which port it keeps for the others."""
    reports = [observed.replica(member.replica_id, epoch=member.epoch).report for member in gang.members]
    addresses = [report.address for report in reports if report is not None and report.address]
    leader = reports[0]
    if len(addresses) < gang.size or leader is None or not leader.rendezvous_port:
        return None
    sizes = Counter(member.node_id for member in gang.members)
    nodes = list(dict.fromkeys(member.node_id for member in gang.members))
    placed: Counter[NodeId] = Counter()
    members: list[GangMember] = []
    for member, address in zip(gang.members, addresses, strict=True):
        members.append(
            GangMember(
                replica_id=member.replica_id,
                rank=member.rank,
                epoch=member.epoch,
                address=address,
                node_id=member.node_id,
                role=policy.role(member.rank),
                local_rank=placed[member.node_id],
                local_size=sizes[member.node_id],
                node_rank=nodes.index(member.node_id),
            )
        )
        placed[member.node_id] += 1
    return GangRoster(
        gang_id=gang.gang_id,
        epoch=gang.epoch,
        members=tuple(members),
        rendezvous_host=_host(leader.address),
        rendezvous_port=leader.rendezvous_port,
    )


def knows_roster(draft: Draft, gang: GangRecord, member: MemberRecord) -> bool:
    """Whether a member acts on the roster of its gang's epoch. One that is alone needs none."""
    report = seen_of(draft, member).report
    return gang.size == 1 or (report is not None and report.gang_epoch == gang.epoch)


def tell_roster(draft: Draft, gang: GangRecord) -> None:
    """Sends the roster to the members that do not act on it yet, once it is known."""
    if gang.size == 1:
        return
    untold = [
        member
        for member in gang.members
        if not knows_roster(draft, gang, member) and seen_of(draft, member).roster_sent != gang.epoch
    ]
    known = roster(gang, draft.spec(gang).gang, draft.observed) if untold else None
    for member in untold if known is not None else ():
        if known is not None and seen_of(draft, member).attached:
            draft.actions.append(
                SendRoster(gang_id=gang.gang_id, replica_id=member.replica_id, epoch=member.epoch, roster=known)
            )


def _host(address: str) -> str:
    """The host of HOST:PORT, without the brackets of IPv6."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")
