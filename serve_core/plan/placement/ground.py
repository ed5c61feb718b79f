"""What a capacity and all its forks share: the nodes, and indexes of them, which are brought up to date when they are used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Generic, NamedTuple, TypeVar

from serve_core.model.ids import NodeId
from serve_core.model.placement import GangRequest
from serve_core.plan.observed import NodeObserved
from serve_core.plan.persistent import PersistentMap
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.claims import members_at_once
from serve_core.plan.placement.index import NO_TURNS, Accounts, NearIndex, NodeIndex, RoomIndex, Turns
from serve_core.plan.placement.request import Need

INDEXES_MAX = 64
"""Indexes of each kind that are kept: those that were used last."""

S = TypeVar("S")
I = TypeVar("I", bound=NodeIndex)  # noqa: E741 - of an index


class Ground:
    """The nodes that there are, by id, and what each offers while it holds nothing."""

    def __init__(self, nodes: Iterable[NodeObserved], draining: Collection[NodeId]) -> None:
        accounts = {node.node_id: Account.of(node, is_open=node.node_id not in draining) for node in nodes}
        self.ids = tuple(sorted(accounts))
        self.empty: Accounts = PersistentMap(accounts)
        self._room: _Kept[_Shape, RoomIndex] = _Kept()
        self._near: _Kept[_Shape, NearIndex] = _Kept()

    def room(self, accounts: Accounts, request: GangRequest, turns: Turns) -> RoomIndex:
        """Where there is room, by these accounts."""
        shape = _Shape(Need.of(request), request.size, turns)
        return self._room.get(shape, accounts, lambda: RoomIndex(shape.need, most=shape.size, turns=turns))

    def room_when_empty(self, request: GangRequest) -> RoomIndex:
        """Where there were room if nothing were placed."""
        return self._room_of("empty", self.empty, request)

    def room_beside(self, accounts: Accounts, request: GangRequest) -> RoomIndex:
        """Where there is room by accounts of nearly empty nodes."""
        return self._room_of("beside", accounts, request)

    def _room_of(self, what: str, accounts: Accounts, request: GangRequest) -> RoomIndex:
        shape = _Shape(Need.of(request), request.size, NO_TURNS, what)
        return self._room.get(shape, accounts, lambda: RoomIndex(shape.need, most=shape.size, turns=NO_TURNS))

    def nearest(self, accounts: Accounts, request: GangRequest) -> tuple[NearIndex, RoomIndex]:
        """Where the least is missing, by these accounts; and where there were room if nothing were placed."""
        empty = self.room_when_empty(request)
        shape = _Shape(Need.of(request), request.size, NO_TURNS, at_once=members_at_once(request))
        near = self._near.get(shape, accounts, lambda: NearIndex(shape.need, count=shape.at_once, empty=empty))
        return near, empty


class _Shape(NamedTuple):
    """What an index is of. ``what`` keeps apart those of accounts that differ in much."""

    need: Need
    size: int
    turns: Turns
    what: str = ""
    at_once: int = 1


class _Kept(Generic[S, I]):
    """Indexes by what they are of; those that were not used for long are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[S, I] = OrderedDict()

    def get(self, shape: S, accounts: Accounts, make: Callable[[], I]) -> I:
        """The index, up to date."""
        index = self._kept.get(shape)
        if index is None:
            index = self._kept[shape] = make()
            if len(self._kept) > INDEXES_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shape)
        index.update(accounts)
        return index
