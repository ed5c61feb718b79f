"""A deployment that serves under a light load, and one change of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from serve_core.plan.eventlog import EventLog
from serve_core.plan.records import Records
from tests.simulation.cluster import Cluster
from tests.simulation.rest import unrest
from tests.simulation.steps import KEY, Decide, Step, deploys
from tests.simulation.store import Store
from tests.simulation.workload import Workload

AT_LEAST_S = 4.0
"""By then a controller that died is back, and has been asked for what it did not record."""
STAYS_S = 2
PATIENCE_S = 120.0


class CountingStore(Store):
    """Takes no records that count less of a life than those before did: who comes after a crash goes on counting."""

    def commit(self, records: Records, events: EventLog, written: Mapping[str, bytes]) -> None:
        """Commits, and compares."""
        before, after = counts(self.records), counts(records)
        for what, numbers in after.items():
            known = before.get(what, numbers)
            assert all(new >= old for new, old in zip(numbers, known, strict=True)), f"{what}: {known}, then {numbers}"
        super().commit(records, events, written)


def counts(records: Records) -> dict[object, tuple[int, ...]]:
    """Of each gang its epoch, its restarts, and the epochs of its members; of each actor its lives and its restarts."""
    found: dict[object, tuple[int, ...]] = {
        gang.gang_id: (gang.epoch, gang.restarts, gang.incarnation, *(member.epoch for member in gang.members))
        for gang in records.gangs.values()
    }
    for record in records.deployments.values():
        found.update(((record.key, actor.key), (actor.incarnation, actor.restarts)) for actor in record.actors)
    return found


class Scene:
    """A deployment that serves under a light load, and one change of it."""

    def __init__(self, step: Step) -> None:
        self.cluster = Cluster(1, cpus=(8.0, 8.0), calm=False)
        self.cluster.store = CountingStore()
        self.cluster.start_controller()
        self.cluster.add_router()
        self.cluster.add_router()
        self.workload = Workload(self.cluster, (KEY,), per_second=3.0)
        if step.before:
            self.ask(deploys(*step.before))
        self.cluster.engine.run(self.cluster.engine.now + 5.0)
        if step.before:
            self.workload.begin()
        self.cluster.engine.run(self.cluster.engine.now + 1.0)
        self.before = len(self.cluster.crashes.names)
        self._act = step.act

    def ask(self, decide: Decide) -> None:
        """Asks until a controller has recorded it: whoever asks tries again when there is no answer."""
        controller = self.cluster.controller
        if controller is None or not controller.change(decide):
            self.cluster.engine.later(0.1, partial(self.ask, decide))

    def play(self) -> None:
        """Changes it, and waits for a rest that lasts."""
        engine = self.cluster.engine
        self._act(self)
        give_up_at = engine.now + PATIENCE_S
        engine.run(engine.now + AT_LEAST_S)
        rests_s = 0
        while rests_s < STAYS_S:
            engine.run(engine.now + 1.0)
            self.cluster.checks.tick()
            why = unrest(self.cluster)
            rests_s = 0 if why else rests_s + 1
            assert engine.now < give_up_at, "\n".join([*engine.story, why])

    @property
    def effects(self) -> list[str]:
        """What was done for the change."""
        return self.cluster.crashes.names[self.before :]
