"""Where loads are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send a load, and the processes whose CPU time it costs, by their name."""

    address: str
    processes: Mapping[str, Sequence[int]]
