"""A member of a gang: it waits for the others, meets them, is told when they change, and is called by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from replica import peers
from serve_core.errors import ConstructorFailedError, StartTimedOutError
from serve_core.model.gang import GangMember, GangPolicy, GangRoster
from serve_core.model.ids import GangId, NodeId
from serve_core.model.ids import replica_id as member_id
from serve_core.model.replica import Gang, ReplicaPhase, ReplicaReport
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime.server import Server
from serve_core.v1 import controller_pb2, replica_pb2
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.gang import encode_gang_roster
from serve_core.wire.payload import decode_payload
from serve_core.wire.replica import encode_gang
from tests.shell.replica.support import WAIT_S, Running, attached, refused, request, spec_of

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


@asynccontextmanager
async def gang_of_two(tmp_path: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Two members; the context of this process is the leader's."""
    spec = app_of(tmp_path)
    async with member(spec, 1) as second, member(spec, 0) as first:
        roster = roster_of(address_of(first), address_of(second))
        for running in (second, first):
            send(running, roster)
            await running.controller.phase(ReplicaPhase.READY)
        yield first, second


def imported(tmp_path: Path) -> bool:
    return any(tmp_path.glob("*.imported"))


async def test_user_code_waits_for_the_roster_and_finds_what_launchers_set(tmp_path: Path) -> None:
    async with member(app_of(tmp_path), 0) as running:
        await running.controller.until(lambda controller: controller.reports[-1].rendezvous_port)
        report = running.controller.reports[-1]
        assert (report.gang_epoch, report.phase) == (0, ReplicaPhase.STARTING)
        assert not imported(tmp_path)
        assert running.environ == {}
        send(running, roster_of(address_of(running), NOBODY, port=report.rendezvous_port))
        report = await running.controller.phase(ReplicaPhase.READY)
        assert report.gang_epoch == 1
        assert running.environ == {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(report.rendezvous_port),
        }
        assert await running.call("tell") == [
            1, 0, 2, "prefill", True, address_of(running), 0, "127.0.0.1", True, 1,
        ]  # fmt: skip


async def test_only_the_leader_keeps_a_port_free(tmp_path: Path) -> None:
    async with member(app_of(tmp_path), 1) as running:
        send(running, roster_of(NOBODY, address_of(running)))
        report = await running.controller.phase(ReplicaPhase.READY)
        assert report.rendezvous_port == 0
        assert (await running.call("tell"))[1:5] == [1, 2, "decode", False]


async def test_a_gang_that_never_comes_together_is_a_failed_start(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, gang=GangPolicy(size=2, start_deadline_s=0.2)), 0) as running:
        with pytest.raises(StartTimedOutError, match=r"the list of the gang's members had not come after 0\.2 s"):
            await running.task
        assert not imported(tmp_path)


async def test_a_replica_of_its_own_is_a_gang_of_one(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE)) as running:
        report = await running.controller.phase(ReplicaPhase.READY)
        assert (report.gang_epoch, report.rendezvous_port) == (1, 0)
        assert running.environ == {}
        told = await running.call("tell")
        assert told == [1, 0, 1, "", True, address_of(running), 0, "127.0.0.1", False, 1]
        await running.call("meet", "all", 5.0)
        assert await running.call("ask", 0, "double", 4) == 8


