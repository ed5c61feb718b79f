"""RouterService for outside clients, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from router.forward import Router
from router.service import RouterService
from serve_core.errors import ConfigInvalidError, DeploymentUnknownError, NoSlotInTimeError, SlotUnknownError
from serve_core.model.ids import RouterId
from serve_core.runtime.channel import open_channel
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import router_pb2, router_pb2_grpc, types_pb2
from serve_core.wire.errors import decode_error
from tests.shell.router.fakes import FakeReplica, running, table

PAYLOAD = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=b"1")


QUICK_S = 0.5


@pytest.fixture
def queue_timeout_s() -> float:
    """How long calls wait that say nothing of it: long, unless a test is about that."""
    return 30.0


@pytest.fixture
def taken() -> int:
    """The slots that somebody else holds from the start on."""
    return 0


@pytest.fixture
async def replica(taken: int) -> AsyncIterator[FakeReplica]:
    replica = FakeReplica(capacity=1)
    replica.take(taken)
    async with running(replica):
        yield replica


@pytest.fixture
async def stub(replica: FakeReplica, queue_timeout_s: float) -> AsyncIterator[router_pb2_grpc.RouterServiceAsyncStub]:
    async with Supervisor("test") as tasks:
        router = Router(router_id=RouterId("router-1"), tasks=tasks)
        router.apply(table(1, replica))
        server = grpc.aio.server()
        service = RouterService(router, tasks, queue_timeout_s=queue_timeout_s)
        router_pb2_grpc.add_RouterServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield router_pb2_grpc.RouterServiceStub(channel)
        await server.stop(None)
        await router.close()


def reserve(**fields: int | str) -> router_pb2.RouterServiceReserveSlotRequest:
    return router_pb2.RouterServiceReserveSlotRequest(application="shop", **fields)  # type: ignore[arg-type]


def dispatch(**fields: str) -> router_pb2.RouterServiceDispatchRequest:
    return router_pb2.RouterServiceDispatchRequest(application="shop", arguments=PAYLOAD, **fields)  # type: ignore[arg-type]


async def error_of(call: grpc.aio.Call) -> object:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    return decode_error(raised.value)


async def test_reserve_dispatch(stub: router_pb2_grpc.RouterServiceAsyncStub, replica: FakeReplica) -> None:
    granted = await stub.ReserveSlot(reserve())
    assert granted.replica.address == replica.address
    answer = await stub.Dispatch(dispatch(slot_token=granted.lease.slot_token))
    assert (answer.result.data, answer.replica_id) == (b"1", replica.name)
    assert replica.load.held == 0


async def test_reserve_renew_release(stub: router_pb2_grpc.RouterServiceAsyncStub, replica: FakeReplica) -> None:
    granted = await stub.ReserveSlot(reserve())
    token = granted.lease.slot_token
    renewed = await stub.RenewSlot(router_pb2.RouterServiceRenewSlotRequest(slot_token=token, detach=True))
    assert renewed.lease.slot_token == token
    assert (await stub.ReleaseSlot(router_pb2.RouterServiceReleaseSlotRequest(slot_token=token))).released
    assert not (await stub.ReleaseSlot(router_pb2.RouterServiceReleaseSlotRequest(slot_token=token))).released
    assert replica.load.held == 0


@pytest.mark.parametrize(("queue_timeout_s", "taken"), [(QUICK_S, 1)])
async def test_a_client_without_deadline_waits_a_bounded_time_for_a_slot(
    stub: router_pb2_grpc.RouterServiceAsyncStub,
) -> None:
    assert isinstance(await error_of(stub.ReserveSlot(reserve())), NoSlotInTimeError)
    assert isinstance(await error_of(stub.Dispatch(dispatch())), NoSlotInTimeError)


async def test_a_freed_slot_goes_to_who_waits(
    stub: router_pb2_grpc.RouterServiceAsyncStub, replica: FakeReplica
) -> None:
    granted = await stub.ReserveSlot(reserve())
    waiting = asyncio.ensure_future(stub.Dispatch(dispatch(), timeout=30))
    await replica.until(lambda: replica.refused > 0)
    await stub.ReleaseSlot(router_pb2.RouterServiceReleaseSlotRequest(slot_token=granted.lease.slot_token))
    assert (await waiting).replica_id == replica.name


async def test_streams(stub: router_pb2_grpc.RouterServiceAsyncStub, replica: FakeReplica) -> None:
    call = stub.DispatchStream(timeout=30)
    await call.write(router_pb2.RouterServiceDispatchStreamRequest(open=dispatch()))
    await call.write(router_pb2.RouterServiceDispatchStreamRequest(item=types_pb2.Payload(data=b"2")))
    await call.done_writing()
    assert [message.item.data async for message in call] == [b"1", b"2"]
    await replica.until(lambda: replica.load.held == 0)


async def test_a_stream_that_does_not_open_is_refused(stub: router_pb2_grpc.RouterServiceAsyncStub) -> None:
    call = stub.DispatchStream(timeout=30)
    await call.write(router_pb2.RouterServiceDispatchStreamRequest(item=PAYLOAD))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert isinstance(decode_error(raised.value), ConfigInvalidError)


async def test_wrong_names_and_tokens(stub: router_pb2_grpc.RouterServiceAsyncStub) -> None:
    unknown = router_pb2.RouterServiceDispatchRequest(application="none")
    assert isinstance(await error_of(stub.Dispatch(unknown)), DeploymentUnknownError)
    assert isinstance(await error_of(stub.Dispatch(dispatch(slot_token="garbage"))), SlotUnknownError)
    garbage = router_pb2.RouterServiceReleaseSlotRequest(slot_token="garbage")
    assert isinstance(await error_of(stub.ReleaseSlot(garbage)), SlotUnknownError)


async def test_get_router(stub: router_pb2_grpc.RouterServiceAsyncStub, replica: FakeReplica) -> None:
    told = await stub.GetRouter(router_pb2.GetRouterRequest())
    assert (told.router_id, told.table_epoch, told.table_version) == ("router-1", "e1", 1)
    assert [routed.replicas[0].replica_id for routed in told.deployments] == [replica.name]
