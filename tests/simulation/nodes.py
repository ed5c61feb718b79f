"""The nodes of a world: what each offers, and what becomes of those that vanish with all that runs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from serve_core.backend.accounting import NodeOffer
from serve_core.model.ids import NodeId
from serve_core.plan.observed import NodeObserved

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

NOTICED_AFTER_S = (0.5, 5.0)
"""When the backend notices that a node is away. That it is back is noticed at once."""


class Nodes:
    """Every node that there is or was.

    Attributes:
        away: Those that have vanished, and are not back.
        lost: How often each has vanished.
    """

    def __init__(self, cluster: Cluster, offers: Sequence[NodeOffer]) -> None:
        self.offers = tuple(offers)
        self.away: dict[NodeId, None] = {}
        self.lost: dict[NodeId, int] = {}
        self._back_at = 0.0
        self._noticed: dict[NodeId, None] = {}
        self._cluster = cluster
        self._random = cluster.engine.randomness("nodes")

    @property
    def changed_at(self) -> float:
        """Now, as long as one is away, or else when the last came back: until then, a deployment may have had no room."""
        return self._cluster.engine.now if self.away else self._back_at

    def seen(self) -> tuple[NodeObserved, ...]:
        """The nodes that the backend knows of."""
        return tuple(
            NodeObserved(node_id=offer.node_id, zone=offer.zone, labels=offer.labels, total=offer.total)
            for offer in self.offers
            if offer.node_id not in self._noticed
        )

    def usable(self, labels: Mapping[str, str]) -> tuple[NodeId, ...]:
        """The nodes on which something may be placed that asks for these labels."""
        wanted, unusable = labels.items(), {**self.away, **self._cluster.store.records.nodes}
        return tuple(
            offer.node_id for offer in self.offers if offer.node_id not in unusable and wanted <= offer.labels.items()
        )

    def lose(self, node_id: NodeId) -> None:
        """A node vanishes, and all that runs on it, without a word."""
        self._cluster.engine.note(f"{node_id} vanishes")
        times = self.lost[node_id] = self.lost.get(node_id, 0) + 1
        self.away[node_id] = None
        for process in list(self._cluster.backend.processes.values()):
            if process.node_id == node_id:
                process.vanish()
        self._cluster.engine.later(self._random.uniform(*NOTICED_AFTER_S), partial(self._notice, node_id, times))

    def come_back(self, node_id: NodeId) -> None:
        """A node that vanished is there again, empty."""
        if node_id in self.away:
            self._cluster.engine.note(f"{node_id} is back")
            del self.away[node_id]
            self._back_at = self._cluster.engine.now
            if self._noticed.pop(node_id, node_id) is None:
                self._tell()

    def _notice(self, node_id: NodeId, times: int) -> None:
        if node_id in self.away and self.lost[node_id] == times:
            self._noticed[node_id] = None
            self._tell()

    def _tell(self) -> None:
        controller = self._cluster.controller
        if controller is not None:
            controller.deliver(controller.nodes_changed)