async def test_rosters_of_others_and_older_ones_change_nothing(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        roster = roster_of(address_of(running), NOBODY, epoch=5)
        await running.call("open")
        send(running, roster)
        await acts_on(running, 5)
        send(running, replace(roster, epoch=4))
        send(running, replace(roster, epoch=6, gang_id=GangId("app.dep.g2")))
        send(running, replace(roster, epoch=6, members=roster.members[:1]))
        send(running, replace(roster, epoch=6, members=roster.members[::-1]))
        send(running, replace(roster, epoch=7))
        await acts_on(running, 7)
        assert await running.call("told") == [5, 7]


async def test_user_code_is_told_of_new_members_before_the_controller_hears_that_it_acts_on_them(
    tmp_path: Path,
) -> None:
    async with leader(tmp_path) as running:
        roster = roster_of(address_of(running), NOBODY, epoch=2, port=29501)
        send(running, roster)
        while (await running.call("tell"))[0] == 1:
            pass
        assert running.environ["MASTER_PORT"] == "29501"
        assert running.controller.reports[-1].gang_epoch == 1
        await running.call("open")
        report = await acts_on(running, 2)
        assert report.healthy
        assert await running.call("told") == [2]
        assert (await running.call("tell"))[-1] == 2


async def test_a_member_that_cannot_do_with_the_others_is_ill(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        await running.call("open")
        send(running, roster_of(address_of(running), NOBODY, epoch=13))
        await running.controller.until(lambda controller: not controller.reports[-1].healthy)
        report = running.controller.reports[-1]
        assert report.gang_epoch == 1
        assert report.failure is not None
        assert "on_gang_changed()" in report.failure.message
        assert "cannot do without rank 1" in report.failure.traceback


async def test_members_meet_while_they_are_constructed(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, "Meets"), 0) as running:
        send(running, roster_of(address_of(running), NOBODY))
        answer = await running.stub.JoinBarrier(join(name="init"), timeout=WAIT_S)
        assert not answer.missing_ranks
        await running.controller.phase(ReplicaPhase.READY)


async def test_a_constructor_that_waits_in_vain_says_for_whom(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, "Meets"), 0) as running:
        send(running, roster_of(address_of(running), NOBODY, epoch=9))
        with pytest.raises(
            ConstructorFailedError, match=r"barrier 'init'.*rank 1 \(decode\) had not come after 0\.2 s"
        ):
            await running.task


@pytest.mark.parametrize("method", ["meet", "meet_in_thread", "meet_in_another_loop"])
async def test_members_meet_again_and_again_from_anywhere(tmp_path: Path, method: str) -> None:
    async with leader(tmp_path) as running:
        for number in range(3):
            meeting = asyncio.ensure_future(running.call(method, "step", WAIT_S))
            answer = await running.stub.JoinBarrier(join(name="step", round=number), timeout=WAIT_S)
            assert not answer.missing_ranks
            await meeting


