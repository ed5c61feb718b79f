"""SIGKILL of one of two replicas under a steady load: only the requests inside it fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

import grpc
import grpc.aio
import msgspec
import pytest

import serve_core
from serve_core.launch import LocalCluster
from serve_core.model.status import DeploymentState, DeploymentStatus
from serve_core.v1 import router_pb2, router_pb2_grpc
from serve_core.wire.codec import encode_arguments
from serve_core.wire.errors import decode_error
from serve_core.wire.payload import encode_payload
from tests.integration.conftest import StartWorker

pytestmark = pytest.mark.chaos
CALLERS = 6
TIMEOUT_S = 60.0


@dataclass
class Call:
    """One request: when it was sent and ended, which process answered, or with which status and reason it failed."""

    sent_at: float
    ended_at: float = 0.0
    pid: int = 0
    failed_with: tuple[str, str] | None = None


class Load:
    """Callers that call one after the other until they are told to stop."""

    def __init__(self, stub: router_pb2_grpc.RouterServiceAsyncStub) -> None:
        self._stub = stub
        self._stopped = False
        self._answered = asyncio.Condition()
        self.calls: list[Call] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self._caller())

    async def _caller(self) -> None:
        while not self._stopped:
            await self.call(0.02)

    async def call(self, seconds: float, *, token: str = "") -> Call:
        """One request that works for ``seconds``."""
        request = router_pb2.RouterServiceDispatchRequest(
            application="crew",
            method="work",
            arguments=encode_payload(encode_arguments((seconds,), {})),
            slot_token=token,
        )
        call = Call(time.monotonic())
        try:
            response = await self._stub.Dispatch(request, timeout=TIMEOUT_S)
            call.pid = msgspec.msgpack.decode(response.result.data)["pid"]
        except grpc.aio.AioRpcError as error:
            ours = decode_error(error)
            call.failed_with = (error.code().name, ours.reason if ours is not None else "")
        call.ended_at = time.monotonic()
        async with self._answered:
            self.calls.append(call)
            self._answered.notify_all()
        return call

    async def token_of(self, replica_id: str) -> str:
        """A promised slot on this replica; promises of others are given back."""
        while True:
            reserved = await self._stub.ReserveSlot(
                router_pb2.RouterServiceReserveSlotRequest(application="crew"), timeout=TIMEOUT_S
            )
            token = reserved.lease.slot_token
            if reserved.replica.replica_id == replica_id:
                return token
            await self._stub.ReleaseSlot(router_pb2.RouterServiceReleaseSlotRequest(slot_token=token))

    async def until(self, enough: int, *, pid: int | None = None) -> None:
        """Waits for that many more answers, from one process if one is named."""
        start = len(self.calls)
        async with asyncio.timeout(TIMEOUT_S), self._answered:
            await self._answered.wait_for(lambda: sum(pid in (None, call.pid) for call in self.calls[start:]) >= enough)

    def stop(self) -> None:
        self._stopped = True


async def deployment(cluster: LocalCluster) -> DeploymentStatus:
    return (await serve_core.status("crew", controller=cluster.controller_address)).applications[0].deployments[0]


async def replaced(cluster: LocalCluster, dead: int) -> DeploymentStatus:
    """Waits until two replicas are ready and none of them is the dead one."""
    from serve_core.client import ControllerClient
    from serve_core.wire.status import decode_cluster_status

    async with asyncio.timeout(TIMEOUT_S), ControllerClient(cluster.controller_address) as client:
        async for message in client.watch("crew"):
            now = decode_cluster_status(message).applications[0].deployments[0]
            alive = {replica.pid for replica in now.replicas}
            if now.state is DeploymentState.HEALTHY and now.ready_replicas == 2 and dead not in alive:
                return now
    raise AssertionError("the controller ended")


async def test_only_the_requests_inside_a_killed_replica_fail(
    start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = await start_worker(num_replicas=2, max_ongoing_requests=3)
    before = await deployment(cluster)
    router_pid = cluster.router_pid
    victim = before.replicas[0].pid
    async with grpc.aio.insecure_channel(cluster.router_address) as channel:
        load = Load(router_pb2_grpc.RouterServiceStub(channel))
        token = await load.token_of(before.replicas[0].replica.replica_id)
        async with asyncio.TaskGroup() as tasks:
            inside = tasks.create_task(load.call(TIMEOUT_S, token=token))
            tasks.create_task(load.run())
            await load.until(20, pid=victim)

            killed_at_wall = time.time()  # noqa: TID251
            os.kill(victim, signal.SIGKILL)
            after = await replaced(cluster, victim)
            newcomer = next(one.pid for one in after.replicas if one.pid not in {two.pid for two in before.replicas})
            await load.until(20, pid=newcomer)
            load.stop()

    failed = [call for call in load.calls if call.failed_with is not None]
    assert {call.failed_with for call in failed} <= {("UNAVAILABLE", "REPLICA_DIED")}
    assert inside.result() in failed
    assert len(failed) <= 3 + 1, "no more can fail than were inside its three slots, and one on its way to ask for one"
    known_at = min(call.ended_at for call in failed)
    assert all(call.sent_at <= known_at for call in failed), "a request was sent to a replica that was known to be dead"
    assert not [call for call in load.calls if call.pid == victim and call.sent_at > known_at]
    assert cluster.router_pid == router_pid
    os.kill(router_pid, 0)

    noticed = next(failure for failure in after.failures if before.replicas[0].replica.replica_id in failure.message)
    with capsys.disabled():
        print(
            f"\n{len(failed)} of {len(load.calls)} requests failed, all of them inside; "
            f"the controller noticed after {(noticed.time - killed_at_wall) * 1000:.0f} ms"
        )
