"""How far an application is, by the cluster's status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_core.errors import DeploymentUnavailableError, RevisionConflictError, ServeError
from serve_core.model.status import ApplicationStatus, ClusterStatus, DeploymentState, DeploymentStatus, RolloutPhase
from serve_core.rollouts import ENDED_BADLY, failure_of, rollout_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Whether an application takes requests everywhere, why it never will, or what it waits for.

    ``held`` has a line for each change of revision that is paused, if nothing else is waited for: it is the operator's turn.
    """

    ready: bool = False
    held: tuple[str, ...] = ()
    error: ServeError | None = None
    waiting_for: str = ""


def progress_of(
    status: ClusterStatus, application: str, *, generation: int = 0, revisions: Mapping[str, str] | None = None
) -> Progress:
    """How far ``application`` is.

    Args:
        status: As the controller tells it.
        application: Which one.
        generation: At least this generation of it.
        revisions: The revision that is wanted of each deployment, by name. That another one failed before does not
            matter, and that another one is wanted now is an error; without it, any failed rollout is an error.
    """
    found = next((app for app in status.applications if app.name == application), None)
    if found is None:
        gone = DeploymentUnavailableError(
            f"application '{application}' was deleted meanwhile", details={"application": application}
        )
        return Progress(error=gone)
    if found.observed_generation < max(generation, found.generation):
        return Progress(waiting_for="the controller to plan it")
    error = _error(found, revisions or {})
    if error is not None:
        return Progress(error=error)
    held = held_lines(found)
    unready = [one for one in found.deployments if one.state is not DeploymentState.HEALTHY and not _is_held(one)]
    if unready:
        return Progress(waiting_for="; ".join(_unready(one) for one in unready))
    late = [one for one in status.routers if one.acknowledged_version < status.table_version]
    if late:
        return Progress(waiting_for=f"router {late[0].router_id} to acknowledge table {status.table_version}")
    return Progress(ready=not held, held=held)


def held_lines(application: ApplicationStatus) -> tuple[str, ...]:
    """What is paused, and how to let it go on: one line for each deployment."""
    return tuple(_held(f"{application.name}.{one.name}", one) for one in application.deployments if _is_held(one))


def _is_held(deployment: DeploymentStatus) -> bool:
    return deployment.rollout is not None and deployment.rollout.phase is RolloutPhase.PAUSED


def _held(key: str, deployment: DeploymentStatus) -> str:
    available = deployment.rollout.updated_available if deployment.rollout is not None else 0
    return (
        f"{key}: paused with {available} of {deployment.num_replicas} replicas of revision {deployment.revision} available; "
        f"'serve-core rollout resume {key}' lets it go on, 'serve-core rollout undo {key}' goes back"
    )


def _error(application: ApplicationStatus, revisions: Mapping[str, str]) -> ServeError | None:
    deployments = {one.name: one for one in application.deployments}
    for name, wanted in revisions.items():
        error = _superseded(application, deployments.get(name), name, wanted)
        if error is not None:
            return error
    for deployment in application.deployments:
        error = _failed(application.name, deployment, revisions.get(deployment.name, ""))
        if error is not None:
            return error
    return None


def _superseded(
    application: ApplicationStatus, deployment: DeploymentStatus | None, name: str, wanted: str
) -> ServeError | None:
    """Why a revision is not wanted any more, if that is so by an operator's will."""
    if deployment is None or deployment.state is DeploymentState.DELETING:
        what = "its removal"
    elif deployment.revision == wanted or (
        deployment.rollout is not None and deployment.rollout.failed_revision == wanted
    ):
        return None
    else:
        what = f"revision {deployment.revision}"
    key = f"{application.name}.{name}"
    return RevisionConflictError(
        f"revision {wanted} of deployment '{key}' was superseded by {what}, generation {application.generation}; "
        f"'serve-core events {key}' tells of it, and 'serve-core rollout status {application.name}' how far that is",
        details={"application": application.name, "deployment": name, "revision": wanted},
    )


def _failed(application: str, deployment: DeploymentStatus, wanted: str) -> ServeError | None:
    rollout = deployment.rollout
    concerned = rollout is not None and (not wanted or rollout.failed_revision in (None, wanted))
    if rollout is not None and concerned and rollout.phase in ENDED_BADLY:
        return rollout_failure(application, deployment, rollout)
    if deployment.state is DeploymentState.DEPLOY_FAILED:
        return failure_of(application, deployment)
    return None


def _unready(deployment: DeploymentStatus) -> str:
    text = f"{deployment.name} has {deployment.ready_replicas} of {deployment.num_replicas} replicas ready"
    if deployment.failures:
        return f"{text} (last failure: {deployment.failures[0].message})"
    return f"{text} ({deployment.message})" if deployment.message else text


def replica_lines(application: ApplicationStatus) -> list[str]:
    """One line for each deployment: its state and how many replicas are ready."""
    return [
        f"{application.name}.{deployment.name}: {deployment.state.name.lower()}, "
        f"{deployment.ready_replicas}/{deployment.num_replicas} ready"
        for deployment in application.deployments
    ]
