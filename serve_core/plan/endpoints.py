"""What routers should know, from records and observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.replica import Replica, ReplicaPhase, ReplicaReport
from serve_core.plan.follow import identity
from serve_core.plan.observed import Observed, ProcessState
from serve_core.plan.placement import is_feasible
from serve_core.plan.policy import Policy
from serve_core.plan.records import DeploymentRecord, GangRecord, MemberRecord, Records
from serve_core.plan.scale import GANG_SIZE


def is_recovering(records: Records, observed: Observed, *, now: float, policy: Policy | None = None) -> bool:
    """Whether a table would be emptier than what lives, as some that served have not attached to this controller yet.

    Nothing is to be published as long as that is so; it ends after a grace period at the latest.
    """
    if now >= observed.listening_since + (policy or Policy()).reattach_grace_s:
        return False
    if not observed.listed_at:
        return True
    return any(
        seen.process is not ProcessState.EXITED and seen.report is None
        for gang in records.gangs.values()
        if gang.phase is ReplicaPhase.READY
        for member in gang.members
        for seen in (observed.replica(member.replica_id, epoch=member.epoch),)
    )


def build(records: Records, observed: Observed) -> tuple[tuple[DeploymentRoute, ...], tuple[Replica, ...]]:
    """The routes and the replicas of the table. A gang is in it whole, or not at all."""
    routes: list[DeploymentRoute] = []
    replicas: list[Replica] = []
    for key in sorted(records.deployments):
        record = records.deployments[key]
        application = records.applications.get(key.application)
        if record.deleting or application is None:
            continue
        gangs = records.gangs_of(key)
        routable = [gang for gang in gangs if _is_routable(gang, observed)]
        routes.append(_route(record, gangs, routable, observed, ingress=application.ingress == key.deployment))
        replicas += [
            replica
            for gang in routable
            for member in gang.members
            for replica in (located(record, gang, member, observed),)
        ]
    return tuple(routes), tuple(replicas)


def located(record: DeploymentRecord, gang: GangRecord, member: MemberRecord, observed: Observed) -> Replica:
    """Who a member is and where, as far as that is known."""
    kept = record.revision(gang.revision)
    metadata = dict(kept.spec.metadata) if kept is not None else {}
    report = _report(member, observed)
    node = observed.nodes.get(member.node_id)
    if report is not None:
        metadata |= report.metadata
    return replace(
        identity(gang, member, metadata=metadata),
        address=report.address if report is not None else "",
        zone=node.zone if node is not None else "",
    )


def _report(member: MemberRecord, observed: Observed) -> ReplicaReport | None:
    return observed.replica(member.replica_id, epoch=member.epoch).report


def _is_routable(gang: GangRecord, observed: Observed) -> bool:
    return gang.phase is ReplicaPhase.READY and all(_takes_requests(member, observed) for member in gang.members)


def _takes_requests(member: MemberRecord, observed: Observed) -> bool:
    """By its last word, unless its process has ended: a lost stream alone is no reason to send it nothing."""
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    report = seen.report
    return (
        seen.process is not ProcessState.EXITED
        and report is not None
        and report.phase is ReplicaPhase.READY
        and report.healthy
        and bool(report.address)
    )


def _route(
    record: DeploymentRecord,
    gangs: Sequence[GangRecord],
    routable: Sequence[GangRecord],
    observed: Observed,
    *,
    ingress: bool,
) -> DeploymentRoute:
    message = "" if routable else _why_nothing_comes(record, gangs, observed)
    reports = [
        (gang.revision == record.target, report)
        for gang in routable
        for report in (_report(gang.members[0], observed),)
        if report is not None
    ]
    told = max(reports, key=lambda item: item[0])[1] if reports else None
    return DeploymentRoute(
        key=record.key,
        ingress=ingress,
        available=not message,
        message=message,
        max_queued_requests=record.target_spec.max_queued_requests,
        methods=told.methods if told is not None else (),
        services=told.services if told is not None else (),
        file_descriptor_set=told.file_descriptor_set if told is not None else b"",
    )


def _why_nothing_comes(record: DeploymentRecord, gangs: Sequence[GangRecord], observed: Observed) -> str:
    """Why callers need not wait; empty if they may hope."""
    if record.num_replicas == 0:
        return f"{record.key} has num_replicas 0; scale it up"
    falls_back = record.last_good is not None and record.last_good != record.target
    if record.terminal is not None and not falls_back:
        return f"{record.key} could not start: {record.terminal.message}"
    if falls_back or any(gang.phase in (ReplicaPhase.STARTING, ReplicaPhase.READY) for gang in gangs):
        return ""
    resources = record.target_spec.resources
    if observed.nodes and not is_feasible(observed.nodes.values(), resources, size=GANG_SIZE):
        return f"{record.key} asks for more than any node has; see 'serve-core status'"
    return ""
