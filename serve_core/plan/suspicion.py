"""Who is in rotation, and what silence means: first suspicion, then loss.

One missed heartbeat means nothing. After ``suspect_after_missed`` of them a replica is *suspect*: routers are to leave it out,
and nothing else happens; its next heartbeat brings it back. After ``lost_after_missed`` it is *lost*: it is ended and
replaced. A broken stream is silence like any other, as long as the process lives. Silence from before this controller
listened proves nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from serve_core.model.replica import ReplicaPhase, ReplicaReport
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.observed import Observed, ProcessState, ReplicaObserved
from serve_core.plan.policy import Policy
from serve_core.plan.records import MemberRecord


class Silence(NamedTuple):
    """When a replica that stays silent becomes suspect, and when it becomes lost; seconds since the Unix epoch."""

    suspect_at: float
    lost_at: float


def silence(seen: ReplicaObserved, spec: DeploymentSpec, observed: Observed, *, policy: Policy) -> Silence:
    """What silence from now on means for a replica."""
    health = spec.health
    suspect_s = max(health.suspect_after_missed * health.heartbeat_period_s, policy.patience_s)
    lost_s = max(health.lost_after_missed * health.heartbeat_period_s, suspect_s)
    if seen.report is not None and seen.heard_at >= observed.listening_since:
        return Silence(seen.heard_at + suspect_s, seen.heard_at + lost_s)
    grace_s = policy.reattach_grace_s
    return Silence(observed.listening_since + max(suspect_s, grace_s), observed.listening_since + max(lost_s, grace_s))


def in_rotation(
    member: MemberRecord, observed: Observed, spec: DeploymentSpec, now: float, *, policy: Policy | None = None
) -> tuple[bool, str]:
    """Whether routers may send to a member, by its own last word and the time since; if not, why, in a few words.

    What runs and served an earlier controller is taken at its word from then, until it had its time to attach again.
    """
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    report = last_word(member, observed)
    if seen.process is ProcessState.EXITED:
        return False, "its process has ended"
    if report is None:
        return False, "it has not attached yet"
    if report.phase is not ReplicaPhase.READY or not report.address:
        return False, f"it says that it is {report.phase.name}"
    if not report.healthy:
        return False, "its health checks fail"
    if not report.is_ready:
        return False, "its is_ready says no"
    if is_suspect(seen, spec, observed, now=now, policy=policy or Policy()):
        missed = spec.health.suspect_after_missed
        return False, f"{missed} heartbeats of {spec.health.heartbeat_period_s:g} s were missed"
    return True, ""


def last_word(member: MemberRecord, observed: Observed) -> ReplicaReport | None:
    """What a member said of itself last, be it to an earlier controller."""
    report = observed.replica(member.replica_id, epoch=member.epoch).report
    if report is not None or member.endpoint is None:
        return report
    endpoint = member.endpoint
    return ReplicaReport(phase=ReplicaPhase.READY, address=endpoint.address, metadata=endpoint.metadata)


def is_suspect(seen: ReplicaObserved, spec: DeploymentSpec, observed: Observed, *, now: float, policy: Policy) -> bool:
    """Whether a replica was not heard of for so long that routers are to leave it out."""
    return now >= silence(seen, spec, observed, policy=policy).suspect_at
