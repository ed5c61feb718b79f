"""The ``user_config`` of user code, which changes in place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from replica.hooks import Hooks
from replica.startup import hook_failure
from replica.state import ReplicaState
from serve_core.model.payload import Payload
from serve_core.runtime import log

_log = log.get_logger(__name__)


class Configuration:
    """What is wanted, and what user code has, which is another where ``reconfigure`` raised.

    Args:
        state: What the replica says of itself.
        bind: Lets user code see what ``taken`` is now.
    """

    def __init__(self, state: ReplicaState, *, bind: Callable[[], None]) -> None:
        self._state = state
        self._bind = bind
        self._wanted: Payload | None = None
        self._changed = asyncio.Event()
        self.taken: Payload | None = None
        """What user code has."""

    def start(self, config: Payload | None) -> None:
        """User code starts with this."""
        self._wanted = self.taken = config

    def change(self, config: Payload | None) -> None:
        """This is wanted from now on."""
        self._wanted = config
        self._changed.set()

    async def follow(self, hooks: Hooks) -> None:
        """Gives user code what is wanted, at each change. Where it raises, it serves on with what it had, and says so."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            had, self.taken = self.taken, self._wanted
            failure = None
            try:
                self._bind()
                if self.taken is not None:
                    await hooks.reconfigure(self.taken)
            except Exception as error:  # noqa: BLE001 - user code
                # All replicas were told the same: if this were illness, none would be left.
                failure = hook_failure("reconfigure()", error, replica_id=self._state.replica.replica_id)
                _log.warning("serves on with the configuration it had", error=failure.message)
                self.taken = had
                self._bind()
            self._state.tell_reconfigure(failure)
