"""What routers should know, from records and observations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey, GangId
from serve_core.model.replica import Replica, ReplicaPhase
from serve_core.plan.bounds import scales_by_itself
from serve_core.plan.members import identity
from serve_core.plan.observed import Observed, ProcessState
from serve_core.plan.placement import GangRequest, is_feasible
from serve_core.plan.policy import Policy
from serve_core.plan.record_parts import Offer
from serve_core.plan.records import DeploymentRecord, GangRecord, MemberRecord, Records
from serve_core.plan.suspicion import in_rotation, last_word


class TablePart(NamedTuple):
    """What routers should know of one deployment; no route if there is none for them.

    With ``gangs``, ``replicas`` are only those of these gangs, and those of all others are in the table as they should be.
    """

    route: DeploymentRoute | None
    replicas: tuple[Replica, ...]
    gangs: Collection[GangId] | None = None


NOTHING = TablePart(None, ())
"""The part of a deployment that routers should not know."""


def is_recovering(records: Records, observed: Observed, *, now: float, policy: Policy | None = None) -> bool:
    """Whether a table would be emptier than what lives: what runs was not listed yet, or one that served is not on record with
    its address, and has not attached to this controller yet.

    Nothing is to be published as long as that is so; it ends after a grace period at the latest.
    """
    if now >= observed.listening_since + (policy or Policy()).reattach_grace_s:
        return False
    if not observed.listed_at:
        return True
    return any(
        last_word(member, observed) is None
        and observed.replica(member.replica_id, epoch=member.epoch).process is not ProcessState.EXITED
        for gang in records.gangs.values()
        if gang.phase is ReplicaPhase.READY and gang.actor is None
        for member in gang.members
    )


def build(
    records: Records, observed: Observed, *, now: float, policy: Policy | None = None
) -> tuple[tuple[DeploymentRoute, ...], tuple[Replica, ...]]:
    """The routes and the replicas of the whole table."""
    parts = [build_part(records, observed, key, now=now, policy=policy) for key in sorted(records.deployments)]
    routes = tuple(part.route for part in parts if part.route is not None)
    return routes, tuple(replica for part in parts for replica in part.replicas)


def build_part(
    records: Records,
    observed: Observed,
    key: DeploymentKey,
    *,
    now: float,
    policy: Policy | None = None,
    changed: Collection[GangId] | None = None,
) -> TablePart:
    """What routers should know of one deployment. A gang is in it whole, or not at all.

    Where gangs that are not among ``changed`` are in the table, and stay as they are, that is all that is looked at.
    """
    record, application = records.deployments.get(key), records.applications.get(key.application)
    if record is None or record.deleting or application is None:
        return NOTHING
    known = (records.gangs.get(gang_id) for gang_id in changed or ())
    gangs = records.gangs_of(key) if changed is None else tuple(gang for gang in known if gang is not None)
    routable = [gang for gang in gangs if is_routable(record, gang, observed, now=now, policy=policy)]
    message = "" if routable or changed is not None else _why_nothing_comes(record, gangs, observed)
    return TablePart(
        route=_route(record, message, ingress=application.ingress == key.deployment),
        replicas=tuple(located(record, gang, member, observed) for gang in routable for member in gang.members),
        gangs=changed,
    )


def located(record: DeploymentRecord, gang: GangRecord, member: MemberRecord, observed: Observed) -> Replica:
    """Who a member is and where, as far as that is known."""
    kept = record.revision(gang.revision)
    metadata = dict(kept.spec.metadata) if kept is not None else {}
    report = last_word(member, observed)
    node = observed.nodes.get(member.node_id)
    if report is not None:
        metadata |= report.metadata
    return identity(
        gang,
        member,
        metadata=metadata,
        role=kept.spec.gang.role(member.rank) if kept is not None else "",
        address=report.address if report is not None else "",
        zone=node.zone if node is not None else "",
    )


def is_routable(
    record: DeploymentRecord, gang: GangRecord, observed: Observed, *, now: float, policy: Policy | None = None
) -> bool:
    """Whether routers may send to a gang: it is to serve, and every member of it is in rotation.

    What left rotation comes back when that is on record: the next controller must not tell routers otherwise.
    """
    spec = record.spec_of(gang)
    if gang.out_of_rotation or gang.actor is not None:
        return False
    return gang.phase is ReplicaPhase.READY and all(
        in_rotation(member, observed, spec, now, policy=policy)[0] for member in gang.members
    )


def _route(record: DeploymentRecord, message: str, *, ingress: bool) -> DeploymentRoute:
    offer = record.offer or Offer()
    return DeploymentRoute(
        key=record.key,
        ingress=ingress,
        available=not message,
        message=message,
        max_queued_requests=record.target_spec.max_queued_requests,
        methods=offer.methods,
        services=offer.services,
        file_descriptor_set=offer.file_descriptor_set,
        gang_route=record.target_spec.gang.route,
        gang_size=record.target_spec.gang.size,
    )


def _why_nothing_comes(record: DeploymentRecord, gangs: Sequence[GangRecord], observed: Observed) -> str:
    """Why callers need not wait; empty if they may hope."""
    if record.num_replicas == 0:
        if scales_by_itself(record):
            return ""  # That they wait is what lets a first one come.
        return f"{record.key} has num_replicas 0; scale it up"
    falls_back = record.last_good is not None and record.last_good != record.target
    if record.terminal is not None and not falls_back:
        return f"{record.key} could not start: {record.terminal.message}"
    if falls_back or any(gang.phase in (ReplicaPhase.STARTING, ReplicaPhase.READY) for gang in gangs):
        return ""
    request = GangRequest.of(record.target_spec)
    # What has a place among those that wait can be placed one day, for all that was known when it got it.
    if record.waiting is None and observed.nodes and not is_feasible(observed.nodes.values(), request):
        most = "any node has" if request.size == 1 else "the nodes have for a whole gang"
        return f"{record.key} asks for more than {most}; see 'serve-core status'"
    return ""
