"""How far an application is, by the cluster's status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_core.errors import DeploymentUnavailableError, ServeError
from serve_core.model.status import ApplicationStatus, ClusterStatus, DeploymentState, DeploymentStatus
from serve_core.rollouts import ENDED_BADLY, failure_of, rollout_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Whether an application takes requests everywhere, why it never will, or what it waits for."""

    ready: bool = False
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
            matter; without it, any failed rollout is an error.
    """
    found = next((app for app in status.applications if app.name == application), None)
    if found is None:
        gone = DeploymentUnavailableError(
            f"application '{application}' was deleted meanwhile", details={"application": application}
        )
        return Progress(error=gone)
    if found.observed_generation < max(generation, found.generation):
        return Progress(waiting_for="the controller to plan it")
    for deployment in found.deployments:
        error = _failed(application, deployment, (revisions or {}).get(deployment.name, ""))
        if error is not None:
            return Progress(error=error)
    unready = [one for one in found.deployments if one.state is not DeploymentState.HEALTHY]
    if unready:
        return Progress(waiting_for="; ".join(_unready(one) for one in unready))
    late = [one for one in status.routers if one.acknowledged_version < status.table_version]
    if late:
        return Progress(waiting_for=f"router {late[0].router_id} to acknowledge table {status.table_version}")
    return Progress(ready=True)


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
