"""Gangs that are to be replaced elsewhere, because a node on which a member of them runs is being drained.

They go as gangs of an old revision do: once others take their place, or as far as ``max_unavailable`` allows; whichever change of
revision is under way, or held. Only past the node's deadline they go without a replacement.
"""

from __future__ import annotations

from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord


def is_moving(draft: Draft, gang: GangRecord) -> bool:
    """Whether a gang is to be replaced on other nodes."""
    return bool(draft.draining) and any(member.node_id in draft.draining for member in gang.members)


def is_overdue(draft: Draft, gang: GangRecord) -> bool:
    """Whether a gang's time to be replaced before it goes is over. Wakes the planner when it will be."""
    nodes = [draft.draining[member.node_id] for member in gang.members if member.node_id in draft.draining]
    deadlines = [node.deadline for node in nodes if node.deadline is not None]
    if not deadlines:
        return False
    draft.wake_at(min(deadlines))
    return draft.now >= min(deadlines)
