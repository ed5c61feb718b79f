"""Where the deployment's actors are, as far as this replica was told, and which of them have begun anew since.

What was told last holds for as long as no controller is there to say more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_core.model.actor import ActorEndpoint


@dataclass(frozen=True, slots=True)
class Restart:
    """An actor serves in a new life."""

    name: str
    incarnation: int


class ActorDirectory:
    """The actors by name. A name that is described, and of which nothing was told yet, has no endpoint."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._endpoints: dict[str, ActorEndpoint] = {}
        self._served: dict[str, int] = {}
        self._restarted: dict[str, int] = {}

    @property
    def names(self) -> Sequence[str]:
        """The actors that there are."""
        return self._names

    def describe(self, names: Iterable[str]) -> None:
        """The deployment has these actors."""
        self._names = tuple(names)

    def find(self, name: str) -> ActorEndpoint | None:
        """Where an actor is, if that is known."""
        return self._endpoints.get(name)

    def take(self, endpoints: Iterable[ActorEndpoint]) -> bool:
        """Takes what was told; what is about an earlier life than the one that is known is left. Whether anything is new."""
        changed = False
        for endpoint in endpoints:
            known = self._endpoints.get(endpoint.name)
            if endpoint != known and (known is None or endpoint.incarnation >= known.incarnation):
                self._endpoints[endpoint.name] = endpoint
                self._note(endpoint)
                changed = True
        return changed

    def take_restart(self) -> Restart | None:
        """The next actor that serves in another life than the first one that was told, each life once; None if none does.

        Of several lives that began meanwhile only the newest is told.
        """
        if not self._restarted:
            return None
        name = next(iter(self._restarted))
        return Restart(name, self._restarted.pop(name))

    def _note(self, endpoint: ActorEndpoint) -> None:
        if not endpoint.address:
            return
        served = self._served.get(endpoint.name)
        self._served[endpoint.name] = endpoint.incarnation
        if served is not None and endpoint.incarnation > served:
            self._restarted[endpoint.name] = endpoint.incarnation
