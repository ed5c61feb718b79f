"""What an operator sees of rollouts: the command line against a real cluster."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from serve_core.launch import LocalCluster, LocalClusterConfig

pytestmark = pytest.mark.integration

PATIENCE_S = 60.0

MODULE = """
class Front:
    def __init__(self, version: int, gate: str = "") -> None:
        if version == 3:
            raise OSError("the model of version 3 is missing")
        if gate:
            open(gate).close()  # a named pipe: until somebody opens its other end
        self.version = version

    def reconfigure(self, user_config: dict) -> None:
        self.rate = user_config["rate"]

    def answer(self) -> list[int]:
        return [self.version, self.rate]
"""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Operator:
    """Runs ``serve-core`` in a folder with a module and the files that describe its versions."""

    def __init__(self, folder: Path, cluster: LocalCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        (folder / "shop.py").write_text(MODULE)

    def describe(self, *, rate: int = 1, **kwargs: Any) -> str:
        """Writes a file, and returns its name."""
        front = {
            "name": "Front",
            "import_path": "shop:Front",
            "kwargs": kwargs,
            "user_config": {"rate": rate},
            "num_replicas": 2,
            "cpus": 0.1,
            "max_start_failures": 1,
            "max_surge": "50%",
        }
        name = f"{abs(hash((rate, *kwargs.items())))}.yaml"
        content = {"applications": [{"name": "shop", "deployments": [front]}]}
        (self.folder / name).write_text(yaml.safe_dump(content))
        return name

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Starts a command."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "serve_core.cli",
            *arguments,
            cwd=self.folder,
            env={**os.environ, "SERVE_CORE_CONTROLLER": self.cluster.controller_address},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> Done:
        """Runs a command to its end."""
        process = await self.start(*arguments)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def succeed(self, *arguments: str) -> Done:
        """The same, of what must succeed."""
        done = await self.run(*arguments)
        assert done.status == 0, done.err
        return done

    async def answer(self) -> list[int]:
        """What the deployment answers."""
        router = self.cluster.router_address
        done = await self.succeed("call", "shop", "answer", "--router", router)
        answer: list[int] = json.loads(done.out)
        return answer

    async def events(self) -> list[dict[str, Any]]:
        """What happened."""
        done = await self.succeed("events", "shop.Front", "-o", "json")
        return [json.loads(line) for line in done.out.splitlines()]

    async def deployment(self) -> dict[str, Any]:
        """The deployment's status."""
        done = await self.succeed("status", "shop", "-o", "json")
        found: dict[str, Any] = json.loads(done.out)["applications"][0]["deployments"][0]
        return found


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=20.0)) as cluster:
        one = Operator(tmp_path, cluster)
        await one.succeed("deploy", one.describe(version=1))
        yield one


async def test_a_dry_run_says_what_restarts_and_what_changes_in_place(operator: Operator) -> None:
    first = (await operator.deployment())["revision"]
    done = await operator.succeed("deploy", operator.describe(version=2, rate=2), "--dry-run")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"shop.Front: restart, revision {first} -> ")
    assert "  init_arguments: [[], {'version': 1}] -> [[], {'version': 2}] (restarts)" in lines
    assert "  user_config: {'rate': 1} -> {'rate': 2} (in place)" in lines
    assert lines[-1] == "  starts 1 replica beside what runs, needs 0.1 CPUs: fits"
    done = await operator.succeed("deploy", operator.describe(version=1, rate=2), "--dry-run")
    assert done.out.splitlines() == [
        f"shop.Front: reconfigure in place, revision {first} stays",
        "  user_config: {'rate': 1} -> {'rate': 2} (in place)",
    ]
    assert (await operator.succeed("deploy", operator.describe(version=1), "--dry-run")).out == (
        "shop.Front: unchanged\n"
    )
    assert await operator.answer() == [1, 1]
    await operator.succeed("deploy", operator.describe(version=1, rate=2))
    assert (await operator.deployment())["revision"] == first
    assert await operator.answer() == [1, 2]


async def test_rollout_status_blocks_until_the_rollout_is_complete(operator: Operator) -> None:
    gate = operator.folder / "gate"
    os.mkfifo(gate)
    first = (await operator.deployment())["revision"]
    second = operator.describe(version=2, gate=str(gate))
    await operator.succeed("deploy", second, "--no-wait", "--expect", "1")
    following = await operator.start("rollout", "status", "shop.Front", "--timeout", str(PATIENCE_S))
    assert following.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        told = (await following.stderr.readline()).decode()
        while "0 of 2 replicas of revision" not in told:
            told = (await following.stderr.readline()).decode()
        opened = os.open(gate, os.O_RDWR)
        told = (await following.stderr.read()).decode()
        await following.wait()
    os.close(opened)
    assert following.returncode == 0, told
    assert "complete: 2 of 2 replicas of revision" in told.splitlines()[-1]
    assert await operator.answer() == [2, 1]
    stale = await operator.run("deploy", operator.describe(version=1), "--expect", "1")
    assert stale.status == 1
    assert stale.err.startswith("error: REVISION_CONFLICT: application 'shop' is at generation 2, not 1")
    history = (await operator.succeed("rollout", "history", "shop.Front")).out.splitlines()
    assert [line.split()[0] for line in history][1:] == [first]
    assert "target, last good" in history[0]
    await operator.succeed("rollout", "undo", "shop.Front", "--revision", first)
    await operator.succeed("rollout", "status", "shop.Front", "--timeout", str(PATIENCE_S))
    assert await operator.answer() == [1, 1]


async def test_a_failing_revision_is_rolled_back_and_every_command_says_so(operator: Operator) -> None:
    good = (await operator.deployment())["revision"]
    broken = operator.describe(version=3)
    done = await operator.run("deploy", broken)
    _assert_says_what_failed(done, good)
    bad = (await operator.deployment())["rollout"]["failedRevision"]
    assert f"revision {bad} " in done.err
    done = await operator.run("rollout", "status", "shop.Front", "--timeout", str(PATIENCE_S))
    _assert_says_what_failed(done, good)
    assert await operator.answer() == [1, 1]
    happened = {event["reason"]: event for event in await operator.events()}
    assert bad in happened["RolloutFailed"]["message"]
    assert "the model of version 3 is missing" in happened["RolloutFailed"]["message"]
    assert happened["RolloutFailed"]["warning"]
    assert good in happened["RolledBack"]["message"]
    shown = await operator.deployment()
    assert (shown["revision"], shown["lastGoodRevision"]) == (good, good)
    assert all(one["inRotation"] and one["replica"]["revision"] == good for one in shown["replicas"])
    # What failed is tried again when it is deployed again, and what serves is no error when it is.
    assert (await operator.run("deploy", broken)).status == 1
    await operator.succeed("deploy", operator.describe(version=1))
    table = (await operator.succeed("status")).out
    assert "rollout rolled back: revision" in table
    assert "Available" in table


def _assert_says_what_failed(done: Done, good: str) -> None:
    assert done.status == 1, done.err
    assert 'raise OSError("the model of version 3 is missing")' in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("error: CONSTRUCTOR_FAILED: revision ")
    assert "failed and was rolled back" in last
    assert last.endswith(f"revision {good} with 2 of 2 replicas serves now")
