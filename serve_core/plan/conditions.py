"""A deployment in a word and in a few sentences, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import Condition, ConditionType, DeploymentState
from serve_core.plan.actor_trouble import LOST, actor_trouble
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import Observed
from serve_core.plan.records import DeploymentRecord, GangRecord, replicas_in
from serve_core.plan.settings_trouble import RECONFIGURE_FAILED, settings_trouble
from serve_core.plan.whole import gangs_for

WAITING = "WaitingForResources"
"""The reason of Progressing when a gang has no room, or an actor none elsewhere."""

EXHAUSTED = "RestartsExhausted"
"""The reason of Degraded when places of gangs were given up."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A deployment's replicas, counted in whole gangs of ``size``; ``ready`` are those in rotation, ``out`` says why others are
    not though they run, ``unconfigured`` why others run with an old configuration."""

    wanted: int
    ready: int
    ready_updated: int
    live_updated: int
    total: int
    size: int = 1
    out: tuple[str, ...] = ()
    unconfigured: str = ""

    @classmethod
    def of(
        cls, record: DeploymentRecord, gangs: Sequence[GangRecord], observed: Observed, *, settled: int = 0
    ) -> Tally:
        """Counts; besides those of ``gangs``, so many replicas serve the target."""
        ready = [gang for gang in gangs if gang.serves]
        live = [gang for gang in gangs if gang.phase in LIVE and gang.revision == record.target]
        out = tuple(gang.out_of_rotation for gang in gangs if gang.phase is ReplicaPhase.READY and not gang.serves)
        return cls(
            wanted=record.num_replicas,
            ready=replicas_in(ready) + settled,
            ready_updated=replicas_in(gang for gang in ready if gang.revision == record.target) + settled,
            live_updated=replicas_in(live) + settled,
            total=replicas_in(gangs) + settled,
            size=record.target_spec.gang.size,
            out=out,
            unconfigured=settings_trouble(gangs, observed),
        )

    @property
    def whole(self) -> bool:
        """Whether every replica that is wanted is ready."""
        return self.ready_updated >= self.wanted

    def counts(self, ready: int, *, of: str = "") -> str:
        """So many of those wanted are ready, in a sentence; ``of`` says of what they are."""
        text = f"{ready} of {self.wanted} replicas{of} are ready"
        if self.size == 1:
            return text
        gangs = gangs_for(self.wanted, size=self.size)
        return f"{text}, {ready // self.size} of {gangs} whole gangs of {self.size}"


class _Truth(NamedTuple):
    status: bool
    reason: str
    message: str


def _yes(reason: str, message: str) -> _Truth:
    return _Truth(status=True, reason=reason, message=message)


def _no(reason: str, message: str) -> _Truth:
    return _Truth(status=False, reason=reason, message=message)


def state(record: DeploymentRecord, tally: Tally) -> tuple[DeploymentState, str]:
    """The deployment in one word, and why in a sentence."""
    if record.deleting:
        return DeploymentState.DELETING, f"{tally.total} replicas are left to finish"
    if record.terminal is not None:
        return DeploymentState.DEPLOY_FAILED, _given_up(record)
    actors = actor_trouble(record)
    if actors is not None and actors.given_up:
        return DeploymentState.DEPLOY_FAILED, actors.message
    trouble = actors.message if actors is not None else tally.unconfigured
    if trouble and tally.whole and record.last_good == record.target:
        return DeploymentState.DEGRADED, trouble
    if tally.whole and record.last_good == record.target:
        leaving = tally.total - tally.ready_updated
        if leaving:
            return DeploymentState.UPDATING, f"{tally.ready_updated} replicas are ready; {leaving} others finish"
        counts = _waiting(record) or tally.counts(tally.ready_updated)
        return DeploymentState.HEALTHY, f"{counts}; {failed}" if (failed := rolled_back(record)) else counts
    lost = f"{actors.message}; " if actors is not None and actors.reason == LOST else ""
    missing = _trouble(record, tally)
    if missing is not None:
        word = DeploymentState.DEGRADED if record.last_good == record.target else DeploymentState.UPDATING
        return word, lost + missing[1]
    progress = _waiting(record) or _progress(record, tally, blocked="", now=0.0).message
    return DeploymentState.UPDATING, lost + progress


def conditions(
    record: DeploymentRecord,
    gangs: Sequence[GangRecord],
    observed: Observed,
    *,
    blocked: str,
    now: float,
    settled: int = 0,
    stranded: Sequence[str] = (),
) -> tuple[Condition, ...]:
    """Available, Progressing and Degraded; each keeps the time of its last change."""
    tally = Tally.of(record, gangs, observed, settled=settled)
    progress = _progress(record, tally, blocked=blocked, now=now)
    truths = {
        ConditionType.AVAILABLE: _available(tally),
        ConditionType.PROGRESSING: _and_stranded(progress, stranded),
        ConditionType.DEGRADED: _degraded(record, tally),
    }
    before = {condition.type: condition for condition in record.conditions}
    return tuple(_condition(kind, truth, before.get(kind), now=now) for kind, truth in truths.items())


def with_condition(
    record: DeploymentRecord, kind: ConditionType, *, status: bool, reason: str, message: str, now: float
) -> DeploymentRecord:
    """The record with one condition set: for what the planner itself cannot say, such as that it failed."""
    before = {condition.type: condition for condition in record.conditions}
    before[kind] = _condition(kind, _Truth(status=status, reason=reason, message=message), before.get(kind), now=now)
    return replace(record, conditions=tuple(before.values()))


def _condition(kind: ConditionType, truth: _Truth, before: Condition | None, *, now: float) -> Condition:
    same = before is not None and before.status is truth.status
    return Condition(
        type=kind,
        status=truth.status,
        reason=truth.reason,
        message=truth.message,
        last_transition_time=before.last_transition_time if same and before is not None else now,
    )


def _available(tally: Tally) -> _Truth:
    message = f"{tally.ready} replicas are ready, {tally.wanted} are wanted"
    if tally.ready == 0:
        return _no("ScaledToZero" if tally.wanted == 0 else "NoReplicaReady", message)
    return _yes("MinimumReplicasReady" if tally.ready >= tally.wanted else "SomeReplicasReady", message)


def _progress(record: DeploymentRecord, tally: Tally, *, blocked: str, now: float) -> _Truth:
    changing = record.last_good is not None and record.last_good != record.target
    failed = rolled_back(record)
    counts = tally.counts(tally.ready_updated, of=f" of revision {record.target}")
    if record.deleting:
        return _yes("Deleting", f"{tally.total} replicas are left to finish")
    if record.terminal is not None:
        return _no("DeployFailed", _given_up(record))
    if tally.whole and not changing and not blocked:
        return _no("RolledBack", f"{counts}; {failed}") if failed else _no("Complete", counts)
    if record.paused and changing:
        return _no("Paused", f"the change is held: {counts}")
    if failed and not blocked:
        return _yes("RollingBack", f"{counts}; {failed}")
    if blocked:
        what = "a replica" if tally.size == 1 else f"a gang of {tally.size}"
        return _yes(WAITING, f"{counts}; {what} waits for room: {blocked}")
    if _is_exhausted(record, tally):
        return _no(EXHAUSTED, _exhausted(record, tally))
    if now < record.retry_at:
        return _yes("BackingOff", f"{counts}; the next is started after a pause, as the last failed")
    waiting = record.rollout.waiting_for if record.rollout is not None else ""
    return _yes(
        "ReplacingRevision" if changing else "Starting", f"{counts}; waits for {waiting}" if waiting else counts
    )


def _and_stranded(progress: _Truth, stranded: Sequence[str]) -> _Truth:
    """Actors that wait for room elsewhere are said beside what else there is to say: they hold nothing of it up."""
    if not stranded:
        return progress
    message = "; ".join((progress.message, *stranded))
    if progress.reason in ("Complete", "RolledBack"):
        return _yes(WAITING, message)
    return progress._replace(message=message)


def _waiting(record: DeploymentRecord) -> str:
    """What a gang or an actor waits for, as the last plan said; empty if none waits."""
    return next((one.message for one in record.conditions if one.status and one.reason == WAITING), "")


def _degraded(record: DeploymentRecord, tally: Tally) -> _Truth:
    if record.terminal is not None:
        return _yes("DeployFailed", _given_up(record))
    if record.deleting:
        return _no("AsWanted", "nothing is wrong")
    actors = actor_trouble(record)
    if actors is not None:
        return _yes(actors.reason, actors.message)
    trouble = None if tally.whole else _trouble(record, tally)
    if trouble is None and tally.unconfigured:
        return _yes(RECONFIGURE_FAILED, tally.unconfigured)
    return _no("AsWanted", "nothing is wrong") if trouble is None else _yes(*trouble)


def _is_exhausted(record: DeploymentRecord, tally: Tally) -> bool:
    """Whether nothing is left to be started, as the places that are not filled were given up."""
    return bool(record.given_up) and tally.live_updated + record.given_up * tally.size >= tally.wanted


def _exhausted(record: DeploymentRecord, tally: Tally) -> str:
    cause = record.given_up_for.message if record.given_up_for is not None else ""
    gangs = "a gang is" if record.given_up == 1 else f"{record.given_up} gangs are"
    limit = record.target_spec.gang.max_restarts
    return (
        f"{tally.counts(tally.ready)}; {gangs} given up after max_restarts = {limit} restarts in a row, "
        f"until a deploy, a resume or a scale; last: {cause}"
    )


def _trouble(record: DeploymentRecord, tally: Tally) -> tuple[str, str] | None:
    if record.given_up:
        return EXHAUSTED, _exhausted(record, tally)
    if not record.impaired and not record.start_failures:
        whys = "; ".join(tally.out)
        return ("OutOfRotation", f"{tally.counts(tally.ready)}; {whys}") if tally.out else None
    what = "StartFailing" if record.start_failures else "ReplicasLost"
    last = f"; last: {record.failures[0].message}" if record.failures else ""
    times = f", {record.start_failures} starts in a row failed" if record.start_failures else ""
    return what, f"{tally.counts(tally.ready)}{times}{last}"


def rolled_back(record: DeploymentRecord) -> str:
    """Which revision failed and was, or is being, rolled back, and why; empty if that is not what happened last."""
    rollout = record.rollout
    if rollout is None or rollout.failure is None or rollout.failed_revision == record.target:
        return ""
    return f"revision {rollout.failed_revision} failed and is rolled back: {rollout.failure.message}"


def _given_up(record: DeploymentRecord) -> str:
    message = record.terminal.message if record.terminal is not None else ""
    if record.last_good is not None and record.last_good != record.target:
        return f"revision {record.target} was given up, revision {record.last_good} stays: {message}"
    return f"revision {record.target} was given up: {message}"
