"""Keeps one child process there: starts it again when it ends, and replaces it by a new one without a gap."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from serve_core.errors import ServeError
from serve_core.model.restarts import RestartPolicy
from serve_core.runtime.clock import monotonic
from serve_core.subprocesses import ChildProcess

Tell = Callable[[str], None]


class KeptProcess:
    """A child process with successors.

    Args:
        make: A new child, not started yet.
        start_timeout_s: Seconds that each has to start.
        policy: When and how often it is started again; None means never.
        tell: Told in one line of each end and each restart.
        final: The exit statuses with which it ends for good.
    """

    def __init__(
        self,
        make: Callable[[], ChildProcess],
        *,
        start_timeout_s: float,
        policy: RestartPolicy | None,
        tell: Tell,
        final: frozenset[int] = frozenset(),
    ) -> None:
        self._make = make
        self._final = final
        self._start_timeout_s = start_timeout_s
        self._policy = policy
        self._tell = tell
        self._child: ChildProcess | None = None
        self._ends: deque[float] = deque(maxlen=policy.restarts_max + 1 if policy is not None else 1)
        self._given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Condition()
        self._succession = asyncio.Lock()
        self._restarts = 0
        self._restarts_at_kill = 0

    @property
    def child(self) -> ChildProcess | None:
        """The process that is the present one; None before the first."""
        return self._child

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first."""
        return 0 if self._child is None else self._child.pid

    @property
    def running(self) -> bool:
        """Whether the present one runs."""
        return self._child is not None and self._child.running

    async def start(self) -> dict[str, Any]:
        """Starts the first one, and gives what it announced.

        Raises:
            ServeError: It cannot start, and why.
        """
        self._child = self._make()
        return await self._child.start(self._start_timeout_s)

    async def keep(self) -> None:
        """Restarts it whenever it ends, until that is too often."""
        while True:
            child = self._child
            assert child is not None
            status = await child.wait()
            if self._child is not child:
                continue
            how = _how_it_ended(child, status)
            if status in self._final:
                self._given_up.set_result(how)
            while how and not self._given_up.done():
                how = await self._restart(child, how)
            if self._given_up.done():
                return

    async def given_up(self) -> str:
        """Waits until it has ended and is not started again; says how it ended."""
        return await asyncio.shield(self._given_up)

    async def replace(self, drain_timeout_s: float) -> None:
        """Starts a successor beside it, and then has it drain and end; by force after ``drain_timeout_s``.

        Raises:
            ServeError: The successor cannot start, and why. The old one goes on.
        """
        async with self._succession:
            successor = self._make()
            await successor.start(self._start_timeout_s)
            old, self._child = self._child, successor
        if old is not None:
            await old.terminate(drain_timeout_s)

    async def kill(self) -> None:
        """Ends the present one by force. With a policy it comes back: see ``back``."""
        self._restarts_at_kill = self._restarts
        if self._child is not None:
            self._child.send_kill()

    async def back(self) -> None:
        """Waits until a new one has started since ``kill``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._restarts > self._restarts_at_kill)

    async def _restart(self, dead: ChildProcess, how: str) -> str:
        """One try; the reason why it failed, or nothing."""
        now = monotonic()
        self._ends.append(now)
        delay_s = self._delay_s(now)
        if delay_s is None:
            self._given_up.set_result(how)
            return how
        self._tell(f"{how}; starting it again")
        await asyncio.sleep(delay_s)
        async with self._succession:
            if self._child is dead:
                successor = self._make()
                try:
                    await successor.start(self._start_timeout_s)
                except ServeError as error:
                    return f"the {dead.role} did not start again: {error.message}"
                self._child = successor
                self._tell(f"the {dead.role} is back, pid {successor.pid}")
        async with self._changed:
            self._restarts += 1
            self._changed.notify_all()
        return ""

    def _delay_s(self, now: float) -> float | None:
        if self._policy is None:
            return None
        return self._policy.delay_s(self._ends, now=now, unit_random=random.Random().random())


def _how_it_ended(child: ChildProcess, status: int) -> str:
    lines = child.log_tail().splitlines()
    return f"the {child.role} ended with status {status}" + (f": {lines[-1]}" if lines else "")
