"""Gangs, to and from ``serve_core.v1``: how members belong together, and who they are."""

from __future__ import annotations

from serve_core.model.gang import GangMember, GangPolicy, GangRoster, GangRoute, OnMemberFailure, Strategy
from serve_core.model.ids import GANG_SIZE_MAX, GangId, NodeId, ReplicaId
from serve_core.v1 import controller_pb2, types_pb2
from serve_core.wire.fields import encode_optional_duration
from serve_core.wire.reader import MAX_REQUESTS, Reader

_DEFAULT = GangPolicy()
_PLACEMENT = {
    Strategy.PACK: controller_pb2.PLACEMENT_STRATEGY_PACK,
    Strategy.SPREAD: controller_pb2.PLACEMENT_STRATEGY_SPREAD,
    Strategy.STRICT_PACK: controller_pb2.PLACEMENT_STRATEGY_STRICT_PACK,
    Strategy.STRICT_SPREAD: controller_pb2.PLACEMENT_STRATEGY_STRICT_SPREAD,
}
_ON_MEMBER_FAILURE = {
    OnMemberFailure.RESTART_GANG: controller_pb2.ON_MEMBER_FAILURE_RESTART_GANG,
    OnMemberFailure.RESTART_REPLICA: controller_pb2.ON_MEMBER_FAILURE_RESTART_REPLICA,
}
_ROUTE = {
    GangRoute.ALL: controller_pb2.GANG_ROUTE_ALL,
    GangRoute.LEADER: controller_pb2.GANG_ROUTE_LEADER,
}


def encode_gang_policy(policy: GangPolicy) -> controller_pb2.GangPolicy:
    """The message of how replicas belong together, with every field set."""
    return controller_pb2.GangPolicy(
        size=policy.size,
        placement=_PLACEMENT[policy.placement],
        on_member_failure=_ON_MEMBER_FAILURE[policy.on_member_failure],
        start_deadline=encode_optional_duration(policy.start_deadline_s),
        max_restarts=policy.max_restarts,
        route=encode_gang_route(policy.route),
        roles=policy.roles,
        abort_in_flight=policy.abort_in_flight,
    )


def read_gang_policy(reader: Reader, message: controller_pb2.GangPolicy) -> GangPolicy:
    """How the replicas of a message belong together; what is unset has the default of ``GangPolicy``."""
    return GangPolicy(
        size=reader.count(message.size or _DEFAULT.size, "gang.size", at_least=1, at_most=GANG_SIZE_MAX),
        placement=reader.choice(message.placement, "gang.placement", _PLACEMENT, _DEFAULT.placement),
        on_member_failure=reader.choice(
            message.on_member_failure, "gang.on_member_failure", _ON_MEMBER_FAILURE, _DEFAULT.on_member_failure
        ),
        start_deadline_s=reader.optional_seconds(message, "gang.start_deadline"),
        max_restarts=reader.count(
            reader.optional(message, "max_restarts", _DEFAULT.max_restarts),
            "gang.max_restarts",
            at_least=0,
            at_most=MAX_REQUESTS,
        ),
        route=reader.choice(message.route, "gang.route", _ROUTE, _DEFAULT.route),
        roles=tuple(message.roles),
        abort_in_flight=message.abort_in_flight,
    )


def encode_gang_route(route: GangRoute) -> controller_pb2.GangRoute.ValueType:
    """The number of which members take requests."""
    return _ROUTE[route]


def decode_gang_route(number: int) -> GangRoute:
    """Which members take requests; a number that is not known means all."""
    return next((route for route, known in _ROUTE.items() if known == number), GangRoute.ALL)


def encode_gang_member(member: GangMember) -> types_pb2.GangMember:
    """The message of a gang's member."""
    return types_pb2.GangMember(
        replica_id=member.replica_id,
        rank=member.rank,
        epoch=member.epoch,
        address=member.address,
        node_id=member.node_id,
        role=member.role,
        local_rank=member.local_rank,
        local_size=member.local_size,
        node_rank=member.node_rank,
    )


def decode_gang_member(message: types_pb2.GangMember) -> GangMember:
    """The gang's member of a message."""
    return GangMember(
        replica_id=ReplicaId(message.replica_id),
        rank=message.rank,
        epoch=message.epoch,
        address=message.address,
        node_id=NodeId(message.node_id),
        role=message.role,
        local_rank=message.local_rank,
        local_size=message.local_size or 1,
        node_rank=message.node_rank,
    )


def encode_gang_roster(roster: GangRoster) -> types_pb2.GangRoster:
    """The message of who is in a gang."""
    return types_pb2.GangRoster(
        gang_id=roster.gang_id,
        epoch=roster.epoch,
        members=[encode_gang_member(member) for member in roster.members],
        rendezvous_host=roster.rendezvous_host,
        rendezvous_port=roster.rendezvous_port,
    )


def decode_gang_roster(message: types_pb2.GangRoster) -> GangRoster:
    """Who is in the gang of a message."""
    return GangRoster(
        gang_id=GangId(message.gang_id),
        epoch=message.epoch,
        members=tuple(decode_gang_member(member) for member in message.members),
        rendezvous_host=message.rendezvous_host,
        rendezvous_port=message.rendezvous_port,
    )
