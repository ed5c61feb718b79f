"""Start, health, reconfiguration, re-attachment, drain and end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from replica.app import ReplicaApp
from replica.config import ReplicaConfig
from serve_core.errors import (
    ConstructorFailedError,
    DrainingError,
    ImportFailedError,
    ServeError,
    SlotExpiredError,
    StartTimedOutError,
)
from serve_core.model.gang import GangPolicy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2, replica_pb2, types_pb2
from serve_core.wire.codec import HandleRef, encode_arguments, encode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.spec import encode_deployment_spec
from tests.shell.replica.support import EPOCH, REPLICA_ID, WAIT_S, Running, attached, ready, refused, request, spec_of

SOURCE = """
import asyncio
import threading
import serve_core

log = []
gate = threading.Event()
never = threading.Event()

class App:
    def __init__(self, name: str = "anna", *others):
        self.name = name
        self.others = others
        self.ill = False
        self.gate = asyncio.Event()
        self.config = None

    def replica_metadata(self):
        return {"model": self.name}

    def check_health(self):
        log.append("checked")
        if self.ill:
            raise RuntimeError("I am ill")

    async def reconfigure(self, config: dict[str, int]):
        if min(config.values(), default=0) < 0:
            raise ValueError("less than nothing")
        self.config = config

    async def shutdown(self):
        log.append("shut down")

    async def get(self):
        return [self.name, self.config, log.count("checked") > 0, serve_core.get_replica_context().user_config]

    async def kinds(self):
        return [type(other).__name__ for other in self.others]

    async def fall_ill(self, ill: bool):
        self.ill = ill

    async def block(self):
        await self.gate.wait()
        return "done"

    async def open(self):
        self.gate.set()

class Raises:
    def __init__(self):
        raise ValueError("no model here")

class Hangs:
    def __init__(self):
        never.wait()

class Ill:
    def check_health(self):
        raise RuntimeError("born ill")

class Stuck:
    async def shutdown(self):
        await asyncio.Event().wait()

class BadMetadata:
    def replica_metadata(self):
        return 7

