"""Where a gang goes: exact accounting, whole gangs or none.

What is free on each node is an account; how many members of a request each account holds is kept in an index, so that placing
costs what changed since, and not the nodes there are. Who waits longest for room has a claim to the nodes that are nearest to
having it; others are offered what is left.
"""

from __future__ import annotations

from serve_core.model.placement import GangRequest
from serve_core.plan.amounts import UNITS, total, units
from serve_core.plan.placement.capacity import Capacity, bundles_by_node, is_feasible, used
from serve_core.plan.placement.request import MemberPlacement, Shortage
from serve_core.plan.placement.waiters import Waiters

__all__ = (
    "UNITS",
    "Capacity",
    "GangRequest",
    "MemberPlacement",
    "Shortage",
    "Waiters",
    "bundles_by_node",
    "is_feasible",
    "total",
    "units",
    "used",
)
