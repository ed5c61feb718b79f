"""Where requests are in a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from router.core.lane import Lane
from router.core.queue import Waiter
from serve_core.errors import ServeError
from serve_core.model.ids import ReplicaId
from tests.simulation.calls import Call

if TYPE_CHECKING:
    from tests.simulation.upstream import Upstream

Refusal = Callable[[], ServeError]
Answered = Callable[["Way", ServeError | None], None]


class Admission:
    """The requests of one deployment. What was admitted keeps its lane, also when the deployment leaves the table."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.refusal: Refusal | None = None
        self.ways: dict[int, Way] = {}
        self.probing = False


class Way:
    """Where a call is in this router.

    Attributes:
        held: Whether it is a promise that counts as the router's own.
        parts: What is asked of each member of a gang for it.
        answered: Takes the end of a try in the router's place, if this is a part of another call.
        refusals: How often a whole gang was refused to it.
    """

    def __init__(
        self, call: Call, waiter: Waiter | None, admission: Admission | None, *, answered: Answered | None = None
    ) -> None:
        self.call = call
        self.waiter = waiter
        self.admission = admission
        self.upstream: Upstream | None = None
        self.held = False
        self.parts: dict[ReplicaId, Way] = {}
        self.answered = answered
        self.refusals = 0
