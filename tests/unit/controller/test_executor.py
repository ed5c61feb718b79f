"""The executor: each action once at a time, in a gang's order, and every outcome an event."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from serve_core.controller.executor import Executor, ReplicaLaunch, parse_process_id, process_id
from serve_core.errors import ImportFailedError
from serve_core.model.actor import ActorEndpoint
from serve_core.model.gang import GangRoster
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Gang, Replica
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actions import (
    Disown,
    FreePlacement,
    KillProcess,
    ReservePlacement,
    SendActors,
    SendDrain,
    SendReconfigure,
    SendRoster,
    StartProcess,
)
from serve_core.plan.events import (
    ActorsSent,
    DrainSent,
    Event,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
    ProcessExited,
    ProcessStarted,
    Reconfigured,
    RosterSent,
    StartRefused,
)
from serve_core.plan.records import Bundle
from serve_core.runtime.supervisor import Supervisor
from serve_core.testing import FakeBackend

GANG = GangId("app.d.1")
REPLICA = ReplicaId("app.d.1-0")
KEY = DeploymentKey("app", "d")
NODE = NodeId("node-0")
CACHE = ActorEndpoint(name="cache", incarnation=1, address="h:1")
SPEC = DeploymentSpec(name="d", import_path="m:A", env={"A": "spec", "B": "spec"}, working_dir="/w")
ROSTER = GangRoster(gang_id=GANG, epoch=2, members=())


class FakeCommands:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.attached = True

    def reconfigure(self, replica_id: ReplicaId, epoch: int, spec: DeploymentSpec) -> bool:
        self.sent.append(f"reconfigure {replica_id} {epoch}")
        return self.attached

    def roster(self, replica_id: ReplicaId, epoch: int, roster: GangRoster) -> bool:
        self.sent.append(f"roster {replica_id} {epoch} {roster.epoch}")
        return self.attached

    def drain(self, replica_id: ReplicaId, epoch: int, budget_s: float, *, hold: bool) -> bool:
        self.sent.append(f"{'hold' if hold else 'drain'} {replica_id} {epoch} {budget_s}")
        return self.attached

    def actors(self, replica_id: ReplicaId, epoch: int, actors: Sequence[ActorEndpoint]) -> bool:
        self.sent.append(f"actors {replica_id} {epoch} {','.join(one.name for one in actors)}")
        return self.attached

    def disown(self, replica_id: ReplicaId, epoch: int, message: str) -> bool:
        self.sent.append(f"disown {replica_id} {epoch} {message}")
        return self.attached


class Rig:
    """An executor on fakes, and the events that came of it."""

    def __init__(self, tasks: Supervisor) -> None:
        self.backend = FakeBackend()
        self.commands = FakeCommands()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.executor = Executor(
            backend=self.backend,
            commands=self.commands,
            launch=ReplicaLaunch(controller_address="127.0.0.1:7", max_message_bytes=9, die_with=42),
            emit=self.events.put_nowait,
            now=lambda: 5.0,
            tasks=tasks,
        )

    async def next(self) -> Event:
        async with asyncio.timeout(60):
            return await self.events.get()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Supervisor("test") as tasks:
        yield Rig(tasks)


def _reserve(cpus: float = 1.0) -> ReservePlacement:
    bundle = Bundle(node_id=NODE, resources=Resources(cpus=cpus))
    return ReservePlacement(gang_id=GANG, key=KEY, bundles=(bundle,))


def _start() -> StartProcess:
    replica = Replica(
        replica_id=REPLICA,
        key=KEY,
        revision=RevisionId("r"),
        epoch=3,
        address="",
        node_id=NODE,
        gang=Gang(gang_id=GANG),
    )
    bundle = Bundle(node_id=NODE, resources=Resources(cpus=1.0))
    return StartProcess(
        gang_id=GANG, replica=replica, spec=SPEC, bundle=bundle, bundle_index=0, env={"B": "gang", "C": "gang"}
    )


async def test_a_gang_is_reserved_before_it_is_started(rig: Rig) -> None:
    rig.executor.submit([_reserve(), _start()])
    assert await rig.next() == PlacementReserved(gang_id=GANG, now=5.0)
    started = await rig.next()
    assert started == ProcessStarted(replica_id=REPLICA, epoch=3, pid=100_000, now=5.0)


async def test_a_replica_is_started_with_its_command_and_variables(rig: Rig) -> None:
    rig.executor.submit([_reserve(), _start()])
    (spec,) = await rig.backend.wait_started(1)
    assert spec.command == (
        *(sys.executable, "-m", "replica", "--controller", "127.0.0.1:7", "--replica-id", REPLICA, "--epoch", "3"),
        *("--host", "127.0.0.1", "--node-id", NODE, "--max-message-bytes", "9", "--die-with", "42"),
    )
    assert (spec.env, spec.working_dir, spec.log_name) == ({"A": "spec", "B": "gang", "C": "gang"}, "/w", REPLICA)


async def test_a_replica_is_started_in_its_bundle_with_those_of_its_children(rig: Rig) -> None:
    bundle = Bundle(node_id=NODE, resources=Resources(cpus=0.1))
    reserve = ReservePlacement(gang_id=GANG, key=KEY, bundles=(bundle,) * 4)
    rig.executor.submit([reserve, replace(_start(), bundle_index=1, child_bundles=2)])
    (spec,) = await rig.backend.wait_started(1)
    assert (spec.bundle, spec.child_bundles) == (1, 2)


async def test_an_actor_is_started_by_the_same_program_in_another_role(rig: Rig) -> None:
    rig.executor.submit([_reserve(), replace(_start(), is_actor=True)])
    (spec,) = await rig.backend.wait_started(1)
    assert spec.command[:3] == (sys.executable, "-m", "replica")
    assert spec.command[-4:] == ("--role", "actor", "--die-with", "42")


async def test_what_is_under_way_is_not_done_again(rig: Rig) -> None:
    rig.executor.submit([_reserve(), _start()])
    rig.executor.submit([_reserve(), _start()])
    assert isinstance(await rig.next(), PlacementReserved)
    assert isinstance(await rig.next(), ProcessStarted)
    assert rig.events.empty()
    rig.executor.submit([_start()])
    assert isinstance(await rig.next(), ProcessStarted)
    assert len(rig.backend.started) == 1


async def test_no_room_is_an_event(rig: Rig) -> None:
    rig.executor.submit([_reserve(cpus=100.0)])
    event = await rig.next()
    assert isinstance(event, PlacementRefused)
    assert event.failure.reason == "NO_ROOM"
    assert "100 CPUs" in event.failure.message


async def test_a_refused_start_is_an_event(rig: Rig) -> None:
    rig.backend.refuse_next_start(ImportFailedError("no such interpreter"))
    rig.executor.submit([_reserve(), _start()])
    await rig.next()
    event = await rig.next()
    assert isinstance(event, StartRefused)
    assert (event.failure.reason, event.failure.message) == ("IMPORT_FAILED", "no such interpreter")


async def test_killing_what_does_not_run_says_that_it_has_ended(rig: Rig) -> None:
    rig.executor.submit(
        [KillProcess(gang_id=GANG, replica_id=REPLICA, epoch=3, node_id=NODE), FreePlacement(gang_id=GANG)]
    )
    assert await rig.next() == ProcessExited(replica_id=REPLICA, epoch=3, exit_code=None, now=5.0)
    assert await rig.next() == PlacementFreed(gang_id=GANG, now=5.0)


async def test_killing_what_runs_leaves_the_word_to_the_backend(rig: Rig) -> None:
    rig.executor.submit([_reserve(), _start()])
    await rig.backend.wait_started(1)
    rig.executor.submit([KillProcess(gang_id=GANG, replica_id=REPLICA, epoch=3, node_id=NODE)])
    backend_events = rig.backend.events()
    async with asyncio.timeout(60):
        assert (await anext(backend_events)).process_id == process_id(REPLICA, 3)
    assert rig.backend.stopped == [(process_id(REPLICA, 3), True)]


async def test_commands_are_sent_and_said_to_be(rig: Rig) -> None:
    rig.executor.submit(
        [
            SendReconfigure(gang_id=GANG, replica_id=REPLICA, epoch=3, spec=SPEC, config="c"),
            SendRoster(gang_id=GANG, replica_id=REPLICA, epoch=3, roster=ROSTER),
            SendDrain(gang_id=GANG, replica_id=REPLICA, epoch=3, budget_s=7.0, hold=True),
            SendDrain(gang_id=GANG, replica_id=REPLICA, epoch=3, budget_s=7.0),
            SendActors(gang_id=GANG, replica_id=REPLICA, epoch=3, actors=(CACHE,)),
            Disown(gang_id=GANG, replica_id=REPLICA, epoch=3, message="why"),
        ]
    )
    assert await rig.next() == Reconfigured(replica_id=REPLICA, epoch=3, config="c", now=5.0)
    assert await rig.next() == RosterSent(replica_id=REPLICA, epoch=3, gang_epoch=2, now=5.0)
    assert await rig.next() == DrainSent(replica_id=REPLICA, epoch=3, hold=True, now=5.0)
    assert await rig.next() == DrainSent(replica_id=REPLICA, epoch=3, now=5.0)
    assert await rig.next() == ActorsSent(replica_id=REPLICA, epoch=3, actors=(CACHE,), now=5.0)
    rig.executor.submit([FreePlacement(gang_id=GANG)])
    assert isinstance(await rig.next(), PlacementFreed)
    assert rig.commands.sent == [
        f"reconfigure {REPLICA} 3",
        f"roster {REPLICA} 3 2",
        f"hold {REPLICA} 3 7.0",
        f"drain {REPLICA} 3 7.0",
        f"actors {REPLICA} 3 cache",
        f"disown {REPLICA} 3 why",
    ]


async def test_a_command_without_a_stream_has_no_outcome(rig: Rig) -> None:
    rig.commands.attached = False
    rig.executor.submit(
        [
            SendReconfigure(gang_id=GANG, replica_id=REPLICA, epoch=3, spec=SPEC, config="c"),
            SendRoster(gang_id=GANG, replica_id=REPLICA, epoch=3, roster=ROSTER),
            SendDrain(gang_id=GANG, replica_id=REPLICA, epoch=3, budget_s=7.0),
            SendActors(gang_id=GANG, replica_id=REPLICA, epoch=3, actors=(CACHE,)),
            FreePlacement(gang_id=GANG),
        ]
    )
    assert isinstance(await rig.next(), PlacementFreed)


@pytest.mark.parametrize("text", ["", "app", "app.x", ".3", "app.-1"])
def test_only_our_own_names_are_parsed(text: str) -> None:
    parsed = parse_process_id(text)
    assert parsed is None or parsed[0] == ""


def test_a_process_name_survives_the_way_back() -> None:
    assert parse_process_id(process_id(REPLICA, 12)) == (REPLICA, 12)
