"""Counts the lines that run: what something costs, on any machine and however busy that is."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Lines:
    """How many ran so far."""

    count: int = 0


@contextmanager
def counting_lines(where: str) -> Iterator[Lines]:
    """Counts the lines of files whose path has ``where`` in it, comprehensions' turns included, while the block runs."""
    lines = Lines()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if where not in frame.f_code.co_filename:
            return None
        lines.count += 1
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    # What an earlier test left may end when it is collected, and is none of what is counted.
    gc.disable()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
