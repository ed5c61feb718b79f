"""Which way a router takes to a replica: a socket, a gRPC stream, or a gRPC call for each call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from router.calls import Budget, Calls
from router.forward import Router
from router.upstream import Upstream
from serve_core.errors import ReplicaUnavailableError
from serve_core.link import choice
from serve_core.link.unix import UnixListener
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2
from serve_core.wire.metadata import LINK_SECRET_KEY, LINK_SOCKET_KEY
from tests.shell.router.fakes import KEY, FakeReplica, running, table, until_connected
from tests.shell.router.forwarding import gated

BUDGET = Budget(wait_until=None, end_at=None)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    choice.choose(os.environ)


def upstream_to(router: Router, replica: FakeReplica) -> Upstream:
    return router.locate(f"{'0' * 32}.1.{replica.name}")


@asynccontextmanager
async def listening(replica: FakeReplica) -> AsyncIterator[UnixListener]:
    """The replica offers a socket."""
    listener = UnixListener(replica.links)
    await listener.start()
    replica.offer = ((LINK_SOCKET_KEY, listener.path), (LINK_SECRET_KEY, listener.secret))
    yield listener
    await listener.close()


async def answers(router: Router, tasks: Supervisor) -> bool:
    await Calls(router, tasks).unary(KEY, replica_pb2.DispatchRequest(request_id="one"), BUDGET)
    return True


async def test_a_replica_without_links_is_called_all_the_same_and_that_is_said_once(
    router: Router, tasks: Supervisor, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    replica = FakeReplica()
    with caplog.at_level("INFO"):
        async with running(replica):
            router.apply(table(1, replica))
            await until_connected(router, replica)
            upstream = upstream_to(router, replica)
            upstream.restart_watch()
            await replica.until(lambda: replica.watchers == 0)
            await until_connected(router, replica)
            assert await answers(router, tasks)
    assert caplog.text.count("no link to this replica") == (1 if way == "calls" else 0)
    assert replica.links_asked_for == (0 if way == "calls" else 1)


async def test_processes_of_one_host_take_the_socket(router: Router, tasks: Supervisor, way: str) -> None:
    replica = FakeReplica()
    async with running(replica), listening(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        assert await answers(router, tasks)
        link = upstream_to(router, replica)._link
        if way == "calls":
            assert link is None
        else:
            assert link is not None
            assert link.open
            assert not link.in_a_call
        await router.close()
        await replica.until(lambda: not replica.watchers)


@pytest.mark.parametrize("kind", ["unix", "grpc", "off"])
async def test_a_router_takes_no_better_way_than_it_was_told(tasks: Supervisor, way: str, kind: str) -> None:
    choice.choose({choice.VARIABLE: kind})
    router = Router(router_id="router-2", tasks=tasks)  # type: ignore[arg-type]
    replica = FakeReplica()
    async with running(replica), listening(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        link = upstream_to(router, replica)._link
        found = "off" if link is None else "grpc" if link.in_a_call else "unix"
        assert found == ("off" if way == "calls" else kind)
        assert await answers(router, tasks)
        await router.close()


async def test_a_socket_of_another_host_is_no_hindrance(
    router: Router, tasks: Supervisor, way: str, tmp_path: Path
) -> None:
    replica = FakeReplica()
    replica.offer = ((LINK_SOCKET_KEY, str(tmp_path / "elsewhere")), (LINK_SECRET_KEY, "0" * 32))
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        link = upstream_to(router, replica)._link
        assert link is None if way == "calls" else link is not None and link.in_a_call
        assert await answers(router, tasks)


async def test_tokens_end_with_the_link(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica()
    async with running(replica), listening(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        await router.reserve(KEY, deadline=None)
        assert replica.load.reserved == 1
        await router.close()
        await replica.until(lambda: replica.load.reserved == 0)


async def test_a_refusal_cuts_nothing_off_that_is_inside(router: Router, tasks: Supervisor) -> None:
    """What is refused as undelivered has the replica watched anew, on the link that there is."""
    replica = FakeReplica(capacity=4)
    gate = asyncio.Event()
    replica.work = gated(gate)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        inside = asyncio.ensure_future(answers(router, tasks))
        await replica.until(lambda: replica.ongoing == 1)
        before = upstream_to(router, replica).owner_id
        replica.refuses = ReplicaUnavailableError("not yet")
        refused = asyncio.ensure_future(answers(router, tasks))
        await replica.until(lambda: replica.watchers == 0)
        replica.refuses = None
        await replica.until(lambda: replica.watchers == 1)
        assert upstream_to(router, replica).owner_id != before
        gate.set()
        assert await inside
        assert await refused


async def test_a_link_that_breaks_by_itself_is_opened_anew(router: Router, tasks: Supervisor, way: str) -> None:
    replica = FakeReplica(capacity=4)
    async with running(replica), listening(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        upstream = upstream_to(router, replica)
        link = upstream._link
        if link is not None:
            link.lost("a cable was pulled")
            assert not upstream.connected
        await upstream.ready(5)
        assert await answers(router, tasks)
        assert (upstream._link is None) is (way == "calls")
        assert upstream._link is None or upstream._link is not link


async def test_a_call_on_a_lost_link_was_not_delivered(router: Router, way: str) -> None:
    replica = FakeReplica()
    async with running(replica), listening(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        upstream = upstream_to(router, replica)
        if upstream._link is not None:
            upstream._link.lost("a cable was pulled")
        call = upstream.stub.Dispatch(replica_pb2.DispatchRequest())
        if way == "calls":
            await call
            return
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert isinstance(upstream.translate(raised.value), ReplicaUnavailableError)
    assert not replica.served
