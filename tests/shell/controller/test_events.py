"""What operators are told over real gRPC: events, and what a deploy would do."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_core.errors import DeploymentUnknownError, RevisionConflictError
from serve_core.model.deployplan import DeployEffect
from serve_core.model.event import Event
from serve_core.model.payload import Encoding, Payload
from serve_core.plan import reconcile
from serve_core.testing import MemoryStore
from serve_core.v1 import controller_pb2
from serve_core.wire.deployplan import decode_deployment_plan
from serve_core.wire.spec import encode_application_spec
from tests.shell.controller.rig import PATIENCE_S, Rig, app, controller, refusal, spec


@pytest.fixture
def eventful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the first plan of each deployment tell of one more event, named Planned."""
    real, told = reconcile.plan, set()

    def plan(deployment, *args, **kwargs):  # type: ignore[no-untyped-def]
        planned = real(deployment, *args, **kwargs)
        if deployment.key in told:
            return planned
        told.add(deployment.key)
        event = Event(key=deployment.key, time=5.0, reason="Planned", message=str(deployment.key))
        return replace(planned, events=(*planned.events, event))

    monkeypatch.setattr("serve_core.controller.loop.plan", plan)


class Reader:
    """Reads events named Planned."""

    def __init__(self, rig: Rig, **request: object) -> None:
        self._call = rig.stub.WatchEvents(controller_pb2.WatchEventsRequest(**request))  # type: ignore[arg-type]

    async def listening(self) -> None:
        """Waits until nothing is missed any more."""
        async with asyncio.timeout(PATIENCE_S):
            await self._call.wait_for_connection()

    async def next(self) -> controller_pb2.Event | None:
        """The next one; None at the end."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self._call.read()
                if not isinstance(message, controller_pb2.WatchEventsResponse):
                    return None
                if message.event.reason == "Planned":
                    return message.event

    async def rest(self) -> list[str]:
        """What all until the end are about."""
        found = []
        while (event := await self.next()) is not None:
            found.append(f"{event.application}.{event.deployment}")
        return found


@pytest.mark.usefixtures("eventful")
async def test_events_are_told_filtered_and_followed_across_controllers() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        following = Reader(rig, follow=True)
        await rig.deploy(app("one", spec("a"), spec("b")))
        first = await following.next()
        assert first is not None
        assert await following.next() is not None
        await rig.deploy(app("two", spec("a")))
        last = await following.next()
        assert last is not None
        assert (last.application, last.message, last.sequence > first.sequence) == ("two", "two.a", True)
        assert sorted(await Reader(rig).rest()) == ["one.a", "one.b", "two.a"]
        assert sorted(await Reader(rig, application="one").rest()) == ["one.a", "one.b"]
        assert await Reader(rig, application="one", deployment="b").rest() == ["one.b"]
        assert await Reader(rig, after_sequence=last.sequence).rest() == []
        rig.stop.set()
        assert await following.next() is None
    async with controller(store=store) as rig:
        assert sorted(await Reader(rig).rest()) == ["one.a", "one.b", "two.a"]


@pytest.mark.usefixtures("eventful")
async def test_a_sequence_of_another_life_of_the_store_misses_nothing_new() -> None:
    async with controller() as rig:
        following = Reader(rig, follow=True, after_sequence=10**9)
        await following.listening()
        await rig.deploy(app())
        event = await following.next()
        assert event is not None
        assert event.message == "app.d"


async def test_events_of_what_never_was_are_refused() -> None:
    async with controller() as rig:
        call = rig.stub.WatchEvents(controller_pb2.WatchEventsRequest(application="nothing"))
        assert isinstance(await refusal(_drain(call)), DeploymentUnknownError)


async def _drain(call: object) -> None:
    async for _ in call:  # type: ignore[attr-defined]
        continue


async def test_a_deploy_is_planned_without_being_done() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", spec("d"), spec("gone")))
        config = Payload(Encoding.JSON, b'{"rate": 2}')
        wanted = app("app", spec("d", import_path="m:B", user_config=config), spec("new"))
        response = await rig.deploy(wanted, validate_only=True)
        plans = {plan.deployment: decode_deployment_plan(plan) for plan in response.plans}
        assert {name: plan.effect for name, plan in plans.items()} == {
            "d": DeployEffect.ROLLOUT,
            "new": DeployEffect.CREATE,
            "gone": DeployEffect.DELETE,
        }
        assert [(one.field, one.new_value, one.restarts) for one in plans["d"].changes] == [
            ("import_path", "m:B", True),
            ("user_config", "{'rate': 2}", False),
        ]
        assert plans["d"].new_revision == response.revisions["d"]
        status = await rig.status()
        assert status.applications[0].generation == 1
        assert [one.name for one in status.applications[0].deployments] == ["d", "gone"]
        done = await rig.deploy(wanted)
        assert [plan.effect for plan in done.plans] == [plan.effect for plan in response.plans]


async def test_a_generation_that_is_not_expected_is_refused_even_when_only_planned() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        for validate_only in (False, True):
            request = controller_pb2.DeployApplicationRequest(
                application=encode_application_spec(app()), expected_generation=0, validate_only=validate_only
            )
            error = await refusal(rig.stub.DeployApplication(request))
            assert isinstance(error, RevisionConflictError)
            assert error.details["generation"] == "1"
