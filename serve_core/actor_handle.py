"""Handles to deployment actors: their methods, called from the replicas of the deployment as if they were there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, overload

from serve_core.bridge import LoopBridge
from serve_core.call import Call
from serve_core.call_options import CallOptions
from serve_core.context import misplaced, request_id
from serve_core.errors import ActorUnknownError
from serve_core.hints import result_hint
from serve_core.model.payload import Payload
from serve_core.wire.codec import decode_value, encode_arguments

if TYPE_CHECKING:
    import grpc.aio

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorTerms:
    """How a call of an actor is made: for so many seconds in all, under which name, and whether it may run twice."""

    timeout_s: float
    request_id: str = ""
    idempotent: bool = False


class DirectEndpoint(NamedTuple):
    """Where one life of an actor takes calls of its own gRPC services, from any gRPC client that the deployment runs.

    It does not follow the actor: once that begins anew, calls with this ``metadata`` are refused with ``ACTOR_FENCED``, or
    find nobody at this ``address``.
    """

    address: str
    """HOST:PORT."""
    metadata: tuple[tuple[str, str], ...]
    """What each call must carry, so that no other life takes it."""
    incarnation: int
    """Which life it is."""


class ActorPort(Protocol):
    """What a replica's process does for its user code, on the process's event loop."""

    def require(self, name: str) -> None:
        """Raises ActorUnknownError unless the deployment has an actor of this name."""

    def incarnation(self, name: str) -> int:
        """See ``ActorHandle.incarnation``."""

    async def call(self, name: str, method: str, arguments: Payload, *, terms: ActorTerms) -> Payload:
        """Calls a method with one answer."""

    def stream(
        self, name: str, method: str, arguments: Payload, items: AsyncIterable[Payload] | None, *, terms: ActorTerms
    ) -> AsyncGenerator[Payload, None]:
        """Calls a method that streams."""

    def channel(self, name: str, terms: Callable[[], ActorTerms]) -> grpc.aio.Channel:
        """See ``ActorHandle.channel``; ``terms`` gives those of each call."""

    async def endpoint(self, name: str, *, terms: ActorTerms) -> DirectEndpoint:
        """See ``ActorHandle.endpoint``."""


class ActorHandle(Generic[T]):
    """Calls a deployment actor: ``await handle.method(x)``, or ``async for item in handle.method(x)``.

    Any attribute that is not listed here is a method of the actor; ``method(name)`` reaches those whose names are taken. In
    threads, such as the one that a constructor runs in, ``handle.method.call_sync(x)`` waits for the result.

    The handle follows the actor to whichever life of it serves: keep it as long as you like. A call waits while the actor
    begins anew, and is sent again if it was not run, all within the time that it has.

    What a call raises:

    * ``ActorUnavailableError``: the actor did not serve in time, or was given up. Nothing was run.
    * ``ActorDiedError``: it ended with the call inside, which may have run. ``options(idempotent=True)`` has such calls sent
      again instead.
    * ``ApplicationError``: the method raised; of the type that it raised, where that is loaded here.
    * ``TimeoutError``: it took too long.
    * ``MethodUnknownError``: there is no such method, or it has another shape.

    The details of the first two name the incarnations.
    """

    __slots__ = ("_bridge", "_idempotent", "_name", "_options", "_port", "_target")

    def __init__(
        self,
        port: ActorPort,
        bridge: LoopBridge,
        name: str,
        *,
        target: type[T] | None = None,
        options: CallOptions | None = None,
        idempotent: bool = False,
    ) -> None:
        self._port = port
        self._bridge = bridge
        self._name = name
        self._target = target
        self._options = options or CallOptions()
        self._idempotent = idempotent

    @property
    def name(self) -> str:
        """The actor's name."""
        return self._name

    @property
    def incarnation(self) -> int:
        """Which life of the actor serves, or is awaited; 0 before the replica has heard of any."""
        return self._port.incarnation(self._name)

    def options(
        self, *, timeout_s: float | None = None, idempotent: bool | None = None, request_id: str | None = None
    ) -> ActorHandle[T]:
        """The same handle with other ways to call.

        Args:
            timeout_s: Seconds that a call may take in all, its wait for the actor included. By default the rest of the
                current request's time, else as long as calls of deployments may; never longer than the request.
            idempotent: Whether a call that may have run is sent again when the actor ended with it inside.
            request_id: The name of the call in logs and traces; by default the current request's.

        Raises:
            ConfigInvalidError: No call can have these.
        """
        options = self._options
        if timeout_s is not None:
            options = replace(options, timeout_s=timeout_s)
        if request_id is not None:
            options = replace(options, request_id=request_id)
        if idempotent is None:
            idempotent = self._idempotent
        return ActorHandle(
            self._port, self._bridge, self._name, target=self._target, options=options, idempotent=idempotent
        )

    def method(self, name: str) -> ActorMethod:
        """The method of this name."""
        return ActorMethod(self, name)

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} calls no private methods such as {name!r}")
        return ActorMethod(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        """Calls the actor itself: its ``__call__``."""
        return ActorMethod(self, "")(*args, **kwargs)

    def channel(self) -> grpc.aio.Channel:
        """A channel for the stubs of the actor's own gRPC services. It follows the actor as the handle does.

        Nothing is sent before a call is awaited, read or written to. A call that streams requests is not sent again. The
        user's own statuses arrive as ``grpc.aio.AioRpcError``; that the actor ended, as the errors above.
        """
        return self._port.channel(self._name, self._terms)

    def stub(self, stub: Callable[[grpc.aio.Channel], S]) -> S:
        """A generated stub of the actor's own gRPC service: ``handle.stub(CacheStub)``."""
        return stub(self.channel())

    async def endpoint(self) -> DirectEndpoint:
        """Where the actor's own gRPC services are called without this handle: by a child process in any language, say.

        Waits for the actor as a call does, and has as much time. Only this life of the actor is there: ask again when
        ``on_actor_restarted`` tells of another one.

        Raises:
            ActorUnavailableError: The actor did not serve in time, or was given up.
        """
        terms = self._terms()
        return await self._bridge.run(lambda: self._port.endpoint(self._name, terms=terms))

    def endpoint_sync(self) -> DirectEndpoint:
        """``endpoint`` for threads: it blocks. Raises as that does.

        Raises:
            ConfigInvalidError: This thread runs an event loop, which would stand still.
        """
        terms = self._terms()
        return self._bridge.block("endpoint", lambda: self._port.endpoint(self._name, terms=terms))

    def _terms(self) -> ActorTerms:
        return ActorTerms(
            timeout_s=self._options.effective_timeout_s(),
            request_id=self._options.request_id or request_id(),
            idempotent=self._idempotent,
        )

    def __repr__(self) -> str:
        return f"ActorHandle({self._name})"

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self!r} is not iterable: iterate over one of its methods with 'async for'")