async def test_a_barrier_that_would_stop_the_event_loop_is_refused(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        error = await refused(running.stub.Dispatch(request("meet_wrongly")))
        assert "would block an event loop: await barrier() there" in error.message


async def test_who_comes_first_is_told_who_is_missing(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        answer = await running.stub.JoinBarrier(join(timeout_s=0.05), timeout=WAIT_S)
        assert list(answer.missing_ranks) == [0]


async def test_a_change_of_the_gang_ends_the_waits_at_its_barriers(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        await running.call("open")
        remote = running.stub.JoinBarrier(join(name="a"), timeout=WAIT_S)
        local = running.stub.Dispatch(request("meet", "b", WAIT_S))
        await running.until_load(1, 0)
        send(running, roster_of(address_of(running), NOBODY, epoch=2))
        assert (await refused(remote)).reason == "GANG_CHANGED"
        assert "a member of the gang was replaced" in (await refused(local)).message
        late = running.stub.JoinBarrier(join(name="a"), timeout=WAIT_S)
        assert (await refused(late)).reason == "GANG_CHANGED"
        other = join(name="a", epoch=2)
        other.gang_id = "app.dep.g2"
        assert (await refused(running.stub.JoinBarrier(other, timeout=WAIT_S))).reason == "GANG_CHANGED"
        absurd = running.stub.JoinBarrier(join(rank=2, epoch=2), timeout=WAIT_S)
        assert (await refused(absurd)).reason == "CONFIG_INVALID"


Answer = Callable[[Any, Any], Awaitable[Any]]


@asynccontextmanager
async def leader_that(answer: Answer, port: int = 0) -> AsyncIterator[str]:
    """A leader of which this test decides how it answers at barriers."""
    server = Server("127.0.0.1", port)
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=replica_pb2.JoinBarrierRequest.FromString,
        response_serializer=replica_pb2.JoinBarrierResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("serve_core.v1.ReplicaService", {"JoinBarrier": handler})
    server.add_generic_handlers([service])
    try:
        yield await server.start()
    finally:
        await server.stop(0)


async def test_a_lost_connection_to_the_leader_is_made_again_for_the_same_round(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def answer(asked: Any, context: Any) -> Any:
        seen.append(asked)
        if len(seen) % 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")
        return replica_pb2.JoinBarrierResponse()

    async with member(app_of(tmp_path), 1) as running, leader_that(answer) as address:
        send(running, roster_of(address, address_of(running)))
        await running.controller.phase(ReplicaPhase.READY)
        await running.call("meet", "step", WAIT_S)
        await running.call("meet", "step", WAIT_S)
        assert [(asked.gang_epoch, asked.rank, asked.name, asked.round) for asked in seen] == [
            (1, 1, "step", 0),
            (1, 1, "step", 0),
            (1, 1, "step", 1),
            (1, 1, "step", 1),
        ]


async def test_a_member_waits_for_a_leader_that_is_away_and_not_longer_than_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ANSWER_GRACE_S", 0.05)

    async def answer(asked: Any, context: Any) -> Any:
        del asked, context
        return replica_pb2.JoinBarrierResponse()

    async with member(app_of(tmp_path), 1) as running:
        async with leader_that(answer) as address:
            pass
        send(running, roster_of(address, address_of(running)))
        await running.controller.phase(ReplicaPhase.READY)
        error = await refused(running.stub.Dispatch(request("meet", "step", 0.0)))
        assert "rank 0 (prefill) had not come" in error.message
        meeting = asyncio.ensure_future(running.call("meet", "step", WAIT_S))
        await running.until_load(1, 0)
        async with leader_that(answer, int(address.rpartition(":")[2])):
            await meeting


async def test_a_member_that_waits_at_a_leader_that_is_replaced_is_told(tmp_path: Path) -> None:
    waiting = asyncio.Event()

    async def answer(asked: Any, context: Any) -> Any:
        del asked, context
        waiting.set()
        await asyncio.Event().wait()

    async with member(app_of(tmp_path), 1) as running, leader_that(answer) as address:
        send(running, roster_of(address, address_of(running)))
        await running.controller.phase(ReplicaPhase.READY)
        call = running.stub.Dispatch(request("meet", "step", WAIT_S))
        await waiting.wait()
        send(running, roster_of(NOBODY, address_of(running), epoch=2))
        assert "was replaced" in (await refused(call)).message


async def test_members_call_each_other(tmp_path: Path) -> None:
    async with gang_of_two(tmp_path) as (first, _):
        assert await first.call("ask", 1, "double", 4) == 8
        assert await first.call("ask_typed") == [8, True]
        assert await first.call("ask_in_thread") == 42
        assert await first.call("ask_to_fail") == "as asked"
        assert 0 < await first.call("ask", 1, "left_s", kwargs={"timeout_s": 5.0}) < 10


async def test_what_goes_wrong_between_members_has_its_type(tmp_path: Path) -> None:
    async with gang_of_two(tmp_path) as (first, second):
        for rank, method, word in [(1, "no_such", "MethodUnknown"), (7, "double", "ConfigInvalid")]:
            error = await refused(first.stub.Dispatch(request("ask", rank, method)))
            assert word in error.remote_type, error
        timed = await refused(first.stub.Dispatch(request("ask", 1, "wait", kwargs={"timeout_s": 0.1})))
        assert "wait() of rank 1 (decode) did not end within 0.1 s" in timed.message
        died = first.stub.Dispatch(request("ask", 1, "wait"))
        await until_begun(second, 2)
        second.controller.send(stop=controller_pb2.StopCommand())
        assert "ReplicaDiedError" in (await refused(died)).remote_type
        await second.task
        gone = await refused(first.stub.Dispatch(request("ask", 1, "double", 1, kwargs={"timeout_s": 0.2})))
        assert "ReplicaUnavailableError" in gone.remote_type
        waits = first.stub.Dispatch(request("ask", 1, "double", 1))
        await first.until_load(1, 0)
        send(first, roster_of(address_of(first), NOBODY, epoch=2))
        assert "GangChangedError" in (await refused(waits)).remote_type


async def until_begun(running: Running, calls: int, *, counted: str = "begun") -> None:
    """Waits until so many calls of ``wait`` have begun there."""
    async with asyncio.timeout(WAIT_S):
        while decode_value(decode_payload((await running.stub.Dispatch(gang_call(counted))).result)) < calls:
            pass


async def test_a_call_that_nobody_waits_for_any_more_is_ended_at_the_other_member(tmp_path: Path) -> None:
    async with gang_of_two(tmp_path) as (first, second):
        call = first.stub.Dispatch(request("ask", 1, "wait"))
        await until_begun(second, 1)
        call.cancel()
        await until_begun(second, 1, counted="ended")
        await first.until_load(0, 0)


def gang_call(method: str, *args: Any, epoch: int = 1, gang_id: GangId = GANG_ID) -> replica_pb2.DispatchRequest:
    caller = replace(gang_of(1, epoch=epoch), gang_id=gang_id)
    return request(method, *args, gang=encode_gang(caller))


async def test_calls_of_the_gang_take_no_slot(tmp_path: Path) -> None:
    async with leader(tmp_path, max_ongoing_requests=1) as running:
        held = running.stub.Dispatch(request("wait"))
        await running.until_load(1, 0)
        assert (await refused(running.stub.Dispatch(request("double", 1)))).reason == "NO_SLOT"
        answer = await running.stub.Dispatch(gang_call("triple", [1]))
        assert (answer.load.ongoing, answer.load.capacity) == (1, 1)
        await running.stub.Dispatch(gang_call("open"))
        await held


async def test_calls_of_another_gang_or_epoch_are_refused(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        await running.call("open")
        stranger = running.stub.Dispatch(gang_call("double", 1, gang_id=GangId("app.dep.g2")))
        assert (await refused(stranger)).reason == "GANG_CHANGED"
        early = running.stub.Dispatch(gang_call("double", 1, epoch=2))
        send(running, roster_of(address_of(running), NOBODY, epoch=2))
        assert (await early).load.capacity
        assert (await refused(running.stub.Dispatch(gang_call("double", 1)))).reason == "GANG_CHANGED"
        call = running.stub.DispatchStream(timeout=WAIT_S)
        await call.write(replica_pb2.DispatchStreamRequest(open=gang_call("double", 1)))
        assert (await refused(call.read())).reason == "CONFIG_INVALID"


async def test_a_member_that_is_not_constructed_yet_says_that_nothing_was_run(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, "Meets"), 0) as running:
        send(running, roster_of(address_of(running), NOBODY))
        await acts_on(running, 1)
        assert (await refused(running.stub.Dispatch(gang_call("double", 1)))).reason == "REPLICA_UNAVAILABLE"
        await running.stub.JoinBarrier(join(name="init"), timeout=WAIT_S)


async def test_a_drained_member_works_for_its_gang_until_it_is_released(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        drain = controller_pb2.DrainCommand(budget=encode_duration(WAIT_S), hold=True)
        running.controller.send(drain=drain)
        await running.controller.until(lambda controller: controller.reports[-1].drained)
        assert (await refused(running.stub.Dispatch(request("double", 1)))).reason == "DRAINING"
        await running.stub.Dispatch(gang_call("double", 1))
        answer = await running.stub.JoinBarrier(join(timeout_s=0.01), timeout=WAIT_S)
        assert list(answer.missing_ranks) == [0]
        background = running.stub.Dispatch(gang_call("wait"))
        await until_begun(running, 1)
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        assert (await refused(background)).reason == "REPLICA_DIED"
        assert await running.task == 0
