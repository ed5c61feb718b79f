"""Who holds what on which node: exact, all or nothing. Plain synchronous code.

Rules: amounts are whole ten-thousandths, so that sums are exact. A bundle that asks for GPUs gets whole ones to itself,
or a share of exactly one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve_core.backend.port import BundleGrant, BundleRequest, Placement, PlacementRefused, PlacementRequest
from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources, describe
from serve_core.model.status import NodeStatus

_UNIT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOffer:
    """What a node has. ``gpu_ids`` names its GPUs for CUDA_VISIBLE_DEVICES, in order; empty means 0, 1, ..."""

    node_id: NodeId
    total: Resources
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    gpu_ids: tuple[str, ...] = ()


def _units(amount: float) -> int:
    return round(amount * _UNIT)


def _amounts(resources: Resources) -> dict[str, int]:
    """Everything but GPUs, in whole units by name."""
    amounts = {f"custom:{name}": _units(amount) for name, amount in resources.custom.items()}
    amounts["cpus"] = _units(resources.cpus)
    amounts["memory_bytes"] = resources.memory_bytes
    return {name: amount for name, amount in amounts.items() if amount}


class _Node:
    """One node's books."""

    def __init__(self, offer: NodeOffer) -> None:
        self.offer = offer
        self.free = _amounts(offer.total)
        self.gpu_free = dict.fromkeys(range(int(offer.total.gpus)), _UNIT)

    def _choose_gpus(self, request: BundleRequest) -> tuple[int, ...] | None:
        """The GPUs for a bundle: those it names, whole free ones, or for a fraction the fullest one that has room."""
        units = _units(request.resources.gpus)
        if request.gpus is not None:
            each = min(units, _UNIT)
            right = len(set(request.gpus)) * each == units
            return request.gpus if right and all(self.gpu_free.get(gpu, 0) >= each for gpu in request.gpus) else None
        if units == 0:
            return ()
        if units < _UNIT:
            fitting = [gpu for gpu, free in self.gpu_free.items() if free >= units]
            return (min(fitting, key=self.gpu_free.__getitem__),) if fitting else None
        count, rest = divmod(units, _UNIT)
        whole = [gpu for gpu, free in self.gpu_free.items() if free == _UNIT]
        return tuple(whole[:count]) if rest == 0 and len(whole) >= count else None

    def take(self, request: BundleRequest) -> BundleGrant | None:
        """Takes what a bundle asks for, or nothing."""
        if request.node_id not in (None, self.offer.node_id):
            return None
        if any(self.free.get(name, 0) < amount for name, amount in _amounts(request.resources).items()):
            return None
        gpus = self._choose_gpus(request)
        if gpus is None:
            return None
        grant = BundleGrant(node_id=self.offer.node_id, resources=request.resources, gpus=gpus, zone=self.offer.zone)
        self.book(grant, sign=-1)
        return grant

    def book(self, grant: BundleGrant, *, sign: int) -> None:
        """Subtracts (-1) or gives back (+1) what a grant holds."""
        for name, amount in _amounts(grant.resources).items():
            self.free[name] = self.free.get(name, 0) + sign * amount
        each = min(_units(grant.resources.gpus), _UNIT)
        for gpu in grant.gpus:
            self.gpu_free[gpu] = self.gpu_free.get(gpu, 0) + sign * each

    @property
    def free_cpus(self) -> int:
        return self.free.get("cpus", 0)


@dataclass(slots=True)
class _Layout:
    """A placement in the making."""

    grants: list[BundleGrant] = field(default_factory=list)

    @property
    def used(self) -> set[NodeId]:
        return {grant.node_id for grant in self.grants}


