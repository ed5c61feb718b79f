"""Heartbeats: their pace, what they carry, and what a replica makes of a controller that it does not hear."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from replica.app import ReplicaApp
from replica.config import ReplicaConfig
from replica.watchdog import LoopWatchdog
from serve_core.model.health import HealthPolicy
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import decode_duration
from serve_core.wire.spec import encode_deployment_spec
from tests.shell.replica.support import EPOCH, REPLICA_ID, WAIT_S, attached, controller_of, ready, spec_of

SOURCE = """
import threading

gate = threading.Event()

class App:
    async def wedge(self):
        return gate.wait(30)

    async def hello(self):
        return "hello"
"""

QUICK = HealthPolicy(heartbeat_period_s=0.04, suspect_after_missed=3, lost_after_missed=1000)


class Opener(logging.Handler):
    """Opens a gate once something is logged that holds a text."""

    def __init__(self, text: str, gate: threading.Event) -> None:
        super().__init__()
        self.text = text
        self.gate = gate
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if self.text in message:
            self.found.append(message)
            self.gate.set()


@pytest.fixture
def stuck() -> Iterator[Opener]:
    opener = Opener("in wedge", threading.Event())
    logger = logging.getLogger("replica.watchdog")
    logger.addHandler(opener)
    yield opener
    logger.removeHandler(opener)


async def test_a_wedged_loop_is_silent_and_its_stack_is_logged_once(tmp_path: Path, stuck: Opener) -> None:
    async with attached(spec_of(tmp_path, SOURCE, health=QUICK)) as running:
        running.controller.heartbeat_s = 0.04
        await running.controller.phase(ReplicaPhase.READY)
        module = importlib.import_module(running.controller.spec.import_path.partition(":")[0])
        stuck.gate = module.gate
        await running.controller.until(lambda controller: controller.heartbeats)
        assert await running.call("wedge") is True
        seen = len(running.controller.heartbeats)
        await running.controller.until(lambda controller: len(controller.heartbeats) >= seen + 3)
        assert len(stuck.found) == 1
        assert "in wedge" in stuck.found[0]
        assert "gate.wait(30)" in stuck.found[0]
        lags = [decode_duration(beat.loop_lag) for beat in running.controller.heartbeats]
        assert max(lags) > 0.1


async def test_a_reconfigure_changes_the_pace_at_once(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        assert running.controller.heartbeats == []
        spec = replace(running.controller.spec, health=QUICK)
        running.controller.send(reconfigure=controller_pb2.ReconfigureCommand(spec=encode_deployment_spec(spec)))
        await running.controller.until(lambda controller: len(controller.heartbeats) >= 3)


async def test_reports_do_not_put_heartbeats_off(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE)) as running:
        running.controller.heartbeat_s = 0.05
        await running.controller.phase(ReplicaPhase.READY)

        def busy(controller: object) -> bool:
            running.app.state.changed()  # each report that arrives calls for the next one
            return len(running.controller.heartbeats) >= 3

        await running.controller.until(busy)


async def test_an_orphan_drains_and_ends_with_status_0(tmp_path: Path) -> None:
    async with controller_of(spec_of(tmp_path, SOURCE)) as (controller, address):
        controller.acknowledges = False
        config = ReplicaConfig(controller=address, replica_id=REPLICA_ID, epoch=EPOCH, orphan_timeout_s=1.0)
        app = ReplicaApp(config, on_listening=lambda _: None, environ={})
        async with asyncio.timeout(WAIT_S):
            assert await app.run(asyncio.Event()) == 0
        assert controller.hellos


async def test_one_that_never_reached_a_controller_ends_as_well() -> None:
    config = ReplicaConfig(controller="127.0.0.1:1", replica_id=REPLICA_ID, epoch=EPOCH, orphan_timeout_s=0.1)
    app = ReplicaApp(config, on_listening=lambda _: None, environ={})
    async with asyncio.timeout(WAIT_S):
        assert await app.run(asyncio.Event()) == 0


async def test_acknowledgements_keep_it_alive(tmp_path: Path) -> None:
    async with controller_of(spec_of(tmp_path, SOURCE)) as (controller, address):
        controller.heartbeat_s = 0.1
        config = ReplicaConfig(controller=address, replica_id=REPLICA_ID, epoch=EPOCH, orphan_timeout_s=4.0)
        stop = asyncio.Event()
        task = asyncio.ensure_future(ReplicaApp(config, on_listening=lambda _: None, environ={}).run(stop))
        await controller.until(lambda controller: len(controller.heartbeats) >= 50)
        assert not task.done()
        assert controller.reports[-1].phase is ReplicaPhase.READY
        asked = [beat for beat in controller.heartbeats if not beat.unanswered]
        assert 0 < len(asked) < len(controller.heartbeats)
        stop.set()
        assert await task == 0


async def test_the_watchdog_tells_that_the_loop_lives() -> None:
    alive = asyncio.Event()
    watchdog = LoopWatchdog(HealthPolicy(heartbeat_period_s=0.04), on_alive=alive.set)
    watchdog.start()
    try:
        async with asyncio.timeout(WAIT_S):
            await alive.wait()
    finally:
        watchdog.close()
    assert watchdog.take_lag_s() < WAIT_S
