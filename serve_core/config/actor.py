"""A deployment actor, as the file and the options say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from serve_core.config.fields import Amount, Environment, ImportPath, Listed, Name, Seconds
from serve_core.config.process import HealthModel, NeedsModel


class ActorModel(NeedsModel, HealthModel):
    """A long-lived object that the replicas of a deployment share, in a process of its own."""

    name: Name
    """The actor's name, unique in its deployment."""
    import_path: ImportPath
    """MODULE:ATTRIBUTE of the class."""
    args: Annotated[list[Any], Listed] = []
    """Positional arguments of the constructor; {$deployment: NAME} arrives as a handle."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the constructor; {$deployment: NAME} arrives as a handle."""
    env: Environment = {}
    """Environment variables, on top of the deployment's."""
    max_concurrency: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Calls that run in it at once."""
    start_deadline_s: Seconds = 60.0
    """From the start of the process until it is ready, in seconds."""
    max_restarts: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    """Failures in a row before it is given up, and its revision with it if it was never ready."""
    on_failure: Literal["RESTART", "RESTART_FROM_SNAPSHOT", "RESTART_REPLICAS"] = "RESTART"
    """Starts it again empty, or from the last state that it saved, or empty and then the replicas anew, step by step."""
    snapshot_interval_s: Amount = 0.0
    """Between two snapshots of its state, in seconds; 0 means none by time."""
    shared: Literal["revision", "deployment"] = "revision"
    """Whether each revision has its own, or all revisions that describe it in the same way share it."""

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.snapshot_interval_s and self.on_failure != "RESTART_FROM_SNAPSHOT":
            yield f"snapshot_interval_s needs on_failure: RESTART_FROM_SNAPSHOT, not {self.on_failure}"
