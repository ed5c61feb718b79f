"""The state of an actor and the record that tells of it are written together, on each store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve_core.controller.blobs import PART_BYTES, blobs, part_keys, parts_of
from serve_core.controller.persistence import RecordStore
from serve_core.errors import RevisionConflictError
from serve_core.plan.actor_records import ActorRecord, SnapshotRecord
from serve_core.plan.records import DeploymentRecord, Records
from serve_core.store.memory import MemoryStore
from serve_core.store.port import Store
from serve_core.store.sqlite import SqliteStore
from tests.unit.controller.samples import records

BIG = bytes(range(256)) * (PART_BYTES // 128)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.db")
    await made.open()
    yield made
    await made.close()


def _without_state() -> Records:
    known = records("a")
    return _with(known, replace(_actor(known), snapshot=None))


def _actor(known: Records) -> ActorRecord:
    return _deployment(known).actors[0]


def _deployment(known: Records) -> DeploymentRecord:
    return next(iter(known.deployments.values()))


def _with(known: Records, actor: ActorRecord) -> Records:
    deployment = _deployment(known).with_actor(actor)
    return replace(known, deployments={deployment.key: deployment})


def _saved(before: Records, sequence: int, data: bytes) -> tuple[Records, dict[str, bytes]]:
    parts = parts_of(data)
    snapshot = SnapshotRecord(incarnation=2, sequence=sequence, size_bytes=len(data), parts=len(parts), time=1.0)
    after = _with(before, replace(_actor(before), snapshot=snapshot))
    return after, dict(blobs(_deployment(before).key, _actor(before).key, snapshot, parts))


async def _read(saving: RecordStore, known: Records) -> bytes:
    snapshot = _actor(known).snapshot
    assert snapshot is not None
    keys = part_keys(_deployment(known).key, _actor(known).key, snapshot)
    parts = [await saving.read_blob(key) for key in keys]
    return b"".join(b"(lost)" if part is None else part for part in parts)


@pytest.mark.parametrize("data", [b"", b"x", BIG, BIG + b"x"])
async def test_what_is_saved_is_read(store: Store, data: bytes) -> None:
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    before = _without_state()
    await saving.save(Records(), before)
    after, parts = _saved(before, 1, data)
    await saving.save(before, after, blobs=parts)
    assert await _read(saving, await saving.load()) == data


async def test_a_newer_state_takes_the_place_of_the_older_one(store: Store) -> None:
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    first, parts = _saved(_without_state(), 1, BIG)
    await saving.save(Records(), first, blobs=parts)
    second, parts = _saved(first, 2, b"x")
    await saving.save(first, second, blobs=parts)
    assert [entry.value for entry in await store.scan("snapshots/")] == [b"x"]


async def test_it_goes_with_the_actor_and_with_the_deployment(store: Store) -> None:
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    first, parts = _saved(_without_state(), 1, BIG)
    await saving.save(Records(), first, blobs=parts)
    without = replace(first, deployments={key: replace(one, actors=()) for key, one in first.deployments.items()})
    await saving.save(first, without)
    assert await store.scan("snapshots/") == []
    await saving.save(without, first, blobs=parts)
    await saving.save(first, Records())
    assert await store.scan("snapshots/") == []


async def test_of_two_controllers_only_one_stores_and_all_or_nothing(store: Store) -> None:
    late, live = RecordStore(store), RecordStore(store)
    await late.load_cluster(new_epoch="e")
    cluster = await live.load_cluster(new_epoch="e")
    before = _without_state()
    await late.save(Records(), before)
    await live.save_cluster(cluster)
    after, parts = _saved(before, 1, BIG)
    with pytest.raises(RevisionConflictError):
        await late.save(before, after, blobs=parts)
    assert await store.scan("snapshots/") == []
    assert _actor(await live.load()).snapshot is None


async def test_it_survives_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    saving = RecordStore(store)
    await saving.load_cluster(new_epoch="e")
    after, parts = _saved(_without_state(), 1, BIG)
    await saving.save(Records(), after, blobs=parts)
    await store.close()
    again = SqliteStore(path)
    await again.open()
    assert await _read(RecordStore(again), await RecordStore(again).load()) == BIG
    await again.close()
