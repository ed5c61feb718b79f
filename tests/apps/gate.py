"""A gate that processes of a test wait at until the test lets them through: what it wants to see lasts as long as it looks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

_MANY = 1000


class Gate:
    """A named pipe, as a context manager: each byte in it lets one through. Leaving it lets all through, also who comes later.

    Args:
        path: Where it is made, for ``wait_at``.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.unlink(self.path)
        self.open()
        os.close(self._pipe)

    def let_through(self, count: int) -> None:
        """Lets so many through, who wait already or will."""
        os.write(self._pipe, b"." * count)

    def open(self) -> None:
        """Lets whoever comes through."""
        self.let_through(_MANY)


def wait_at(path: str) -> None:
    """Waits until one is let through here. At once if there is no gate."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as gate:
        gate.read(1)
