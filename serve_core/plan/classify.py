"""What a member's process is, by all that was seen of it. One verdict each, most certain first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_core.errors import Reason
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.observed import Observed, ProcessState, ReplicaObserved
from serve_core.plan.policy import Policy
from serve_core.plan.records import MemberRecord
from serve_core.plan.suspicion import silence


class Verdict(StrEnum):
    """What a member's process is."""

    NODE_LOST = "its node is not there any more"
    UNSEEN = "the backend has listed what runs, and nothing was ever seen of it"
    REFUSED = "it could not be started"
    EXITED = "it has ended"
    SILENT = "it is not heard of"
    FAILED = "it says that it failed or is ill"
    LEAVING = "it drains or stops by itself"
    READY = "it takes requests"
    COMING = "it starts, or is not attached yet"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the failure behind it if there is one, and when silence would change what the member is."""

    verdict: Verdict
    failure: Failure | None = None
    silent_at: float = 0.0


def judge(member: MemberRecord, spec: DeploymentSpec, observed: Observed, *, now: float, policy: Policy) -> Judgement:
    """The verdict on a member.

    A lost stream is only a suspicion: what was said last holds until the exit notice, or until nothing was heard for so
    long that the process counts as lost. Silence from before the controller listened proves nothing.
    """
    if observed.has_lost(member.node_id):
        return Judgement(Verdict.NODE_LOST, _lost(member, "its node is not there any more", now=now))
    known = observed.replicas.get(member.replica_id)
    if known is None or known.epoch < member.epoch:
        return Judgement(Verdict.UNSEEN, _lost(member, "its process is not there any more", now=now))
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    if seen.start_failure is not None:
        return Judgement(Verdict.REFUSED, seen.start_failure)
    reported = seen.report.failure if seen.report is not None else None
    if seen.process is ProcessState.EXITED:
        return Judgement(Verdict.EXITED, reported or _lost(member, _how_it_ended(seen), now=now))
    suspect_at, lost_at = silence(seen, spec, observed, policy=policy)
    if now >= lost_at:
        return Judgement(Verdict.SILENT, _lost(member, "nothing was heard of it", now=now), lost_at)
    return Judgement(*_by_report(member, seen, now=now), suspect_at if now < suspect_at else lost_at)


def _by_report(member: MemberRecord, seen: ReplicaObserved, *, now: float) -> tuple[Verdict, Failure | None]:
    report = seen.report
    if report is None:
        return Verdict.COMING, None
    if report.failure is not None:
        return Verdict.FAILED, report.failure
    if not report.healthy:
        return Verdict.FAILED, _lost(member, "its health checks fail", now=now)
    if report.phase > ReplicaPhase.READY:
        return Verdict.LEAVING, _lost(member, "it leaves by itself", now=now)
    return (Verdict.READY if report.phase is ReplicaPhase.READY else Verdict.COMING), None


def _how_it_ended(seen: ReplicaObserved) -> str:
    if seen.exit_code is None:
        return "its process has ended"
    if seen.exit_code < 0:
        return f"its process was ended by signal {-seen.exit_code}"
    return f"its process ended with exit code {seen.exit_code}"


def _lost(member: MemberRecord, what: str, *, now: float) -> Failure:
    return Failure(
        reason=Reason.REPLICA_DIED.value,
        message=f"replica {member.replica_id} on {member.node_id}: {what}; see its log",
        time=now,
    )
