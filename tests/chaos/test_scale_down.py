"""Scaling down with a hundred open streams: none is cut, and the least loaded replica goes."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import router_pb2_grpc
from tests.chaos.conversations import open_conversations, say_to_all
from tests.chaos.stage import Stage

pytestmark = pytest.mark.chaos
STREAMS = (60, 33, 7)


async def test_the_least_loaded_replica_goes_and_no_stream_is_cut(stage: Stage) -> None:
    # Which one goes is not to depend on one that was not heard for a moment.
    patient = {"heartbeat_period_s": 0.2, "suspect_after_missed": 100, "lost_after_missed": 200}
    before = await stage.serve(1, num_replicas=3, graceful_shutdown_timeout_s=60.0, **patient)
    wanted = {one.replica.replica_id: count for one, count in zip(before.replicas, STREAMS, strict=True)}
    least = before.replicas[STREAMS.index(min(STREAMS))].pid
    async with grpc.aio.insecure_channel(stage.cluster.router_address) as channel:
        stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(channel)
        opened = [await open_conversations(stub, one, wanted[one.replica.replica_id]) for one in before.replicas]
        conversations = [one for several in opened for one in several]
        await stage.operator.until_deployment(
            lambda seen: {one.replica.replica_id: one.load.ongoing for one in seen.replicas} == wanted
        )

        await stage.operator.scale(2)
        draining = await stage.operator.until_deployment(
            lambda seen: any(one.phase is ReplicaPhase.DRAINING for one in seen.replicas)
        )
        said_by = await say_to_all(conversations, "still there")
        await asyncio.gather(*(one.end() for one, pid in zip(conversations, said_by, strict=True) if pid == least))
        after = await stage.operator.until_whole()
        rest = [one for one, pid in zip(conversations, said_by, strict=True) if pid != least]
        await say_to_all(rest, "and now")
        await asyncio.gather(*(one.end() for one in rest))

    assert [one.pid for one in draining.replicas if one.phase is ReplicaPhase.DRAINING] == [least]
    assert sorted(said_by.count(pid) for pid in set(said_by)) == sorted(STREAMS)
    assert {one.pid for one in after.replicas} == {one.pid for one in before.replicas} - {least}
