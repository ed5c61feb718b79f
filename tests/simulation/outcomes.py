"""Judges what callers got: nothing is lost without a fault that explains it (invariant 8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from serve_core.errors import (
    DeploymentUnavailableError,
    DeploymentUnknownError,
    NoSlotInTimeError,
    QueueFullError,
    ReplicaDiedError,
    ReplicaUnavailableError,
    ServeError,
    SlotExpiredError,
    SlotFencedError,
)
from tests.simulation.calls import Call, Kind
from tests.simulation.engine import Violation
from tests.simulation.room import is_possible

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.router import Router

SETTLING_S = 1.0
"""A table needs so long to be everywhere; a deployment that served for less may not be known yet."""


class Outcomes:
    """Counts and judges how calls ended."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.count: dict[str, int] = {}

    def judge(self, call: Call, error: ServeError | None) -> None:
        """A call has ended."""
        name = "ok" if error is None else type(error).__name__
        self.count[name] = self.count.get(name, 0) + 1
        if error is None:
            self._judge_success(call)
        elif not call.cancelled and not self._explained(call, error):
            raise Violation(
                f"invariant 8: {call.name} ({call.kind.value} by {call.router}, sent to {call.sent_to}) "
                f"failed for no reason: {name}: {error.message}"
            )

    def _judge_success(self, call: Call) -> None:
        if call.kind is Kind.GANG or len(call.part_leases) > 1:
            return  # What its parts did is judged for each of them.
        runs = call.kind in (Kind.PLAIN, Kind.TOKEN)
        if runs and len(call.finished_at) != 1:
            raise Violation(f"invariant 8: {call.name} succeeded, but ran to its end in {call.finished_at}")
        if not runs and call.lease is None:
            raise Violation(f"invariant 1: {call.name} was promised nothing")

    def _explained(self, call: Call, error: ServeError) -> bool:
        """Whether a fault, or the caller itself, explains a failure."""
        cluster = self.cluster
        router = cluster.routers.get(call.router)
        if router is None or router.faults or call.excuses:
            return True
        if len(call.part_leases) > 1:
            return self._gang_explained(call)
        match error:
            case ReplicaDiedError() | ReplicaUnavailableError():
                return self._replica_was_hit(call) or self._is_elsewhere(call) or self._holds_nothing(call)
            case DeploymentUnknownError() | DeploymentUnavailableError():
                return self._serves_not(call, router)
            case NoSlotInTimeError():
                # That nobody waits beside a free replica is judged all the time.
                return True
            case QueueFullError():
                admission = router.admissions.get(call.key)
                return admission is not None and len(admission.lane.queue) >= admission.lane.max_queued_requests
            case SlotExpiredError():
                return self._promise_was_over(call)
            case SlotFencedError():
                return self._was_started_again(call)
            case _:
                return False

    def _serves_not(self, call: Call, router: Router) -> bool:
        """Whether a deployment was not there, or may not have been known to be, or is wanted to be what fits nowhere."""
        cluster = self.cluster
        since, record = cluster.checks.serving_since.get(call.key), cluster.store.records.deployments.get(call.key)
        if since is None or router.unreached_since is not None:
            return True
        if record is not None and not is_possible(cluster, record.target_spec):
            return True
        return call.arrived_at < max(since, router.late_until, cluster.nodes.changed_at) + SETTLING_S

    def _gang_explained(self, call: Call) -> bool:
        """A promise on a gang is as good as that on each member; one that did not hold ends all."""
        if call.parts:
            return True  # Judged already, as the part that failed.
        parts = [replace(call, lease=lease, lease_at=replica_id) for replica_id, lease in call.part_leases.items()]
        return any(self._part_explained(part) for part in parts)

    def _part_explained(self, part: Call) -> bool:
        return (
            self._promise_was_over(part)
            or self._was_started_again(part)
            or self._is_elsewhere(part)
            or self._holds_nothing(part)
        )

    def _replica_was_hit(self, call: Call) -> bool:
        replica_id = call.sent_to[-1] if call.sent_to else call.lease_at
        if replica_id is None:
            return False
        if self.cluster.faults_of(call.router, replica_id):
            return True
        process = self.cluster.backend.process_of(replica_id)
        faults = self.cluster.backend.faults_of_ended(replica_id)
        if process is not None:
            return bool(process.faults or faults)
        if faults is None or faults:
            return True
        # It ended in good order: what was promised there is over, but nothing that was delivered is lost.
        return call.kind is Kind.TOKEN and not call.ran_at

    def _is_elsewhere(self, call: Call) -> bool:
        """A ticket is good at a replica that this router was not told of; the caller has its address.

        One that left the table, and is back, may also promise before this router is told that it is back. Until then a
        router knows it as one that left, and lets go of it once it takes nothing, as while it waits for its controller.
        """
        router, replica_id = self.cluster.routers[call.router], call.lease_at
        if call.kind is not Kind.TOKEN or call.sent_to or replica_id is None:
            return False
        if replica_id not in router.known:
            return True
        let_go_at = router.let_go.get(replica_id)
        if let_go_at is None or call.lease is None or replica_id in router.table.replicas:
            return False
        return call.lease.expires_at - call.lease.ttl_s > let_go_at

    def _holds_nothing(self, call: Call) -> bool:
        """Where a member only waits for the end of its gang, every promise is over, and routers have taken leave."""
        process = self.cluster.backend.process_of(call.lease_at) if call.lease_at is not None else None
        return call.kind is Kind.TOKEN and process is not None and process.leaving.drained

    def _was_started_again(self, call: Call) -> bool:
        """A member that failed takes its rank again, and knows nothing of what was promised before."""
        process = self.cluster.backend.process_of(call.lease_at) if call.lease_at is not None else None
        return process is not None and call.lease is not None and process.epoch > call.lease.token.epoch

    def _promise_was_over(self, call: Call) -> bool:
        return call.lease is None or self.cluster.engine.now >= call.lease.expires_at or self._replica_was_hit(call)
