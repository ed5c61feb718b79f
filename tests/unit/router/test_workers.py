"""How the workers of a router are looked after, with processes that only pretend."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn, cast

import pytest

from router import workers
from router.config import RouterConfig
from router.workers import Workers
from serve_core.errors import ConfigInvalidError, PortTakenError
from serve_core.runtime.process import Signals
from serve_core.runtime.supervisor import Supervisor
from serve_core.subprocesses import ChildProcess
from tests.unit.launch.test_keeping import Child

CONFIG = RouterConfig(controller="h:1", router_id="front", port=0, http_port=0, workers=2)


class Crew:
    """Two workers in ``folder``, and what was told of them."""

    def __init__(self, folder: Path, *failing: str) -> None:
        self.failing = failing
        self.children: dict[str, Child] = {}
        self.told: list[str] = []
        self.stop = asyncio.Event()
        self.told_more = asyncio.Event()
        self.workers = Workers(CONFIG, folder, self.make, tell=self.tell)

    def make(self, number: int, router_id: str) -> ChildProcess:
        child = self.children[router_id] = Child(len(self.children) + 1, router_id in self.failing)
        child.role = f"worker {number}"
        return cast("ChildProcess", child)

    def tell(self, line: str) -> None:
        self.told.append(line)
        if "is back" in line:
            self.told_more.set()


async def test_each_life_has_a_name_of_its_own_and_all_end_when_told(tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    assert await crew.workers.started(crew.stop)
    async with Supervisor("test") as tasks:
        keeping = tasks.spawn(crew.workers.keep(crew.stop), name="keep")
        crew.children["front-2.1"].ends(-9)
        await crew.told_more.wait()
        assert sorted(crew.children) == ["front-1.1", "front-2.1", "front-2.2"]
        assert crew.workers.pids == [1, 3]
        crew.stop.set()
        await keeping
    await crew.workers.stop()
    assert not any(child.running for child in crew.children.values())
    assert crew.told[0].startswith("the worker 2 ended with status -9")
    assert len(crew.told) == 2, "none is started again once all are to end"


async def test_one_that_does_not_start_keeps_all_from_it(tmp_path: Path) -> None:
    crew = Crew(tmp_path, "front-2.1")
    with pytest.raises(PortTakenError):
        await crew.workers.started(crew.stop)
    await crew.workers.stop()
    assert not any(child.running for child in crew.children.values())


async def test_told_to_stop_meanwhile_they_do_not_serve(tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    crew.stop.set()
    assert not await crew.workers.started(crew.stop)


async def test_one_that_stands_still_is_ended_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOK_S", 0.001)
    monkeypatch.setattr(workers, "SILENT_LOOKS", 3)
    crew = Crew(tmp_path)
    assert await crew.workers.started(crew.stop)
    async with Supervisor("test") as tasks:
        tasks.spawn(crew.workers.keep(crew.stop), name="keep")
        await crew.told_more.wait()
    assert "router worker 1 stands still; ending it by force" in crew.told
    assert await crew.children["front-1.1"].wait() == -9
    await crew.workers.stop()


async def test_without_a_folder_the_cause_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(prefix: str) -> NoReturn:
        raise OSError(f"no room for {prefix}")

    monkeypatch.setattr(workers, "scratch_folder", refused)
    with pytest.raises(ConfigInvalidError, match="no room for serve-core-router-"):
        await workers.serve_workers(CONFIG, (), Signals())
