"""A process that is kept, with children that only pretend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from serve_core.errors import PortTakenError
from serve_core.keeping import KeptProcess
from serve_core.model.backoff import Backoff
from serve_core.model.restarts import RestartPolicy
from serve_core.runtime.supervisor import Supervisor
from serve_core.subprocesses import ChildProcess

AT_ONCE = Backoff(initial_s=1e-6, factor=1.0, max_s=1e-6, jitter=0.0)
POLICY = RestartPolicy(restarts_max=2, backoff=AT_ONCE)


class Child:
    role = "router"

    def __init__(self, pid: int, fails_to_start: bool) -> None:
        self.pid = pid
        self.fails_to_start = fails_to_start
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        return not self.status.done()

    async def start(self, timeout_s: float) -> dict[str, Any]:
        if self.fails_to_start:
            raise PortTakenError("the port is taken")
        return {"pid": self.pid}

    async def wait(self) -> int:
        return await asyncio.shield(self.status)

    async def terminate(self, timeout_s: float) -> bool:
        self.ends(0)
        return True

    def send_kill(self) -> None:
        self.ends(-9)

    def ends(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)

    def log_tail(self) -> str:
        return "first\nlast words\n"


class Family:
    """The children in the order of their starts, and what was told of them."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.told: list[str] = []
        self.failing: set[int] = set()

    def make(self) -> ChildProcess:
        pid = len(self.children) + 1
        self.children.append(Child(pid, pid in self.failing))
        return cast("ChildProcess", self.children[-1])


@asynccontextmanager
async def kept(family: Family, **options: Any) -> AsyncIterator[KeptProcess]:
    arguments: dict[str, Any] = {"start_timeout_s": 1.0, "policy": POLICY, "tell": family.told.append} | options
    process = KeptProcess(family.make, **arguments)
    assert await process.start() == {"pid": 1}
    async with Supervisor("test") as tasks:
        tasks.spawn(process.keep(), name="keep")
        yield process


@pytest.fixture
def family() -> Family:
    return Family()


async def test_one_that_ends_is_started_again(family: Family) -> None:
    async with kept(family) as process:
        await process.kill()
        await process.back()
        assert process.pid == 2
    assert family.told == [
        "the router ended with status -9: last words; starting it again",
        "the router is back, pid 2",
    ]


async def test_a_start_that_fails_is_tried_again(family: Family) -> None:
    family.failing = {2}
    async with kept(family) as process:
        await process.kill()
        await process.back()
        assert process.pid == 3
    assert family.told[1] == "the router did not start again: the port is taken; starting it again"


async def test_too_many_ends_are_the_end(family: Family) -> None:
    family.failing = {2, 3}
    async with kept(family) as process:
        await process.kill()
        assert await process.given_up() == "the router did not start again: the port is taken"
    assert len(family.children) == 3


async def test_without_a_policy_the_first_end_is_the_last(family: Family) -> None:
    async with kept(family, policy=None) as process:
        family.children[0].ends(3)
        assert await process.given_up() == "the router ended with status 3: last words"
    assert family.told == []


async def test_one_that_ends_as_it_should_is_not_started_again(family: Family) -> None:
    async with kept(family, final=frozenset((0,))) as process:
        family.children[0].ends(0)
        assert "status 0" in await process.given_up()
    assert len(family.children) == 1


async def test_a_replaced_one_ends_without_a_word_and_its_successor_is_kept(family: Family) -> None:
    async with kept(family) as process:
        await process.replace(1.0)
        assert (process.pid, family.children[0].status.result()) == (2, 0)
        await process.kill()
        await process.back()
        assert process.pid == 3
    assert len(family.told) == 2


async def test_a_successor_that_cannot_start_changes_nothing(family: Family) -> None:
    family.failing = {2}
    async with kept(family) as process:
        with pytest.raises(PortTakenError):
            await process.replace(1.0)
        assert process.pid == 1
        assert not family.children[0].status.done()
