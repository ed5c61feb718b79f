"""Handles to deployment actors, in a replica: they follow an actor, and say what became of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import serve_core
from replica import errand
from replica.actor_calls import ActorCalls
from serve_core import actor_handle
from serve_core.actor_handle import ActorHandle
from serve_core.errors import (
    ActorDiedError,
    ActorLostError,
    ActorUnavailableError,
    ActorUnknownError,
    ApplicationError,
    ConfigInvalidError,
    MethodUnknownError,
)
from serve_core.model.actor import ActorAssignment, ActorEndpoint, ActorSpec
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.v1 import controller_pb2
from serve_core.wire.actors import encode_actor_directory
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.metadata import INCARNATION_KEY
from serve_core.wire.payload import decode_payload
from tests.shell.replica.adder import Generated, numbers
from tests.shell.replica.support import REPLICA_ID, WAIT_S, Running, attached, refused, request, spec_of

NOBODY = "127.0.0.1:9"

ACTOR_SOURCE = """
import asyncio
from collections.abc import AsyncIterator

import serve_core


class Counter:
    def __init__(self):
        self.count = 0
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()

    async def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def pair(self, numbers: tuple[int, int]) -> tuple[int, int]:
        return numbers[::-1]

    async def upto(self, number: int) -> AsyncIterator[int]:
        for one in range(number):
            yield one
        if number > 3:
            self.begun.set()
            await self.gate.wait()

    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def wait(self):
        self.begun.set()
        await self.gate.wait()
        return self.count

    async def until_begun(self):
        await self.begun.wait()

    async def fail(self):
        raise LookupError("as asked")

    async def request(self):
        context = serve_core.get_request_context()
        return [context.request_id, context.time_remaining()]

    async def __call__(self, word: str) -> str:
        return word.upper()

    async def name(self):
        return "taken"
"""

SERVICE_SOURCE = """
import asyncio
import grpc
from {module}_pb2 import Number
from {module}_pb2_grpc import AdderServicer


class Counter(AdderServicer):
    def __init__(self):
        self.begun = asyncio.Event()

    async def One(self, request, context):
        if request.value == 2:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "twice")
        if request.value == 3:
            self.begun.set()
            await asyncio.Event().wait()
        metadata = dict(context.invocation_metadata())
        return Number(value=request.value + int(metadata.get("more", 0)))

    async def Split(self, request, context):
        for value in range(request.value):
            yield Number(value=value)
        if request.value > 3:
            await asyncio.Event().wait()

    async def Sum(self, requests, context):
        return Number(value=sum([request.value async for request in requests]))

    async def Each(self, requests, context):
        async for request in requests:
            await context.write(Number(value=request.value * 2))

    async def until_begun(self):
        await self.begun.wait()
"""

REPLICA_SOURCE = """
import asyncio

import serve_core


class App:
    def __init__(self):
        self.counter = serve_core.get_deployment_actor("counter")
        self.restarts = []

    def on_actor_restarted(self, name, incarnation):
        if incarnation == 13:
            raise RuntimeError("cannot do without 12")
        self.restarts.append([name, incarnation])

    async def told(self):
        return self.restarts

    async def add(self):
        return await self.counter.add()

    def add_in_thread(self):
        return self.counter.add.call_sync(2)

    def add_in_another_loop(self):
        return asyncio.run(self._add())

    async def _add(self):
        return await self.counter.add()

    async def add_wrongly(self):
        self.counter.add.call_sync()

    async def request(self):
        return await self.counter.options(timeout_s=1000).request()


class Asks(App):
    def __init__(self):
        super().__init__()
        self.first = self.counter.add.call_sync()
