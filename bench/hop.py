"""What a hop costs: unary echo of 100 bytes, each variant in turn with a bare grpc.aio server in the same run.

Prints, for each number of concurrent calls, every variant's throughput as a ratio to the bare server's, its latency, and
the CPU time that each process spent per request.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import psutil

import serve_core
from echo_app import app
from programs import Program
from serve_core.launch import LocalCluster, LocalClusterConfig

HERE = Path(__file__).parent
VARIANTS = ("bare", "router", "embedded", "reserve")
TITLES = {
    "bare": "bare grpc.aio server",
    "router": "through the router",
    "embedded": "embedded router",
    "reserve": "reserve + dispatch",
}


class Bench:
    """The servers, one load generator per variant, and the processes whose CPU time counts for it."""

    def __init__(self, generators: dict[str, Program], servers: dict[str, dict[str, psutil.Process]]) -> None:
        self._generators = generators
        self._servers = servers

    async def measure(self, variant: str, concurrency: int, seconds: float) -> dict[str, Any]:
        """One measurement: requests a second, latencies, and CPU microseconds per request of each process."""
        servers = self._servers[variant]
        before = {name: cpu_s(process) for name, process in servers.items()}
        result = json.loads(await self._generators[variant].ask(f"{concurrency} {seconds}"))
        spent = {name: cpu_s(process) - before[name] for name, process in servers.items()}
        spent["caller"] = result["cpu_s"]
        return {
            "req_s": result["requests"] / result["seconds"],
            "p50_ms": result["p50_ms"],
            "p99_ms": result["p99_ms"],
            "cpu_us": {name: seconds_ / result["requests"] * 1e6 for name, seconds_ in spent.items()},
        }


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def compare(concurrencies: list[int], seconds: float, rounds: int) -> dict[int, dict[str, Any]]:
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(Program("bare_server.py"))
        cluster = await stack.enter_async_context(LocalCluster(LocalClusterConfig(cpus=2.0)))
        deployed = app.deployment.options(working_dir=str(HERE)).bind()
        await serve_core.deploy(deployed, name="echo", controller=cluster.controller_address)
        status = await serve_core.status("echo", controller=cluster.controller_address)
        router = psutil.Process(cluster.router_pid)
        replica = psutil.Process(status.applications[0].deployments[0].replicas[0].pid)
        addresses = {"bare": bare.first_line, "router": cluster.router_address}
        generators = {
            variant: await stack.enter_async_context(
                Program("load.py", variant, addresses.get(variant, cluster.controller_address))
            )
            for variant in VARIANTS
        }
        bench = Bench(
            generators,
            {
                "bare": {"server": psutil.Process(bare.pid)},
                "router": {"router": router, "replica": replica},
                "embedded": {"replica": replica},
                "reserve": {"replica": replica},
            },
        )
        results: dict[int, dict[str, Any]] = {}
        for concurrency in concurrencies:
            taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for _ in range(rounds):
                for variant in VARIANTS:
                    taken[variant].append(await bench.measure(variant, concurrency, seconds))
            results[concurrency] = {variant: summary(taken[variant], taken["bare"]) for variant in VARIANTS}
            if sys.stdout.isatty() or concurrency != concurrencies[-1]:
                print(f"measured {concurrency} concurrent", file=sys.stderr)
        return results


def summary(taken: list[dict[str, Any]], bare: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; the ratio is taken round by round."""
    median = statistics.median
    return {
        "ratio": median(one["req_s"] / base["req_s"] for one, base in zip(taken, bare, strict=True)),
        **{key: median(one[key] for one in taken) for key in ("req_s", "p50_ms", "p99_ms")},
        "cpu_us": {name: median(one["cpu_us"][name] for one in taken) for name in taken[0]["cpu_us"]},
    }


def show(results: dict[int, dict[str, Any]]) -> None:
    print(f"{'concurrent':>10}  {'variant':<22}{'ratio':>6}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}  CPU us per request")
    for concurrency, variants in results.items():
        for variant, one in variants.items():
            cpu = ", ".join(f"{name} {value:.0f}" for name, value in one["cpu_us"].items())
            print(
                f"{concurrency:>10}  {TITLES[variant]:<22}{one['ratio']:>6.2f}{one['req_s']:>9.0f}"
                f"{one['p50_ms']:>9.2f}{one['p99_ms']:>9.2f}  {cpu}"
            )


@click.command(help=__doc__)
@click.option("--concurrency", default="1,16,64,256", show_default=True, help="Concurrent calls, by comma.")
@click.option("--seconds", default=1.0, show_default=True, help="Time of one measurement.")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each variant, in turn.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def main(concurrency: str, seconds: float, rounds: int, output: str) -> None:
    results = asyncio.run(compare([int(one) for one in concurrency.split(",")], seconds, rounds))
    if output == "json":
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
