"""How replicas belong together, as the file and the options say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from serve_core.config.fields import Listed, Name, Seconds, StrictModel
from serve_core.config.process import NeedsModel


class GangModel(StrictModel):
    """Replicas that are placed, started, updated, drained and restarted all or none."""

    size: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Members of a gang; num_replicas is a multiple of it."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Members on as few nodes as there is room on (PACK), or as many (SPREAD); STRICT_: on one node, each on its own."""
    on_member_failure: Literal["RESTART_GANG", "RESTART_REPLICA"] = "RESTART_GANG"
    """Replaces the whole gang once the other members have finished what they can, or starts only the lost member again."""
    start_deadline_s: Seconds | None = None
    """From the placement until every member is ready, in seconds; by default that of the deployment."""
    max_restarts: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Restarts in a row, without a calm time between, before a gang is given up."""
    route: Literal["ALL", "LEADER"] = "ALL"
    """Whether every member takes the requests of callers, or only that of rank 0."""
    roles: Annotated[list[Name], Listed] = []
    """A name for each rank; none, or one for each."""
    abort_in_flight: bool = False
    """Whether the other members of a gang that failed are ended at once, with what runs in them."""

    def _contradictions(self) -> Iterator[str]:
        if self.roles and len(self.roles) != self.size:
            yield f"roles name {len(self.roles)} of {self.size} ranks; they must name each, or none"


class BundleModel(NeedsModel):
    """What each replica holds on its node for a child process of its own."""

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if not (self.cpus or self.gpus or self.memory or any(self.resources.values())):
            yield "holds nothing"
