"""What the record of a deployment is made of. Times are in seconds since the Unix epoch."""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.model.ids import RevisionId
from serve_core.model.placement import GangRequest
from serve_core.model.replica import Failure, Method, UserService


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A deployment's newest change of revision, and what its planner must remember of it across a restart.

    Attributes:
        from_revision: What served before; None for a first deploy.
        to_revision: What is to serve.
        started_at: When it began.
        served: How many replicas were wanted before, and so may have to serve until those that are wanted now do; None if that
            was not noted: as many as are wanted now.
        progress_at: When it last got on, or was resumed; 0 makes the clock begin anew with the next plan.
        available: Replicas of ``to_revision`` that count: whole gangs in rotation, acknowledged by every live router, for
            long enough.
        best_available: The most that did so far.
        crashes: Gangs of ``to_revision`` that ended after they were ready, since it last got on.
        paused: Whether it is held, as far as that was planned for.
        paused_by_share: Whether ``pause_at`` holds it, and not an operator.
        pause_passed: Whether ``pause_at`` was reached: it holds a change once.
        failed_revision: The revision that failed, if this or what it rolls back did.
        failure: Why it failed.
        finished_at: When all was as wanted; 0 before.
        waiting_for: What it waits for, in one sentence; empty if nothing holds it up.
    """

    from_revision: RevisionId | None
    to_revision: RevisionId
    started_at: float
    served: int | None = None
    progress_at: float = 0.0
    available: int = 0
    best_available: int = 0
    crashes: int = 0
    paused: bool = False
    paused_by_share: bool = False
    pause_passed: bool = False
    failed_revision: RevisionId | None = None
    failure: Failure | None = None
    finished_at: float = 0.0
    waiting_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a deployment offers, as its replicas tell: methods, user-defined services, and their descriptors."""

    methods: tuple[Method, ...] = ()
    services: tuple[UserService, ...] = ()
    file_descriptor_set: bytes = b""


@dataclass(frozen=True, slots=True, order=True)
class VacantPlace:
    """The place of a gang that failed: how often gangs were lost in it, and how often without a calm time between."""

    restarts: int
    in_a_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRecord:
    """That a deployment waits for room. Who waits longer comes first.

    ``since`` is when it was placed last, or found no room at first; ``request`` is what it waits for.
    """

    since: float
    request: GangRequest
