"""What is asked of the nodes for a gang, and the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_core.model.gang import Strategy
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.placement.amounts import units
from serve_core.plan.records import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class GangRequest:
    """Room for a whole gang. Its members all ask for the same.

    Attributes:
        resources: What each member needs.
        bundles: What each member needs beside that, on the same node, for processes of its own.
        size: Members.
        strategy: How they are laid out over nodes.
        node_labels: What the labels of every node of it must be.
    """

    resources: Resources
    bundles: tuple[Resources, ...] = ()
    size: int = 1
    strategy: Strategy = Strategy.PACK
    node_labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: DeploymentSpec) -> GangRequest:
        """What a gang of a deployment needs."""
        return cls(
            resources=spec.resources,
            bundles=spec.bundles,
            size=spec.gang.size,
            strategy=spec.gang.placement,
            node_labels=spec.node_labels,
        )

    @property
    def need(self) -> Need:
        """What each member needs, counted."""
        return Need.of((self.resources, *self.bundles), self.node_labels)


@dataclass(frozen=True, slots=True)
class Need:
    """What a node must have for one member, counted in units. Hashable.

    ``gpus`` are what each part asks for that asks for any: whole GPUs, or a fraction of one.
    """

    cpus: int
    memory_bytes: int
    custom: tuple[tuple[str, int], ...]
    gpus: tuple[int, ...]
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, parts: tuple[Resources, ...], labels: Mapping[str, str]) -> Need:
        """The sum of what a member and its child bundles ask for."""
        custom: dict[str, int] = {}
        for part in parts:
            for name, amount in part.custom.items():
                custom[name] = custom.get(name, 0) + units(amount)
        return cls(
            cpus=sum(units(part.cpus) for part in parts),
            memory_bytes=sum(part.memory_bytes for part in parts),
            custom=tuple((name, amount) for name, amount in sorted(custom.items()) if amount),
            gpus=tuple(units(part.gpus) for part in parts if units(part.gpus)),
            labels=tuple(sorted(labels.items())),
        )


@dataclass(frozen=True, slots=True)
class MemberPlacement:
    """Where one member goes, and what it holds beside its own bundle, on the same node."""

    bundle: Bundle
    child_bundles: tuple[Bundle, ...] = ()


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
