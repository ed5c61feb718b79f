"""Ray Serve beside us: its processes, in one of its modes, from an environment of its own (``make bench-ray``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Self

import psutil

from bench.measure.processes import family
from bench.targets.programs import ROOT, Program
from bench.targets.target import Target

END_TIMEOUT_S = 90.0
KINDS = {
    "ray::ProxyActor": "proxy",
    "ray::ServeReplica:echo": "replica",
    "ray::ServeReplica": "trivial",
    "ray::ServeController": "controller",
    "ray::Callers": "caller",
}
"""What Ray's processes call themselves, and what they are here. All others are "rest"."""


class Mode(Enum):
    """How Ray Serve is run: as it comes, or as its documentation says that it is fastest."""

    DEFAULT = "default"
    FASTEST = "fastest"

    @property
    def env(self) -> Mapping[str, str]:
        """What chooses it."""
        if self is Mode.DEFAULT:
            return {}
        return {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


def kind(command: Sequence[str]) -> str:
    """Which of Ray's processes this is, by its command line."""
    title = command[0] if command else ""
    if Path(title).name == "haproxy":
        return "haproxy"
    return next((name for start, name in KINDS.items() if title.startswith(start)), "rest")


def _environment(mode: Mode) -> dict[str, str]:
    # Its actors import the echo's generated code by themselves.
    return {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "bench"))), **mode.env}


class RayServe:
    """A Ray cluster of its own with the echo on Ray Serve, as an async context manager.

    Args:
        mode: How it is run.
        python: The Python that has ``ray[serve]``.
    """

    def __init__(self, mode: Mode, python: Path) -> None:
        self._program = Program("bench.targets.ray_serve", python=str(python), env=_environment(mode))
        self._processes: list[psutil.Process] = []
        self.cold_s = 0.0
        self.announced: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        start = time.perf_counter()
        await self._program.__aenter__()
        self.cold_s = time.perf_counter() - start
        self.announced = json.loads(self._program.first_line)
        return self

    async def __aexit__(self, *_: object) -> None:
        left = [psutil.Process(pid) for pid in family(self._program.pid)]
        with contextlib.suppress(TimeoutError):
            await self._program.finish(END_TIMEOUT_S)
        await self._program.__aexit__()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, left, END_TIMEOUT_S)

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Has it do something: ``ask`` names one of ``bench.targets.ray_serve.Answers``, the rest is for that."""
        return await self._program.ask(question)

    def pids(self) -> dict[str, list[int]]:
        """Its processes now, by kind."""
        found: dict[str, list[int]] = {}
        for pid in family(self._program.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.setdefault(kind(psutil.Process(pid).cmdline()), []).append(pid)
        return found

    def target(self, entrance: str, *kinds: str) -> Target:
        """One of its entrances, ``grpc`` or ``http``, and the processes of these kinds."""
        pids = self.pids()
        return Target(self.announced[entrance], {name: pids[name] for name in (*kinds, "rest") if name in pids})
