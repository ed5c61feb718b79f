"""Ids of new gangs; and what is known of a change whose caller went while it was saved."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_core.controller.loop import fresh_ids
from serve_core.model.ids import DeploymentKey
from serve_core.plan.deploy import Change
from serve_core.plan.records import Records
from serve_core.store.port import Transaction
from serve_core.testing import MemoryStore
from tests.unit.controller.fleet import Fleet


class SlowStore(MemoryStore):
    """Goes on with what it has begun, whoever waits for it, as a store that works in a thread does."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def commit(self, transaction: Transaction) -> int:
        """See ``Store.commit``."""
        return await asyncio.shield(asyncio.ensure_future(self._commit_slowly(transaction)))

    async def _commit_slowly(self, transaction: Transaction) -> int:
        self.began.set()
        await self.may_end.wait()
        return await super().commit(transaction)


async def test_a_change_whose_caller_goes_is_known_if_it_is_saved() -> None:
    store = SlowStore()
    fleet = Fleet(deployments=1, replicas=1, store=store)
    await fleet.start()
    (key,) = fleet.world.records.deployments
    store.began.clear()
    store.may_end.clear()
    changing = asyncio.ensure_future(fleet.loop.change(lambda records: _paused(records, key)))
    await store.began.wait()
    changing.cancel()
    store.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert fleet.world.records.deployments[key].paused
    assert (await fleet.store.load()).deployments == fleet.world.records.deployments
    assert fleet.loop.is_due


def _paused(records: Records, key: DeploymentKey) -> Change:
    deployment = replace(records.deployments[key], paused=True)
    return Change(generation=records.applications[key.application].generation, saved_deployments=(deployment,))


def test_ids_are_fresh_and_fit_for_names() -> None:
    ids = fresh_ids()
    drawn = [next(ids) for _ in range(100)]
    assert len(set(drawn)) == 100
    assert all(text.isalnum() for text in drawn)
