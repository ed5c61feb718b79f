"""When a process counts as ill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """When a replica counts as ill, as suspect, and as lost. Times are in seconds.

    Attributes:
        period_s: Between the starts of two checks by the user's ``check_health``.
        timeout_s: For one check.
        failure_threshold: Failed checks in a row that make a replica ill.
        heartbeat_period_s: Between two heartbeats.
        suspect_after_missed: Heartbeats missed in a row that make a replica suspect: it leaves the routers' tables, and
            comes back with the next heartbeat.
        lost_after_missed: Heartbeats missed in a row that make a replica lost: its process is ended, and replaced.
        readiness_period_s: Between two questions to the user's ``is_ready``.
    """

    period_s: float = 10.0
    timeout_s: float = 30.0
    failure_threshold: int = 3
    heartbeat_period_s: float = 1.0
    suspect_after_missed: int = 3
    lost_after_missed: int = 10
    readiness_period_s: float = 1.0
