"""Where a gang goes: exact accounting, whole gangs or none.

Amounts are counted in ten-thousandths, so that sums of fractions are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serve_core.model.ids import NodeId
from serve_core.model.spec import Resources
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
        return _Free(self.node_id, self.cpus, list(self.gpus), self.memory_bytes, dict(self.custom))

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
        self.cpus -= units(bundle.resources.cpus)
        self.memory_bytes -= bundle.resources.memory_bytes
        for name, amount in bundle.resources.custom.items():
            self.custom[name] = self.custom.get(name, 0) - units(amount)
        for share in bundle.gpus:
            if share.index < len(self.gpus):
                self.gpus[share.index] -= units(share.amount)

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
    """Why a gang cannot be placed. ``feasible`` says whether it could be if nothing else were placed."""

    message: str
    feasible: bool


class Capacity:
    """What is free on all nodes. A working copy: placing a gang takes from it."""

    def __init__(self, nodes: Iterable[NodeObserved], gangs: Iterable[GangRecord]) -> None:
        """Counts the placements of ``gangs``, which are those of all deployments, off what ``nodes`` offer."""
        self._nodes = tuple(nodes)
        self._free: dict[NodeId, _Free] = {node.node_id: _Free.of(node) for node in self._nodes}
        for gang in gangs:
            for member in gang.members:
                if member.node_id in self._free:
                    self._free[member.node_id].take(member.bundle)

    def place(self, resources: Resources, *, size: int) -> tuple[Bundle, ...] | Shortage:
        """Bundles for ``size`` members, by rank, on as few nodes as can be, the emptiest first; or why not."""
        placed = _place(self._free, resources, size=size)
        if placed is not None:
            for bundle in placed:
                self._free[bundle.node_id].take(bundle)
            return placed
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


def _place(free: Mapping[NodeId, _Free], resources: Resources, *, size: int) -> tuple[Bundle, ...] | None:
    """Members of a gang ask for the same, so filling the nodes that hold the most first uses the fewest."""
    offers = [_fill(node.copy(), resources, limit=size) for node in free.values()]
    offers.sort(key=lambda offer: (-len(offer[1]), -offer[0].cpus, -sum(offer[0].gpus), offer[0].node_id))
    bundles = [bundle for _, offered in offers for bundle in offered]
    return tuple(bundles[:size]) if len(bundles) >= size else None


def _fill(node: _Free, resources: Resources, *, limit: int) -> tuple[_Free, Sequence[Bundle]]:
    bundles: list[Bundle] = []
    while len(bundles) < limit and (bundle := node.try_take(resources)) is not None:
        bundles.append(bundle)
    return node, bundles
