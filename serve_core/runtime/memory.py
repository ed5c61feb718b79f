"""Has the C library keep what large messages took, for the next ones, and give it back once there are none.

By default glibc gives 10 MiB back to the system each time that they are freed, and the system fills them with zeros, page by
page, each time that they are taken: that is most of what a large message costs a process.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Mapping
from typing import Any

KEPT_BYTES = 64 * 1024 * 1024
"""Free memory that is kept."""

HEAP_BYTES = 32 * 1024 * 1024
"""What is larger is taken from the system, and given back, by itself. glibc allows no more."""

WORTH_BYTES = 16 * 1024 * 1024
"""Less than this stays."""

LOOK_S = 10.0
"""Seconds between looks at what is kept: it goes when it was found twice."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


class _Info(ctypes.Structure):
    """``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


class Kept:
    """What this process keeps.

    Args:
        free_bytes: Says how much of it could be given back.
        give_back: Gives it back.
    """

    def __init__(self, free_bytes: Callable[[], int], give_back: Callable[[], None]) -> None:
        self._free_bytes = free_bytes
        self._give_back = give_back
        self._found = False

    def look(self) -> None:
        """Gives back what was worth it at the last look too."""
        worth = self._free_bytes() >= WORTH_BYTES
        if worth and self._found:
            self._give_back()
        self._found = worth and not self._found

    def look_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Looks every ``LOOK_S`` from now on, as long as the loop runs."""
        self.look()
        loop.call_later(LOOK_S, self.look_on, loop)


def keep(environ: Mapping[str, str]) -> Kept | None:
    """Keeps freed memory from now on. None where the C library is another one, or ``environ`` says how to do it."""
    if any(name in environ for name in _SET_BY_USER):
        return None
    library: Any = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("mallopt", "mallinfo2", "malloc_trim")):
        return None
    library.mallopt(_MMAP_THRESHOLD, HEAP_BYTES)
    library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    library.mallinfo2.restype = _Info
    return Kept(lambda: int(library.mallinfo2().keepcost), lambda: library.malloc_trim(0))