class ActorMethod:
    """A method of an actor. Calling it makes a ``Call``; nothing is sent before that is awaited or iterated."""

    __slots__ = ("_handle", "_name")

    def __init__(self, handle: ActorHandle[Any], name: str) -> None:
        self._handle = handle
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        return Call(_ActorWay(self._handle), self._name, args, kwargs)

    def call_sync(self, *args: Any, **kwargs: Any) -> Any:
        """Calls it and waits for its one answer, for threads: it blocks. Raises as an awaited call does.

        Raises:
            ConfigInvalidError: This thread runs an event loop, which would stand still.
        """
        handle = self._handle
        arguments, terms = encode_arguments(args, kwargs), handle._terms()
        result = handle._bridge.block(
            "call", lambda: handle._port.call(handle._name, self._name, arguments, terms=terms)
        )
        return decode_value(result, result_hint(handle._target, self._name, item=False))

    def __await__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a method: call it, as in 'await handle.{self._name}(...)'")

    def __repr__(self) -> str:
        return f"<method {self._name or '__call__'} of {self._handle!r}>"


class _ActorWay:
    """The way to an actor, by the replica's own connections."""

    __slots__ = ("_handle",)

    def __init__(self, handle: ActorHandle[Any]) -> None:
        self._handle = handle

    @property
    def target(self) -> type[Any] | None:
        return self._handle._target

    async def call(self, method: str, arguments: Payload) -> Payload:
        handle = self._handle
        # Of the request that this is called for, which is not known on the process's event loop any more.
        terms = handle._terms()
        return await handle._bridge.run(lambda: handle._port.call(handle._name, method, arguments, terms=terms))

    async def stream(
        self, method: str, arguments: Payload, items: AsyncIterable[Payload] | None
    ) -> AsyncGenerator[Payload, None]:
        handle = self._handle
        if not handle._bridge.is_here:
            raise misplaced("this stream", "of an actor is read and written in the event loop of the replica only")
        return handle._port.stream(handle._name, method, arguments, items, terms=handle._terms())

    def __repr__(self) -> str:
        return repr(self._handle)


_process_actors: list[tuple[ActorPort, LoopBridge]] = []


def bind_actor_port(port: ActorPort, loop: asyncio.AbstractEventLoop) -> None:
    """Lets user code of this process call the deployment's actors: a process runs one replica. The latest one holds."""
    _process_actors[:] = [(port, LoopBridge(loop))]


@overload
def get_deployment_actor(name: str) -> ActorHandle[Any]: ...


@overload
def get_deployment_actor(name: str, target: type[T]) -> ActorHandle[T]: ...


def get_deployment_actor(name: str, target: type[Any] | None = None) -> ActorHandle[Any]:
    """A handle to an actor of the deployment that the replica which runs this code belongs to.

    Args:
        name: The actor's name in the deployment.
        target: Its class: results then arrive as the annotations of its methods say.

    Raises:
        ActorUnknownError: The deployment has no actor of this name, or this process is no replica.
    """
    if not _process_actors:
        raise ActorUnknownError(
            f"get_deployment_actor({name!r}) works only in a replica of the deployment that has the actor: call a method of "
            "the deployment that asks it",
            details={"actor": name},
        )
    port, bridge = _process_actors[-1]
    port.require(name)
    return ActorHandle(port, bridge, name, target=target)
