"""How the members of a gang belong together, and who is in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from serve_core.model.ids import GangId, NodeId, ReplicaId

LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""The environment variables that launchers of distributed programs agree on."""


class Strategy(StrEnum):
    """How the members of a gang are laid out over nodes."""

    PACK = "PACK"
    """On as few nodes as there is room on."""
    SPREAD = "SPREAD"
    """On as many nodes as there is room on."""
    STRICT_PACK = "STRICT_PACK"
    """All on one node, or not at all."""
    STRICT_SPREAD = "STRICT_SPREAD"
    """Each on a node of its own, or not at all."""


class OnMemberFailure(StrEnum):
    """What becomes of a gang that loses a member after it was ready."""

    RESTART_GANG = "RESTART_GANG"
    """The other members finish what they can; the whole gang is replaced."""
    RESTART_REPLICA = "RESTART_REPLICA"
    """The member alone is started again, in its rank, under the gang's next epoch."""


class GangRoute(StrEnum):
    """Which members of a gang take the requests of callers."""

    ALL = "ALL"
    LEADER = "LEADER"
    """Rank 0 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangPolicy:
    """How replicas belong together. A replica that needs no others is a gang of one.

    Attributes:
        size: Members of a gang; ``num_replicas`` is a multiple of it.
        placement: How they are laid out over nodes.
        on_member_failure: What becomes of a gang that loses a member.
        start_deadline_s: Seconds from the placement to every member being ready; None: the deployment's.
        max_restarts: Restarts in a row, without a calm time between, before a gang is given up.
        route: Which members take requests.
        roles: A name for each rank; empty, or one for each.
        abort_in_flight: Whether the other members of a gang that failed are ended at once, with what runs in them.
    """

    size: int = 1
    placement: Strategy = Strategy.PACK
    on_member_failure: OnMemberFailure = OnMemberFailure.RESTART_GANG
    start_deadline_s: float | None = None
    max_restarts: int = 10
    route: GangRoute = GangRoute.ALL
    roles: tuple[str, ...] = ()
    abort_in_flight: bool = False

    def role(self, rank: int) -> str:
        """What this rank is called; empty if ranks have no names."""
        return self.roles[rank] if rank < len(self.roles) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangMember:
    """One member of a gang, and where the others reach it. See ``serve_core.v1.GangMember`` for each field."""

    replica_id: ReplicaId
    rank: int
    epoch: int
    address: str
    node_id: NodeId
    role: str = ""
    local_rank: int = 0
    local_size: int = 1
    node_rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GangRoster:
    """Who is in a gang, once every member listens; ``members`` are by rank, the leader first.

    ``rendezvous_host`` and ``rendezvous_port`` are where the leader may listen for the others: the port is kept free for
    the gang. Of two rosters of a gang, the one with the higher epoch holds.
    """

    gang_id: GangId
    epoch: int
    members: tuple[GangMember, ...]
    rendezvous_host: str = ""
    rendezvous_port: int = 0

    @property
    def leader(self) -> GangMember:
        """The member of rank 0."""
        return self.members[0]

    def environment(self, rank: int) -> Mapping[str, str]:
        """The variables that launchers of distributed programs agree on, for the member of this rank.

        See https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
        """
        member = self.members[rank]
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(self.members)),
            "LOCAL_RANK": str(member.local_rank),
            "LOCAL_WORLD_SIZE": str(member.local_size),
            "GROUP_RANK": str(member.node_rank),
            "MASTER_ADDR": self.rendezvous_host,
            "MASTER_PORT": str(self.rendezvous_port),
        }
