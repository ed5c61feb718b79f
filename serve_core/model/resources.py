"""What is counted on nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a replica needs or a node offers: cores, GPUs, bytes, and anything else that is counted by name."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Mapping[str, float] = field(default_factory=dict)
