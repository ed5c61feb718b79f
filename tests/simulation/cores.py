"""The pure cores that the world runs. A planted bug is another core in the place of one of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from replica.core.slots import SlotLedger
from router.core.lane import Lane
from router.core.retry import Outcome, outcome
from serve_core.model.ids import ReplicaId
from serve_core.plan.actor_state import store_state
from serve_core.plan.autoscaler import Autoscaler
from serve_core.plan.deploy import Change, rescale
from serve_core.plan.endpoints import is_recovering
from serve_core.plan.plan import Plan, TableFacts
from serve_core.plan.reconcile import plan
from serve_core.plan.stale import Stale
from serve_core.plan.table import Audience, EndpointTable


def table_facts(
    table: EndpointTable, replica_ids: Iterable[ReplicaId], audience: Audience, *, listening_since: float, now: float
) -> TableFacts:
    """What routers know of these replicas."""
    return table.facts_for(replica_ids, audience, listening_since=listening_since, now=now)


@dataclass(frozen=True, kw_only=True)
class Cores:
    """What is decided where. By default as the product does."""

    plan: Callable[..., Plan] = plan
    facts: Callable[..., TableFacts] = table_facts
    is_recovering: Callable[..., bool] = is_recovering
    outcome: Callable[[BaseException], Outcome] = outcome
    store_state: Callable[..., Change] = store_state
    rescale: Callable[..., Change] = rescale
    autoscaler: type[Autoscaler] = Autoscaler
    ledger: type[SlotLedger] = SlotLedger
    lane: type[Lane] = Lane
    stale: type[Stale] = Stale
    holds_and_waits: bool = False
    """Whether what some members of a gang promised is kept while the call waits for the others."""
