"""What a replica knows of its deployment's actors, and how it calls them."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from serve_core.model.actor import ActorEndpoint

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Directory:
    """The actors of one replica, as it was told last."""

    def __init__(self, process: Process, random: Random) -> None:
        self.known: dict[str, ActorEndpoint] = {}
        self._process = process
        self._random = random

    def take(self, actors: tuple[ActorEndpoint, ...]) -> None:
        """The controller says where they are."""
        self._process.cluster.checks.actors.told(self._process, self.known, actors)
        self.known = {actor.name: actor for actor in actors}

    def call_one(self) -> None:
        """User code calls an actor."""
        if not self.known:
            return
        process = self._process
        actor = list(self.known.values())[self._random.randrange(len(self.known))]
        other = process.cluster.backend.listening(actor.address)
        if other is not None and other.acting is not None:
            called = partial(other.acting.called, process, actor.incarnation)
            process.cluster.network.post(process, other, called)
