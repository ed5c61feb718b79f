"""What a deploy would do, before it is done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from serve_core.model.ids import RevisionId
from serve_core.model.resources import Resources


class DeployEffect(IntEnum):
    """What a deploy does to a deployment; the numbers of ``serve_core.v1.DeployEffect``."""

    UNCHANGED = 1
    CREATE = 2
    ROLLOUT = 3
    RECONFIGURE = 4
    DELETE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field that a deploy changes: its path, both values as shortened text, and whether replicas are replaced."""

    field: str
    old_value: str
    new_value: str
    restarts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """What a deploy does to one deployment. See ``serve_core.v1.DeploymentPlan`` for each field."""

    deployment: str
    effect: DeployEffect
    old_revision: RevisionId | None
    new_revision: RevisionId | None
    changes: tuple[FieldChange, ...] = ()
    surge_replicas: int = 0
    needs: Resources = Resources()
    fits: bool = True
    missing: str = ""
    gang_size: int = 1
    actors: tuple[str, ...] = ()