NOTHING = 7
"""


def drain(running: Running, budget_s: float) -> None:
    running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(budget_s)))


async def test_start_tells_everything_once_ready(tmp_path: Path) -> None:
    arguments = encode_arguments(["otto"], {})
    config = encode_value({"a": 1}, like=Encoding.MSGPACK)
    spec = spec_of(tmp_path, SOURCE, init_arguments=arguments, user_config=config, metadata={"team": "t"})
    async with attached(spec) as running:
        report = await running.controller.phase(ReplicaPhase.READY)
        hello = running.controller.hellos[0]
        assert (hello.replica_id, hello.epoch) == (REPLICA_ID, EPOCH)
        assert hello.report.phase == types_pb2.REPLICA_PHASE_STARTING
        assert report.address == running.app.state.replica.address
        assert report.metadata == {"model": "otto"}
        assert report.healthy
        assert report.load.capacity == 5
        assert await running.call("get") == ["otto", {"a": 1}, True, {"a": 1}]
        described = await running.stub.GetReplica(replica_pb2.GetReplicaRequest())
        assert dict(described.replica.metadata) == {"team": "t", "model": "otto"}
        assert described.phase == types_pb2.REPLICA_PHASE_READY


async def test_bound_deployments_arrive_as_handles(tmp_path: Path) -> None:
    arguments = encode_arguments(["x", HandleRef("app", "other")], {})
    async with ready(tmp_path, SOURCE, init_arguments=arguments) as running:
        assert await running.call("kinds") == ["DeploymentHandle"]


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("Raises", ConstructorFailedError, "ValueError: no model here"),
        ("Missing", ImportFailedError, "has no 'Missing'"),
        ("NOTHING", ImportFailedError, "is of type int"),
        ("Ill", ConstructorFailedError, "check_health() raised RuntimeError: born ill"),
        ("BadMetadata", ConstructorFailedError, "replica_metadata"),
    ],
)
async def test_a_failed_start_is_told_and_ends_the_process(
    tmp_path: Path, target: str, kind: type[ServeError], said: str
) -> None:
    async with attached(spec_of(tmp_path, SOURCE, target)) as running:
        with pytest.raises(kind) as caught:
            await running.task
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        failure = running.controller.reports[-1].failure
        assert failure is not None
        assert failure.reason == kind.reason
        assert said in failure.message
        if target == "Raises":
            assert "raise ValueError" in failure.traceback
            assert "replica/loader.py" not in failure.traceback


async def test_a_module_that_is_not_there_or_raises(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "import nothing_of_this_name")
    async with attached(replace(spec, import_path="no_such_module:App")) as running:
        with pytest.raises(ImportFailedError, match="no module 'no_such_module'"):
            await running.task
    async with attached(spec) as running:
        with pytest.raises(ImportFailedError, match="importing raised ModuleNotFoundError"):
            await running.task


async def test_arguments_that_the_constructor_does_not_take(tmp_path: Path) -> None:
    arguments = encode_arguments([], {"nme": "x"})
    async with attached(spec_of(tmp_path, SOURCE, init_arguments=arguments)) as running:
        with pytest.raises(ConstructorFailedError, match="nme"):
            await running.task


async def test_a_constructor_that_hangs_is_given_up_at_its_deadline(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE, "Hangs", start_deadline_s=1.0)) as running:
        with pytest.raises(StartTimedOutError, match=r"the constructor had not returned after 1 s"):
            await running.task
        failure = running.controller.reports[-1].failure
        assert failure is not None
        assert failure.reason == "START_TIMED_OUT"


async def test_a_deadline_of_the_gang_is_called_by_its_name(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SOURCE, "Hangs", gang=GangPolicy(start_deadline_s=1.0))
    async with attached(spec) as running:
        with pytest.raises(StartTimedOutError, match=r"after 1 s \(gang\.start_deadline_s\)"):
            await running.task


async def test_a_description_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SOURCE)
    async with attached(spec) as running:
        running.controller.raw_spec = encode_deployment_spec(replace(spec, import_path="no path"))
        with pytest.raises(ConstructorFailedError, match="import_path"):
            await running.task


async def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE, "Hangs")) as running:
        await running.controller.until(lambda controller: controller.hellos)
        running.stop.set()
        running.controller.send(stop=controller_pb2.StopCommand())
        await running.controller.phase(ReplicaPhase.GONE)


async def test_without_a_controller_it_waits_and_ends_on_a_signal() -> None:
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    listening = asyncio.Event()
    config = ReplicaConfig(controller=f"127.0.0.1:{port}", replica_id=REPLICA_ID, epoch=EPOCH)
    app = ReplicaApp(config, on_listening=lambda _: listening.set(), environ={})
    stop = asyncio.Event()
    task = asyncio.ensure_future(app.run(stop))
    async with asyncio.timeout(WAIT_S):
        await listening.wait()
        stop.set()
        assert await task == 0


async def test_it_attaches_again_when_the_controller_cannot_take_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SOURCE)
    async with attached(spec) as running:
        running.controller.refuse = 2
        await running.controller.phase(ReplicaPhase.READY)
        assert running.controller.refuse <= 0
        assert await running.call("get")


async def test_heartbeats_carry_the_load(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE)) as running:
        running.controller.heartbeat_s = 0.01
        await running.controller.phase(ReplicaPhase.READY)
        await running.token()
        await running.controller.until(
            lambda controller: controller.heartbeats and controller.heartbeats[-1].load.reserved
        )
        sequences = [beat.sequence for beat in running.controller.heartbeats]
        assert sequences == sorted(set(sequences))


async def test_it_attaches_again_and_keeps_its_slots(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        token = await running.token()
        running.controller.hang_up()
        await running.controller.until(lambda controller: len(controller.hellos) == 2)
        hello = running.controller.hellos[1]
        assert hello.report.phase == types_pb2.REPLICA_PHASE_READY
        assert hello.report.load.reserved == 1
        assert await running.call("get", token=token)


async def test_settings_change_in_place(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=1) as running:
        config = encode_value({"b": 2}, like=Encoding.MSGPACK)
        spec = replace(running.controller.spec, max_ongoing_requests=7, user_config=config, metadata={"k": "v"})
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        assert (await watch.read()).load.capacity == 1
        running.controller.send(reconfigure=controller_pb2.ReconfigureCommand(spec=encode_deployment_spec(spec)))
        async with asyncio.timeout(WAIT_S):
            assert (await watch.read()).load.capacity == 7
        assert (await running.call("get"))[1] == {"b": 2}
        described = await running.stub.GetReplica(replica_pb2.GetReplicaRequest())
        assert dict(described.replica.metadata) == {"k": "v", "model": "anna"}
        watch.cancel()


async def test_a_reconfigure_that_raises_leaves_it_serving_with_what_it_had_until_one_succeeds(tmp_path: Path) -> None:
    had = encode_value({"a": 1}, like=Encoding.MSGPACK)
    async with ready(tmp_path, SOURCE, user_config=had) as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        running.controller.send(reconfigure=_configured(running, 5))
        await running.controller.until(lambda controller: controller.reports[-1].reconfigure_failure)
        report = running.controller.reports[-1]
        assert report.reconfigure_failure is not None
        assert "reconfigure()" in report.reconfigure_failure.message
        assert (report.healthy, report.failure, report.phase) == (True, None, ReplicaPhase.READY)
        check = await health.Check(health_pb2.HealthCheckRequest(service="readiness"))
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        assert await running.call("get") == ["anna", {"a": 1}, True, {"a": 1}]

        running.controller.send(reconfigure=_configured(running, {"a": -1}))
        await running.controller.until(
            lambda controller: (failure := controller.reports[-1].reconfigure_failure) and "less" in failure.message
        )
        failure = running.controller.reports[-1].reconfigure_failure
        assert failure is not None
        assert "in reconfigure" in failure.traceback

        running.controller.send(reconfigure=_configured(running, {"a": 2}))
        await running.controller.until(lambda controller: controller.reports[-1].reconfigure_failure is None)
        assert await running.call("get") == ["anna", {"a": 2}, True, {"a": 2}]


def _configured(running: Running, config: object) -> controller_pb2.ReconfigureCommand:
    spec = replace(running.controller.spec, user_config=encode_value(config, like=Encoding.MSGPACK))
    return controller_pb2.ReconfigureCommand(spec=encode_deployment_spec(spec))


async def test_health_checks_that_fail_in_a_row_make_it_ill_until_one_passes(tmp_path: Path) -> None:
    policy = HealthPolicy(period_s=0.01, timeout_s=5.0, failure_threshold=2)
    async with ready(tmp_path, SOURCE, health=policy) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await running.call("fall_ill", True)
        await running.controller.until(lambda controller: not controller.reports[-1].healthy)
        failure = running.controller.reports[-1].failure
        assert failure is not None
        assert "2 times in a row" in failure.message
        assert "I am ill" in failure.message
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await running.call("fall_ill", False)
        await running.controller.until(lambda controller: controller.reports[-1].healthy)
        assert running.controller.reports[-1].failure is None
        watch.cancel()


async def test_a_check_that_hangs_counts_as_failed_while_every_slot_is_taken(tmp_path: Path) -> None:
    source = """
    import threading
    never = threading.Event()
    class App:
        hang = False
        def check_health(self):
            if self.hang:
                never.wait()
        async def start_hanging(self):
            self.hang = True
    """
    policy = HealthPolicy(period_s=0.01, timeout_s=0.2, failure_threshold=2)
    async with ready(tmp_path, source, health=policy, max_ongoing_requests=1) as running:
        await running.call("start_hanging")
        await running.token()
        await running.controller.until(lambda controller: not controller.reports[-1].healthy)


async def test_drain_refuses_what_is_new_and_finishes_what_is_held(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        held = await running.token()
        opens = await running.token()
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        await watch.read()
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 2)
        drain(running, WAIT_S)
        drain(running, WAIT_S)
        assert (await running.controller.phase(ReplicaPhase.DRAINING)).address
        assert (await watch.read()).phase == types_pb2.REPLICA_PHASE_DRAINING
        assert (await running.reserve()).rejection == replica_pb2.REJECTION_REASON_DRAINING
        assert isinstance(await refused(running.call("get")), DrainingError)
        assert await running.call("get", token=held)
        assert not running.task.done()
        await running.call("open", token=opens)
        await call
        await running.controller.phase(ReplicaPhase.GONE)
        assert await running.task == 0


async def test_a_signal_drains_within_the_deployments_own_budget(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, graceful_shutdown_timeout_s=0.1) as running:
        token = await running.token(ttl_s=60.0)
        running.stop.set()
        await running.controller.phase(ReplicaPhase.GONE)
        assert await running.task == 0
        assert running.app.desk.counters.expired == 1
        assert SlotExpiredError.reason == "SLOT_EXPIRED"
        assert token


async def test_the_users_hook_runs_last_and_cannot_outlive_the_budget(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        module = __import__(running.controller.spec.import_path.partition(":")[0])
        running.stop.set()
        assert await running.task == 0
        assert module.log[-1] == "shut down"
    async with ready(tmp_path, SOURCE, "Stuck") as running:
        drain(running, 0.1)
        assert await running.task == 0


async def test_stop_ends_at_once_whatever_runs(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 0)
        drain(running, WAIT_S)
        running.controller.send(stop=controller_pb2.StopCommand())
        assert (await refused(call)).reason == "REPLICA_DIED"
        assert await running.task == 0


async def test_a_disowned_replica_drains_and_ends(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        running.controller.send(disown=controller_pb2.DisownCommand(message="replaced"))
        assert await running.task == 0


async def test_watches_end_with_the_replica(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        watch = running.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        await watch.read()
        drain(running, WAIT_S)
        phases = []
        async with asyncio.timeout(WAIT_S):
            while (message := await watch.read()) is not grpc.aio.EOF:
                phases.append(message.phase)
        assert phases[0] == types_pb2.REPLICA_PHASE_DRAINING
