"""warm_up, is_ready and the first check_health: before the replica takes requests, and afterwards."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serve_core.errors import ConstructorFailedError, StartTimedOutError
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2, types_pb2
from serve_core.wire.codec import encode_value
from serve_core.wire.spec import encode_deployment_spec
from tests.shell.replica.support import WAIT_S, Running, attached, ready, spec_of

FAST = HealthPolicy(readiness_period_s=0.01, period_s=0.01)

SOURCE = """
import asyncio
import threading

log = []
asked = threading.Event()
warming = threading.Event()
gate = threading.Event()
answers = {"ready": True, "error": ""}

class Base:
    def __init__(self):
        log.append("constructor")

    def reconfigure(self, config: int):
        log.append("reconfigure")

    def check_health(self):
        log.append("check_health")

    async def say(self, ready: bool, error: str = ""):
        answers.update(ready=ready, error=error)

class App(Base):
    async def warm_up(self):
        log.append("warm_up")

    async def is_ready(self):
        log.append("is_ready")
        if answers["error"]:
            raise RuntimeError(answers["error"])
        return answers["ready"]

class Waits(Base):
    def warm_up(self):
        log.append("warm_up")

    def is_ready(self):
        log.append("is_ready")
        asked.set()
        return gate.is_set()

class Hangs(Base):
    hang = False

    async def is_ready(self):
        if self.hang:
            await asyncio.Event().wait()
        return True

    async def start_hanging(self, hang: bool):
        self.hang = hang

class NeverReady(Base):
    def is_ready(self):
        raise OSError("no peers yet")

class Cold(Base):
    async def warm_up(self):
        raise ValueError("the cache is corrupt")

class ColdSync(Base):
    def warm_up(self):
        raise ValueError("the cache is corrupt")

class Slow(Base):
    async def warm_up(self):
        warming.set()
        await asyncio.Event().wait()

    def shutdown(self):
        log.append("shutdown")
"""


class Records(logging.Handler):
    """What one of our loggers says."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def checks_log() -> Iterator[Records]:
    records = Records()
    logger = logging.getLogger("replica.checks")
    logger.addHandler(records)
    yield records
    logger.removeHandler(records)


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)


def user_module(running: Running) -> Any:
    return importlib.import_module(running.controller.spec.import_path.partition(":")[0])


async def test_the_hooks_of_a_start_in_their_order(tmp_path: Path) -> None:
    config = encode_value(7, like=Encoding.MSGPACK)
    async with ready(tmp_path, SOURCE, user_config=config) as running:
        assert user_module(running).log[:5] == ["constructor", "reconfigure", "warm_up", "is_ready", "check_health"]
        assert running.controller.reports[-1].is_ready


async def test_it_starts_until_is_ready_says_true(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE, "Waits", health=FAST)) as running:
        controller = running.controller
        module = user_module(running)
        async with asyncio.timeout(WAIT_S):
            while module.log.count("is_ready") < 3:
                await asyncio.to_thread(module.asked.wait, WAIT_S)
                module.asked.clear()
        assert {report.phase for report in controller.reports} == {ReplicaPhase.STARTING}
        assert "check_health" not in module.log
        module.gate.set()
        report = await controller.phase(ReplicaPhase.READY)
        assert report.is_ready


async def test_a_change_of_readiness_is_told_at_once_and_is_no_illness(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, health=FAST) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await running.call("say", False)
        await running.controller.until(lambda controller: not controller.reports[-1].is_ready)
        report = running.controller.reports[-1]
        assert (report.phase, report.healthy, report.failure) == (ReplicaPhase.READY, True, None)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await running.call("say", True)
        await running.controller.until(lambda controller: controller.reports[-1].is_ready)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_is_ready_that_raises_means_not_ready_and_is_logged_once(tmp_path: Path, checks_log: Records) -> None:
    async with ready(tmp_path, SOURCE, health=FAST) as running:
        await running.call("say", True, "no disk")
        await running.controller.until(lambda controller: not controller.reports[-1].is_ready)
        module = user_module(running)
        before = module.log.count("is_ready")
        async with asyncio.timeout(WAIT_S):
            while module.log.count("is_ready") < before + 5:
                await running.call("say", True, "no disk")
        await running.call("say", True)
        await running.controller.until(lambda controller: controller.reports[-1].is_ready)
        assert len([text for text in checks_log.texts if "no disk" in text]) == 1


async def test_is_ready_that_hangs_means_not_ready(tmp_path: Path) -> None:
    policy = HealthPolicy(readiness_period_s=0.01, timeout_s=0.05)
    async with ready(tmp_path, SOURCE, "Hangs", health=policy) as running:
        await running.call("start_hanging", True)
        await running.controller.until(lambda controller: not controller.reports[-1].is_ready)
        await running.call("start_hanging", False)
        await running.controller.until(lambda controller: controller.reports[-1].is_ready)


async def test_a_replica_that_never_gets_ready_is_given_up_at_its_deadline(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE, "NeverReady", health=FAST, start_deadline_s=1.5)) as running:
        with pytest.raises(StartTimedOutError, match=r"is_ready\(\) had not said true after 1.5 s"):
            await running.task
        failure = running.controller.reports[-1].failure
        assert failure is not None
        assert "OSError: no peers yet" in failure.message


@pytest.mark.parametrize("target", ["Cold", "ColdSync"])
async def test_a_warm_up_that_fails_is_a_failed_start(tmp_path: Path, target: str) -> None:
    async with attached(spec_of(tmp_path, SOURCE, target)) as running:
        with pytest.raises(ConstructorFailedError, match=r"warm_up\(\) raised ValueError: the cache is corrupt"):
            await running.task
        failure = running.controller.reports[-1].failure
        assert failure is not None
        assert failure.reason == "CONSTRUCTOR_FAILED"
        assert "raise ValueError" in failure.traceback


async def test_warm_up_is_within_the_start_deadline(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE, "Slow", start_deadline_s=1.0)) as running:
        with pytest.raises(StartTimedOutError, match=r"warm_up\(\) had not returned"):
            await running.task


async def test_one_that_is_told_to_end_while_it_warms_up_cleans_up(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE, "Slow")) as running:
        module = user_module(running)
        assert await asyncio.to_thread(module.warming.wait, WAIT_S)
        running.stop.set()
        assert await running.task == 0
        assert module.log[-1] == "shutdown"
        assert ReplicaPhase.READY not in {report.phase for report in running.controller.reports}


async def test_a_shorter_period_holds_at_once(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, health=HealthPolicy(readiness_period_s=3600.0)) as running:
        await running.call("say", False)
        spec = spec_of(tmp_path, SOURCE, health=FAST)
        running.controller.send(reconfigure=controller_pb2.ReconfigureCommand(spec=encode_deployment_spec(spec)))
        await running.controller.until(lambda controller: not controller.reports[-1].is_ready)


async def test_a_ready_replica_tells_its_environment(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        environment = running.controller.reports[-1].environment
        assert environment is not None
        assert environment.packages["grpcio"]
        assert running.controller.hellos[0].report.phase == types_pb2.REPLICA_PHASE_STARTING
        assert not running.controller.hellos[0].report.HasField("environment")