"""


class Cluster:
    """A replica, and the lives of an actor that it is told of."""

    def __init__(self, tmp_path: Path, source: str) -> None:
        self._spec = spec_of(tmp_path, source, "Counter")
        self._stack = AsyncExitStack()
        self.replica: Running | None = None

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def life(self, incarnation: int, *, told: bool = True) -> Running:
        """Begins a life, and tells the replica of it."""
        actors = (ActorSpec(name="counter", import_path="x:y"),)
        spec = DeploymentSpec(
            name="dep", import_path=self._spec.import_path, working_dir=self._spec.working_dir, actors=actors
        )
        assignment = ActorAssignment(name="counter", incarnation=incarnation)
        running = await self._stack.enter_async_context(attached(spec, actor=assignment))
        await running.controller.phase(ReplicaPhase.READY)
        if told:
            self.tell(incarnation, running.app.state.replica.address)
        return running

    async def begin(self, spec: DeploymentSpec) -> Running:
        """Begins the replica."""
        self.replica = await self._stack.enter_async_context(attached(spec))
        return self.replica

    def tell(
        self, incarnation: int, address: str = "", *, replica_id: str = REPLICA_ID, given_up: str = "", why: str = ""
    ) -> None:
        """Tells the replica where the actor is."""
        assert self.replica is not None
        endpoint = ActorEndpoint(
            name="counter",
            incarnation=incarnation,
            address=address,
            given_up=given_up,
            replica_id=ReplicaId(replica_id if address else ""),
            failure=Failure(reason="REPLICA_DIED", message=why) if why else None,
        )
        self.replica.controller.send(actors=encode_actor_directory([endpoint]))


def app_of(tmp_path: Path, target: str = "App") -> DeploymentSpec:
    actors = (ActorSpec(name="counter", import_path="x:y"), ActorSpec(name="tree", import_path="x:y"))
    return spec_of(tmp_path, REPLICA_SOURCE, target, actors=actors)


@asynccontextmanager
async def cluster_of(tmp_path: Path, source: str = ACTOR_SOURCE) -> AsyncIterator[tuple[Cluster, ActorHandle[Any]]]:
    """A replica that serves, and a handle as its user code has it."""
    async with Cluster(tmp_path, source) as cluster:
        replica = await cluster.begin(app_of(tmp_path))
        await replica.controller.phase(ReplicaPhase.READY)
        yield cluster, serve_core.get_deployment_actor("counter").options(timeout_s=WAIT_S)


async def known(cluster: Cluster, handle: ActorHandle[Any], incarnation: int) -> None:
    """Waits until the replica knows of a life."""
    assert cluster.replica is not None
    while handle.incarnation != incarnation:
        await cluster.replica.call("told")


async def test_methods_are_called_as_if_they_were_here(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        assert handle.incarnation == 0
        await cluster.life(1)
        assert await handle.add(2) == 2
        assert await handle.add(number=3) == 5
        assert [item async for item in handle.upto(3)] == [0, 1, 2]
        assert await handle.total(_items(1, 2, 3)) == 6
        assert await handle("word") == "WORD"
        assert (handle.incarnation, handle.name) == (1, "counter")
        assert await handle.method("name")() == "taken"
        with pytest.raises(LookupError, match="as asked"):
            await handle.fail()
        with pytest.raises(MethodUnknownError, match="there is no method 'nothing'; the methods are: __call__, add"):
            await handle.nothing()
        with pytest.raises(ApplicationError):
            await handle.fail()


async def _items(*items: int) -> AsyncIterator[int]:
    for item in items:
        yield item


class Counter:
    """As the annotations of an actor's class say."""

    def pair(self, numbers: tuple[int, int]) -> tuple[int, int]:
        return numbers


