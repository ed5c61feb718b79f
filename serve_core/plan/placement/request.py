"""What a gang needs of a node, counted, and the answers to a request."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_core.model.placement import GangRequest
from serve_core.plan.amounts import units
from serve_core.plan.records import Bundle


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
    def of(cls, request: GangRequest) -> Need:
        """The sum of what a member and its child bundles ask for."""
        custom: dict[str, int] = {}
        for part in request.parts:
            for name, amount in part.custom.items():
                custom[name] = custom.get(name, 0) + units(amount)
        return cls(
            cpus=sum(units(part.cpus) for part in request.parts),
            memory_bytes=sum(part.memory_bytes for part in request.parts),
            custom=tuple((name, amount) for name, amount in sorted(custom.items()) if amount),
            gpus=tuple(units(part.gpus) for part in request.parts if units(part.gpus)),
            labels=tuple(sorted(request.node_labels.items())),
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
        request: What was asked for.
    """

    message: str
    feasible: bool
    turn: bool = False
    request: GangRequest | None = field(default=None, compare=False)