class Accounts:
    """The books of all nodes, and the placements that were granted on them."""

    def __init__(self, offers: Sequence[NodeOffer]) -> None:
        self._offers = tuple(offers)
        self._nodes = {offer.node_id: _Node(offer) for offer in offers}
        self._placements: dict[str, Placement] = {}

    @property
    def placements(self) -> tuple[Placement, ...]:
        """What is granted now, oldest first."""
        return tuple(self._placements.values())

    def get(self, placement_id: str) -> Placement | None:
        """A granted placement."""
        return self._placements.get(placement_id)

    def reserve(self, request: PlacementRequest) -> Placement | PlacementRefused:
        """Grants every bundle, or none; the same id again gets the same grant."""
        known = self._placements.get(request.placement_id)
        if known is not None:
            return known
        grants = self._lay_out(request)
        if grants is None:
            return self._refuse(request)
        placement = Placement(placement_id=request.placement_id, bundles=tuple(grants))
        self._placements[request.placement_id] = placement
        return placement

    def restore(self, placement: Placement) -> None:
        """Books a placement that was granted in an earlier life, though the nodes may offer less now."""
        if placement.placement_id in self._placements:
            return
        self._placements[placement.placement_id] = placement
        for grant in placement.bundles:
            node = self._nodes.get(grant.node_id)
            if node is not None:
                node.book(grant, sign=-1)

    def free(self, placement_id: str) -> bool:
        """Gives a placement back; False when there is none of this id."""
        placement = self._placements.pop(placement_id, None)
        if placement is None:
            return False
        for grant in placement.bundles:
            node = self._nodes.get(grant.node_id)
            if node is not None:
                node.book(grant, sign=1)
        return True

    def statuses(self) -> tuple[NodeStatus, ...]:
        """What each node offers, and what placements hold on it."""
        return tuple(
            NodeStatus(
                node_id=offer.node_id,
                zone=offer.zone,
                labels=offer.labels,
                total=offer.total,
                used=self._used(offer.node_id),
            )
            for offer in self._offers
        )

    def _used(self, node_id: NodeId) -> Resources:
        held = [
            grant.resources for placement in self.placements for grant in placement.bundles if grant.node_id == node_id
        ]
        names = {name for resources in held for name in resources.custom}
        return Resources(
            cpus=sum(_units(resources.cpus) for resources in held) / _UNIT,
            gpus=sum(_units(resources.gpus) for resources in held) / _UNIT,
            memory_bytes=sum(resources.memory_bytes for resources in held),
            custom={name: sum(_units(r.custom.get(name, 0.0)) for r in held) / _UNIT for name in sorted(names)},
        )

    def _lay_out(self, request: PlacementRequest) -> list[BundleGrant] | None:
        if request.strategy in (Strategy.PACK, Strategy.STRICT_PACK):
            # One node for all, the fullest that can hold them, before anything else.
            for node in sorted(self._nodes.values(), key=lambda node: node.free_cpus):
                grants = self._attempt(request, [node])
                if grants is not None:
                    return grants
            if request.strategy is Strategy.STRICT_PACK:
                return None
        return self._attempt(request, list(self._nodes.values()))

    def _attempt(self, request: PlacementRequest, nodes: list[_Node]) -> list[BundleGrant] | None:
        layout = _Layout()
        for bundle in request.bundles:
            grant = self._take_one(bundle, self._preferred(request.strategy, layout, nodes))
            if grant is None:
                for given in layout.grants:
                    self._nodes[given.node_id].book(given, sign=1)
                return None
            layout.grants.append(grant)
        return layout.grants

    def _preferred(self, strategy: Strategy, layout: _Layout, nodes: list[_Node]) -> list[_Node]:
        used = layout.used
        if strategy is Strategy.STRICT_SPREAD:
            nodes = [node for node in nodes if node.offer.node_id not in used]
        if strategy in (Strategy.SPREAD, Strategy.STRICT_SPREAD):
            return sorted(nodes, key=lambda node: (node.offer.node_id in used, -node.free_cpus))
        return sorted(nodes, key=lambda node: (node.offer.node_id not in used, node.free_cpus))

    @staticmethod
    def _take_one(bundle: BundleRequest, nodes: list[_Node]) -> BundleGrant | None:
        for node in nodes:
            grant = node.take(bundle)
            if grant is not None:
                return grant
        return None

    def _refuse(self, request: PlacementRequest) -> PlacementRefused:
        feasible = Accounts(self._offers)._lay_out(request) is not None
        asked = " + ".join(describe(bundle.resources) for bundle in request.bundles)
        offered = "; ".join(
            f"{status.node_id} has {describe(status.total)}, of which {describe(status.used)} are in use"
            for status in self.statuses()
        )
        verdict = "is not free now" if feasible else "is more than the nodes have"
        return PlacementRefused(
            placement_id=request.placement_id,
            message=f"{asked} ({request.strategy}) {verdict}: {offered}",
            feasible=feasible,
        )
