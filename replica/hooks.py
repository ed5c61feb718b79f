"""The methods of the user's object that serve-core calls by itself, each of which may be there or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from replica.methods import is_async, type_hints
from replica.threads import in_own_thread
from serve_core.model.gang import GangRoster
from serve_core.model.payload import Payload
from serve_core.wire.codec import decode_value

_METADATA_MAX = 64


class Hooks:
    """Calls hooks: asynchronous ones on the event loop, others in a thread of their own, never in that of a request.

    Args:
        instance: The user's object, or function, which has no hooks.
    """

    def __init__(self, instance: Any) -> None:
        self._instance = None if inspect.isroutine(instance) else instance
        self._busy: set[str] = set()

    @property
    def checks_health(self) -> bool:
        """Whether there is a ``check_health``."""
        return self._find("check_health") is not None

    @property
    def says_ready(self) -> bool:
        """Whether there is an ``is_ready``."""
        return self._find("is_ready") is not None

    @property
    def cleans_up(self) -> bool:
        """Whether there is a ``shutdown``."""
        return self._find("shutdown") is not None

    async def check_health(self) -> None:
        """Raises what the user's check raises: the replica is then ill.

        Raises:
            TimeoutError: The check before still runs in its thread.
        """
        await self._ask("check_health")

    async def is_ready(self) -> bool:
        """What the user's object says; true if it says nothing. Raises what it raises.

        Raises:
            TimeoutError: The question before still runs in its thread.
        """
        return not self.says_ready or bool(await self._ask("is_ready"))

    async def warm_up(self) -> None:
        """The last before requests: whatever would make the first of them slow."""
        await self._call("warm_up")

    async def shutdown(self) -> None:
        """The last that user code is told."""
        await self._call("shutdown")

    async def reconfigure(self, user_config: Payload) -> None:
        """Gives a new configuration to the user's object.

        Raises:
            ConfigInvalidError: It is not what ``reconfigure`` is annotated to take.
        """
        function = self._find("reconfigure")
        if function is None:
            return
        parameters = list(inspect.signature(function).parameters)
        hint = type_hints(function).get(parameters[0], Any) if parameters else Any
        await self._call("reconfigure", decode_value(user_config, hint, field="user_config"))

    async def on_gang_changed(self, roster: GangRoster) -> None:
        """Tells of the gang that it has other members than before."""
        await self._call("on_gang_changed", roster)

    async def on_actor_restarted(self, name: str, incarnation: int) -> None:
        """Tells of one of the deployment's actors that it serves in a new life."""
        await self._call("on_actor_restarted", name, incarnation)

    def missing(self, *names: str) -> list[str]:
        """Which of these hooks are not there."""
        return [name for name in names if self._find(name) is None]

    async def save_state(self) -> bytes:
        """The state of an actor, for a later life of it.

        Raises:
            TimeoutError: The one before still runs in its thread.
            TypeError: It is not bytes, or there is no such hook.
        """
        if self.missing("save_state"):
            raise TypeError("the actor's class has no save_state()")
        state = await self._ask("save_state")
        if not isinstance(state, bytes | bytearray | memoryview):
            raise TypeError(f"save_state() must return bytes, not {type(state).__name__}")
        return bytes(state)

    async def restore_state(self, state: bytes) -> None:
        """Gives an actor the state that an earlier life of it saved."""
        await self._call("restore_state", state)

    async def metadata(self) -> Mapping[str, str]:
        """What the user's object tells of this replica; see ``replica_metadata``.

        Raises:
            TypeError: It is no mapping of texts.
        """
        told = await self._call("replica_metadata")
        if told is None:
            return {}
        if not isinstance(told, Mapping) or len(told) > _METADATA_MAX:
            raise TypeError(f"replica_metadata() must return a mapping of at most {_METADATA_MAX} texts, not {told!r}")
        return {str(key): str(value) for key, value in told.items()}

    async def _ask(self, name: str) -> Any:
        """Calls what is called again and again: never a second time while a thread still runs it."""
        if name in self._busy:
            raise TimeoutError(f"the {name}() before this one still runs")
        function = self._find(name)
        if function is None:
            return None
        if is_async(function):
            return await function()

        def run() -> Any:
            try:
                return function()
            finally:
                self._busy.discard(name)

        self._busy.add(name)
        result = await in_own_thread(run, name=name)
        return await result if inspect.isawaitable(result) else result

    async def _call(self, name: str, *args: Any) -> Any:
        function = self._find(name)
        if function is None:
            return None
        if is_async(function):
            return await function(*args)
        result = await in_own_thread(lambda: function(*args), name=name)
        return await result if inspect.isawaitable(result) else result

    def _find(self, name: str) -> Callable[..., Any] | None:
        found = getattr(self._instance, name, None)
        return found if callable(found) else None
