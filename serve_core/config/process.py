"""What can be said of every process that runs a user's code: what it needs, and when it is ill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from serve_core.config.fields import Counted, Memory, Seconds, StrictModel


class NeedsModel(StrictModel):
    """What is counted on nodes."""

    cpus: Counted = 0.0
    """CPU cores; fractions allowed."""
    gpus: Counted = 0.0
    """GPUs: whole numbers, or one fraction below 1."""
    memory: Memory = 0
    """Memory: bytes, or a text such as 512Mi."""
    resources: dict[str, Counted] = {}
    """Anything else that is counted, by name."""

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.gpus > 1 and not self.gpus.is_integer():
            yield f"gpus ({self.gpus:g}) is neither a whole number nor below 1"


class HealthModel(StrictModel):
    """When a process counts as ill, as suspect, and as lost."""

    health_check_period_s: Seconds = 10.0
    """Between the starts of two health checks, in seconds."""
    health_check_timeout_s: Seconds = 30.0
    """For one health check, in seconds."""
    health_check_failure_threshold: Annotated[int, Field(ge=1)] = 3
    """Failed checks in a row after which it is ill."""
    readiness_period_s: Seconds = 1.0
    """Between two questions to the user's is_ready(), in seconds."""
    heartbeat_period_s: Seconds = 1.0
    """Between two heartbeats, in seconds."""
    suspect_after_missed: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Heartbeats missed in a row after which it is left out until the next one."""
    lost_after_missed: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Heartbeats missed in a row after which it is ended and replaced."""

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        suspect, lost = self.suspect_after_missed, self.lost_after_missed
        if self._says("suspect_after_missed", "lost_after_missed") and suspect > lost:
            yield f"suspect_after_missed ({suspect}) is more than lost_after_missed ({lost})"
