"""Plans for each deployment that something happened to, saves what was planned, and only then has it done."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping

from serve_core.controller.agenda import Agenda
from serve_core.controller.executor import Executor
from serve_core.controller.persistence import RecordStore
from serve_core.controller.world import World
from serve_core.model.event import Event as Happened
from serve_core.model.ids import DeploymentKey
from serve_core.model.status import ConditionType
from serve_core.plan.conditions import with_condition
from serve_core.plan.deploy import Change, apply_change
from serve_core.plan.events import Event, Forgotten
from serve_core.plan.orphans import collect
from serve_core.plan.plan import Plan, TableFacts
from serve_core.plan.policy import Policy
from serve_core.plan.reconcile import apply, forgotten, plan
from serve_core.plan.records import GangRecord, Records
from serve_core.plan.touched import is_unowned
from serve_core.runtime import clock, log
from serve_core.runtime.to_the_end import to_the_end

PLANNER_BUG = "PlannerBug"
"""The reason of the condition Degraded when planning itself failed."""

_NO_BLOBS: Mapping[str, bytes] = {}

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
        table_facts: What routers know of the replicas of gangs, now.
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
        table_facts: Callable[[Iterable[GangRecord]], TableFacts],
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
        self._agenda = Agenda()
        self._blocked: dict[DeploymentKey, None] = {}
        # When to look for what nobody owns; None while there is no reason to.
        self._orphans_at: float | None = None
        self._bugs: dict[DeploymentKey, int] = {}
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Begins to listen, and takes every deployment for one that something happened to."""
        self._world.listen(self._on_event)
        self._world.listen_touched(self.wake)
        self._look_for_orphans()
        self.wake_all()

    def wake_all(self) -> None:
        """Something happened that may matter to every deployment."""
        self.wake(self._world.records.deployments)

    def wake(self, keys: Iterable[DeploymentKey]) -> None:
        """Something happened to these deployments."""
        self._agenda.add(keys)
        self._woken.set()

    async def change(self, decide: Callable[[Records], Change], *, blobs: Mapping[str, bytes] = _NO_BLOBS) -> Change:
        """Changes what is wanted, as an operator asks; what ``decide`` raises is raised, and nothing is changed.

        Who is cancelled meanwhile, because a caller went, may have changed it or not; but what the store has is what is known.

        Args:
            decide: The change, from the records as they are.
            blobs: Bytes that are saved in the same transaction, by their keys in the store, if a deployment changes.

        Raises:
            StoreUnusableError: It could not be saved, and is not changed.
        """
        async with self._writing:
            return await to_the_end(self._change(decide, blobs))

    async def _change(self, decide: Callable[[Records], Change], blobs: Mapping[str, bytes]) -> Change:
        before = self._world.records
        change = decide(before)
        after = apply_change(before, change)
        await self._save(after, change.events, blobs=blobs if change.saved_deployments else _NO_BLOBS)
        self.wake(record.key for record in change.saved_deployments)
        if change.saved_nodes or change.deleted_nodes:
            self.wake_all()  # It matters to what is there, and to what waits for room.
        return change

    async def run(self) -> None:
        """Plans until cancelled. Any error but one of the pure planner is raised."""
        while True:
            await self._wait()
            self._before_planning()
            await self.plan_due()

    @property
    def is_due(self) -> bool:
        """Whether something happened that was not planned for."""
        return self._agenda.is_due

    async def plan_due(self) -> None:
        """Plans for what is due now, once."""
        for key in self._agenda.take(self._world.now()):
            await self._reconcile(key)
        self._collect_orphans()

    async def _wait(self) -> None:
        if self._agenda.is_due:
            return
        self._woken.clear()
        times = (self._agenda.next_time(), self._orphans_at)
        due = min((time for time in times if time is not None), default=None)
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - self._world.now())):
                await self._woken.wait()
        except TimeoutError:
            return

    def _look_for_orphans(self) -> None:
        """Soon, but not before those that an earlier controller left had their grace."""
        now = self._world.now()
        self._orphans_at = max(now, (self._world.observed.listed_at or now) + self._policy.orphan_grace_s)

    def _collect_orphans(self) -> None:
        now = self._world.now()
        if self._orphans_at is None or now < self._orphans_at:
            return
        actions = collect(self._world.records.gangs, self._world.observed, now=now, policy=self._policy)
        self._orphans_at = now + self._policy.kill_retry_s if actions else None
        self._executor.submit(actions)

    async def _reconcile(self, key: DeploymentKey) -> None:
        async with self._writing:
            before = self._world.records
            if key not in before.deployments:
                return
            began = clock.monotonic()
            planned = self._plan(key)
            if planned.changes_records or planned.events:
                await self._save(apply(before, planned), planned.events)
        self._note(key, planned, took_s=clock.monotonic() - began)
        for event in forgotten(before, planned, now=self._world.now()):
            self._world.tell(event)
        self._executor.submit(planned.actions)

    async def _save(
        self, after: Records, happened: Iterable[Happened], *, blobs: Mapping[str, bytes] = _NO_BLOBS
    ) -> None:
        """Saves records and what happened in one transaction; only then they hold."""
        world = self._world
        events = world.events.appended(happened)
        await self._store.save(world.records, after, events_before=world.events, events=events, blobs=blobs)
        world.replace_records(after, events)

    def _plan(self, key: DeploymentKey) -> Plan:
        """The plan, or, if the planner has a bug, one that only says so."""
        records, now = self._world.records, self._world.now()
        try:
            gangs, settled = self._world.settled.split(records, key, self._world.observed, now=now)
            planned = plan(
                records.deployments[key],
                gangs,
                self._world.observed,
                capacity=self._world.capacity_for(key),
                table=self._table_facts(gangs),
                now=now,
                ids=self._ids,
                unit_random=self._unit_random(),
                policy=self._policy,
                settled=settled,
                draining=records.nodes,
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
        self._agenda.put(key, planned.wake_at)
        if planned.blocked:
            self._blocked[key] = None
        else:
            self._blocked.pop(key, None)
        frees_turn = planned.frees_starts and self._policy.max_concurrent_starts_per_node
        ends_waits = planned.deleted_gangs or planned.frees_claim or frees_turn
        if ends_waits and self._blocked:
            # Who waits longest is asked first what is left for the others.
            self.wake(self._world.waiters.in_order(self._blocked))
        for reason in planned.reasons:
            _log.info("planned", deployment=str(key), why=reason, took_ms=round(took_s * 1000, 3))

    def _on_event(self, event: Event) -> None:
        # What was forgotten has ended. Anything else of what nobody has a record of is to be looked into.
        if not isinstance(event, Forgotten) and is_unowned(event, self._world.records):
            self._look_for_orphans()
            self._woken.set()
