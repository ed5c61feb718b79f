"""Asks the user's object again and again how it is: whether it is well, and whether it wants requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from replica.core.health import Health
from replica.core.readiness import Readiness
from replica.hooks import Hooks
from replica.startup import hook_failure
from replica.state import ReplicaState
from serve_core.model.health import HealthPolicy
from serve_core.runtime import clock, log

_log = log.get_logger(__name__)


class Checks:
    """The hooks that are called as long as the replica lives. What they change is told at once.

    Args:
        state: What the replica says of itself, and whoever listens to it.
        changed: Is called after each change.
    """

    def __init__(self, state: ReplicaState, *, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed
        self._policy = HealthPolicy()
        self._taken = asyncio.Event()
        self.trouble = ""
        """What the last ``is_ready`` raised; empty if it answered."""
        self._health = Health(failure_threshold=self._policy.failure_threshold)

    def configure(self, policy: HealthPolicy) -> None:
        """Takes a deployment's settings, live."""
        self._policy = policy
        self._health.limit(policy.failure_threshold)
        # Whoever waits by the old settings looks again.
        self._taken.set()
        self._taken = asyncio.Event()

    async def watch_health(self, hooks: Hooks) -> None:
        """Calls ``check_health`` each period, from one period from now on."""
        while hooks.checks_health:
            await self._pause(lambda: self._policy.period_s)
            try:
                async with asyncio.timeout(self._policy.timeout_s):
                    await hooks.check_health()
            except Exception as error:  # noqa: BLE001 - user code, or its time-out
                changed = self._health.failed()
                _log.warning("check_health() failed", error=repr(error), in_a_row=self._health.failures)
                if changed:
                    self.ill(f"check_health() {self._health.failures} times in a row", error)
            else:
                if self._health.passed():
                    self._state.judge(healthy=True)
                    self._changed()

    async def until_ready(self, hooks: Hooks) -> None:
        """Calls ``is_ready`` now and each period, until it says true."""
        readiness = Readiness(asked=hooks.says_ready)
        while not readiness.ready:
            if not await self._ask(hooks, readiness):
                await self._pause(lambda: self._policy.readiness_period_s)

    async def watch_readiness(self, hooks: Hooks) -> None:
        """Calls ``is_ready`` each period, from one period from now on; it said true before."""
        readiness = Readiness(asked=False)
        while hooks.says_ready:
            await self._pause(lambda: self._policy.readiness_period_s)
            ready = await self._ask(hooks, readiness)
            if ready is not self._state.is_ready:
                _log.info("in rotation again" if ready else "out of rotation: is_ready() does not say true")
                self._state.turn(ready=ready)
                self._changed()

    def ill(self, what: str, error: Exception) -> None:
        """User code failed in a way that makes the replica ill."""
        self._state.judge(healthy=False, failure=hook_failure(what, error, replica_id=self._state.replica.replica_id))
        self._changed()

    async def _ask(self, hooks: Hooks, readiness: Readiness) -> bool:
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                ready = await hooks.is_ready()
        except Exception as error:  # noqa: BLE001 - user code, or its time-out
            self.trouble = f"{type(error).__name__}: {error}".removesuffix(": ")
            if readiness.failed():
                _log.warning("is_ready() failed, which counts as not ready", error=repr(error))
        else:
            self.trouble = ""
            readiness.said(ready=ready)
        return readiness.ready

    async def _pause(self, period_s: Callable[[], float]) -> None:
        """Waits one period from now, by the settings as they are meanwhile."""
        began = clock.monotonic()
        while (left_s := began + period_s() - clock.monotonic()) > 0:
            taken = self._taken
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await taken.wait()
