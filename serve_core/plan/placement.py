"""Where a gang goes: exact accounting, whole gangs or none.

Amounts are counted in ten-thousandths, so that sums of fractions are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.plan.lifecycle import STARTING
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import Bundle, GangRecord, GpuShare

UNITS = 10_000
"""Units of 1 CPU, 1 GPU or 1 of a custom resource."""


def units(amount: float) -> int:
    """An amount in ten-thousandths."""
    return round(amount * UNITS)


def is_countable(amount: float) -> bool:
    """Whether an amount is a whole number of ten-thousandths, not below zero."""
    return 0 <= amount < 1e12 and abs(amount * UNITS - units(amount)) < 1e-3


@dataclass(slots=True)
class _Free:
    """What is free on one node. May be below zero if the node offers less than it did."""

    node_id: NodeId
    cpus: int
    gpus: list[int]
    memory_bytes: int
    custom: dict[str, int]
    starts: int = 0

    @classmethod
    def of(cls, node: NodeObserved) -> _Free:
        return cls(
            node_id=node.node_id,
            cpus=units(node.total.cpus),
            gpus=[UNITS] * int(node.total.gpus),
            memory_bytes=node.total.memory_bytes,
            custom={name: units(amount) for name, amount in node.total.custom.items()},
        )

    def copy(self) -> _Free:
        return _Free(self.node_id, self.cpus, list(self.gpus), self.memory_bytes, dict(self.custom), self.starts)

    def choose_gpus(self, amount: float) -> tuple[GpuShare, ...] | None:
        """The GPUs for an amount, or None. A fraction goes where it fits most tightly."""
        wanted = units(amount)
        if wanted == 0:
            return ()
        if wanted < UNITS:
            fitting = [(free, index) for index, free in enumerate(self.gpus) if free >= wanted]
            return (GpuShare(min(fitting)[1], amount),) if fitting else None
        whole = [index for index, free in enumerate(self.gpus) if free == UNITS]
        count = wanted // UNITS
        return tuple(GpuShare(index, 1.0) for index in whole[:count]) if len(whole) >= count else None

    def take(self, bundle: Bundle) -> None:
        self._add(bundle, -1)

    def give_back(self, bundle: Bundle) -> None:
        self._add(bundle, 1)

    def _add(self, bundle: Bundle, sign: int) -> None:
        self.cpus += sign * units(bundle.resources.cpus)
        self.memory_bytes += sign * bundle.resources.memory_bytes
        for name, amount in bundle.resources.custom.items():
            self.custom[name] = self.custom.get(name, 0) + sign * units(amount)
        for share in bundle.gpus:
            if share.index < len(self.gpus):
                self.gpus[share.index] += sign * units(share.amount)

    def try_take(self, resources: Resources) -> Bundle | None:
        gpus = self.choose_gpus(resources.gpus)
        if gpus is None or self.missing(resources):
            return None
        bundle = Bundle(node_id=self.node_id, resources=resources, gpus=gpus)
        self.take(bundle)
        return bundle

    def missing(self, resources: Resources) -> list[str]:
        """What this node has too little of, in words."""
        lacks = []
        if units(resources.cpus) > max(self.cpus, 0):
            lacks.append(f"{resources.cpus:g} CPUs ({max(self.cpus, 0) / UNITS:g} free)")
        if self.choose_gpus(resources.gpus) is None:
            lacks.append(f"{resources.gpus:g} GPUs ({sum(max(free, 0) for free in self.gpus) / UNITS:g} free)")
        if resources.memory_bytes > max(self.memory_bytes, 0):
            lacks.append(f"{resources.memory_bytes} bytes of memory ({max(self.memory_bytes, 0)} free)")
        lacks += [
            f"{amount:g} {name} ({max(self.custom.get(name, 0), 0) / UNITS:g} free)"
            for name, amount in sorted(resources.custom.items())
            if units(amount) > max(self.custom.get(name, 0), 0)
        ]
        return lacks


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a gang cannot be placed.

    Attributes:
        message: What is missing.
        feasible: Whether there were room if nothing else were placed.
        turn: Whether there is room, but too many start on its nodes at once.
    """

    message: str
    feasible: bool
    turn: bool = False


