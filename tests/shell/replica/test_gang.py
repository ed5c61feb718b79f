"""A member of a gang: it waits for the others, meets them, is told when they change, and is called by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve_core.errors import StartTimedOutError
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import GangId
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import encode_duration
from tests.shell.replica.gang_app import (
    NOBODY,
    SOURCE,
    acts_on,
    address_of,
    app_of,
    gang_call,
    join,
    leader,
    member,
    roster_of,
    send,
    until_begun,
)
from tests.shell.replica.support import WAIT_S, attached, refused, request, spec_of


def imported(tmp_path: Path) -> bool:
    return any(tmp_path.glob("*.imported"))


async def test_user_code_waits_for_the_roster_and_finds_what_launchers_set(tmp_path: Path) -> None:
    async with member(app_of(tmp_path), 0) as running:
        await running.controller.until(lambda controller: controller.reports[-1].rendezvous_port)
        report = running.controller.reports[-1]
        assert (report.gang_epoch, report.phase) == (0, ReplicaPhase.STARTING)
        assert not imported(tmp_path)
        assert running.environ == {}
        send(running, roster_of(address_of(running), NOBODY, port=report.rendezvous_port))
        report = await running.controller.phase(ReplicaPhase.READY)
        assert report.gang_epoch == 1
        assert running.environ == {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(report.rendezvous_port),
        }
        assert await running.call("tell") == [
            1, 0, 2, "prefill", True, address_of(running), 0, "127.0.0.1", True, 1,
        ]  # fmt: skip


async def test_only_the_leader_keeps_a_port_free(tmp_path: Path) -> None:
    async with member(app_of(tmp_path), 1) as running:
        send(running, roster_of(NOBODY, address_of(running)))
        report = await running.controller.phase(ReplicaPhase.READY)
        assert report.rendezvous_port == 0
        assert (await running.call("tell"))[1:5] == [1, 2, "decode", False]


async def test_a_gang_that_never_comes_together_is_a_failed_start(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, gang=GangPolicy(size=2, start_deadline_s=0.2)), 0) as running:
        with pytest.raises(StartTimedOutError, match=r"the list of the gang's members had not come after 0\.2 s"):
            await running.task
        assert not imported(tmp_path)


async def test_a_replica_of_its_own_is_a_gang_of_one(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE)) as running:
        report = await running.controller.phase(ReplicaPhase.READY)
        assert (report.gang_epoch, report.rendezvous_port) == (1, 0)
        assert running.environ == {}
        told = await running.call("tell")
        assert told == [1, 0, 1, "", True, address_of(running), 0, "127.0.0.1", False, 1]
        await running.call("meet", "all", 5.0)
        assert await running.call("ask", 0, "double", 4) == 8


async def test_rosters_of_others_and_older_ones_change_nothing(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        roster = roster_of(address_of(running), NOBODY, epoch=5)
        await running.call("open")
        send(running, roster)
        await acts_on(running, 5)
        send(running, replace(roster, epoch=4))
        send(running, replace(roster, epoch=6, gang_id=GangId("app.dep.g2")))
        send(running, replace(roster, epoch=6, members=roster.members[:1]))
        send(running, replace(roster, epoch=6, members=roster.members[::-1]))
        send(running, replace(roster, epoch=7))
        await acts_on(running, 7)
        assert await running.call("told") == [5, 7]


async def test_user_code_is_told_of_new_members_before_the_controller_hears_that_it_acts_on_them(
    tmp_path: Path,
) -> None:
    async with leader(tmp_path) as running:
        roster = roster_of(address_of(running), NOBODY, epoch=2, port=29501)
        send(running, roster)
        while (await running.call("tell"))[0] == 1:
            pass
        assert running.environ["MASTER_PORT"] == "29501"
        assert running.controller.reports[-1].gang_epoch == 1
        await running.call("open")
        report = await acts_on(running, 2)
        assert report.healthy
        assert await running.call("told") == [2]
        assert (await running.call("tell"))[-1] == 2


async def test_a_member_that_cannot_do_with_the_others_is_ill(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        await running.call("open")
        send(running, roster_of(address_of(running), NOBODY, epoch=13))
        await running.controller.until(lambda controller: not controller.reports[-1].healthy)
        report = running.controller.reports[-1]
        assert report.gang_epoch == 1
        assert report.failure is not None
        assert "on_gang_changed()" in report.failure.message
        assert "cannot do without rank 1" in report.failure.traceback


async def test_a_drained_member_works_for_its_gang_until_it_is_released(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        drain = controller_pb2.DrainCommand(budget=encode_duration(WAIT_S), hold=True)
        running.controller.send(drain=drain)
        await running.controller.until(lambda controller: controller.reports[-1].drained)
        assert (await refused(running.stub.Dispatch(request("double", 1)))).reason == "DRAINING"
        await running.stub.Dispatch(gang_call("double", 1))
        answer = await running.stub.JoinBarrier(join(timeout_s=0.01), timeout=WAIT_S)
        assert list(answer.missing_ranks) == [0]
        background = running.stub.Dispatch(gang_call("wait"))
        await until_begun(running, 1)
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(WAIT_S)))
        assert (await refused(background)).reason == "REPLICA_DIED"
        assert await running.task == 0
