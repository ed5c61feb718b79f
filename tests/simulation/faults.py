"""What goes wrong: everything that a process, a network or a backend can do to us, at random and then no more."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.network import Part
from tests.simulation.process import Process
from tests.simulation.router import Router

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


REPEATS = 0.1
"""How often a call arrives twice."""


class Faults:
    """Injects faults until it is stopped; ``heal`` ends those that last. ``count`` says how often which was drawn."""

    def __init__(self, cluster: Cluster, *, every_s: float) -> None:
        self.cluster = cluster
        self._random = cluster.engine.randomness("faults")
        self._every_s = every_s
        self._going = True
        self.count: Counter[str] = Counter()
        self._kinds = (
            self._kill_replica,
            self._kill_actor,
            self._stop_actor,
            self._kill_actor_and_controller,
            self._freeze_actor,
            self._stop_replica,
            self._sicken_replica,
            self._make_unready,
            self._crash_controller,
            self._crash_controller,
            self._stop_controller,
            self._restart_router,
            self._slow_router,
            self._cut_replica,
            self._cut_router,
            self._cut_link,
            self._refuse_starts,
            self._refuse_placements,
            self._slow_backend,
            self._slow_kills,
            self._spikes,
            self._lose_node,
        )

    def begin(self) -> None:
        """Things go wrong from now on."""
        self.cluster.network.repeats = REPEATS
        self.cluster.engine.later(self._random.expovariate(1 / self._every_s), self._next)

    def heal(self) -> None:
        """The last fault is over."""
        self._going = False
        cluster = self.cluster
        cluster.engine.note("everything is healed")
        cluster.healed = True
        cluster.crashes.disarm()
        cluster.network.heal_all()
        cluster.network.spikes = cluster.network.repeats = 0.0
        for node_id in list(cluster.nodes.away):
            cluster.nodes.come_back(node_id)
        cluster.backend.refuses_placements = cluster.backend.refuses_starts = False
        cluster.backend.slow_s = 0.01
        cluster.backend.lingers_s = 0.0
        for process in list(cluster.backend.processes.values()):
            process.ill = False
            if not process.says_ready:
                process.deliver(partial(process.hesitate, says_ready=True))
            if process.stopped:
                process.go_on()
        for router in cluster.routers.values():
            router.slow_to_acknowledge_s = 0.0
        if cluster.controller is not None and cluster.controller.stopped:
            cluster.controller.go_on()

    def _next(self) -> None:
        if not self._going:
            return
        self.cluster.engine.later(self._random.expovariate(1 / self._every_s), self._next)
        kind = self._kinds[self._random.randrange(len(self._kinds))]
        name = kind.__name__[1:]
        self.cluster.engine.note(f"fault {name}")
        self.count[name] += 1
        kind()

    def _for_s(self) -> float:
        """Most faults are short; some outlast every patience."""
        return self._random.expovariate(1 / 2.0) if self._random.random() < 0.7 else 5.0 + 15.0 * self._random.random()

    def _process(self) -> Process | None:
        processes = list(self.cluster.backend.processes.values())
        return processes[self._random.randrange(len(processes))] if processes else None

    def _actor(self) -> Process | None:
        actors = [process for process in self.cluster.backend.processes.values() if process.acting is not None]
        return actors[self._random.randrange(len(actors))] if actors else None

    def _router(self) -> Router | None:
        routers = list(self.cluster.routers.values())
        return routers[self._random.randrange(len(routers))] if routers else None

    def _kill_replica(self) -> None:
        if (process := self._process()) is not None:
            process.faults.append("killed")
            process.end(-9)

    def _stop_replica(self) -> None:
        self._stop(self._process())

    def _stop(self, process: Process | None) -> None:
        if process is not None and not process.stopped:
            process.faults.append("stopped")
            process.stand_still()
            self.cluster.engine.later(self._for_s(), partial(_go_on, process))

    def _kill_actor(self) -> None:
        if (process := self._actor()) is not None:
            process.faults.append("killed")
            process.end(-9)

    def _stop_actor(self) -> None:
        self._stop(self._actor())

    def _freeze_actor(self) -> None:
        """It is given up while it stands still, cannot be killed, and goes on for a moment when another was to replace it."""
        process = self._actor()
        if process is not None and not process.stopped:
            for_s = 6.0 + 12.0 * self._random.random()
            process.immortal_until = self.cluster.engine.now + for_s + 3.0 * self._random.random()
            process.faults.append("frozen")
            process.stand_still()
            self.cluster.engine.later(for_s, partial(_go_on, process))

    def _kill_actor_and_controller(self) -> None:
        self._kill_actor()
        self._crash_controller()

    def _sicken_replica(self) -> None:
        process = self._process()
        if process is not None and not process.ill:
            process.deliver(process.sicken)
            self.cluster.engine.later(self._for_s(), partial(setattr, process, "ill", False))

    def _make_unready(self) -> None:
        process = self._process()
        if process is not None and process.says_ready and process.ready:
            process.deliver(partial(process.hesitate, says_ready=False))
            self.cluster.engine.later(
                self._for_s(), partial(process.deliver, partial(process.hesitate, says_ready=True))
            )

    def _crash_controller(self) -> None:
        crashes = self.cluster.crashes
        self.cluster.down_s = 0.1 + self._for_s()
        crashes.arm(len(crashes.names) + self._random.randint(1, 8), after=self._random.random() < 0.5)

    def _stop_controller(self) -> None:
        controller = self.cluster.controller
        if controller is not None and not controller.stopped:
            controller.stand_still()
            self.cluster.engine.later(self._for_s(), partial(_go_on, controller))

    def _restart_router(self) -> None:
        router = self._router()
        if router is not None:
            self.cluster.kill_router(router)
            self.cluster.engine.later(self._random.random(), self.cluster.restart_router)

    def _slow_router(self) -> None:
        if (router := self._router()) is not None:
            late_s, for_s = self._for_s(), self._for_s()
            router.slow_to_acknowledge_s = late_s
            router.late_until = max(router.late_until, self.cluster.engine.now + late_s + for_s)
            self.cluster.engine.later(for_s, partial(setattr, router, "slow_to_acknowledge_s", 0.0))

    def _cut_replica(self) -> None:
        if (process := self._process()) is not None:
            process.faults.append("cut off from the controller")
            self.cluster.cut("controller", process.name, self._for_s())

    def _cut_router(self) -> None:
        if (router := self._router()) is not None:
            router.faults.append("cut off from the controller")
            self.cluster.cut("controller", router.name, self._for_s())

    def _cut_link(self) -> None:
        router, process = self._router(), self._process()
        if router is not None and process is not None:
            self.cluster.cut(router.name, process.name, self._for_s())

    def _refuse_starts(self) -> None:
        self.cluster.backend.refuses_starts = True
        self.cluster.engine.later(self._for_s(), partial(setattr, self.cluster.backend, "refuses_starts", False))

    def _refuse_placements(self) -> None:
        self.cluster.backend.refuses_placements = True
        self.cluster.engine.later(self._for_s(), partial(setattr, self.cluster.backend, "refuses_placements", False))

    def _slow_backend(self) -> None:
        self.cluster.backend.slow_s = self._for_s()
        self.cluster.engine.later(self._for_s(), partial(setattr, self.cluster.backend, "slow_s", 0.01))

    def _slow_kills(self) -> None:
        self.cluster.backend.lingers_s = self._for_s()
        self.cluster.engine.later(self._for_s(), partial(setattr, self.cluster.backend, "lingers_s", 0.0))

    def _spikes(self) -> None:
        self.cluster.network.spikes = 0.2
        self.cluster.engine.later(self._for_s(), partial(setattr, self.cluster.network, "spikes", 0.0))

    def _lose_node(self) -> None:
        nodes = self.cluster.nodes
        node_id = nodes.offers[self._random.randrange(len(nodes.offers))].node_id
        if node_id not in nodes.away:
            nodes.lose(node_id)
            self.cluster.engine.later(self._for_s(), partial(nodes.come_back, node_id))


def _go_on(part: Part) -> None:
    if part.alive and part.stopped:
        part.go_on()
