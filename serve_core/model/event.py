"""What happened, for people."""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.model.ids import DeploymentKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a deployment. See ``serve_core.v1.Event`` for each field.

    ``sequence`` is 0 until the store has taken it; ``time`` is in seconds since the Unix epoch.
    """

    key: DeploymentKey
    time: float
    reason: str
    message: str
    subject: str = ""
    warning: bool = False
    sequence: int = 0
