"""A process that runs a deployment actor: it begins from a state, saves its own, and serves only those who mean its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from replica import actor as actor_module
from replica import states
from serve_core.errors import (
    ActorFencedError,
    ConfigInvalidError,
    ConstructorFailedError,
    MethodUnknownError,
    StoreUnusableError,
)
from serve_core.model.actor import ActorAssignment, ActorOnFailure, ActorSpec
from serve_core.model.health import HealthPolicy
from serve_core.model.replica import ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.v1 import controller_pb2, replica_pb2
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.metadata import INCARNATION_KEY
from serve_core.wire.payload import decode_payload
from serve_core.wire.spec import encode_deployment_spec
from tests.shell.replica.support import REPLICA_ID, WAIT_S, Running, attached, refused, request, spec_of

SOURCE = """
import asyncio
import threading

import serve_core


class Counter:
    def __init__(self, start: int = 0):
        self.count = start
        self.log = [f"constructed, restored={serve_core.get_deployment_actor_context().restored}"]
        self.gate = asyncio.Event()
        self.inside = 0
        self.broken = False

    def restore_state(self, state: bytes):
        self.log.append(f"restored on {threading.current_thread().name}")
        self.count = int(state)

    async def save_state(self) -> bytes:
        if self.broken:
            raise RuntimeError("no state today")
        return str(self.count).encode()

    async def is_ready(self):
        if "ready?" not in self.log:
            self.log.append("ready?")
        return True

    async def shutdown(self):
        print("shutdown", flush=True)

    async def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    async def tell(self):
        return self.log

    async def about(self):
        context = serve_core.get_deployment_actor_context()
        return [context.application, context.deployment, context.name, context.incarnation, context.revision]

    async def break_saving(self, broken: bool):
        self.broken = broken

    async def wait(self):
        self.inside += 1
        await self.gate.wait()
        return self.inside

    async def open(self):
        self.gate.set()

    async def ask_for_actors(self):
        try:
            serve_core.get_deployment_actor("other")
        except serve_core.ServeError as error:
            return error.reason


class Mute:
    def save_state(self):
        return b""


class Plain:
    pass


class Wrong(Counter):
    def restore_state(self, state):
        raise ValueError("this is no state of mine")


class Text(Counter):
    async def save_state(self):
        return "text"


class Gated(Counter):
    async def save_state(self):
        self.inside += 1
        await self.gate.wait()
        return b"0"

    async def saving(self):
        return self.inside


class Slow(Counter):
    async def save_state(self):
        await asyncio.Event().wait()


class Unready(Counter):
    async def is_ready(self):
        return False
