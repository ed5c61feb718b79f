"""Gangs of real processes on virtual nodes: who is in one, how it is reserved and called, and what is refused or waits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import serve_core
from bench.gang_stage import GangStage, ganged_spec, gangs_of
from bench.ganged_app import ganged
from bench.operating import APPLICATION, ROOT, counters, total
from serve_core.api import build
from serve_core.client import ControllerClient
from serve_core.errors import ConfigInvalidError, ServeError, SlotConsumedError
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ApplicationStatus, ClusterStatus, DeploymentState, DeploymentStatus
from serve_core.runtime.channel import open_channel
from serve_core.v1 import controller_pb2 as pb
from serve_core.v1 import controller_pb2_grpc, router_pb2, router_pb2_grpc
from serve_core.wire.errors import decode_error
from serve_core.wire.spec import encode_application_spec
from tests.integration.gang_calls import TIMEOUT_S, broadcast, dispatch, reserve

pytestmark = pytest.mark.integration


@asynccontextmanager
async def routed(stage: GangStage) -> AsyncIterator[router_pb2_grpc.RouterServiceAsyncStub]:
    """A client of the router."""
    async with grpc.aio.insecure_channel(stage.cluster.router_address) as channel:
        yield router_pb2_grpc.RouterServiceStub(channel)


async def test_members_know_each_other_and_are_called_together(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 2, "b": 2}) as stage, routed(stage) as stub:
        before = await stage.serve(1, num_replicas=4, gang={"size": 4, "placement": "SPREAD"})
        ((gang_id, members),) = gangs_of(before).items()
        told = await broadcast(stub, "who")

        ids = [one.replica.replica_id for one in members]
        nodes = [one.replica.node_id for one in members]
        assert sorted(nodes) == ["a", "a", "b", "b"]
        assert [one["pid"] for one in told] == [one.pid for one in members]
        assert {(one["gang"], one["size"], one["epoch"], one["leader"]) for one in told} == {(gang_id, 4, 1, 0)}
        addresses = [
            [rank, replica_id, one.replica.address]
            for rank, (replica_id, one) in enumerate(zip(ids, members, strict=True))
        ]
        assert [one["members"] for one in told] == [addresses] * 4
        host, port = told[0]["rendezvous"]
        assert port
        assert [one["environment"] for one in told] == [
            {
                "RANK": str(rank),
                "WORLD_SIZE": "4",
                "LOCAL_RANK": str(nodes[:rank].count(node)),
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_RANK": str(list(dict.fromkeys(nodes)).index(node)),
                "MASTER_ADDR": host,
                "MASTER_PORT": str(port),
            }
            for rank, node in enumerate(nodes)
        ]

        held = await reserve(stub)
        assert [one.replica_id for one in held.members] == ids
        assert [one.gang.rank for one in held.members] == [0, 1, 2, 3]
        assert await slots(before) == (4, 0)
        assert (await dispatch(stub, "who", token=held.lease.slot_token))["rank"] == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await broadcast(stub, "who", token=held.lease.slot_token)
        assert isinstance(decode_error(caught.value), SlotConsumedError)

        held = await reserve(stub)
        assert [one["rank"] for one in await broadcast(stub, "who", token=held.lease.slot_token)] == [0, 1, 2, 3]
        held = await reserve(stub)
        request = router_pb2.RouterServiceReleaseSlotRequest(slot_token=held.lease.slot_token)
        assert [(await stub.ReleaseSlot(request, timeout=TIMEOUT_S)).released for _ in range(2)] == [True, False]
        assert await slots(before) == (0, 0)

        await stage.kill_controller()
        await stage.operator.until_whole()
        assert await broadcast(stub, "who") == told, "nobody is told anything new because the controller was replaced"


async def slots(deployment: DeploymentStatus) -> tuple[int, int]:
    """What all replicas hold: promised, and in use."""
    sums = total(await counters(deployment))
    return sums.reserved, sums.ongoing


async def test_a_number_that_makes_no_whole_gangs_is_refused_everywhere(tmp_path: Path) -> None:
    gang: Any = {"gang": {"size": 2}}
    path = tmp_path / "serve.yaml"
    described = {
        "name": APPLICATION,
        "import_path": "bench.ganged_app:app",
        "deployments": [{"name": "Steady", "num_replicas": 5, **gang}],
    }
    path.write_text(json.dumps({"applications": [described]}))
    refusal = "5 is no multiple of gang.size = 2; the nearest are 4 and 6"
    async with GangStage(tmp_path, {"a": 4}) as stage:
        before = await stage.serve(1, num_replicas=4, **gang)
        address = stage.cluster.controller_address

        async def command(*words: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "serve_core.cli", *words, "--controller", address),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await process.communicate()
            return process.returncode or 0, out.decode()

        app = ganged.options(working_dir=str(ROOT), num_replicas=5, **gang).bind(1)
        with pytest.raises(ConfigInvalidError, match=refusal):
            await serve_core.deploy(app, name=APPLICATION, controller=address)
        for words in (("deploy", str(path)), ("scale", f"{APPLICATION}.Steady", "5")):
            code, said = await command(*words)
            assert (code, refusal in said) == (1, True), said
        async with open_channel(address) as channel:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            five = encode_application_spec(ganged_spec(1, num_replicas=4, **gang))
            five.deployments[0].num_replicas = 5
            for ask in (
                stub.DeployApplication(pb.DeployApplicationRequest(application=five)),
                stub.ScaleDeployment(
                    pb.ScaleDeploymentRequest(application=APPLICATION, deployment="Steady", num_replicas=5)
                ),
            ):
                error = await refused(ask)
                assert isinstance(error, ConfigInvalidError)
                assert "num_replicas" in error.message
                assert refusal in error.message
        after = await stage.operator.status()
        assert after.applications[0].generation == 1
        assert [one.pid for one in after.applications[0].deployments[0].replicas] == [
            one.pid for one in before.replicas
        ]


async def refused(ask: Any) -> ServeError | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return decode_error(caught.value)


async def test_a_gang_that_fits_nowhere_says_why_and_holds_nothing(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 3, "b": 3}) as stage:
        await stage.serve(1, num_replicas=2, gang={"size": 2})
        async with stage.load() as load:
            big = ganged.options(
                name="Big",
                working_dir=str(ROOT),
                num_replicas=3,
                gang={"size": 3, "placement": "STRICT_SPREAD"},
                progress_deadline_s=1.0,
            ).bind(1)
            await stage.operator.deploy(build(big, "big"))
            waiting = await stage.operator.until(lambda seen: "distinct nodes" in big_of(seen).message)
            failed = await stage.operator.until(
                lambda seen: big_of(seen).state is DeploymentState.DEPLOY_FAILED, timeout_s=60.0
            )

    assert "needs 3 x 0.1 CPUs on distinct nodes" in big_of(waiting).message
    assert "distinct nodes" in big_of(failed).message
    for seen in (waiting, failed):
        assert sum(node.used.cpus for node in seen.nodes) == pytest.approx(0.2), "only what serves holds anything"
        assert not big_of(seen).replicas
    assert not load.failed


def big_of(status: ClusterStatus) -> DeploymentStatus:
    found: list[ApplicationStatus] = [one for one in status.applications if one.name == "big"]
    return found[0].deployments[0]


async def test_a_lost_member_comes_back_in_its_rank(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 3}) as stage, routed(stage) as stub:
        before = await stage.serve(1, num_replicas=3, gang={"size": 3, "on_member_failure": "RESTART_REPLICA"})
        os.kill(before.replicas[1].pid, signal.SIGKILL)
        after = await stage.operator.until_whole(until=lambda seen: seen.replicas[1].pid != before.replicas[1].pid)
        told = await broadcast(stub, "who")

    assert [one.replica.gang.epoch for one in after.replicas] == [2, 2, 2]
    assert [one.replica.epoch for one in after.replicas] == [1, 2, 1]
    assert [one.replica.replica_id for one in after.replicas] == [one.replica.replica_id for one in before.replicas]
    assert [old.pid == new.pid for old, new in zip(before.replicas, after.replicas, strict=True)] == [True, False, True]
    assert [(one["epoch"], one["told"], one["pid"]) for one in told] == [
        (2, told_of, one.pid) for told_of, one in zip(([2], [], [2]), after.replicas, strict=True)
    ]


async def test_an_ill_member_has_its_gang_replaced_and_no_other(tmp_path: Path) -> None:
    health = {"health_check_period_s": 0.1, "health_check_failure_threshold": 1}
    async with GangStage(tmp_path, {"a": 6}) as stage, routed(stage) as stub:
        before = await stage.serve(1, num_replicas=4, gang={"size": 2}, **health)
        async with stage.load() as load:
            pid = (await dispatch(stub, "fall_ill"))["pid"]
            ill = next(gang_id for gang_id, them in gangs_of(before).items() if pid in {one.pid for one in them})
            after = await stage.operator.until_whole(until=lambda seen: ill not in gangs_of(seen))

    assert not load.failed
    (kept,) = gangs_of(before).keys() & gangs_of(after).keys()
    assert [one.pid for one in gangs_of(after)[kept]] == [one.pid for one in gangs_of(before)[kept]]
    assert len(after.failures) == 1, after.failures


async def test_members_of_one_gang_lost_while_the_controller_is_away_are_one_failure(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 6}) as stage:
        before = await stage.serve(1, num_replicas=6, gang={"size": 3})
        (lost, others), (kept, members) = gangs_of(before).items()
        await stage.cluster.kill_controller()
        for one in others[:2]:
            os.kill(one.pid, signal.SIGKILL)
        after = await stage.operator.until_whole(until=lambda seen: lost not in gangs_of(seen))

    assert [one.pid for one in gangs_of(after)[kept]] == [one.pid for one in members]
    assert len(after.failures) == 1, after.failures
    assert lost in after.failures[0].message


async def test_a_gang_comes_up_though_the_controller_is_killed(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 3}) as stage:
        # Read at the start, so that nothing is forked: starts are long enough to be seen.
        new_process = {"PYTHONHASHSEED": "1"}
        generation = await stage.operator.deploy(ganged_spec(1, num_replicas=3, gang={"size": 3}, env=new_process))
        await stage.operator.until_deployment(
            lambda seen: any(one.phase is ReplicaPhase.STARTING and one.pid for one in seen.replicas)
        )
        await stage.kill_controller()
        after = await stage.operator.until_whole(generation)
        status = await stage.operator.until(lambda seen: seen.nodes[0].used.cpus < 0.35)

    assert len(gangs_of(after)) == 1
    assert not after.failures
    assert status.nodes[0].used.cpus == pytest.approx(0.3)


async def test_a_member_that_cannot_start_is_one_failure_of_its_gang(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    async with GangStage(tmp_path, {"a": 3}) as stage:
        generation = await stage.operator.deploy(
            ganged_spec(1, "", str(broken), num_replicas=3, gang={"size": 3}, max_start_failures=3)
        )
        once = await stage.operator.until_deployment(lambda seen: seen.start_failures > 0)
        broken.unlink()
        after = await stage.operator.until_whole(generation)
        failing = [one for one in after.failures if "rank 1" in one.message]

    assert once.start_failures == 1
    assert len(after.failures) == len(failing) <= 2, after.failures
    assert "rank 1 cannot start" in failing[-1].traceback + failing[-1].message


async def test_a_whole_gang_waits_for_room_that_another_leaves(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 2, "b": 2}) as stage:
        await stage.serve(1, num_replicas=4, gang={"size": 2})
        second = ganged.options(
            name="Second", working_dir=str(ROOT), num_replicas=2, gang={"size": 2, "placement": "STRICT_SPREAD"}
        ).bind(1)
        await stage.operator.deploy(build(second, "second"))
        await stage.operator.until(lambda seen: "distinct nodes" in second_of(seen).message)
        async with ControllerClient(stage.cluster.controller_address) as client:
            await client.delete(APPLICATION)
        await stage.operator.until(lambda seen: second_of(seen).state is DeploymentState.HEALTHY)


def second_of(status: ClusterStatus) -> DeploymentStatus:
    return next(one for one in status.applications if one.name == "second").deployments[0]
