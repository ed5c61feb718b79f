"""Bugs that were put in on purpose, each as other cores: what a checker is worth is what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from replica.core.slots import Run, SlotLedger
from router.core.lane import Lane
from router.core.queue import Waiter
from router.core.retry import Outcome, outcome
from serve_core.errors import ReplicaDiedError, SlotConsumedError
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Gang, ReplicaPhase
from serve_core.plan.actions import FreePlacement, KillProcess
from serve_core.plan.endpoints import TablePart
from serve_core.plan.lifecycle import Trigger, move
from serve_core.plan.plan import Plan, TableFacts
from serve_core.plan.reconcile import plan
from serve_core.plan.records import GangRecord
from serve_core.plan.stale import Stale
from tests.simulation.cores import Cores, table_facts


def drains_before_routers_acknowledged() -> Cores:
    """The planner takes what left the table for withdrawn from every router."""

    def facts(table: Any, replica_ids: Any, audience: Any, *, listening_since: float, now: float) -> TableFacts:
        ids = tuple(replica_ids)
        told = table_facts(table, ids, audience, listening_since=listening_since, now=now)
        return replace(told, withdrawn=frozenset(one for one in ids if one not in table))

    return Cores(facts=facts)


class _ForgetsCancelled(SlotLedger):
    def finish(self, run: Run, *, ok: bool, now: float) -> bool:
        return super().finish(run, ok=ok, now=now) if ok else True


def forgets_cancelled_slots() -> Cores:
    """A cancelled call keeps its slot for ever."""
    return Cores(ledger=_ForgetsCancelled)


class _GrantsOneTooMany(SlotLedger):
    def resize(self, capacity: int) -> None:
        super().resize(capacity + 1)


def grants_one_slot_too_many() -> Cores:
    """A replica takes one call more than it may."""
    return Cores(ledger=_GrantsOneTooMany)


def publishes_before_the_living_are_known() -> Cores:
    """A new controller publishes at once, and forgets where those that served are."""

    def plan_without_endpoints(deployment: Any, gangs: Any, *rest: Any, **named: Any) -> Plan:
        planned = plan(deployment, gangs, *rest, **named)
        forgetful = tuple(
            replace(gang, members=tuple(replace(member, endpoint=None) for member in gang.members))
            for gang in planned.saved_gangs
        )
        return replace(planned, saved_gangs=forgetful)

    return Cores(plan=plan_without_endpoints, is_recovering=lambda *_, **__: False)


def frees_placements_of_the_living() -> Cores:
    """The planner frees a placement in the same breath as it kills."""

    def hasty(*args: Any, **named: Any) -> Plan:
        planned = plan(*args, **named)
        kills = [action for action in planned.actions if isinstance(action, KillProcess)]
        frees = tuple(FreePlacement(gang_id=action.gang_id) for action in kills)
        return replace(planned, actions=frees + planned.actions)

    return Cores(plan=hasty)


def repeats_what_was_delivered() -> Cores:
    """A router takes a request that died with its replica for one that never arrived."""

    def again(error: BaseException) -> Outcome:
        return Outcome.UNREACHABLE if isinstance(error, ReplicaDiedError) else outcome(error)

    return Cores(outcome=again)


def withdraws_more_than_may_be_unavailable() -> Cores:
    """As soon as something of a revision is created, everything of others goes."""

    def greedy(deployment: Any, gangs: Any, *rest: Any, **named: Any) -> Plan:
        known = {gang.gang_id: gang for gang in gangs}
        planned = plan(deployment, known.values(), *rest, **named)
        fresh = [gang for gang in planned.saved_gangs if gang.gang_id not in known and gang.actor is None]
        new = [gang.revision for gang in fresh if gang.revision == deployment.target]
        if not new:
            return planned
        saved = {gang.gang_id: gang for gang in planned.saved_gangs}
        for gang_id, gang in {**known, **saved}.items():
            old = gang.actor is None and gang.revision not in new and gang.phase is ReplicaPhase.READY
            if old and gang_id not in planned.deleted_gangs:
                saved[gang_id] = move(gang, Trigger.UNWANTED, now=named["now"])
        return replace(planned, saved_gangs=tuple(saved.values()))

    return Cores(plan=greedy)


class _LosesWakeups(Lane):
    def settle(self, now: float) -> list[Waiter]:
        return super().settle(now) if len(self.queue) < 2 else []


def loses_wakeups() -> Cores:
    """A slot that frees wakes nobody where several wait."""
    return Cores(lane=_LosesWakeups)


def forgets_to_stop() -> Cores:
    """The planner forgets a gang before its processes have ended."""

    def careless(*args: Any, **named: Any) -> Plan:
        planned = plan(*args, **named)
        kept = tuple(action for action in planned.actions if not isinstance(action, KillProcess))
        return replace(planned, actions=kept)

    return Cores(plan=careless)


class _RoutesToPartsOfGangs(Stale):
    def take(self, *args: Any, **named: Any) -> dict[DeploymentKey, TablePart]:
        return {
            key: part._replace(replicas=tuple(one for one in part.replicas if not _is_last_of_many(one.gang)))
            for key, part in super().take(*args, **named).items()
        }


def _is_last_of_many(gang: Gang) -> bool:
    return 1 < gang.size == gang.rank + 1


def routes_to_parts_of_gangs() -> Cores:
    """Gangs are routed to without their last members."""
    return Cores(stale=_RoutesToPartsOfGangs)


def gives_a_rank_twice() -> Cores:
    """The last member of a new gang is a second leader."""

    def twice(gang: GangRecord) -> GangRecord:
        return replace(gang, members=(*gang.members[:-1], replace(gang.members[-1], rank=0)))

    def careless(deployment: Any, gangs: Any, *rest: Any, **named: Any) -> Plan:
        known = {gang.gang_id: gang for gang in gangs}
        planned = plan(deployment, known.values(), *rest, **named)
        saved = (twice(gang) if gang.gang_id not in known else gang for gang in planned.saved_gangs)
        return replace(planned, saved_gangs=tuple(saved))

    return Cores(plan=careless)


def leaks_placements() -> Cores:
    """The planner forgets a gang whose processes have ended, and not what it held."""

    def careless(*args: Any, **named: Any) -> Plan:
        planned = plan(*args, **named)
        held = {action.gang_id: None for action in planned.actions if isinstance(action, FreePlacement)}
        return replace(
            planned,
            actions=tuple(action for action in planned.actions if not isinstance(action, FreePlacement)),
            saved_gangs=tuple(gang for gang in planned.saved_gangs if gang.gang_id not in held),
            deleted_gangs=(*planned.deleted_gangs, *held),
        )

    return Cores(plan=careless)


def counts_failures_of_members() -> Cores:
    """A gang that fails to start counts as often as it has members."""

    def strict(deployment: Any, *args: Any, **named: Any) -> Plan:
        planned = plan(deployment, *args, **named)
        saved = planned.saved_deployment
        if saved is None or saved.start_failures <= deployment.start_failures:
            return planned
        failures = saved.start_failures + saved.target_spec.gang.size - 1
        return replace(planned, saved_deployment=replace(saved, start_failures=failures))

    return Cores(plan=strict)


def holds_members_and_waits() -> Cores:
    """Who is refused by some members of a gang waits, and keeps what the others promised."""
    return Cores(holds_and_waits=True)


class _TakesTokensTwice(SlotLedger):
    def dispatch(self, token: str, *, now: float) -> Run:
        try:
            return super().dispatch(token, now=now)
        except SlotConsumedError:
            return self.start(now=now)


def takes_tokens_twice() -> Cores:
    """A replica runs a call whose token was used, if it has room; only a call that arrives twice brings one."""
    return Cores(ledger=_TakesTokensTwice)


PLANTED: dict[str, tuple[Callable[[], Cores], str]] = {
    "drains before the routers acknowledged": (drains_before_routers_acknowledged, "invariant 2"),
    "forgets the slots of cancelled calls": (forgets_cancelled_slots, "invariant 1"),
    "grants one slot too many": (grants_one_slot_too_many, "invariant 1"),
    "publishes before the living are known": (publishes_before_the_living_are_known, "invariant 8"),
    "frees placements of the living": (frees_placements_of_the_living, "invariant 6"),
    "repeats what was delivered": (repeats_what_was_delivered, "invariant 8"),
    "withdraws more than may be unavailable": (withdraws_more_than_may_be_unavailable, "invariant 5"),
    "loses wakeups": (loses_wakeups, "invariant 8"),
    "forgets to stop what failed": (forgets_to_stop, "invariant 7"),
    "routes to parts of gangs": (routes_to_parts_of_gangs, "invariant 3"),
    "gives a rank twice": (gives_a_rank_twice, "invariant 3"),
    "leaks placements": (leaks_placements, "invariant 6"),
    "counts failures of members": (counts_failures_of_members, "invariant 8"),
    "holds members and waits": (holds_members_and_waits, "invariant 8"),
    "takes tokens twice": (takes_tokens_twice, "invariant 1"),
}
"""Each planted bug by name: the cores that have it, and how the story must end."""