"""


def actor_spec(tmp_path: Path, target: str = "Counter", **changes: Any) -> DeploymentSpec:
    """What a controller tells the process of an actor."""
    actor = replace(
        ActorSpec(name="counter", import_path="x:y", on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT), **changes
    )
    spec = spec_of(tmp_path, SOURCE, target, max_ongoing_requests=actor.max_concurrency, actors=(actor,))
    return replace(spec, health=actor.health, graceful_shutdown_timeout_s=WAIT_S)


@asynccontextmanager
async def acting(
    tmp_path: Path,
    target: str = "Counter",
    *,
    incarnation: int = 1,
    stored: bytes | None = None,
    **changes: Any,
) -> AsyncIterator[Running]:
    """An actor that serves."""
    assignment = ActorAssignment(name="counter", incarnation=incarnation, restore=stored is not None)
    async with attached(actor_spec(tmp_path, target, **changes), actor=assignment, stored=stored) as running:
        await running.controller.phase(ReplicaPhase.READY)
        yield running


def ask(running: Running, number: int) -> None:
    running.controller.send(snapshot=controller_pb2.SnapshotCommand(request=number))


async def meant(running: Running, meant_for: str, method: str = "add") -> Any:
    """Calls with this in the metadata."""
    response = await running.stub.Dispatch(request(method), timeout=WAIT_S, metadata=[(INCARNATION_KEY, meant_for)])
    return decode_value(decode_payload(response.result))


async def test_it_knows_which_actor_it_is(tmp_path: Path) -> None:
    async with acting(tmp_path, incarnation=4) as running:
        assert await running.call("about") == ["app", "dep", "counter", 4, "r1"]
        assert await running.call("tell") == ["constructed, restored=False", "ready?"]
        assert await running.call("ask_for_actors") == "ACTOR_UNKNOWN"


async def test_it_is_given_its_state_after_its_constructor_and_before_it_is_ready(tmp_path: Path) -> None:
    async with acting(tmp_path, incarnation=2, stored=b"41") as running:
        assert await running.call("tell") == [
            "constructed, restored=True",
            "restored on restore_state",
            "ready?",
        ]
        assert await running.call("add") == 42


async def test_it_begins_empty_when_nothing_is_stored(tmp_path: Path) -> None:
    assignment = ActorAssignment(name="counter", incarnation=2, restore=True)
    async with attached(actor_spec(tmp_path), actor=assignment) as running:
        await running.controller.phase(ReplicaPhase.READY)
        assert await running.call("add") == 1


async def test_an_empty_state_is_one(tmp_path: Path) -> None:
    async with acting(tmp_path, "Mute", on_failure=ActorOnFailure.RESTART) as running:
        ask(running, 1)
        await running.controller.until(lambda controller: controller.states)
        assert running.controller.states[0].first.last


async def test_a_state_that_cannot_be_restored_is_a_failed_start(tmp_path: Path) -> None:
    assignment = ActorAssignment(name="counter", incarnation=2, restore=True)
    async with attached(actor_spec(tmp_path, "Wrong"), actor=assignment, stored=b"1") as running:
        with pytest.raises(
            ConstructorFailedError, match=r"restore_state.* raised ValueError: this is no state of mine"
        ):
            await running.task
        failure = running.controller.reports[-1].failure
        assert failure is not None
        assert "in restore_state" in failure.traceback
        assert running.controller.states == []


async def test_a_refused_state_is_a_failed_start(tmp_path: Path) -> None:
    assignment = ActorAssignment(name="counter", incarnation=2, restore=True)
    async with attached(actor_spec(tmp_path), actor=assignment) as running:
        running.controller.refuses_states = ActorFencedError("another one lives")
        with pytest.raises(ConstructorFailedError, match="another one lives"):
            await running.task


@pytest.mark.parametrize(
    ("target", "changes", "said"),
    [
        ("Plain", {}, r"on_failure = RESTART_FROM_SNAPSHOT, but its class has no save_state\(\) and restore_state\(\)"),
        ("Mute", {}, r"has no restore_state\(\)"),
        (
            "Plain",
            {"on_failure": ActorOnFailure.RESTART, "snapshot_interval_s": 5.0},
            r"snapshot_interval_s = 5, but its class has no save_state\(\)",
        ),
    ],
)
async def test_an_actor_that_is_to_save_states_and_cannot_does_not_start(
    tmp_path: Path, target: str, changes: dict[str, Any], said: str
) -> None:
    assignment = ActorAssignment(name="counter", incarnation=1)
    async with attached(actor_spec(tmp_path, target, **changes), actor=assignment) as running:
        with pytest.raises(ConstructorFailedError, match=said):
            await running.task


async def test_it_saves_its_state_by_time(tmp_path: Path) -> None:
    async with acting(tmp_path, snapshot_interval_s=0.02) as running:
        await running.call("add", 7)
        await running.controller.until(lambda controller: controller.stored == b"7")
        await running.controller.until(lambda controller: len(controller.states) >= 3)
        firsts = [state.first for state in running.controller.states]
        assert [first.sequence for first in firsts] == list(range(1, len(firsts) + 1))
        assert {(first.replica_id, first.epoch, first.incarnation, first.request) for first in firsts} == {
            (REPLICA_ID, 3, 1, 0)
        }


async def test_it_saves_its_state_when_asked_as_it_is_then(tmp_path: Path) -> None:
    async with acting(tmp_path) as running:
        await running.call("add", 5)
        ask(running, 9)
        await running.controller.until(lambda controller: controller.states)
        ask(running, 10)
        await running.controller.until(lambda controller: len(controller.states) == 2)
        assert [(state.first.request, state.data) for state in running.controller.states] == [(9, b"5"), (10, b"5")]


async def test_a_large_state_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "PART_BYTES", 3)
    async with acting(tmp_path) as running:
        await running.call("add", 1234567)
        ask(running, 1)
        await running.controller.until(lambda controller: controller.stored == b"1234567")


async def test_the_last_state_is_saved_when_nothing_runs_any_more_and_before_shutdown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with acting(tmp_path) as running:
        await running.call("add", 3)
        waiting = asyncio.ensure_future(running.call("wait"))
        await running.until_load(1, 0)
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        await running.controller.phase(ReplicaPhase.DRAINING)
        assert running.controller.states == []
        waiting.cancel()
        assert await running.task == 0
        assert running.controller.stored == b"3"
        assert "shutdown" in capfd.readouterr().out


async def test_one_that_never_was_ready_saves_nothing_at_its_end(tmp_path: Path) -> None:
    assignment = ActorAssignment(name="counter", incarnation=2, restore=True)
    async with attached(actor_spec(tmp_path, "Unready"), actor=assignment, stored=b"7") as running:
        await running.controller.until(lambda controller: controller.reports)
        while (controller := running.controller).reports[-1].is_ready:
            seen = len(controller.hellos)
            controller.hang_up()
            await controller.until(lambda controller, seen=seen: len(controller.hellos) > seen)  # type: ignore[misc]
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        assert await running.task == 0
        assert running.controller.states == []


@pytest.mark.parametrize(
    ("target", "said"),
    [("Counter", "save_state() raised RuntimeError: no state today"), ("Text", "must return bytes, not str")],
)
async def test_one_that_cannot_save_serves_on_and_says_so(tmp_path: Path, target: str, said: str) -> None:
    async with acting(tmp_path, target, snapshot_interval_s=0.01) as running:
        await running.call("break_saving", True)
        await running.controller.until(lambda controller: controller.reports[-1].snapshot_failure)
        report = running.controller.reports[-1]
        assert report.snapshot_failure is not None
        assert said in report.snapshot_failure.message
        assert (report.healthy, report.failure, report.phase) == (True, None, ReplicaPhase.READY)
        assert await running.call("add") == 1
        ask(running, 5)
        await running.controller.until(lambda controller: any(state.first.request for state in controller.states))
        (told,) = [state.first.failure for state in running.controller.states if state.first.request]
        assert said in told.message
        if target == "Counter":
            assert "in save_state" in told.traceback
            await running.call("break_saving", False)
            await running.controller.until(lambda controller: controller.reports[-1].snapshot_failure is None)


async def test_one_that_takes_too_long_is_told_of(tmp_path: Path) -> None:
    health = HealthPolicy(timeout_s=0.05)
    async with acting(tmp_path, "Slow", health=health) as running:
        ask(running, 5)
        await running.controller.until(lambda controller: controller.states)
        told = running.controller.states[0].first.failure.message
        assert told == "save_state() had not returned after 0.05 s (health_check_timeout_s)"


async def test_what_cannot_be_stored_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "BACKOFF", replace(actor_module.BACKOFF, initial_s=0.01, max_s=0.01))
    async with acting(tmp_path, snapshot_interval_s=0.05) as running:
        running.controller.refuses_states = StoreUnusableError("the disk is full")
        await running.controller.until(lambda controller: controller.reports[-1].snapshot_failure)
        running.controller.refuses_states = None
        await running.controller.until(lambda controller: controller.states)
        await running.controller.until(lambda controller: controller.reports[-1].snapshot_failure is None)


async def test_one_whose_place_was_taken_ends(tmp_path: Path) -> None:
    async with acting(tmp_path) as running:
        running.controller.refuses_states = ActorFencedError("incarnation 2 has taken its place")
        ask(running, 1)
        assert await running.task == 0
        assert running.controller.states == []


@pytest.mark.parametrize("method", ["add", "stream"])
async def test_calls_for_another_life_are_refused_before_anything_runs(tmp_path: Path, method: str) -> None:
    async with acting(tmp_path, incarnation=2) as running:
        for other in ("1", "3", "2@app.dep.other-0"):
            if method == "add":
                error = await refused(meant(running, other))
            else:
                opening = iter([replica_pb2.DispatchStreamRequest(open=request("add"))])
                call = running.stub.DispatchStream(opening, timeout=WAIT_S, metadata=[(INCARNATION_KEY, other)])
                error = await refused(call.read())
            assert isinstance(error, ActorFencedError)
            assert error.details["currentIncarnation"] == "2"
        assert isinstance(await refused(meant(running, "two")), ConfigInvalidError)
        assert await meant(running, "2") == 1
        assert await meant(running, f"2@{REPLICA_ID}") == 2
        assert await running.call("add") == 3


async def test_calls_wait_for_their_turn(tmp_path: Path) -> None:
    async with acting(tmp_path, max_concurrency=1) as running:
        waiting = asyncio.ensure_future(running.call("wait"))
        await running.until_load(1, 0)
        numbers = [asyncio.ensure_future(running.call("add")) for _ in range(5)]
        waiting.cancel()
        assert sorted(await asyncio.gather(*numbers)) == [1, 2, 3, 4, 5]


async def test_its_hooks_are_no_methods(tmp_path: Path) -> None:
    async with acting(tmp_path) as running:
        for hook in ("save_state", "restore_state", "is_ready"):
            assert isinstance(await refused(running.stub.Dispatch(request(hook))), MethodUnknownError)


async def test_a_replica_is_not_run_as_an_actor_nor_the_other_way_round(tmp_path: Path) -> None:
    async with attached(actor_spec(tmp_path)) as running:
        running.controller.actor = ActorAssignment(name="counter", incarnation=1)
        with pytest.raises(ConstructorFailedError, match=r"welcome\.actor: is not what this process was started as"):
            await running.task


async def test_what_an_earlier_controller_asked_for_is_not_answered_to_the_next_one(tmp_path: Path) -> None:
    async with acting(tmp_path, "Gated") as running:
        controller = running.controller
        for number in (4, 5):
            ask(running, number)
        while not await running.call("saving"):
            pass
        controller.hang_up()
        await controller.until(lambda controller: len(controller.hellos) == 2)
        changed = replace(controller.spec, max_ongoing_requests=17)
        controller.send(reconfigure=controller_pb2.ReconfigureCommand(spec=encode_deployment_spec(changed)))
        await controller.until(lambda controller: controller.reports[-1].load.capacity == 17)
        await running.call("open")
        ask(running, 1)
        await controller.until(lambda controller: len(controller.states) == 2)
        assert [state.first.request for state in controller.states] == [4, 1]


async def test_a_call_that_means_no_actor_is_refused_by_a_replica(tmp_path: Path) -> None:
    async with attached(replace(spec_of(tmp_path, SOURCE, "Plain"))) as running:
        await running.controller.phase(ReplicaPhase.READY)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await meant(running, "1", "anything")
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
