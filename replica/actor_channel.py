"""A channel to a deployment actor for generated stubs, which follows it from life to life.

Its calls look like those of ``grpc.aio``, as far as stubs and their users need them. They begin when they are first awaited,
read or written to: only then is it known which life serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Self

import grpc
import grpc.aio

from replica.core.outcome import Outcome, outcome_of
from replica.errand import ActorConnection, ActorConnections, Errand, Failed
from serve_core.actor_handle import ActorTerms
from serve_core.errors import ReplicaDiedError


class ActorChannel(grpc.aio.Channel):
    """Stubs are made on it. Its connections are the replica's, so there is nothing to close.

    Args:
        connections: Where the calls go.
        name: The actor.
        terms: How each call is made, unless it says otherwise.
    """

    def __init__(self, connections: ActorConnections, name: str, terms: Callable[[], ActorTerms]) -> None:
        self._connections = connections
        self._name = name
        self._terms = terms

    def unary_unary(self, method: str, *serializers: Any, **more: Any) -> Any:
        """A method with one request and one answer."""
        return partial(self._call, method, "unary_unary", serializers, more)

    def unary_stream(self, method: str, *serializers: Any, **more: Any) -> Any:
        """A method with one request that streams its answers."""
        return partial(self._call, method, "unary_stream", serializers, more)

    def stream_unary(self, method: str, *serializers: Any, **more: Any) -> Any:
        """A method that takes a stream and has one answer."""
        return partial(self._converse, method, "stream_unary", serializers, more)

    def stream_stream(self, method: str, *serializers: Any, **more: Any) -> Any:
        """A method that streams both ways."""
        return partial(self._converse, method, "stream_stream", serializers, more)

    async def close(self, grace: float | None = None) -> None:
        """Does nothing."""

    async def channel_ready(self) -> None:
        """Waits until the actor serves. Raises as a call does."""
        async with self._connections.errand(self._name, "a connection", terms=self._terms()).connected():
            pass

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - grpcio's
        """Always IDLE: whether it is connected is found out by each call."""
        del try_to_connect
        return grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """There are no changes of state to wait for."""
        del last_observed_state
        raise grpc.aio.UsageError(f"a channel to actor {self._name} tells no states: make a call")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Nothing is to be ended."""

    def _call(self, method: str, kind: str, serializers: Any, more: Any, request: Any, **options: Any) -> ActorCall:
        return self._made(method, kind, serializers, more, (request,), options, again=True)

    def _converse(
        self, method: str, kind: str, serializers: Any, more: Any, requests: Any = None, **options: Any
    ) -> ActorCall:
        return self._made(method, kind, serializers, more, (requests,), options, again=False)

    def _made(
        self, method: str, kind: str, serializers: Any, more: Any, args: Any, options: dict[str, Any], *, again: bool
    ) -> ActorCall:
        terms, timeout_s, given = self._terms(), options.pop("timeout", None), options.pop("metadata", None)
        if timeout_s is not None:
            terms = replace(terms, timeout_s=min(terms.timeout_s, timeout_s))

        def begin(life: ActorConnection, left_s: float) -> Any:
            on = getattr(life.channel, kind)(method, *serializers, **more)
            return on(*args, timeout=left_s, metadata=life.metadata(terms, given), **options)

        return ActorCall(self._connections.errand(self._name, method, terms=terms), begin, again=again)


class ActorCall:
    """One call, of any kind: await it, iterate over it, or ``read`` and ``write``.

    Args:
        errand: Finds the actor.
        begin: Makes the call on a connection.
        again: Whether it may be made more than once.
    """

    def __init__(self, errand: Errand, begin: Callable[[ActorConnection, float], Any], *, again: bool) -> None:
        self._errand = errand
        self._begin = begin
        self._again = again
        self._call: Any = None
        self._life: ActorConnection | None = None
        self._held = AsyncExitStack()
        self._answers: AsyncIterator[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._answers is None:
            self._answers = self._stream()
        return self._answers

    async def read(self) -> Any:
        """The next answer; ``grpc.aio.EOF`` after the last one."""
        return await anext(aiter(self), grpc.aio.EOF)

    async def write(self, request: Any) -> None:
        """Sends the next request."""
        life = await self._open()
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            await self._failed(life, error, final=True)

    async def done_writing(self) -> None:
        """There are no more requests."""
        await self._open()
        await self._call.done_writing()

    def cancel(self) -> bool:
        """Ends it, if it has begun. Whether that changed anything."""
        return self._call is not None and bool(self._call.cancel())

    def done(self) -> bool:
        """Whether it has begun and ended."""
        return self._call is not None and bool(self._call.done())

    async def initial_metadata(self) -> Any:
        """What the actor sent first."""
        await self._open()
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """What the actor sent last."""
        await self._open()
        return await self._call.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """How it ended."""
        await self._open()
        code: grpc.StatusCode = await self._call.code()
        return code

    async def details(self) -> str:
        """What was said of how it ended."""
        await self._open()
        return str(await self._call.details())

    async def _open(self) -> ActorConnection:
        """Begins the call, if it has not begun, on a connection that is held from then on."""
        if self._call is None or self._life is None:
            self._life = await self._held.enter_async_context(self._errand.connected())
            self._call = self._begin(self._life, self._errand.left_s)
        return self._life

    async def _answer(self) -> Any:
        while True:
            life = await self._open()
            try:
                with life.carrying(self._call):
                    return await self._call
            except (grpc.aio.AioRpcError, ReplicaDiedError) as error:
                await self._failed(life, error, final=not self._again)
            finally:
                await self._held.aclose()

    async def _stream(self) -> AsyncIterator[Any]:
        final = not self._again
        while True:
            life = await self._open()
            try:
                with life.carrying(self._call):
                    async for answer in self._call:
                        final = True
                        yield answer
                return
            except (grpc.aio.AioRpcError, ReplicaDiedError) as error:
                await self._failed(life, error, final=final)
            finally:
                await self._held.aclose()

    async def _failed(self, life: ActorConnection, error: Failed, *, final: bool) -> None:
        """Returns when it is to be made again."""
        told = self._errand.told(error, life)
        if outcome_of(told) is Outcome.ANSWERED:
            raise error
        await self._errand.failed(life, told, cause=error, final=final)
        self._call = None
