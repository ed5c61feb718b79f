"""``python -m serve_core.forkserver PROGRAM DESCRIPTOR ROOM``: forks into a program; started by the controller's backend.

It runs in the root directory, so that its own place of import is none of the user's. ``ROOM`` is for the titles of the
children, which have no more room for them than its own command line.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from types import ModuleType

import setproctitle

from serve_core.forkserver.paths import ImportPaths
from serve_core.forkserver.server import ForkServer


def main() -> None:
    """Runs the process, and in each child the program."""
    name, descriptor = sys.argv[1:3]
    if not sys.flags.safe_path:
        sys.path.pop(0)
    paths = ImportPaths(sys.path, os.environ)
    program = _program(name)
    # What it does not import until it runs.
    getattr(program, "preload", lambda: None)()
    # Its children are found by marks in their environment, which a new title would otherwise wipe out for the onlooker.
    os.putenv("SPT_NOENV", "1")
    setproctitle.setproctitle(f"serve-core forkserver {name}")
    job = ForkServer(socket.socket(fileno=int(descriptor)), paths).serve()
    if job is not None:
        job.run(program)


def _program(name: str) -> ModuleType:
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module


if __name__ == "__main__":
    main()
