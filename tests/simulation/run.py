"""One world from its first deploy to its rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from serve_core.errors import InvariantViolation
from serve_core.model.ids import DeploymentKey
from serve_core.plan.records import DeploymentRecord
from tests.simulation.actor_rest import waits_for_actors
from tests.simulation.autoscaling import scales
from tests.simulation.cluster import Cluster
from tests.simulation.cores import Cores
from tests.simulation.engine import Violation
from tests.simulation.faults import Faults
from tests.simulation.line import may_take_room
from tests.simulation.operating import Operator
from tests.simulation.rest import unowned, unrest
from tests.simulation.wishes import ACTORS, GANGS_MAX, POOL, REPLICAS_MAX, behaviour_of
from tests.simulation.workload import PATIENCE_S, Workload

TICK_S = 0.5
CONVERGENCE_S = 300.0
STAYS_S = 3.0
"""Rest is rest only if it lasts."""

ROOMY = REPLICAS_MAX + max(GANGS_MAX) + max(ACTORS)
TIGHT = REPLICAS_MAX // 2 + 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a seed. ``violation`` is empty if every promise was kept."""

    seed: int
    violation: str = ""
    story: tuple[str, ...] = ()
    trace: str = ""
    events: int = 0
    virtual_s: float = 0.0
    effects: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    def tell(self) -> str:
        """For people: the violation, and what led there."""
        lines = [*self.story, "", f"VIOLATION {self.violation}", f"replay it: make sim SEED={self.seed}"]
        return "\n".join(lines)


class World:
    """One seed's cluster, with its callers, its operator, and what goes wrong."""

    def __init__(self, seed: int, *, cores: Cores | None = None) -> None:
        # Every fourth world is one in which nothing fails: there the strictest promises hold.
        calm = seed % 4 == 0
        self.seed = seed
        lots = Cluster(seed, calm=calm).engine.randomness("setting")
        deployments = lots.randint(1, 2)
        # Mostly room for every deployment at its largest and a surge of each; else gangs wait for each other.
        room = (ROOMY if lots.random() < 0.75 else TIGHT) * deployments + lots.randint(0, 4)
        labels = POOL if lots.random() < 0.3 else {}
        self.cluster = Cluster(seed, cores=cores, cpus=_split(room, lots), labels=labels, calm=calm)
        self.length_s = 25.0 + 25.0 * lots.random()
        self.operator = Operator(self.cluster, deployments=deployments, every_s=4.0 + 6.0 * lots.random())
        self.workload = Workload(self.cluster, self.operator.keys, per_second=2.0 + 6.0 * lots.random())
        self.faults = Faults(self.cluster, every_s=2.0 + 6.0 * lots.random())
        self._routers = lots.randint(1, 3)

    def run(self) -> Result:
        """Lives through it."""
        violation = ""
        try:
            self._live()
        except (Violation, InvariantViolation) as error:
            violation = f"{type(error).__name__} {error}" if isinstance(error, InvariantViolation) else str(error)
        except Exception as error:  # noqa: BLE001 - a crash of a core is a finding like any other
            self.cluster.engine.note(f"raised {error!r}")
            violation = f"a core raised {error!r}"
        engine = self.cluster.engine
        return Result(
            seed=self.seed,
            violation=violation,
            story=tuple(engine.story) if violation else (),
            trace=engine.trace,
            events=engine.events,
            virtual_s=engine.now - 1_000_000.0,
            effects=len(self.cluster.crashes.names),
            outcomes=self.workload.outcomes.count,
            faults={**self.faults.count, "repeat_call": self.cluster.network.repeated},
        )

    def _live(self) -> None:
        cluster = self.cluster
        cluster.start_controller()
        for _ in range(self._routers):
            cluster.add_router()
        self.operator.begin()
        self.workload.begin()
        if not cluster.calm:
            self.faults.begin()
        self.pass_time(self.length_s)
        self.faults.heal()
        self.operator.stop()
        self.workload.stop()
        self.converge()
        self._serves()

    def pass_time(self, seconds: float) -> None:
        """Time passes, and every queue is looked at now and then."""
        end = self.cluster.engine.now + seconds
        while self.cluster.engine.now < end:
            self.cluster.engine.run(min(end, self.cluster.engine.now + TICK_S))
            self.cluster.checks.tick()

    def converge(self) -> None:
        """Waits for rest, which must come and stay."""
        give_up_at = self.cluster.engine.now + CONVERGENCE_S
        calm_since: float | None = None
        while True:
            self.pass_time(TICK_S)
            why = self.operator.not_deployed() or unrest(self.cluster)
            now = self.cluster.engine.now
            calm_since = None if why else (now if calm_since is None else calm_since)
            if calm_since is not None and now >= calm_since + STAYS_S:
                return
            if now >= give_up_at:
                invariant = 6 if unowned(self.cluster) else 7
                raise Violation(f"invariant {invariant}: no rest {CONVERGENCE_S:g} s after the last fault: {why}")

    def _serves(self) -> None:
        """At rest every call succeeds, and then no slot is held."""
        cluster = self.cluster
        records = cluster.store.records.deployments
        self.pass_time(PATIENCE_S + 6.0)
        for key in [key for key, record in records.items() if _comes_when_called(cluster, record)]:
            call = self.workload.probe(key)
            self.pass_time(PATIENCE_S)
            if call is None or call.error is not None or not call.over:
                why = "no router" if call is None else f"{call.error!r}"
                raise Violation(f"invariant 7: nothing comes for a call to {key}, which scales from none: {why}")
        for key in [key for key, record in records.items() if record.num_replicas and _has_gangs(cluster, key)]:
            for _ in range(3):
                call = self.workload.probe(key)
                self.pass_time(1.0)
                if call is None or call.error is not None or not call.over:
                    why = "no router" if call is None else f"{call.error!r}"
                    raise Violation(f"invariant 7: at rest a call to {key} fails: {why}")
        self.pass_time(15.0)
        hanging = [call.name for call in self.workload.calls if not call.over]
        if hanging:
            raise Violation(f"invariant 8: at rest these calls have no answer: {hanging}")
        for process in cluster.backend.processes.values():
            process.slots.check_rest()


def _split(room: int, lots: Random) -> tuple[float, ...]:
    """The CPUs of each node: one has all, or they are shared out unevenly."""
    cuts = sorted(lots.randint(1, room - 1) for _ in range(lots.choice((0, 0, 1, 2, 3))))
    return tuple(float(end - start) for start, end in pairwise((0, *cuts, room)) if end > start)


def simulate(seed: int, *, cores: Cores | None = None) -> Result:
    """Lives through the world of a seed."""
    return World(seed, cores=cores).run()


def _comes_when_called(cluster: Cluster, record: DeploymentRecord) -> bool:
    """Whether a deployment has no replicas only because nobody calls, and there is room for a first that nobody waits for."""
    if record.num_replicas or not scales(record) or waits_for_actors(cluster, record):
        return False
    if any(other.waiting_since for other in cluster.store.records.deployments.values()):
        return False
    return behaviour_of(record.target_spec) == "good" and may_take_room(cluster, record, record.target_spec)


def _has_gangs(cluster: Cluster, key: DeploymentKey) -> bool:
    return bool(cluster.store.records.gangs_of(key))
