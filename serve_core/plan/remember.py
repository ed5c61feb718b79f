"""Keeps what routers need of those that serve, so that the next controller can tell them before anyone has attached to it."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.replica import ReplicaPhase, ReplicaReport
from serve_core.plan.observed import Observed
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.record_parts import Offer
from serve_core.plan.records import Endpoint, MemberRecord


def remember(draft: Draft) -> None:
    """Enters where the ready members are, and what the deployment offers, into the records."""
    offers: list[tuple[bool, Offer]] = []
    for gang in in_order(draft.gangs.values()):
        if gang.phase is not ReplicaPhase.READY:
            continue
        members = tuple(located(member, draft.observed) for member in gang.members)
        if members != gang.members:
            draft.save(replace(gang, members=members))
        report = _report(gang.members[0], draft.observed)
        if report is not None:
            offers.append((gang.revision == draft.deployment.target, offer_of(report)))
    if offers:
        _enter(draft, offers)


def _enter(draft: Draft, offers: list[tuple[bool, Offer]]) -> None:
    """The target's offer, if a replica of it is there to tell."""
    of_target = any(is_target for is_target, _ in offers)
    fitting = [offer for is_target, offer in offers if is_target is of_target]
    if draft.deployment.offer not in fitting:
        draft.deployment = replace(draft.deployment, offer=fitting[0])


def located(member: MemberRecord, observed: Observed) -> MemberRecord:
    """The member with where it is, by its own last word; itself if that is on record."""
    report = _report(member, observed)
    if report is None:
        return member
    endpoint = Endpoint(address=report.address, metadata=report.metadata)
    return member if member.endpoint == endpoint else replace(member, endpoint=endpoint)


def _report(member: MemberRecord, observed: Observed) -> ReplicaReport | None:
    """What a member says of itself, if that is that it serves."""
    report = observed.replica(member.replica_id, epoch=member.epoch).report
    return report if report is not None and report.phase is ReplicaPhase.READY and report.address else None


def offer_of(report: ReplicaReport) -> Offer:
    """What a replica says that its deployment offers."""
    return Offer(methods=report.methods, services=report.services, file_descriptor_set=report.file_descriptor_set)
