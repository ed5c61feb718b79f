"""Slots are a promise whoever dies, stops or hands over in between."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

import serve_core
from serve_core.errors import NoSlotInTimeError, SlotConsumedError, SlotExpiredError
from serve_core.launch import LocalCluster
from serve_core.v1 import replica_pb2, replica_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2
from serve_core.wire.errors import decode_error
from tests.integration.conftest import StartWorker

pytestmark = pytest.mark.integration
TIMEOUT_S = 60.0
LONG_S = 600
"""A lease that ends in no test by itself."""
CALLER = Path(__file__).with_name("slot_caller.py")


async def replica_address(cluster: LocalCluster) -> str:
    status = await serve_core.status("crew", controller=cluster.controller_address)
    return status.applications[0].deployments[0].replicas[0].replica.address


@asynccontextmanager
async def replica_stub(cluster: LocalCluster) -> AsyncIterator[replica_pb2_grpc.ReplicaServiceAsyncStub]:
    async with grpc.aio.insecure_channel(await replica_address(cluster)) as channel:
        yield replica_pb2_grpc.ReplicaServiceStub(channel)


@asynccontextmanager
async def caller(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CALLER), *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        return (await process.stdout.readline()).decode().strip()


async def slot_freed(stub: replica_pb2_grpc.ReplicaServiceAsyncStub, *, owner: str) -> None:
    """Returns once the replica tells that a slot is free: asks for one first, so that it tells."""
    watch = stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id=owner))
    async with asyncio.timeout(TIMEOUT_S):
        await watch.read()
        asked = await stub.ReserveSlot(replica_pb2.ReserveSlotRequest(owner_id=owner, ttl=Duration(seconds=LONG_S)))
        if asked.accepted:  # It was free before this asked.
            released = replica_pb2.ReleaseSlotRequest(slot_token=asked.lease.slot_token)
            assert (await stub.ReleaseSlot(released)).released
        else:
            load = types_pb2.Load(reserved=1, capacity=1)
            while load.ongoing + load.reserved >= load.capacity:
                told = await watch.read()
                assert isinstance(told, replica_pb2.WatchLoadResponse)
                load = told.load
    watch.cancel()


async def test_a_killed_router_leaks_no_slot(start_worker: StartWorker) -> None:
    cluster = await start_worker(max_ongoing_requests=4, slot_ttl_s=LONG_S, slot_ttl_max_s=LONG_S)
    async with grpc.aio.insecure_channel(cluster.router_address) as channel, replica_stub(cluster) as replica:
        router = router_pb2_grpc.RouterServiceStub(channel)
        request = router_pb2.RouterServiceReserveSlotRequest(application="crew", ttl=Duration(seconds=LONG_S))
        tokens = [(await router.ReserveSlot(request, timeout=TIMEOUT_S)).lease.slot_token for _ in range(4)]
        held = await replica.GetReplica(replica_pb2.GetReplicaRequest())
        assert (held.load.reserved, held.load.capacity) == (4, 4)

        os.kill(cluster.router_pid, signal.SIGKILL)
        await slot_freed(replica, owner="test-watcher")

        # Every slot is usable again, long before the leases would have ended.
        async with asyncio.timeout(TIMEOUT_S):
            again = [await replica.ReserveSlot(replica_pb2.ReserveSlotRequest()) for _ in range(4)]
        assert [answer.accepted for answer in again] == [True] * 4
        after = await replica.GetReplica(replica_pb2.GetReplicaRequest())
        assert after.counters.expired >= 4
        assert after.load.reserved == 4
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replica.Dispatch(replica_pb2.DispatchRequest(method="work", slot_token=tokens[0]))
        assert isinstance(decode_error(caught.value), SlotExpiredError)


async def test_a_caller_that_was_stopped_past_its_lease_gets_no_extra_admission(start_worker: StartWorker) -> None:
    cluster = await start_worker(max_ongoing_requests=1, slot_ttl_s=1.0)
    async with caller("hold", cluster.controller_address) as process, replica_stub(cluster) as replica:
        assert process.stdin is not None
        token = await line(process)
        process.send_signal(signal.SIGSTOP)
        await slot_freed(replica, owner="test-watcher")

        # Somebody else has the only slot when the caller wakes up.
        async with asyncio.timeout(TIMEOUT_S):
            other = await replica.ReserveSlot(replica_pb2.ReserveSlotRequest(ttl=Duration(seconds=LONG_S)))
            assert other.accepted
            process.send_signal(signal.SIGCONT)
            process.stdin.write(b"go\n")
            assert await line(process) == "SLOT_EXPIRED"
            state = await replica.GetReplica(replica_pb2.GetReplicaRequest())
            assert (state.load.ongoing, state.load.reserved) == (0, 1)
            assert state.counters.dispatched_ok == state.counters.dispatched_error == 0
            await replica.Dispatch(replica_pb2.DispatchRequest(method="work", slot_token=other.lease.slot_token))
        assert token != other.lease.slot_token


async def test_a_ticket_is_dispatched_by_another_process_after_its_maker_is_gone(start_worker: StartWorker) -> None:
    cluster = await start_worker(num_replicas=2, slot_ttl_s=LONG_S, slot_ttl_max_s=LONG_S)
    async with caller("ticket", cluster.controller_address) as maker:
        ticket, chosen = (await line(maker)).split("\t")
        async with asyncio.timeout(TIMEOUT_S):
            assert await maker.wait() == 0
    async with caller("redeem", cluster.controller_address, ticket) as other:
        assert await line(other) == chosen
    async with caller("redeem", cluster.controller_address, ticket) as third:
        assert await line(third) == "SLOT_CONSUMED"


async def test_leaving_a_selection_without_dispatch_gives_the_slot_back(start_worker: StartWorker) -> None:
    cluster = await start_worker(max_ongoing_requests=1)
    handle = serve_core.get_handle("crew", controller=cluster.controller_address)
    async with handle.choose_replica(timeout_s=TIMEOUT_S):
        with pytest.raises(NoSlotInTimeError):
            await handle.options(timeout_s=0.2).work()
    async with handle.choose_replica(timeout_s=TIMEOUT_S) as selection:
        answer = await handle.dispatch(selection).work()
        assert answer["replica_id"] == selection.replica_id
        with pytest.raises(SlotConsumedError):
            await handle.dispatch(selection).work()
    async with replica_stub(cluster) as replica:
        counters = (await replica.GetReplica(replica_pb2.GetReplicaRequest())).counters
    ends = ("dispatched_ok", "dispatched_error", "released", "expired", "fenced", "reserved", "ongoing")
    assert counters.issued == sum(getattr(counters, name) for name in ends)
    assert (counters.released, counters.dispatched_ok) == (1, 1)
