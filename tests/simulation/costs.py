"""What a world costs its controllers, counted: the same for the same seed, however busy the machine is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_core.model.endpoints import TableChange
from serve_core.model.ids import DeploymentKey
from serve_core.plan.persistent import differences
from serve_core.plan.records import GangRecord, Records


@dataclass(slots=True, kw_only=True)
class Costs:
    """Counts since the beginning, or since ``restart``.

    Attributes:
        keys: Deployments that were planned.
        plans: Calls of the planner.
        gangs: Gangs that these calls were given.
        records: Records that were saved or deleted.
        told: Routes and replicas in what was sent to routers, coming or going.
        swept: Gangs that were there at each search for what nobody owns, which looks at all.
    """

    keys: dict[DeploymentKey, None] = field(default_factory=dict)
    plans: int = 0
    gangs: int = 0
    records: int = 0
    told: int = 0
    swept: int = 0

    def planned(self, key: DeploymentKey, gangs: Sequence[GangRecord]) -> None:
        """The planner is called."""
        self.keys[key] = None
        self.plans += 1
        self.gangs += len(gangs)

    def saved(self, before: Records, after: Records) -> None:
        """Records are committed."""
        self.records += sum(1 for _ in differences(before.applications, after.applications))
        self.records += sum(1 for _ in differences(before.deployments, after.deployments))
        self.records += sum(1 for _ in differences(before.gangs, after.gangs))

    def tell(self, change: TableChange) -> None:
        """A table, or a change of it, goes out to a router."""
        self.told += len(change.upserted_deployments) + len(change.removed_deployments)
        self.told += len(change.upserted_replicas) + len(change.removed_replica_ids)

    def counts(self) -> dict[str, int]:
        """Each count by its name."""
        return {
            "deployments": len(self.keys),
            "plans": self.plans,
            "gangs": self.gangs,
            "records": self.records,
            "told": self.told,
            "swept": self.swept,
        }

    def restart(self) -> None:
        """Counts from zero."""
        self.keys.clear()
        self.plans = self.gangs = self.records = self.told = self.swept = 0
