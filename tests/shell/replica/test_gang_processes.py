"""Three members, each a process of its own, as a controller starts them: what user code finds there."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serve_core.model.bundles import BUNDLES_ENV, ChildBundle, bundles_text
from serve_core.model.gang import GangMember, GangRoster
from serve_core.model.ids import GangId, NodeId
from serve_core.model.ids import replica_id as member_id
from serve_core.model.replica import Gang, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime import address
from serve_core.runtime.channel import open_channel
from serve_core.v1 import controller_pb2, replica_pb2_grpc
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.gang import encode_gang_roster
from serve_core.wire.payload import decode_payload
from tests.shell.replica.support import EPOCH, WAIT_S, FakeController, controller_of, request, spec_of

pytestmark = pytest.mark.integration

GANG_ID = GangId("app.dep.g7")
SIZE = 3

SOURCE = """
import os
import socket
import threading

import serve_core

RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])  # there at import already


class App:
    '''Adds up numbers of all members over sockets of their own, as a library for distributed training would.'''

    def __init__(self):
        self.gang = serve_core.get_gang_context()
        self.gang.barrier_sync("before")
        where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if RANK == 0:
            with socket.create_server(where) as server:
                self.gang.barrier_sync("listening")
                self.total = sum(self._number(server) for _ in range(WORLD_SIZE - 1))
        else:
            self.gang.barrier_sync("listening")
            with socket.create_connection(where, timeout=50) as connection:
                connection.sendall(bytes([RANK]))
            self.total = -1
        self.gang.barrier_sync("after")

    def _number(self, server):
        connection, _ = server.accept()
        with connection:
            return connection.recv(1)[0]

    async def about(self):
        bundles = [[bundle.resources.cpus, list(bundle.gpu_ids)] for bundle in serve_core.get_replica_context().bundles]
        names = ("MASTER_ADDR", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MINE")
        return [self.gang.rank, self.gang.size, self.total, [os.environ[name] for name in names], bundles]

    async def everyone(self):
        return [await self.gang.peer(rank).call(self.about) for rank in range(self.gang.size)]
"""


@dataclass
class Member:
    process: asyncio.subprocess.Process
    controller: FakeController

    async def address(self) -> str:
        await self.controller.until(lambda controller: controller.reports and controller.reports[-1].address)
        return self.controller.reports[-1].address

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


async def started(stack: AsyncExitStack, spec: DeploymentSpec, rank: int) -> Member:
    controller, where = await stack.enter_async_context(controller_of(spec))
    controller.gang = Gang(gang_id=GANG_ID, rank=rank, size=SIZE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "replica", "--controller", where, "--replica-id", member_id(GANG_ID, rank)),
        *("--epoch", str(EPOCH), "--log-format", "json"),
        env={
            **os.environ,
            "MASTER_ADDR": "from.the.user",
            "MINE": "kept",
            BUNDLES_ENV: bundles_text([ChildBundle(resources=Resources(cpus=2.0), gpu_ids=("5",))]),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    member = Member(process, controller)
    stack.push_async_callback(member.end)
    return member


async def roster_of(members: list[Member]) -> GangRoster:
    addresses = [await member.address() for member in members]
    await members[0].controller.until(lambda controller: controller.reports[-1].rendezvous_port)
    return GangRoster(
        gang_id=GANG_ID,
        epoch=1,
        members=tuple(
            GangMember(
                replica_id=member_id(GANG_ID, rank),
                rank=rank,
                epoch=EPOCH,
                address=where,
                node_id=NodeId("n0"),
                local_rank=rank,
                local_size=SIZE,
            )
            for rank, where in enumerate(addresses)
        ),
        rendezvous_host=address.split(addresses[0])[0],
        rendezvous_port=members[0].controller.reports[-1].rendezvous_port,
    )


async def call(member: Member, method: str) -> Any:
    async with open_channel(await member.address()) as channel:
        stub: Any = replica_pb2_grpc.ReplicaServiceStub(channel)
        response = await stub.Dispatch(request(method), timeout=WAIT_S)
        return decode_value(decode_payload(response.result))


async def test_members_find_each_other_as_launchers_promise(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SOURCE)
    async with AsyncExitStack() as stack:
        members = [await started(stack, spec, rank) for rank in range(SIZE)]
        roster = await roster_of(members)
        for member in members:
            member.controller.send(roster=encode_gang_roster(roster))
        for member in members:
            await member.controller.phase(ReplicaPhase.READY)
        told = await call(members[0], "everyone")
        assert told == [
            [rank, SIZE, 3 if rank == 0 else -1, ["127.0.0.1", str(rank), str(SIZE), "0", "kept"], [[2.0, ["5"]]]]
            for rank in range(SIZE)
        ]
        for member in members:
            member.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S), hold=True))
        for member in members:
            await member.controller.until(lambda controller: controller.reports[-1].drained)
        for member in members:
            member.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        for rank, member in enumerate(members):
            _, said = await member.process.communicate()
            assert member.process.returncode == 0
            assert f'"gang": "{GANG_ID}", "rank": "{rank}"' in said.decode()
