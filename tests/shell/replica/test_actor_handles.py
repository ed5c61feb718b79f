"""Handles to deployment actors, in a replica: they follow an actor, and say what became of a call."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import grpc.aio
import pytest

import serve_core
from serve_core.errors import (
    ActorUnavailableError,
    ActorUnknownError,
    ApplicationError,
    ConfigInvalidError,
    MethodUnknownError,
)
from serve_core.model.replica import ReplicaPhase
from serve_core.wire.codec import decode_value
from serve_core.wire.payload import decode_payload
from tests.more_time import error_in_time
from tests.shell.replica.actor_cluster import (
    ACTOR_SOURCE,
    NOBODY,
    Cluster,
    answer_of,
    app_of,
    cluster_of,
    items_of,
    known,
)
from tests.shell.replica.support import WAIT_S, request


async def test_methods_are_called_as_if_they_were_here(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        assert handle.incarnation == 0
        await cluster.life(1)
        assert await handle.add(2) == 2
        assert await handle.add(number=3) == 5
        assert [item async for item in handle.upto(3)] == [0, 1, 2]
        assert await handle.total(items_of(1, 2, 3)) == 6
        assert await handle("word") == "WORD"
        assert (handle.incarnation, handle.name) == (1, "counter")
        assert await handle.method("name")() == "taken"
        with pytest.raises(LookupError, match="as asked"):
            await handle.fail()
        with pytest.raises(MethodUnknownError, match="there is no method 'nothing'; the methods are: __call__, add"):
            await handle.nothing()
        with pytest.raises(ApplicationError):
            await handle.fail()


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


async def test_a_call_that_is_cancelled_is_cancelled(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        first = await cluster.life(1)
        inside = asyncio.ensure_future(answer_of(handle.wait()))
        await handle.until_begun()
        inside.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inside
        await first.until_load(0, 0)


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


async def test_a_call_ends_with_its_time(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (cluster, handle):
        await cluster.life(1)
        error = await error_in_time(
            lambda timeout_s: handle.options(timeout_s=timeout_s).wait(), lambda error: isinstance(error, TimeoutError)
        )
        assert re.search(r"wait\(\) of actor counter did not end within \S+ s", str(error))


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
