"""How far an application is, by the cluster's status."""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.errors import (
    ERROR_TYPES,
    ConfigInvalidError,
    DeploymentUnavailableError,
    Reason,
    ServeError,
    StartError,
)
from serve_core.model.replica import Failure
from serve_core.model.status import ApplicationStatus, ClusterStatus, DeploymentState, DeploymentStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Whether an application takes requests everywhere, why it never will, or what it waits for."""

    ready: bool = False
    error: ServeError | None = None
    waiting_for: str = ""


def progress_of(status: ClusterStatus, application: str, *, generation: int = 0) -> Progress:
    """How far ``application`` is at ``generation`` or later."""
    found = next((app for app in status.applications if app.name == application), None)
    if found is None:
        gone = DeploymentUnavailableError(
            f"application '{application}' was deleted meanwhile", details={"application": application}
        )
        return Progress(error=gone)
    if found.observed_generation < max(generation, found.generation):
        return Progress(waiting_for="the controller to plan it")
    for deployment in found.deployments:
        if deployment.state is DeploymentState.DEPLOY_FAILED:
            return Progress(error=failure_of(application, deployment))
    unready = [one for one in found.deployments if one.state is not DeploymentState.HEALTHY]
    if unready:
        return Progress(waiting_for="; ".join(_unready(one) for one in unready))
    late = [one for one in status.routers if one.acknowledged_version < status.table_version]
    if late:
        return Progress(waiting_for=f"router {late[0].router_id} to acknowledge table {status.table_version}")
    return Progress(ready=True)


def _unready(deployment: DeploymentStatus) -> str:
    text = f"{deployment.name} has {deployment.ready_replicas} of {deployment.num_replicas} replicas ready"
    if deployment.failures:
        return f"{text} (last failure: {deployment.failures[0].message})"
    return f"{text} ({deployment.message})" if deployment.message else text


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


def _error_type(failure: Failure) -> type[ServeError]:
    kind = ERROR_TYPES.get(Reason(failure.reason)) if failure.reason in Reason.__members__ else None
    if kind is None or kind is ConfigInvalidError or not issubclass(kind, StartError):
        return DeploymentUnavailableError
    return kind


def replica_lines(application: ApplicationStatus) -> list[str]:
    """One line for each deployment: its state and how many replicas are ready."""
    return [
        f"{application.name}.{deployment.name}: {deployment.state.name.lower()}, "
        f"{deployment.ready_replicas}/{deployment.num_replicas} ready"
        for deployment in application.deployments
    ]