class Capacity:
    """What is free on all nodes. A working copy: placing a gang takes from it."""

    def __init__(self, nodes: Iterable[NodeObserved], gangs: Iterable[GangRecord]) -> None:
        """Counts the placements of ``gangs``, which are those of all deployments, off what ``nodes`` offer."""
        self._nodes = tuple(nodes)
        self._free: dict[NodeId, _Free] = {node.node_id: _Free.of(node) for node in self._nodes}
        self._owned = set(self._free)
        for gang in gangs:
            self.change(None, gang)

    def change(self, before: GangRecord | None, after: GangRecord | None) -> None:
        """A gang's record is another now, or is new, or is gone."""
        for member in before.members if before is not None else ():
            if before is not None and member.node_id in self._free:
                own = self._own(member.node_id)
                own.give_back(member.bundle)
                own.starts -= before.phase in STARTING
        for member in after.members if after is not None else ():
            if after is not None and member.node_id in self._free:
                own = self._own(member.node_id)
                own.take(member.bundle)
                own.starts += after.phase in STARTING

    def fork(self) -> Capacity:
        """One like this, to be used up on its own. Costs nothing for what is not placed on."""
        forked = Capacity((), ())
        forked._nodes, forked._free = self._nodes, dict(self._free)
        forked._owned, self._owned = set(), set()
        return forked

    def _own(self, node_id: NodeId) -> _Free:
        """A node's account that no fork shares."""
        if node_id not in self._owned:
            self._owned.add(node_id)
            self._free[node_id] = self._free[node_id].copy()
        return self._free[node_id]

    def place(self, resources: Resources, *, size: int, starts_per_node: int = 0) -> tuple[Bundle, ...] | Shortage:
        """Bundles for ``size`` members, by rank, on as few nodes as can be, the emptiest first; or why not.

        No node gets so many that more than ``starts_per_node`` start on it at once; 0 means no limit.
        """
        placed = _place(self._free, resources, size=size, starts_per_node=starts_per_node)
        if placed is not None:
            for bundle in placed:
                own = self._own(bundle.node_id)
                own.take(bundle)
                own.starts += 1
            return placed
        if starts_per_node and _place(self._free, resources, size=size) is not None:
            message = f"{starts_per_node} replicas start at once on each node that has room, the most that may"
            return Shortage(message, feasible=True, turn=True)
        empty = {node.node_id: _Free.of(node) for node in self._nodes}
        return Shortage(self._explain(resources, size=size), feasible=_place(empty, resources, size=size) is not None)

    def _explain(self, resources: Resources, *, size: int) -> str:
        if not self._nodes:
            return "there is no node"
        lacks = [
            f"{node_id} lacks {', '.join(missing)}"
            for node_id, free in sorted(self._free.items())
            if (missing := free.missing(resources))
        ]
        return "; ".join(lacks) if lacks else f"no nodes have room for all {size} members at once"


def is_feasible(nodes: Iterable[NodeObserved], resources: Resources, *, size: int) -> bool:
    """Whether a gang could be placed if nothing else were."""
    return _place({node.node_id: _Free.of(node) for node in nodes}, resources, size=size) is not None


def used(node_id: NodeId, gangs: Iterable[GangRecord]) -> Resources:
    """What the placements of ``gangs`` hold on a node."""
    bundles = [member.bundle for gang in gangs for member in gang.members if member.node_id == node_id]
    custom: dict[str, int] = {}
    for bundle in bundles:
        for name, amount in bundle.resources.custom.items():
            custom[name] = custom.get(name, 0) + units(amount)
    return Resources(
        cpus=sum(units(bundle.resources.cpus) for bundle in bundles) / UNITS,
        gpus=sum(units(share.amount) for bundle in bundles for share in bundle.gpus) / UNITS,
        memory_bytes=sum(bundle.resources.memory_bytes for bundle in bundles),
        custom={name: amount / UNITS for name, amount in sorted(custom.items())},
    )


def _place(
    free: Mapping[NodeId, _Free], resources: Resources, *, size: int, starts_per_node: int = 0
) -> tuple[Bundle, ...] | None:
    """Members of a gang ask for the same, so filling the nodes that hold the most first uses the fewest."""
    offers = [
        _fill(node.copy(), resources, limit=min(size, starts_per_node - node.starts) if starts_per_node else size)
        for node in free.values()
    ]
    offers.sort(key=lambda offer: (-len(offer[1]), -offer[0].cpus, -sum(offer[0].gpus), offer[0].node_id))
    bundles = [bundle for _, offered in offers for bundle in offered]
    return tuple(bundles[:size]) if len(bundles) >= size else None


def _fill(node: _Free, resources: Resources, *, limit: int) -> tuple[_Free, Sequence[Bundle]]:
    bundles: list[Bundle] = []
    while len(bundles) < limit and (bundle := node.try_take(resources)) is not None:
        bundles.append(bundle)
    return node, bundles
