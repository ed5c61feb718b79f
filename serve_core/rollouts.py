"""How far a deployment's rollout is, by its status: whether it is done, why it failed, or what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_core.errors import ERROR_TYPES, DeploymentUnavailableError, Reason, ServeError, StartError
from serve_core.model.replica import Failure
from serve_core.model.status import ApplicationStatus, DeploymentState, DeploymentStatus, RolloutPhase, RolloutStatus

ENDED_BADLY = frozenset({RolloutPhase.ROLLED_BACK, RolloutPhase.FAILED})
"""Where a rollout is that will not reach its target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutProgress:
    """Whether a rollout is complete, why it failed, and in any case a line on where it is."""

    complete: bool = False
    error: ServeError | None = None
    line: str


def rollout_progress(application: ApplicationStatus, deployment: DeploymentStatus) -> RolloutProgress:
    """How far the newest rollout of a deployment is."""
    key = f"{application.name}.{deployment.name}"
    if application.observed_generation < application.generation:
        return RolloutProgress(line=f"{key}: waiting for the controller to plan it")
    rollout = deployment.rollout
    if rollout is not None and rollout.phase in ENDED_BADLY:
        error = rollout_failure(application.name, deployment, rollout)
        return RolloutProgress(error=error, line=f"{key}: {rollout_line(deployment, rollout)}")
    if deployment.state is DeploymentState.DEPLOY_FAILED:
        error = failure_of(application.name, deployment)
        return RolloutProgress(error=error, line=f"{key}: {error.message}")
    if rollout is None:
        complete = deployment.state is DeploymentState.HEALTHY
        return RolloutProgress(complete=complete, line=f"{key}: {deployment.message}")
    whole = deployment.ready_replicas >= deployment.num_replicas
    complete = rollout.phase is RolloutPhase.COMPLETE and whole
    return RolloutProgress(complete=complete, line=f"{key}: {rollout_line(deployment, rollout)}")


def rollout_line(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    """Where a rollout is, in one sentence."""
    return _SENTENCES[rollout.phase](deployment, rollout)


def rollout_failure(application: str, deployment: DeploymentStatus, rollout: RolloutStatus) -> ServeError:
    """Which revision failed, why, and what serves now; as the error that its reason stands for."""
    failure = rollout.failure
    failed = rollout.failed_revision or rollout.to_revision
    details = {"application": application, "deployment": deployment.name, "revision": failed}
    if failure is not None and failure.traceback:
        details["traceback"] = failure.traceback
    why = failure.message if failure is not None else deployment.message
    return _error_type(failure)(
        f"revision {failed} of deployment '{application}.{deployment.name}' failed and {_what_became(rollout)}: {why}; "
        f"{_what_serves(deployment)}",
        details=details,
    )


def failure_of(application: str, deployment: DeploymentStatus) -> ServeError:
    """Why a deployment failed: its last failure, as the error that its reason stands for."""
    details = {"application": application, "deployment": deployment.name}
    if not deployment.failures:
        return DeploymentUnavailableError(
            f"deployment '{application}.{deployment.name}' failed: {deployment.message}", details=details
        )
    failure = deployment.failures[0]
    message = f"deployment '{application}.{deployment.name}' failed: {failure.message}"
    if failure.traceback:
        details["traceback"] = failure.traceback
    return _error_type(failure)(message, details=details)


def _error_type(failure: Failure | None) -> type[ServeError]:
    reason = failure.reason if failure is not None else ""
    kind = ERROR_TYPES.get(Reason(reason)) if reason in Reason.__members__ else None
    return kind if kind is not None and issubclass(kind, StartError) else DeploymentUnavailableError


def _what_became(rollout: RolloutStatus) -> str:
    if rollout.phase is RolloutPhase.ROLLED_BACK:
        return "was rolled back"
    return "was given up" if rollout.from_revision is None else "is held where it is"


def _what_serves(deployment: DeploymentStatus) -> str:
    ready: dict[str, int] = {}
    for one in deployment.replicas:
        if one.in_rotation:
            revision = str(one.replica.revision)
            ready[revision] = ready.get(revision, 0) + 1
    if not ready:
        return "nothing serves now"
    counts = (f"revision {revision} with {count}" for revision, count in ready.items())
    return f"{' and '.join(counts)} of {deployment.num_replicas} replicas serves now"


def _available(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    return (
        f"{rollout.updated_available} of {deployment.num_replicas} replicas of revision {rollout.to_revision} "
        "are available"
    )


def _moving(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    waiting = f"; waiting for {rollout.waiting_for}" if rollout.waiting_for else ""
    return _available(deployment, rollout) + waiting


def _paused(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    return f"paused: {_available(deployment, rollout)}; 'serve-core rollout resume' lets it go on"


def _complete(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    return f"complete: {_available(deployment, rollout)}"


def _failed_revision(_: DeploymentStatus, rollout: RolloutStatus) -> str:
    why = f": {' '.join(rollout.failure.message.split())}" if rollout.failure is not None else ""
    return f"revision {rollout.failed_revision or rollout.to_revision} failed{why}"


def _rolling_back(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    waiting = f"; waiting for {rollout.waiting_for}" if rollout.waiting_for else ""
    return f"{_failed_revision(deployment, rollout)}; putting back revision {deployment.revision}{waiting}"


def _rolled_back(deployment: DeploymentStatus, rollout: RolloutStatus) -> str:
    return f"{_failed_revision(deployment, rollout)}; {_what_serves(deployment)}"


_SENTENCES: dict[RolloutPhase, Callable[[DeploymentStatus, RolloutStatus], str]] = {
    RolloutPhase.PROGRESSING: _moving,
    RolloutPhase.WAITING: _moving,
    RolloutPhase.PAUSED: _paused,
    RolloutPhase.COMPLETE: _complete,
    RolloutPhase.ROLLING_BACK: _rolling_back,
    RolloutPhase.ROLLED_BACK: _rolled_back,
    RolloutPhase.FAILED: _rolled_back,
}
