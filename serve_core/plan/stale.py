"""Which parts of the endpoint table may be others now, and what they are: costs what was touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from serve_core.model.ids import DeploymentKey, GangId
from serve_core.plan.endpoints import TablePart, build_part
from serve_core.plan.observed import Observed
from serve_core.plan.policy import Policy
from serve_core.plan.records import Records
from serve_core.plan.table import EndpointTable
from serve_core.plan.touched import Touched


class Stale:
    """Deployments whose part of the table may be another, and in which of their gangs.

    That silence has become suspicion is in the records, so it touches what it is about, too.
    """

    def __init__(self) -> None:
        # All gangs, if None. Dicts, because sets have no order.
        self._gangs: dict[DeploymentKey, dict[GangId, None] | None] = {}

    def __bool__(self) -> bool:
        return bool(self._gangs)

    def add(self, keys: Iterable[DeploymentKey]) -> None:
        """Something happened that may matter to all gangs of these."""
        self._gangs.update(dict.fromkeys(keys))

    def touch(self, touched: Touched) -> None:
        """Something happened to these gangs."""
        for key, gangs in touched.items():
            known = self._gangs.setdefault(key, {})
            if gangs is None or known is None:
                self._gangs[key] = None
            else:
                known.update(dict.fromkeys(gangs))

    def take(
        self, table: EndpointTable, records: Records, observed: Observed, *, now: float, policy: Policy
    ) -> dict[DeploymentKey, TablePart]:
        """The new parts for a table, from which nothing but what was touched differs. Then nothing is stale any more."""
        gangs, self._gangs = self._gangs, {}
        return {
            key: build_part(records, observed, key, now=now, policy=policy, changed=_changed(table, key, touched))
            for key, touched in gangs.items()
        }


def _changed(table: EndpointTable, key: DeploymentKey, touched: Collection[GangId] | None) -> Collection[GangId] | None:
    """The gangs to look at. If none of the others is in the table, all must be asked why nothing comes."""
    return touched if touched is not None and len(touched) < table.gangs_in(key) else None
