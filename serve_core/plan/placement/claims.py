"""What a gang that waits for room holds a claim to: the nodes on which the least is missing for it."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import islice

from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.model.placement import GangRequest
from serve_core.plan.placement.index import Accounts, NearIndex, RoomIndex
from serve_core.plan.placement.missing import held_back, missing
from serve_core.plan.placement.request import Need

Claim = Mapping[NodeId, int]
"""For how many members which nodes are waited for."""


def choose(request: GangRequest, accounts: Accounts, near: NearIndex, empty: RoomIndex) -> Claim:
    """Where a gang waits: the least is missing there for all of it, by the ids of nodes where several are as near. Nowhere, if
    there were no room for it even if nothing were placed.

    Nothing that is placed beside what is held back there makes more missing: what it takes elsewhere makes other nodes farther.
    """
    size = request.size
    match request.strategy:
        case Strategy.STRICT_PACK:
            return {node_id: size for _, node_id in near.nearest()[:1]}
        case Strategy.STRICT_SPREAD:
            nodes = [node_id for _, node_id in islice(near.nearest(), size)]
            return dict.fromkeys(nodes, 1) if len(nodes) == size else {}
        case _:
            return _one_by_one(request, accounts, near, empty) if empty.room >= size else {}


def hold(claim: Claim, need: Need, accounts: Accounts) -> Accounts:
    """What is left for others."""
    return accounts.changed({node_id: held_back(accounts[node_id], need, count) for node_id, count in claim.items()})


def missing_in(claim: Claim, need: Need, accounts: Accounts) -> int:
    """What is missing on all nodes of a claim."""
    return sum(missing(accounts[node_id], need, count) for node_id, count in claim.items())


def members_at_once(request: GangRequest) -> int:
    """For how many members a node is looked at for a claim."""
    return request.size if request.strategy is Strategy.STRICT_PACK else 1


def _one_by_one(request: GangRequest, accounts: Accounts, near: NearIndex, empty: RoomIndex) -> Claim:
    """Each member where the least more is missing for one more. On one node, each further one lacks no less than the last, so
    that is the least for all together.
    """
    need = Need.of(request)
    counts: dict[NodeId, int] = {}
    opened: list[tuple[int, NodeId]] = []
    unopened = iter(near.nearest())
    following = next(unopened, None)
    for _ in range(request.size):
        if following is not None and (not opened or following < opened[0]):
            _, node_id = following
            following = next(unopened, None)
        else:
            _, node_id = heappop(opened)
        count = counts[node_id] = counts.get(node_id, 0) + 1
        if empty.on(node_id) > count:
            account = accounts[node_id]
            more = missing(account, need, count + 1) - missing(account, need, count)
            heappush(opened, (more, node_id))
    return counts
