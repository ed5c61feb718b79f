"""All parts of one world, and what ties them together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from serve_core.backend.accounting import NodeOffer
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from tests.simulation.backend import Backend
from tests.simulation.checks import Checks
from tests.simulation.controller import Controller
from tests.simulation.cores import Cores
from tests.simulation.costs import Costs
from tests.simulation.crashes import Crashes
from tests.simulation.engine import Engine
from tests.simulation.network import Network
from tests.simulation.nodes import Nodes
from tests.simulation.router import Router
from tests.simulation.store import Store


class Cluster:
    """One world. Once it is ``healed``, nothing fails any more, and nobody falls ill.

    Args:
        seed: Everything random comes from it.
        cores: What decides.
        cpus: CPUs of each node.
        labels: What the first node is labelled.
        calm: Whether nothing is to fail, so that the strictest promises hold.
        checks_every: What looks at everything there is does so at one occasion of so many.
    """

    def __init__(
        self,
        seed: int,
        *,
        cores: Cores | None = None,
        cpus: tuple[float, ...] = (8.0,),
        labels: Mapping[str, str] | None = None,
        calm: bool,
        checks_every: int = 1,
    ) -> None:
        self.engine = Engine(seed)
        self.cores = cores or Cores()
        self.calm = calm
        self.healed = False
        self.heartbeat_s = 1.0
        self.network = Network(self.engine)
        self.store = Store()
        self.checks = Checks(self, every=checks_every)
        self.costs = Costs()
        self.crashes = Crashes()
        offers = [
            NodeOffer(node_id=NodeId(f"n{at}"), total=Resources(cpus=size), labels=(labels or {}) if at == 0 else {})
            for at, size in enumerate(cpus)
        ]
        self.nodes = Nodes(self, offers)
        self.backend = Backend(self)
        self.routers: dict[str, Router] = {}
        self.controller: Controller | None = None
        self.down_s = 0.5
        self.lives = 0
        self._secrets = 0
        self._routers_made = 0
        self._faults: dict[frozenset[str], list[str]] = {}

    def start_controller(self) -> None:
        """A controller begins, on what the store kept."""
        if self.controller is None:
            self.lives += 1
            self.engine.note(f"controller {self.lives} begins")
            self.controller = Controller(self, self.lives)
            self.controller.begin()

    def controller_ended(self, controller: Controller) -> None:
        """The controller has died; the next one comes after a while."""
        self.engine.note(f"controller {controller.life} dies")
        self.network.end_of(controller)
        self.controller = None
        self.engine.later(self.down_s, self.start_controller)

    def add_router(self) -> Router:
        """Another router begins."""
        self._routers_made += 1
        router = Router(self, f"r{self._routers_made}")
        self.routers[router.name] = router
        self.engine.note(f"{router.name} begins")
        router.begin()
        return router

    def restart_router(self) -> None:
        """Another router takes the place of one that died."""
        self.add_router()

    def kill_router(self, router: Router) -> None:
        """SIGKILL; its callers notice."""
        self.engine.note(f"{router.name} dies")
        router.die()
        del self.routers[router.name]
        self.network.end_of(router)
        for way in list(router.ways.values()):
            way.call.excuses.append(f"{router.name} was killed")
            way.call.over = True

    def cut(self, one: str, other: str, for_s: float) -> None:
        """Lets nothing through between two parts for a while."""
        self.excuse(one, other, f"{one} | {other} were cut")
        self.network.cut(one, other)
        self.engine.later(for_s, partial(self.network.heal, one, other))

    def excuse(self, one: str, other: str, fault: str) -> None:
        """Notes a fault between two parts."""
        self._faults.setdefault(frozenset((one, other)), []).append(fault)

    def faults_of(self, one: str, other: str) -> list[str]:
        """The faults there were between two parts."""
        return self._faults.get(frozenset((one, other)), [])

    def new_secret(self) -> str:
        """A secret that never repeats."""
        self._secrets += 1
        return f"{self._secrets:032x}"
