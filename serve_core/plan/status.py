"""What operators see, from records and observations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import (
    ActorStatus,
    ApplicationStatus,
    AutoscalingStatus,
    ClusterStatus,
    ConditionType,
    DeploymentStatus,
    NodeStatus,
    ReplicaStatus,
    RolloutPhase,
    RolloutStatus,
    RouterStatus,
)
from serve_core.plan.actor_records import ActorRecord
from serve_core.plan.bounds import bounds_of
from serve_core.plan.conditions import WAITING, Tally, conditions, state
from serve_core.plan.demand import queued
from serve_core.plan.differences import environment_differences
from serve_core.plan.endpoints import located
from serve_core.plan.observed import NodeObserved, Observed
from serve_core.plan.placement import bundles_by_node, total
from serve_core.plan.policy import Policy
from serve_core.plan.progress import deadline_of
from serve_core.plan.record_parts import RolloutRecord
from serve_core.plan.records import ApplicationRecord, Bundle, DeploymentRecord, GangRecord, MemberRecord, Records
from serve_core.plan.rollout import is_changing
from serve_core.plan.suspicion import in_rotation


def cluster_status(
    records: Records,
    observed: Observed,
    *,
    table: TableVersion,
    pid: int,
    version: str,
    now: float,
    application: str = "",
    policy: Policy | None = None,
) -> ClusterStatus:
    """The state of everything, or of one application and everything that is common.

    Args:
        records: What is persisted.
        observed: What was seen.
        table: The version of the endpoint table.
        pid: The controller's process.
        version: Of serve-core.
        now: Seconds since the Unix epoch.
        application: Its name; empty for all.
        policy: How long lost routers count.
    """
    lease_s = (policy or Policy()).router_lease_s
    held = bundles_by_node(records.gangs.values())
    chosen = [record for name, record in sorted(records.applications.items()) if application in ("", name)]
    return ClusterStatus(
        applications=tuple(_application(record, records, observed, now=now, policy=policy) for record in chosen),
        routers=tuple(
            RouterStatus(
                router_id=router.router_id,
                address=router.address,
                http_address=router.http_address,
                acknowledged_version=_acknowledged(router.acknowledged, table),
            )
            for _, router in sorted(observed.routers.items())
            if router.connected or now < router.lost_at + lease_s
        ),
        nodes=tuple(_node(node, records, held.get(node_id, ())) for node_id, node in sorted(observed.nodes.items())),
        table_version=table.version,
        table_epoch=table.epoch,
        pid=pid,
        version=version,
    )


def _node(node: NodeObserved, records: Records, held: Iterable[Bundle]) -> NodeStatus:
    drain = records.nodes.get(node.node_id)
    return NodeStatus(
        node_id=node.node_id,
        zone=node.zone,
        labels=node.labels,
        total=node.total,
        used=total(bundle.resources for bundle in held),
        draining=drain is not None,
        drain_deadline_time=drain.deadline if drain is not None else None,
    )


def deployment_status(
    record: DeploymentRecord,
    gangs: Sequence[GangRecord],
    observed: Observed,
    *,
    now: float,
    actor_gangs: Sequence[GangRecord] = (),
    policy: Policy | None = None,
) -> DeploymentStatus:
    """The state of one deployment, from the gangs of its replicas and those of its actors."""
    tally = Tally.of(record, gangs, observed)
    word, message = state(record, tally)
    return DeploymentStatus(
        name=record.key.deployment,
        revision=record.target,
        state=word,
        message=message,
        num_replicas=record.num_replicas,
        ready_replicas=tally.ready,
        updated_replicas=tally.live_updated,
        start_failures=record.start_failures,
        conditions=record.conditions or conditions(record, gangs, observed, blocked="", now=now),
        replicas=tuple(
            _replica(record, gang, member, observed, now=now, policy=policy)
            for gang in gangs
            for member in gang.members
        ),
        failures=record.failures,
        paused=record.paused,
        revisions=tuple(kept.revision for kept in record.revisions),
        rollout=rollout_status(record, gangs, observed),
        last_good_revision=record.last_good,
        environment_differences=environment_differences(gangs, observed),
        actors=tuple(_actor(record, actor, actor_gangs, observed) for actor in record.actors),
        queued_requests=queued(record.key, observed.routers),
        autoscaling=_autoscaling(record),
    )


def _autoscaling(record: DeploymentRecord) -> AutoscalingStatus | None:
    spec, bounds = record.target_spec, bounds_of(record.target_spec)
    if spec.autoscaling is None or bounds is None:
        return None
    return AutoscalingStatus(
        min_replicas=bounds.least,
        max_replicas=bounds.most,
        target_ongoing_requests=spec.autoscaling.target(spec.max_ongoing_requests),
        message=record.scaled_for,
    )


def rollout_status(record: DeploymentRecord, gangs: Sequence[GangRecord], observed: Observed) -> RolloutStatus | None:
    """The newest change of revision; None if none is known of. It is over once nothing of another revision is left."""
    rollout = record.rollout
    if rollout is None:
        return None
    tally = Tally.of(record, gangs, observed)
    if rollout.to_revision != record.target:  # What an operator wants now is not planned yet.
        rollout = RolloutRecord(
            from_revision=rollout.to_revision,
            to_revision=record.target,
            started_at=rollout.started_at,
            available=tally.ready_updated,
            waiting_for="the controller to plan it",
        )
    is_over = bool(rollout.finished_at) and all(gang.revision == record.target for gang in gangs)
    return RolloutStatus(
        phase=_rollout_phase(record, rollout, is_over=is_over),
        from_revision=rollout.from_revision,
        to_revision=rollout.to_revision,
        updated_available=tally.ready_updated if rollout.finished_at else rollout.available,
        waiting_for=rollout.waiting_for,
        failed_revision=rollout.failed_revision,
        failure=rollout.failure,
        progress_deadline_time=deadline_of(record, listening_since=observed.listening_since),
    )


def _rollout_phase(record: DeploymentRecord, rollout: RolloutRecord, *, is_over: bool) -> RolloutPhase:
    if record.terminal is not None:
        return RolloutPhase.FAILED
    if rollout.failed_revision is not None:
        return RolloutPhase.ROLLED_BACK if is_over else RolloutPhase.ROLLING_BACK
    if is_over:
        return RolloutPhase.COMPLETE
    if record.paused and is_changing(record):
        return RolloutPhase.PAUSED
    waits = any(one.type is ConditionType.PROGRESSING and one.reason == WAITING for one in record.conditions)
    return RolloutPhase.WAITING if waits else RolloutPhase.PROGRESSING


def _application(
    record: ApplicationRecord, records: Records, observed: Observed, *, now: float, policy: Policy | None
) -> ApplicationStatus:
    deployments = records.deployments_of(record.name)
    lagging = [one.observed_generation for one in deployments if one.observed_generation < one.generation]
    return ApplicationStatus(
        name=record.name,
        generation=record.generation,
        observed_generation=min(lagging) if lagging else record.generation,
        ingress=record.ingress,
        deployments=tuple(
            deployment_status(
                one,
                records.gangs_of(one.key),
                observed,
                now=now,
                actor_gangs=records.actor_gangs_of(one.key),
                policy=policy,
            )
            for one in deployments
        ),
    )


def _replica(
    record: DeploymentRecord,
    gang: GangRecord,
    member: MemberRecord,
    observed: Observed,
    *,
    now: float,
    policy: Policy | None,
) -> ReplicaStatus:
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    reported = seen.report.failure or seen.report.reconfigure_failure if seen.report is not None else None
    is_ready = gang.phase is ReplicaPhase.READY
    routable, why = in_rotation(member, observed, record.spec_of(gang), now, policy=policy)
    return ReplicaStatus(
        replica=located(record, gang, member, observed),
        phase=member.phase,
        pid=seen.pid,
        load=seen.load,
        create_time=gang.created_at,
        failure=gang.failure or reported,
        in_rotation=is_ready and routable,
        suspicion=why if is_ready else "",
        drain_remaining_s=seen.report.drain_remaining_s if seen.report is not None else None,
        restarts=gang.restarts,
    )


def _actor(
    record: DeploymentRecord, actor: ActorRecord, gangs: Sequence[GangRecord], observed: Observed
) -> ActorStatus:
    """One actor: its newest life, be it one that ends."""
    lives = [gang for gang in gangs if gang.actor == actor.key]
    gang = max(lives, key=lambda life: life.incarnation, default=None)
    member = gang.members[0] if gang is not None else None
    snapshot = actor.snapshot
    seen = observed.replica(member.replica_id, epoch=member.epoch) if member is not None else None
    unsaved = seen.report.snapshot_failure if seen is not None and seen.report is not None else None
    return ActorStatus(
        name=actor.key.name,
        revision=None if actor.key.is_shared else RevisionId(actor.key.scope),
        incarnation=actor.incarnation,
        replica=located(record, gang, member, observed) if gang is not None and member is not None else None,
        phase=gang.phase if gang is not None else None,
        pid=seen.pid if seen is not None else 0,
        restarts=actor.restarts,
        start_failures=actor.failures,
        failure=actor.given_up or unsaved or actor.failure,
        snapshot_time=snapshot.time if snapshot is not None else None,
        snapshot_bytes=snapshot.size_bytes if snapshot is not None else 0,
        snapshot_incarnation=snapshot.incarnation if snapshot is not None else 0,
    )


def _acknowledged(version: TableVersion | None, table: TableVersion) -> int:
    return version.version if version is not None and version.epoch == table.epoch else 0
