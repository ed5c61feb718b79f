"""How many replicas a deployment has, by what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

USUAL_SHARE = 0.7
"""The part of its slots that a replica is to have taken, unless a target is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingPolicy:
    """When there are to be more replicas, and when fewer. Times are in seconds.

    What is asked of a deployment are its requests that run, its slots that are reserved, and its requests that wait in
    routers.

    Attributes:
        min_replicas: The fewest; 0 lets a deployment that nobody calls have none. A whole number of gangs.
        max_replicas: The most. A whole number of gangs.
        target_ongoing_requests: What is to be asked of each replica that takes requests; None: 70 % of its slots.
        look_back_s: What is asked is averaged over so long.
        upscale_delay_s: How long more must have been asked for before there are more replicas. The first of a deployment
            that has none are started at once.
        downscale_delay_s: How long less must have been asked for before there are fewer.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float | None = None
    look_back_s: float = 10.0
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 300.0

    def target(self, max_ongoing_requests: int) -> float:
        """What is to be asked of each replica with so many slots."""
        if self.target_ongoing_requests is not None:
            return self.target_ongoing_requests
        return max_ongoing_requests * USUAL_SHARE

    def first_replicas(self, *, size: int) -> int:
        """How many replicas a deployment of gangs of ``size`` has at first where nobody says: the fewest, but one gang,
        which shows that it runs.
        """
        return max(self.min_replicas, size)
