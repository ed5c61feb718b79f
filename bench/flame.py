"""Where the time of a router and of a replica goes, as flame graphs: sampled with py-spy while h2load calls through the router."""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import click

from bench.load import h2load
from bench.load.h2load import Request
from bench.load.messages import ECHO, echo_request
from bench.report.flame import stacks, svg, tree
from bench.targets.servers import Servers
from bench.targets.target import Target

CONCURRENCY = 64
ECHO_BYTES = 100
MORE_S = 3.0
"""How much longer than the sampling the load lasts, which takes a while to begin."""

SAMPLES_S = 250
THREAD = "MainThread"
ROOT_FUNCTION = "Runner.run"
"""Where asyncio begins: what is before it is the same in every stack."""


def sampler() -> str | None:
    """Where py-spy is: in this environment, or in the system's."""
    return shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")


async def sampled(py_spy: str, pid: int, folder: Path, seconds: int) -> str:
    """How often which stack was seen in a process."""
    out = folder / f"{pid}.stacks"
    command = [
        *(py_spy, "record", "--format", "raw", "--threads", "--function", "--rate", str(SAMPLES_S)),
        *("--duration", str(seconds), "--output", str(out), "--pid", str(pid)),
    ]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    if await process.wait():
        raise click.ClickException(f"py-spy could not sample process {pid}; it needs the right to trace processes")
    return await asyncio.to_thread(out.read_text)


async def draw(py_spy: str, folder: Path, seconds: int) -> None:
    """Draws ``router.svg`` and ``replica.svg``, one after the other: two samplers would take the time of what they sample."""
    with tempfile.TemporaryDirectory(prefix="serve-core-flame-") as temporary:
        async with Servers(Path(temporary)) as servers:
            router = (await servers.cluster()).router
            for name, (pid,) in router.processes.items():
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(load(router, seconds + MORE_S, Path(temporary)))
                    sampling = tasks.create_task(sampled(py_spy, pid, Path(temporary), seconds))
                root = tree(stacks(sampling.result(), thread=THREAD, root=ROOT_FUNCTION), "event loop")
                picture = svg(
                    root, f"{name}: its event loop's thread, {CONCURRENCY} concurrent echoes of {ECHO_BYTES} bytes"
                )
                await asyncio.to_thread((folder / f"{name}.svg").write_text, picture)
                print(f"wrote {folder / name}.svg", file=sys.stderr)


async def load(target: Target, seconds: float, folder: Path) -> None:
    """Calls the echo for a while."""
    request = Request.grpc(ECHO, echo_request(ECHO_BYTES))
    await h2load.run(target.address, request, concurrency=CONCURRENCY, seconds=seconds, folder=folder)


@click.command(help=__doc__)
@click.option("--seconds", default=5, show_default=True, help="How long each process is sampled.")
@click.option(
    "--out", default="docs/flame", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="A folder."
)
def main(seconds: int, out: Path) -> None:
    py_spy = sampler()
    if py_spy is None or not h2load.available():
        raise click.ClickException("py-spy or h2load is not installed: run 'make bench-tools'")
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(py_spy, out, seconds))


if __name__ == "__main__":
    main()
