"""Processes that were started here, whichever way."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to start: ``working_dir`` is absolute or empty, and empty means ours; output is appended to ``log_path``."""

    process_id: str
    command: Sequence[str]
    environment: Mapping[str, str]
    working_dir: str
    log_path: Path


class Child(Protocol):
    """A process that keeps its process id until ``exit_code`` was asked for."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def exit_code(self) -> int | None:
        """How it ended, once it has: negative for a signal, None when it cannot be known. Gives its process id back."""

    def let_go(self) -> None:
        """It goes on without us."""


class SpawnedChild:
    """A process of its own from its first instruction on.

    Raises:
        OSError: The program or its working directory cannot be used.
    """

    def __init__(self, launch: Launch) -> None:
        # Popen, unlike a loop's own way on uvloop, runs no library's fork handlers.
        with launch.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=launch.working_dir or None,
                env=launch.environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """See ``Child``."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """See ``Child``."""
        return self._popen.wait()

    def let_go(self) -> None:
        """See ``Child``."""
        # On purpose: said like this, Popen does not warn about it.
        self._popen.returncode = 0
