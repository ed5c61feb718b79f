"""Gangs from a file, by command: counted whole, shown with their ranks, switched on, to another size and off again."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.integration

PATIENCE_S = 60.0


class Operator:
    """Deploys one file in many forms, and looks at what comes of it."""

    def __init__(self, controller: str, path: Path) -> None:
        self._controller = controller
        self._path = path

    async def run(self, *words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "serve_core.cli", *words, "--controller", self._controller),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def deploy(self, options: str, *flags: str) -> tuple[int, str, str]:
        self._path.write_text(
            "applications:\n"
            "  - name: app\n"
            "    deployments:\n"
            f"      - {{name: w, import_path: 'tests.apps.worker:Worker', cpus: 0.1, {options}}}\n"
        )
        return await self.run("deploy", str(self._path), *flags)

    async def ranks(self) -> list[tuple[int, int, str]]:
        """Rank, size and role of every replica, in order; once for each gang."""
        status, out, err = await self.run("status", "app", "-o", "json")
        assert status == 0, err
        replicas: list[dict[str, Any]] = json.loads(out)["applications"][0]["deployments"][0]["replicas"]
        gangs = [one["replica"]["gang"] for one in replicas]
        return sorted((gang.get("rank", 0), gang.get("size", 1), gang.get("role", "")) for gang in gangs)


async def test_gangs_are_switched_on_resized_and_off_by_deploys(tmp_path: Path) -> None:
    async with LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=20.0)) as cluster:
        operator = Operator(cluster.controller_address, tmp_path / "serve.yaml")
        status, _, err = await operator.deploy("num_replicas: 3, gang: {size: 2}")
        assert status == 1
        assert "3 is no multiple of gang.size = 2; the nearest are 2 and 4" in err

        status, _, err = await operator.deploy("num_replicas: 2")
        assert status == 0, err
        pairs = "num_replicas: 4, gang: {size: 2, roles: [prefill, decode], placement: STRICT_PACK}"
        status, out, err = await operator.deploy(pairs, "--dry-run")
        assert status == 0, err
        assert "  gang.size: 1 -> 2 (restarts)" in out.splitlines()
        assert "  starts 4 replicas in 2 gangs of 2 beside what runs, needs 0.4 CPUs: fits" in out.splitlines()

        status, _, err = await operator.deploy(pairs)
        assert status == 0, err
        assert await operator.ranks() == [(0, 2, "prefill")] * 2 + [(1, 2, "decode")] * 2
        _, out, _ = await operator.run("status")
        assert "RANK" in out
        assert "1/2 decode" in out

        status, _, err = await operator.run("scale", "app.w", "3")
        assert (status, err) == (
            1,
            "error: CONFIG_INVALID: num_replicas: 3 is no multiple of gang.size = 2; the nearest are 2 and 4\n",
        )
        assert (await operator.run("scale", "app.w", "2"))[0] == 0

        status, _, err = await operator.deploy("num_replicas: 3, gang: {size: 3, route: LEADER}")
        assert status == 0, err
        assert await operator.ranks() == [(0, 3, ""), (1, 3, ""), (2, 3, "")]
        status, _, err = await operator.deploy("num_replicas: 2")
        assert status == 0, err
        assert await operator.ranks() == [(0, 1, "")] * 2
