"""What the controller is to do in the world, once the plan's records are saved.

Every action is idempotent by ``action_id``: done twice is done once. The executor runs the actions of one gang in the order
in which they were planned, and skips one whose id is still under way; the planner plans it again as long as
its effect was not seen. What comes of an action is an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_core.model.actor import ActorEndpoint
from serve_core.model.gang import GangRoster
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId
from serve_core.model.replica import Replica
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.records import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservePlacement:
    """Reserve these bundles, in the order of ``GangRecord.bundles``, all or none. Ends in PlacementReserved or
    PlacementRefused.
    """

    gang_id: GangId
    key: DeploymentKey
    bundles: tuple[Bundle, ...]

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"reserve:{self.gang_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProcess:
    """Start a replica's process. Ends in ProcessStarted or StartRefused.

    ``replica`` is who it will be, without an address; ``env`` is to be added to the spec's. ``bundle_index`` says which of the
    placement's bundles ``bundle`` is; so many ``child_bundles`` behind it are for child processes of its own. With ``is_actor``, it is to run an actor.
    """

    gang_id: GangId
    replica: Replica
    spec: DeploymentSpec
    bundle: Bundle
    bundle_index: int
    child_bundles: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    is_actor: bool = False

    @property
    def replica_id(self) -> ReplicaId:
        """Which replica."""
        return self.replica.replica_id

    @property
    def epoch(self) -> int:
        """Which start of it."""
        return self.replica.epoch

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"start:{self.replica.replica_id}:{self.replica.epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReconfigure:
    """Send the settings that change in place over the open stream. Ends in Reconfigured, when sent."""

    gang_id: GangId
    replica_id: ReplicaId
    epoch: int
    spec: DeploymentSpec
    config: str

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"reconfigure:{self.replica_id}:{self.epoch}:{self.config}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendDrain:
    """Tell the replica over the open stream to drain within ``budget_s`` seconds and end. Ends in DrainSent.

    With ``hold``, it is to end only once it is told so without, or with the budget: when the others of its gang have finished.
    """

    gang_id: GangId
    replica_id: ReplicaId
    epoch: int
    budget_s: float
    hold: bool = False

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"{'hold' if self.hold else 'drain'}:{self.replica_id}:{self.epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRoster:
    """Tell the replica over the open stream who is in its gang. Ends in RosterSent, when sent; that the replica acts on it
    is in its reports."""

    gang_id: GangId
    replica_id: ReplicaId
    epoch: int
    roster: GangRoster

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"roster:{self.replica_id}:{self.epoch}:{self.roster.epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendActors:
    """Tell the replica over the open stream where its actors are, all of them. Ends in ActorsSent, when sent."""

    gang_id: GangId
    replica_id: ReplicaId
    epoch: int
    actors: tuple[ActorEndpoint, ...]

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        lives = ",".join(f"{one.name}.{one.incarnation}@{one.address}{'!' * bool(one.given_up)}" for one in self.actors)
        return f"actors:{self.replica_id}:{self.epoch}:{lives}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KillProcess:
    """End the process at once (SIGKILL), if it runs, and every trace of it. Ends in ProcessExited, also if none ran."""

    gang_id: GangId
    replica_id: ReplicaId
    epoch: int
    node_id: NodeId

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"kill:{self.replica_id}:{self.epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FreePlacement:
    """Give the gang's reservation back, if there is one. Ends in PlacementFreed, also if there was none."""

    gang_id: GangId

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"free:{self.gang_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disown:
    """Tell an attached process that nobody owns to drain and end."""

    gang_id: GangId
    replica_id: ReplicaId
    epoch: int
    message: str

    @property
    def action_id(self) -> str:
        """The id by which this is done once."""
        return f"disown:{self.replica_id}:{self.epoch}"


Action = (
    ReservePlacement
    | StartProcess
    | SendReconfigure
    | SendRoster
    | SendDrain
    | SendActors
    | KillProcess
    | FreePlacement
    | Disown
)
"""Everything that can be asked of the executor, for an exhaustive match."""
