"""Nodes in the order in which a request takes them: kept, and brought up to date by what changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from serve_core.model.ids import NodeId
from serve_core.plan.persistent import PersistentMap, differences
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.missing import missing
from serve_core.plan.placement.request import Need

Accounts = PersistentMap[NodeId, Account]


class Turns(NamedTuple):
    """How many members may start on a node at once; 0 means no limit.

    Members of a gang start together: with ``idle_takes_all``, a node on which nothing starts takes as many as it holds.
    """

    limit: int = 0
    idle_takes_all: bool = False

    def most(self, starts: int, count: int) -> int:
        """How many of ``count`` members may start where so many do already."""
        if not self.limit or (self.idle_takes_all and not starts):
            return count
        return min(count, max(self.limit - starts, 0))


NO_TURNS = Turns()


class NodeIndex(ABC):
    """What is derived of each node's account on its own."""

    def __init__(self) -> None:
        self._accounts: Accounts = PersistentMap()

    def update(self, accounts: Accounts) -> None:
        """Makes it one of these accounts. Costs what differs from those that it was of."""
        for change in differences(self._accounts, accounts):
            self._drop(change.key)
            if change.after is not None:
                self._enter(change.after)
        self._accounts = accounts

    @abstractmethod
    def _enter(self, account: Account) -> None:
        """A node that is not in it is as this says."""

    @abstractmethod
    def _drop(self, node_id: NodeId) -> None:
        """A node is not in it any more, if it was."""


class _Entry(NamedTuple):
    """A node among those that hold as many; the emptiest is the least."""

    cpus: int
    gpus: int
    node_id: NodeId


class RoomIndex(NodeIndex):
    """The nodes by how many members of a gang they hold, and among those by how empty they are.

    Args:
        need: What each member needs.
        most: Members of a gang: what a node holds beyond that is not counted.
        turns: How many may start on a node at once.
    """

    def __init__(self, need: Need, *, most: int, turns: Turns) -> None:
        super().__init__()
        self._need = need
        self._most = most
        self._turns = turns
        self._places: dict[NodeId, tuple[int, _Entry]] = {}
        self._by_room: dict[int, list[_Entry]] = {}
        self.room = 0

    def _enter(self, account: Account) -> None:
        room = account.fits(self._need, most=self._most)
        room = self._turns.most(account.starts, room)
        if room <= 0:
            return
        entry = _Entry(-account.cpus, -sum(account.gpus), account.node_id)
        self._places[account.node_id] = (room, entry)
        insort(self._by_room.setdefault(room, []), entry)
        self.room += room

    def _drop(self, node_id: NodeId) -> None:
        room, entry = self._places.pop(node_id, (0, None))
        if entry is None:
            return
        entries = self._by_room[room]
        del entries[bisect_left(entries, entry)]
        if not entries:
            del self._by_room[room]
        self.room -= room

    @property
    def node_count(self) -> int:
        """Nodes that hold at least one."""
        return len(self._places)

    @property
    def most_on_one(self) -> int:
        """What the node holds that holds the most."""
        return max(self._by_room, default=0)

    def on(self, node_id: NodeId) -> int:
        """How many a node holds."""
        return self._places.get(node_id, (0, None))[0]

    def levels(self) -> list[int]:
        """How many members nodes hold, each number once, the most first."""
        return sorted(self._by_room, reverse=True)

    def at(self, room: int) -> Sequence[_Entry]:
        """The nodes that hold so many, the emptiest first."""
        return self._by_room[room]

    def emptiest(self) -> Iterator[tuple[NodeId, int]]:
        """All nodes that hold any, and how many, the emptiest first."""
        for entry in merge(*self._by_room.values()):
            yield entry.node_id, self._places[entry.node_id][0]


class NearIndex(NodeIndex):
    """The nodes by how little is missing on them for so many members; those that could never hold them are not in it.

    Args:
        need: What each member needs.
        count: Members.
        empty: How much room nodes have that hold nothing.
    """

    def __init__(self, need: Need, *, count: int, empty: RoomIndex) -> None:
        super().__init__()
        self._need = need
        self._count = count
        self._empty = empty
        self._missing: dict[NodeId, int] = {}
        self._nearest: list[tuple[int, NodeId]] = []

    def _enter(self, account: Account) -> None:
        if self._empty.on(account.node_id) < self._count:
            return
        amount = missing(account, self._need, self._count)
        self._missing[account.node_id] = amount
        insort(self._nearest, (amount, account.node_id))

    def _drop(self, node_id: NodeId) -> None:
        amount = self._missing.pop(node_id, None)
        if amount is not None:
            del self._nearest[bisect_left(self._nearest, (amount, node_id))]

    def nearest(self) -> Sequence[tuple[int, NodeId]]:
        """How much is missing, and where: the least first."""
        return self._nearest
