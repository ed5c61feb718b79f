"""Where every task and thread of this process is, on request."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import sys
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, TextIO


def on_signal(number: signal.Signals, loop: asyncio.AbstractEventLoop, *, out: TextIO | None = None) -> None:
    """Write the stacks of all tasks of a loop, and of all threads, when a signal comes.

    The threads' come at once, even when something blocks the loop; the tasks' follow when the loop goes on.
    """
    target = sys.stderr if out is None else out

    def dump() -> None:
        target.write(describe_tasks(loop))
        target.flush()

    def ask(_: int, __: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(dump)  # not here, which may be in the middle of another write

    signal.signal(number, ask)
    faulthandler.register(number, file=target, all_threads=True, chain=True)


def describe_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """One paragraph for each task of a loop: its name, and the lines it waits in, the innermost last."""
    paragraphs = []
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        lines = [f"Task {task.get_name()}:", *(f"  {line}" for line in _waits_in(task.get_coro()))]
        paragraphs.append("\n".join(lines) + "\n")
    return f"\n{len(paragraphs)} tasks\n" + "\n".join(paragraphs)


def _waits_in(awaitable: Any) -> list[str]:
    lines = []
    while awaitable is not None:
        code, frame, awaitable = _step(awaitable)
        if code is not None:
            line = frame.f_lineno if frame is not None else code.co_firstlineno
            lines.append(f"{code.co_filename}:{line} in {code.co_qualname}")
    return lines


def _step(awaitable: Any) -> tuple[CodeType | None, FrameType | None, Any]:
    match awaitable:
        case CoroutineType():
            return awaitable.cr_code, awaitable.cr_frame, awaitable.cr_await
        case GeneratorType():
            return awaitable.gi_code, awaitable.gi_frame, awaitable.gi_yieldfrom
        case AsyncGeneratorType():
            return awaitable.ag_code, awaitable.ag_frame, awaitable.ag_await
        case _:
            return None, None, getattr(awaitable, "cr_await", None)
