"""Every value survives the way through its message, and bad messages are refused with the path of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serve_core.errors import ConfigInvalidError
from serve_core.model.actor import ActorAssignment, ActorEndpoint
from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.event import Event
from serve_core.model.gang import GangMember, GangRoster, GangRoute
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, RouterId, SlotToken
from serve_core.model.load import Load
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import (
    Environment,
    Failure,
    Gang,
    Method,
    MethodKind,
    Replica,
    ReplicaPhase,
    ReplicaReport,
    UserService,
)
from serve_core.model.resources import Resources
from serve_core.model.slots import Lease, Rejection, SlotCounters
from serve_core.model.status import (
    ActorStatus,
    ApplicationStatus,
    ClusterStatus,
    Condition,
    ConditionType,
    DeploymentState,
    DeploymentStatus,
    NodeStatus,
    ReplicaStatus,
    RolloutPhase,
    RolloutStatus,
    RouterStatus,
)
from serve_core.v1 import controller_pb2, replica_pb2, router_pb2, types_pb2
from serve_core.wire import actors, deployplan, endpoints, events, gang, payload, replica, resources, slots, status
from serve_core.wire.fields import decode_duration, duration_is_sound, encode_duration, encode_time
from serve_core.wire.metadata import format_load, parse_load

LOAD = Load(3, 2, 8)
METHODS = tuple(Method(f"m{kind.value}", kind) for kind in MethodKind)
SERVICE = UserService("digits.v1.DigitService", METHODS)
FAILURE = Failure(reason="CONSTRUCTOR_FAILED", message="no", traceback="Traceback …", time=1_700_000_000.25)
KEY = DeploymentKey("shop", "search")
REPLICA = Replica(
    replica_id=ReplicaId("shop.search.ab-1"),
    key=KEY,
    revision=RevisionId("r7"),
    epoch=4,
    address="127.0.0.1:4711",
    node_id=NodeId("node-0"),
    zone="east",
    gang=Gang(gang_id=GangId("shop.search.ab"), rank=1, size=2, epoch=3, role="tail"),
    metadata={"model": "large"},
)
REPORT = ReplicaReport(
    phase=ReplicaPhase.DRAINING,
    address="127.0.0.1:4711",
    load=LOAD,
    methods=METHODS,
    services=(SERVICE,),
    file_descriptor_set=b"\x0a\x00",
    metadata={"a": "b"},
    failure=FAILURE,
    healthy=False,
    is_ready=False,
    environment=Environment(interpreter="/usr/bin/python3", python_version="3.11.7", packages={"numpy": "2.0.1"}),
    drain_remaining_s=12.5,
    drained=True,
    rendezvous_port=29_500,
    gang_epoch=3,
    snapshot_failure=FAILURE,
    reconfigure_failure=FAILURE,
)
ROUTE = DeploymentRoute(
    key=KEY,
    ingress=True,
    available=False,
    message="gave up",
    max_queued_requests=-1,
    methods=METHODS,
    services=(SERVICE,),
    file_descriptor_set=b"x",
    gang_route=GangRoute.LEADER,
    gang_size=4,
)
CHANGE = TableChange(
    version=TableVersion("e", 7),
    snapshot=True,
    upserted_deployments=(ROUTE,),
    removed_deployments=(KEY,),
    upserted_replicas=(REPLICA,),
    removed_replica_ids=(ReplicaId("x"),),
)
RESOURCES = Resources(cpus=0.5, gpus=0.25, memory_bytes=2**40, custom={"tpu": 2.0})
CONDITION = Condition(
    type=ConditionType.DEGRADED, status=True, reason="Crash", message="a crash", last_transition_time=12.5
)
REPLICA_STATUS = ReplicaStatus(
    replica=REPLICA,
    phase=ReplicaPhase.READY,
    pid=77,
    load=LOAD,
    create_time=11.0,
    failure=FAILURE,
    in_rotation=True,
    suspicion="3 heartbeats were missed",
    drain_remaining_s=0.0,
    restarts=4,
)
ROLLOUT = RolloutStatus(
    phase=RolloutPhase.ROLLED_BACK,
    from_revision=RevisionId("r6"),
    to_revision=RevisionId("r7"),
    updated_available=1,
    waiting_for="router r2 to acknowledge table 41",
    failed_revision=RevisionId("r7"),
    failure=FAILURE,
    progress_deadline_time=1_700_000_600.0,
)
EVENT = Event(
    key=KEY,
    time=1_700_000_000.25,
    reason="RolloutStarted",
    message="revision r7 replaces r6",
    subject="shop.search.ab",
    warning=True,
    sequence=41,
)
PLAN = DeploymentPlan(
    deployment="search",
    effect=DeployEffect.ROLLOUT,
    old_revision=RevisionId("r6"),
    new_revision=RevisionId("r7"),
    changes=(FieldChange(field="resources.cpus", old_value="1", new_value="2", restarts=True),),
    surge_replicas=2,
    needs=RESOURCES,
    fits=False,
    missing="node-0 lacks 2 CPUs (1 free)",
    gang_size=2,
    actors=("cache", "tree"),
)
DEPLOYMENT_STATUS = DeploymentStatus(
    name="search",
    revision=RevisionId("r7"),
    state=DeploymentState.DEGRADED,
    message="one is ill",
    num_replicas=3,
    ready_replicas=2,
    updated_replicas=1,
    start_failures=4,
    conditions=(CONDITION,),
    replicas=(REPLICA_STATUS,),
    failures=(FAILURE,),
    paused=True,
    revisions=(RevisionId("r7"), RevisionId("r6")),
    rollout=ROLLOUT,
    last_good_revision=RevisionId("r6"),
    environment_differences=("numpy is 2.0.1 on node-0 and 2.1.0 on node-1",),
    actors=(
        ActorStatus(
            name="cache",
            revision=RevisionId("r7"),
            incarnation=3,
            replica=REPLICA,
            phase=ReplicaPhase.READY,
            pid=78,
            restarts=2,
            start_failures=1,
            failure=FAILURE,
            snapshot_time=1_700_000_000.25,
            snapshot_bytes=2**40,
            snapshot_incarnation=2,
        ),
        ActorStatus(name="tree", revision=None, incarnation=0),
    ),
)
CLUSTER = ClusterStatus(
    applications=(
        ApplicationStatus(
            name="shop", generation=3, observed_generation=2, ingress="search", deployments=(DEPLOYMENT_STATUS,)
        ),
    ),
    routers=(RouterStatus(router_id=RouterId("r"), address="a:1", http_address="a:2", acknowledged_version=6),),
    nodes=(
        NodeStatus(
            node_id=NodeId("node-0"),
            zone="east",
            total=RESOURCES,
            used=Resources(),
            labels={"disk": "ssd"},
            draining=True,
            drain_deadline_time=1_700_000_600.0,
        ),
        NodeStatus(node_id=NodeId("node-1"), zone="", total=RESOURCES, used=Resources()),
    ),
    table_version=7,
    table_epoch="e",
    pid=5,
    version="0.1.0",
)
MEMBERS = tuple(
    GangMember(
        replica_id=ReplicaId(f"shop.search.ab-{rank}"),
        rank=rank,
        epoch=rank + 1,
        address=f"10.0.0.{rank}:4711",
        node_id=NodeId(f"node-{rank}"),
        role="decode",
        local_rank=0,
        local_size=1,
        node_rank=rank,
    )
    for rank in range(2)
)
ROSTER = GangRoster(
    gang_id=GangId("shop.search.ab"), epoch=3, members=MEMBERS, rendezvous_host="10.0.0.0", rendezvous_port=29500
)
ACTOR = ActorEndpoint(
    name="cache",
    incarnation=3,
    address="10.0.0.1:4712",
    failure=FAILURE,
    restored=True,
    given_up="it failed 5 times",
    replica_id=ReplicaId("shop.search.cd-0"),
)
LEASE = Lease(token=SlotToken("ab" * 16, 4, ReplicaId("shop.search.ab-1")), slots=2, ttl_s=2.5, expires_at=1_700_000.5)

ROUND_TRIPS: list[tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (LOAD, replica.encode_load, replica.decode_load),
    (REPLICA.gang, replica.encode_gang, replica.decode_gang),
    (REPLICA, replica.encode_replica, replica.decode_replica),
    (SERVICE, replica.encode_user_service, replica.decode_user_service),
    (FAILURE, replica.encode_failure, replica.decode_failure),
    (REPORT, replica.encode_replica_report, replica.decode_replica_report),
    (ReplicaReport(phase=ReplicaPhase.STARTING), replica.encode_replica_report, replica.decode_replica_report),
    (ROUTE, endpoints.encode_deployment_route, endpoints.decode_deployment_route),
    (CHANGE, endpoints.encode_table_change, endpoints.decode_table_change),
    (RESOURCES, resources.encode_resources, resources.decode_resources),
    (CLUSTER, status.encode_cluster_status, status.decode_cluster_status),
    (
        DeploymentStatus(
            name="new",
            revision=RevisionId("r1"),
            state=DeploymentState.UPDATING,
            message="",
            num_replicas=1,
            ready_replicas=0,
            updated_replicas=0,
            start_failures=0,
            conditions=(),
            replicas=(),
        ),
        status.encode_deployment_status,
        status.decode_deployment_status,
    ),
    (ROLLOUT, status.encode_rollout_status, status.decode_rollout_status),
    (
        RolloutStatus(
            phase=RolloutPhase.COMPLETE, from_revision=None, to_revision=RevisionId("r1"), updated_available=0
        ),
        status.encode_rollout_status,
        status.decode_rollout_status,
    ),
    (EVENT, events.encode_event, events.decode_event),
    (PLAN, deployplan.encode_deployment_plan, deployplan.decode_deployment_plan),
    (
        DeploymentPlan(deployment="new", effect=DeployEffect.CREATE, old_revision=None, new_revision=RevisionId("r1")),
        deployplan.encode_deployment_plan,
        deployplan.decode_deployment_plan,
    ),
    (ROSTER, gang.encode_gang_roster, gang.decode_gang_roster),
    ((ACTOR, ActorEndpoint(name="tree", incarnation=1)), actors.encode_actor_directory, actors.decode_actor_directory),
    (
        ActorAssignment(name="cache", incarnation=3, restore=True),
        actors.encode_actor_assignment,
        actors.decode_actor_assignment,
    ),
    (LEASE, slots.encode_lease, slots.decode_lease),
    (SlotCounters(1, 2, 3, 4, 5, 6, 7, 8), slots.encode_slot_counters, slots.decode_slot_counters),
    (Payload(Encoding.PROTOBUF, b"\x00", "a.B"), payload.encode_payload, payload.decode_payload),
]


@pytest.mark.parametrize(("value", "encode", "decode"), ROUND_TRIPS, ids=lambda part: type(part).__name__)
def test_value_survives_the_way_through_bytes(
    value: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any]
) -> None:
    message = encode(value)
    assert decode(type(message).FromString(message.SerializeToString())) == value


@pytest.mark.parametrize("value", [LOAD, Load()])
def test_load_survives_the_way_through_text(value: Load) -> None:
    assert parse_load(format_load(value)) == value


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "-1,2,3", "a,b,c", "1,2,3\n", "٣,1,1", "1" * 11 + ",1,1"])
def test_text_that_is_no_load_spells_none(text: str) -> None:
    assert parse_load(text) is None


def test_every_field_of_the_table_of_enums_is_the_one_on_the_wire() -> None:
    for cls, prefix, enum in (
        (Encoding, "PAYLOAD_ENCODING_", types_pb2.PayloadEncoding),
        (ReplicaPhase, "REPLICA_PHASE_", types_pb2.ReplicaPhase),
        (MethodKind, "METHOD_KIND_", types_pb2.MethodKind),
        (Rejection, "REJECTION_REASON_", replica_pb2.RejectionReason),
        (DeploymentState, "DEPLOYMENT_STATE_", controller_pb2.DeploymentState),
    ):
        ours = {f"{prefix}{member.name}": member.value for member in cls}
        assert ours == {name: number for name, number in enum.items() if number != 0}


def test_payload_without_an_encoding_is_refused() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        payload.decode_payload(types_pb2.Payload(data=b"x"), field="item")
    assert caught.value.violations[0].field == "item.encoding"


def test_report_without_a_phase_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match=r"report\.phase: 0 is not one of 1 \(RESERVING\)"):
        replica.decode_replica_report(controller_pb2.ReplicaReport())


def test_method_of_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match=r"methods\['m'\]\.kind"):
        replica.decode_method(types_pb2.Method(name="m"))


def test_condition_of_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="'Odd' is not one of Available, Progressing, Degraded"):
        status.decode_condition(controller_pb2.Condition(type="Odd"))


def test_route_of_unknown_state_lets_callers_hope() -> None:
    assert endpoints.decode_deployment_route(controller_pb2.DeploymentRoute()).available


def test_route_of_older_controllers_is_that_of_single_replicas() -> None:
    route = endpoints.decode_deployment_route(controller_pb2.DeploymentRoute())
    assert (route.gang_route, route.gang_size) == (GangRoute.ALL, 1)


@pytest.mark.parametrize("route", GangRoute)
def test_routes_of_gangs_survive(route: GangRoute) -> None:
    assert gang.decode_gang_route(gang.encode_gang_route(route)) is route


@pytest.mark.parametrize("number", [0, 99])
def test_gang_of_unknown_route_is_routed_to_as_a_whole(number: int) -> None:
    assert gang.decode_gang_route(number) is GangRoute.ALL


def test_unset_gang_is_a_gang_of_one() -> None:
    alone = replica.decode_replica(types_pb2.Replica(replica_id="r")).gang
    assert (alone.rank, alone.size, alone.epoch) == (0, 1, 1)


def test_lease_takes_the_wall_clock_of_its_maker() -> None:
    message = slots.encode_lease(LEASE, expire_time=2_000_000.0)
    assert slots.decode_lease(message).expires_at == 2_000_000.0


@pytest.mark.parametrize("size", [*range(100, 160), 20_000])  # About where a length takes another byte, and a third.
def test_an_answer_that_is_spelled_is_the_message(size: int) -> None:
    lease = slots.encode_lease(LEASE)
    lease.slot_token += "x" * (size - lease.ByteSize())
    whole = router_pb2.RouterServiceReserveSlotResponse(replica=replica.encode_replica(REPLICA))
    spelled = slots.spell_reserved(lease, whole.SerializeToString())
    whole.lease.CopyFrom(lease)
    assert router_pb2.RouterServiceReserveSlotResponse.FromString(spelled) == whole
    assert spelled == whole.SerializeToString()


def test_lease_with_garbage_for_a_token_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="is no slot token"):
        slots.decode_lease(types_pb2.SlotLease(slot_token="nonsense"))


@pytest.mark.parametrize(
    "cls",
    [
        replica_pb2.ReserveSlotRequest,
        replica_pb2.RenewSlotRequest,
        router_pb2.RouterServiceReserveSlotRequest,
        router_pb2.RouterServiceRenewSlotRequest,
    ],
)
def test_ttl_is_none_when_unset_and_never_negative(cls: Any) -> None:
    assert slots.decode_ttl(cls()) is None
    assert slots.decode_ttl(cls(ttl=slots.encode_ttl(0.25))) == 0.25
    assert slots.encode_ttl(None) is None
    with pytest.raises(ConfigInvalidError, match="no time to live"):
        slots.decode_ttl(cls(ttl=encode_duration(-1)))


@pytest.mark.parametrize("rejection", list(Rejection))
def test_rejections_survive(rejection: Rejection) -> None:
    assert slots.decode_rejection(slots.encode_rejection(rejection)) is rejection


@pytest.mark.parametrize("number", [0, 99])
def test_unknown_rejection_counts_as_full(number: int) -> None:
    assert slots.decode_rejection(number) is Rejection.FULL


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1e-9, 3.999999999, 86_400.0, -0.5, -1.5, -2.0])
def test_durations_keep_nanoseconds_and_agree_in_sign(seconds: float) -> None:
    message = encode_duration(seconds)
    assert duration_is_sound(message)
    assert decode_duration(message) == pytest.approx(seconds, abs=1e-9)


def test_time_rounds_up_to_the_next_second_where_it_has_to() -> None:
    message = encode_time(1.9999999)
    assert (message.seconds, message.nanos) == (2, 0)
