"""Gangs as callers see them, with real processes: calls to leaders, whole reservations, broadcasts, a member's death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

import serve_core
from serve_core.errors import ApplicationError, GangChangedError, ServeError
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.v1 import replica_pb2, replica_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2
from serve_core.wire.errors import decode_error
from tests.apps.shards import Shard, shard
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.integration
TIMEOUT_S = 60.0
NO_ARGUMENTS = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=b"{}")


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=10.0)) as cluster:
        yield cluster
        await serve_core.close(cluster.controller_address)


async def serve(cluster: LocalCluster, **options: Any) -> None:
    app = shard.options(working_dir=str(ROOT), **options).bind()
    await serve_core.deploy(app, name="crew", controller=cluster.controller_address, timeout_s=60.0)


def handle(cluster: LocalCluster) -> serve_core.DeploymentHandle[Shard]:
    found = serve_core.get_handle("crew", target=Shard, controller=cluster.controller_address)
    return found.options(timeout_s=TIMEOUT_S)


async def held(member: types_pb2.Replica) -> int:
    async with grpc.aio.insecure_channel(member.address) as channel:
        stub = replica_pb2_grpc.ReplicaServiceStub(channel)
        load = (await stub.GetReplica(replica_pb2.GetReplicaRequest(), timeout=TIMEOUT_S)).load
    return load.ongoing + load.reserved


async def test_any_grpc_client_reserves_calls_and_broadcasts(cluster: LocalCluster) -> None:
    """With nothing but the contract, as a client in any language does."""
    await serve(cluster)
    async with grpc.aio.insecure_channel(cluster.router_address) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        granted = await router.ReserveGang(router_pb2.ReserveGangRequest(application="crew"), timeout=TIMEOUT_S)
        members = list(granted.members)
        assert [(one.gang.rank, one.gang.role, one.gang.size) for one in members] == [
            (0, "head", 3),
            (1, "body", 3),
            (2, "tail", 3),
        ]
        assert [await held(member) for member in members] == [1, 1, 1]
        call = router_pb2.RouterServiceDispatchRequest(
            application="crew", method="where", arguments=NO_ARGUMENTS, slot_token=granted.lease.slot_token
        )
        answer = await router.Dispatch(call, timeout=TIMEOUT_S)
        assert answer.replica_id == members[0].replica_id
        broadcast = router_pb2.BroadcastRequest(application="crew", method="where", arguments=NO_ARGUMENTS)
        results = (await router.Broadcast(broadcast, timeout=TIMEOUT_S)).results
        said = [json.loads(result.result.data) for result in results]
        assert [rank for _, rank, _, _ in said] == [0, 1, 2]
        assert len({gang for gang, _, _, _ in said}) == 1
        known = await router.GetRouter(router_pb2.GetRouterRequest(), timeout=TIMEOUT_S)
        assert (known.deployments[0].gang_size, known.deployments[0].whole_gangs, known.deployments[0].leader_only) == (
            3,
            2,
            True,
        )
        assert sorted(replica.gang.rank for replica in known.deployments[0].replicas) == [0, 0, 1, 1, 2, 2]


async def test_python_callers_and_http_reach_leaders_alone(cluster: LocalCluster) -> None:
    await serve(cluster)
    calls = handle(cluster)
    gangs: set[str | int] = set()
    async with asyncio.timeout(TIMEOUT_S):
        while len(gangs) < 2:
            gang_id, rank, _, _ = await calls.where()
            gangs.add(gang_id)
            assert rank == 0
    url = f"http://{cluster.http_address}/crew/where"
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    body = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=TIMEOUT_S).read())
    assert b", 0, 3" in body or b",0,3" in body
    async with calls.choose_gang() as gang:
        assert [member.gang.role for member in gang.members] == ["head", "body", "tail"]
        assert (await gang.dispatch("where"))[:2] == [gang.gang_id, 0]
    answers = await calls.fail_at.broadcast(1)
    assert (answers[0].result(), answers[2].result()) == (0, 2)
    with pytest.raises(ApplicationError, match="rank 1 cannot"):
        answers[1].result()


async def test_a_gang_that_lost_a_member_gets_nothing_while_the_other_serves(cluster: LocalCluster) -> None:
    await serve(cluster)
    calls = handle(cluster)
    status = await serve_core.status("crew", controller=cluster.controller_address)
    replicas = status.applications[0].deployments[0].replicas
    victim = next(one for one in replicas if one.replica.gang.rank == 2)
    failures: list[ServeError] = []

    async def calling() -> None:
        for _ in range(40):
            gang, rank, _, _ = await calls.where(0.01)
            assert rank == 0, gang

    async def broadcasting() -> None:
        for _ in range(20):
            answers = await calls.where.broadcast(0.01)
            whole = {answer.replica.gang.gang_id for answer in answers}
            assert len(whole) == 1
            for answer in answers:
                if isinstance(answer.error, ServeError):
                    assert whole == {victim.replica.gang.gang_id}
                    failures.append(answer.error)
                else:
                    answer.result()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(calling())
        group.create_task(broadcasting())
        await calls.where()
        os.kill(victim.pid, signal.SIGKILL)
    assert len(failures) <= 2
    # Then there are the other gang, and the one that takes the place of what was lost.
    async with asyncio.timeout(60):
        while (await calls.where())[0] == victim.replica.gang.gang_id:
            pass  # Its members are still to be withdrawn.


async def test_a_promise_from_before_a_member_was_replaced_is_void_and_the_rest_is_free(cluster: LocalCluster) -> None:
    gang = {"size": 3, "on_member_failure": "RESTART_REPLICA"}
    await serve(cluster, num_replicas=3, gang=gang, slot_ttl_s=600.0, slot_ttl_max_s=600.0)
    async with grpc.aio.insecure_channel(cluster.router_address) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        granted = await router.ReserveGang(router_pb2.ReserveGangRequest(application="crew"), timeout=TIMEOUT_S)
        status = await serve_core.status("crew", controller=cluster.controller_address)
        lost = granted.members[1].replica_id
        os.kill(
            next(one.pid for one in status.applications[0].deployments[0].replicas if one.replica.replica_id == lost),
            signal.SIGKILL,
        )
        # It waits until the gang is whole again, with the same members under its next epoch.
        request = router_pb2.ReserveGangRequest(application="crew")
        async with asyncio.timeout(60):
            while True:
                again = await router.ReserveGang(request, timeout=60)
                if again.members[1].gang.epoch > granted.members[1].gang.epoch:
                    break
                await router.ReleaseSlot(
                    router_pb2.RouterServiceReleaseSlotRequest(slot_token=again.lease.slot_token), timeout=TIMEOUT_S
                )
        assert [one.replica_id for one in again.members] == [one.replica_id for one in granted.members]
        call = router_pb2.RouterServiceDispatchRequest(
            application="crew", method="where", arguments=NO_ARGUMENTS, slot_token=granted.lease.slot_token
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.Dispatch(call, timeout=TIMEOUT_S)
        assert isinstance(decode_error(caught.value), GangChangedError)
        async with asyncio.timeout(TIMEOUT_S):
            while [await held(member) for member in again.members] != [1, 1, 1]:
                continue
        call.slot_token = again.lease.slot_token
        assert (await router.Dispatch(call, timeout=TIMEOUT_S)).replica_id == again.members[0].replica_id
