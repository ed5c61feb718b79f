"""What a replica is, does and offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.load import Load

_NO_LOAD = Load()


class ReplicaPhase(IntEnum):
    """Where a replica is in its life; the numbers of ``serve_core.v1.ReplicaPhase``."""

    RESERVING = 1
    STARTING = 2
    READY = 3
    DRAINING = 4
    STOPPING = 5
    GONE = 6


class MethodKind(IntEnum):
    """The shape of a method; the numbers of ``serve_core.v1.MethodKind``."""

    UNARY = 1
    SERVER_STREAM = 2
    CLIENT_STREAM = 3
    BIDI_STREAM = 4


@dataclass(frozen=True, slots=True)
class Method:
    """A method that a deployment offers, without its service's name."""

    name: str
    kind: MethodKind


@dataclass(frozen=True, slots=True)
class UserService:
    """A user-defined gRPC service that a deployment serves, by its full name."""

    name: str
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """A replica's place in its gang. A replica that needs no others is a gang of one.

    ``role`` is what the deployment calls this rank; empty if it gives ranks no names.
    """

    gang_id: GangId
    rank: int = 0
    size: int = 1
    epoch: int = 1
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Which replica this is, and how to reach it. ``address`` is empty until it listens."""

    replica_id: ReplicaId
    key: DeploymentKey
    revision: RevisionId
    epoch: int
    address: str
    node_id: NodeId
    zone: str = ""
    gang: Gang
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that went wrong; ``time`` is in seconds since the Unix epoch."""

    reason: str
    message: str
    traceback: str = ""
    time: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a replica's process runs on; ``packages`` are versions by normalized distribution name."""

    interpreter: str
    python_version: str
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a replica says of itself, whole. What it does not know yet is empty.

    ``is_ready`` is what the user's hook of that name said last; ``drain_remaining_s`` is set while it drains.
    ``drained`` says that it drains, holds nothing any more, and waits for the other members of its gang;
    ``rendezvous_port`` is what it keeps free for its gang, if it is the leader of one, else 0; ``gang_epoch`` is that of
    the roster that it acts on, 0 before the first; ``snapshot_failure`` is why an actor could not save its state last,
    and ``reconfigure_failure`` why user code did not take its last ``user_config``, though it serves on.
    """

    phase: ReplicaPhase
    address: str = ""
    load: Load = _NO_LOAD
    methods: tuple[Method, ...] = ()
    services: tuple[UserService, ...] = ()
    file_descriptor_set: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    healthy: bool = True
    is_ready: bool = True
    environment: Environment | None = None
    drain_remaining_s: float | None = None
    drained: bool = False
    rendezvous_port: int = 0
    gang_epoch: int = 0
    snapshot_failure: Failure | None = None
    reconfigure_failure: Failure | None = None
