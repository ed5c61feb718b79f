"""The controller's records in its store: one key each, and every change in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from serve_core.controller.blobs import dropped
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, GangId
from serve_core.plan.eventlog import EventLog
from serve_core.plan.persistent import differences
from serve_core.plan.records import ApplicationRecord, ClusterRecord, DeploymentRecord, GangRecord, NodeRecord, Records
from serve_core.store.port import Store, Transaction
from serve_core.store.records import decode_record, encode_record

CLUSTER_KEY = "cluster"
_APPLICATIONS = "applications/"
_DEPLOYMENTS = "deployments/"
_GANGS = "gangs/"
_NODES = "nodes/"
_EVENTS = "events/"
_NO_EVENTS = EventLog()
_NO_BLOBS: Mapping[str, bytes] = {}


class RecordStore:
    """Reads and writes records. Each write expects the cluster's record as this controller left it, so a second one cannot
    interleave with it.

    Args:
        store: An open store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cluster_revision = 0
        # One write at a time: each expects the revision that the one before has left.
        self._writing = asyncio.Lock()

    async def load_cluster(self, *, new_epoch: str) -> ClusterRecord:
        """The cluster's record; a new store becomes one of this epoch.

        Raises:
            StoreUnusableError: It cannot be read or written.
        """
        entry = await self._store.get(CLUSTER_KEY)
        if entry is None:
            cluster = ClusterRecord(epoch=new_epoch)
            await self.save_cluster(cluster)
            return cluster
        self._cluster_revision = entry.revision
        return decode_record(entry.key, entry.value, ClusterRecord)

    async def save_cluster(self, cluster: ClusterRecord) -> None:
        """Writes the cluster's record.

        Raises:
            RevisionConflictError: Another controller wrote it.
        """
        async with self._writing:
            self._cluster_revision = await self._store.commit(
                Transaction(puts={CLUSTER_KEY: encode_record(cluster)}, expected={CLUSTER_KEY: self._cluster_revision})
            )

    async def load(self) -> Records:
        """Every record.

        Raises:
            StoreUnusableError: One cannot be read.
        """
        applications = [
            decode_record(entry.key, entry.value, ApplicationRecord) for entry in await self._store.scan(_APPLICATIONS)
        ]
        deployments = [
            decode_record(entry.key, entry.value, DeploymentRecord) for entry in await self._store.scan(_DEPLOYMENTS)
        ]
        gangs = [decode_record(entry.key, entry.value, GangRecord) for entry in await self._store.scan(_GANGS)]
        nodes = [decode_record(entry.key, entry.value, NodeRecord) for entry in await self._store.scan(_NODES)]
        return Records(
            applications={record.name: record for record in applications},
            deployments={record.key: record for record in deployments},
            gangs={record.gang_id: record for record in gangs},
            nodes={record.node_id: record for record in nodes},
        )

    async def read_blob(self, key: str) -> bytes | None:
        """The bytes of a key; None if there are none.

        Raises:
            StoreUnusableError: It cannot be read.
        """
        entry = await self._store.get(key)
        return entry.value if entry is not None else None

    async def load_events(self) -> EventLog:
        """Every event that is kept.

        Raises:
            StoreUnusableError: One cannot be read.
        """
        return EventLog.of(decode_record(entry.key, entry.value, Event) for entry in await self._store.scan(_EVENTS))

    async def save(
        self,
        before: Records,
        after: Records,
        *,
        events_before: EventLog = _NO_EVENTS,
        events: EventLog = _NO_EVENTS,
        blobs: Mapping[str, bytes] = _NO_BLOBS,
    ) -> None:
        """Writes what differs, in one transaction; nothing if nothing does.

        Args:
            before: The records that are saved.
            after: The records that are to be.
            events_before: The events that are saved.
            events: The events that are to be: those from before, as far as there is room, and newer ones.
            blobs: Bytes that the new records tell of, by their keys.

        Raises:
            RevisionConflictError: Another controller writes to this store.
            StoreUnusableError: It cannot be written.
        """
        changed = dict(_changed(before, after))
        puts = {key: encode_record(record) for key, record in changed.items() if record is not None}
        puts |= {_event_key(event): encode_record(event) for event in events.after(events_before.last_sequence)}
        deletes = frozenset(key for key, record in changed.items() if record is None)
        puts |= blobs
        deletes |= {_event_key(event) for event in events_before.older_than(events)}
        for deployment in differences(before.deployments, after.deployments):
            deletes |= frozenset(dropped(deployment.before, deployment.after))
        if not puts and not deletes:
            return
        async with self._writing:
            await self._store.commit(
                Transaction(puts=puts, deletes=deletes, expected={CLUSTER_KEY: self._cluster_revision})
            )


def _changed(before: Records, after: Records) -> Iterator[tuple[str, object]]:
    """What differs, by its key in the store; None for what is gone."""
    for application in differences(before.applications, after.applications):
        yield _APPLICATIONS + application.key, application.after
    for deployment in differences(before.deployments, after.deployments):
        yield _deployment_key(deployment.key), deployment.after
    for gang in differences(before.gangs, after.gangs):
        yield _gang_key(gang.key), gang.after
    for node in differences(before.nodes, after.nodes):
        yield _NODES + node.key, node.after


def _deployment_key(key: DeploymentKey) -> str:
    return f"{_DEPLOYMENTS}{key.application}/{key.deployment}"


def _event_key(event: Event) -> str:
    return f"{_EVENTS}{event.sequence:020d}"


def _gang_key(gang: GangId) -> str:
    return _GANGS + gang