async def test_results_arrive_as_the_class_says(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        await cluster.life(1)
        assert await handle.pair((1, 2)) == [2, 1]
        assert await serve_core.get_deployment_actor("counter", Counter).pair((1, 2)) == (2, 1)


async def test_user_code_calls_from_wherever_it_runs(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, _):
        await cluster.life(1)
        assert cluster.replica is not None
        assert await cluster.replica.call("add") == 1
        assert await cluster.replica.call("add_in_thread") == 3
        assert await cluster.replica.call("add_in_another_loop") == 4
        with pytest.raises(grpc.aio.AioRpcError, match="would block an event loop"):
            await cluster.replica.call("add_wrongly")


async def test_a_constructor_waits_for_the_actor(tmp_path: Path) -> None:
    async with Cluster(tmp_path, ACTOR_SOURCE) as cluster:
        replica = await cluster.begin(app_of(tmp_path, "Asks"))
        await cluster.life(1)
        await replica.controller.phase(ReplicaPhase.READY)
        assert await replica.call("add") == 2


async def test_a_name_that_is_unknown_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    async with cluster_of(tmp_path):
        with pytest.raises(ActorUnknownError, match="has no actor 'other'; it has: counter, tree"):
            serve_core.get_deployment_actor("other")


def test_outside_of_a_replica_there_are_no_actors() -> None:
    with pytest.raises(ActorUnknownError, match="works only in a replica of the deployment"):
        serve_core.get_deployment_actor("counter")
    with pytest.raises(ConfigInvalidError, match="works only in a deployment actor"):
        serve_core.get_deployment_actor_context()


async def test_a_call_waits_for_the_next_life_and_goes_there(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        await handle.add(5)
        first.controller.send(stop=controller_pb2.StopCommand())
        await first.task
        waiting = asyncio.ensure_future(handle.add(1))
        cluster.tell(2, why="its process was ended by signal 9")
        await known(cluster, handle, 2)
        assert not waiting.done()
        await cluster.life(2)
        assert await waiting == 1


async def test_a_call_that_is_refused_by_a_life_that_drains_goes_to_the_next(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        inside = asyncio.ensure_future(handle.wait())
        await handle.until_begun()
        first.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        await first.controller.phase(ReplicaPhase.DRAINING)
        waiting = asyncio.ensure_future(handle.add(1))
        await cluster.life(2)
        assert await waiting == 1
        first.controller.send(stop=controller_pb2.StopCommand())
        with pytest.raises(ActorDiedError) as caught:
            await inside
        assert caught.value.details["incarnation"] == "1"
        assert caught.value.details["currentIncarnation"] == "2"
        assert "incarnation 1 of actor counter ended with wait() inside" in caught.value.message


@pytest.mark.parametrize("kind", ["call", "stream", "stub"])
async def test_a_call_inside_a_life_that_nothing_is_heard_of_ends_when_the_next_one_serves(
    tmp_path: Path, kind: str, generated: Generated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "LAST_ANSWERS_S", 0.05)
    source = SERVICE_SOURCE.format(module=generated.module) if kind == "stub" else ACTOR_SOURCE
    async with cluster_of(tmp_path, source) as (cluster, handle):
        await cluster.life(1)
        if kind == "call":
            inside: Any = asyncio.ensure_future(_await(handle.wait()))
        elif kind == "stream":
            inside = asyncio.ensure_future(_collect(handle.upto(5)))
        else:
            stub = handle.stub(generated.grpc.AdderStub)
            inside = asyncio.ensure_future(_await(stub.One(generated.pb2.Number(value=3))))
        await handle.until_begun()
        cluster.tell(2)
        await known(cluster, handle, 2)
        assert not inside.done()
        second = await cluster.life(2)
        with pytest.raises(ActorDiedError, match=r"incarnation 1 of actor counter .*another life serves"):
            await inside
        assert second.app.desk.idle


async def test_a_call_that_is_cancelled_is_cancelled(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        inside = asyncio.ensure_future(_await(handle.wait()))
        await handle.until_begun()
        inside.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inside
        await first.until_load(0, 0)


async def test_a_call_that_may_run_twice_is_sent_to_the_next_life(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        inside = asyncio.ensure_future(handle.options(idempotent=True).wait())
        await handle.until_begun()
        first.controller.send(stop=controller_pb2.StopCommand())
        await first.task
        second = await cluster.life(2)
        await handle.until_begun()
        second.controller.send(stop=controller_pb2.StopCommand())
        await second.task
        cluster.tell(3, given_up="it failed 6 times")
        with pytest.raises(ActorDiedError, match="incarnation 2 of actor counter"):
            await inside


async def test_a_stale_life_is_not_called_though_it_answers(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        stale = await cluster.life(1, told=False)
        cluster.tell(2, stale.app.state.replica.address)
        with pytest.raises(ActorUnavailableError) as caught:
            await handle.options(timeout_s=0.3).add()
        assert "the call was meant for incarnation 2 of an actor" in caught.value.message
        assert caught.value.details == {"actor": "counter", "currentIncarnation": "2"}
        cluster.tell(2, stale.app.state.replica.address, replica_id="app.dep.other-0")
        assert await stale.call("add") == 1


@pytest.mark.parametrize("address", ["", NOBODY])
async def test_a_call_to_nobody_says_why_when_its_time_is_over(tmp_path: Path, address: str) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        cluster.tell(2, address, why="its process was ended by signal 9")
        await known(cluster, handle, 2)
        with pytest.raises(ActorUnavailableError, match=r"did not serve within 0\.2 s") as caught:
            await handle.options(timeout_s=0.2).add()
        assert "nothing was run" in caught.value.message
        assert ("its process was ended by signal 9" in caught.value.message) is (not address)
        assert caught.value.details["currentIncarnation"] == "2"
        with pytest.raises(ActorUnavailableError):
            async for _ in handle.options(timeout_s=0.1).upto(3):
                pass


async def test_an_actor_that_was_given_up_is_waited_for_by_nobody(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        waiting = asyncio.ensure_future(handle.add())
        cluster.tell(7, given_up="actor counter failed 6 times in a row")
        with pytest.raises(ActorUnavailableError, match="was given up: actor counter failed 6 times in a row"):
            await waiting


async def test_a_call_ends_with_its_time(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        await cluster.life(1)
        with pytest.raises(TimeoutError, match=r"wait\(\) of actor counter did not end within 0\.1 s"):
            await handle.options(timeout_s=0.1).wait()


async def test_a_stream_that_has_begun_is_not_begun_again(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        stream = aiter(handle.options(idempotent=True).upto(5))
        assert [await anext(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
        first.controller.send(stop=controller_pb2.StopCommand())
        with pytest.raises(ActorDiedError):
            await anext(stream)


async def test_a_handle_goes_on_without_a_controller(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        await cluster.life(1)
        assert await handle.add() == 1
        assert cluster.replica is not None
        cluster.replica.controller.refuse = 1_000
        cluster.replica.controller.hang_up()
        await cluster.replica.controller.until(lambda controller: controller.refuse < 1_000)
        assert await handle.add() == 2


async def test_user_code_is_told_of_each_new_life_but_not_of_the_first(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, _):
        assert cluster.replica is not None
        cluster.tell(4, NOBODY)
        cluster.tell(5)
        cluster.tell(5, NOBODY)
        cluster.tell(5, NOBODY, why="it told of it again")
        while await cluster.replica.call("told") != [["counter", 5]]:
            pass
        cluster.tell(13, NOBODY)
        await cluster.replica.controller.until(lambda controller: not controller.reports[-1].healthy)
        failure = cluster.replica.controller.reports[-1].failure
        assert failure is not None
        assert "on_actor_restarted() raised cannot do without 12" in failure.message
        assert "in on_actor_restarted" in failure.traceback


async def test_stubs_of_the_actors_own_service_follow_it(tmp_path: Path, generated: Generated) -> None:
    number = generated.pb2.Number
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        first = await cluster.life(1)
        stub = handle.stub(generated.grpc.AdderStub)
        assert (await stub.One(number(value=5), metadata=[("more", "2")], timeout=WAIT_S)).value == 7
        assert [item.value async for item in stub.Split(number(value=3))] == [0, 1, 2]
        assert (await stub.Sum(numbers(generated, 1, 2, 3))).value == 6
        assert [item.value async for item in stub.Each(numbers(generated, 1, 2))] == [2, 4]
        talk = stub.Each()
        await talk.write(number(value=4))
        assert (await talk.read()).value == 8
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF
        assert await talk.code() is grpc.StatusCode.OK
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.One(number(value=2))
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
        inside = asyncio.ensure_future(_await(stub.One(number(value=3))))
        await handle.until_begun()
        first.controller.send(stop=controller_pb2.StopCommand())
        with pytest.raises(ActorDiedError, match=r"Adder/One inside"):
            await inside
        await first.task
        waiting = asyncio.ensure_future(_await(stub.One(number(value=9))))
        waiting_stream = asyncio.ensure_future(_collect(stub.Split(number(value=2))))
        await cluster.life(2)
        assert (await waiting).value == 9
        assert [item.value for item in await waiting_stream] == [0, 1]
        cluster.tell(3, given_up="enough")
        await known(cluster, handle, 3)
        with pytest.raises(ActorUnavailableError, match="enough"):
            await stub.One(number(value=9))
        with pytest.raises(ActorUnavailableError, match="enough"):
            await handle.channel().channel_ready()


async def _await(call: Any) -> Any:
    return await call


async def _collect(call: Any) -> list[Any]:
    return [item async for item in call]


async def test_a_stream_of_a_stub_that_has_begun_is_not_begun_again(tmp_path: Path, generated: Generated) -> None:
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        first = await cluster.life(1)
        stub = handle.options(idempotent=True).stub(generated.grpc.AdderStub)
        stream = stub.Split(generated.pb2.Number(value=4))
        assert [(await stream.read()).value for _ in range(4)] == [0, 1, 2, 3]
        first.controller.send(stop=controller_pb2.StopCommand())
        with pytest.raises(ActorDiedError):
            await stream.read()


async def test_a_stub_does_not_reach_a_stale_life(tmp_path: Path, generated: Generated) -> None:
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        stale = await cluster.life(1, told=False)
        cluster.tell(2, stale.app.state.replica.address)
        stub = handle.options(timeout_s=0.2).stub(generated.grpc.AdderStub)
        with pytest.raises(ActorUnavailableError, match="meant for incarnation 2"):
            await stub.One(generated.pb2.Number(value=1))
        with pytest.raises(ActorUnavailableError, match="meant for incarnation 2"):
            await stub.Sum(numbers(generated, 1))


async def test_a_plain_channel_reaches_the_life_that_serves_and_no_other(tmp_path: Path, generated: Generated) -> None:
    number = generated.pb2.Number(value=5)
    async with cluster_of(tmp_path, SERVICE_SOURCE.format(module=generated.module)) as (cluster, handle):
        asked = asyncio.ensure_future(handle.endpoint())
        first = await cluster.life(1)
        endpoint = await asked
        assert endpoint == (first.app.state.replica.address, ((INCARNATION_KEY, f"1@{REPLICA_ID}"),), 1)
        assert await asyncio.to_thread(handle.endpoint_sync) == endpoint
        second = await cluster.life(2)
        await known(cluster, handle, 2)
        follows = await handle.endpoint()
        assert (follows.address, follows.incarnation) == (second.app.state.replica.address, 2)
        async with grpc.aio.insecure_channel(follows.address) as channel:
            stub = generated.grpc.AdderStub(channel)
            assert (await stub.One(number, metadata=follows.metadata, timeout=WAIT_S)).value == 5
            error = await refused(stub.One(number, metadata=endpoint.metadata, timeout=WAIT_S))
            assert error.reason == "ACTOR_FENCED"
        cluster.tell(3, given_up="enough")
        await known(cluster, handle, 3)
        with pytest.raises(ActorUnavailableError, match="enough"):
            await handle.endpoint()


async def test_calls_have_the_name_and_the_time_of_the_request_that_they_are_made_for(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        await cluster.life(1)
        assert cluster.replica is not None
        response = await cluster.replica.stub.Dispatch(request("request", request_id="r-17"), timeout=WAIT_S)
        name, left_s = decode_value(decode_payload(response.result))
        assert name == "r-17"
        assert 0 < left_s <= 2 * WAIT_S
        name, left_s = await handle.options(timeout_s=5.0, request_id="mine").request()
        assert name == "mine"
        assert 0 < left_s <= WAIT_S


async def test_a_stream_of_items_is_not_sent_again(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        inside = asyncio.ensure_future(_await(handle.wait()))
        await handle.until_begun()
        first.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        await first.controller.phase(ReplicaPhase.DRAINING)
        # Whether the refusal comes before an item is sent, or while it is, is a race.
        with pytest.raises(ActorLostError):
            await handle.options(idempotent=True).total(_items(1, 2))
        assert not inside.done()
        inside.cancel()


async def test_a_connection_to_a_life_that_is_over_is_closed(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        for incarnation in (1, 2, 3):
            await cluster.life(incarnation)
            await known(cluster, handle, incarnation)
            await handle.add()
        ((port, _),) = actor_handle._process_actors
        assert isinstance(port, ActorCalls)
        assert [life.incarnation.number for life in port._connections._lives.values()] == [3]
