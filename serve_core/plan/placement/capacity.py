"""What is free on all nodes, and the placing of whole gangs on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.plan.lifecycle import STARTING
from serve_core.plan.observed import NodeObserved
from serve_core.plan.persistent import PersistentMap
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.amounts import total
from serve_core.plan.placement.index import NO_TURNS, Accounts, RoomIndex, Turns
from serve_core.plan.placement.layout import Layout, lay_out
from serve_core.plan.placement.request import GangRequest, MemberPlacement, Need, Shortage
from serve_core.plan.placement.shortage import explain
from serve_core.plan.records import Bundle, GangRecord

INDEXES_MAX = 64
"""Requests of which is kept where there is room for them: those that were asked for last."""


class Capacity:
    """What is free on all nodes. A working copy: placing a gang takes from it."""

    def __init__(
        self, nodes: Iterable[NodeObserved], gangs: Iterable[GangRecord], *, draining: Collection[NodeId] = ()
    ) -> None:
        """Counts the placements of ``gangs``, which are those of all deployments, off what ``nodes`` offer.

        Nothing is placed on nodes that are ``draining``.
        """
        self._ground = _Ground(nodes, draining)
        self._accounts = self._ground.empty
        for gang in gangs:
            self.change(None, gang)

    def change(self, before: GangRecord | None, after: GangRecord | None) -> None:
        """A gang's record is another now, or is new, or is gone."""
        changed: dict[NodeId, Account] = {}
        for gang, sign in ((before, 1), (after, -1)):
            if gang is None:
                continue
            for member in gang.members:
                account = changed.get(member.node_id) or self._accounts.get(member.node_id)
                if account is None:
                    continue
                for bundle in member.all_bundles:
                    account = account.booked(bundle, sign=sign)
                changed[member.node_id] = account.with_starts(-sign * (gang.phase in STARTING))
        self._accounts = self._accounts.changed(changed)

    def fork(self) -> Capacity:
        """One like this, to be used up on its own. Costs nothing for what is not placed on."""
        forked = Capacity.__new__(Capacity)
        forked._ground, forked._accounts = self._ground, self._accounts
        return forked

    def place(self, request: GangRequest, *, starts_per_node: int = 0) -> tuple[MemberPlacement, ...] | Shortage:
        """Where each member goes, by rank, members of one node next to each other; or why there is no room for all.

        No node gets so many that more than ``starts_per_node`` start on it at once; 0 means no limit. Only a gang that needs
        to may start more than that together, on a node on which nothing else starts.
        """
        need = request.need
        for turns in _turns(request, starts_per_node):
            layout = self._lay_out(request, need, turns)
            if layout is not None:
                return self._take(request, layout)
        if starts_per_node and self._lay_out(request, need, NO_TURNS) is not None:
            message = f"{starts_per_node} replicas start at once on each node that has room, the most that may"
            return Shortage(message, feasible=True, turn=True)
        return self._shortage(request, need)

    def _lay_out(self, request: GangRequest, need: Need, turns: Turns) -> Layout | None:
        index = self._ground.index(self._accounts, need, size=request.size, turns=turns)
        return lay_out(index, request.strategy, size=request.size)

    def _take(self, request: GangRequest, layout: Layout) -> tuple[MemberPlacement, ...]:
        parts = (request.resources, *request.bundles)
        placed: list[MemberPlacement] = []
        changed: dict[NodeId, Account] = {}
        for node_id, count in layout:
            account = self._accounts[node_id]
            for _ in range(count):
                account, member = account.place(parts)
                placed.append(member)
            changed[node_id] = account.with_starts(count)
        self._accounts = self._accounts.changed(changed)
        return tuple(placed)

    def _shortage(self, request: GangRequest, need: Need) -> Shortage:
        ground, size = self._ground, request.size
        empty = ground.index_of_empty(need, size=size)
        free = ground.index(self._accounts, need, size=size, turns=NO_TURNS)
        return Shortage(
            explain(request, self._accounts, ground.ids, free=free, empty=empty),
            feasible=lay_out(empty, request.strategy, size=size) is not None,
        )


class _Shape(NamedTuple):
    """What an index is of."""

    need: Need
    size: int
    turns: Turns
    is_empty: bool


class _Ground:
    """What a capacity and its forks share: the nodes, and indexes, which are brought up to date when they are used."""

    def __init__(self, nodes: Iterable[NodeObserved], draining: Collection[NodeId]) -> None:
        accounts = {node.node_id: Account.of(node, is_open=node.node_id not in draining) for node in nodes}
        self.ids = tuple(sorted(accounts))
        self.empty: Accounts = PersistentMap(accounts)
        self._indexes: OrderedDict[_Shape, RoomIndex] = OrderedDict()

    def index(self, accounts: Accounts, need: Need, *, size: int, turns: Turns) -> RoomIndex:
        """Where there is room, by these accounts."""
        return self._index(accounts, _Shape(need, size, turns, is_empty=False))

    def index_of_empty(self, need: Need, *, size: int) -> RoomIndex:
        """Where there were room if nothing were placed."""
        return self._index(self.empty, _Shape(need, size, NO_TURNS, is_empty=True))

    def _index(self, accounts: Accounts, shape: _Shape) -> RoomIndex:
        index = self._indexes.get(shape)
        if index is None:
            index = self._indexes[shape] = RoomIndex(shape.need, most=shape.size, turns=shape.turns)
            if len(self._indexes) > INDEXES_MAX:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(shape)
        index.update(accounts)
        return index


def is_feasible(nodes: Iterable[NodeObserved], request: GangRequest, *, draining: Collection[NodeId] = ()) -> bool:
    """Whether a gang could be placed if nothing else were."""
    return not isinstance(Capacity(nodes, (), draining=draining).place(request), Shortage)


def bundles_by_node(gangs: Iterable[GangRecord]) -> Mapping[NodeId, Sequence[Bundle]]:
    """What the placements of ``gangs`` hold on each node."""
    held: dict[NodeId, list[Bundle]] = {}
    for gang in gangs:
        for bundle in gang.bundles:
            held.setdefault(bundle.node_id, []).append(bundle)
    return held


def used(node_id: NodeId, gangs: Iterable[GangRecord]) -> Resources:
    """What the placements of ``gangs`` hold on a node."""
    return total(bundle.resources for bundle in bundles_by_node(gangs).get(node_id, ()))


def _turns(request: GangRequest, starts_per_node: int) -> tuple[Turns, ...]:
    if not starts_per_node or request.size == 1:
        return (Turns(starts_per_node),)
    return (Turns(starts_per_node), Turns(starts_per_node, idle_takes_all=True))
