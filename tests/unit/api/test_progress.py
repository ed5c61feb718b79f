from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.errors import ConstructorFailedError, DeploymentUnavailableError, RevisionConflictError
from serve_core.model.ids import RevisionId, RouterId
from serve_core.model.replica import Failure
from serve_core.model.status import (
    ApplicationStatus,
    ClusterStatus,
    DeploymentState,
    DeploymentStatus,
    RolloutPhase,
    RolloutStatus,
    RouterStatus,
)
from serve_core.progress import progress_of
from serve_core.rollouts import failure_of

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


ROLLED_BACK = replace(
    DEPLOYMENT,
    rollout=RolloutStatus(
        phase=RolloutPhase.ROLLED_BACK,
        from_revision=RevisionId("r1"),
        to_revision=RevisionId("r1"),
        updated_available=2,
        failed_revision=RevisionId("r2"),
        failure=FAILURE,
    ),
)


@pytest.mark.parametrize("revisions", [None, {"A": "r2"}, {}])
def test_what_was_rolled_back_is_an_error_though_the_old_revision_serves(revisions: dict[str, str] | None) -> None:
    error = progress_of(cluster(ROLLED_BACK), "app", generation=1, revisions=revisions).error
    assert isinstance(error, ConstructorFailedError)
    assert "revision r2" in error.message
    assert error.details["traceback"] == "Traceback: no model"


def test_a_rollback_of_another_revision_before_does_not_matter() -> None:
    assert progress_of(cluster(ROLLED_BACK), "app", generation=1, revisions={"A": "r1"}).ready


PAUSED = replace(
    DEPLOYMENT,
    state=DeploymentState.UPDATING,
    rollout=RolloutStatus(
        phase=RolloutPhase.PAUSED, from_revision=RevisionId("r0"), to_revision=RevisionId("r1"), updated_available=1
    ),
)


def test_what_is_paused_is_not_waited_for_and_says_how_to_go_on() -> None:
    progress = progress_of(cluster(PAUSED), "app", generation=1, revisions={"A": "r1"})
    assert (progress.ready, progress.error, progress.waiting_for) == (False, None, "")
    (line,) = progress.held
    assert line.startswith("app.A: paused with 1 of 2 replicas of revision r1 available")
    assert "'serve-core rollout resume app.A'" in line


def test_beside_what_is_paused_the_others_are_waited_for() -> None:
    status = cluster(PAUSED)
    (application,) = status.applications
    other = replace(DEPLOYMENT, name="B", state=DeploymentState.UPDATING, ready_replicas=0)
    both = replace(status, applications=(replace(application, deployments=(PAUSED, other)),))
    progress = progress_of(both, "app", generation=1)
    assert progress.waiting_for.startswith("B has 0 of 2")
    assert progress.held == ()


def test_who_waits_for_what_a_newer_deploy_supersedes_is_told_by_what() -> None:
    error = progress_of(cluster(generation=2, observed=2), "app", generation=1, revisions={"A": "r0"}).error
    assert isinstance(error, RevisionConflictError)
    assert error.message.startswith("revision r0 of deployment 'app.A' was superseded by revision r1, generation 2")
    leaving = replace(DEPLOYMENT, state=DeploymentState.DELETING)
    for status, name in ((cluster(leaving), "A"), (cluster(), "B")):
        error = progress_of(status, "app", generation=1, revisions={name: "r1"}).error
        assert isinstance(error, RevisionConflictError)
        assert "superseded by its removal" in error.message


def test_what_is_put_back_because_the_wanted_one_failed_supersedes_nothing() -> None:
    assert ROLLED_BACK.rollout is not None
    rollout = replace(ROLLED_BACK.rollout, phase=RolloutPhase.ROLLING_BACK)
    going = replace(ROLLED_BACK, state=DeploymentState.UPDATING, rollout=rollout)
    assert progress_of(cluster(going), "app", generation=1, revisions={"A": "r2"}).error is None


def test_what_is_being_rolled_back_is_waited_for() -> None:
    assert ROLLED_BACK.rollout is not None
    going = replace(
        ROLLED_BACK,
        state=DeploymentState.UPDATING,
        rollout=replace(ROLLED_BACK.rollout, phase=RolloutPhase.ROLLING_BACK),
    )
    progress = progress_of(cluster(going), "app", generation=1)
    assert (progress.ready, progress.error) == (False, None)
