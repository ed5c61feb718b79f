"""How far a rollout is, in the words that operators read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.errors import ConstructorFailedError, DeploymentUnavailableError
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, Gang, Replica, ReplicaPhase
from serve_core.model.status import (
    ApplicationStatus,
    DeploymentState,
    DeploymentStatus,
    ReplicaStatus,
    RolloutPhase,
    RolloutStatus,
)
from serve_core.rollouts import rollout_progress

FAILURE = Failure(reason="CONSTRUCTOR_FAILED", message="no\nmodel", traceback="Traceback: no model", time=1.0)
ROLLOUT = RolloutStatus(
    phase=RolloutPhase.PROGRESSING,
    from_revision=RevisionId("r1"),
    to_revision=RevisionId("r2"),
    updated_available=1,
)


def replica(number: int, revision: str) -> ReplicaStatus:
    return ReplicaStatus(
        replica=Replica(
            replica_id=ReplicaId(f"app.A.g{number}-0"),
            key=DeploymentKey("app", "A"),
            revision=RevisionId(revision),
            epoch=1,
            address="h:1",
            node_id=NodeId("n"),
            gang=Gang(gang_id=GangId(f"app.A.g{number}")),
        ),
        phase=ReplicaPhase.READY,
        pid=7,
        load=Load(),
        create_time=1.0,
        in_rotation=True,
    )


DEPLOYMENT = DeploymentStatus(
    name="A",
    revision=RevisionId("r2"),
    state=DeploymentState.UPDATING,
    message="it gets there",
    num_replicas=2,
    ready_replicas=2,
    updated_replicas=1,
    start_failures=0,
    conditions=(),
    replicas=(replica(1, "r1"), replica(2, "r1")),
    rollout=ROLLOUT,
)


def application(*, generation: int = 1) -> ApplicationStatus:
    return ApplicationStatus(name="app", generation=generation, observed_generation=1, ingress="A", deployments=())


def with_rollout(**changes: object) -> DeploymentStatus:
    return replace(DEPLOYMENT, rollout=replace(ROLLOUT, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("deployment", "line"),
    [
        (DEPLOYMENT, "app.A: 1 of 2 replicas of revision r2 are available"),
        (
            with_rollout(waiting_for="router r2 to acknowledge table 41"),
            "app.A: 1 of 2 replicas of revision r2 are available; waiting for router r2 to acknowledge table 41",
        ),
        (
            with_rollout(phase=RolloutPhase.WAITING, waiting_for="room: node-0 lacks 1 CPUs (0 free)"),
            "app.A: 1 of 2 replicas of revision r2 are available; waiting for room: node-0 lacks 1 CPUs (0 free)",
        ),
        (
            with_rollout(phase=RolloutPhase.PAUSED),
            "app.A: paused: 1 of 2 replicas of revision r2 are available; 'serve-core rollout resume' lets it go on",
        ),
        (
            replace(
                with_rollout(
                    phase=RolloutPhase.ROLLING_BACK,
                    failed_revision=RevisionId("r2"),
                    failure=FAILURE,
                    waiting_for="a replica to start",
                ),
                revision=RevisionId("r1"),
            ),
            "app.A: revision r2 failed: no model; putting back revision r1; waiting for a replica to start",
        ),
        (replace(DEPLOYMENT, rollout=None), "app.A: it gets there"),
        (
            replace(with_rollout(phase=RolloutPhase.COMPLETE), ready_replicas=1),
            "app.A: complete: 1 of 2 replicas of revision r2 are available",
        ),
    ],
)
def test_what_goes_on_is_neither_complete_nor_failed(deployment: DeploymentStatus, line: str) -> None:
    progress = rollout_progress(application(), deployment)
    assert (progress.complete, progress.error, progress.line) == (False, None, line)


def test_what_was_not_planned_yet_says_nothing_of_the_rollout_before() -> None:
    done = with_rollout(phase=RolloutPhase.COMPLETE)
    progress = rollout_progress(application(generation=2), done)
    assert (progress.complete, progress.line) == (False, "app.A: waiting for the controller to plan it")


def test_complete_and_whole_is_complete() -> None:
    assert rollout_progress(application(), with_rollout(phase=RolloutPhase.COMPLETE, updated_available=2)).complete


def test_without_a_rollout_healthy_is_complete() -> None:
    assert rollout_progress(application(), replace(DEPLOYMENT, rollout=None, state=DeploymentState.HEALTHY)).complete


@pytest.mark.parametrize(
    ("phase", "what"), [(RolloutPhase.ROLLED_BACK, "was rolled back"), (RolloutPhase.FAILED, "is held where it is")]
)
def test_a_failed_rollout_says_which_revision_why_and_what_serves(phase: RolloutPhase, what: str) -> None:
    failed = with_rollout(phase=phase, failed_revision=RevisionId("r2"), failure=FAILURE)
    progress = rollout_progress(application(), replace(failed, state=DeploymentState.HEALTHY))
    assert not progress.complete
    assert isinstance(progress.error, ConstructorFailedError)
    assert progress.error.message == (
        f"revision r2 of deployment 'app.A' failed and {what}: no\nmodel; revision r1 with 2 of 2 replicas serves now"
    )
    assert progress.error.details["traceback"] == "Traceback: no model"
    assert progress.line.startswith("app.A: revision r2 failed: no model; revision r1 with 2 of 2")


def test_a_rollout_that_failed_without_a_reason_of_ours_is_unavailable() -> None:
    stuck = Failure(reason="PROGRESS_DEADLINE", message="no progress for 600 s")
    failed = replace(with_rollout(phase=RolloutPhase.ROLLED_BACK, failure=stuck), replicas=())
    progress = rollout_progress(application(), failed)
    assert type(progress.error) is DeploymentUnavailableError
    assert progress.error.message.endswith("no progress for 600 s; nothing serves now")


def test_a_first_revision_that_failed_was_given_up() -> None:
    failed = with_rollout(phase=RolloutPhase.FAILED, from_revision=None, failure=FAILURE)
    error = rollout_progress(application(), replace(failed, replicas=())).error
    assert isinstance(error, ConstructorFailedError)
    assert error.message == ("revision r2 of deployment 'app.A' failed and was given up: no\nmodel; nothing serves now")


def test_a_first_deploy_that_failed_is_an_error() -> None:
    failed = replace(DEPLOYMENT, rollout=None, state=DeploymentState.DEPLOY_FAILED, failures=(FAILURE,))
    progress = rollout_progress(application(), failed)
    assert isinstance(progress.error, ConstructorFailedError)
    assert "deployment 'app.A' failed" in progress.line
