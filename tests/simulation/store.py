"""What outlives a controller: its records, as they were committed last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from serve_core.controller.blobs import dropped
from serve_core.plan.eventlog import EventLog
from serve_core.plan.persistent import differences
from serve_core.plan.records import ApplicationRecord, ClusterRecord, DeploymentRecord, GangRecord, NodeRecord, Records
from serve_core.store.records import decode_record, encode_record

R = TypeVar("R", ApplicationRecord, DeploymentRecord, GangRecord, NodeRecord)


class Store:
    """Transactions are whole or absent, as a value that takes the place of another."""

    def __init__(self) -> None:
        self.cluster = ClusterRecord(epoch="sim")
        self.records = Records()
        self.events = EventLog()
        self.blobs: dict[str, bytes] = {}

    def commit(self, records: Records, events: EventLog, written: Mapping[str, bytes]) -> None:
        """Takes these records, and the bytes that they tell of; what only the former told of is gone."""
        for deployment in differences(self.records.deployments, records.deployments):
            for gone in dropped(deployment.before, deployment.after):
                del self.blobs[gone]
        self.blobs |= written
        self.records, self.events = records, events

    def load(self) -> Records:
        """The records, after the same way through bytes that a real store takes them."""
        return Records(
            applications={name: _reread(ApplicationRecord, kept) for name, kept in self.records.applications.items()},
            deployments={key: _reread(DeploymentRecord, kept) for key, kept in self.records.deployments.items()},
            gangs={gang_id: _reread(GangRecord, kept) for gang_id, kept in self.records.gangs.items()},
            nodes={node_id: _reread(NodeRecord, kept) for node_id, kept in self.records.nodes.items()},
        )


def _reread(kind: type[R], record: R) -> R:
    return decode_record("simulated", encode_record(record), kind)
