from __future__ import annotations

from typing import Any

import msgspec

from serve_core.model.gang import GangPolicy, OnMemberFailure
from serve_core.model.ids import GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import DeploymentState
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import (
    ApplicationRecord,
    Bundle,
    ClusterRecord,
    DeploymentRecord,
    GangRecord,
    GpuShare,
    MemberRecord,
    Records,
    RevisionRecord,
)
from tests.unit.plan.world import KEY, World, a_spec


def _deployment() -> DeploymentRecord:
    spec = a_spec(init_arguments=Payload(Encoding.MSGPACK, b"\x92\x90\x80"), env={"A": "b"})
    return DeploymentRecord(
        key=KEY,
        generation=3,
        target=RevisionId("r1"),
        num_replicas=2,
        revisions=(RevisionRecord(revision=RevisionId("r1"), spec=spec, created_at=1.5),),
        terminal=Failure(reason="CONSTRUCTOR_FAILED", message="boom", time=2.0),
    )


def test_records_survive_json() -> None:
    gang = GangRecord(
        gang_id=GangId("g"),
        key=KEY,
        revision=RevisionId("r1"),
        phase=ReplicaPhase.READY,
        phase_since=2.0,
        created_at=1.0,
        members=(
            MemberRecord(
                replica_id=ReplicaId("g-0"),
                rank=0,
                phase=ReplicaPhase.READY,
                phase_since=2.0,
                bundle=Bundle(node_id=NodeId("n"), resources=Resources(gpus=2.0), gpus=(GpuShare(0, 1.0),)),
            ),
        ),
    )
    for record in (
        ClusterRecord(epoch="e", table_version=7),
        ApplicationRecord(name="app", ingress="main", generation=3),
        _deployment(),
        gang,
    ):
        assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


def test_real_records_survive_json() -> None:
    world = World()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec())
    world.settle()
    record = world.record()
    assert record.conditions
    assert record.failures
    assert msgspec.json.decode(msgspec.json.encode(record), type=DeploymentRecord) == record


def test_records_of_gangs_survive_json() -> None:
    policy = GangPolicy(size=2, on_member_failure=OnMemberFailure.RESTART_REPLICA, max_restarts=1)
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=6.0)),))
    world.deploy(a_spec(num_replicas=6, gang=policy))
    world.settle()
    world.behaviour["app:v1"] = "fail"
    repaired, lost, _ = world.gangs()
    world.kill(lost.members[0].replica_id)
    world.kill(lost.members[1].replica_id)
    world.kill(repaired.members[1].replica_id)
    world.plan()
    record = world.record()
    assert record.vacant_places
    (kept,) = [gang for gang in world.gangs() if gang.gang_id == repaired.gang_id]
    assert kept.repaired is not None
    assert (kept.epoch, kept.members[1].epoch, kept.restarts_in_a_row) == (2, 2, 1)
    for one in (record, *world.gangs()):
        assert msgspec.json.decode(msgspec.json.encode(one), type=type(one)) == one


def test_what_an_older_version_counted_otherwise_is_counted_anew() -> None:
    fields = msgspec.json.decode(msgspec.json.encode(_deployment()))
    fields["open_places"] = [2, 1]
    assert msgspec.json.decode(msgspec.json.encode(fields), type=DeploymentRecord) == _deployment()


def test_lookups() -> None:
    record = _deployment()
    assert record.revision(RevisionId("r1")) is record.revisions[0]
    assert record.revision(RevisionId("r2")) is None
    assert record.target_spec.env == {"A": "b"}
    records = Records(deployments={KEY: record})
    assert records.deployments_of("app") == (record,)
    assert records.deployments_of("other") == ()
    assert records.gangs_of(KEY) == ()


def test_a_bundle_names_the_gpus_that_its_member_may_see() -> None:
    bundle = Bundle(node_id=NodeId("n"), resources=Resources(), gpus=(GpuShare(1, 1.0), GpuShare(3, 1.0)))
    assert bundle.gpu_indices == (1, 3)


NEW = frozenset(
    (
        "rollout",
        "observed_replicas",
        "unproven",
        "good_retry_at",
        "vacant_places",
        "given_up",
        "given_up_for",
        "restarts_in_a_row",
        "repaired",
        "in_rotation_since",
        "out_of_rotation",
        "restarts",
    )
)


def test_records_of_an_older_version_are_read_and_planned_on() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec())
    world.settle()
    world.behaviour["app:v2"] = "hang"
    world.deploy(a_spec(import_path="app:v2"))
    world.settle()

    def older(record: Any) -> Any:
        fields = {
            key: value for key, value in msgspec.json.decode(msgspec.json.encode(record)).items() if key not in NEW
        }
        for kept in fields.get("revisions", ()):
            del kept["spec"]["rollout"]
        return msgspec.json.decode(msgspec.json.encode(fields), type=type(record))

    world.records = Records(
        applications=world.records.applications,
        deployments={key: older(record) for key, record in world.records.deployments.items()},
        gangs={key: older(record) for key, record in world.records.gangs.items()},
    )
    assert world.record().rollout is None
    world.restart_controller()
    world.reconnect_routers()
    world.behaviour.clear()
    world.run(10.0)
    assert world.ready_paths() == {"app:v2": 2}
    assert world.status().rollout is not None
    world.records = Records(
        applications=world.records.applications,
        deployments={key: older(record) for key, record in world.records.deployments.items()},
        gangs={key: older(record) for key, record in world.records.gangs.items()},
    )
    world.settle()
    assert world.status().rollout is None, "at rest there is none to know of"
    assert world.status().state is DeploymentState.HEALTHY
