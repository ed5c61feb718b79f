"""Plans for each deployment that something happened to, saves what was planned, and only then has it done."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator

from serve_core.controller.executor import Executor
from serve_core.controller.persistence import RecordStore
from serve_core.controller.world import World
from serve_core.model.ids import DeploymentKey, GangId
from serve_core.model.status import ConditionType
from serve_core.plan.conditions import with_condition
from serve_core.plan.deploy import Change, apply_change
from serve_core.plan.events import (
    Event,
    Forgotten,
    HeartbeatSeen,
    NodesSeen,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
)
from serve_core.plan.orphans import collect
from serve_core.plan.placement import Capacity
from serve_core.plan.plan import Plan, TableFacts
from serve_core.plan.policy import Policy
from serve_core.plan.reconcile import apply, forgotten, plan
from serve_core.plan.records import Records
from serve_core.runtime import clock, log

PLANNER_BUG = "PlannerBug"
"""The reason of the condition Degraded when planning itself failed."""

UnitRandom = Callable[[], float]

_log = log.get_logger(__name__)
_randomness = secrets.SystemRandom()


def fresh_ids() -> Iterator[str]:
    """Ids that no gang had before."""
    while True:
        yield secrets.token_hex(4)


class ReconcileLoop:
    """One deployment at a time; one that several things happened to meanwhile is planned once.

    Args:
        world: What is known; its events wake the loop.
        store: Where plans are saved before they are done.
        executor: Does what was planned.
        table_facts: What routers know of the replicas of a deployment, now.
        policy: How patient the planner is.
        before_planning: Called before each round of plans.
        unit_random: Draws from [0, 1).
    """

    def __init__(
        self,
        *,
        world: World,
        store: RecordStore,
        executor: Executor,
        table_facts: Callable[[], TableFacts],
        policy: Policy,
        before_planning: Callable[[], None] = lambda: None,
        unit_random: UnitRandom = _randomness.random,
    ) -> None:
        self._world = world
        self._store = store
        self._executor = executor
        self._table_facts = table_facts
        self._policy = policy
        self._before_planning = before_planning
        self._unit_random = unit_random
        self._ids = fresh_ids()
        # Whoever changes records holds this from reading them until they are saved.
        self._writing = asyncio.Lock()
        # Keys in the order in which they are due; a dict, because sets have no order.
        self._dirty: dict[DeploymentKey, None] = {}
        self._wakes: dict[DeploymentKey, float] = {}
        self._blocked: set[DeploymentKey] = set()
        self._bugs: dict[DeploymentKey, int] = {}
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Begins to listen, and takes every deployment for one that something happened to."""
        self._world.listen(self._on_event)
        self.wake_all()

    def wake_all(self) -> None:
        """Something happened that may matter to every deployment."""
        self.wake(self._world.records.deployments)

    def wake(self, keys: Iterable[DeploymentKey]) -> None:
        """Something happened to these deployments."""
        self._dirty.update(dict.fromkeys(keys))
        self._woken.set()

    async def change(self, decide: Callable[[Records], Change]) -> Change:
        """Changes what is wanted, as an operator asks; what ``decide`` raises is raised, and nothing is changed.

        Raises:
            StoreUnusableError: It could not be saved, and is not changed.
        """
        async with self._writing:
            before = self._world.records
            change = decide(before)
            after = apply_change(before, change)
            await self._store.save(before, after)
            self._world.replace_records(after)
        self.wake(record.key for record in change.saved_deployments)
        return change

    async def run(self) -> None:
        """Plans until cancelled. Any error but one of the pure planner is raised."""
        while True:
            await self._wait()
            self._before_planning()
            for key in self._take_due():
                await self._reconcile(key)
            self._executor.submit(
                collect(self._world.records.gangs, self._world.observed, now=self._world.now(), policy=self._policy)
            )

    async def _wait(self) -> None:
        if self._dirty:
            return
        self._woken.clear()
        due = min([*self._wakes.values(), *self._orphans_due()], default=None)
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - self._world.now())):
                await self._woken.wait()
        except TimeoutError:
            return

    def _orphans_due(self) -> list[float]:
        """When what nobody owns is to be ended for the first time; what comes later is an event."""
        due = self._world.observed.listed_at + self._policy.orphan_grace_s
        return [due] if due > self._world.now() else []

    def _take_due(self) -> list[DeploymentKey]:
        now = self._world.now()
        due = dict(self._dirty)
        due.update((key, None) for key, wake_at in self._wakes.items() if wake_at <= now)
        self._dirty.clear()
        for key in due:
            self._wakes.pop(key, None)
        return list(due)

    async def _reconcile(self, key: DeploymentKey) -> None:
        async with self._writing:
            before = self._world.records
            if key not in before.deployments:
                return
            began = clock.monotonic()
            planned = self._plan(key)
            after = apply(before, planned)
            await self._store.save(before, after)
            if planned.changes_records:
                self._world.replace_records(after)
        self._note(key, planned, took_s=clock.monotonic() - began)
        for event in forgotten(before, planned, now=self._world.now()):
            self._world.tell(event)
        self._executor.submit(planned.actions)

    def _plan(self, key: DeploymentKey) -> Plan:
        """The plan, or, if the planner has a bug, one that only says so."""
        records, now = self._world.records, self._world.now()
        try:
            planned = plan(
                records.deployments[key],
                records.gangs_of(key),
                self._world.observed,
                capacity=Capacity(self._world.observed.nodes.values(), records.gangs.values()),
                table=self._table_facts(),
                now=now,
                ids=self._ids,
                unit_random=self._unit_random(),
                policy=self._policy,
            )
        except Exception as error:  # noqa: BLE001 - planning is pure: its bug has changed nothing, and stays with this key
            return self._isolate(key, error, now=now)
        self._bugs.pop(key, None)
        return planned

    def _isolate(self, key: DeploymentKey, error: Exception, *, now: float) -> Plan:
        failures = self._bugs[key] = self._bugs.get(key, 0) + 1
        _log.error("planning failed", deployment=str(key), failures=failures, exc_info=error)
        # The text of an InvariantViolation holds the story that led there.
        message = f"planning failed, a bug of serve-core; what runs is left as it is: {type(error).__name__}: {error}"
        record = self._world.records.deployments[key]
        marked = with_condition(
            record,
            ConditionType.DEGRADED,
            status=True,
            reason=PLANNER_BUG,
            message=message,
            now=now,
        )
        wake_at = now + self._policy.backoff_s(failures, unit_random=self._unit_random())
        return Plan(saved_deployment=marked if marked != record else None, wake_at=wake_at)

    def _note(self, key: DeploymentKey, planned: Plan, *, took_s: float) -> None:
        if planned.wake_at is not None:
            self._wakes[key] = planned.wake_at
        if planned.blocked:
            self._blocked.add(key)
        else:
            self._blocked.discard(key)
        for reason in planned.reasons:
            _log.info("planned", deployment=str(key), why=reason, took_ms=round(took_s * 1000, 3))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, HeartbeatSeen):
            return  # Life as usual: a plan that waits for silence wakes itself.
        self.wake(touched(event, self._world.records, blocked=self._blocked))


def touched(event: Event, records: Records, *, blocked: set[DeploymentKey]) -> list[DeploymentKey]:
    """The deployments that an event may matter to."""
    match event:
        case Forgotten():
            return []  # Told by the loop itself, of what it has planned.
        case PlacementFreed(gang_id=gang_id):
            return [*_of_gang(gang_id, records), *blocked]
        case PlacementReserved(gang_id=gang_id) | PlacementRefused(gang_id=gang_id):
            return _of_gang(gang_id, records)
        case NodesSeen():
            return list(records.deployments)
        case _:
            replica_id = getattr(event, "replica_id", None)
            if replica_id is None:
                return list(records.deployments)  # Routers, and what concerns the whole controller.
            return [
                gang.key
                for gang in records.gangs.values()
                if any(member.replica_id == replica_id for member in gang.members)
            ]


def _of_gang(gang_id: GangId, records: Records) -> list[DeploymentKey]:
    gang = records.gangs.get(gang_id)
    return [gang.key] if gang is not None else []
