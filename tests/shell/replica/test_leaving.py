"""The end of a drain: what is still on its way is refused with a word, and not cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2, replica_pb2, types_pb2
from serve_core.wire.fields import encode_duration
from tests.shell.replica.support import WAIT_S, ready, refused, request

SOURCE = """
class App:
    async def work(self):
        return 1
"""


async def test_it_refuses_until_the_last_router_has_left(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router-1.1"))
        assert (await watch.read()).phase == types_pb2.REPLICA_PHASE_READY
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        await running.controller.phase(ReplicaPhase.DRAINING)
        late = await refused(running.stub.Dispatch(request("work")))
        watch.cancel()
        async with asyncio.timeout(WAIT_S):
            assert await running.task == 0
    assert late.reason == "DRAINING"


async def test_it_tells_its_routers_once_nothing_is_held(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        token = await running.token()
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router-1.1"))
        assert (await watch.read()).load.reserved == 1
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        told = await watch.read()
        assert (told.phase, told.load.reserved) == (types_pb2.REPLICA_PHASE_DRAINING, 1)
        await running.call("work", token=token)
        async with asyncio.timeout(WAIT_S):
            while told.load.reserved or told.load.ongoing:
                told = await watch.read()
        watch.cancel()
        assert await running.task == 0
