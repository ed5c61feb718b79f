"""Stubs and channels to the services of an actor follow it from life to life."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from serve_core.errors import ActorDiedError, ActorUnavailableError
from serve_core.v1 import controller_pb2
from serve_core.wire.metadata import INCARNATION_KEY
from tests.more_time import error_in_time
from tests.shell.replica.actor_cluster import SERVICE_SOURCE, all_of, answer_of, cluster_of, known
from tests.shell.replica.adder import Generated, numbers
from tests.shell.replica.support import REPLICA_ID, WAIT_S, refused


async def test_stubs_of_the_actors_own_service_follow_it(tmp_path: Path, generated: Generated) -> None:
    number = generated.pb2.Number
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        first = await cluster.life(1)
        stub = handle.stub(generated.grpc.AdderStub)
        assert (await stub.One(number(value=5), metadata=[("more", "2")], timeout=WAIT_S)).value == 7
        assert [item.value async for item in stub.Split(number(value=3))] == [0, 1, 2]
        assert (await stub.Sum(numbers(generated, 1, 2, 3))).value == 6
        assert [item.value async for item in stub.Each(numbers(generated, 1, 2))] == [2, 4]
        talk = stub.Each()
        await talk.write(number(value=4))
        assert (await talk.read()).value == 8
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF
        assert await talk.code() is grpc.StatusCode.OK
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.One(number(value=2))
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
        inside = asyncio.ensure_future(answer_of(stub.One(number(value=3))))
        await handle.until_begun()
        first.controller.send(stop=controller_pb2.StopCommand())
        with pytest.raises(ActorDiedError, match=r"Adder/One inside"):
            await inside
        await first.task
        waiting = asyncio.ensure_future(answer_of(stub.One(number(value=9))))
        waiting_stream = asyncio.ensure_future(all_of(stub.Split(number(value=2))))
        await cluster.life(2)
        assert (await waiting).value == 9
        assert [item.value for item in await waiting_stream] == [0, 1]
        cluster.tell(3, given_up="enough")
        await known(cluster, handle, 3)
        with pytest.raises(ActorUnavailableError, match="enough"):
            await stub.One(number(value=9))
        with pytest.raises(ActorUnavailableError, match="enough"):
            await handle.channel().channel_ready()


async def test_a_stream_of_a_stub_that_has_begun_is_not_begun_again(tmp_path: Path, generated: Generated) -> None:
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        first = await cluster.life(1)
        stub = handle.options(idempotent=True).stub(generated.grpc.AdderStub)
        stream = stub.Split(generated.pb2.Number(value=4))
        assert [(await stream.read()).value for _ in range(4)] == [0, 1, 2, 3]
        first.controller.send(stop=controller_pb2.StopCommand())
        with pytest.raises(ActorDiedError):
            await stream.read()


async def test_a_stub_does_not_reach_a_stale_life(tmp_path: Path, generated: Generated) -> None:
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        stale = await cluster.life(1, told=False)
        cluster.tell(2, stale.app.state.replica.address)

        def stub(timeout_s: float) -> Any:
            return handle.options(timeout_s=timeout_s).stub(generated.grpc.AdderStub)

        for call in (
            lambda timeout_s: stub(timeout_s).One(generated.pb2.Number(value=1)),
            lambda timeout_s: stub(timeout_s).Sum(numbers(generated, 1)),
        ):
            error = await error_in_time(call, lambda error: "meant for incarnation 2" in str(error))
            assert isinstance(error, ActorUnavailableError)
            assert "meant for incarnation 2" in error.message


async def test_a_plain_channel_reaches_the_life_that_serves_and_no_other(tmp_path: Path, generated: Generated) -> None:
    number = generated.pb2.Number(value=5)
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        asked = asyncio.ensure_future(handle.endpoint())
        first = await cluster.life(1)
        endpoint = await asked
        assert endpoint == (first.app.state.replica.address, ((INCARNATION_KEY, f"1@{REPLICA_ID}"),), 1)
        assert await asyncio.to_thread(handle.endpoint_sync) == endpoint
        second = await cluster.life(2)
        await known(cluster, handle, 2)
        follows = await handle.endpoint()
        assert (follows.address, follows.incarnation) == (second.app.state.replica.address, 2)
        async with grpc.aio.insecure_channel(follows.address) as channel:
            stub = generated.grpc.AdderStub(channel)
            assert (await stub.One(number, metadata=follows.metadata, timeout=WAIT_S)).value == 5
            error = await refused(stub.One(number, metadata=endpoint.metadata, timeout=WAIT_S))
            assert error.reason == "ACTOR_FENCED"
        cluster.tell(3, given_up="enough")
        await known(cluster, handle, 3)
        with pytest.raises(ActorUnavailableError, match="enough"):
            await handle.endpoint()
