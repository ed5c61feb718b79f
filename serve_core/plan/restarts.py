"""How often the gangs of one place may be lost in a row before it is given up."""

from __future__ import annotations

from serve_core.model.gang import GangPolicy
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.policy import Policy
from serve_core.plan.records import GangRecord


def restarts_in_a_row(gang: GangRecord, policy: Policy, *, now: float) -> int:
    """The restarts in the place of a gang that ends now: none any more if it was ready for a calm time."""
    is_calm = gang.phase is ReplicaPhase.READY and now - gang.phase_since >= policy.stable_after_s
    return 0 if is_calm else gang.restarts_in_a_row


def has_restarts_left(policy: GangPolicy, in_a_row: int) -> bool:
    """Whether one more restart may follow, the last of so many in a row.

    Replicas that need no others are never given up once they ran: each is tried again, after ever longer pauses.
    """
    return policy.size == 1 or in_a_row <= policy.max_restarts
