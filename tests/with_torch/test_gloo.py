"""torch.distributed in a gang of four processes, unchanged: also after a member, or the leader, was killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import serve_core
from bench.gang_stage import nodes_file
from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.integration.conftest import ROOT
from tests.with_torch.summing import Summing, lasting, summing

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
PATIENCE_S = 60.0


@asynccontextmanager
async def served(tmp_path: Path, app: Any) -> AsyncIterator[Any]:
    """A handle of a gang on two nodes."""
    nodes = nodes_file(tmp_path, {"left": 2, "right": 2})
    async with LocalCluster(LocalClusterConfig(nodes=nodes, drain_timeout_s=10.0)) as cluster:
        controller = cluster.controller_address
        await serve_core.deploy(app.options(working_dir=str(ROOT)).bind(), controller=controller, timeout_s=PATIENCE_S)
        yield serve_core.get_handle("default", controller=controller, target=Summing).options(timeout_s=PATIENCE_S)
        await serve_core.close(controller)


async def members(handle: Any, *, epoch: int) -> list[int]:
    """The processes of the gang in this epoch, by rank; torch has the same ranks."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answers = await handle.who.broadcast()
            if all(one.replica.gang.epoch == epoch and one.error is None for one in answers):
                break
    assert [one.value[:2] for one in answers] == [[rank, 4] for rank in range(4)]
    return [one.value[2] for one in answers]


async def test_the_environment_is_all_that_torch_needs(tmp_path: Path) -> None:
    async with served(tmp_path, summing) as handle:
        before = await members(handle, epoch=1)
        assert await handle.total([1.0, 0.5]) == [10.0, 5.0]
        big = await handle.total([float(number) for number in range(10_000)])
        assert big == [10.0 * number for number in range(10_000)]
        os.kill(before[2], signal.SIGKILL)  # and the whole gang is replaced
        after = await members(handle, epoch=1)
        assert not set(before) & set(after)
        assert await handle.total([1.0]) == [10.0]


async def test_the_process_group_is_made_again_when_a_member_was_replaced(tmp_path: Path) -> None:
    async with served(tmp_path, lasting) as handle:
        before = await members(handle, epoch=1)
        waiting = asyncio.ensure_future(handle.total_without(2))
        async with asyncio.timeout(PATIENCE_S):
            while [one.value for one in await handle.is_adding.broadcast()] != [True, True, False, True]:
                pass
        os.kill(before[2], signal.SIGKILL)  # while the others wait for it
        told = await waiting
        assert len(told) == 3
        assert all("gloo" in one for one in told)
        second = await members(handle, epoch=2)
        assert [old == new for old, new in zip(before, second, strict=True)] == [True, True, False, True]
        assert await handle.total([2.0]) == [20.0]
        os.kill(second[0], signal.SIGKILL)  # the leader, with its store
        third = await members(handle, epoch=3)
        assert [old == new for old, new in zip(second, third, strict=True)] == [False, True, True, True]
        assert await handle.total([3.0]) == [30.0]
