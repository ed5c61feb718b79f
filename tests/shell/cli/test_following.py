"""``deploy``, ``rollout status`` and ``events --follow`` against a controller of the test, which says what it is told to, and goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.cli import reconnect
from serve_core.cli.deploy import _deploy
from serve_core.cli.events import _Events
from serve_core.cli.reconnect import through_restarts
from serve_core.cli.rollout import _Follower
from serve_core.client import ControllerClient
from serve_core.errors import (
    ConstructorFailedError,
    ControllerUnreachableError,
    DeploymentUnavailableError,
    RevisionConflictError,
)
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, RevisionId
from serve_core.model.replica import Failure
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.model.status import DeploymentState, DeploymentStatus, RolloutPhase, RolloutStatus
from serve_core.v1 import controller_pb2, controller_pb2_grpc
from serve_core.wire.events import encode_event
from serve_core.wire.status import encode_cluster_status
from tests.unit.cli.test_progress import DEPLOYMENT, cluster

KEY = DeploymentKey("app", "A")
SPEC = ApplicationSpec(name="app", ingress="A", deployments=(DeploymentSpec(name="A", import_path="m:A"),))
MOVING = RolloutStatus(
    phase=RolloutPhase.PROGRESSING,
    from_revision=RevisionId("r1"),
    to_revision=RevisionId("r2"),
    updated_available=0,
    waiting_for="router r2 to acknowledge table 41",
)
COMPLETE = replace(MOVING, phase=RolloutPhase.COMPLETE, updated_available=1, waiting_for="")
FAILED = replace(
    MOVING,
    phase=RolloutPhase.ROLLED_BACK,
    failed_revision=RevisionId("r2"),
    failure=Failure(reason="CONSTRUCTOR_FAILED", message="no model", traceback="Traceback: no model"),
)
Context = grpc.aio.ServicerContext[Any, Any]
GONE = None
"""In a script: the controller goes away."""


def deployment(rollout: RolloutStatus) -> DeploymentStatus:
    return replace(DEPLOYMENT, rollout=rollout, ready_replicas=1)


class Scripted(controller_pb2_grpc.ControllerServiceServicer):
    """Tells one script for each stream that is opened, and stays silent after the last."""

    def __init__(self, *scripts: list[Any]) -> None:
        self._scripts = list(scripts)
        self.asked: list[int] = []
        self.before = deployment(COMPLETE)

    async def _play(self, context: Context) -> AsyncIterator[Any]:
        for part in self._scripts.pop(0):
            if part is GONE:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going")
            yield part
        if not self._scripts:
            await asyncio.Event().wait()

    async def WatchStatus(
        self, request: controller_pb2.WatchStatusRequest, context: Context
    ) -> AsyncIterator[controller_pb2.WatchStatusResponse]:
        async for part in self._play(context):
            told = part if isinstance(part, DeploymentStatus) else deployment(part)
            yield controller_pb2.WatchStatusResponse(status=encode_cluster_status(cluster(told)))

    async def DeployApplication(
        self, request: controller_pb2.DeployApplicationRequest, context: Context
    ) -> controller_pb2.DeployApplicationResponse:
        return controller_pb2.DeployApplicationResponse(generation=1, revisions={"A": "r1"})

    async def GetStatus(
        self, request: controller_pb2.GetStatusRequest, context: Context
    ) -> controller_pb2.GetStatusResponse:
        return controller_pb2.GetStatusResponse(status=encode_cluster_status(cluster(self.before)))

    async def WatchEvents(
        self, request: controller_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[controller_pb2.WatchEventsResponse]:
        self.asked.append(request.after_sequence)
        async for sequence in self._play(context):
            event = Event(key=KEY, time=1.0, reason="R", message="m", sequence=sequence)
            yield controller_pb2.WatchEventsResponse(event=encode_event(event))


def scripted(*scripts: list[Any]) -> Scripted:
    """A controller of these scripts; what is not scripted is not called."""
    concrete: Any = Scripted
    concrete.__abstractmethods__ = frozenset()
    controller: Scripted = concrete(*scripts)
    return controller


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "RETRY_S", 0.0)


@contextlib.asynccontextmanager
async def serving(servicer: Scripted) -> AsyncIterator[str]:
    server = grpc.aio.server()
    controller_pb2_grpc.add_ControllerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def follow(*scripts: list[Any], timeout_s: float = 50.0) -> None:
    async with serving(scripted(*scripts)) as address:
        await _Follower(KEY).until_complete(address, timeout_s)


async def test_each_step_is_said_once_until_it_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    await follow([MOVING, MOVING, COMPLETE])
    assert capsys.readouterr().err.splitlines() == [
        "app.A: 0 of 1 replicas of revision r2 are available; waiting for router r2 to acknowledge table 41",
        "app.A: complete: 1 of 1 replicas of revision r2 are available",
    ]


async def test_an_application_is_complete_when_all_of_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(scripted([MOVING, COMPLETE])) as address:
        await _Follower(DeploymentKey("app", "")).until_complete(address, 20.0)
    assert capsys.readouterr().err.splitlines()[-1].startswith("app.A: complete")


async def test_a_rollback_is_an_error_with_the_users_traceback() -> None:
    with pytest.raises(ConstructorFailedError, match=r"revision r2 .* was rolled back: no model") as caught:
        await follow([MOVING, FAILED])
    assert caught.value.details["traceback"] == "Traceback: no model"


@pytest.mark.parametrize("end", [[MOVING, GONE], [MOVING]])
async def test_a_controller_that_goes_away_is_waited_for(
    end: list[RolloutStatus | None], capsys: pytest.CaptureFixture[str]
) -> None:
    await follow(end, [GONE], [COMPLETE])
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.endswith("; trying again") for line in lines) in (1, 2)
    assert lines[-1].startswith("app.A: complete")


async def test_a_rollout_that_takes_too_long_is_an_error_that_says_what_it_waits_for() -> None:
    with pytest.raises(DeploymentUnavailableError, match=r"not complete within 1\.5 s: app\.A: 0 of 1 .* table 41"):
        await follow([MOVING], timeout_s=1.5)


async def test_nobody_there_at_first_is_an_error_at_once() -> None:
    with pytest.raises(ControllerUnreachableError):
        await _Follower(KEY).until_complete("127.0.0.1:1", None)


async def test_a_controller_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "GIVE_UP_S", -1.0)
    with pytest.raises(ControllerUnreachableError):
        await follow([MOVING, GONE], [COMPLETE])


async def test_what_fails_otherwise_is_not_tried_again() -> None:
    tries = 0

    async def work(client: ControllerClient) -> None:
        nonlocal tries
        tries += 1
        raise DeploymentUnavailableError("no")

    async with serving(scripted()) as address:
        with pytest.raises(DeploymentUnavailableError):
            await through_restarts(address, work)
    assert tries == 1


async def test_a_deploy_that_pauses_ends_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(scripted([MOVING, replace(MOVING, phase=RolloutPhase.PAUSED)])) as address:
        await _deploy([SPEC], address, 20.0, None, wait=True)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "app.A: paused with 0 of 1 replicas of revision r1 available; 'serve-core rollout resume app.A'"
    )


async def test_a_deploy_outlives_a_controller_and_says_nothing_of_what_failed_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = Failure(reason="REPLICA_DIED", message="of yesterday", time=1.0)
    moving = replace(deployment(MOVING), failures=(old,))
    new = replace(moving, failures=(Failure(reason="REPLICA_DIED", message="of now", time=2.0), old))
    servicer = scripted([moving, new, GONE], [GONE], [replace(new, state=DeploymentState.HEALTHY)])
    servicer.before = moving
    async with serving(servicer) as address:
        await _deploy([SPEC], address, 20.0, None, wait=True)
    said = capsys.readouterr().err
    assert "yesterday" not in said
    assert said.count("app.A: REPLICA_DIED: of now") == 1
    assert said.splitlines()[-1] == "app: ready"


async def test_a_deploy_that_is_superseded_is_an_error_that_says_by_what() -> None:
    newer = replace(deployment(MOVING), revision=RevisionId("r2"))
    async with serving(scripted([MOVING, newer])) as address:
        with pytest.raises(RevisionConflictError, match=r"revision r1 .* superseded by revision r2, generation 1"):
            await _deploy([SPEC], address, 20.0, None, wait=True)


async def test_followed_events_are_shown_once_across_restarts(capsys: pytest.CaptureFixture[str]) -> None:
    servicer = scripted([1, 2, GONE], [3], [])
    async with serving(servicer) as address:
        await _Events(KEY, "json", 0, follow=True).show(address)
    assert servicer.asked == [0, 2]
    assert _sequences(capsys.readouterr().out) == ["1", "2", "3"]


def _sequences(text: str) -> list[str]:
    decode: Callable[[str], dict[str, str]] = json.loads
    return [decode(line)["sequence"] for line in text.splitlines()]
