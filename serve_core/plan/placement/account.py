"""What is free on one node, as a value. An amount may be below zero if the node offers less than it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.plan.amounts import UNITS, units
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement.request import MemberPlacement, Need
from serve_core.plan.records import Bundle, GpuShare


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One node's books. ``gpus`` is what is free of each, ``starts`` how many members start there now.

    ``is_open`` is false for a node on which nothing new is to be placed.
    """

    node_id: NodeId
    cpus: int
    gpus: tuple[int, ...]
    memory_bytes: int
    custom: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    starts: int = 0
    is_open: bool = True

    @classmethod
    def of(cls, node: NodeObserved, *, is_open: bool = True) -> Account:
        """Of a node that holds nothing."""
        return cls(
            node_id=node.node_id,
            cpus=units(node.total.cpus),
            gpus=(UNITS,) * int(node.total.gpus),
            memory_bytes=node.total.memory_bytes,
            custom={name: units(amount) for name, amount in node.total.custom.items()},
            labels=node.labels,
            is_open=is_open,
        )

    def booked(self, bundle: Bundle, *, sign: int) -> Account:
        """With what a bundle holds taken off (-1) or given back (+1)."""
        resources = bundle.resources
        custom = self.custom
        if resources.custom:
            custom = dict(custom)
            for name, amount in resources.custom.items():
                custom[name] = custom.get(name, 0) + sign * units(amount)
        gpus = self.gpus
        if bundle.gpus:
            counts = list(gpus)
            for share in bundle.gpus:
                if share.index < len(counts):
                    counts[share.index] += sign * units(share.amount)
            gpus = tuple(counts)
        return Account(
            node_id=self.node_id,
            cpus=self.cpus + sign * units(resources.cpus),
            gpus=gpus,
            memory_bytes=self.memory_bytes + sign * resources.memory_bytes,
            custom=custom,
            labels=self.labels,
            starts=self.starts,
            is_open=self.is_open,
        )

    def with_starts(self, count: int) -> Account:
        """With so many more members that start there."""
        return replace(self, starts=self.starts + count) if count else self

    def admits(self, need: Need) -> bool:
        """Whether a member may be placed here at all, if there is room."""
        return self.is_open and all(self.labels.get(name) == value for name, value in need.labels)

    def fits(self, need: Need, *, most: int) -> int:
        """How many members there is room for, counted up to ``most``."""
        if not self.admits(need):
            return 0
        count = self._fits_apart_from_gpus(need, most)
        return self._fits_by_gpus(need.gpus, count) if need.gpus and count else count

    def _fits_apart_from_gpus(self, need: Need, most: int) -> int:
        count = most
        if need.cpus:
            count = min(count, self.cpus // need.cpus)
        if need.memory_bytes:
            count = min(count, self.memory_bytes // need.memory_bytes)
        for name, amount in need.custom:
            count = min(count, self.custom.get(name, 0) // amount)
        return max(count, 0)

    def _fits_by_gpus(self, asked: tuple[int, ...], most: int) -> int:
        if all(amount >= UNITS for amount in asked):
            return min(most, self.gpus.count(UNITS) // (sum(asked) // UNITS))
        if len(asked) == 1:
            return min(most, sum(max(free, 0) // asked[0] for free in self.gpus))
        gpus: tuple[int, ...] | None = self.gpus
        for count in range(most):
            for amount in asked:
                gpus = _without(gpus, amount) if gpus is not None else None
            if gpus is None:
                return count
        return most

    def place(self, parts: tuple[Resources, ...]) -> tuple[Account, MemberPlacement]:
        """One member's bundles, for which there must be room, and what is free after it."""
        account, bundles = self, []
        for resources in parts:
            indices = _chosen(account.gpus, units(resources.gpus))
            if indices is None:
                raise ValueError(f"there is no room on {self.node_id} for {resources}")
            amount = min(resources.gpus, 1.0)
            bundle = Bundle(
                node_id=self.node_id, resources=resources, gpus=tuple(GpuShare(index, amount) for index in indices)
            )
            account = account.booked(bundle, sign=-1)
            bundles.append(bundle)
        return account, MemberPlacement(bundles[0], tuple(bundles[1:]))

    def lacks(self, need: Need) -> list[str]:
        """What this node has too little of for one member, in words."""
        lacks = []
        if need.cpus > max(self.cpus, 0):
            lacks.append(f"{need.cpus / UNITS:g} CPUs ({max(self.cpus, 0) / UNITS:g} free)")
        if not self._fits_by_gpus(need.gpus, 1) if need.gpus else False:
            free = sum(max(free, 0) for free in self.gpus)
            lacks.append(f"{sum(need.gpus) / UNITS:g} GPUs ({free / UNITS:g} free)")
        if need.memory_bytes > max(self.memory_bytes, 0):
            lacks.append(f"{need.memory_bytes} bytes of memory ({max(self.memory_bytes, 0)} free)")
        lacks += [
            f"{amount / UNITS:g} {name} ({max(self.custom.get(name, 0), 0) / UNITS:g} free)"
            for name, amount in need.custom
            if amount > max(self.custom.get(name, 0), 0)
        ]
        return lacks


def _chosen(gpus: tuple[int, ...], wanted: int) -> tuple[int, ...] | None:
    """The GPUs for an amount, or None. A fraction goes where it fits most tightly."""
    if wanted == 0:
        return ()
    if wanted < UNITS:
        fitting = [(free, index) for index, free in enumerate(gpus) if free >= wanted]
        return (min(fitting)[1],) if fitting else None
    whole = [index for index, free in enumerate(gpus) if free == UNITS]
    count = wanted // UNITS
    return tuple(whole[:count]) if len(whole) >= count else None


def _without(gpus: tuple[int, ...], wanted: int) -> tuple[int, ...] | None:
    indices = _chosen(gpus, wanted)
    if indices is None:
        return None
    amount = min(wanted, UNITS)
    return tuple(free - amount if index in indices else free for index, free in enumerate(gpus))
