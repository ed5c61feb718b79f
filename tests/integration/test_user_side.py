"""The user's side against real processes: values, methods, errors and contexts; and the commands of operators."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import serve_core
from serve_core.errors import ApplicationError, Code, ConstructorFailedError, SlotConsumedError
from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.apps.points import Label, Point, Segment, TooFarError, facade, failing, geometry

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


async def points(*xs: int) -> AsyncIterator[Point]:
    for x in xs:
        yield Point(x, 0)


async def test_values_methods_errors_and_contexts() -> None:
    inner = geometry.bind()
    async with serve_core.run(facade.bind([inner], {"geometry": inner}), name="points", timeout_s=60) as handle:
        assert await handle(Point(2, 3)) == "2,3 [0, 1]"
        remaining = await handle.options(timeout_s=20).remaining()
        assert 0 < remaining < 21  # gRPC rounds a deadline up when it travels

        direct = serve_core.get_handle("points", "Geometry", target=geometry)
        assert await direct.middle(Segment(Point(0, 0), Point(4, 8))) == Point(2, 4)
        assert await direct.label(Point(1, 2)) == Label(text="1,2", score=0.5)
        doubled = await direct.double(np.arange(3, dtype=np.float32))
        assert doubled.dtype == np.float32
        assert doubled.tolist() == [0, 2, 4]
        assert [point async for point in direct.path(2)] == [Point(0, 0), Point(1, 0)]
        assert [step async for step in direct.steps(3)] == [0, 1, 2]
        assert await direct.total(points(1, 2, 3)) == 6
        assert [point.x async for point in direct.shifted(10, points(1, 2))] == [11, 12]

        with pytest.raises(TooFarError, match="too far") as too_far:
            await direct.far()
        assert isinstance(too_far.value, ApplicationError)
        assert "points.py" in too_far.value.remote_traceback
        with pytest.raises(ApplicationError, match="not there") as chosen:
            await direct.chosen()
        assert (chosen.value.code, chosen.value.details["point"]) == (Code.NOT_FOUND, "p1")

        who = await direct.options(request_id="r1", timeout_s=9).who()
        assert (who["deployment"], who["config"], who["request_id"]) == ("Geometry", {"level": 3}, "r1")
        assert 0 < who["remaining"] < 10

        async with direct.choose_replica(timeout_s=60) as selection:
            ticket = str(await selection.ticket())
        assert [step async for step in direct.dispatch(ticket).steps(2)] == [0, 1]
        async with direct.choose_replica(timeout_s=60) as selection:
            assert await direct.dispatch(selection).total(points(4)) == 4
            with pytest.raises(SlotConsumedError):
                await direct.dispatch(selection).far()
    assert psutil.Process().children(recursive=True) == []


async def test_a_constructor_that_raises_is_told_with_its_traceback() -> None:
    with pytest.raises(ConstructorFailedError, match="no disk") as caught:
        async with serve_core.run(failing.bind(), timeout_s=60):
            pass
    assert "points.py" in caught.value.details["traceback"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "serve_core.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


async def test_operators_deploy_scale_delete_and_shut_down(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "applications:\n"
        "  - name: geo\n"
        "    import_path: tests.apps.points:geometry\n"
        "    deployments:\n"
        "      - name: Geometry\n"
        "        num_replicas: 1\n"
        "        cpus: 0.1\n"
    )
    async with LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=20.0)) as cluster:
        controller = ("--controller", cluster.controller_address)
        done = command("deploy", str(path), "--dry-run", *controller)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "valid; nothing was changed")
        assert json.loads(command("status", "-o", "json", *controller).stdout)["applications"] == []

        done = command("deploy", str(path), *controller)
        assert done.returncode == 0, done.stderr
        assert done.stderr.endswith("geo: ready\n")
        done = command("call", "geo", "total", "-", *controller)
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr

        assert command("scale", "geo.Geometry", "2", *controller).returncode == 0
        status = command("status", "geo", "-o", "yaml", *controller).stdout
        assert "numReplicas: 2" in status
        done = command("scale", "geo.Nothing", "2", *controller)
        assert done.returncode == 1
        assert done.stderr.startswith("error: DEPLOYMENT_UNKNOWN: ")
        done = command("status", "nothing", *controller)
        assert (done.returncode, done.stderr.split(": ")[1]) == (1, "DEPLOYMENT_UNKNOWN")

        done = command("delete", "geo", *controller)
        assert (done.returncode, done.stderr) == (0, "geo: deleted\n")
        done = command("delete", "geo", *controller)
        assert done.returncode == 1

        assert command("shutdown", "--yes", *controller).returncode == 0
        assert "controller ended with status 0" in await cluster.broken()
        done = command("status", *controller)
        assert done.returncode == 1
        assert done.stderr.startswith("error: CONTROLLER_UNREACHABLE: ")
