"""Calls to actors that end and begin anew: which wait, which go on to the next life, and which fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from replica import errand
from replica.actor_calls import ActorCalls
from serve_core import actor_handle
from serve_core.errors import ActorDiedError, ActorLostError, ActorUnavailableError
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import encode_duration
from tests.more_time import error_in_time
from tests.shell.replica.actor_cluster import (
    ACTOR_SOURCE,
    NOBODY,
    SERVICE_SOURCE,
    all_of,
    answer_of,
    cluster_of,
    items_of,
    known,
)
from tests.shell.replica.adder import Generated
from tests.shell.replica.support import WAIT_S


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
            inside: Any = asyncio.ensure_future(answer_of(handle.wait()))
        elif kind == "stream":
            inside = asyncio.ensure_future(all_of(handle.upto(5)))
        else:
            stub = handle.stub(generated.grpc.AdderStub)
            inside = asyncio.ensure_future(answer_of(stub.One(generated.pb2.Number(value=3))))
        await handle.until_begun()
        cluster.tell(2)
        await known(cluster, handle, 2)
        assert not inside.done()
        second = await cluster.life(2)
        with pytest.raises(ActorDiedError, match=r"incarnation 1 of actor counter .*another life serves"):
            await inside
        assert second.app.desk.idle


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
        error = await error_in_time(
            lambda timeout_s: handle.options(timeout_s=timeout_s).add(),
            lambda error: "the call was meant for incarnation 2 of an actor" in str(error),
        )
        assert isinstance(error, ActorUnavailableError)
        assert "the call was meant for incarnation 2 of an actor" in error.message
        assert error.details == {"actor": "counter", "currentIncarnation": "2"}
        cluster.tell(2, stale.app.state.replica.address, replica_id="app.dep.other-0")
        assert await stale.call("add") == 1


async def test_an_actor_that_was_given_up_is_waited_for_by_nobody(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        waiting = asyncio.ensure_future(handle.add())
        cluster.tell(7, given_up="actor counter failed 6 times in a row")
        with pytest.raises(ActorUnavailableError, match="was given up: actor counter failed 6 times in a row"):
            await waiting


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


async def test_a_stream_of_items_is_not_sent_again(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        inside = asyncio.ensure_future(answer_of(handle.wait()))
        await handle.until_begun()
        first.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        await first.controller.phase(ReplicaPhase.DRAINING)
        # Whether the refusal comes before an item is sent, or while it is, is a race.
        with pytest.raises(ActorLostError):
            await handle.options(idempotent=True).total(items_of(1, 2))
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
