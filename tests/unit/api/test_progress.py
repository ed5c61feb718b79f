from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.errors import ConstructorFailedError, DeploymentUnavailableError
from serve_core.model.ids import RevisionId, RouterId
from serve_core.model.replica import Failure
from serve_core.model.status import (
    ApplicationStatus,
    ClusterStatus,
    DeploymentState,
    DeploymentStatus,
    RouterStatus,
)
from serve_core.progress import failure_of, progress_of

DEPLOYMENT = DeploymentStatus(
    name="A",
    revision=RevisionId("r1"),
    state=DeploymentState.HEALTHY,
    message="",
    num_replicas=2,
    ready_replicas=2,
    updated_replicas=2,
    start_failures=0,
    conditions=(),
    replicas=(),
)
FAILURE = Failure(reason="CONSTRUCTOR_FAILED", message="no model", traceback="Traceback: no model", time=1.0)


def cluster(
    deployment: DeploymentStatus = DEPLOYMENT, *, generation: int = 1, observed: int = 1, acknowledged: int = 7
) -> ClusterStatus:
    return ClusterStatus(
        applications=(
            ApplicationStatus(
                name="app",
                generation=generation,
                observed_generation=observed,
                ingress="A",
                deployments=(deployment,),
            ),
        ),
        routers=(
            RouterStatus(router_id=RouterId("r"), address="h:1", http_address="", acknowledged_version=acknowledged),
        ),
        nodes=(),
        table_version=7,
        table_epoch="e",
        pid=1,
        version="0",
    )


def test_healthy_planned_and_acknowledged_is_ready() -> None:
    assert progress_of(cluster(), "app", generation=1).ready


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (cluster(generation=2), "plan it"),
        (cluster(acknowledged=6), "router r to acknowledge table 7"),
        (cluster(replace(DEPLOYMENT, state=DeploymentState.UPDATING, ready_replicas=1)), "A has 1 of 2"),
        (
            cluster(replace(DEPLOYMENT, state=DeploymentState.UPDATING, failures=(FAILURE,))),
            "last failure: no model",
        ),
    ],
)
def test_what_is_waited_for_is_said(status: ClusterStatus, part: str) -> None:
    progress = progress_of(status, "app", generation=1)
    assert not progress.ready
    assert progress.error is None
    assert part in progress.waiting_for


def test_an_application_that_is_gone_is_an_error() -> None:
    assert isinstance(progress_of(cluster(), "other").error, DeploymentUnavailableError)


def test_a_failed_deployment_is_the_error_of_its_failure() -> None:
    failed = replace(DEPLOYMENT, state=DeploymentState.DEPLOY_FAILED, failures=(FAILURE,))
    error = progress_of(cluster(failed), "app").error
    assert isinstance(error, ConstructorFailedError)
    assert error.message == "deployment 'app.A' failed: no model"
    assert error.details["traceback"] == "Traceback: no model"


@pytest.mark.parametrize("reason", ["NO_RESOURCES", "CONFIG_INVALID", "SLOT_UNKNOWN"])
def test_a_failure_for_another_reason_is_unavailability(reason: str) -> None:
    failed = replace(DEPLOYMENT, failures=(Failure(reason=reason, message="why"),))
    assert type(failure_of("app", failed)) is DeploymentUnavailableError
    assert type(failure_of("app", replace(DEPLOYMENT, message="why"))) is DeploymentUnavailableError
