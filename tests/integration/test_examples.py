"""The examples do what they say, as a newcomer would run them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from serve_core.launch import LocalCluster, LocalClusterConfig

pytestmark = pytest.mark.integration
EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 100.0


async def output_of(*command: str, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_main_job() -> None:
    shown = await output_of(sys.executable, "digits/main.py", cwd=EXAMPLES)
    accuracy = re.search(r"accuracy\s+([\d.]+)% of (\d+) pictures", shown)
    assert accuracy is not None, shown
    assert float(accuracy[1]) > 97
    assert int(accuracy[2]) == 899
    assert re.search(r"errors\s+0$", shown, re.MULTILINE)
    for expected in ("serve-core controller", "serve-core router", "p99", "reserved", "dispatched", "drained"):
        assert expected in shown
    assert shown.count("serve-core replica") == 4


async def test_a_gang_that_loses_a_member() -> None:
    shown = await output_of(sys.executable, "gang/main.py", cwd=EXAMPLES)
    members = re.findall(r"rank (\d) of 4, epoch (\d): process (\d+) on node (left|right)", shown)
    before, after = members[:4], members[4:]
    assert [(rank, epoch) for rank, epoch, _, _ in members] == [(str(n), "1") for n in range(4)] + [
        (str(n), "2") for n in range(4)
    ]
    assert [old[2] == new[2] for old, new in zip(before, after, strict=True)] == [True, True, False, True]
    assert sorted(node for *_, node in before) == ["left", "left", "right", "right"]
    assert re.search(r"errors\s+0$", shown, re.MULTILINE)
    assert re.search(r"answers again after [\d.]+ s", shown)
    accuracy = re.search(r"accuracy\s+([\d.]+)%", shown)
    assert accuracy is not None, shown
    assert float(accuracy[1]) > 93


async def test_a_shared_cache_that_is_killed() -> None:
    shown = await output_of(sys.executable, "shared_cache/main.py", cwd=EXAMPLES)
    rates = re.findall(r"(\d+)% of the", shown)
    assert len(rates) == 4
    assert int(rates[0]) < 50
    assert rates[2:] == ["100", "100"]
    lost = re.findall(r"lost +(\d+) of (\d+) entries", shown)
    assert int(lost[0][0]) <= int(lost[0][1]) <= 899
    assert lost[1] == ("0", "899")
    assert "restored    899 of 899 entries" in shown
    assert "ended by signal 9" in shown
    assert re.findall(r"incarnation (\d) answers after [\d.]+ s", shown) == ["2", "3"]
    assert "told        a replica heard of the incarnations [2, 3]" in shown
    assert re.search(r"requests +\d+, errors 0$", shown, re.MULTILINE)


async def test_a_client_in_another_language() -> None:
    async with LocalCluster(LocalClusterConfig(cpus=2.0)) as cluster:
        deploy = ("deploy", "serve.yaml", "--controller", cluster.controller_address)
        await output_of(sys.executable, "-m", "serve_core.cli", *deploy, cwd=EXAMPLES / "digits")
        shown = json.loads(await output_of("node", "client.mjs", cluster.router_address, cwd=EXAMPLES / "node"))
    assert shown["throughRouter"] == shown["streamed"] == shown["labels"]
    assert shown["direct"] == {"digit": shown["labels"][0], "replicaId": shown["reservedReplica"]}
    assert shown["again"]["code"] == "FAILED_PRECONDITION"
    assert (shown["released"], shown["releasedTwice"]) == (True, False)
    assert shown["afterRelease"]["code"] == "FAILED_PRECONDITION"
