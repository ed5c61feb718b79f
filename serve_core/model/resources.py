"""What is counted on nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_UNITS = ((2**40, "Ti"), (2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a replica needs or a node offers: cores, GPUs, bytes, and anything else that is counted by name."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Mapping[str, float] = field(default_factory=dict)


def describe(resources: Resources) -> str:
    """Resources in words, such as ``2 CPUs, 1 GPU, 512Mi of memory``."""
    parts = [f"{resources.cpus:g} CPU{'s' * (resources.cpus != 1)}"] if resources.cpus else []
    if resources.gpus:
        parts.append(f"{resources.gpus:g} GPU{'s' * (resources.gpus != 1)}")
    if resources.memory_bytes:
        parts.append(f"{bytes_text(resources.memory_bytes)} of memory")
    parts.extend(f"{amount:g} {name}" for name, amount in sorted(resources.custom.items()) if amount)
    return ", ".join(parts) or "nothing"


def bytes_text(size: int) -> str:
    """A number of bytes in its largest unit, such as ``1.5Gi``."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.4g}{name}"
    return f"{size} bytes"
