"""Records to test with."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.actor import ActorKey, ActorSpec
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.model.status import Condition, ConditionType
from serve_core.plan.actor_records import ActorRecord, SnapshotRecord
from serve_core.plan.records import (
    ApplicationRecord,
    Bundle,
    DeploymentRecord,
    GangRecord,
    GpuShare,
    MemberRecord,
    NodeRecord,
    Records,
    RevisionRecord,
)
from serve_core.plan.revision import revision_id


def deployment(name: str, *, num_replicas: int = 1) -> DeploymentRecord:
    """A deployment of the application ``app``, with every kind of field set."""
    spec = DeploymentSpec(
        name=name,
        import_path="m:A",
        init_arguments=Payload(Encoding.MSGPACK, b"\x00\xff"),
        metadata={"who": "me"},
        actors=(ActorSpec(name="cache", import_path="m:C", resources=Resources(), env={"A": "a"}),),
        resources=Resources(cpus=0.5, gpus=0.5, memory_bytes=7, custom={"disk": 1.0}),
    )
    revision = RevisionRecord(revision=revision_id(spec), spec=spec, created_at=1.5)
    condition = Condition(type=ConditionType.DEGRADED, status=True, reason="R", message="m", last_transition_time=2.5)
    return DeploymentRecord(
        key=DeploymentKey("app", name),
        generation=1,
        target=revision.revision,
        num_replicas=num_replicas,
        revisions=(revision,),
        failures=(Failure(reason="X", message="y", traceback="z", time=3.5),),
        conditions=(condition,),
        actors=(
            ActorRecord(
                key=ActorKey("cache", revision.revision),
                gang_id=GangId(f"app.{name}.9"),
                incarnation=2,
                address="h:1",
                restores=True,
                restored=True,
                first_ready_at=3.0,
                failures=1,
                restarts=1,
                retry_at=3.5,
                failure=Failure(reason="X", message="y", traceback="z", time=3.5),
                snapshot=SnapshotRecord(incarnation=1, sequence=3, size_bytes=9, parts=1, time=3.25),
            ),
        ),
    )


def gang(of: DeploymentRecord, unique: str = "1", *, epoch: int = 1) -> GangRecord:
    """A gang of one that is ready."""
    gang_id = GangId(f"app.{of.key.deployment}.{unique}")
    bundle = Bundle(node_id=NodeId("node-0"), resources=of.target_spec.resources, gpus=(GpuShare(0, 0.5),))
    member = MemberRecord(
        replica_id=ReplicaId(f"{gang_id}-0"),
        rank=0,
        epoch=epoch,
        phase=ReplicaPhase.READY,
        phase_since=4.5,
        bundle=bundle,
        child_bundles=(Bundle(node_id=NodeId("node-0"), resources=Resources(cpus=2.0)),),
    )
    return GangRecord(
        gang_id=gang_id,
        key=of.key,
        revision=of.target,
        phase=ReplicaPhase.READY,
        phase_since=4.5,
        created_at=4.0,
        members=(member,),
    )


def actor_gang(of: DeploymentRecord, *, incarnation: int = 2) -> GangRecord:
    """What runs the sample's actor."""
    (actor,) = of.actors
    return replace(gang(of, "9"), actor=actor.key, incarnation=incarnation, restore=True)


def records(*names: str) -> Records:
    """An application of these deployments, each with one gang."""
    deployments = [deployment(name) for name in names]
    gangs = [gang(record) for record in deployments]
    return Records(
        applications={"app": ApplicationRecord(name="app", ingress=names[0], generation=1)} if names else {},
        deployments={record.key: record for record in deployments},
        gangs={record.gang_id: record for record in gangs},
        nodes={NodeId("node-1"): NodeRecord(node_id=NodeId("node-1"), draining_since=5.5, deadline=6.5)},
    )
