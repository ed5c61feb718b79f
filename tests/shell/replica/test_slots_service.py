"""Slots over gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from serve_core.errors import (
    ConfigInvalidError,
    MethodUnknownError,
    NoSlotError,
    ReplicaUnavailableError,
    SlotConsumedError,
    SlotExpiredError,
    SlotFencedError,
    SlotUnknownError,
)
from serve_core.v1 import replica_pb2, types_pb2
from serve_core.wire.fields import encode_duration
from serve_core.wire.metadata import LOAD_KEY, REPLICA_KEY
from tests.shell.replica.support import EPOCH, REPLICA_ID, WAIT_S, Running, attached, ready, refused, request, spec_of

SOURCE = """
import asyncio

class App:
    def __init__(self):
        self.gate = asyncio.Event()
        self.entered = 0

    async def echo(self, value):
        return value

    async def block(self):
        self.entered += 1
        await self.gate.wait()
        return "done"

    async def open(self):
        self.gate.set()

    def fail(self):
        raise ValueError("no")
"""


async def release(running: Running, token: str) -> bool:
    answer = await running.stub.ReleaseSlot(replica_pb2.ReleaseSlotRequest(slot_token=token), timeout=WAIT_S)
    return bool(answer.released)


async def test_reserve_look_dispatch(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=2, slot_ttl_s=7.0, metadata={"zone": "z"}) as running:
        answer = await running.reserve()
        assert answer.accepted
        assert answer.lease.slot_token.endswith(f".{EPOCH}.{REPLICA_ID}")
        assert answer.lease.ttl.ToTimedelta().total_seconds() == 7.0
        assert answer.load == types_pb2.Load(ongoing=0, reserved=1, capacity=2)
        assert answer.replica.replica_id == REPLICA_ID
        assert answer.replica.address == running.app.state.replica.address
        assert answer.replica.node_id == "node-7"
        assert dict(answer.replica.metadata) == {"zone": "z"}
        assert await running.call("echo", [1, "b"], token=answer.lease.slot_token) == [1, "b"]
        described = await running.stub.GetReplica(replica_pb2.GetReplicaRequest())
        assert described.load == types_pb2.Load(capacity=2)
        assert described.counters == types_pb2.SlotCounters(issued=1, dispatched_ok=1)
        assert {method.name for method in described.methods} == {"echo", "block", "open", "fail"}


async def test_full_and_too_many_are_answers_not_errors(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=2) as running:
        assert (await running.reserve(slots=3)).rejection == replica_pb2.REJECTION_REASON_TOO_MANY
        await running.token(slots=2)
        answer = await running.reserve()
        assert not answer.accepted
        assert answer.rejection == replica_pb2.REJECTION_REASON_FULL
        assert answer.load.reserved == 2


async def test_a_call_without_a_token_is_refused_when_full_with_proof_that_the_replica_said_so(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=1) as running:
        await running.token()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call("echo", 1)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(caught.value.trailing_metadata() or ())
        assert trailers[REPLICA_KEY] == REPLICA_ID
        assert trailers[LOAD_KEY] == "0,1,1"
        assert isinstance(await refused(running.call("echo", 1)), NoSlotError)
        too_many = await refused(running.stub.Dispatch(request("echo", 1, slots=2)))
        assert isinstance(too_many, ConfigInvalidError)


async def test_a_token_is_good_once(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        token = await running.token(request_id="r")
        assert await running.token(request_id="r") == token
        await running.call("echo", 1, token=token)
        assert isinstance(await refused(running.call("echo", 1, token=token)), SlotConsumedError)
        released = await running.token()
        assert await release(running, released)
        assert not await release(running, released)
        assert isinstance(await refused(running.call("echo", 1, token=released)), SlotConsumedError)


@pytest.mark.parametrize("token", ["garbage", "\u00ff" * 300, "f" * 32 + ".3.other"])
async def test_garbage_tokens_are_unknown(tmp_path: Path, token: str) -> None:
    async with ready(tmp_path, SOURCE) as running:
        assert isinstance(await refused(running.call("echo", 1, token=token)), SlotUnknownError)
        assert isinstance(await refused(release(running, token)), SlotUnknownError)


async def test_tokens_of_another_epoch_are_fenced(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        token = (await running.token()).replace(f".{EPOCH}.", f".{EPOCH - 1}.", 1)
        assert isinstance(await refused(running.call("echo", 1, token=token)), SlotFencedError)


async def test_a_lease_ends_by_itself_and_tells_the_owner_that_waits(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=1) as running:
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        assert (await watch.read()).load.reserved == 0
        token = await running.token()
        assert not (await running.reserve(owner_id="router")).accepted
        # Only now, so that it has not ended by itself before somebody waits.
        await running.stub.RenewSlot(replica_pb2.RenewSlotRequest(slot_token=token, ttl=encode_duration(0.05)))
        async with asyncio.timeout(WAIT_S):
            assert (await watch.read()).load.reserved == 0
        assert isinstance(await refused(running.call("echo", 1, token=token)), SlotExpiredError)
        watch.cancel()


async def test_a_ttl_is_bounded_and_renewed(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, slot_ttl_max_s=20.0) as running:
        answer = await running.reserve(ttl_s=100.0)
        assert answer.lease.ttl.seconds == 20
        renewal = replica_pb2.RenewSlotRequest(slot_token=answer.lease.slot_token, ttl=encode_duration(5.0))
        renewed = await running.stub.RenewSlot(renewal)
        assert renewed.lease.ttl.seconds == 5
        assert renewed.lease.expire_time.ToNanoseconds() < answer.lease.expire_time.ToNanoseconds()
        assert renewed.load.reserved == 1
        bad = replica_pb2.ReserveSlotRequest(ttl=encode_duration(-1.0))
        assert isinstance(await refused(running.stub.ReserveSlot(bad)), ConfigInvalidError)


async def test_the_tokens_of_an_owner_end_with_its_stream_save_detached_ones(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        await watch.read()
        lost = await running.token(owner_id="router")
        kept = await running.token(owner_id="router")
        await running.stub.RenewSlot(replica_pb2.RenewSlotRequest(slot_token=kept, detach=True))
        watch.cancel()
        await running.until_load(0, 1)
        assert isinstance(await refused(running.call("echo", 1, token=lost)), SlotExpiredError)
        assert await running.call("echo", 2, token=kept) == 2


async def test_a_second_stream_of_an_owner_takes_over_its_tokens(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        await watch.read()
        token = await running.token(owner_id="router")
        again = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        await again.read()
        async with asyncio.timeout(WAIT_S):
            while await watch.read() is not grpc.aio.EOF:
                pass
        assert await running.call("echo", 1, token=token) == 1
        again.cancel()
        nobody = replica_pb2.WatchLoadRequest()
        assert isinstance(await refused(running.stub.WatchLoad(nobody).read()), ConfigInvalidError)


async def test_a_refused_owner_is_told_when_a_call_ends(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=1) as running:
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        await watch.read()
        token = await running.token()
        assert isinstance(await refused(running.stub.Dispatch(request("echo", 1, owner_id="router"))), NoSlotError)
        await running.call("echo", 1, token=token)
        async with asyncio.timeout(WAIT_S):
            told = await watch.read()
        assert told.load == types_pb2.Load(capacity=1)
        assert told.phase == types_pb2.REPLICA_PHASE_READY
        watch.cancel()


async def test_cancelling_a_call_frees_its_slot_once(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=1) as running:
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 0)
        call.cancel()
        await running.until_load(0, 0)
        assert await running.call("echo", 1) == 1
        counters = running.app.desk.counters
        assert (counters.dispatched_ok, counters.dispatched_error) == (1, 1)


async def test_a_deadline_frees_the_slot(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=1) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call("block", timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await running.until_load(0, 0)


async def test_never_more_inside_than_slots(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=2) as running:
        calls = [running.stub.Dispatch(request("block")) for _ in range(2)]
        await running.until_load(2, 0)
        assert isinstance(await refused(running.call("open")), NoSlotError)
        for call in calls:
            call.cancel()
        await running.until_load(0, 0)


async def test_unknown_methods_and_bad_arguments_are_refused_by_name(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        token = await running.token()
        unknown = await refused(running.call("ecco", 1, token=token))
        assert isinstance(unknown, MethodUnknownError)
        assert "echo" in unknown.message
        assert await running.call("echo", 1, token=token) == 1
        bad = await refused(running.call("echo"))
        assert isinstance(bad, ConfigInvalidError)
        assert "value" in bad.message
        empty = await refused(running.stub.Dispatch(replica_pb2.DispatchRequest(method="echo")))
        assert isinstance(empty, ConfigInvalidError)
        assert isinstance(await refused(running.call("_hidden")), MethodUnknownError)


async def test_nothing_runs_before_the_replica_is_ready(tmp_path: Path) -> None:
    source = """
    import threading
    gate = threading.Event()
    class App:
        def __init__(self):
            gate.wait()
        def echo(self, value):
            return value
    """
    spec = spec_of(tmp_path, source)
    async with attached(spec) as running:
        assert isinstance(await refused(running.reserve()), ReplicaUnavailableError)
        assert isinstance(await refused(running.call("echo", 1)), ReplicaUnavailableError)
