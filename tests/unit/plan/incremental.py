"""What a controller keeps from what happens, held against what a look at everything says."""

from __future__ import annotations

from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Replica
from serve_core.plan.events import Event
from serve_core.plan.observed import Observed
from serve_core.plan.persistent import differences
from serve_core.plan.policy import Policy
from serve_core.plan.records import Records
from serve_core.plan.settled import SettledGangs, Split
from serve_core.plan.stale import Stale
from serve_core.plan.table import EndpointTable
from serve_core.plan.touched import gang_of_event, touched_by_event, touched_by_records


class Incremental:
    """Settled gangs, and a table that is made of what was touched, since a controller began.

    ``counted`` is how many gangs were not looked at, in all plans together.
    """

    def __init__(self, records: Records, policy: Policy) -> None:
        self.counted = 0
        self._records = records
        self._policy = policy
        self._settled = SettledGangs(policy)
        self._stale = Stale()
        self._table = EndpointTable(epoch="parts", version=0, policy=policy)

    def tell(self, event: Event, records: Records, before: Observed) -> None:
        self._save(records)
        self._settled.heard(event, records)
        gang_id = gang_of_event(event)
        keys = touched_by_event(event, records, before, policy=self._policy)
        self._stale.touch(dict.fromkeys(keys, (gang_id,) if gang_id is not None else None))

    def split(self, records: Records, key: DeploymentKey, observed: Observed, *, now: float) -> Split:
        self._save(records)
        split = self._settled.split(records, key, observed, now=now)
        self.counted += split.settled.count
        assert len(split.gangs) + split.settled.count == len(records.everything_of(key))
        return split

    def check_table(
        self,
        routes: tuple[DeploymentRoute, ...],
        replicas: tuple[Replica, ...],
        *,
        records: Records,
        observed: Observed,
        now: float,
    ) -> None:
        """The table is as one that is built of everything."""
        self._save(records)
        if not self._table.is_published:
            self._stale.add(records.deployments)
        self._table.update_parts(self._stale.take(self._table, records, observed, now=now, policy=self._policy))
        whole = self._table.change_since(None)
        assert whole is not None
        assert _by_id(whole.upserted_replicas) == _by_id(replicas)
        assert {route.key: route for route in whole.upserted_deployments} == {route.key: route for route in routes}

    def _save(self, records: Records) -> None:
        if records is self._records:
            return
        for gang in differences(self._records.gangs, records.gangs):
            self._settled.changed(gang.before, gang.after)
        self._stale.touch(touched_by_records(self._records, records))
        self._records = records


def _by_id(replicas: tuple[Replica, ...]) -> dict[ReplicaId, Replica]:
    return {replica.replica_id: replica for replica in replicas}
