"""What memory it takes to keep things: a replica in a router, a request that waits, a token that is held; and what bounds how many.

Of structures alone, as Python's allocator counts them, of which many are made; and of whole processes, as their resident memory grows
by it: all that gRPC and asyncio keep is in that. Prints bytes for one of each.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import click
import grpc.aio

sys.path.insert(0, str(Path(__file__).parents[1]))

import serve_core
from bench.echo_app import echo
from bench.load.messages import ECHO, echo_request
from bench.measure.errors import MeasurementError
from bench.measure.processes import rss_mb
from replica.core.slots import SlotLedger
from router.core.choice import PowerOfTwo
from router.core.endpoints import EndpointTable
from router.core.lane import Lane
from router.forward import Router
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, OwnerId, ReplicaId, RevisionId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Gang, Replica
from serve_core.model.slots import Lease
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import router_pb2, router_pb2_grpc
from serve_core.wire.slots import encode_ttl
from tests.shell.router.fakes import FakeReplica

APPLICATION = "echo"
KEY = DeploymentKey(APPLICATION, "Echo")
MANY = 10_000
"""Structures of a kind."""
WARM = 200
TTL_S = 60.0
PATIENCE_S = 60.0
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """What one of a kind takes in a process, and what bounds how many there are."""

    what: str
    process: str
    one_bytes: float
    bound: str


# Structures.


@contextmanager
def counted(sizes: list[int]) -> Iterator[None]:
    """Adds the bytes that Python's allocator gave within the block, and that are still held."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def structures() -> list[Finding]:
    """Those of the pure cores."""
    lane, table = Lane(KEY, PowerOfTwo(random.random), max_queued_requests=-1), EndpointTable()
    ledger = SlotLedger(replica_id=ReplicaId("r"), epoch=1, capacity=MANY, history_limit=MANY)
    sizes: list[int] = []
    with counted(sizes):
        told = described([f"{KEY}.v1-{number}" for number in range(MANY)], address="10.0.0.1:50051")
        table.apply(told)
        for one in told.upserted_replicas:
            lane.pushed(lane.add(one.replica_id, one.gang), Load(1, 0, 1), draining=False)
        del told
    for load in lane.replicas:
        lane.lost(load, reachable=False)
    with counted(sizes):
        for number in range(MANY):
            lane.enter(slots=1, deadline=1e6 + number, now=float(number))
    with counted(sizes):
        leases = [
            ledger.reserve(ttl_s=60.0, owner=OwnerId("router"), now=float(number) / MANY, secret=f"{number:032x}")
            for number in range(MANY)
        ]
        tokens = [str(lease.token) for lease in leases if isinstance(lease, Lease)]
        del leases
        kept = sum(map(sys.getsizeof, tokens)) + sys.getsizeof(tokens)
    sizes[-1] -= kept
    held = sizes[-1]
    with counted(sizes):
        for token in tokens:
            ledger.release(token, now=2.0)
    assert len(lane.queue) == MANY
    in_table, waits, _, ended = (size / MANY for size in sizes)
    return [
        Finding("replica in the table, its estimate and its gang", "router", in_table, "num_replicas"),
        Finding("request in the queue", "router", waits, "max_queued_requests"),
        Finding("token that is held", "replica", held / MANY, "max_ongoing_requests"),
        Finding("token that ended and is remembered", "replica", held / MANY + ended, "history_limit (10,000)"),
    ]


def described(names: Sequence[str], *, address: str) -> TableChange:
    """A table of one deployment with these replicas, all at one address."""
    replicas = tuple(
        Replica(
            replica_id=ReplicaId(name),
            key=KEY,
            revision=RevisionId("v1"),
            epoch=1,
            address=address,
            node_id=NodeId("node"),
            gang=Gang(gang_id=GangId(name)),
        )
        for name in names
    )
    route = DeploymentRoute(key=KEY, ingress=True, available=True)
    return TableChange(
        version=TableVersion("e", 1), snapshot=True, upserted_deployments=(route,), upserted_replicas=replicas
    )


# A router that is connected to many replicas.


def host_replicas(pipe: Connection, count: int) -> None:
    """Serves simple replicas, each on a port of its own, until the other end of the pipe says anything."""

    async def host() -> None:
        replicas = [FakeReplica(f"{KEY}.v1-{number}", key=KEY) for number in range(count)]
        for one in replicas:
            await one.start()
        pipe.send([one.replica for one in replicas])
        await asyncio.to_thread(pipe.recv)
        for one in replicas:
            await one.stop()

    asyncio.run(host())


def connect(pipe: Connection, replicas: Sequence[Replica]) -> None:
    """Tells through the pipe what it takes to be connected to one more replica, in bytes."""

    async def run() -> None:
        async with Supervisor("bench") as tasks:
            router = Router(router_id=RouterId("router"), tasks=tasks)
            half = len(replicas) // 2
            whole = replace(described([], address=""), upserted_replicas=tuple(replicas[:half]))
            router.apply(whole)
            await connected(router, half)
            before = rss_mb(os.getpid())
            router.apply(
                TableChange(version=TableVersion("e", 2), snapshot=False, upserted_replicas=tuple(replicas[half:]))
            )
            await connected(router, len(replicas))
            after = rss_mb(os.getpid())
            pipe.send((after - before) * 1e6 / (len(replicas) - half))
            await router.close()

    asyncio.run(run())


