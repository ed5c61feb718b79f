"""Our own child processes, on either event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from serve_core.errors import ConfigInvalidError, StartTimedOutError
from serve_core.subprocesses import ChildProcess

ROUTER = ("--controller", "127.0.0.1:1", "--port", "0", "--http-port", "0")
START_TIMEOUT_S = 50.0

Run = Callable[[Coroutine[Any, Any, None]], None]

_forks: list[int] = []
os.register_at_fork(before=lambda: _forks.append(1))


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a program on a loop, for so long at most: nothing from outside ends a loop of uvloop's."""

    def bounded(program: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            async with asyncio.timeout(2 * START_TIMEOUT_S):
                await program

        request.param(main())

    return bounded


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ChildProcess]:
    """Makes a child that was not started."""

    def child(*arguments: str) -> ChildProcess:
        return ChildProcess("router", "router", arguments or ROUTER, log_path=tmp_path / "log", env={})

    return child


def test_it_says_that_it_is_ready_and_ends_when_asked(run: Run, make: Callable[..., ChildProcess]) -> None:
    async def program() -> None:
        child = make()
        assert (child.running, child.pid, await child.wait()) == (False, 0, 0)
        announced = await child.start(START_TIMEOUT_S)
        assert (announced["pid"], child.running) == (child.pid, True)
        assert await child.terminate(START_TIMEOUT_S)
        assert (child.running, await child.wait()) == (False, 0)
        assert await child.terminate(START_TIMEOUT_S)

    run(program())


def test_no_librarys_fork_handlers_run(run: Run, make: Callable[..., ChildProcess]) -> None:
    async def program() -> None:
        before = len(_forks)
        child = make()
        await child.start(START_TIMEOUT_S)
        await child.kill()
        assert len(_forks) == before

    run(program())


def test_who_waits_for_it_is_told_by_which_signal_it_ended(run: Run, make: Callable[..., ChildProcess]) -> None:
    async def program() -> None:
        child = make()
        await child.start(START_TIMEOUT_S)
        waiting = asyncio.ensure_future(child.wait())
        child.send_kill()
        assert await waiting == -9
        child.send_kill()

    run(program())


def test_what_kept_it_from_starting_is_the_error(run: Run, make: Callable[..., ChildProcess]) -> None:
    async def program() -> None:
        child = make("--nonsense")
        with pytest.raises(ConfigInvalidError, match="ended with status 2: Error: No such option '--nonsense'"):
            await child.start(START_TIMEOUT_S)
        assert not child.running

    run(program())


@pytest.mark.parametrize("timeout_s", [0.0, 0.001], ids=["before it is listened to", "before it speaks"])
def test_one_that_takes_too_long_is_ended(run: Run, make: Callable[..., ChildProcess], timeout_s: float) -> None:
    async def program() -> None:
        before = _pipes()
        child = make()
        with pytest.raises(StartTimedOutError):
            await child.start(timeout_s)
        assert not child.running
        assert await child.wait() == -9
        await asyncio.sleep(0)  # asyncio's own loop closes what it was connecting to in its next turn
        assert not _pipes() - before

    run(program())


def _pipes() -> set[str]:
    """The pipes that are open in this process."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(descriptor))
    return {one for one in found if one.startswith("pipe:")}
