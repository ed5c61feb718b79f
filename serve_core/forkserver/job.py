"""The side of the fork server that was forked: becomes what a new process would be."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from serve_core.forkserver.paths import ImportPaths

_ENV_AREA = slice(47, 49)
"""The fields behind the command of ``/proc/self/stat`` that tell where the environment begins and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a child is to run."""

    arguments: Sequence[str]
    environment: dict[str, str]
    mark: str

    def move_in(self, log: int, folder: int, paths: ImportPaths) -> None:
        """Has its own session, output, working directory, environment and places of import. Called once, in the child."""
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.fchdir(folder)
        os.environ.clear()
        os.environ.update(self.environment)
        # Now nothing uses the old strings any more.
        show_environment(self.environment, self.mark)
        sys.path[:] = paths.of(self.environment, os.getcwd())
        importlib.invalidate_caches()

    def run(self, program: ModuleType) -> None:
        """Runs a module with a function ``main`` as ``python -m`` does."""
        sys.argv[:] = [str(program.__file__), *self.arguments]
        sys.modules["__main__"] = program
        program.main()


def show_environment(environment: Mapping[str, str], first: str) -> None:
    """Makes an environment visible to other processes, as far as there is room for it; the variable ``first`` before others.

    They see what a process was started with, which a forked one has from its parent.
    """
    with open("/proc/self/stat") as stat:
        start, end = (int(field) for field in stat.read().rpartition(")")[2].split()[_ENV_AREA])
    shown = b""
    for name in sorted(environment, key=lambda name: name != first):
        entry = os.fsencode(f"{name}={environment[name]}") + b"\0"
        if len(shown) + len(entry) <= end - start:
            shown += entry
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(shown.ljust(end - start, b"\0"))
