"""Why there is no room, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_core.model.gang import Strategy
from serve_core.model.ids import DeploymentKey, NodeId
from serve_core.model.placement import GangRequest
from serve_core.model.resources import describe
from serve_core.plan.amounts import total
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.index import RoomIndex
from serve_core.plan.placement.request import Need

NODES_MAX = 3
"""Nodes that are named; what is more is counted."""


def explain(
    request: GangRequest,
    accounts: Mapping[NodeId, Account],
    ids: Sequence[NodeId],
    *,
    free: RoomIndex,
    empty: RoomIndex,
) -> str:
    """What is missing for a request.

    Args:
        request: What was asked for.
        accounts: What is free on each node.
        ids: The nodes, by id.
        free: How much of the request there is room for now.
        empty: The same, if nothing else were placed.
    """
    if not ids:
        return "there is no node"
    excluded = _excluded(request, accounts, ids)
    if excluded:
        return excluded
    return _single(request, accounts, ids) if request.size == 1 else _gang(request, free, empty)


def explain_claims(claimants: Sequence[DeploymentKey]) -> str:
    """That there is room, but not for this one."""
    return f"what is free is held for who has waited longer: {_named([str(key) for key in claimants])}"


def _excluded(request: GangRequest, accounts: Mapping[NodeId, Account], ids: Sequence[NodeId]) -> str:
    """Why no node may be used, if so."""
    need = Need.of(request)
    if any(accounts[node_id].admits(need) for node_id in ids):
        return ""
    labels = ", ".join(f"{name}={value}" for name, value in need.labels)
    draining = [node_id for node_id in ids if not accounts[node_id].is_open]
    if not labels:
        return f"every node is being drained: {_named(draining)}"
    return f"no node has the labels {labels}" + (f", or it is being drained: {_named(draining)}" if draining else "")


def _single(request: GangRequest, accounts: Mapping[NodeId, Account], ids: Sequence[NodeId]) -> str:
    need = Need.of(request)
    admitting = [node_id for node_id in ids if accounts[node_id].admits(need)]
    lacks = [
        f"{node_id} lacks {', '.join(accounts[node_id].lacks(need)) or 'that much at once'}"
        for node_id in admitting[:NODES_MAX]
    ]
    more = len(admitting) - NODES_MAX
    return "; ".join(lacks) + (f"; and {more} more nodes lack something" if more > 0 else "")


def _gang(request: GangRequest, free: RoomIndex, empty: RoomIndex) -> str:
    asked = f"needs {request.size} x {describe(total(request.parts))}"
    match request.strategy:
        case Strategy.STRICT_SPREAD:
            now, ever = free.node_count, empty.node_count
            return f"{asked} on distinct nodes, {_have(now, ever, request.size)}"
        case Strategy.STRICT_PACK:
            now, ever = free.most_on_one, empty.most_on_one
            return f"{asked} on one node, the most on one is {_count(now, ever, request.size)}"
        case _:
            return f"{asked}, there is room for {_count(free.room, empty.room, request.size)}"


def _have(now: int, ever: int, size: int) -> str:
    if ever < size:
        return f"{ever} {'has' if ever == 1 else 'have'} one"
    return f"{now} {'has' if now == 1 else 'have'} one free"


def _count(now: int, ever: int, size: int) -> str:
    return f"{ever}, even if nothing else ran" if ever < size else f"{now} now"


def _named(names: Sequence[str]) -> str:
    more = len(names) - NODES_MAX
    return ", ".join(names[:NODES_MAX]) + (f" and {more} more" if more > 0 else "")
