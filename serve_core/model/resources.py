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


def describe(resources: Resources) -> str:
    """Resources in words, such as ``2 CPUs, 1 GPU``."""
    parts = [f"{resources.cpus:g} CPU{'s' * (resources.cpus != 1)}"] if resources.cpus else []
    if resources.gpus:
        parts.append(f"{resources.gpus:g} GPU{'s' * (resources.gpus != 1)}")
    if resources.memory_bytes:
        parts.append(f"{resources.memory_bytes} bytes of memory")
    parts.extend(f"{amount:g} {name}" for name, amount in sorted(resources.custom.items()) if amount)
    return ", ".join(parts) or "nothing that is counted"
