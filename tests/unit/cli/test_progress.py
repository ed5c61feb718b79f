from __future__ import annotations

from dataclasses import replace

from serve_core.cli.progress import ProgressLines
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, Gang, Replica, ReplicaPhase
from serve_core.model.status import (
    ActorStatus,
    ApplicationStatus,
    ClusterStatus,
    DeploymentState,
    DeploymentStatus,
    ReplicaStatus,
)

REPLICA = ReplicaStatus(
    replica=Replica(
        replica_id=ReplicaId("app.A.g-0"),
        key=DeploymentKey("app", "A"),
        revision=RevisionId("r1"),
        epoch=1,
        address="h:1",
        node_id=NodeId("n"),
        gang=Gang(gang_id=GangId("app.A.g")),
    ),
    phase=ReplicaPhase.STARTING,
    pid=7,
    load=Load(),
    create_time=1.0,
)
DEPLOYMENT = DeploymentStatus(
    name="A",
    revision=RevisionId("r1"),
    state=DeploymentState.UPDATING,
    message="",
    num_replicas=1,
    ready_replicas=0,
    updated_replicas=1,
    start_failures=0,
    conditions=(),
    replicas=(REPLICA,),
)


def cluster(deployment: DeploymentStatus) -> ClusterStatus:
    application = ApplicationStatus(
        name="app", generation=1, observed_generation=1, ingress="A", deployments=(deployment,)
    )
    return ClusterStatus(
        applications=(application,), routers=(), nodes=(), table_version=1, table_epoch="e", pid=1, version="0"
    )


def test_actors_are_told_of_before_the_replicas_that_need_them() -> None:
    said: list[str] = []
    lines = ProgressLines(said.append)
    own = ActorStatus(name="cache", revision=RevisionId("r1"), incarnation=1, phase=ReplicaPhase.STARTING)
    shared = ActorStatus(name="tree", revision=None, incarnation=0)
    lines.report(cluster(replace(DEPLOYMENT, actors=(own, shared))))
    assert said[:2] == ["app.A/cache of r1: starting, incarnation 1", "app.A.g-0: starting, pid 7"]
    own = replace(own, phase=ReplicaPhase.READY)
    shared = replace(shared, phase=ReplicaPhase.READY, incarnation=4)
    lines.report(cluster(replace(DEPLOYMENT, actors=(own, shared))))
    assert said[3:] == ["app.A/cache of r1: ready, incarnation 1", "app.A/tree: ready, incarnation 4"]


def test_each_change_is_said_once() -> None:
    said: list[str] = []
    lines = ProgressLines(said.append)
    lines.report(cluster(DEPLOYMENT))
    lines.report(cluster(DEPLOYMENT))
    assert said == ["app.A.g-0: starting, pid 7", "app.A: updating, 0/1 ready"]
    ready = replace(
        DEPLOYMENT,
        state=DeploymentState.HEALTHY,
        ready_replicas=1,
        replicas=(replace(REPLICA, phase=ReplicaPhase.READY),),
    )
    lines.report(cluster(ready))
    assert said[2:] == ["app.A.g-0: ready, pid 7", "app.A: healthy, 1/1 ready"]


def test_each_failure_is_said_once_in_one_line() -> None:
    said: list[str] = []
    lines = ProgressLines(said.append)
    failed = replace(DEPLOYMENT, failures=(Failure(reason="CONSTRUCTOR_FAILED", message="no\nmodel", time=1.0),))
    lines.report_failures(cluster(failed))
    lines.report_failures(cluster(failed))
    assert said == ["app.A: CONSTRUCTOR_FAILED: no model"]
