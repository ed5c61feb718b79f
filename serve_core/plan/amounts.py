"""Amounts are counted in ten-thousandths, so that sums of fractions are exact."""

from __future__ import annotations

from collections.abc import Iterable

from serve_core.model.resources import Resources

UNITS = 10_000
"""Units of 1 CPU, 1 GPU or 1 of a custom resource."""


def units(amount: float) -> int:
    """An amount in ten-thousandths."""
    return round(amount * UNITS)


def is_countable(amount: float) -> bool:
    """Whether an amount is a whole number of ten-thousandths, not below zero."""
    return 0 <= amount < 1e12 and abs(amount * UNITS - units(amount)) < 1e-3


def total(parts: Iterable[Resources]) -> Resources:
    """The sum, exactly."""
    cpus = gpus = memory_bytes = 0
    custom: dict[str, int] = {}
    for part in parts:
        cpus += units(part.cpus)
        gpus += units(part.gpus)
        memory_bytes += part.memory_bytes
        for name, amount in part.custom.items():
            custom[name] = custom.get(name, 0) + units(amount)
    return Resources(
        cpus=cpus / UNITS,
        gpus=gpus / UNITS,
        memory_bytes=memory_bytes,
        custom={name: amount / UNITS for name, amount in sorted(custom.items())},
    )
