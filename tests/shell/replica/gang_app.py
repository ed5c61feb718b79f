"""Members of a gang of two, in one process: a test is their controller, and sometimes the other member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from serve_core.model.gang import GangMember, GangRoster
from serve_core.model.ids import GangId, NodeId
from serve_core.model.ids import replica_id as member_id
from serve_core.model.replica import Gang, ReplicaPhase, ReplicaReport
from serve_core.model.spec import DeploymentSpec
from serve_core.v1 import replica_pb2
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.gang import encode_gang_roster
from serve_core.wire.payload import decode_payload
from serve_core.wire.replica import encode_gang
from tests.shell.replica.support import WAIT_S, Running, attached, request, spec_of

GANG_ID = GangId("app.dep.g1")

NOBODY = "127.0.0.1:9"

SOURCE = """
import asyncio
import threading

import serve_core

MARKER = open(__file__ + ".imported", "w").close()


class Broken(ValueError):
    pass


class App:
    def __init__(self):
        self.rosters = []
        self.waits_begun = 0
        self.waits_ended = 0
        self.gate = asyncio.Event()
        self.open_gate = threading.Event()

    def on_gang_changed(self, roster):
        self.open_gate.wait(20)
        if roster.epoch == 13:
            raise RuntimeError("cannot do without rank 1")
        self.rosters.append(roster)

    async def tell(self):
        gang = serve_core.get_gang_context()
        return [gang.epoch, gang.rank, gang.size, gang.role, gang.is_leader, gang.leader.address, gang.me.rank,
                gang.rendezvous_host, gang.rendezvous_port > 0, serve_core.get_replica_context().gang.epoch]

    async def told(self):
        return [roster.epoch for roster in self.rosters]

    async def open(self):
        self.open_gate.set()
        self.gate.set()

    async def meet(self, name: str, timeout_s: float):
        await serve_core.get_gang_context().barrier(name, timeout_s)

    def meet_in_thread(self, name: str, timeout_s: float):
        serve_core.get_gang_context().barrier_sync(name, timeout_s)

    def meet_in_another_loop(self, name: str, timeout_s: float):
        asyncio.run(serve_core.get_gang_context().barrier(name, timeout_s))

    async def meet_wrongly(self):
        serve_core.get_gang_context().barrier_sync()

    async def begun(self):
        return self.waits_begun

    async def ended(self):
        return self.waits_ended

    async def wait(self):
        self.waits_begun += 1
        try:
            await self.gate.wait()
        finally:
            self.waits_ended += 1
        return "waited"

    async def double(self, number: int) -> int:
        return 2 * number

    def triple(self, numbers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(3 * number for number in numbers)

    async def fail(self):
        raise Broken("as asked")

    async def left_s(self):
        return serve_core.get_request_context().time_remaining()

    async def ask(self, rank: int, method: str, *args, timeout_s: float = 20.0):
        return await serve_core.get_gang_context().peer(rank, timeout_s=timeout_s).call(method, *args)

    async def ask_typed(self):
        peer = serve_core.get_gang_context().peer(1)
        return [await peer.call(self.double, 4), isinstance(await peer.call(self.triple, (1, 2)), tuple)]

    def ask_in_thread(self):
        return serve_core.get_gang_context().peer(1).call_sync("double", 21)

    async def ask_to_fail(self):
        try:
            await serve_core.get_gang_context().peer(1).call(self.fail)
        except Broken as error:
            return str(error)


class Meets(App):
    def __init__(self):
        super().__init__()
        serve_core.get_gang_context().barrier_sync("init", 0.2 if serve_core.get_gang_context().epoch == 9 else 20)
"""


def roster_of(*addresses: str, epoch: int = 1, port: int = 29500) -> GangRoster:
    members = tuple(
        GangMember(
            replica_id=member_id(GANG_ID, rank),
            rank=rank,
            epoch=1,
            address=address,
            node_id=NodeId("node-7"),
            role=("prefill", "decode")[rank % 2],
            local_rank=rank,
            local_size=len(addresses),
        )
        for rank, address in enumerate(addresses)
    )
    return GangRoster(gang_id=GANG_ID, epoch=epoch, members=members, rendezvous_host="127.0.0.1", rendezvous_port=port)


def send(running: Running, roster: GangRoster) -> None:
    running.controller.send(roster=encode_gang_roster(roster))


def address_of(running: Running) -> str:
    return running.app.state.replica.address


def gang_of(rank: int, *, size: int = 2, epoch: int = 1) -> Gang:
    return Gang(gang_id=GANG_ID, rank=rank, size=size, epoch=epoch)


async def acts_on(running: Running, epoch: int) -> ReplicaReport:
    await running.controller.until(lambda controller: controller.reports[-1].gang_epoch == epoch)
    return running.controller.reports[-1]


def join(rank: int = 1, *, epoch: int = 1, name: str = "", round: int = 0, timeout_s: float = WAIT_S) -> Any:
    return replica_pb2.JoinBarrierRequest(
        gang_id=GANG_ID, gang_epoch=epoch, rank=rank, name=name, round=round, timeout=encode_duration(timeout_s)
    )


def app_of(tmp_path: Path, target: str = "App", **changes: Any) -> DeploymentSpec:
    return spec_of(tmp_path, SOURCE, target, **changes)


@asynccontextmanager
async def member(spec: DeploymentSpec, rank: int) -> AsyncIterator[Running]:
    """One member of a gang of two, which does not know the other yet."""
    async with attached(spec, gang=gang_of(rank)) as running:
        await running.controller.until(lambda controller: controller.reports and controller.reports[-1].address)
        yield running


@asynccontextmanager
async def leader(tmp_path: Path, target: str = "App", **changes: Any) -> AsyncIterator[Running]:
    """The leader of a gang of two whose other member is this test."""
    async with member(app_of(tmp_path, target, **changes), 0) as running:
        send(running, roster_of(address_of(running), NOBODY))
        await running.controller.phase(ReplicaPhase.READY)
        yield running


async def until_begun(running: Running, calls: int, *, counted: str = "begun") -> None:
    """Waits until so many calls of ``wait`` have begun there."""
    async with asyncio.timeout(WAIT_S):
        while await calls_of(running, counted=counted) < calls:
            pass


async def calls_of(running: Running, *, counted: str = "begun") -> int:
    """How many calls of ``wait`` have begun there."""
    return int(decode_value(decode_payload((await running.stub.Dispatch(gang_call(counted))).result)))


def gang_call(method: str, *args: Any, epoch: int = 1, gang_id: GangId = GANG_ID) -> replica_pb2.DispatchRequest:
    caller = replace(gang_of(1, epoch=epoch), gang_id=gang_id)
    return request(method, *args, gang=encode_gang(caller))
