"""What the backend says, and when the controller could not listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from serve_core.backend.port import BundleRequest, PlacementRequest, ProcessSpec
from serve_core.controller.observer import Listening, Observer
from serve_core.controller.world import Pulse, World
from serve_core.model.ids import ReplicaId
from serve_core.model.resources import Resources
from serve_core.plan.events import (
    BackendListed,
    Event,
    ListeningResumed,
    NodesSeen,
    PlacementReserved,
    ProcessExited,
    ProcessStarted,
)
from serve_core.plan.records import ClusterRecord, Records
from serve_core.runtime import clock
from serve_core.runtime.supervisor import Supervisor
from serve_core.testing import FakeBackend, FakeClock


@dataclass
class Rig:
    backend: FakeBackend
    observer: Observer
    events: asyncio.Queue[Event]
    heard: asyncio.Event

    async def next(self) -> Event:
        async with asyncio.timeout(60):
            return await self.events.get()

    async def start_process(self, process_id: str) -> None:
        bundle = BundleRequest(resources=Resources(cpus=1.0))
        await self.backend.reserve(PlacementRequest(placement_id="app.d.1", bundles=(bundle,)))
        await self.backend.start(ProcessSpec(process_id=process_id, command=(), placement_id="app.d.1"))


def _world(now: FakeClock) -> World:
    return World(cluster=ClusterRecord(epoch="e"), records=Records(), now=now)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    backend, heard, events = FakeBackend(), asyncio.Event(), asyncio.Queue[Event]()
    world = _world(FakeClock(5.0))
    world.listen(events.put_nowait)

    async def last_words(replica_id: ReplicaId, epoch: int) -> None:
        await heard.wait()

    async with Supervisor("test") as tasks:
        yield Rig(
            backend, Observer(backend, world, last_words=last_words, last_words_s=5.0, tasks=tasks), events, heard
        )


async def test_stock_is_told_before_it_is_said_to_be_all(rig: Rig) -> None:
    await rig.start_process("app.d.1-0.3")
    await rig.observer.take_stock()
    assert await rig.next() == PlacementReserved(gang_id="app.d.1", now=5.0)  # type: ignore[arg-type]
    assert await rig.next() == ProcessStarted(replica_id=ReplicaId("app.d.1-0"), epoch=3, pid=100_000, now=5.0)
    assert isinstance(await rig.next(), NodesSeen)
    assert isinstance(await rig.next(), BackendListed)


async def test_a_kill_is_told_at_once_and_an_exit_after_its_last_words(rig: Rig) -> None:
    for number, code in enumerate((1, None, -9)):
        await rig.start_process(f"r{number}.1")
        rig.backend.exit(f"r{number}.1", code)
    await rig.backend.close()
    await rig.observer.run()
    assert await rig.next() == ProcessExited(replica_id=ReplicaId("r2"), epoch=1, exit_code=-9, now=5.0)
    assert rig.events.empty()
    rig.heard.set()
    told = [await rig.next(), await rig.next()]
    assert [event.replica_id for event in told if isinstance(event, ProcessExited)] == ["r0", "r1"]


async def test_processes_of_other_names_are_not_ours(rig: Rig) -> None:
    await rig.start_process("something")
    await rig.observer.take_stock()
    rig.backend.exit("something")
    await rig.backend.close()
    await rig.observer.run()
    kinds = [type(await rig.next()) for _ in range(rig.events.qsize())]
    assert kinds == [PlacementReserved, NodesSeen, BackendListed]


def test_a_gap_in_listening_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic, now = FakeClock(0.0), FakeClock(50.0)
    monkeypatch.setattr(clock, "monotonic", monotonic)
    world = _world(now)
    told: list[Event] = []
    world.listen(told.append)
    listening = Listening(world, check_s=0.5, limit_s=1.5)
    monotonic.advance(1.4)
    listening.check()
    assert told == []
    monotonic.advance(30.0)
    now.advance(30.0)
    listening.check()
    assert told == [ListeningResumed(now=80.0)]
    assert world.observed.listening_since == 80.0


async def test_a_pulse_wakes_all_who_wait_and_misses_nobody() -> None:
    pulse = Pulse()
    pulse.beat()
    assert await pulse.after(0) == 1
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        waiting = [group.create_task(pulse.after(1)) for _ in range(3)]
        await asyncio.sleep(0)
        pulse.beat()
        pulse.beat()
    assert [task.result() for task in waiting] == [3, 3, 3]
