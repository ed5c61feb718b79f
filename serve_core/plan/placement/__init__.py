"""Where a gang goes: exact accounting, whole gangs or none.

What is free on each node is an account; how many members of a request each account holds is kept in an index, so that placing
costs what changed since, and not the nodes there are.
"""

from __future__ import annotations

from serve_core.plan.placement.amounts import UNITS, is_countable, total, units
from serve_core.plan.placement.capacity import Capacity, bundles_by_node, is_feasible, used
from serve_core.plan.placement.request import GangRequest, MemberPlacement, Shortage

__all__ = (
    "UNITS",
    "Capacity",
    "GangRequest",
    "MemberPlacement",
    "Shortage",
    "bundles_by_node",
    "is_countable",
    "is_feasible",
    "total",
    "units",
    "used",
)
