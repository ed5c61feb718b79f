"""The skeleton of every process: event loop, name, signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import setproctitle
import uvloop

from serve_core.errors import ServeError
from serve_core.runtime import log, memory, stacks

EXIT_FAILED = 1
"""The exit status of a process that could not start, or that failed."""

EXIT_FORCED = 70
"""The exit status of a process that a second signal, or the end of the process it belongs to, ended at once."""

LINGER_S = 2.0
"""How long threads and exit handlers may take once the process has decided to end."""

FILES_MAX = 65_536
"""How many files and connections a process may have open, where the system's hard limit allows that."""

_READY = "ready"
_log = log.get_logger(__name__)


@dataclass(slots=True)
class Signals:
    """What the system asked of this process."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first SIGTERM or SIGINT: finish what there is, then return. A second one ends the process at once."""


def run_process(
    main: Callable[[Signals], Awaitable[int]],
    *,
    role: str,
    title: str = "",
    log_format: str = "auto",
    log_level: str = "info",
    forced_by_signals: bool = True,
    **log_context: str,
) -> NoReturn:
    """Run ``main`` on a uvloop event loop until it returns, and exit with what it returned.

    A ``ServeError`` from it becomes one line on stderr, ``error: REASON: message``, and exit status 1; any other
    exception is logged once, with its traceback, and is status 1 too. It may have ``FILES_MAX`` open files, as routers have a
    connection to each replica, and the usual soft limit is 1,024. SIGUSR1 writes the stacks of all tasks and
    threads to stderr. Threads that still run at the end are left behind after ``LINGER_S``.

    Args:
        main: The process. It is told of signals, and must return when asked to stop.
        role: Which process this is, for the logs and for ``ps``.
        title: What ``ps`` shows after ``serve-core``, if it is to say more than the role.
        log_format: One of ``log.FORMATS``.
        log_level: One of ``log.LEVELS``.
        forced_by_signals: Whether a second signal ends it at once. Not a process whose parent forces it, and that service
            managers tell to stop as well as that parent does.
        log_context: Pairs that every log record of this process carries.
    """
    log.configure(role, log_format, level=log_level, **log_context)
    _allow_files(FILES_MAX)
    # Processes are found by marks in their environment, which a new title would otherwise wipe out for the onlooker.
    os.putenv("SPT_NOENV", "1")
    setproctitle.setproctitle(f"serve-core {title or role}")
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    status = _run(runner, main, forced_by_signals=forced_by_signals)
    _exit_within(LINGER_S, status)
    with contextlib.suppress(RuntimeError):
        runner.close()
    sys.exit(status)


def announce(role: str, **fields: Any) -> None:
    """Tell the parent process, in one line on stdout, that this process is ready.

    Args:
        role: Which process this is.
        fields: What the parent needs, such as ``address``. ``pid`` is added.
    """
    line = f"serve-core {role} {_READY} {json.dumps({'pid': os.getpid(), **fields})}\n"
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody listens any more, which is no reason to end; but the interpreter must not fail at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def parse_announcement(line: str) -> tuple[str, dict[str, Any]] | None:
    """The role and the fields of a line that ``announce`` wrote, or None if it is another line."""
    words = line.strip().split(" ", 3)
    if len(words) != 4 or words[0] != "serve-core" or words[2] != _READY:
        return None
    try:
        fields = json.loads(words[3])
    except ValueError:
        return None
    return (words[1], fields) if isinstance(fields, dict) else None


def die_with(pid: int) -> None:
    """End this process, at once and without any cleaning up, when another one ends, or now if it has ended.

    A thread waits for it, not the event loop: user code that blocks the loop must not keep a process alive that nobody
    owns.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(EXIT_FORCED)

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os._exit(EXIT_FORCED)

    threading.Thread(target=wait, name=f"die with {pid}", daemon=True).start()


def _allow_files(most: int) -> None:
    """Raises the soft limit of open files, if it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(runner: asyncio.Runner, main: Callable[[Signals], Awaitable[int]], *, forced_by_signals: bool) -> int:
    try:
        return runner.run(_main_with_signals(main, forced_by_signals=forced_by_signals))
    except ServeError as error:
        sys.stderr.write(f"error: {error.reason}: {error.message}\n")
        return EXIT_FAILED
    except Exception:  # noqa: BLE001 - the end of the process; said once
        _log.critical("the process failed", exc_info=True)
        return EXIT_FAILED
    except asyncio.CancelledError:
        _log.critical("the process was cancelled from inside", exc_info=True)
        return EXIT_FAILED


async def _main_with_signals(main: Callable[[Signals], Awaitable[int]], *, forced_by_signals: bool) -> int:
    signals = Signals()
    kept = memory.keep(os.environ)
    if kept is not None:
        kept.look_on(asyncio.get_running_loop())
    _listen(asyncio.get_running_loop(), signals, forced_by_signals=forced_by_signals)
    stacks.on_signal(signal.SIGUSR1, asyncio.get_running_loop())
    return await main(signals)


def _listen(loop: asyncio.AbstractEventLoop, signals: Signals, *, forced_by_signals: bool) -> None:
    # Python's own handlers rather than the loop's: they run also while something blocks the loop, so that the second
    # signal always works.
    asked = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked and forced_by_signals:
            os._exit(EXIT_FORCED)
        asked = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving already
            loop.call_soon_threadsafe(signals.stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _exit_within(seconds: float, status: int) -> None:
    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
