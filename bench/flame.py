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
from bench.targets.servers import Servers

CONCURRENCY = 64
ECHO_BYTES = 100
MORE_S = 3.0
"""How much longer than the sampling the load lasts, which takes a while to begin."""

SAMPLES_S = 250


def sampler() -> str | None:
    """Where py-spy is: in this environment, or in the system's."""
    return shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")


async def record(py_spy: str, pid: int, out: Path, seconds: int) -> None:
    """Samples a process into an SVG picture, one tower a thread: the event loop's is MainThread, the others mostly wait."""
    command = [
        *(
            py_spy,
            "record",
            "--format",
            "flamegraph",
            "--threads",
            "--function",
            "--rate",
            str(SAMPLES_S),
            "--duration",
            str(seconds),
        ),
        *("--output", str(out), "--pid", str(pid)),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise click.ClickException(f"py-spy could not sample process {pid}; it needs the right to trace processes")
    head(out, " ".join(command))


def head(picture: Path, command: str) -> None:
    """Gives a picture a heading of ours: py-spy takes its own command line for that."""
    picture.write_text(picture.read_text().replace(command, f"{picture.stem}, {CONCURRENCY} concurrent echoes"))


async def draw(py_spy: str, folder: Path, seconds: int) -> None:
    """Draws ``router.svg`` and ``replica.svg``, one after the other: two samplers would take the time of what they sample."""
    with tempfile.TemporaryDirectory(prefix="serve-core-flame-") as temporary:
        async with Servers(Path(temporary)) as servers:
            router = (await servers.cluster()).router
            for name, (pid,) in router.processes.items():
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(record(py_spy, pid, folder / f"{name}.svg", seconds))
                    tasks.create_task(
                        h2load.run(
                            router.address,
                            Request.grpc(ECHO, echo_request(ECHO_BYTES)),
                            concurrency=CONCURRENCY,
                            seconds=seconds + MORE_S,
                            folder=Path(temporary),
                        )
                    )
                print(f"wrote {folder / name}.svg", file=sys.stderr)


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
