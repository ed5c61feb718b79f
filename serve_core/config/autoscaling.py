"""How a deployment scales by itself, as the file and the options say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from serve_core.config.fields import Amount, Seconds, StrictModel
from serve_core.model.autoscaling import AutoscalingPolicy

Replicas = Annotated[int, Field(ge=0, le=10_000)]


class AutoscalingModel(StrictModel):
    """When there are more replicas, and when fewer, by the requests that run, the slots that are reserved, and those that wait."""

    min_replicas: Replicas | None = None
    """The fewest, in whole gangs; 0 lets a deployment that nobody calls have none. By default one gang."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    """The most, in whole gangs."""
    target_ongoing_requests: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What is to be asked of each replica that takes requests; by default 70 % of max_ongoing_requests."""
    look_back_s: Seconds = 10.0
    """What is asked is averaged over so long, in seconds."""
    upscale_delay_s: Amount = 5.0
    """How long more must have been asked for before there are more replicas, in seconds; the first is started at once."""
    downscale_delay_s: Amount = 300.0
    """How long less must have been asked for before there are fewer, in seconds."""

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.min_replicas is not None and self.min_replicas > self.max_replicas:
            yield f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})"

    def policy(self, *, size: int) -> AutoscalingPolicy:
        """The same for a deployment of gangs of ``size``."""
        return AutoscalingPolicy(
            min_replicas=size if self.min_replicas is None else self.min_replicas,
            max_replicas=self.max_replicas,
            target_ongoing_requests=self.target_ongoing_requests,
            look_back_s=self.look_back_s,
            upscale_delay_s=self.upscale_delay_s,
            downscale_delay_s=self.downscale_delay_s,
        )