async def connected(router: Router, count: int) -> None:
    async def now() -> int:
        return sum(one.connected for one in router._admissions[KEY].lane.replicas)

    await until(count, now, "replicas are connected")


def connections(count: int) -> Finding:
    """A router with so many replicas, of which the second half is measured."""
    spawn = multiprocessing.get_context("spawn")
    hosts, hosted = spawn.Pipe()
    ends, measuring = spawn.Pipe()
    host = spawn.Process(target=host_replicas, args=(hosted, count), daemon=True)
    host.start()
    try:
        router = spawn.Process(target=connect, args=(measuring, hosts.recv()), daemon=True)
        router.start()
        if not ends.poll(2 * PATIENCE_S):
            raise MeasurementError(f"a router was not connected to {count} replicas in time")
        one_bytes: float = ends.recv()
        router.join()
    finally:
        hosts.send(None)
        host.join()
    return Finding("idle replica: its connection, link and watch", "router", one_bytes, "num_replicas")


# A cluster.


async def processes(count: int) -> list[Finding]:
    """What tokens and waiting calls take, by the memory of a cluster's router and replica."""
    async with LocalCluster(LocalClusterConfig(cpus=2.0, connection_age_s=0)) as cluster:
        bound = echo.options(
            working_dir=str(Path(__file__).parents[1]),
            max_ongoing_requests=WARM + 2 * count,
            max_queued_requests=WARM + count,
        ).bind()
        await serve_core.deploy(bound, name=APPLICATION, controller=cluster.controller_address)
        status = await serve_core.status(APPLICATION, controller=cluster.controller_address)
        pids = {"router": cluster.router_pid, "replica": status.applications[0].deployments[0].replicas[0].pid}
        async with grpc.aio.insecure_channel(cluster.router_address) as channel:
            findings = await fill(channel, pids, count)
        await serve_core.close(cluster.controller_address)
    return findings


async def fill(channel: grpc.aio.Channel, pids: dict[str, int], count: int) -> list[Finding]:
    stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(channel)

    async def reserve(number: int, *, name: str = "") -> None:
        request = router_pb2.RouterServiceReserveSlotRequest(
            application=APPLICATION, ttl=encode_ttl(TTL_S), request_id=f"{name}{number}" if name else ""
        )
        await stub.ReserveSlot(request, timeout=PATIENCE_S)

    async def named(number: int) -> None:
        await reserve(number, name="bench-")

    await each(reserve, WARM)
    plain = await grown(pids, lambda: each(reserve, count), count)
    by_name = await grown(pids, lambda: each(named, count), count)
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
    calls = [call(echo_request(100), timeout=2 * PATIENCE_S) for _ in range(WARM)]
    await waiting(stub, WARM)

    async def wait() -> None:
        calls.extend(call(echo_request(100), timeout=2 * PATIENCE_S) for _ in range(count))
        await waiting(stub, WARM + count)

    waits = await grown(pids, wait, count)
    for one in calls:
        one.cancel()
    return [
        Finding("token that is held", "router", plain["router"], "none is kept"),
        Finding("the same, with a request id", "router", by_name["router"], "PROMISES_MAX (10,000)"),
        Finding("token that is held, all in all", "replica", plain["replica"], "max_ongoing_requests"),
        Finding("the same, with a request id", "replica", by_name["replica"], "max_ongoing_requests"),
        Finding("call that waits, all in all", "router", waits["router"], "max_queued_requests"),
    ]


async def each(ask: Callable[[int], Awaitable[None]], count: int) -> None:
    """Asks so often, a few at a time."""
    numbers = iter(range(count))

    async def ask_on() -> None:
        for number in numbers:
            await ask(number)

    await asyncio.gather(*(ask_on() for _ in range(16)))


async def waiting(stub: router_pb2_grpc.RouterServiceAsyncStub, count: int) -> None:
    async def now() -> int:
        told = await stub.GetRouter(router_pb2.GetRouterRequest())
        return sum(deployment.queued for deployment in told.deployments)

    await until(count, now, "calls wait")


async def until(count: int, now: Callable[[], Awaitable[int]], what: str) -> None:
    """Looks until there are so many.

    Raises:
        MeasurementError: There are not in time.
    """
    found = await now()
    for _ in range(int(PATIENCE_S / LOOK_S)):
        if found == count:
            return
        await asyncio.sleep(LOOK_S)
        found = await now()
    raise MeasurementError(f"{found} {what}, not {count}")


async def grown(pids: dict[str, int], work: Callable[[], Awaitable[None]], count: int) -> dict[str, float]:
    """By how many bytes each process has grown for each of so many."""
    before = {role: rss_mb(pid) for role, pid in pids.items()}
    await work()
    return {role: (rss_mb(pid) - before[role]) * 1e6 / count for role, pid in pids.items()}


@click.command(help=__doc__)
@click.option("--replicas", default=100, show_default=True, help="Replicas that a router is connected to.")
@click.option("--requests", default=4000, show_default=True, help="Tokens and waiting calls of a cluster.")
def main(replicas: int, requests: int) -> None:
    findings = [*structures(), connections(replicas), *asyncio.run(processes(requests))]
    click.echo(f"{'':50}{'in the':>9}{'bytes':>10}   bounded by")
    for one in findings:
        click.echo(f"{one.what:50}{one.process:>9}{max(0.0, one.one_bytes):>10,.0f}   {one.bound}")


if __name__ == "__main__":
    main()
