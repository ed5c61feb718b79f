"""Records in a store: what is saved is loaded, and two controllers cannot interleave."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_core.controller.persistence import RecordStore
from serve_core.errors import RevisionConflictError
from serve_core.plan.records import ClusterRecord, Records
from serve_core.testing import MemoryStore
from tests.unit.controller.samples import records


async def test_a_new_store_gets_its_epoch_once() -> None:
    store = MemoryStore()
    assert await RecordStore(store).load_cluster(new_epoch="first") == ClusterRecord(epoch="first")
    assert await RecordStore(store).load_cluster(new_epoch="second") == ClusterRecord(epoch="first")


async def test_what_is_saved_is_loaded() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    saved = records("a", "b")
    await saving.save(Records(), saved)
    assert await RecordStore(store).load() == saved


async def test_only_what_differs_is_written() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    before = records("a", "b")
    await saving.save(Records(), before)
    revisions = {entry.key: entry.revision for entry in await store.scan()}
    changed = replace(next(iter(before.deployments.values())), num_replicas=9)
    gone = list(before.gangs)[1]
    after = Records(
        applications=before.applications,
        deployments={**before.deployments, changed.key: changed},
        gangs={gang_id: gang for gang_id, gang in before.gangs.items() if gang_id != gone},
    )
    await saving.save(before, after)
    written = {entry.key for entry in await store.scan() if revisions.get(entry.key) != entry.revision}
    assert written == {"deployments/app/a"}
    assert await saving.load() == after


async def test_nothing_is_written_when_nothing_differs() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    await saving.save(records("a"), records("a"))
    assert [entry.key for entry in await store.scan()] == ["cluster"]


async def test_a_controller_that_was_replaced_cannot_write() -> None:
    store = MemoryStore()
    first, second = RecordStore(store), RecordStore(store)
    await first.load_cluster(new_epoch="e")
    cluster = await second.load_cluster(new_epoch="e")
    await second.save_cluster(replace(cluster, table_version=5))
    with pytest.raises(RevisionConflictError):
        await first.save(Records(), records("a"))
    with pytest.raises(RevisionConflictError):
        await first.save_cluster(replace(cluster, table_version=6))
    assert await second.load() == Records()


class _SlowStore(MemoryStore):
    """Lets others run before each commit, as a real one does."""

    async def commit(self, transaction: object) -> int:
        await asyncio.sleep(0)
        return await super().commit(transaction)  # type: ignore[arg-type]


async def test_writes_at_once_do_not_conflict_with_each_other() -> None:
    saving = RecordStore(_SlowStore())
    cluster = await saving.load_cluster(new_epoch="e")
    await asyncio.gather(
        *(saving.save_cluster(replace(cluster, table_version=version)) for version in range(5)),
        saving.save(Records(), records("a")),
    )
    assert await saving.load() == records("a")
