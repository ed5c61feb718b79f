"""Records in a store: what is saved is loaded, and two controllers cannot interleave."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_core.controller.persistence import RecordStore
from serve_core.errors import RevisionConflictError
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey
from serve_core.plan.eventlog import EventLog
from serve_core.plan.records import ClusterRecord, Records
from serve_core.testing import MemoryStore
from tests.unit.controller.samples import actor_gang, records


async def test_a_new_store_gets_its_epoch_once() -> None:
    store = MemoryStore()
    assert await RecordStore(store).load_cluster(new_epoch="first") == ClusterRecord(epoch="first")
    assert await RecordStore(store).load_cluster(new_epoch="second") == ClusterRecord(epoch="first")


async def test_what_is_saved_is_loaded() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    saved = records("a", "b")
    life = actor_gang(next(iter(saved.deployments.values())))
    saved = replace(saved, gangs={**saved.gangs, life.gang_id: life})
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


async def test_events_are_saved_with_the_records_that_they_are_about() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    revision = (await store.scan())[0].revision
    saved, events = records("a"), EventLog().appended(happened("one", "two"))
    await saving.save(Records(), saved, events=events)
    assert {entry.revision for entry in await store.scan() if entry.key != "cluster"} == {revision + 1}
    loaded = RecordStore(store)
    assert await loaded.load() == saved
    assert await loaded.load_events() == events


async def test_only_new_events_are_written_and_old_ones_make_room() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    before = EventLog().appended(happened("one", "two", "three"), at_most=3)
    await saving.save(Records(), Records(), events=before)
    after = before.appended(happened("four"), at_most=3)
    revisions = {entry.key: entry.revision for entry in await store.scan()}
    await saving.save(Records(), Records(), events_before=before, events=after)
    written = [entry.key for entry in await store.scan() if revisions.get(entry.key) != entry.revision]
    assert written == ["events/00000000000000000004"]
    assert await saving.load_events() == after
    assert [event.reason for event in after.events] == ["two", "three", "four"]


async def test_numbers_go_on_after_a_restart() -> None:
    store = MemoryStore()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    await saving.save(Records(), Records(), events=EventLog().appended(happened(*"x" * 12)))
    again = await RecordStore(store).load_events()
    assert again.last_sequence == 12
    assert again.appended(happened("next")).last_sequence == 13


async def test_events_of_a_controller_that_was_replaced_are_not_written() -> None:
    store = MemoryStore()
    first, second = RecordStore(store), RecordStore(store)
    await first.load_cluster(new_epoch="e")
    cluster = await second.load_cluster(new_epoch="e")
    await second.save_cluster(replace(cluster, table_version=5))
    with pytest.raises(RevisionConflictError):
        await first.save(Records(), Records(), events=EventLog().appended(happened("late")))
    assert await second.load_events() == EventLog()


def happened(*reasons: str) -> list[Event]:
    return [
        Event(key=DeploymentKey("app", "a"), time=1.5, reason=reason, message="m", warning=True) for reason in reasons
    ]
