"""Actors from a file, by command: deployed, listed, asked for their state, changed and removed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import serve_core
from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.integration.test_gang_cli import Operator

pytestmark = pytest.mark.integration

TALLY = (
    "{name: tally, import_path: 'tests.apps.actors:Tally', args: [7], cpus: 0.1, env: {WHO: actor}, "
    "on_failure: RESTART_FROM_SNAPSHOT, snapshot_interval_s: 60}"
)


def file_of(path: Path, actors: str) -> str:
    path.write_text(
        "applications:\n"
        "  - name: app\n"
        "    deployments:\n"
        "      - name: Counting\n"
        "        import_path: 'tests.apps.actors:Counting'\n"
        "        cpus: 0.1\n"
        f"        actors: [{actors}]\n"
    )
    return str(path)


async def test_actors_are_deployed_listed_asked_and_removed_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    async with LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=20.0)) as cluster:
        operator = Operator(cluster.controller_address, tmp_path / "unused.yaml")
        path = tmp_path / "serve.yaml"
        status, _, err = await operator.run("deploy", file_of(path, TALLY))
        assert status == 0, err
        handle = serve_core.get_handle("app", controller=cluster.controller_address)
        about = await handle.actor()
        assert (about["version"], about["incarnation"]) == (7, 1)
        for _ in range(3):
            await handle.add()

        status, out, err = await operator.run("actor", "snapshot", "app", "tally")
        assert status == 0, err
        assert "of incarnation 1 of actor 'tally' are stored" in out + err
        status, out, _ = await operator.run("actor", "list", "app")
        assert status == 0
        assert "app.Counting/tally" in out
        status, _, err = await operator.run("actor", "snapshot", "app", "tree")
        assert status == 1
        assert "ACTOR_UNKNOWN" in err
        assert "it has: tally" in err

        os.kill(about["pid"], signal.SIGKILL)
        assert await handle.get() == 3
        status, out, _ = await operator.run("events", "app")
        assert status == 0
        assert "ActorLost" in out

        status, _, err = await operator.run("deploy", file_of(path, TALLY.replace("tally", "other", 1)))
        assert status == 1
        assert "has no actor 'tally'; it has: other" in err
        assert await handle.get() == 3
        status, _, err = await operator.run("delete", "app")
        assert status == 0, err
        await serve_core.close(cluster.controller_address)
